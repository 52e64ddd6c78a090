package seal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// ErrNotInManifest is the cause when a record is to be repaired with a key that
// its ceremony did not name (errs.InvalidArgument).
var ErrNotInManifest = errors.New("the manifest does not name the key")

// Probe asks the keystore of one holder of the record for what it holds, as an
// unsealing does, compares it, and destroys it: nil says that the keystore opens it
// now. No state of a key and no health check can say that. It returns nil for a
// person, and for a keystore of which the record has nothing.
func (r Record) Probe(ctx context.Context, h HolderProgress, keystores *keystore.Registry) *Failure {
	var err error
	switch {
	case h.Person() || h.State == HolderMissing:
	case h.Index > 0:
		var s Share
		if s, err = openShard(ctx, r, h.Index, keystores); err == nil {
			s.Destroy()
		}
	default:
		mk, failed := openWrapping(ctx, r, r.wrapping(h.Key), keystores)
		mk.Destroy()
		err = failed
	}
	if err == nil {
		return nil
	}
	f := newFailure(h.Key, err)
	return &f
}

// Rewrap returns the record with new wrappings by keys that the manifest names:
// the MasterKey is opened through the other keystores and wrapped again under each
// key. What comes out was opened again before it is returned. The manifest, and so
// who may open the MasterKey, is the same.
//
// The failures are of the keys that could not wrap or open again; their wrappings
// stay as they were. It is an error when the MasterKey does not open
// ([*MissingError]), and when no key could. Each keystore gets at most wait.
func (r Record) Rewrap(ctx context.Context, rand io.Reader, keys []ProviderKey, keystores *keystore.Registry, c clock.Clock, wait time.Duration) (Record, []Failure, error) {
	if r.IsZero() || r.Mode() != ModeAuto {
		return Record{}, nil, errs.New(errs.FailedState, "the record has no wrappings: it is not opened by keystores alone", errs.Cause(ErrMode))
	}
	for _, k := range keys {
		if !r.names(k) {
			return Record{}, nil, errs.New(errs.InvalidArgument, fmt.Sprintf("%s is not one of those that may open the MasterKey", k),
				errs.Hint("who may is changed by a ceremony"), errs.Cause(ErrNotInManifest))
		}
	}
	masterKey, err := Open(ctx, r, keystores, c, wait)
	if err != nil {
		return Record{}, nil, err
	}
	defer masterKey.Destroy()
	var failures []Failure
	out := r
	for _, k := range keys {
		next, err := func() (Record, error) {
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			cer := Ceremony{Keyspace: r.Keyspace(), Cluster: r.Cluster(), ID: r.Ceremony(), Generation: r.Generation(), Time: c.Now()}
			if old := r.wrapping(k); old != nil {
				if old.GetCreateTimeUnixNano() == math.MaxInt64 {
					return Record{}, errs.New(errs.StateCorrupt, "the wrapping says a time after which there is none, so nothing can replace it",
						errs.Hint("a ceremony makes the seal anew: krypton ceremony start migrate"))
				}
				// What replaces a wrapping is younger, also by a clock that went back.
				cer.Time = time.Unix(0, max(cer.Time.UnixNano(), old.GetCreateTimeUnixNano()+1))
			}
			w, err := wrapOne(ctx, rand, masterKey, cer, k, keystores)
			if err != nil {
				return Record{}, err
			}
			next, err := out.with(w)
			if err != nil {
				return Record{}, err
			}
			mk, err := openWrapping(ctx, next, w, keystores)
			mk.Destroy()
			return next, err
		}()
		if err != nil {
			failures = append(failures, newFailure(k, err))
			continue
		}
		out = next
	}
	if out.pb == r.pb {
		all := []error{errs.New(errs.KeystoreMisconfigured, "no keystore wraps the MasterKey again", errs.Hint("look at the keystores of the seal: krypton doctor"))}
		for _, f := range failures {
			all = append(all, f.Err)
		}
		return Record{}, failures, errors.Join(all...)
	}
	return out, failures, nil
}

// names reports whether the manifest names the key.
func (r Record) names(k ProviderKey) bool {
	for _, pk := range r.pb.GetManifest().GetProviderKeys() {
		if keyOf(pk) == k {
			return true
		}
	}
	return false
}

// with returns the record with w in place of the wrapping by the same key, or
// besides the others.
func (r Record) with(w *sealpb.Wrapping) (Record, error) {
	pb := r.Proto()
	for i, old := range pb.GetWrappings() {
		if providerKey(old) == providerKey(w) {
			pb.Wrappings[i] = w
			return newRecord(pb)
		}
	}
	pb.Wrappings = append(pb.Wrappings, w)
	return newRecord(pb)
}

// Replaced returns the keys by which both records have a wrapping, and not the same one,
// in the order of the manifest.
func (r Record) Replaced(was Record) (keys []ProviderKey) {
	for _, k := range r.pb.GetManifest().GetProviderKeys() {
		mine, old := r.wrapping(keyOf(k)), was.wrapping(keyOf(k))
		if mine != nil && old != nil && manifest.OfWrapping(mine) != manifest.OfWrapping(old) {
			keys = append(keys, keyOf(k))
		}
	}
	return keys
}

// Keep returns r with the wrappings by these keys as they are in was, which has them.
func (r Record) Keep(was Record, keys []ProviderKey) (Record, error) {
	for _, k := range keys {
		old := was.wrapping(k)
		if old == nil {
			return Record{}, errs.New(errs.FailedState, "the record has no wrapping by "+k.String())
		}
		var err error
		if r, err = r.with(proto.CloneOf(old)); err != nil {
			return Record{}, err
		}
	}
	return r, nil
}

// Wrapping returns a copy of the wrapping by a key; nil: there is none.
func (r Record) Wrapping(k ProviderKey) *sealpb.Wrapping { return proto.CloneOf(r.wrapping(k)) }

// Merge returns r with the wrappings of other in place of its own where those are
// younger, and besides them where it has none. Both have the same manifest. So two
// copies of one seal, of which each missed a repair, become the same in either order.
//
// What other says to be from after latest is left out: the bytes of a disk would win over
// every repair to come, or keep one from being made (I16).
func (r Record) Merge(other Record, latest time.Time) (Record, error) {
	if r.ManifestDigest() != other.ManifestDigest() {
		return Record{}, errs.New(errs.FailedState, "the records are of two seals")
	}
	out := r
	for _, k := range r.pb.GetManifest().GetProviderKeys() {
		mine, theirs := r.wrapping(keyOf(k)), other.wrapping(keyOf(k))
		if theirs == nil || theirs.GetCreateTimeUnixNano() > latest.UnixNano() || mine != nil && mine.GetCreateTimeUnixNano() >= theirs.GetCreateTimeUnixNano() {
			continue
		}
		var err error
		if out, err = out.with(proto.CloneOf(theirs)); err != nil {
			return Record{}, err
		}
	}
	return out, nil
}
