package load_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/load"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// takes makes calls of a fixed duration, in the bubble's time.
func takes(d time.Duration) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// about reports whether got is want within the histogram's three digits.
func about(got, want time.Duration) bool { return (got - want).Abs() <= want/500 }

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, err := load.Run(t.Context(), load.Options{Do: takes(10 * time.Millisecond), Workers: 4, Duration: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		// The call that ends with the time is not counted.
		if r.Calls != 4*99 || r.Failed != 0 || r.Elapsed != time.Second || !about(r.P50, 10*time.Millisecond) || !about(r.Max, 10*time.Millisecond) {
			t.Errorf("%+v", r)
		}
		if got := r.PerSecond(); got != 396 {
			t.Errorf("%v calls a second", got)
		}
	})
}

// TestI1_AStallIsInTheTimes: a service that stops for half of the time is seen
// by half of the calls that were due, not by one call for each worker.
func TestWithoutACallThereAreNoTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, err := load.Run(t.Context(), load.Options{Do: takes(time.Minute), Workers: 1, Duration: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if r.Calls != 0 || r.Max != 0 || r.P50 != 0 {
			t.Errorf("%+v", r)
		}
	})
}

func TestI1_AStallIsInTheTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		do := func(ctx context.Context, _ int) error {
			d := time.Millisecond
			if since := time.Since(begin); since > time.Second && since < 1500*time.Millisecond {
				d = 1500*time.Millisecond - since
			}
			return takes(d)(ctx, 0)
		}
		r, err := load.Run(t.Context(), load.Options{Do: do, Workers: 2, Duration: 2 * time.Second, Rate: 100})
		if err != nil {
			t.Fatal(err)
		}
		if r.P50 > 10*time.Millisecond || r.P90 < 200*time.Millisecond || r.P99 < 400*time.Millisecond {
			t.Errorf("the stall of 500 ms is hidden: %+v", r)
		}
		if r.Calls < 195 || r.Calls > 200 {
			t.Errorf("%d calls at 100 a second in 2 s", r.Calls)
		}
	})
}

func TestI2_FailuresAreCountedByCodeAndNotTimed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		do := func(ctx context.Context, _ int) error {
			_ = takes(time.Millisecond)(ctx, 0)
			if i := n.Add(1); i > 1 && i%4 == 0 {
				_ = takes(100*time.Millisecond)(ctx, 0)
				return errs.New(errs.Throttled, "slow down")
			}
			return ctx.Err()
		}
		r, err := load.Run(t.Context(), load.Options{Do: do, Workers: 1, Duration: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if r.Failed == 0 || r.ByCode["THROTTLED"] != r.Failed || !errs.Is(r.FirstErr, errs.Throttled) || r.Max > 2*time.Millisecond {
			t.Errorf("%+v", r)
		}
	})
}

func TestI3_WarmUpIsNotMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		do := func(ctx context.Context, _ int) error {
			if time.Since(begin) < time.Second {
				return takes(200*time.Millisecond)(ctx, 0)
			}
			return takes(time.Millisecond)(ctx, 0)
		}
		ticks := 0
		r, err := load.Run(t.Context(), load.Options{Do: do, Workers: 2, Warmup: 1500 * time.Millisecond, Duration: 3 * time.Second, Tick: func(load.Result) { ticks++ }})
		if err != nil {
			t.Fatal(err)
		}
		if r.Max > 2*time.Millisecond || r.Elapsed != 3*time.Second || ticks < 2 {
			t.Errorf("%d ticks, %+v", ticks, r)
		}
	})
}

func TestTheFirstFailureEndsIt(t *testing.T) {
	t.Parallel()
	want := errors.New("denied")
	if _, err := load.Run(t.Context(), load.Options{Do: func(context.Context, int) error { return want }, Workers: 8, Duration: time.Hour}); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestAnInterruptKeepsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r, err := load.Run(ctx, load.Options{Do: takes(time.Millisecond), Workers: 1, Duration: time.Hour})
		if err != nil || r.Calls < 900 || r.Failed != 0 {
			t.Errorf("%v %+v", err, r)
		}
	})
}
