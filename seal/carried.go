package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// CarriedKey is the key that authenticated the registry under an earlier
// MasterKey. With it a node proves what its disk holds from before a rekey.
type CarriedKey struct {
	Generation hierarchy.Generation // of the earlier MasterKey
	Key        memsec.Secret        // memsec.KeySize bytes; whoever got it destroys it
}

// WithCarriedKeys returns the record with those keys in place of the ones it
// carries, sealed under its MasterKey. They are in order of generation, each
// earlier than the record's; at most [MaxCarriedKeys]. The manifest, and so its
// digest, stays as it is. The caller keeps all secrets. rand gives the nonces. The
// error of keys that cannot be carried has the code errs.InvalidArgument.
func (r Record) WithCarriedKeys(rand io.Reader, masterKey memsec.Secret, keys []CarriedKey) (Record, error) {
	if err := checkCommitment(r, masterKey); err != nil {
		return Record{}, err
	}
	under, err := envelope.CarriedKeysKey(masterKey)
	if err != nil {
		return Record{}, err
	}
	defer under.Destroy()
	pb := r.Proto()
	pb.CarriedKeys = nil
	for _, k := range keys {
		nonce, sealed, err := sealUnder(rand, under, k.Key, r.carriedAAD(k.Generation))
		if err != nil {
			return Record{}, fmt.Errorf("carry the key of generation %d: %w", k.Generation, err)
		}
		pb.CarriedKeys = append(pb.CarriedKeys, &sealpb.CarriedKey{Generation: uint64(k.Generation), Nonce: nonce, Sealed: sealed})
	}
	return r.replaced(pb, "the keys cannot be carried")
}

// OpenCarriedKeys returns the carried keys in order of generation. The caller
// keeps masterKey and owns what is returned. One that does not open is
// errs.StateCorrupt, and then none is returned.
func (r Record) OpenCarriedKeys(masterKey memsec.Secret) (_ []CarriedKey, err error) {
	if len(r.pb.GetCarriedKeys()) == 0 {
		return nil, nil
	}
	if err := checkCommitment(r, masterKey); err != nil {
		return nil, err
	}
	under, err := envelope.CarriedKeysKey(masterKey)
	if err != nil {
		return nil, err
	}
	defer under.Destroy()
	var keys []CarriedKey
	defer func() {
		if err != nil {
			for _, k := range keys {
				k.Key.Destroy()
			}
		}
	}()
	for _, k := range r.pb.GetCarriedKeys() {
		g := hierarchy.Generation(k.GetGeneration())
		key, err := openUnder(under, k.GetNonce(), k.GetSealed(), r.carriedAAD(g))
		switch {
		case errs.Is(err, errs.Integrity):
			return nil, refuseRecord(fmt.Errorf("the carried key of generation %d does not open", g))
		case err != nil:
			return nil, err
		}
		keys = append(keys, CarriedKey{Generation: g, Key: key})
	}
	return keys, nil
}

// CarriedGenerations returns of which generations the record carries keys, in order.
func (r Record) CarriedGenerations() []hierarchy.Generation {
	var gs []hierarchy.Generation
	for _, k := range r.pb.GetCarriedKeys() {
		gs = append(gs, hierarchy.Generation(k.GetGeneration()))
	}
	return gs
}

// WithoutCarriedKeys returns the record without the keys that it carries. The
// manifest stays as it is.
func (r Record) WithoutCarriedKeys() Record {
	pb := r.Proto()
	pb.CarriedKeys = nil
	return Record{pb: pb}
}

// CarryFrom returns the record with the keys that another record of the same
// MasterKey carries, as they are there: what a ceremony that keeps the MasterKey
// does. A record of another keyspace or MasterKey is refused with
// errs.InvalidArgument.
func (r Record) CarryFrom(old Record) (Record, error) {
	if len(old.pb.GetCarriedKeys()) == 0 {
		return r.WithoutCarriedKeys(), nil
	}
	if old.Keyspace() != r.Keyspace() || old.Generation() != r.Generation() ||
		!bytes.Equal(old.pb.GetManifest().GetMasterKeyCommitment(), r.pb.GetManifest().GetMasterKeyCommitment()) {
		return Record{}, errs.New(errs.InvalidArgument, "the keys of the record are carried under another MasterKey", errs.Cause(errors.New("other keyspace, generation or commitment")))
	}
	pb := r.Proto()
	pb.CarriedKeys = old.Proto().GetCarriedKeys()
	return r.replaced(pb, "the keys cannot be carried")
}

// replaced checks what was made of r.
func (r Record) replaced(pb *sealpb.Record, what string) (Record, error) {
	if pb.GetFormat() < 2 && len(pb.GetCarriedKeys()) > 0 {
		return Record{}, errs.New(errs.InvalidArgument, what+": the record is of format 1")
	}
	out, err := newRecord(pb)
	if err != nil {
		return Record{}, errs.New(errs.InvalidArgument, what+": "+err.Error(), errs.Cause(err))
	}
	return out, nil
}

// carriedAAD binds a carried key to its MasterKey and generation, and not to the
// ceremony: a reshare takes it along as it is.
func (r Record) carriedAAD(g hierarchy.Generation) []byte {
	keyspace := r.Keyspace()
	return label("krypton/v1/carried-key").part(keyspace[:]).u32(8).u64(uint64(r.Generation())).u32(8).u64(uint64(g))
}
