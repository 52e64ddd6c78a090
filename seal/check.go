package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// checkRecord refuses what this version does not fully understand (I5) and
// whatever would let an unsealing go wrong later. Unknown fields and those of
// another format were refused when it was decoded.
func checkRecord(r *sealpb.Record) error {
	if n := proto.Size(r); n > MaxRecord {
		return fmt.Errorf("%d bytes, the limit is %d", n, MaxRecord)
	}
	m := r.GetManifest()
	if r.GetFormat() != m.GetFormat() {
		return fmt.Errorf("a record of format %d with a manifest of format %d", r.GetFormat(), m.GetFormat())
	}
	if err := manifest.Check(m); err != nil {
		return err
	}
	if err := checkCarried(r); err != nil {
		return err
	}
	if m.GetMode() == sealpb.Mode_MODE_AUTO {
		return checkWrappings(r)
	}
	return errors.Join(checkGroupSeal(r), checkShards(r))
}

func checkWrappings(r *sealpb.Record) error {
	if len(r.GetShards()) != 0 || r.GetGroupSeal() != nil {
		return errors.New("mode auto with shares")
	}
	if len(r.GetWrappings()) < 1 {
		return errors.New("no wrapping")
	}
	allowed := make(map[ProviderKey]bool)
	for _, k := range r.GetManifest().GetProviderKeys() {
		allowed[keyOf(k)] = true
	}
	seen := make(map[ProviderKey]bool)
	for _, w := range r.GetWrappings() {
		k := providerKey(w)
		switch {
		case !allowed[k]:
			return fmt.Errorf("a wrapping by %s, which the manifest does not name", k)
		case seen[k]:
			return fmt.Errorf("two wrappings by %s", k)
		}
		seen[k] = true
		if err := boxOfWrapping(w).check(memsec.KeySize); err != nil {
			return err
		}
	}
	return nil
}

func checkGroupSeal(r *sealpb.Record) error {
	if len(r.GetWrappings()) != 0 {
		return errors.New("mode shamir with wrappings of the MasterKey")
	}
	g := r.GetGroupSeal()
	if several := len(r.GetManifest().GetGroups()) > 1; several != (g != nil) {
		return errors.New("the MasterKey is sealed under groups, or it is not: the record says both")
	}
	if g != nil && (len(g.GetNonce()) != memsec.NonceSize || len(g.GetSealedMasterKey()) != memsec.KeySize+memsec.Overhead) {
		return fmt.Errorf("group seal with a nonce of %d and a sealed MasterKey of %d bytes", len(g.GetNonce()), len(g.GetSealedMasterKey()))
	}
	return nil
}

// checkShards holds that every holder of an encrypted shard has it, that it is
// the one of the manifest, and that nobody else has one.
func checkShards(r *sealpb.Record) error {
	shards := make(map[uint32][]byte)
	for i, s := range r.GetShards() {
		if i > 0 && r.GetShards()[i-1].GetIndex() >= s.GetIndex() {
			return errors.New("encrypted shards out of order")
		}
		shards[s.GetIndex()] = s.GetEncryptedShard()
	}
	for _, h := range r.GetManifest().GetHolders() {
		if len(h.GetEncryptedShardHash()) == 0 {
			continue
		}
		b := shards[h.GetIndex()]
		delete(shards, h.GetIndex())
		if sum := sha256.Sum256(b); !bytes.Equal(sum[:], h.GetEncryptedShardHash()) {
			return fmt.Errorf("the encrypted shard of share %d is not the one in the manifest", h.GetIndex())
		}
		if len(b) < 1 || len(b) > MaxShard {
			return fmt.Errorf("encrypted shard of %d bytes, the limits are 1 and %d", len(b), MaxShard)
		}
		if h.GetKind() != sealpb.HolderKind_HOLDER_KIND_KEYSTORE {
			continue
		}
		if _, err := keystoreShard(h, b); err != nil {
			return fmt.Errorf("share %d: %w", h.GetIndex(), err)
		}
	}
	if len(shards) != 0 {
		return errors.New("an encrypted shard that the manifest does not name")
	}
	return nil
}

func checkCarried(r *sealpb.Record) error {
	if n := len(r.GetCarriedKeys()); n > MaxCarriedKeys {
		return fmt.Errorf("%d carried keys, the limit is %d", n, MaxCarriedKeys)
	}
	last := uint64(0)
	for _, k := range r.GetCarriedKeys() {
		switch {
		case k.GetGeneration() <= last || k.GetGeneration() >= r.GetManifest().GetGeneration():
			return fmt.Errorf("carried key of generation %d after %d, in a record of generation %d", k.GetGeneration(), last, r.GetManifest().GetGeneration())
		case len(k.GetNonce()) != memsec.NonceSize || len(k.GetSealed()) != memsec.KeySize+memsec.Overhead:
			return fmt.Errorf("carried key with a nonce of %d and %d bytes", len(k.GetNonce()), len(k.GetSealed()))
		}
		last = k.GetGeneration()
	}
	return nil
}

// check refuses a box that could not be of a secret of size bytes.
func (b box) check(size int) error {
	switch {
	case len(b.keyVersion) > keystore.MaxKeyVersion:
		return fmt.Errorf("key version of %d bytes", len(b.keyVersion))
	case len(b.wrappedKey) < 1 || len(b.wrappedKey) > keystore.MaxBlob:
		return fmt.Errorf("wrapped key of %d bytes, the limits are 1 and %d", len(b.wrappedKey), keystore.MaxBlob)
	case len(b.nonce) != memsec.NonceSize || len(b.sealed) != size+memsec.Overhead:
		return fmt.Errorf("nonce of %d and sealed secret of %d bytes", len(b.nonce), len(b.sealed))
	}
	return nil
}
