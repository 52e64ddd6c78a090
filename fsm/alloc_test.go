//go:build !race && !invariants

package fsm_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
)

// TestAllocDataPathLookup holds the price of what every data operation does:
// tenant, service and version, without copying an object. Builds with checks
// compute digests of what they look up, so they are not measured.
func TestAllocDataPathLookup(t *testing.T) {
	w := big(t, 2000)
	uid := w.serviceOf("t01234", "payments").GetVersions()[0].GetUid()
	const budget = 8
	if got := testing.AllocsPerRun(1000, func() { dataPath(t, w.view(), uid) }); got > budget {
		t.Errorf("%v allocations, the budget is %d", got, budget)
	}
}

func TestAllocTakingASnapshotCostsAPointer(t *testing.T) {
	w := big(t, 2000)
	if got := testing.AllocsPerRun(1000, func() { w.m.Snapshot() }); got > 1 {
		t.Errorf("%v allocations, want at most 1", got)
	}
}

// TestApplyStaysInsideItsBudget measures the dearest entry there is, a tick that
// destroys as much as it may. The budget of an entry is 10 ms; the best of some
// runs may be three times that before this fails, for machines that are busy.
func TestApplyStaysInsideItsBudget(t *testing.T) {
	best := time.Hour
	for range 5 {
		w := newWorld(t)
		w.ok(w.createTenant("acme"))
		for i := range fsm.MaxTickObjects {
			w.ok(w.createService("acme", fmt.Sprintf("s%d", i)))
		}
		w.ok(destroyNow("acme", ""))
		start := time.Now()
		w.ok(tick())
		best = min(best, time.Since(start))
	}
	if best > 30*time.Millisecond {
		t.Errorf("a full tick took %v", best)
	}
}
