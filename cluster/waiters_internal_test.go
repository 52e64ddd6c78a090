package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestWaitersWakeInTheOrderOfWhatTheyWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w waiters
		w.reach(3)
		if err := w.wait(t.Context(), 3); err != nil {
			t.Fatalf("for what is reached: %v", err)
		}
		var mu sync.Mutex
		woken := map[uint64]error{}
		ctx, cancel := context.WithCancel(t.Context())
		wait := func(ctx context.Context, index uint64) {
			go func() {
				err := w.wait(ctx, index)
				mu.Lock()
				defer mu.Unlock()
				woken[index] = err
			}()
		}
		for _, i := range []uint64{9, 5, 7, 4, 12} {
			wait(t.Context(), i)
		}
		wait(ctx, 6)
		synctest.Wait()
		if w.last() != 12 || len(woken) != 0 {
			t.Fatalf("last %d, woken %v", w.last(), woken)
		}
		cancel()
		synctest.Wait()
		if err, ok := woken[6]; !ok || !errs.Is(err, errs.Canceled) || len(woken) != 1 {
			t.Fatalf("the one that gave up: %v", woken)
		}
		w.reach(7)
		synctest.Wait()
		for _, i := range []uint64{4, 5, 7} {
			if err, ok := woken[i]; !ok || err != nil {
				t.Errorf("%d: %v, %v", i, ok, err)
			}
		}
		if len(woken) != 4 {
			t.Errorf("woken %v", woken)
		}
		w.reach(2) // no news
		lost := errors.New("lost")
		w.fail(lost)
		synctest.Wait()
		if !errors.Is(woken[9], lost) || !errors.Is(woken[12], lost) || w.last() != 0 {
			t.Errorf("woken %v", woken)
		}
		if err := w.wait(t.Context(), 7); err != nil {
			t.Errorf("what was reached stays so: %v", err)
		}
		w.forget()
		gone, stop := context.WithCancel(t.Context())
		stop()
		if err := w.wait(gone, 1); !errs.Is(err, errs.Canceled) {
			t.Errorf("after it was forgotten: %v", err)
		}
	})
}

func TestNobodyWaitsForWhatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w waiters
		w.reach(3)
		over, early := errors.New("over"), make(chan error, 1)
		go func() { early <- w.wait(t.Context(), 5) }()
		synctest.Wait()
		w.end(over)
		if err := <-early; !errors.Is(err, over) {
			t.Errorf("who waited: %v", err)
		}
		if err := w.wait(t.Context(), 4); !errors.Is(err, over) {
			t.Errorf("who comes later: %v", err)
		}
		if err := w.wait(t.Context(), 3); err != nil {
			t.Errorf("for what was reached before: %v", err)
		}
	})
}
