//go:build unix

package devcluster_test

import (
	"context"
	"sync"
	"testing"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

// deadline is the least with which no call fails: the time of a serving lease and
// two seconds.
var deadline = cluster.ProfileLAN.Lease() + 2*time.Second

// gaps measures the longest time in which no call of a client ended well.
type gaps struct {
	mu       sync.Mutex
	calls    int
	failures []error
	last     time.Time
	longest  time.Duration
	slowest  time.Duration
}

func (g *gaps) record(began time.Time, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.calls++
	g.slowest = max(g.slowest, now.Sub(began))
	if err != nil {
		g.failures = append(g.failures, err)
		return
	}
	if !g.last.IsZero() {
		g.longest = max(g.longest, now.Sub(g.last))
	}
	g.last = now
}

func (g *gaps) done() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls
}

// TestNoCallFailsWhateverHappensToOneNode: with a deadline of a lease and two seconds,
// while a node is killed, comes back, is paused, goes on, and leadership moves, and
// while a pin is changed at each of these moments, which the dead node cannot follow.
func TestNoCallFailsWhateverHappensToOneNode(t *testing.T) {
	c := start(t, devcluster.Options{Tenant: "demo", Service: "payments"})
	ctx := t.Context()
	cl, err := c.Client(ctx, auth.RoleWorkload)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	governor, err := c.Client(ctx, auth.RoleGovernor)
	if err != nil {
		t.Fatal(err)
	}
	defer governor.Close()
	scope := client.Scope{Service: "tenants/demo/services/payments", Resource: "row-1"}

	var g gaps
	quit, load := make(chan struct{}), sync.WaitGroup{}
	defer func() { load.Wait() }()
	finish := sync.OnceFunc(func() { close(quit) })
	defer finish()
	for i := range 4 {
		load.Go(func() {
			var wrapped []byte
			for n := i; ; n++ {
				select {
				case <-quit:
					return
				default:
				}
				began := time.Now()
				bound, cancel := context.WithTimeout(context.Background(), deadline)
				var err error
				if n%2 == 0 || wrapped == nil {
					var key client.DataKey
					if key, err = cl.GenerateDataKey(bound, scope, 0); err == nil {
						wrapped = key.Wrapped
					}
				} else {
					_, err = cl.UnwrapDataKey(bound, scope, wrapped)
				}
				cancel()
				g.record(began, err)
			}
		})
	}
	more := func(n int) {
		t.Helper()
		for until, limit := g.done()+n, time.After(30*time.Second); g.done() < until; {
			select {
			case <-limit:
				t.Fatal("no calls end any more")
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	// A change that everybody has to follow, and that refuses nobody. It may take as
	// long as a failover and a lease.
	pinned := false
	pin := func(what string) {
		t.Helper()
		began := time.Now()
		bound, cancel := context.WithTimeout(ctx, 2*deadline)
		defer cancel()
		name := scope.Service + "/resources/row-1"
		var err error
		if pinned = !pinned; pinned {
			_, err = governor.Services().PinResource(bound, &kryptonv1.PinResourceRequest{Name: name, Version: 1})
		} else {
			_, err = governor.Services().UnpinResource(bound, &kryptonv1.UnpinResourceRequest{Name: name})
		}
		if err != nil {
			t.Errorf("%s: a change fails: %v", what, err)
		}
		t.Logf("%-20s a change is complete after %s", what, time.Since(began).Round(time.Millisecond))
	}
	leads := func() int {
		t.Helper()
		i, err := c.LeaderIndex(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	more(200)
	pin("nothing happens")

	// The leader dies.
	victim := c.Nodes()[leads()]
	victim.Kill()
	pin("the leader is dead")
	more(200)
	if err := victim.Start(ctx); err != nil {
		t.Fatal(err)
	}
	more(200)
	if err := victim.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}

	// A node that does not lead is paused for longer than a call may take.
	i := leads()
	still := c.Nodes()[(i+1)%3]
	if err := still.Pause(); err != nil {
		t.Fatal(err)
	}
	pin("a node is paused")
	more(200)
	if err := still.Resume(); err != nil {
		t.Fatal(err)
	}
	more(200)

	// The leader is paused, loses its office, and goes on.
	still = c.Nodes()[leads()]
	if err := still.Pause(); err != nil {
		t.Fatal(err)
	}
	pin("the leader is paused")
	more(200)
	if err := still.Resume(); err != nil {
		t.Fatal(err)
	}
	more(200)
	finish()
	load.Wait()

	t.Logf("%d calls with a deadline of %s: %d failed; longest gap %s, slowest call %s", g.calls, deadline, len(g.failures),
		g.longest.Round(time.Millisecond), g.slowest.Round(time.Millisecond))
	if len(g.failures) > 0 {
		t.Errorf("the first failure: %v", g.failures[0])
	}
}
