package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestTheLatestInstantIsThatOfTheLongestLease: a node that restarted may hold the
// leases of two processes, in any order of their ends. What is told is a promise.
func TestTheLatestInstantIsThatOfTheLongestLease(t *testing.T) {
	got := perNode([]lease.Waiting{
		{Node: "a", Remaining: time.Second},
		{Node: "a", Remaining: 2 * time.Second},
		{Node: "a", Remaining: time.Millisecond},
		{Node: "b", Remaining: 3*time.Second + 1},
		{Node: "b", Remaining: time.Second},
		{Node: "c", Remaining: 1},
	})
	want := []*clusterpb.Waiting{{NodeId: "a", RemainingMs: 2000}, {NodeId: "b", RemainingMs: 3001}, {NodeId: "c", RemainingMs: 1}}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

// detached is a cluster of one node that hears nothing.
func detached(t *testing.T) *Cluster {
	t.Helper()
	c := &Cluster{clk: clock.System{}, timers: timers{heartbeat: 500 * time.Millisecond}, machine: fsm.New(fsm.Options{}), raft: &raft.Raft{}, base: t.Context()}
	c.leases, c.leaders = newLeases(c), newLeaders(c)
	return c
}

// TestACommittedChangeIsToldInTimeByANodeThatLags: the leader has committed it, and
// this node does not see it before the caller's time is over. "It is committed" has
// to arrive: without an answer the caller believes that nothing happened.
func TestACommittedChangeIsToldInTimeByANodeThatLags(t *testing.T) {
	for _, limit := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 10 * time.Second} {
		for _, until := range []Until{Complete, Committed} {
			synctest.Test(t, func(t *testing.T) {
				c := detached(t)
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				err := c.settled(ctx, until, nil, 7, 7, "some-request")
				if !errs.Is(err, errs.NotComplete) || ctx.Err() != nil {
					t.Errorf("with %v, until %d: %v, too late: %v", limit, until, err, ctx.Err())
				}
				if err := c.settled(ctx, until, errs.New(errs.FailedState, "refused"), 7, 7, "some-request"); !errs.Is(err, errs.ChangeInProgress) || ctx.Err() != nil {
					t.Errorf("a refusal with %v, until %d: %v, too late: %v", limit, until, err, ctx.Err())
				}
			})
		}
	}
}

// TestACallToALeaderThatIsNoneAnyMoreEnds: a process that is stopped keeps its
// connections open and answers nothing.
func TestACallToALeaderThatIsNoneAnyMoreEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := detached(t)
		over := make(chan error, 1)
		go func() {
			over <- c.whileLeader(t.Context(), "old", func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		tell := func(l Leadership) {
			synctest.Wait()
			c.leaders.mu.Lock()
			defer c.leaders.mu.Unlock()
			for ch := range c.leaders.subs {
				replace(ch, l)
			}
		}
		tell(Leadership{LeaderID: "old", Term: 3})
		tell(Leadership{Term: 4}) // nobody leads: it may be the old one again
		synctest.Wait()
		if len(over) != 0 {
			t.Fatalf("the call ended: %v", <-over)
		}
		tell(Leadership{LeaderID: "new", Term: 5})
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		c.leaders.mu.Lock()
		defer c.leaders.mu.Unlock()
		if len(c.leaders.subs) != 0 {
			t.Error("a subscription is left")
		}
	})
}
