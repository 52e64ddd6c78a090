package cluster

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// grant does the leader's work for leases while this node leads: it begins an
// epoch, asks the voters, gives grants, and finds out what is complete.
func (l *leases) grant(ctx context.Context) error {
	changes, stop := l.c.leaders.subscribe()
	defer stop()
	for ctx.Err() == nil {
		next := l.c.timers.renew
		if l.c.IsLeader() {
			next = l.lead(ctx)
		} else {
			l.resign()
		}
		wait, cancel := context.WithCancel(ctx)
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = l.clk.Sleep(wait, next)
		}()
		select {
		case <-changes:
		case <-l.leading:
		case <-over:
		}
		cancel()
		<-over
	}
	return nil
}

// resign ends what a leader has begun, on a node that does not lead.
func (l *leases) resign() {
	l.whole.Store(false)
	l.mu.Lock()
	if l.leader != nil {
		l.leader.Lost()
	}
	clear(l.voices)
	for _, link := range l.links {
		link.end()
	}
	l.mu.Unlock()
	l.fences.fail(errIndeterminate(nil))
	l.waited.drop()
}

// lead does what is due on the leader and returns after how long to look again,
// if nothing wakes it before.
func (l *leases) lead(ctx context.Context) time.Duration {
	c := l.c
	busy := max(c.proposals.oldest(), c.store.writes.oldest(), c.adapter.calls.oldest())
	at, mustNot := c.machine.View().Index(), c.mustNotGrant()
	l.whole.Store(!c.endAsked() || c.entitled() == nil)
	now := lease.Reading(l.clk.Read())
	wanted := l.wanted()
	l.mu.Lock()
	if l.leader == nil {
		l.mu.Unlock()
		return c.timers.renew
	}
	term, epoch, established := l.leader.Established()
	if mustNot || established && at < epoch {
		// What this leader has applied is no state to give leases for; or that was asked
		// while it was still applying what its log has.
		busy = never
	}
	l.leader.Busy(busy)
	// Read here, after the requests came, and not before (lease I2).
	voters, own := c.voters(), c.raft.CurrentTerm()
	grants, question, asks := l.leader.Begin(now, voters, own, nil)
	if asks {
		l.asked = asked{question.Round, now.Wall}
	}
	contradicted := established && l.leader.Contradicted(voters)
	next := c.timers.renew
	if at := l.settle(now, c.machine.View()); at > 0 {
		next = min(next, at)
	}
	complete := l.leader.Complete()
	if wait, ok := l.leader.NextRound(now); ok {
		next = min(next, max(wait, time.Millisecond))
	}
	l.deliver(now, grants)
	down := &clusterpb.LeaseResponse{}
	if complete > l.heralded {
		// Compared with what members were told, and not with what this call found: a
		// command may be complete at once when this leader applies it.
		down.Complete, l.heralded = complete, complete
	}
	if pending := min(wanted, c.machine.View().Index()); established && pending > max(complete, l.told) {
		down.FencePending, l.told = pending, pending
	}
	for id, link := range l.links {
		m := down
		if asks && contains(voters, id) {
			m = &clusterpb.LeaseResponse{
				Complete: down.GetComplete(), FencePending: down.GetFencePending(),
				Confirm: &clusterpb.Confirm{Round: question.Round, Term: question.Term, History: question.History[:]},
			}
		}
		if m.GetConfirm() != nil || m.GetComplete() != 0 || m.GetFencePending() != 0 {
			link.put(m)
		}
	}
	others := len(l.links) > 0
	l.mu.Unlock()
	if established && term != l.logged {
		l.logged = term
		c.log.LogAttrs(ctx, slog.LevelInfo, "this leader gives leases", slog.Uint64("term", term), slog.Uint64("index", epoch))
	}
	if contradicted {
		c.fail(errs.New(errs.StateCorrupt, "the state of this node differs from that of most voters",
			errs.Hint("find out who can write to its data directory; %s", startAnew)))
	}
	if down.GetFencePending() != 0 && others {
		wake(l.poke)
	}
	if !established || term != own {
		l.beginEpoch(ctx)
	}
	return next
}

func contains(all []lease.NodeID, id NodeID) bool {
	for _, one := range all {
		if string(one) == string(id) {
			return true
		}
	}
	return false
}

// deliver brings grants to those for whom they are. The caller holds mu.
func (l *leases) deliver(now lease.Reading, grants []lease.Granted) {
	for _, g := range grants {
		if string(g.To) == string(l.c.id) {
			l.take(now, g.Grant, l.whole.Load())
			continue
		}
		link := l.links[NodeID(g.To)]
		if link == nil {
			continue // its stream ended; it asks again on the next
		}
		link.put(&clusterpb.LeaseResponse{Complete: g.Grant.Complete, Grant: &clusterpb.Grant{
			Nonce: uint64(g.Grant.Nonce), Term: g.Grant.Term, Index: g.Grant.Index, Chain: g.Grant.Chain[:],
			DurationMs: g.Grant.Lease.Milliseconds(), History: g.Grant.History[:],
			Boot: g.Grant.Inc.Boot, Restores: g.Grant.Inc.Restores, Whole: l.whole.Load(),
		}})
	}
}

// beginEpoch proposes the command that begins an epoch of this leader, once at a
// time. It comes after everything that the log held when this node was elected.
func (l *leases) beginEpoch(ctx context.Context) {
	c := l.c
	if c.machine.View().Cluster().GetFormatVersion() < fsm.FormatLeases || !l.epochs.CompareAndSwap(false, true) {
		return
	}
	c.spawn(func() {
		defer l.epochs.Store(false)
		var nonce lease.EpochNonce
		if _, err := io.ReadFull(c.cfg.Rand, nonce[:]); err != nil {
			c.log.LogAttrs(ctx, slog.LevelError, "no epoch of leases can be begun", slog.Any("error", err))
			return
		}
		l.mu.Lock()
		l.leader.Expect(nonce)
		l.mu.Unlock()
		bound, cancel := context.WithTimeout(ctx, changeTime)
		defer cancel()
		_, err := c.internal(bound, &fsmpb.Command{Body: &fsmpb.Command_LeaseEpoch{LeaseEpoch: &fsmpb.LeaseEpoch{
			Leader: string(c.id), Nonce: nonce[:],
		}}}, "")
		if err != nil && ctx.Err() == nil && c.IsLeader() {
			c.log.LogAttrs(ctx, slog.LevelInfo, "an epoch of leases is not committed yet, will be tried again", slog.Any("error", err))
		}
		if err != nil {
			_ = pause(ctx, c.clk, retryPause)
		}
		wake(l.leading)
	})
}

// wanted returns the last change that members should follow now, rather than when
// they would anyway.
func (l *leases) wanted() uint64 { return max(l.fences.last(), l.newest.Load()) }

// hurry makes members follow a change.
func (l *leases) hurry(index uint64) {
	for {
		last := l.newest.Load()
		if last >= index {
			return
		}
		if l.newest.CompareAndSwap(last, index) {
			wake(l.leading)
			return
		}
	}
}

// push tells followers what is committed while somebody waits for them to apply
// it. Raft tells them with the entries that follow only; a barrier is one. One is
// on its way at a time, for all changes that wait.
func (l *leases) push(ctx context.Context) error {
	for {
		select {
		case <-l.poke:
		case <-ctx.Done():
			return nil
		}
		if index := l.wanted(); index <= l.pushed {
			continue
		} else if l.c.IsLeader() {
			l.pushed = index
			_ = l.c.await(ctx, l.c.barrier)
		}
	}
}

// barrier is an empty entry; the watchdog sees how long it takes.
func (c *Cluster) barrier() error {
	defer c.proposals.begin()()
	return c.raft.Barrier(enqueueTime).Error()
}

// fence returns once the change index, which this leader committed, is complete,
// or with Indeterminate when this node may not lead any more.
func (l *leases) fence(ctx context.Context, index uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(l.c.base, cancel) //nolint:contextcheck // Close ends every wait.
	defer stop()
	if !l.c.IsLeader() {
		return errIndeterminate(nil)
	}
	err := l.fences.wait(ctx, index)
	if err != nil && l.c.base.Err() != nil {
		return errIndeterminate(err)
	}
	return err
}

// Lease implements [clusterpb.PeerServer].
func (s *peerService) Lease(stream clusterpb.Peer_LeaseServer) error {
	c := s.c
	if !c.IsLeader() {
		return errNoLeader(nil)
	}
	return c.leases.serve(stream, from(stream.Context()))
}

// serve is the leader's end of the stream of one member. A new stream of a member
// ends its old one.
func (l *leases) serve(stream clusterpb.Peer_LeaseServer, id NodeID) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	link := newDownlink(cancel)
	l.mu.Lock()
	if old := l.links[id]; old != nil {
		old.end()
	}
	l.links[id] = link
	if l.leader != nil {
		link.put(&clusterpb.LeaseResponse{Complete: l.leader.Complete(), FencePending: l.told})
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.links[id] == link {
			delete(l.links, id)
		}
	}()
	failed := make(chan error, 1)
	// A stream is received from until this function has returned, so that it cannot
	// wait for that; Close does.
	if !l.c.spawn(func() {
		defer cancel()
		for {
			up, err := stream.Recv()
			if err == nil {
				err = l.hear(id, link, up)
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}) {
		return errNoLeader(errClosing)
	}
	err := link.carry(ctx, l.clk.Sleep, l.pace, stream.Send)
	select {
	case first := <-failed:
		if first == io.EOF { //nolint:errorlint // What Recv returns is io.EOF itself.
			return nil
		}
		return first
	default:
	}
	if stream.Context().Err() == nil && ctx.Err() != nil {
		return errNoLeader(err) // ended here: another stream of the member, or the end of leadership
	}
	return err
}

// pace is the least time between two messages to one member that are not urgent.
func (l *leases) pace() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return lease.Pace(len(l.links))
}

// hear takes a member's message on the leader.
func (l *leases) hear(id NodeID, link *downlink, up *clusterpb.LeaseRequest) error {
	c := l.c
	now := lease.Reading(l.clk.Read())
	if r := up.GetRenew(); r != nil {
		renew, err := renewOf(r)
		if err != nil {
			return err
		}
		l.renew(now, id, link, renew, c.store.mark())
	}
	if a := up.GetConfirmed(); a != nil {
		confirmed, err := confirmedOf(a)
		if err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.leader == nil {
			return nil
		}
		if l.asked.round == confirmed.Round {
			// The voter read its clock after this leader had begun the round, so the
			// difference is the least that it can be.
			l.voices[id] = l.asked.wall - time.Duration(a.GetWallMs())*time.Millisecond
		}
		l.deliver(now, l.leader.Confirmed(now, lease.NodeID(id), confirmed, nil))
	}
	return nil
}

// renew takes a member's request or report; link is nil for this node itself.
func (l *leases) renew(now lease.Reading, id NodeID, link *downlink, r lease.Renew, own lease.Mark) {
	state := l.c.agreement(r.Applied, r.Chain)
	l.mu.Lock()
	defer l.mu.Unlock()
	refusal := lease.RefusedNotLeader
	if l.leader != nil {
		refusal = l.leader.Renew(now, lease.NodeID(id), r, lease.Checks{State: state, Log: own})
	}
	wake(l.leading)
	if refusal != lease.RefusalNone {
		l.counts.byLeader[refusal]++
	}
	switch {
	case link == nil:
		l.refusal = refusalText(refusal)
	case refusal != lease.RefusalNone:
		link.put(&clusterpb.LeaseResponse{Refused: &clusterpb.LeaseRefused{Nonce: uint64(r.Nonce), Reason: uint32(refusal)}})
	}
}

func refusalText(r lease.Refusal) string {
	if r == lease.RefusalNone {
		return ""
	}
	return r.String()
}

func renewOf(r *clusterpb.Renew) (lease.Renew, error) {
	h, err := fixed16(r.GetHistory())
	if err != nil {
		return lease.Renew{}, err
	}
	chain, err := chainOf(r.GetChain())
	return lease.Renew{
		History: h, Inc: lease.Incarnation{Boot: r.GetBoot(), Restores: r.GetRestores()}, Nonce: lease.Nonce(r.GetNonce()),
		Applied: r.GetAppliedIndex(), Chain: chain, Log: lease.Mark{Term: r.GetLogTerm(), Index: r.GetLogIndex()},
		Boot: time.Duration(r.GetBoottimeNs()), Differs: r.GetDiffers(),
	}, err
}

func confirmedOf(a *clusterpb.Confirmed) (lease.Confirmed, error) {
	h, err := fixed16(a.GetHistory())
	return lease.Confirmed{History: h, Round: a.GetRound(), Term: a.GetTerm()}, err
}

func fixed16(b []byte) (out lease.History, err error) {
	if len(b) != len(out) {
		return out, errs.New(errs.InvalidArgument, "a history has 16 bytes")
	}
	return lease.History(b), nil
}

// chainOf decodes a state chain; none is that of no command.
func chainOf(b []byte) (out lease.Chain, err error) {
	switch len(b) {
	case 0:
		return out, nil
	case len(out):
		return lease.Chain(b), nil
	}
	return out, errs.New(errs.InvalidArgument, "a state chain has 32 bytes")
}
