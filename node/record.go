package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

// readRecord loads the seal record from disk. It is what lets a node unseal
// without a quorum.
func (n *Node) readRecord() error {
	r, err := seal.ReadFile(n.cfg.RecordPath, hierarchy.KeyspaceID{})
	if errors.Is(err, seal.ErrNoRecord) {
		return nil
	}
	if err != nil {
		return err
	}
	n.record = r
	return nil
}

// adoptRecord takes over the registry's seal record, if it is this cluster's,
// and writes it to disk. A node that was unsealed by another record is sealed
// again: that was not this cluster's MasterKey (I8).
func (n *Node) adoptRecord(ctx context.Context, v *fsm.View) error {
	n.adopting.Lock()
	defer n.adopting.Unlock()
	n.mu.Lock()
	have, seen := n.record, n.adopted
	n.mu.Unlock()
	c := v.Cluster()
	if c == seen {
		return nil // views share what did not change
	}
	r, err := n.registryRecord(c)
	if err != nil {
		return err
	}
	repaired := false
	switch {
	case have.IsZero():
	case have.Digest() == r.Digest():
		r = have
	case have.ManifestDigest() == r.ManifestDigest():
		// The same seal, with other wrappings (I12). A registry that is behind, as that
		// of a node which just started, does not take a repair back.
		repaired = true
		if r, err = r.Merge(have); err != nil {
			return err
		}
	case have.Keyspace() == r.Keyspace() && have.Generation() > r.Generation():
		// The registry of this node is behind: a MasterKey that was replaced is
		// not taken back.
		return nil
	}
	changed := have.IsZero() || have.Digest() != r.Digest()
	if changed {
		if err := seal.WriteFile(n.cfg.RecordPath, r); err != nil {
			return err
		}
	}
	n.mu.Lock()
	n.record, n.adopted = r, c
	n.mu.Unlock()
	switch {
	case !changed || have.IsZero():
		return nil
	case repaired:
		n.mu.Lock()
		n.endGathering() // the keystores are asked with the new wrappings
		n.mu.Unlock()
		n.log.InfoContext(ctx, "the seal record has other wrappings of the same MasterKey")
		return nil
	}
	n.wipe()
	n.log.WarnContext(ctx, "the seal record on disk was not the registry's and is replaced; the node is sealed until it opens the new one",
		slog.String("ceremony", r.Ceremony().String()), slog.Uint64("generation", uint64(r.Generation())))
	return nil
}

// registryRecord returns the seal record of the registry if it is certain that
// it is of the pinned cluster. The genesis is: its hash is the fingerprint. A
// record other than the genesis's, of a later MasterKey, is believed only by a
// node that serves: it has the MasterKey before, and its state is proved. A
// sealed node would take it from bytes on a disk.
func (n *Node) registryRecord(c *fsmpb.Cluster) (seal.Record, error) {
	foreign := func(why string) (seal.Record, error) {
		return seal.Record{}, errs.New(errs.StateCorrupt, "the seal record of the registry is not this cluster's: "+why,
			errs.Hint("find out who can write to the data directory; then remove this node and let it join again with an empty one"))
	}
	f := seal.Fingerprint(fsm.Fingerprint(c.GetGenesis()))
	if !bytes.Equal(f[:], c.GetFingerprint()) {
		return foreign("the genesis does not have the fingerprint")
	}
	if pinned, ok := n.cfg.Pinned(); ok && pinned != f {
		return foreign("the genesis is of another cluster than this node is pinned to")
	}
	g := &fsmpb.Genesis{}
	if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
		return foreign("the genesis does not decode")
	}
	first, err := seal.ParseRecord(g.GetSealRecord())
	if err != nil {
		return seal.Record{}, err
	}
	if k := first.Keyspace(); !bytes.Equal(k[:], c.GetKeyspaceId()) {
		return foreign("the keyspace is another")
	}
	now, err := seal.ParseRecord(c.GetSealRecord())
	switch {
	case err != nil:
		return seal.Record{}, err
	case now.ManifestDigest() == first.ManifestDigest():
		return now, nil // what a ceremony decided is the genesis's; only wrappings are others
	case now.Keyspace() != first.Keyspace():
		return foreign("the keyspace is another")
	case now.Generation() <= first.Generation():
		return foreign("it is of the first MasterKey and not the genesis's")
	case n.ServingErr() != nil:
		return foreign("it is of a later MasterKey, and this node cannot prove its state yet")
	}
	return now, nil
}

// fingerprint returns SHA-256 of the genesis, once this node knows it.
func (n *Node) fingerprint() (seal.Fingerprint, bool) {
	if f, ok := n.cfg.Pinned(); ok {
		return f, true
	}
	f := n.machine.View().Cluster().GetFingerprint()
	if len(f) != len(seal.Fingerprint{}) {
		return seal.Fingerprint{}, false
	}
	return seal.Fingerprint(f), true
}
