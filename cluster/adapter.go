package cluster

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// adapter is the state machine as Raft sees it. It decides nothing.
//
// Raft calls Apply, Snapshot and Restore on one goroutine and Persist beside
// them; views are immutable, so a snapshot is a pointer.
type adapter struct {
	machine *fsm.Machine
	mac     macFunc
	fail    func(error)
	pin     func() error
	// judge reports whether somebody vouched for an entry, just before it is applied;
	// nil: nobody asks.
	judge func(*raft.Log) bool
	// believed says why this node must not vouch for its state; nil: it may.
	believed func() error
	// applied is told of every command and snapshot; nil: nobody is.
	applied func(index uint64, chain [32]byte, snapshot bool)
	// unsettled reports whether proofs of entries wait to be verified; nil: none do.
	unsettled func() bool
	calls     *inflight
	chains    *chains
	// restored, if set, is called when the state is that of a snapshot.
	restored func()
	// kept, if set, is called when a snapshot was refused, so that the state is what
	// it was.
	kept    func()
	stopped atomic.Bool
	pinned  bool  // only the goroutine of Apply
	refused error // by Restore, at the start
}

func newAdapter(c *Cluster) *adapter {
	return &adapter{
		machine: c.machine, mac: c.cfg.MAC, fail: c.fail, pin: c.checkPin, calls: newInflight(c.clk), chains: &c.chains,
		judge: c.judge, believed: c.believed, unsettled: c.proofs.unsettled, applied: c.end.applied,
		restored: func() { c.store.restored(nil) },
		kept: func() {
			c.compared.refused()
			c.leases.kept()
		},
	}
}

var (
	errMachineStopped = errors.New("the state machine stopped")
	// errSealedSnapshot: a snapshot that nobody could verify makes every node that
	// gets it useless, and a disk full of log does not (I14). The log library
	// passes on the text only; see [raftLog.Log].
	errSealedSnapshot = errors.New("a sealed node writes no snapshot")
)

// Apply implements [raft.FSM]. What it cannot apply ends the node: a replica
// that skipped an entry would differ from the others from then on and not know.
func (a *adapter) Apply(l *raft.Log) any {
	if a.stopped.Load() {
		return errMachineStopped
	}
	defer a.calls.begin()()
	apply := a.machine.Apply
	if a.judge != nil && !a.judge(l) {
		apply = a.machine.ApplyUnproved
	}
	res, err := apply(l.Index, l.Term, l.Data)
	if err == nil && !a.pinned && a.machine.View().Initialized() {
		err = a.pin()
		a.pinned = err == nil
	}
	if err != nil {
		if _, said := errors.AsType[*errs.Error](err); errors.Is(err, fsm.ErrOtherCluster) {
			err = errForeignLog(err)
		} else if !said {
			err = errs.New(errs.StateCorrupt, "entry "+strconv.FormatUint(l.Index, 10)+" of the Raft log cannot be applied: "+err.Error(),
				errs.Hint("if the cluster runs a newer release, start that one; else %s", startAnew), errs.Cause(err))
		}
		a.stop(err)
		return errMachineStopped
	}
	_, _, chain := a.machine.Applied()
	a.chains.note(l.Index, chain)
	if a.applied != nil {
		a.applied(l.Index, chain, false)
	}
	return res
}

func (a *adapter) stop(err error) {
	a.stopped.Store(true)
	a.fail(err)
}

// Snapshot implements [raft.FSM].
func (a *adapter) Snapshot() (raft.FSMSnapshot, error) {
	if a.stopped.Load() {
		return nil, errMachineStopped
	}
	if a.mac != nil {
		// Found out before the state is written in vain. The MAC is over nothing and
		// goes nowhere.
		if _, ok := a.mac(a.machine.View().Generation()); !ok {
			return nil, errSealedSnapshot
		}
	}
	if a.unsettled != nil && a.unsettled() {
		return nil, errSealedSnapshot // who unseals the node verifies them; this goroutine applies entries
	}
	if a.believed != nil {
		if err := a.believed(); errs.Is(err, errs.Sealed) {
			return nil, errSealedSnapshot
		} else if err != nil {
			// Its MAC would make what nobody believes into what everybody believes.
			return nil, fmt.Errorf("a node whose state is not believed writes no snapshot: %w", err)
		}
	}
	return &snapshot{of: a.machine.Snapshot(), mac: a.mac}, nil
}

// Restore implements [raft.FSM].
func (a *adapter) Restore(r io.ReadCloser) error {
	defer func() { _ = r.Close() }()
	if a.stopped.Load() {
		return errMachineStopped
	}
	defer a.calls.begin()()
	if err := a.machine.Restore(r); err != nil {
		a.refused = err
		if a.kept != nil {
			a.kept()
		}
		return fmt.Errorf("restore snapshot: %w", err)
	}
	a.refused = nil
	if a.restored != nil {
		a.restored()
	}
	a.chains.forget()
	index, _, chain := a.machine.Applied()
	a.chains.note(index, chain)
	if a.applied != nil {
		a.applied(index, chain, true)
	}
	if err := a.pin(); err != nil {
		a.refused = err
		a.stop(err)
		return err
	}
	return nil
}

// snapshot is a view that Raft writes beside Apply.
type snapshot struct {
	of  *fsm.Snapshot
	mac macFunc
}

// Persist implements [raft.FSMSnapshot].
//
// The node may be sealed meanwhile: then there is no snapshot (I14).
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if own, ok := sink.(*keptSink); ok {
		own.own = true
	}
	sealed := false
	var mac macFunc
	if s.mac != nil {
		mac = func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
			sum, ok := s.mac(g, parts...)
			sealed = !ok
			return sum, ok
		}
	}
	if _, err := s.of.WriteTo(sink, mac); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	if sealed {
		return errors.Join(errSealedSnapshot, sink.Cancel())
	}
	return sink.Close()
}

// Release implements [raft.FSMSnapshot]: a view needs none.
func (*snapshot) Release() {}
