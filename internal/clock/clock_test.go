package clock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

var (
	_ clock.Clock = clock.System{}
	_ clock.Clock = clock.Simple{}
	_ clock.Clock = (*clock.Fake)(nil)
)

func TestSystemSleepsInTheBubblesTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c clock.System
		start := c.Now()
		if err := c.Sleep(t.Context(), 9*time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := c.Since(start); got != 9*time.Hour {
			t.Errorf("slept %v", got)
		}
	})
}

func TestSystemSleepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c clock.System
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := c.Now()
		if err := c.Sleep(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if got := c.Since(start); got != time.Second {
			t.Errorf("slept %v", got)
		}
	})
}

func TestI2_FakeMovesOnlyWhenTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Date(2026, 1, 13, 0, 0, 0, 0, time.UTC)
		f := clock.NewFake(start)
		time.Sleep(time.Hour) // fake time of the bubble: the Fake must not follow it
		if !f.Now().Equal(start) {
			t.Errorf("moved to %v", f.Now())
		}
		f.Advance(time.Minute)
		if got := f.Since(start); got != time.Minute {
			t.Errorf("advanced by %v", got)
		}
	})
}

func TestFakeWakesSleepersWhoseTimeHasCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := clock.NewFake(time.Unix(0, 0))
		woken := make(chan time.Duration, 3)
		for _, d := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
			go func() {
				if err := f.Sleep(t.Context(), d); err != nil {
					t.Error(err)
				}
				woken <- d
			}()
		}
		synctest.Wait()
		for _, step := range []struct {
			advance time.Duration
			want    int
		}{{999 * time.Millisecond, 0}, {time.Millisecond, 1}, {10 * time.Second, 3}} {
			f.Advance(step.advance)
			synctest.Wait()
			if len(woken) != step.want {
				t.Errorf("after %v more, %d are awake, want %d", step.advance, len(woken), step.want)
			}
		}
	})
}

func TestFakeSleepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := clock.NewFake(time.Unix(0, 0))
	ctx, cancel := context.WithCancel(t.Context())
	if err := f.Sleep(ctx, 0); err != nil {
		t.Errorf("no time to wait: %v", err)
	}
	cancel()
	if err := f.Sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := f.Sleep(ctx, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context is not seen: %v", err)
	}
	f.Advance(2 * time.Hour) // the sleeper that left must not be in the way
}

func TestI3_ReadingsOfOneMachineGrow(t *testing.T) {
	t.Parallel()
	for _, c := range []clock.Clock{clock.System{}, clock.Simple{}} {
		before := c.Read()
		for range 1000 {
			now := c.Read()
			if now.Raw < before.Raw || now.Boot < before.Boot {
				t.Fatalf("%T: %+v after %+v", c, now, before)
			}
			before = now
		}
		if off := time.Since(time.Unix(0, int64(before.Wall))); off.Abs() > time.Minute {
			t.Errorf("%T: the wall clock is off by %v", c, off)
		}
	}
}

func TestSimpleReadsTheBubblesTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c clock.Simple
		before := c.Read()
		time.Sleep(time.Hour)
		now := c.Read()
		if now.Raw-before.Raw != time.Hour || now.Boot-before.Boot != time.Hour || now.Wall-before.Wall != time.Hour {
			t.Errorf("%+v after %+v", now, before)
		}
	})
}

func BenchmarkSystemRead(b *testing.B) {
	var c clock.System
	for b.Loop() {
		_ = c.Read()
	}
}
