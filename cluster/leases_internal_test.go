package cluster

import (
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
