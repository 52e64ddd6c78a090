package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// Standing is one look at what this node may answer from. Its parts belong
// together: the lease counts for this view, and complete was true when it was
// published. It is a value that never changes; [Cluster.Standing] returns the
// newest one.
type Standing struct {
	View *fsm.View
	// Complete is the last change of which this node knows that no node acts on the
	// state before it. What was changed later is shown to nobody yet.
	Complete uint64

	lease lease.Lease
}

// Usable reports whether an answer may leave at now. The caller loads the
// standing, then reads the clock, and asks after the work is done: in any other
// order a pause in between lets an answer leave after the end of the lease.
func (s *Standing) Usable(now clock.Reading) bool { return s.lease.Usable(lease.Reading(now)) }

// Likely reports whether there may be a lease at that time since 1970. It costs no
// system call and may be wrong, both ways: it spares work that [Standing.Usable]
// would throw away.
func (s *Standing) Likely(wall time.Duration) bool {
	return s.lease.Span != 0 && wall-s.lease.Start.Wall < s.lease.Span
}

// Remaining returns how much of the lease is left at now, 0 if nothing is.
func (s *Standing) Remaining(now clock.Reading) time.Duration {
	return s.lease.Remaining(lease.Reading(now))
}

// NewStanding is for tests of packages that serve from one.
func NewStanding(v *fsm.View, complete uint64, from clock.Reading, span time.Duration) *Standing {
	return &Standing{View: v, Complete: complete, lease: lease.Lease{Start: lease.Reading(from), Span: span}}
}

// leases is the shell around package lease: what it decides is carried out here,
// over streams, with this machine's clocks and this node's Raft.
type leases struct {
	c   *Cluster
	clk clock.Clock

	// mu is the lease mutex. It is held while a command becomes visible, so that a
	// grant and the command before it are in one order for everybody (I16). Nothing
	// under it waits for anything but memory.
	mu      sync.Mutex
	leader  *lease.Leader // nil until the view is that of a cluster
	holder  *lease.Holder
	history lease.History
	members uint64 // index of the members that leader knows
	links   map[NodeID]*downlink
	voices  map[NodeID]time.Duration // by how much this leader's wall clock is ahead of a voter's, at least
	asked   asked                    // the round whose answers tell the time
	refusal string                   // why the leader gave no grant last
	counts  refusals                 // of this node, as leader and as holder
	differs uint64                   // index at which this node's state is not its leader's; 0: none known

	standing atomic.Pointer[Standing]
	fences   waiters // for changes to be complete, while this node leads
	waited   fenceTimer
	heard    waiters // for this node to hear that they are

	// newest is the last change of a caller that this node committed. Members follow it
	// at once whether or not the caller waits for them.
	newest atomic.Uint64

	// through stands between this node and its streams; tests lose and delay there.
	through func(leaseStream) leaseStream

	whole    atomic.Bool // this leader could prove lately how far its log goes
	epochs   atomic.Bool // one is being proposed
	told     uint64      // last command for which members were told that somebody waits
	heralded uint64      // last change of which members were told that it is complete
	pushed   uint64      // last command that was pushed to followers; of push only
	logged   uint64      // term whose epoch the log has; of lead only

	leading chan struct{} // wakes who does the leader's work; one slot
	holding chan struct{} // wakes who renews; one slot
	poke    chan struct{} // wakes who tells followers what is committed; one slot
}

// asked is a round and this leader's wall clock before it.
type asked struct {
	round uint64
	wall  time.Duration
}

func newLeases(c *Cluster) *leases {
	l := &leases{
		c: c, clk: c.clk, links: map[NodeID]*downlink{}, voices: map[NodeID]time.Duration{},
		through: func(s leaseStream) leaseStream { return s },
		leading: make(chan struct{}, 1), holding: make(chan struct{}, 1), poke: make(chan struct{}, 1),
	}
	l.fences.joined = l.leading
	l.standing.Store(&Standing{View: c.machine.View()})
	c.machine.Watch(l.publish, l.restoring)
	return l
}

// wake fills a channel of one slot.
func wake(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// historyOf returns the history of the cluster in a view: the beginning of its
// fingerprint.
func historyOf(v *fsm.View) (h lease.History) {
	copy(h[:], v.Cluster().GetFingerprint())
	return h
}

// begin makes the machines once the view is that of a cluster. The caller holds mu.
func (l *leases) begin(v *fsm.View) bool {
	if l.leader != nil {
		return true
	}
	if !v.Initialized() {
		return false
	}
	timing := l.c.timers.leases(v.LeaseDuration())
	switch err := timing.Check(); {
	case err == nil:
	case v.Cluster().GetLeaseMs() == 0:
		// The genesis is older than leases, and nobody can give the cluster another
		// length: a pause at failovers is better than a node that never starts.
		l.c.spawn(func() {
			l.c.log.LogAttrs(l.c.base, slog.LevelWarn, "leases of this cluster are short for its profile, because it was founded before there were leases: reads may pause while a leader is replaced",
				slog.Duration("lease", timing.Lease), slog.Duration("needed", timing.Needed()))
		})
	default:
		l.c.spawn(func() { l.c.fail(errTimers(l.c.cfg.Profile, err)) }) // it writes a log
		return false
	}
	l.history = historyOf(v)
	l.leader = lease.NewLeader(lease.LeaderConfig{Self: lease.NodeID(l.c.id), History: l.history, Lease: v.LeaseDuration()})
	l.holder = lease.NewHolder(lease.HolderConfig{History: l.history, Boot: l.c.cfg.Dir.Boots(), Renew: timing.Renew, Patience: timing.Patience()})
	return true
}

// publish makes a command or a snapshot visible, on the goroutine of Apply.
func (l *leases) publish(p fsm.Published, swap func()) {
	now := lease.Reading(l.clk.Read())
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Restored {
		l.c.proofs.restored(p.View)
		l.c.compared.restored(p.View)
	} else {
		l.c.compared.applied(p.View)
	}
	if !l.begin(p.View) {
		swap()
		l.standing.Store(&Standing{View: p.View})
		return
	}
	index, term, chain := p.View.Applied()
	e := lease.Entry{Index: index, Term: term, Chain: chain}
	var ended bool
	if p.Restored {
		ended = l.leader.Restored(now, e)
	} else {
		ended = l.leader.Applied(now, e)
	}
	swap()
	if ended {
		l.fences.fail(errIndeterminate(nil))
		l.waited.drop()
	}
	l.follow(now, p)
	if m, ok := p.View.Member(string(l.c.id)); ok && m.GetRemoved() {
		l.holder.Remove()
	}
	l.holder.Applied(now, e)
	l.settle(now, p.View)
	wake(l.leading)
	wake(l.holding)
}

// follow tells the leader's machine of an epoch and of members. The caller holds mu.
func (l *leases) follow(now lease.Reading, p fsm.Published) {
	at := p.View.MembersIndex()
	switch {
	case p.Epoch.Leader == string(l.c.id) && l.leader.Establish(now, lease.Epoch{
		Nonce: lease.EpochNonce(p.Epoch.Nonce), Members: members(p.View), Heard: l.holder.Complete(),
	}):
		clear(l.voices)
		l.told, l.heralded = 0, 0
		l.holder.Connect() // this node's own request was refused while it led no epoch
	case at != l.members:
		l.leader.SetMembers(members(p.View))
	}
	l.members = at
}

func members(v *fsm.View) []lease.Member {
	all := v.Members()
	out := make([]lease.Member, len(all))
	for i, m := range all {
		out[i] = lease.Member{ID: lease.NodeID(m.GetId()), Removed: m.GetRemoved()}
	}
	return out
}

// restoring voids the lease before the state machine reads a snapshot.
func (l *leases) restoring() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == nil {
		return
	}
	l.leader.Lost() // the snapshot may jump over the commands by which an end is noticed
	l.holder.Restore()
	l.heard.forget()
	l.fences.fail(errIndeterminate(nil))
	l.waited.drop()
	l.standing.Store(&Standing{View: l.c.machine.View()})
	wake(l.holding)
}

// kept begins the new incarnation with the state that a refused snapshot did not
// replace: nothing else would, before the next command.
func (l *leases) kept() {
	now := lease.Reading(l.clk.Read())
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.c.machine.View()
	index, term, chain := v.Applied()
	if l.holder == nil || index == 0 {
		return
	}
	l.holder.Applied(now, lease.Entry{Index: index, Term: term, Chain: chain})
	l.present(v)
	wake(l.holding)
}

// settle finds what is complete and publishes what this node may answer from. It
// returns when to look again, if nothing happens before; 0: never. The caller
// holds mu.
func (l *leases) settle(now lease.Reading, v *fsm.View) time.Duration {
	p := l.leader.Advance(now)
	l.holder.Completed(p.Complete)
	l.present(v)
	l.fences.reach(p.Complete)
	l.waited.reach(p.Complete, l.clk.Now())
	return p.Next
}

// present publishes what this node may answer from. The caller holds mu.
func (l *leases) present(v *fsm.View) {
	next := &Standing{View: v, Complete: l.holder.Complete(), lease: l.holder.Lease()}
	if l.c.compared.err() != nil {
		next.lease = lease.Lease{} // of what its leader gave it nobody may make use
	}
	if *next != *l.standing.Load() {
		l.standing.Store(next)
	}
	l.heard.reach(next.Complete)
}

// renewed publishes the standing again: this node's state is believed now.
func (l *leases) renewed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder != nil {
		l.present(l.standing.Load().View)
	}
	wake(l.leading)
	wake(l.holding)
}

// Standing returns what this node may answer from now, at the price of one atomic
// load. It is never nil; whether there is a lease [Standing.Usable] says.
func (c *Cluster) Standing() *Standing { return c.leases.standing.Load() }

// AwaitComplete returns once this node has heard that the change index is
// complete, or with the error of ctx.
func (c *Cluster) AwaitComplete(ctx context.Context, index uint64) error {
	return c.leases.heard.wait(ctx, index)
}

// never is the time since something that did not happen.
const never = time.Duration(1<<63 - 1)

// LastContact returns how long ago this node asked for the newest lease that it
// was given and could use: by then its view had, or has got since, every change
// that a leader had acknowledged (I11). It is the largest duration if there is
// none. It counts by the clock of this machine that says most.
func (c *Cluster) LastContact() time.Duration {
	s := c.Standing()
	if s.lease.Span == 0 {
		return never
	}
	return lease.Reading(c.clk.Read()).Longest(s.lease.Start)
}

// LeaseErr returns why this node has no lease that it may serve under, or nil.
func (c *Cluster) LeaseErr() error {
	s := c.Standing()
	now := c.clk.Read()
	if s.Usable(now) {
		return nil
	}
	if err := c.errRecovering(); err != nil {
		return err
	}
	if err := c.Differs(); err != nil {
		return err
	}
	if err := c.compared.err(); err != nil {
		return err
	}
	if c.IsLeader() && c.mustNotGrant() {
		if err := c.entitled(); err != nil {
			return err
		}
	}
	l := c.leases
	l.mu.Lock()
	refusal := l.refusal
	var needs uint64 // what a lease that was given waits for
	if l.holder != nil {
		needs = l.holder.Needs(lease.Reading(now))
	}
	l.mu.Unlock()
	why := "no leader is known"
	switch leader := c.LeaderID(); {
	case refusal != "":
		why = "the leader refuses: " + refusal
	case needs != 0:
		why = fmt.Sprintf("the one that the leader gave is of no use before entry %d is applied here", needs)
	case leader == c.id:
		why = "this node leads and has not heard from a majority of the voters"
	case leader != "":
		why = "the leader, node " + string(leader) + ", gave none"
	}
	hint := "retry on another node; `krypton status` shows which ones serve"
	if at := c.LeaderAddress(); at != "" && !c.IsLeader() {
		hint = "retry on another node: the leader is at " + at
	}
	return errs.New(errs.NotServing, "this node has no serving lease: "+why, errs.Hint("%s", hint))
}

// leases returns the timers that leases of length d depend on.
func (t timers) leases(d time.Duration) lease.Timing {
	return lease.Timing{Heartbeat: t.heartbeat, Renew: t.renew, Lease: d, Grant: t.grant}
}

// Lease describes this node's lease and, on the leader, everybody's.
type Lease struct {
	Duration  time.Duration // D
	Remaining time.Duration // of this node's lease; 0: it has none
	Complete  uint64        // last change of which this node knows that it is complete
	Refusal   string        // why the leader gave none last; empty: it did

	Report   *LeaseReport // of a leader that gives leases; nil elsewhere
	Refusals []RefusalCount
	Fences   FenceTimes
}

// Lease returns what this node knows of leases.
func (c *Cluster) Lease() Lease {
	l, s := c.leases, c.Standing()
	now := c.clk.Read() // after the standing, as whoever serves reads it
	out := Lease{Duration: s.View.LeaseDuration(), Remaining: s.Remaining(now), Complete: s.Complete, Fences: l.waited.read()}
	l.mu.Lock()
	defer l.mu.Unlock()
	out.Refusal, out.Refusals = l.refusal, l.counts.list()
	if l.leader != nil {
		// The index is read under the lock: a report can name no later command.
		out.Report = l.report(lease.Reading(now), l.standing.Load().View.Index())
	}
	return out
}

// voters returns the voters of the latest configuration in this node's log,
// committed or not.
func (c *Cluster) voters() []lease.NodeID {
	var out []lease.NodeID
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			out = append(out, lease.NodeID(s.ID))
		}
	}
	return out
}

// removalComplete reports whether a removed member may be forgotten: its removal
// is complete, so that it has no lease any more.
func (c *Cluster) removalComplete(m *fsmpb.Member) bool {
	l := c.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader != nil && l.leader.Complete() >= m.GetModIndex()
}

// agreement compares a chain of another node with this node's.
func (c *Cluster) agreement(index uint64, chain lease.Chain) lease.Agreement {
	switch own, ok := c.chainAt(index); {
	case !ok || chain == lease.Chain{} || mutation.On(mutation.SkipChain):
		return lease.AgreementUnknown
	case own == chain:
		return lease.Agrees
	}
	return lease.Differs
}

// Differs returns why this node must not serve although it hears its leader: the
// two applied the same entries and have different states. Nil: they agree, or
// nobody could tell yet. Which of them is wrong only a majority can say: a leader
// that most voters contradict stops by itself.
func (c *Cluster) Differs() error {
	l := c.leases
	l.mu.Lock()
	index := l.differs
	l.mu.Unlock()
	if index == 0 || c.IsLeader() {
		return nil
	}
	return errs.New(errs.StateCorrupt, fmt.Sprintf("the state of this node differs from its leader's at entry %d of the log", index),
		errs.Hint("find out who can write to the data directories; if only this node says so, replace it: krypton operator remove, then krypton join with an empty data directory"))
}
