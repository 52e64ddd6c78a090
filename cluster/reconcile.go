package cluster

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxLag is how many entries a non-voter may be behind and still become a
// voter: few enough to be made up within a heartbeat, so that a commit that
// needs it does not wait.
const maxLag = 64

// changeTime bounds one change of the Raft configuration.
const changeTime = 5 * time.Second

// look wakes the reconciler.
func (c *Cluster) look() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

// reconcile makes the Raft configuration follow the member entries while this
// node leads (I7).
func (c *Cluster) reconcile(ctx context.Context) error {
	changes, stop := c.leaders.subscribe()
	defer stop()
	for ctx.Err() == nil {
		more := false
		if c.IsLeader() && c.errRecovering() == nil {
			var err error
			if more, err = c.reconcileOnce(ctx); err != nil && ctx.Err() == nil {
				c.log.LogAttrs(ctx, slog.LevelWarn, "membership change not made, will be tried again", slog.Any("error", err))
			}
		}
		if more {
			continue
		}
		look, cancel := context.WithTimeout(ctx, c.timers.reconcile)
		select {
		case <-c.nudge:
		case <-changes:
		case <-look.Done():
		}
		cancel()
	}
	return nil
}

// removalGrace is how long open Raft streams of a removed member stay open.
const removalGrace = 300 * time.Millisecond

// step is one change of the Raft configuration or of the registry.
type step int

const (
	stepNone step = iota
	stepAdd       // make a member a non-voter
	stepPromote
	stepDemote
	stepRemove // take a removed member out of the Raft configuration
	stepPurge  // forget a removed member that is out of it
	stepYield  // hand leadership over, because this node is to be demoted or removed
)

// plan decides the next step from the member entries and the Raft configuration.
// known says which members that are no servers yet answer, ready which non-voters
// have caught up, over whether a removal is complete, so that the removed member
// has no lease any more and may be forgotten. It is a function of its arguments only, so that its rules are
// tested as a table.
//
// A member becomes a server when it knows this leader: it learns the keys of the
// cluster with the answer to its join, and refuses Raft until then.
//
// A cluster of two voters stops when either fails, and is worse than one voter
// in every way. So the second voter is made only when a third is ready to follow
// at once, or when the first is to go; and two voters whose third is gone become one.
func plan(self NodeID, members []*fsmpb.Member, servers []raft.Server, known, ready func(NodeID) bool, over func(*fsmpb.Member) bool) (step, NodeID) {
	suffrage := make(map[NodeID]raft.ServerSuffrage, len(servers))
	for _, s := range servers {
		suffrage[NodeID(s.ID)] = s.Suffrage
	}
	voters := voterCount(servers)
	alone := voters == 1 && suffrage[self] == raft.Voter
	goes := false                    // this node, which alone votes: another one must vote first
	var candidates, surplus []NodeID // ready and wanted; voters that shall not be
	var purge NodeID
	for _, m := range members {
		id := NodeID(m.GetId())
		has, in := suffrage[id]
		voter := in && has == raft.Voter
		switch {
		case m.GetRemoved() && in && id == self && alone:
			goes = true
		case m.GetRemoved() && in && id == self:
			return stepYield, id
		case m.GetRemoved() && in:
			return stepRemove, id
		case m.GetRemoved():
			if over(m) {
				purge = id
			}
		case !in && known(id):
			return stepAdd, id
		case !in:
		case m.GetVoter() && !voter && ready(id):
			candidates = append(candidates, id)
		case !m.GetVoter() && voter && alone:
			goes = true
		case !m.GetVoter() && voter:
			surplus = append(surplus, id)
		}
	}
	switch {
	case len(candidates) > 0 && (voters != 1 || goes), len(candidates) > 1:
		return stepPromote, candidates[0]
	case len(surplus) > 0 && (voters != 3 || len(surplus) > 1):
		if surplus[0] == self {
			return stepYield, self
		}
		return stepDemote, surplus[0]
	case voters == 2:
		for _, s := range servers {
			if s.Suffrage == raft.Voter && NodeID(s.ID) != self {
				return stepDemote, NodeID(s.ID)
			}
		}
	case purge != "":
		return stepPurge, purge
	}
	return stepNone, ""
}

// reconcileOnce makes one step; more means that another may follow at once.
func (c *Cluster) reconcileOnce(ctx context.Context) (more bool, err error) {
	// What an earlier leader committed about members decides, too.
	if err := c.catchUp(ctx); err != nil {
		return false, err
	}
	view := c.machine.View()
	if !view.Initialized() {
		return false, nil
	}
	conf := c.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return false, err
	}
	term := c.Term()
	ready := func(id NodeID) bool { return c.caughtUp(ctx, id, term) }
	known := func(id NodeID) bool { return c.answers(ctx, id) }
	next, id := plan(c.id, view.Members(), conf.Configuration().Servers, known, ready, c.removalComplete)
	ctx, cancel := context.WithTimeout(ctx, changeTime)
	defer cancel()
	done, err := c.holdMembership(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	if c.machine.View().MembersIndex() != view.MembersIndex() {
		return true, nil // a removal counted on the voters as they are
	}
	change := func(f func(raft.ServerID) raft.IndexFuture) error {
		c.log.LogAttrs(ctx, slog.LevelInfo, "membership change", slog.String("peer", string(id)), slog.String("step", next.String()))
		return c.await(ctx, func() error { return f(raft.ServerID(id)).Error() })
	}
	// The index makes a change that was decided on another configuration fail.
	at := conf.Index()
	switch next {
	case stepAdd:
		err = change(func(s raft.ServerID) raft.IndexFuture {
			return c.raft.AddNonvoter(s, raft.ServerAddress(s), at, enqueueTime)
		})
	case stepPromote:
		err = change(func(s raft.ServerID) raft.IndexFuture {
			return c.raft.AddVoter(s, raft.ServerAddress(s), at, enqueueTime)
		})
	case stepDemote:
		err = change(func(s raft.ServerID) raft.IndexFuture { return c.raft.DemoteVoter(s, at, enqueueTime) })
	case stepRemove:
		err = change(func(s raft.ServerID) raft.IndexFuture { return c.raft.RemoveServer(s, at, enqueueTime) })
	case stepPurge:
		_, err = c.internal(ctx, &fsmpb.Command{Body: &fsmpb.Command_PurgeMember{PurgeMember: &fsmpb.PurgeMember{Id: string(id)}}}, "")
	case stepYield:
		return false, c.TransferLeadership(ctx, "")
	case stepNone:
		return false, c.raiseFormat(ctx, view)
	}
	return err == nil, err
}

// raiseFormat raises the format version of the cluster once every member runs a
// release that supports the higher one. It is the last step of an upgrade and is
// not taken back, so a member of the old release, kept on purpose, keeps it from
// being made.
func (c *Cluster) raiseFormat(ctx context.Context, view *fsm.View) error {
	to, ok := view.Raisable()
	if !ok {
		return nil
	}
	if c.cfg.MAC != nil && to >= fsm.FormatProofs && !c.end.isKept() {
		return nil // from then on this leader would have to have it
	}
	c.log.LogAttrs(ctx, slog.LevelWarn, "every member supports a newer format version; from now on no older release can follow this cluster",
		slog.Uint64("format_version", uint64(to)))
	_, err := c.internal(ctx, &fsmpb.Command{Body: &fsmpb.Command_RaiseFormat{RaiseFormat: &fsmpb.RaiseFormat{Version: to}}}, "")
	return err
}

// String returns the step as log lines write it.
func (s step) String() string {
	switch s {
	case stepAdd:
		return "add non-voter"
	case stepPromote:
		return "promote"
	case stepDemote:
		return "demote"
	case stepRemove:
		return "remove"
	case stepPurge:
		return "purge"
	case stepYield:
		return "yield"
	case stepNone:
	}
	return "none"
}

// answers asks a member that is no server yet for anything, and has the
// reconciler look again soon if there is no answer.
func (c *Cluster) answers(ctx context.Context, id NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, c.timers.heartbeat)
	defer cancel()
	if _, err := c.Health(ctx, id); err == nil {
		return true
	}
	c.spawn(func() {
		if pause(c.base, c.clk, askAgain) {
			c.look()
		}
	})
	return false
}

// askAgain is the time after which a member that is to become a server and does
// not answer is asked again. A join takes a few round trips to end.
const askAgain = 200 * time.Millisecond

// caughtUp asks a non-voter how far it is. Raft knows, and does not tell. One whose
// state was not compared would vote, and not help to commit what makes it a voter; and
// one that has applied nothing may be about to get such a state.
func (c *Cluster) caughtUp(ctx context.Context, id NodeID, term uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, c.timers.heartbeat)
	defer cancel()
	last := c.raft.LastIndex()
	h, err := c.Health(ctx, id)
	return err == nil && h.Uncompared == "" && h.AppliedIndex > 0 && h.Term == term && h.LastIndex+maxLag >= last && h.AppliedIndex+maxLag >= c.machine.View().Index()
}

// tick proposes housekeeping when something is due.
func (c *Cluster) tick(ctx context.Context) error {
	last := c.clk.Now()
	for pause(ctx, c.clk, c.cfg.TickInterval) {
		now := c.clk.Now()
		if jump := now.Round(0).Sub(last.Round(0)) - now.Sub(last); jump > maxAhead {
			// A cluster of one voter has nobody else's clock to compare with.
			c.log.LogAttrs(ctx, slog.LevelWarn, "the clock of this machine jumped ahead, or the machine was suspended; commands carry its time",
				slog.Duration("by", jump))
		}
		last = now
		if !c.IsLeader() || c.errRecovering() != nil {
			continue
		}
		due, ok := c.machine.View().NextDue()
		if _, told := c.leases.ahead(); !ok || due > c.wall() || !told {
			continue // Nothing due, or not known yet whether this clock is right.
		}
		bound, cancel := context.WithTimeout(ctx, changeTime)
		_, err := c.internal(bound, &fsmpb.Command{Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}}, "")
		cancel()
		if err != nil && ctx.Err() == nil && !errs.Is(err, errs.NoLeader) {
			c.log.LogAttrs(ctx, slog.LevelWarn, "housekeeping not committed, will be tried again", slog.Any("error", err))
		}
	}
	return nil
}

// watchMembers follows the member entries in the view: it keeps the trust list
// on disk, ends the connections of removed members (I8), wakes the reconciler,
// and stops this node once it is removed itself.
func (c *Cluster) watchMembers(ctx context.Context) error {
	var seen uint64
	for first := true; ; first = false {
		view := c.machine.View()
		newest, gone := uint64(0), false
		for _, m := range view.Members() {
			newest = max(newest, m.GetModIndex())
			gone = gone || m.GetRemoved() && m.GetId() == string(c.id)
		}
		if m, ok := view.Member(string(c.id)); ok && m.GetPurged() {
			gone = true
		}
		if newest != seen || first {
			seen = newest
			if err := c.membersChanged(); err != nil {
				return err
			}
		}
		if !gone && c.port.strangers() {
			// The entry that removes a member is committed; that news reaches it with
			// the next message of the leader, and lets it stop by itself.
			if !pause(ctx, c.clk, removalGrace) {
				return nil
			}
			c.port.dropStrangers()
		}
		if gone {
			c.leave(ctx)
			return errs.New(errs.FailedState, "this node was removed from the cluster",
				errs.Hint("to use the machine again, start it with an empty data directory and join"))
		}
		select {
		case <-view.Superseded():
		case <-ctx.Done():
			return nil
		}
		// Many commands in a row are one look.
		if !pause(ctx, c.clk, 20*time.Millisecond) {
			return nil
		}
	}
}

func (c *Cluster) membersChanged() error {
	view := c.machine.View()
	if view.Initialized() {
		if err := c.trust.checkOwn(c.id, c.key.spki); err != nil {
			return err
		}
		if c.cfg.Dir.Membership() != MembershipMember {
			// A bootstrap that a crash cut short after its genesis was in the log.
			if err := c.adopt(); err != nil {
				return err
			}
		}
		if err := c.trust.learn(nil); err != nil {
			return err
		}
	}
	c.look()
	c.closeStrangers()
	return nil
}

// leave hands leadership over before this node stops for good. When that fails
// the others elect: they no longer listen to it.
func (c *Cluster) leave(ctx context.Context) {
	if !c.IsLeader() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*c.timers.heartbeat)
	defer cancel()
	if err := c.TransferLeadership(ctx, ""); err != nil {
		c.log.LogAttrs(ctx, slog.LevelInfo, "leadership not handed over by a removed node", slog.Any("error", err))
	}
}

// keepKnown keeps the cluster's knowledge of this node, and this node's
// knowledge of the cluster, current.
func (c *Cluster) keepKnown(ctx context.Context) error {
	for {
		if c.errRecovering() != nil {
			if !pause(ctx, c.clk, c.timers.heartbeat) {
				return nil
			}
			continue
		}
		if err := c.announce(ctx); err != nil && ctx.Err() == nil {
			c.log.LogAttrs(ctx, slog.LevelInfo, "this node's addresses could not be announced yet", slog.Any("error", err))
		}
		switch since := c.LastContact(); {
		case since < 4*c.timers.heartbeat:
			if err := c.settleTrust(); err != nil {
				return err
			}
		case !c.IsLeader():
			if err := c.learnMembers(ctx); err != nil {
				return err
			}
		}
		if !pause(ctx, c.clk, c.timers.heartbeat) {
			return nil
		}
	}
}

// settleTrust drops whom the view does not have, from the list and from the peer
// port; this node has just had a lease.
func (c *Cluster) settleTrust() error {
	dropped, err := c.trust.settle()
	if dropped {
		c.log.LogAttrs(c.base, slog.LevelWarn, "nodes that are no members were dropped from the trust list")
		c.port.dropStrangers()
		c.closeStrangers()
	}
	return err
}

// closeStrangers ends what this node opened to nodes that are no members.
func (c *Cluster) closeStrangers() {
	c.peers.retain(func(id NodeID) bool {
		_, _, ok := c.trust.lookup(id)
		return ok
	})
}

// learnMembers asks the members that this node knows for those it does not: the
// present leader may have joined while this node was away, and a leader that is
// not known is not listened to.
func (c *Cluster) learnMembers(ctx context.Context) error {
	for _, m := range c.trust.current() {
		if m.ID == c.id {
			continue
		}
		p, err := c.peers.ready(ctx, m.ID)
		if err != nil {
			continue
		}
		bound, cancel := context.WithTimeout(ctx, c.timers.heartbeat)
		resp, err := p.Members(bound, &clusterpb.MembersRequest{})
		cancel()
		if err != nil {
			continue
		}
		if news := c.trust.unknown(fromProto(resp.GetMembers())); len(news) > 0 {
			if err := c.trust.learn(news); err != nil {
				return errors.Join(errors.New("keep trust list"), err)
			}
		}
	}
	return nil
}

// serveRaft hands Raft its connections.
func (c *Cluster) serveRaft() {
	q := c.port.next[protoRaft]
	for {
		conn, err := q.Accept()
		if err != nil {
			return
		}
		c.transport.take(conn)
	}
}
