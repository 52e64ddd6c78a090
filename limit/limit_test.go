package limit_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/limit"
)

func use(perSecond, burst, atOnce int) limit.Budgets {
	return limit.Budgets{limit.Use: {PerSecond: perSecond, Burst: burst, AtOnce: atOnce}}
}

// once makes a call that ends at once.
func once(s *limit.Slot[int], c limit.Class, cost int, now time.Time) limit.Refusal {
	pass, r := s.Enter(c, cost, now)
	pass.Leave()
	return r
}

// TestI1_NoSpanHasMoreThanItsBurstAndItsRate draws times and costs, and compares each
// span of what was admitted with what the budget gives.
func TestI1_NoSpanHasMoreThanItsBurstAndItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate, burst := rapid.IntRange(1, 1000).Draw(t, "rate"), rapid.IntRange(1, 50).Draw(t, "burst")
		clk := clock.NewFake(time.Unix(1e9, 0))
		slot := limit.NewTable[int](clk, 16, use(rate, burst, 0)).Slot(1)
		type spent struct {
			at   time.Time
			cost int
		}
		var all []spent
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			clk.Advance(time.Duration(rapid.IntRange(0, 50).Draw(t, "pause")) * time.Millisecond)
			cost := rapid.IntRange(1, burst).Draw(t, "cost")
			if r := once(slot, limit.Use, cost, clk.Now()); r.Reason == limit.Admitted {
				all = append(all, spent{clk.Now(), cost})
			} else {
				// I6: the wait is honest, and as short as it can be.
				if r.Reason != limit.TooOften || r.Wait <= 0 || r.Wait > time.Duration(burst+1)*time.Second/time.Duration(rate) {
					t.Fatalf("refused with %+v", r)
				}
				if again := once(slot, limit.Use, cost, clk.Now().Add(r.Wait-1)); again.Reason == limit.Admitted {
					t.Fatalf("admitted before the wait of %s was over", r.Wait)
				}
				clk.Advance(r.Wait)
				if again := once(slot, limit.Use, cost, clk.Now()); again.Reason != limit.Admitted {
					t.Fatalf("refused after the wait of %s: %+v", r.Wait, again)
				}
				all = append(all, spent{clk.Now(), cost})
			}
		}
		for i := range all {
			total := 0
			for _, s := range all[i:] {
				total += s.cost
				// Rounding: a call costs a whole number of nanoseconds.
				span := s.at.Sub(all[i].at)
				if most := float64(burst) + span.Seconds()*float64(rate)*1.001; float64(total) > most+1e-6 {
					t.Fatalf("%d admitted in %s, the budget is %.3f", total, span, most)
				}
			}
		}
	})
}

func TestI2_NoMoreThanThatManyAtATime(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	slot := limit.NewTable[int](clk, 16, use(0, 0, 3)).Slot(1)
	var passes []limit.Pass
	for range 3 {
		pass, r := slot.Enter(limit.Use, 1, clk.Now())
		if r.Reason != limit.Admitted {
			t.Fatalf("refused: %+v", r)
		}
		passes = append(passes, pass)
	}
	if _, r := slot.Enter(limit.Use, 1, clk.Now()); r.Reason != limit.TooMany {
		t.Fatalf("a fourth at a time: %+v", r)
	}
	passes[0].Leave()
	if r := once(slot, limit.Use, 1, clk.Now()); r.Reason != limit.Admitted {
		t.Fatalf("after one left: %+v", r)
	}
}

func TestI2_ManyGoroutinesAreNeverMoreAtATime(t *testing.T) {
	slot := limit.NewTable[int](clock.System{}, 16, use(0, 0, 4)).Slot(1)
	var running, most, refused atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 2000 {
				pass, r := slot.Enter(limit.Use, 1, time.Now())
				if r.Reason != limit.Admitted {
					refused.Add(1)
					continue
				}
				n := running.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				running.Add(-1)
				pass.Leave()
			}
		})
	}
	wg.Wait()
	if most.Load() > 4 || most.Load() < 1 {
		t.Errorf("%d at a time, %d refused", most.Load(), refused.Load())
	}
	if r := once(slot, limit.Use, 1, time.Now()); r.Reason != limit.Admitted {
		t.Errorf("somebody did not leave: %+v", r)
	}
}

// TestI1_ManyGoroutinesSpendOneBudget at one moment: exactly the burst is admitted.
func TestI1_ManyGoroutinesSpendOneBudget(t *testing.T) {
	now := time.Unix(1e9, 0)
	slot := limit.NewTable[int](clock.NewFake(now), 16, use(100, 500, 0)).Slot(1)
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if once(slot, limit.Use, 1, now).Reason == limit.Admitted {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 500 {
		t.Errorf("%d of a burst of 500", admitted.Load())
	}
}

func TestI3_ATableHasABound(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	table := limit.NewTable[int](clk, 64, use(1, 1, 0))
	for key := range 100_000 {
		once(table.Slot(key), limit.Use, 1, clk.Now())
		if key%1000 == 0 {
			clk.Advance(2 * time.Second)
		}
	}
	if n := table.Len(); n > 64 || n < 32 {
		t.Errorf("%d keys in a table of 64", n)
	}
}

// TestI4_NobodyGetsANewBudgetByBeingForgotten: whoever spent his budget calls again
// under other names until a table has no room for him any more.
func TestI4_NobodyGetsANewBudgetByBeingForgotten(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	table := limit.NewTable[int](clk, 16, use(1, 10, 0))
	spender := table.Slot(0)
	for range 10 {
		once(spender, limit.Use, 1, clk.Now())
	}
	for key := 1; key < 10_000; key++ {
		once(table.Slot(key), limit.Use, 1, clk.Now())
	}
	if r := once(table.Slot(0), limit.Use, 1, clk.Now()); r.Reason != limit.TooOften {
		t.Errorf("a new budget after 10,000 other keys: %+v", r)
	}
	if r := once(spender, limit.Use, 1, clk.Now()); r.Reason != limit.TooOften {
		t.Errorf("a new budget in the old slot: %+v", r)
	}
}

// TestI4_AnAccountThatIsUsedIsNotForgotten: neither one with a running call, nor one
// that was spent in another class.
func TestI4_AnAccountThatIsUsedIsNotForgotten(t *testing.T) {
	for _, c := range []limit.Class{limit.Use, limit.Protect} {
		clk := clock.NewFake(time.Unix(1e9, 0))
		var b limit.Budgets
		b[limit.Use], b[c].AtOnce = limit.Budget{PerSecond: 1000}, 1
		table := limit.NewTable[int](clk, 16, b)
		pass, r := table.Slot(0).Enter(c, 1, clk.Now())
		if r.Reason != limit.Admitted {
			t.Fatal(r)
		}
		for key := 1; key < 1000; key++ {
			clk.Advance(time.Hour) // all buckets are full
			once(table.Slot(key), limit.Use, 1, clk.Now())
		}
		if _, r := table.Slot(0).Enter(c, 1, clk.Now()); r.Reason != limit.TooMany {
			t.Errorf("%s: two at a time under two accounts: %+v", c, r)
		}
		pass.Leave()
	}
}

// TestI4_ASlotOutlivesItsAccount: who was forgotten is one account with whoever comes
// under the same key.
func TestI4_ASlotOutlivesItsAccount(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	table := limit.NewTable[int](clk, 1, use(1, 2, 0)) // one key in each part
	old := table.Slot(0)
	once(old, limit.Use, 1, clk.Now())
	for key := 1; key < 200; key++ {
		clk.Advance(time.Minute)
		once(table.Slot(key), limit.Use, 1, clk.Now())
	}
	clk.Advance(time.Minute)
	admitted := 0
	for range 3 {
		for _, s := range []*limit.Slot[int]{old, table.Slot(0)} {
			if once(s, limit.Use, 1, clk.Now()).Reason == limit.Admitted {
				admitted++
			}
		}
	}
	if admitted != 2 {
		t.Errorf("%d of a burst of 2 through two slots", admitted)
	}
}

// TestI4_WhoFindsNoRoomSharesABudget and the keys in the table lose nothing.
func TestI4_WhoFindsNoRoomSharesABudget(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	const burst = 5
	table := limit.NewTable[int](clk, 16, use(1, burst, 0))
	admitted := 0
	for key := range 1000 {
		for range burst {
			if once(table.Slot(key), limit.Use, 1, clk.Now()).Reason == limit.Admitted {
				admitted++
			}
		}
	}
	// 16 accounts of keys, and what all others share in each of the 16 parts.
	if most := (16 + 16) * burst; admitted > most {
		t.Errorf("%d admitted, %d at most", admitted, most)
	}
}

// TestI5_ClassesAndKeysAreApart empties one and uses the others.
func TestI5_ClassesAndKeysAreApart(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	var b limit.Budgets
	for c := range b {
		b[c] = limit.Budget{PerSecond: 1, Burst: 3, AtOnce: 3}
	}
	table := limit.NewTable[int](clk, 256, b)
	for spent := range limit.Classes {
		loud := table.Slot(int(spent))
		for range 3 {
			if _, r := loud.Enter(spent, 1, clk.Now()); r.Reason != limit.Admitted {
				t.Fatal(r)
			}
		}
		for c := range limit.Classes {
			r := once(loud, c, 1, clk.Now())
			if (r.Reason == limit.Admitted) == (c == spent) {
				t.Errorf("%s after %s was spent: %+v", c, spent, r)
			}
			if r := once(table.Slot(100+int(spent)), c, 1, clk.Now()); r.Reason != limit.Admitted {
				t.Errorf("another key: %+v", r)
			}
		}
	}
}

func TestI6_AClockThatGoesBackCostsABurstAtMost(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	slot := limit.NewTable[int](clk, 16, use(10, 10, 0)).Slot(1)
	for range 10 {
		once(slot, limit.Use, 1, clk.Now())
	}
	clk.Advance(-time.Hour)
	r := once(slot, limit.Use, 1, clk.Now())
	if r.Reason != limit.TooOften || r.Wait > time.Second {
		t.Fatalf("after the clock went back: %+v", r)
	}
	clk.Advance(r.Wait)
	if r := once(slot, limit.Use, 1, clk.Now()); r.Reason != limit.Admitted {
		t.Errorf("after the wait: %+v", r)
	}
}

// TestACallThatCostsMoreThanABurstIsPossible after a pause, and takes all of it.
func TestACallThatCostsMoreThanABurstIsPossible(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	slot := limit.NewTable[int](clk, 16, use(10, 10, 0)).Slot(1)
	if r := once(slot, limit.Use, 1000, clk.Now()); r.Reason != limit.Admitted {
		t.Fatal(r)
	}
	if r := once(slot, limit.Use, 1, clk.Now()); r.Reason != limit.TooOften {
		t.Fatal(r)
	}
}

func TestWhatIsZeroBoundsNothing(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	slot := limit.NewTable[int](clk, 16, limit.Budgets{}).Slot(1)
	for range 10_000 {
		if _, r := slot.Enter(limit.Change, 1<<20, clk.Now()); r.Reason != limit.Admitted {
			t.Fatal(r)
		}
	}
}

func TestWhoWasRefusedIsKnown(t *testing.T) {
	clk := clock.NewFake(time.Unix(1e9, 0))
	table := limit.NewTable[string](clk, 1024, use(1, 1, 0))
	for i := range 30 {
		s := table.Slot(fmt.Sprintf("loud-%02d", i))
		for range i + 1 {
			pass, _ := s.Enter(limit.Use, 1, clk.Now())
			pass.Leave()
		}
	}
	pass, _ := table.Slot("quiet").Enter(limit.Use, 1, clk.Now())
	pass.Leave()
	got := table.Refused(clk.Now().Add(-time.Minute), 5)
	if len(got) != 5 || got[0].Key != "loud-29" || got[0].Calls != 29 || got[0].Class != limit.Use || !got[0].Last.Equal(clk.Now()) {
		t.Errorf("refused: %+v", got)
	}
	if all := table.Refused(clk.Now().Add(-time.Minute), 100); len(all) != 29 {
		t.Errorf("%d keys were refused something", len(all))
	}
	if late := table.Refused(clk.Now().Add(time.Second), 5); len(late) != 0 {
		t.Errorf("refused since a second from now: %+v", late)
	}
}

// TestAccountsComeAndGoWhileTheyAreUsed is for the race detector and I2: keys are
// forgotten while others enter them.
func TestAccountsComeAndGoWhileTheyAreUsed(t *testing.T) {
	table := limit.NewTable[int](clock.System{}, 16, use(limit.MaxRate, 1, 2))
	var running [40]atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var slots [40]*limit.Slot[int]
			for i := range slots {
				slots[i] = table.Slot(i)
			}
			for i := range 20_000 {
				key := (i*7 + g) % len(slots)
				pass, r := slots[key].Enter(limit.Use, 1, time.Now())
				if r.Reason != limit.Admitted {
					continue
				}
				if n := running[key].Add(1); n > 4 { // 2 of its own, 2 of those that share
					t.Errorf("%d at a time", n)
				}
				running[key].Add(-1)
				pass.Leave()
			}
		})
	}
	wg.Wait()
	if n := table.Len(); n > 16 {
		t.Errorf("%d keys in a table of 16", n)
	}
}
