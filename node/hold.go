package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// holdFile lies beside the seal record while this node knows of a hold and of no
// release. A node that starts alone has no registry yet, or an old one, that
// could tell it; without the file a restart would get around the hold.
const holdFile = "held"

func (n *Node) holdPath() string { return filepath.Join(filepath.Dir(n.cfg.RecordPath), holdFile) }

// readHold finds out whether the node stopped while the cluster was held.
func (n *Node) readHold() error {
	_, err := os.Lstat(n.holdPath())
	switch {
	case err == nil:
		n.heldBefore.Store(true)
	case !errors.Is(err, fs.ErrNotExist):
		return errs.New(errs.InvalidConfig, "it cannot be told whether the cluster was held: "+err.Error(), errs.Cause(err))
	}
	return nil
}

// held reports whether this node must not unseal.
func (n *Node) held() bool { return n.heldErr(n.machine.View()) != nil }

// heldErr returns why this node must not unseal, or nil.
func (n *Node) heldErr(v *fsm.View) error {
	if h := v.Hold(); h.GetHeld() {
		return errHeld(h)
	}
	if n.heldBefore.Load() {
		return errs.New(errs.Held, "the cluster was held when this node last heard from it",
			errs.Hint("it unseals once it hears from a leader that the hold is released; start the other nodes"))
	}
	return nil
}

func errHeld(h *fsmpb.Hold) error {
	return errs.New(errs.Held, "the cluster was sealed by "+h.GetBy()+" and is held", errs.Hint("a custodian releases it: krypton operator release-hold"))
}

// obeyHold seals the node and makes sure that it stays so over a restart.
func (n *Node) obeyHold(ctx context.Context, v *fsm.View) {
	if n.wipe() {
		n.log.WarnContext(ctx, "sealed: the cluster is held", slog.String("by", v.Hold().GetBy()))
	}
	if n.heldBefore.Swap(true) {
		return
	}
	if err := n.writeHold(); err != nil {
		n.heldBefore.Store(false) // once more at the next look
		n.log.ErrorContext(ctx, "the hold cannot be kept on disk; a restart of this node without the others would not honour it", slog.Any("error", err))
	}
}

func (n *Node) writeHold() (err error) {
	f, err := os.OpenFile(n.holdPath(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(n.holdPath()))
}

// forgetHold ends what a restart began: in contact with a leader, the registry
// of this node is current, and it knows of no hold.
func (n *Node) forgetHold(ctx context.Context) {
	if !n.heldBefore.Load() || n.cluster.LastContact() > ContactLimit {
		return
	}
	// Read after the contact: contact says that the view is at least as new as
	// the leader's was then.
	if v := n.machine.View(); !v.Initialized() || v.Hold().GetHeld() {
		return
	}
	if err := os.Remove(n.holdPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.ErrorContext(ctx, "the released hold cannot be removed from disk; this node stays sealed", slog.Any("error", err))
		return
	}
	n.heldBefore.Store(false)
	n.log.InfoContext(ctx, "the hold is released")
	n.poke()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
