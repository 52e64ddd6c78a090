package cluster

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Leadership is what this node believes about the leader. Its parts are read one
// after the other, so it is a hint: what is true shows when a command commits.
type Leadership struct {
	LeaderID NodeID // empty: none known
	Term     uint64
	IsLeader bool
}

// NodeID returns the id of this node.
func (c *Cluster) NodeID() NodeID { return c.id }

// PublicKey returns this node's public key (SubjectPublicKeyInfo, DER).
func (c *Cluster) PublicKey() []byte { return append([]byte(nil), c.key.spki...) }

// KeyHash returns SHA-256 of [Cluster.PublicKey], for a [Seed].
func (c *Cluster) KeyHash() [32]byte { return c.key.hash }

// PeerAddress returns the address at which other nodes reach this one.
func (c *Cluster) PeerAddress() string { return c.advertise }

// Leadership returns what this node believes about the leader.
func (c *Cluster) Leadership() Leadership {
	_, id := c.raft.LeaderWithID()
	return Leadership{LeaderID: NodeID(id), Term: c.raft.CurrentTerm(), IsLeader: c.raft.State() == raft.Leader}
}

// LeaderID returns the id of the leader, or "" if none is known.
func (c *Cluster) LeaderID() NodeID { return c.Leadership().LeaderID }

// LeaderAddress returns the gRPC address in the leader's member entry, or "".
func (c *Cluster) LeaderAddress() string {
	m, ok := c.machine.View().Member(string(c.LeaderID()))
	if !ok {
		return ""
	}
	return m.GetGrpcAddress()
}

// Term returns the Raft term this node knows.
func (c *Cluster) Term() uint64 { return c.raft.CurrentTerm() }

// IsLeader reports whether this node believes that it leads.
func (c *Cluster) IsLeader() bool { return c.raft.State() == raft.Leader }

// Stats are numbers for metrics.
type Stats struct {
	Term          uint64
	IsLeader      bool
	LastIndex     uint64 // last entry of the log
	CommitIndex   uint64
	AppliedIndex  uint64 // last command in the view
	Voters        int    // in the latest Raft configuration
	Nonvoters     int
	LastContact   time.Duration
	OldestCommand time.Duration // age of the oldest command in flight here; 0: none
	OldestWrite   time.Duration // age of the oldest call that stores entries; 0: none
}

// Stats returns numbers for metrics.
func (c *Cluster) Stats() Stats {
	s := Stats{
		Term: c.raft.CurrentTerm(), IsLeader: c.IsLeader(), LastIndex: c.raft.LastIndex(), CommitIndex: c.raft.CommitIndex(),
		AppliedIndex: c.machine.View().Index(), LastContact: c.LastContact(),
		OldestCommand: c.proposals.oldest(), OldestWrite: c.store.writes.oldest(),
	}
	for _, srv := range c.raft.GetConfiguration().Configuration().Servers {
		if srv.Suffrage == raft.Voter {
			s.Voters++
		} else {
			s.Nonvoters++
		}
	}
	return s
}

// TransferLeadership hands leadership to the member to, or to the most current
// voter if to is empty. It returns once the transfer has happened or failed.
// Errors: NoLeader when this node does not lead, FailedState when to does not
// vote or the transfer failed.
func (c *Cluster) TransferLeadership(ctx context.Context, to NodeID) error {
	switch {
	case !c.IsLeader():
		return errs.New(errs.NoLeader, "this node does not lead", errs.Hint("ask the leader"))
	case to != "" && !c.IsVoter(to):
		// Raft would try until its election timeout and refuse changes meanwhile.
		return errs.New(errs.FailedState, "member "+string(to)+" does not vote, so it cannot lead",
			errs.Hint("name a voter, or no member; see krypton operator members"))
	}
	err := c.transfer(ctx, to)
	for _, id := range c.ableToLead(ctx, to, err) {
		if err = c.transfer(ctx, id); err == nil || !c.IsLeader() {
			break
		}
	}
	if err != nil {
		return errs.New(errs.FailedState, "leadership was not handed over: "+err.Error(),
			errs.Hint("it goes to a voter that has caught up: krypton operator members"), errs.Cause(err))
	}
	return nil
}

func (c *Cluster) transfer(ctx context.Context, to NodeID) error {
	return c.await(ctx, func() error {
		if to == "" {
			return c.raft.LeadershipTransfer().Error()
		}
		return c.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(to)).Error()
	})
}

// ableToLead returns other voters to try, where Raft chose one that refused because its
// state was not compared: it chooses by the log, and so the same one every time.
func (c *Cluster) ableToLead(ctx context.Context, to NodeID, failed error) (out []NodeID) {
	if to != "" || failed == nil || !strings.Contains(failed.Error(), errUncompared.Error()) {
		return nil
	}
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		id := NodeID(s.ID)
		if s.Suffrage != raft.Voter || id == c.id {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, c.timers.heartbeat)
		h, err := c.Health(ask, id)
		cancel()
		if err == nil && h.Uncompared == "" {
			out = append(out, id)
		}
	}
	return out
}

// SubscribeLeadership returns a channel with the latest belief about the leader,
// starting with the present one. A slow reader misses what is in between, never
// the last. The function ends the subscription.
func (c *Cluster) SubscribeLeadership() (<-chan Leadership, func()) { return c.leaders.subscribe() }

// leaders watches the leader. Raft's own channels either drop news or stall its
// main loop; so its observations only wake a goroutine that reads again, and a
// look at every heartbeat timeout makes up for a dropped one.
type leaders struct {
	c        *Cluster
	events   chan raft.Observation
	observer *raft.Observer

	mu   sync.Mutex
	last Leadership
	subs map[chan Leadership]struct{}
}

func newLeaders(c *Cluster) *leaders {
	return &leaders{c: c, events: make(chan raft.Observation, 64), subs: map[chan Leadership]struct{}{}}
}

func (l *leaders) observe(r *raft.Raft) {
	l.observer = raft.NewObserver(l.events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	r.RegisterObserver(l.observer)
}

func (l *leaders) stop(r *raft.Raft) {
	if l.observer != nil {
		r.DeregisterObserver(l.observer)
	}
}

func (l *leaders) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			select {
			case <-l.events:
				l.refresh()
			case <-ctx.Done():
				return nil
			}
		}
	})
	g.Go(func() error {
		for pause(ctx, l.c.clk, l.c.timers.heartbeat) {
			l.refresh()
		}
		return nil
	})
	return g.Wait()
}

func (l *leaders) refresh() {
	now := l.c.Leadership()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now == l.last {
		return
	}
	l.last = now
	for ch := range l.subs {
		replace(ch, now)
	}
}

// replace puts v into a channel of one place that only the holder of the lock
// sends to.
func replace[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

func (l *leaders) subscribe() (<-chan Leadership, func()) {
	ch := make(chan Leadership, 1)
	now := l.c.Leadership()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs[ch] = struct{}{}
	replace(ch, now)
	return ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.subs, ch)
	}
}

func voterCount(servers []raft.Server) int {
	n := 0
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// IsVoter reports whether a node votes in the latest Raft configuration that
// this node knows.
func (c *Cluster) IsVoter(id NodeID) bool {
	for _, srv := range c.raft.GetConfiguration().Configuration().Servers {
		if NodeID(srv.ID) == id {
			return srv.Suffrage == raft.Voter
		}
	}
	return false
}
