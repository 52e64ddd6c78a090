package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// stuckAfter is, by default, the age of a leader's oldest unfinished step after
// which it stops (I9). A hung disk would otherwise keep a leader that renews everybody's
// trust by heartbeats while no revocation can commit.
const stuckAfter = 3 * time.Second

// inflight knows when the calls that have not returned began.
type inflight struct {
	clk clock.Clock

	mu   sync.Mutex
	next uint64
	open map[uint64]time.Time
}

func newInflight(clk clock.Clock) *inflight {
	return &inflight{clk: clk, open: map[uint64]time.Time{}}
}

// begin notes a call; the function it returns notes its end and may run twice.
func (f *inflight) begin() (end func()) {
	now := f.clk.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.next
	f.next++
	f.open[id] = now
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.open, id)
	}
}

// oldest returns the age of the call that is open longest, at least one
// nanosecond, or 0 if none is open.
func (f *inflight) oldest() time.Duration {
	f.mu.Lock()
	var first time.Time
	for _, t := range f.open {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	f.mu.Unlock()
	if first.IsZero() {
		return 0
	}
	return max(f.clk.Since(first), time.Nanosecond)
}

// watched is one kind of step of a leader.
type watched struct {
	what  string
	calls *inflight
}

// watch ends with an error once a leader is stuck (I9). Handing leadership over
// instead is not enough: a transfer needs the very log that does not move, and
// one that never ends blocks every later change (hashicorp/raft issue 696).
func watch(ctx context.Context, clk clock.Clock, limit time.Duration, leading func() bool, steps ...watched) error {
	for pause(ctx, clk, limit/10) {
		if !leading() {
			continue
		}
		for _, s := range steps {
			if age := s.calls.oldest(); age > limit {
				return errs.New(errs.Unavailable, fmt.Sprintf("this leader is stuck: %s takes %s", s.what, age.Round(time.Millisecond)),
					errs.Hint("look at the disk and the load of this machine; the other nodes elect a leader"))
			}
		}
	}
	return nil
}

// pause waits for d and reports whether ctx goes on.
func pause(ctx context.Context, clk clock.Clock, d time.Duration) bool {
	return clk.Sleep(ctx, d) == nil
}

// suspectTransfer says that a command was refused because of a transfer of
// leadership, which should be over within an election timeout.
func (c *Cluster) suspectTransfer() {
	select {
	case c.suspect <- struct{}{}:
	default:
	}
}

// probe finds transfers of leadership that never end, after which a leader
// refuses every change while it keeps its followers calm (hashicorp/raft issue
// 696): once a command was refused for a transfer it asks until commands pass
// again or this node does not lead, and the watchdog sees how long that takes.
func probe(ctx context.Context, clk clock.Clock, suspect <-chan struct{}, calls *inflight, barrier func(context.Context) error) error {
	for {
		select {
		case <-suspect:
		case <-ctx.Done():
			return nil
		}
		end := calls.begin()
		for ctx.Err() == nil && errors.Is(barrier(ctx), raft.ErrLeadershipTransferInProgress) {
			_ = pause(ctx, clk, stuckAfter/10)
		}
		end()
	}
}
