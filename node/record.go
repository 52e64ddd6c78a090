package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/manifest"
)

// recordSkew is how far ahead of the own clock the wrapping of a repair may be: the leader
// made it, whose clock may differ by as much while it commits anything.
const recordSkew = time.Minute

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
	case n.setAside(ctx, have, r):
		// A person opens this node by the seal from before, until there is another one.
		n.mu.Lock()
		n.adopted = c
		n.mu.Unlock()
		return nil
	case have.ManifestDigest() == r.ManifestDigest():
		// The same seal, with other wrappings (I12). A registry that is behind, as that
		// of a node which just started, does not take a repair back.
		repaired = true
		if r, err = r.Merge(have, n.clock.Now().Add(recordSkew)); err != nil {
			return err
		}
	case have.SameMasterKey(r) && have.ManifestDigest() != r.ManifestDigest() && n.registryBehind(c, have):
		// This node took a seal that its registry has not replayed yet.
		return nil
	case have.Keyspace() == r.Keyspace() && have.Generation() > r.Generation():
		// The registry of this node is behind: a MasterKey that was replaced is
		// not taken back.
		return nil
	}
	changed := have.IsZero() || have.Digest() != r.Digest()
	if changed {
		if err := n.keepPrevious(have, r); err != nil {
			return err
		}
		if err := seal.WriteFile(n.cfg.RecordPath, r); err != nil {
			return err
		}
		n.removeBeside(ctx, seal.AsideSuffix) // what a person set aside is not the cluster's any more
	}
	n.mu.Lock()
	n.record, n.adopted = r, c
	u := n.open.Load()
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
	if have.SameMasterKey(r) {
		// Other holders open the same MasterKey: who has it keeps it, and what was
		// gathered of the old one is of no use any more.
		n.mu.Lock()
		n.endGathering()
		n.mu.Unlock()
		n.poke()
		n.log.InfoContext(ctx, "this node has the new seal of the cluster", slog.String("ceremony", r.Ceremony().String()), slog.String("mode", r.Mode().String()))
		return nil
	}
	if u != nil && u.keys.isOf(r) {
		n.log.InfoContext(ctx, "the seal of the cluster is another one, and this node has its MasterKey",
			slog.String("ceremony", r.Ceremony().String()), slog.Uint64("generation", uint64(r.Generation())))
		return nil
	}
	n.wipe()
	n.log.WarnContext(ctx, "the seal record on disk was not the registry's and is replaced; the node is sealed until it opens the new one",
		slog.String("ceremony", r.Ceremony().String()), slog.Uint64("generation", uint64(r.Generation())))
	return nil
}

// registryBehind reports whether the record that this node has may be later than that
// of its registry, which is so while it replays its log. A node that serves has every
// change that was acknowledged.
func (n *Node) registryBehind(c *fsmpb.Cluster, have seal.Record) bool {
	if n.ServingErr() == nil {
		return false
	}
	for _, m := range c.GetSealManifests() {
		if pb, err := manifest.ParseManifest(m); err == nil && manifest.Of(pb) == have.ManifestDigest() {
			return false // it was replaced by a later one
		}
	}
	g := &fsmpb.Genesis{}
	if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
		return false
	}
	first, err := seal.ParseRecord(g.GetSealRecord())
	return err == nil && first.ManifestDigest() != have.ManifestDigest()
}

// otherHolders reports whether the record of the registry is that of a ceremony which
// gave the same MasterKey to other holders. A node that serves believes its registry,
// and knows the MasterKey. A sealed one reads bytes from a disk: it believes them if
// every ceremony since the genesis was signed as the genesis says, by persons of it.
func (n *Node) otherHolders(c *fsmpb.Cluster, now, first seal.Record) (bool, error) {
	n.mu.Lock()
	have := n.record
	n.mu.Unlock()
	if !now.SameMasterKey(first) && !now.SameMasterKey(have) {
		return false, nil
	}
	if n.ServingErr() == nil || have.IsZero() {
		// A node that just joined has no record to fall back to. What it replayed it
		// verified entry by entry, and with this one it can get to the same MasterKey only.
		return true, nil
	}
	last, _, err := lastOfLine(c, now)
	return last, err
}

// lastOfLine reports whether the record is that of the last ceremony of the cluster, after
// it verified that every one since the genesis was signed as the genesis says, by persons of
// it; and whether somebody had to sign for the last one.
func lastOfLine(c *fsmpb.Cluster, now seal.Record) (last, signed bool, err error) {
	l, err := fsm.VerifyLineage(c.GetGenesis(), c.GetSealManifests())
	if err != nil {
		return false, false, errs.New(errs.StateCorrupt, "the seal of the registry is not taken over yet: "+errs.From(err).Msg,
			errs.Hint("if people who sign were bound after the cluster was founded, a sealed node cannot tell: unseal it by the seal that it has, or give it the record of an unsealed node, seal/record.pb"), errs.Cause(err))
	}
	if err := proveConfirmed(c); err != nil {
		return false, false, err
	}
	end := len(l.Manifests) - 1
	return manifest.Of(l.Manifests[end]) == now.ManifestDigest(), l.Signers[end] != nil, nil
}

// registryRecord returns the seal record of the registry if it is certain that
// it is of the pinned cluster. The genesis is: its hash is the fingerprint. A
// record of a later MasterKey is believed by a node that serves, which has the MasterKey
// before and a state that is proved, and by one that the members gave that MasterKey.
// A node that slept through the rekey has bytes on a disk: it believes them as far as
// people signed for every ceremony since the genesis. They signed who shall open the
// new MasterKey, and not which one it is, so that one has to prove itself when it was
// opened: see [keyring.proveSucceeded].
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
	}
	if others, err := n.otherHolders(c, now, first); others || err != nil {
		return now, err
	}
	if now.Generation() <= first.Generation() {
		return foreign("it is of the first MasterKey and not the genesis's")
	}
	if u := n.open.Load(); u != nil && u.keys.isOf(now) {
		return now, nil // the members of the cluster gave it this MasterKey, before it came into force
	}
	if n.ServingErr() == nil {
		return now, nil
	}
	last, signed, err := lastOfLine(c, now)
	if err == nil && (!last || !signed) {
		return foreign("it is of a later MasterKey for which nobody signed, and this node cannot prove its state yet")
	}
	return now, err
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
