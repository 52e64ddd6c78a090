package cluster

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// Until says when a change is answered.
type Until int

const (
	// Complete means once no node acts on the state before it any more.
	Complete Until = iota
	// Committed means once it cannot be lost any more. Until it is complete, other nodes
	// may act on the state before it, for as long as their leases last.
	Committed
)

const (
	// answerMargin is how long before a caller's deadline a change that is not
	// complete is answered, so that the answer arrives.
	answerMargin = 250 * time.Millisecond
	// completionTime bounds the question to the leader how far a change has come.
	completionTime = time.Second
)

// Completion is how far a change has come.
type Completion struct {
	// Complete: no node acts on the state before it.
	Complete bool
	// Pending are the nodes that keep it from being complete. None while nobody
	// knows: there is no leader, or it has just begun.
	Pending []Pending
	// Latest is when it is complete at the latest, whatever the pending nodes do, by
	// the clock of the node that answers. Zero: not known.
	Latest time.Time
}

// Pending is a node that may still act on the state before a change.
type Pending struct {
	Node NodeID
	Name string // what people call it; empty if the registry has forgotten it
}

// Completion returns how far the change with that log index has come. Only the
// leader knows who is pending, so another node asks it, for at most a second; when
// it cannot be asked, the answer says what this node knows.
func (c *Cluster) Completion(ctx context.Context, index uint64) Completion {
	v := c.machine.View()
	if v.Cluster().GetFormatVersion() < fsm.FormatLeases || c.Standing().Complete >= index {
		return Completion{Complete: true}
	}
	var waits []*clusterpb.Waiting
	if c.IsLeader() {
		var complete bool
		if complete, waits = c.leases.completion(index); complete {
			return Completion{Complete: true}
		}
	} else {
		ctx, cancel := context.WithTimeout(ctx, completionTime)
		defer cancel()
		resp, err := c.askCompletion(ctx, &clusterpb.CompletionRequest{Index: index})
		if err != nil {
			return Completion{}
		}
		if resp.GetComplete() {
			return Completion{Complete: true}
		}
		waits = resp.GetPending()
	}
	var out Completion
	now := c.clk.Now()
	for _, w := range waits {
		m, _ := v.Member(w.GetNodeId())
		out.Pending = append(out.Pending, Pending{Node: NodeID(w.GetNodeId()), Name: m.GetName()})
		if at := now.Add(time.Duration(w.GetRemainingMs()) * time.Millisecond); at.After(out.Latest) {
			out.Latest = at
		}
	}
	return out
}

// completion is [Cluster.Completion] on the leader.
func (l *leases) completion(index uint64) (complete bool, waits []*clusterpb.Waiting) {
	now := lease.Reading(l.clk.Read())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leader == nil {
		return false, nil
	}
	if l.leader.Complete() >= index {
		return true, nil
	}
	return false, perNode(l.leader.Pending(now, index))
}

// perNode returns how long each node may keep a change waiting, from a list in the
// order of nodes: one may do so with several incarnations, and the longest counts.
func perNode(all []lease.Waiting) (out []*clusterpb.Waiting) {
	for _, w := range all {
		ms := atMostMS(w.Remaining)
		if n := len(out); n > 0 && out[n-1].GetNodeId() == string(w.Node) {
			out[n-1].RemainingMs = max(out[n-1].GetRemainingMs(), ms)
			continue
		}
		out = append(out, &clusterpb.Waiting{NodeId: string(w.Node), RemainingMs: ms})
	}
	return out
}

// Completion implements [clusterpb.PeerServer].
func (s *peerService) Completion(ctx context.Context, req *clusterpb.CompletionRequest) (*clusterpb.CompletionResponse, error) {
	if !s.c.IsLeader() {
		return nil, errNoLeader(nil)
	}
	if req.GetWait() {
		if err := s.c.leases.fence(ctx, req.GetIndex()); err != nil {
			return nil, err
		}
		return &clusterpb.CompletionResponse{Complete: true}, nil
	}
	complete, waits := s.c.leases.completion(req.GetIndex())
	return &clusterpb.CompletionResponse{Complete: complete, Pending: waits}, nil
}

// askCompletion asks the leader, which is another node.
func (c *Cluster) askCompletion(ctx context.Context, req *clusterpb.CompletionRequest) (*clusterpb.CompletionResponse, error) {
	leader := c.LeaderID()
	if leader == "" || leader == c.id {
		return nil, errNoLeader(nil)
	}
	p, err := c.peers.ready(ctx, leader)
	if err != nil {
		return nil, errNoLeader(err)
	}
	resp, err := p.Completion(ctx, req)
	if err != nil {
		return nil, wire.FromStatus(err)
	}
	return resp, nil
}

// WaitComplete returns once the change with that log index is complete, with the
// error of ctx, or with Indeterminate when this node must stop. Whoever leads is asked, and the next one when that ends: what is in
// the log of one is in the log of the other.
func (c *Cluster) WaitComplete(ctx context.Context, index uint64) error {
	changes, stop := c.leaders.subscribe()
	defer stop()
	for {
		if c.machine.View().Cluster().GetFormatVersion() < fsm.FormatLeases {
			return nil // an older release is among the members: nobody has a lease
		}
		// The leader tells members only of what somebody there waits for, so this
		// node's own ears are no replacement for asking.
		var err error
		if c.IsLeader() {
			err = c.leases.fence(ctx, index)
		} else if c.Standing().Complete < index {
			// A leader that is stopped answers nothing and breaks off nothing, and the
			// next one knows.
			err = c.whileLeader(ctx, c.LeaderID(), func(ctx context.Context) error {
				_, err := c.askCompletion(ctx, &clusterpb.CompletionRequest{Index: index, Wait: true})
				return err
			})
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errs.From(ctx.Err())
		case c.base.Err() != nil, c.Cause() != nil:
			return errIndeterminate(cmp.Or(c.Cause(), errClosing))
		}
		soon, cancel := context.WithTimeout(ctx, retryPause)
		select {
		case <-changes:
		case <-soon.Done():
		}
		cancel()
	}
}

// whileLeader runs f until it returns, with a context that ends when this node hears
// that somebody else leads.
func (c *Cluster) whileLeader(ctx context.Context, leader NodeID, f func(context.Context) error) error {
	changes, stop := c.leaders.subscribe()
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case now := <-changes:
			if now.LeaderID != "" && now.LeaderID != leader {
				cancel()
			}
		}
	}
}

// CatchUp returns once this node's view has every change that the leader had applied
// when it was asked. Errors: NoLeader, and that of ctx; it takes at most a second.
func (c *Cluster) CatchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	leader := c.LeaderID()
	switch leader {
	case "":
		return errNoLeader(nil)
	case c.id:
		return c.catchUp(ctx)
	}
	h, err := c.Health(ctx, leader)
	if err == nil {
		err = c.machine.Wait(ctx, h.AppliedIndex)
	}
	if err != nil {
		return errNoLeader(err)
	}
	return nil
}

// Settle returns once the change index is complete, or, in time before the deadline of
// ctx, with NotComplete: request is the change of the caller that it was found by.
func (c *Cluster) Settle(ctx context.Context, index uint64, request string) error {
	return c.settled(ctx, Complete, nil, index, index, request)
}

// settled returns once a change that was committed may be answered. refused is its
// refusal by the state machine, which tells state and is waited for whatever until
// says; index is that of its entry, visible that of the entry that this node has to
// apply first, request its id.
func (c *Cluster) settled(ctx context.Context, until Until, refused error, visible, index uint64, request string) error {
	bound, cancel := c.margin(ctx)
	defer cancel()
	err := c.machine.Wait(bound, visible)
	switch {
	case err == nil && until == Committed && refused == nil:
		return nil
	case err == nil:
		err = c.WaitComplete(bound, index)
	}
	switch {
	case err == nil:
		return refused
	case refused != nil:
		return errRefusalNotComplete()
	case errs.Is(err, errs.Indeterminate):
		return err // this node must stop, and another one may know
	}
	return c.errNotComplete(ctx, request, index)
}

// margin returns ctx with an end that leaves time for an answer.
func (c *Cluster) margin(ctx context.Context) (context.Context, context.CancelFunc) {
	at, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	left := at.Sub(c.clk.Now())
	return context.WithDeadline(ctx, at.Add(-min(answerMargin, left/4)))
}

// errNotComplete says that a change is committed and not complete. To find out for
// whom may take half of the time that is left, or that was given to the answer.
func (c *Cluster) errNotComplete(ctx context.Context, request string, index uint64) error {
	limit := answerMargin / 2
	if at, ok := ctx.Deadline(); ok {
		limit = min(limit, at.Sub(c.clk.Now())/2)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	how := c.Completion(ctx, index)
	msg := "the change is committed, and other nodes may still act on the state before it"
	if len(how.Pending) > 0 {
		names := make([]string, len(how.Pending))
		for i, p := range how.Pending {
			names[i] = cmp.Or(p.Name, string(p.Node))
		}
		msg = "the change is committed, and node " + strings.Join(names, ", ") + " may still act on the state before it, until " +
			how.Latest.UTC().Format("15:04:05.000Z") + " at the latest"
	}
	hint := "it stays; there is nothing to do again"
	if request != "" {
		hint = "it stays; wait for it: krypton operation wait " + request
	}
	return errs.New(errs.NotComplete, msg, errs.Hint("%s", hint))
}

// errRefusalNotComplete is for a refusal: what it would tell is not complete.
func errRefusalNotComplete() error {
	return errs.New(errs.ChangeInProgress, "what the answer would tell is being changed, and not all nodes follow yet",
		errs.Hint("wait a moment and retry; it takes no longer than a serving lease"))
}
