package envelope

import (
	"encoding/binary"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/memsec"
)

// The MasterKey is an input of key derivation and nothing else. Each of these
// functions is one label, and each label one purpose (I7), so that a defect in
// the use of one derived key says nothing about another or about the MasterKey.

// IVKParent derives the parent key of IVK envelopes (PurposeIVK). The result is
// Cold; destroy it after use.
func IVKParent(mk memsec.Secret) (memsec.Secret, error) {
	return deriveFromMasterKey(mk, hierarchy.LabelIVKWrapping)
}

// FoundedIVKParent derives from the parent of IVK envelopes that of a cluster which
// was founded with that digest: another genesis gives another key, and the internal
// keys do not open. The result is Cold; destroy it after use.
func FoundedIVKParent(parent memsec.Secret, founding [32]byte) (memsec.Secret, error) {
	if err := checkParent(parent); err != nil {
		return memsec.Secret{}, err
	}
	return memsec.Expand(parent, append([]byte(hierarchy.LabelFounding), founding[:]...), memsec.Cold)
}

// RegistryMACKey derives the key that authenticates snapshots and backups. The
// result is Cold.
func RegistryMACKey(mk memsec.Secret) (memsec.Secret, error) {
	return deriveFromMasterKey(mk, hierarchy.LabelRegistryMAC)
}

// BackupKey derives the key under which backup bodies are sealed. The result is Cold.
func BackupKey(mk memsec.Secret) (memsec.Secret, error) {
	return deriveFromMasterKey(mk, hierarchy.LabelBackup)
}

// CarriedKeysKey derives the key under which a seal record carries the registry-MAC
// keys of earlier generations. The result is Cold; destroy it after use.
func CarriedKeysKey(mk memsec.Secret) (memsec.Secret, error) {
	return deriveFromMasterKey(mk, hierarchy.LabelCarriedKeys)
}

// MasterKeyCommitment derives the public commitment to a MasterKey: it tells a
// right MasterKey from a wrong one and says nothing else about it.
func MasterKeyCommitment(mk memsec.Secret, keyspace hierarchy.KeyspaceID, g hierarchy.Generation) ([CommitmentSize]byte, error) {
	if err := checkParent(mk); err != nil {
		return [CommitmentSize]byte{}, err
	}
	if keyspace.IsZero() || g == 0 {
		return [CommitmentSize]byte{}, misuse("commitment without keyspace or generation")
	}
	in := append([]byte(hierarchy.LabelMasterKeyCommitment), keyspace[:]...)
	return memsec.ExpandPublic(mk, binary.BigEndian.AppendUint64(in, uint64(g)))
}

func deriveFromMasterKey(mk memsec.Secret, label string) (memsec.Secret, error) {
	if err := checkParent(mk); err != nil {
		return memsec.Secret{}, err
	}
	return memsec.Expand(mk, []byte(label), memsec.Cold)
}
