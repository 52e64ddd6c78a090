package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

// The seal from before a ceremony stays beside the record until this node was opened by
// the one that took its place. It opens the same MasterKey: if the new holders cannot, the
// old ones still do, after a person with this machine in hand asked for it
// (krypton operator recover seal --previous). The node never takes it by itself: who was
// replaced would open nodes as long as nobody restarts them.

// keepPrevious keeps the record that another one takes the place of. Of two that this node
// was never opened by the older one stays, unless it is of a MasterKey that was replaced.
func (n *Node) keepPrevious(have, next seal.Record) error {
	if have.IsZero() || have.ManifestDigest() == next.ManifestDigest() {
		return nil
	}
	if kept, ok := n.previous(); ok && kept.SameMasterKey(next) {
		return nil
	}
	return seal.WriteFile(n.cfg.RecordPath+seal.PreviousSuffix, have)
}

// previous returns the record from before, if it is kept and can be read.
func (n *Node) previous() (seal.Record, bool) {
	return n.beside(seal.PreviousSuffix)
}

func (n *Node) beside(suffix string) (seal.Record, bool) {
	r, err := seal.ReadFile(n.cfg.RecordPath+suffix, hierarchy.KeyspaceID{})
	return r, err == nil
}

// setAside reports whether a person set the record of the registry aside, to open this node
// by the one that it has. With the next ceremony that ends.
func (n *Node) setAside(ctx context.Context, have, registry seal.Record) bool {
	aside, ok := n.beside(seal.AsideSuffix)
	if !ok || aside.ManifestDigest() != registry.ManifestDigest() || have.ManifestDigest() == registry.ManifestDigest() || !have.SameMasterKey(registry) {
		return false
	}
	n.log.WarnContext(ctx, "this node is opened by the seal from before the last ceremony, as a person asked for; it takes the next one that is committed",
		slog.String("ceremony", have.Ceremony().String()))
	return true
}

// presentSeal returns what opens the present MasterKey on this node: the seal of the
// registry, or the one from before, if a person set that aside here.
func (n *Node) presentSeal(registry seal.Record) seal.Record {
	n.mu.Lock()
	have := n.record
	n.mu.Unlock()
	aside, ok := n.beside(seal.AsideSuffix)
	if ok && aside.ManifestDigest() == registry.ManifestDigest() && have.SameMasterKey(registry) {
		return have
	}
	return registry
}

// openedBy forgets the record from before: this node was opened by the one in its place.
func (n *Node) openedBy(ctx context.Context) {
	if _, aside := n.beside(seal.AsideSuffix); !aside {
		n.removeBeside(ctx, seal.PreviousSuffix)
	}
}

func (n *Node) removeBeside(ctx context.Context, suffix string) {
	if err := os.Remove(n.cfg.RecordPath + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.WarnContext(ctx, "a seal record that is not needed any more cannot be removed", slog.Any("error", errs.From(err)))
	}
}

// wayBack says how a sealed node is opened by the seal from before; empty: there is none
// that would open the same MasterKey.
func wayBack(was, now seal.Record) string {
	if !was.SameMasterKey(now) || was.ManifestDigest() == now.ManifestDigest() {
		return ""
	}
	return "the seal from before the last ceremony is kept: if its holders are to open this node, stop it and run krypton operator recover seal --previous"
}
