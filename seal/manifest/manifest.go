// Package manifest is the public part of a seal: what a ceremony decided, checked and recognised without any key.
//
// The replicated state machine follows ceremonies, and a person verifies them
// on a machine without a cluster. Neither may import what can see a key, so what
// both need of package seal is here: the decoding of records and manifests, the
// digests, the rules of a manifest ([Check]), and the step from one to the next
// ([Follows]).
//
// # Invariants
//
//   - I1: every byte of a manifest decides its digest, every byte of a record its digest, and neither depends on how protobuf encoded it.
//   - I2: a record or manifest with a field or a format that this version does not know is refused; so is one of format 1 with a field that only format 2 has.
//   - I3: what [Check] accepts can be reached: no threshold above the number of holders, no share twice, no group without holders.
//   - I4: a manifest follows only the one whose digest it has, of the same keyspace and cluster; only a rekey changes the MasterKey, and always its generation by one.
//
// # Concurrency
//
// Pure functions.
//
// # Failure
//
// What does not decode or breaks a rule is an error without the content of what was given.
//
// # Source
//
// MasterKey management (Shamir & Seal); docs/formats.md (seal record); docs/adr/0037-holders-of-all-kinds-in-groups.md.
package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Formats of records and manifests.
const (
	Format1 = 1 // the founding of a cluster: one group of printed shares, or keystores
	Format2 = 2 // groups, mixed holders, ceremonies
)

// MaxRecord is the longest encoded record or manifest, in bytes.
const MaxRecord = 1 << 20

// Digest is the SHA-256 of a canonical encoding.
type Digest [sha256.Size]byte

// Parse decodes a record of at most [MaxRecord] bytes. It refuses what this
// version does not know (I2); its rules are for [Check], and for package seal,
// which also knows those of the ciphertexts.
func Parse(b []byte) (*sealpb.Record, error) {
	r := new(sealpb.Record)
	if err := decode(b, r); err != nil {
		return nil, err
	}
	if err := checkFormat(r.GetManifest()); err != nil {
		return nil, err
	}
	if r.GetFormat() != r.GetManifest().GetFormat() {
		return nil, fmt.Errorf("a record of format %d with a manifest of format %d", r.GetFormat(), r.GetManifest().GetFormat())
	}
	if r.GetFormat() < Format2 && (r.GetGroupSeal() != nil || len(r.GetCarriedKeys()) > 0) {
		return nil, errMixed
	}
	return r, nil
}

// ParseManifest decodes a manifest by itself, of at most [MaxRecord] bytes. It
// refuses what this version does not know (I2); its rules are for [Check].
func ParseManifest(b []byte) (*sealpb.Manifest, error) {
	m := new(sealpb.Manifest)
	if err := decode(b, m); err != nil {
		return nil, err
	}
	return m, checkFormat(m)
}

func decode(b []byte, m proto.Message) error {
	if len(b) > MaxRecord {
		return fmt.Errorf("%d bytes, the limit is %d", len(b), MaxRecord)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return errors.New("not a protobuf of a seal record") // protobuf's error says no more
	}
	if hasUnknown(m.ProtoReflect()) {
		return errors.New("it has fields that this version does not know; a newer version made it")
	}
	return nil
}

// errMixed: the digest of format 1 does not cover these fields.
var errMixed = errors.New("it is of format 1 and has fields of format 2")

func checkFormat(m *sealpb.Manifest) error {
	switch m.GetFormat() {
	case Format2:
		return nil
	case Format1:
	default:
		return fmt.Errorf("manifest of format %d, this version reads %d and %d", m.GetFormat(), Format1, Format2)
	}
	newer := len(m.GetGroups()) > 0 || len(m.GetPreviousManifest()) > 0 ||
		m.GetKind() != sealpb.CeremonyKind_CEREMONY_KIND_UNSPECIFIED || len(m.GetAcceptedRisks()) > 0
	for _, h := range m.GetHolders() {
		newer = newer || h.GetName() != "" || h.GetProviderKey() != nil || h.GetDomain() != nil
	}
	if newer {
		return errMixed
	}
	return nil
}

// Of returns the digest of a manifest that [Check] accepts.
func Of(m *sealpb.Manifest) Digest {
	return sha256.Sum256(appendManifest(label("krypton/v1/seal-manifest"), m))
}

// OfRecord returns the digest of a whole record.
func OfRecord(r *sealpb.Record) Digest {
	e := label("krypton/v1/seal-record")
	e = appendManifest(u32(e, r.GetFormat()), r.GetManifest())
	e = count(e, len(r.GetWrappings()))
	for _, w := range r.GetWrappings() {
		e = wrapping(e, w)
	}
	e = count(e, len(r.GetShards()))
	for _, s := range r.GetShards() {
		e = part(u32(e, s.GetIndex()), s.GetEncryptedShard())
	}
	if r.GetFormat() < Format2 {
		return sha256.Sum256(e)
	}
	e = part(part(e, r.GetGroupSeal().GetNonce()), r.GetGroupSeal().GetSealedMasterKey())
	e = count(e, len(r.GetCarriedKeys()))
	for _, k := range r.GetCarriedKeys() {
		e = part(part(u64(e, k.GetGeneration()), k.GetNonce()), k.GetSealed())
	}
	return sha256.Sum256(e)
}

// OfWrapping returns the digest of one wrapping of the MasterKey.
func OfWrapping(w *sealpb.Wrapping) Digest {
	return sha256.Sum256(wrapping(label("krypton/v1/seal-wrapping"), w))
}

func wrapping(e []byte, w *sealpb.Wrapping) []byte {
	e = part(key(e, w.GetProviderKey()), []byte(w.GetKeyVersion()))
	e = part(part(part(e, w.GetWrappedKey()), w.GetNonce()), w.GetSealedMasterKey())
	return u64(e, uint64(w.GetCreateTimeUnixNano()))
}

// appendManifest appends the canonical encoding of a manifest: numbers have a
// fixed size, everything else a length or a count before it (docs/formats.md).
// An absent message is encoded as an empty one; no rule allows both.
func appendManifest(e []byte, m *sealpb.Manifest) []byte {
	e = u32(e, m.GetFormat())
	e = part(part(part(e, m.GetKeyspaceId()), m.GetClusterId()), m.GetCeremonyId())
	e = u64(e, m.GetGeneration())
	e = enum(e, int32(m.GetMode()))
	e = count(u32(e, m.GetThreshold()), len(m.GetHolders()))
	for _, h := range m.GetHolders() {
		e = enum(u32(u32(e, h.GetIndex()), h.GetX()), int32(h.GetKind()))
		e = part(part(part(e, []byte(h.GetRecipient())), h.GetShareHash()), h.GetEncryptedShardHash())
		e = u32(e, h.GetGroup())
		if m.GetFormat() < Format2 {
			continue
		}
		e = key(part(e, []byte(h.GetName())), h.GetProviderKey())
		d := h.GetDomain()
		e = part(part(part(e, []byte(d.GetProviderType())), []byte(d.GetAccount())), []byte(d.GetRegion()))
	}
	e = count(e, len(m.GetProviderKeys()))
	for _, k := range m.GetProviderKeys() {
		e = key(e, k)
	}
	e = count(part(e, m.GetMasterKeyCommitment()), len(m.GetSignedIntents()))
	for _, i := range m.GetSignedIntents() {
		e = part(e, i)
	}
	e = u64(e, uint64(m.GetCreateTimeUnixNano()))
	if m.GetFormat() < Format2 {
		return e
	}
	e = count(e, len(m.GetGroups()))
	for _, g := range m.GetGroups() {
		e = u32(part(e, []byte(g.GetName())), g.GetThreshold())
	}
	e = enum(part(e, m.GetPreviousManifest()), int32(m.GetKind()))
	e = count(e, len(m.GetAcceptedRisks()))
	for _, r := range m.GetAcceptedRisks() {
		e = part(e, []byte(r))
	}
	return e
}

func key(e []byte, k *sealpb.ProviderKey) []byte {
	return part(part(e, []byte(k.GetProvider())), []byte(k.GetKey()))
}

func label(s string) []byte         { return part(nil, []byte(s)) }
func part(e, b []byte) []byte       { return append(count(e, len(b)), b...) }
func u32(e []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(e, v) }
func u64(e []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(e, v) }
func count(e []byte, n int) []byte  { return u32(e, uint32(n)) } //nolint:gosec // Lengths and counts within MaxRecord.
func enum(e []byte, v int32) []byte { return u32(e, uint32(v)) } //nolint:gosec // The same 32 bits.

// hasUnknown reports whether m or a message in it has unknown fields.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = hasUnknown(v.Message())
		}
		return !found
	})
	return found
}
