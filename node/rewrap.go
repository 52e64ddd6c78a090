package node

import (
	"errors"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
	"github.com/openkcm/krypton-cluster/memsec"
)

// founded returns a copy of what wraps internal keys under that MasterKey in a cluster
// with that genesis.
func (g generation) founded(c *fsmpb.Cluster) (memsec.Secret, error) {
	founding, bound, err := fsm.FoundingOf(c)
	switch {
	case err != nil:
		return memsec.Secret{}, err
	case !bound || mutation.On(mutation.SkipFounding):
		return memsec.Copy(g.parent, memsec.Cold)
	}
	return envelope.FoundedIVKParent(g.parent, founding)
}

// rewrapInternalKeys wraps every internal key that the cluster has under the next
// MasterKey, and opens again what it made. The keys in it are the same, so nothing below
// them changes.
func (k *keyring) rewrapInternalKeys(rand io.Reader, c *fsmpb.Cluster, next generation) ([]*fsmpb.RewrappedKey, error) {
	var out []*fsmpb.RewrappedKey
	for _, v := range c.GetInternalKeys() {
		if len(v.GetBlob()) == 0 {
			continue // destroyed
		}
		uid, err := uidOf(v.GetUid())
		if err != nil {
			return nil, err
		}
		var blob []byte
		err = k.withRoom(func() error {
			key, err := k.openInternalKey(c, v)
			if err != nil {
				return err
			}
			defer key.Destroy()
			parent, err := next.founded(c)
			if err != nil {
				return err
			}
			defer parent.Destroy()
			blob, err = envelope.Wrap(rand, parent, ivkBinding(k.keyspace, next.number, uid), key)
			return err
		})
		if err != nil {
			return nil, err
		}
		out = append(out, &fsmpb.RewrappedKey{Uid: v.GetUid(), Blob: blob})
	}
	return out, k.verifyRewrapped(c, out, next)
}

// verifyRewrapped reports what is wrong with internal keys that somebody wrapped under
// the next MasterKey: each has to be the one that the cluster has. Nobody without both
// MasterKeys can tell, and with one that does not open all nodes would lose their tenants
// at once.
func (k *keyring) verifyRewrapped(c *fsmpb.Cluster, wrapped []*fsmpb.RewrappedKey, next generation) error {
	want := 0
	for _, v := range c.GetInternalKeys() {
		if len(v.GetBlob()) > 0 {
			want++
		}
	}
	if len(wrapped) != want {
		return errs.New(errs.StateCorrupt, fmt.Sprintf("the rekey has %d internal keys, the cluster has %d", len(wrapped), want),
			errs.Hint("cancel the ceremony and begin it anew"))
	}
	seen := map[string]bool{}
	for _, w := range wrapped {
		v, ok := fsm.VersionByUID(c.GetInternalKeys(), w.GetUid())
		if !ok || len(v.GetBlob()) == 0 || seen[string(w.GetUid())] {
			return errs.New(errs.StateCorrupt, "the rekey has an internal key twice, or one that the cluster has not", errs.Hint("cancel the ceremony and begin it anew"))
		}
		seen[string(w.GetUid())] = true
		if err := k.withRoom(func() error { return k.sameKey(c, v, w.GetBlob(), next) }); err != nil {
			return err
		}
	}
	return nil
}

// errAnotherKey is the cause when an internal key was exchanged.
var errAnotherKey = errors.New("the internal key in it is another one")

// sameKey reports whether blob holds the internal key v under the next MasterKey.
func (k *keyring) sameKey(c *fsmpb.Cluster, v *fsmpb.Version, blob []byte, next generation) error {
	uid, err := uidOf(v.GetUid())
	if err != nil {
		return err
	}
	have, err := k.openInternalKey(c, v)
	if err != nil {
		return err
	}
	defer have.Destroy()
	parent, err := next.founded(c)
	if err != nil {
		return err
	}
	defer parent.Destroy()
	got, err := envelope.Unwrap(parent, ivkBinding(k.keyspace, next.number, uid), blob, memsec.Cold)
	if err != nil {
		return corrupt(fmt.Sprintf("internal key version %d under the next MasterKey", v.GetNumber()), err)
	}
	defer got.Destroy()
	same, err := memsec.Equal(have, got)
	if err != nil || same {
		return err
	}
	return errs.New(errs.StateCorrupt, fmt.Sprintf("internal key version %d under the next MasterKey is another key", v.GetNumber()),
		errs.Hint("find out which node staged the rekey; cancel the ceremony and begin it anew"), errs.Cause(errAnotherKey))
}
