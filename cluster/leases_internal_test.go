package cluster

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// The same leader comes back after a moment in which none was known, and nobody is
// told: what is known is what it was. A member that waited to be told would never
// have a lease again.
func TestAMemberThatKnewNoLeaderLooksAgainByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Cluster{clk: clock.System{}, timers: timers{heartbeat: 500 * time.Millisecond}, machine: fsm.New(fsm.Options{})}
		start := time.Now()
		newLeases(c).holdWith(t.Context(), "")
		if took := time.Since(start); took > c.timers.heartbeat {
			t.Errorf("it looks again after %s", took)
		}
	})
}

// The leader's work wakes, finds nobody and goes to sleep: then whoever began to
// wait a moment later waits for the next look by the clock.
func TestWhoeverIsWokenByAWaiterFindsIt(t *testing.T) {
	woken := make(chan struct{}, 1)
	w := waiters{joined: woken}
	done := make(chan error)
	for index := uint64(1); index <= 100; index++ {
		w.mu.Lock() // the waiter stops before it stands in the heap
		go func() { done <- w.wait(t.Context(), index) }()
		for range 100 {
			runtime.Gosched()
		}
		if len(woken) != 0 {
			t.Fatal("woken before anybody waits")
		}
		w.mu.Unlock()
		<-woken
		if found := w.last(); found != index {
			t.Fatalf("woken for %d, finds %d", index, found)
		}
		w.reach(index)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}
