package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// holdFile lies beside the seal record while this node knows of a hold and of no
// release: the log index of the hold, decimal. A node that starts alone has no
// registry yet, or an old one, that could tell it; without the file a restart
// would get around the hold.
const holdFile = "held"

// unknownHold is the index of a hold whose file says none: no registry is known
// to be newer.
const unknownHold = math.MaxUint64

func (n *Node) holdPath() string { return filepath.Join(filepath.Dir(n.cfg.RecordPath), holdFile) }

// readHold finds out whether the node stopped while the cluster was held.
func (n *Node) readHold() error {
	b, err := os.ReadFile(n.holdPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.New(errs.StateCorrupt, "it cannot be told whether the cluster was held: "+err.Error(),
			errs.Hint("put seal/held back as the file it was; if no other node is held, remove it"), errs.Cause(err))
	}
	index, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || index == 0 {
		index = unknownHold
	}
	n.heldAt.Store(index)
	return nil
}

// held reports whether this node must not unseal.
func (n *Node) held() bool { return n.heldErr(n.machine.View()) != nil }

// heldErr returns why this node must not unseal, or nil.
func (n *Node) heldErr(v *fsm.View) error {
	if v.Hold().GetHeld() {
		return errHeld()
	}
	switch n.heldAt.Load() {
	case 0:
		return nil
	case unknownHold:
		return errs.New(errs.Held, "the cluster was held when this node last heard from it, and the file seal/held does not say since when",
			errs.Hint("if no other node is held, remove seal/held from the data directory and start this node again"))
	}
	return errs.New(errs.Held, "the cluster was held when this node last heard from it",
		errs.Hint("it unseals once it hears from a leader that the hold is released; start the other nodes"))
}

// errHeld does not say who: workloads read it too. The log and the records do.
func errHeld() error {
	return errs.New(errs.Held, "the cluster was sealed by a person and is held", errs.Hint("a custodian releases it: krypton operator release-hold"))
}

// obeyHold seals the node and makes sure that it stays so over a restart.
func (n *Node) obeyHold(ctx context.Context, v *fsm.View) {
	if n.wipe() {
		n.log.WarnContext(ctx, "sealed: the cluster is held", slog.String("by", v.Hold().GetBy()))
	}
	n.holding.Lock()
	defer n.holding.Unlock()
	index := v.Hold().GetModIndex()
	if have := n.heldAt.Load(); have == index || have > index && have != unknownHold {
		return // kept already, or this view is behind
	}
	if err := atomicfile.Write(n.holdPath(), fmt.Appendln(nil, index), 0o600); err != nil {
		n.log.ErrorContext(ctx, "the hold cannot be kept on disk; a restart of this node without the others would not honour it", slog.Any("error", err))
		return // once more at the next look
	}
	n.heldAt.Store(index)
}

// forgetHold ends what a restart began: the registry of this node has applied the
// hold that it kept, and knows of none now. Its lease says that this is not an old
// state.
func (n *Node) forgetHold(ctx context.Context) {
	if n.heldAt.Load() == 0 || n.cluster.LeaseErr() != nil {
		return
	}
	n.holding.Lock()
	defer n.holding.Unlock()
	at, v := n.heldAt.Load(), n.machine.View()
	if at == 0 || !v.Initialized() || v.Hold().GetHeld() || v.Index() < at {
		return
	}
	if err := os.Remove(n.holdPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.ErrorContext(ctx, "the released hold cannot be removed from disk; this node stays sealed", slog.Any("error", err))
		return
	}
	n.heldAt.Store(0)
	n.log.InfoContext(ctx, "the hold is released")
	n.poke()
}
