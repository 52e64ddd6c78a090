// Package clock is the only place where Krypton reads the time.
//
// Code that needs the time takes a [Clock]. Production uses [System]; tests run
// the same code inside a testing/synctest bubble, where System's time is fake,
// or hand in a [Fake] that moves only when told.
//
// # Invariants
//
//   - I1: no other package outside cmd, jepsen and tests calls time.Now, time.Sleep, time.After or makes timers; the linter holds this.
//   - I2: a Fake never moves by itself.
//   - I3: of two readings of one machine the later one has no smaller Raw and no smaller Boot; Wall may go back.
//
// # Concurrency
//
// Every method is safe for concurrent use.
//
// # Failure
//
// Reading the time cannot fail. The wall clock of a machine may be wrong or step;
// nothing that is unsafe under a wrong wall clock may use [Clock.Now] for more than a record.
//
// # Source
//
// docs/contract.md; time and randomness come through interfaces.
package clock

import (
	"context"
	"sync"
	"time"
)

// Clock tells the time and waits.
type Clock interface {
	// Now returns the wall-clock time, with Go's monotonic reading where the
	// clock has one, so that differences of two results do not see wall-clock steps.
	Now() time.Time
	// Since returns the time that passed since t.
	Since(t time.Time) time.Duration
	// Sleep waits for d or until ctx ends, and returns ctx's error in that case.
	Sleep(ctx context.Context, d time.Duration) error
	// Read reads all clocks of the machine.
	Read() Reading
}

// Reading is what the clocks of one machine showed at one time. Only differences
// of two readings of one boot mean anything.
type Reading struct {
	Raw  time.Duration // runs at the rate of the hardware; NTP neither steps nor slews it; stands still in suspend
	Boot time.Duration // counts suspend too; NTP may slew it by up to a tenth
	Wall time.Duration // since 1970; may be stepped both ways
}

// System is the machine's clock. The zero value is ready to use.
type System struct{}

// Now implements [Clock].
func (System) Now() time.Time { return time.Now() }

// Since implements [Clock].
func (System) Since(t time.Time) time.Duration { return time.Since(t) }

// Sleep implements [Clock].
func (System) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Read implements [Clock]. On Linux it costs two system calls, about a
// microsecond together: Go reads neither CLOCK_MONOTONIC_RAW nor CLOCK_BOOTTIME
// without one.
func (System) Read() Reading { return read() }

// began is what the readings of [Simple] count from.
var began = time.Now()

// Simple is the machine's clock as Go shows it, and what [System] is where the
// system has no other: its readings do not count suspend. In a testing/synctest
// bubble it is fake altogether, which the clocks of System's readings are not.
type Simple struct{ System }

// Read implements [Clock].
func (Simple) Read() Reading {
	now := time.Now()
	since := now.Sub(began)
	return Reading{Raw: since, Boot: since, Wall: time.Duration(now.UnixNano())}
}

// Fake is a clock that moves only by [Fake.Advance] (I2). Make one with [NewFake].
type Fake struct {
	mu      sync.Mutex
	now     time.Time
	waiters []waiter
}

type waiter struct {
	at time.Time
	ch chan struct{}
}

// NewFake returns a clock that stands at now.
func NewFake(now time.Time) *Fake { return &Fake{now: now} }

// Now implements [Clock].
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Since implements [Clock].
func (f *Fake) Since(t time.Time) time.Duration { return f.Now().Sub(t) }

// Read implements [Clock].
func (f *Fake) Read() Reading {
	since := time.Duration(f.Now().UnixNano())
	return Reading{Raw: since, Boot: since, Wall: since}
}

// Sleep implements [Clock]: it returns once Advance has moved the clock by d.
func (f *Fake) Sleep(ctx context.Context, d time.Duration) error {
	f.mu.Lock()
	if d <= 0 {
		f.mu.Unlock()
		return ctx.Err()
	}
	w := waiter{at: f.now.Add(d), ch: make(chan struct{})}
	f.waiters = append(f.waiters, w)
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.ch:
		return nil
	}
}

// Advance moves the clock by d and wakes every sleeper whose time has come.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	rest := f.waiters[:0]
	for _, w := range f.waiters {
		if w.at.After(f.now) {
			rest = append(rest, w)
			continue
		}
		close(w.ch)
	}
	f.waiters = rest
}
