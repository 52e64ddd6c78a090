//go:build !race

package limit_test

import (
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/limit"
)

func TestAllocOfACallThatIsAdmitted(t *testing.T) {
	slot := limit.NewTable[string](clock.System{}, 64, limit.Budgets{limit.Use: {PerSecond: limit.MaxRate, AtOnce: 8}}).Slot("a")
	now := time.Now()
	if n := testing.AllocsPerRun(1000, func() {
		pass, _ := slot.Enter(limit.Use, 1, now)
		pass.Leave()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkEnterAndLeave(b *testing.B) {
	slot := limit.NewTable[string](clock.System{}, 64, limit.Budgets{limit.Use: {PerSecond: limit.MaxRate, AtOnce: 1 << 20}}).Slot("a")
	now := time.Now()
	for b.Loop() {
		pass, _ := slot.Enter(limit.Use, 1, now)
		pass.Leave()
	}
}

// BenchmarkEnterAndLeaveTogether is one key on all cores.
func BenchmarkEnterAndLeaveTogether(b *testing.B) {
	slot := limit.NewTable[string](clock.System{}, 64, limit.Budgets{limit.Use: {PerSecond: limit.MaxRate, AtOnce: 1 << 20}}).Slot("a")
	now := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			pass, _ := slot.Enter(limit.Use, 1, now)
			pass.Leave()
		}
	})
}
