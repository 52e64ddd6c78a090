package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
	"github.com/openkcm/krypton-cluster/node/validity"
	"github.com/openkcm/krypton-cluster/seal"
)

// standing is what one view says about whether this node may serve. It is
// looked up once per view: a data operation compares a pointer.
type standing struct {
	view   *fsm.View
	err    error // nil: it may
	proof  proof
	began  error // nil: the snapshot that the view began with is authentic, and so is the founding
	proved error // nil: that, and all entries of the log behind it
}

// proof is a snapshot's proof, if the state began with a snapshot.
type proof struct {
	fsm.Proof

	has bool
}

// look returns the keys and what to serve a data operation from, or says why this
// node may not serve now, whatever lease it has (I1).
func (n *Node) look() (*unsealed, *cluster.Standing, error) {
	u := n.open.Load()
	if u == nil {
		return nil, nil, n.whySealed()
	}
	st := n.cluster.Standing()
	if s := n.standing(u, st.View); s.err != nil {
		return nil, nil, s.err
	}
	return u, st, nil
}

// standing returns where the node stands in that view.
func (n *Node) standing(u *unsealed, v *fsm.View) *standing {
	s := u.standing.Load()
	if s == nil || s.view != v {
		s = n.stand(u, v, s)
		if s.proved == nil || errs.Is(s.proved, errs.StateCorrupt) { // else it is no finding: sealed in this moment, or no memory, or not all is applied
			u.standing.Store(s)
		}
	}
	return s
}

// starting is serving with a look at the clock that is cheap and may be wrong: for
// the beginning of an operation that asks serving at its end.
func (n *Node) starting() (*unsealed, *cluster.Standing, error) {
	u, st, err := n.look()
	if err == nil && !st.Likely(time.Duration(n.clock.Now().UnixNano())) {
		err = n.noLease()
	}
	return u, st, err
}

// serving returns the keys and what to serve from at this moment, or says why this
// node may not (I1). The standing is loaded before the clock is read: a pause in
// between can only end the lease.
func (n *Node) serving() (*unsealed, *cluster.Standing, error) {
	u, st, _, err := n.servingAt()
	return u, st, err
}

// servingAt is serving, and returns the reading of the clock at which it was so.
func (n *Node) servingAt() (*unsealed, *cluster.Standing, clock.Reading, error) {
	u, st, err := n.look()
	if err != nil {
		return u, st, clock.Reading{}, err
	}
	at := n.clock.Read()
	if !st.Usable(at) {
		err = n.noLease()
	}
	return u, st, at, err
}

// noLease says why there is no lease. One may have come in this moment: what was
// looked at had none.
func (n *Node) noLease() error {
	if err := n.cluster.LeaseErr(); err != nil {
		return err
	}
	return errs.New(errs.NotServing, "this node had no serving lease when the answer was to leave", errs.Hint("retry"))
}

// GateWait is how long an answer waits for a change of what it tells of, before it
// says that a change is in progress. A change that all nodes follow is complete in
// a few round trips; one that a dead node keeps waiting takes as long as its lease.
const GateWait = lease.GateWait

// gated returns once what was found in view may be told (lease I9), as far as that
// can be known before the record: this node has a lease, its view is still that one
// or says the same, and what it says is complete. It waits for the last for up to
// [GateWait]. now is the gate, the index of the last change of what was found.
// again means that another view says something else.
//
// It is one of two questions. The other is [Node.leaves], after the record.
func (n *Node) gated(ctx context.Context, view *fsm.View, gate uint64, look func(*fsm.View) (uint64, bool)) (now uint64, again bool, err error) {
	var since time.Time // zero: nothing was waited for yet
	for {
		_, st, err := n.starting()
		if err != nil {
			return 0, false, err
		}
		if st.View != view {
			now, same := look(st.View)
			if !same {
				return 0, true, nil
			}
			view, gate = st.View, now
		}
		if gate <= st.Complete {
			return gate, false, nil
		}
		if since.IsZero() {
			since = n.clock.Now()
		}
		if err := n.awaitComplete(ctx, GateWait-n.clock.Since(since), gate); err != nil {
			return 0, false, err
		}
	}
}

// awaitComplete waits for that long for the change to be complete.
func (n *Node) awaitComplete(ctx context.Context, wait time.Duration, index uint64) error {
	if at, ok := ctx.Deadline(); ok {
		// "Not yet" has to arrive: a caller that hears nothing takes the node for dead.
		wait = min(wait, at.Sub(n.clock.Now())*4/5)
	}
	bound, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	switch {
	case n.cluster.AwaitComplete(bound, index) == nil:
		return nil
	case ctx.Err() != nil:
		return errs.From(ctx.Err())
	}
	return errChanging()
}

// Look is what a read of the registry is made from.
type Look struct {
	View *fsm.View
	// Stale: this node had no lease when it looked. Changes that were acknowledged
	// before may be missing.
	Stale bool
}

// Look returns the newest view and whether it has every change that was acknowledged
// until now. A lease that comes after the look says nothing about it.
func (n *Node) Look() Look {
	for {
		v := n.machine.View()
		usable := n.cluster.Standing().Usable(n.clock.Read())
		// The lease is that of a view not newer than this one, which was the newest
		// while the clock was read. Else a change came in between.
		if n.machine.View() == v {
			return Look{View: v, Stale: !usable}
		}
	}
}

// Shown returns nil once what a look found, and what was changed last at index, may be
// shown: when that is complete, for which it waits up to [GateWait]. Of a stale look
// nobody can tell.
func (n *Node) Shown(ctx context.Context, l Look, index uint64) error {
	if l.Stale || index <= n.cluster.Standing().Complete {
		return nil
	}
	return n.awaitComplete(ctx, GateWait, index)
}

// current returns the view that a change is prepared from, or decided on by this node
// itself. A node without a lease has none: what it found would be refused, or made,
// by an old state. In a cluster that gives no leases yet any view has to do.
func (n *Node) current() (Look, error) {
	l := n.Look()
	if l.Stale && l.View.Cluster().GetFormatVersion() >= fsm.FormatLeases {
		return l, n.noLease()
	}
	return l, nil
}

// refused returns a refusal that was found in a look, once it may be told. It tells
// state like any answer; so whatever was changed until then has to be complete.
func (n *Node) refused(ctx context.Context, l Look, refusal error) error {
	if errs.From(refusal).Code.Row().Outcome != errs.OutcomeRefused {
		return refusal // it tells nothing of the registry
	}
	if err := n.Shown(ctx, l, l.View.Index()); err != nil {
		return err
	}
	return refusal
}

// errChanging says that an answer would show what another node does not show yet.
func errChanging() error {
	return errs.New(errs.ChangeInProgress, "what the answer would tell is being changed, and not all nodes follow yet",
		errs.Hint("wait a moment and retry; it takes no longer than a serving lease"))
}

// errOvertaken says that a change came between an answer and its way out.
func errOvertaken() error {
	return errs.New(errs.ChangeInProgress, "what the answer was made by was changed before it could leave",
		errs.Hint("retry: the next answer is by the state after the change"))
}

// leaves returns nil if an answer may leave now: this node has a lease by every
// clock of the machine, and nothing has changed by which the answer was found. It is
// asked once the record is written, and nothing comes after it but the way out.
//
// This is the instant at which an operation happens. view is what the answer was
// found in; same reports whether a later one says the same, by the same gate: then
// it is complete still. valid is nil, or whether the customer's key lets the tenant's be used (I20).
func (n *Node) leaves(view *fsm.View, valid *validity.Standing, same func(*fsm.View) bool) error {
	_, st, at, err := n.servingAt()
	if err == nil && st.View != view && !same(st.View) {
		err = errOvertaken()
	}
	if err == nil && valid != nil {
		err = valid.Err(at)
	}
	return err
}

// stand finds out where the node stands in that view. before is what it found
// last: the MAC of a snapshot is computed once.
func (n *Node) stand(u *unsealed, v *fsm.View, before *standing) *standing {
	s := &standing{view: v}
	// The machine stores the proof of a snapshot before its view, so the proof of
	// this view is this one or has been replaced with the view.
	s.proof.Proof, s.proof.has = n.machine.RestoreProof()
	now := v.Generation()
	switch opened := u.keys.opened.Load(); {
	case v.Initialized() && uint64(now) >= opened && !u.keys.knows(v.Cluster()):
		s.began = errBehind(opened, now)
	case before != nil && before.proof == s.proof:
		s.began = before.began
	default:
		s.began = proveSnapshot(u, v, s.proof)
	}
	if s.began == nil && v.Initialized() && u.founded.Load() != uint64(now) && u.keys.knows(v.Cluster()) {
		if s.began = u.ring.proveFounding(v.Cluster()); s.began == nil {
			s.began = u.ring.proveSucceeded(v)
		}
		if s.began == nil {
			u.founded.Store(uint64(now)) // the genesis of a state never changes
		} else {
			n.log.Error("the state of this node is not believed; it serves nothing", slog.Any("error", s.began)) //nolint:sloglint // It is of no call.
		}
	}
	if s.proved = s.began; s.proved == nil {
		s.proved = n.cluster.Proved()
	}
	if s.proved == nil && v.Initialized() {
		u.keys.reached(now)
	}
	m, member := v.Member(n.id)
	switch {
	case v.Hold().GetHeld():
		s.err = errHeld()
	case s.proved != nil:
		s.err = s.proved
	case !v.Initialized():
		s.err = errs.New(errs.NotServing, "this node has not caught up with the cluster", errs.Hint("retry, or use another node"))
	case !member || m.GetRemoved():
		s.err = errs.New(errs.NotServing, "this node is not a member of the cluster", errs.Hint("use another node"))
	}
	return s
}

// proveSnapshot checks the MAC of a snapshot that the state of this node began
// with (I9). Whoever can write to a disk, or leads, can make a snapshot and its
// checksum; only who had the MasterKey can make its MAC.
func proveSnapshot(u *unsealed, v *fsm.View, p proof) error {
	if !p.has || mutation.On(mutation.SkipSnapshotMAC) {
		return nil // the state comes from the log alone
	}
	if !p.HasMAC {
		return errs.New(errs.StateCorrupt, "the snapshot that this node started from has no proof of who wrote it",
			errs.Hint("no node writes such a snapshot: find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one"))
	}
	err := p.Verify(func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		return u.keys.sum(v.Cluster(), g, parts...)
	})
	if err == nil || errs.Is(err, errs.Sealed) {
		return err
	}
	return errs.New(errs.StateCorrupt, "the snapshot that this node started from is not authentic",
		errs.Hint("find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one"),
		errs.Cause(err))
}

// ServingErr returns nil if the node serves data operations, else why not.
func (n *Node) ServingErr() error {
	if _, _, err := n.serving(); err != nil {
		return err
	}
	return n.gate.Err()
}

// whySealed says why there is no MasterKey in memory. That the cluster is held says
// only a node that knows what was acknowledged: of one that is cut off the hold may
// have been released long ago, and other nodes serve.
func (n *Node) whySealed() error {
	l := n.Look()
	switch err := n.heldErr(l.View); {
	case err == nil:
	case l.Stale && n.heldAt.Load() != unknownHold: // that one needs a person, here
		return errs.New(errs.Sealed, "this node is sealed: the cluster was held when it last heard from it",
			errs.Hint("use another node; this one unseals once it hears from a leader that the hold is released"))
	default:
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !n.belongs():
		return errNoCluster(errs.Sealed)
	case n.resting && n.record.Mode() == seal.ModeAuto:
		return errs.New(errs.Sealed, "this node was sealed by a person", errs.Hint("use another node; this one unseals when its process starts again"))
	}
	return errs.New(errs.Sealed, "this node is sealed", errs.Hint("use another node, or unseal this one: krypton unseal"))
}

// belongs reports whether the node belongs to a cluster, or is about to hear
// from it. mu is held.
func (n *Node) belongs() bool {
	if !n.record.IsZero() || n.machine.View().Initialized() {
		return true
	}
	_, pinned := n.cfg.Pinned()
	return pinned
}

func errNoCluster(code errs.Code) error {
	return errs.New(code, "this node belongs to no cluster yet", errs.Hint("`krypton init` for a new cluster, `krypton join` for an existing one"))
}
