// Package load makes calls as fast as they are answered, or at a steady rate, and measures them.
//
// # Invariants
//
//   - I1: with a rate, the time of a call is counted from the moment it was due, not from when a worker was free for it: a service that stalls cannot hide it by being asked less ("coordinated omission").
//   - I2: what fails is counted by its error and never in the times.
//   - I3: calls of the warm-up, and calls that had not ended when time was up, are in no number.
//
// # Concurrency
//
// Run is called once for each measurement; what it is given to do is called by
// many goroutines at once.
//
// # Failure
//
// Run fails when the first call fails: a measurement of refusals helps nobody.
// Later failures are part of the result.
//
// # Source
//
// Gil Tene, "How NOT to Measure Latency"; HdrHistogram.
package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Times are kept from a microsecond to a minute, with three digits.
const (
	shortest = int64(time.Microsecond)
	longest  = int64(time.Minute)
	digits   = 3
)

// Options says what to do and for how long.
type Options struct {
	// Do makes one call. It is given the number of its worker, from 0.
	Do func(ctx context.Context, worker int) error
	// Workers is how many calls run at once; at least 1.
	Workers int
	// Duration is how long calls are measured, after Warmup.
	Duration, Warmup time.Duration
	// Rate is how many calls a second are due, for all workers together; 0: the
	// next one when the last one was answered.
	Rate float64
	// Tick is called about once a second with what was measured so far; nil: never.
	Tick func(Result)
}

// Result is what was measured.
type Result struct {
	Elapsed  time.Duration
	Calls    int64 // that succeeded
	Failed   int64
	ByCode   map[string]int64 // failures by code of docs/errors.md
	FirstErr error            // one of the failures, to say what they were; nil without any
	P50      time.Duration
	P90      time.Duration
	P99      time.Duration
	P999     time.Duration
	Max      time.Duration
}

// PerSecond returns the successful calls a second.
func (r Result) PerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Calls) / r.Elapsed.Seconds()
}

// tally is what one worker measured.
type tally struct {
	mu     sync.Mutex // taken by the worker, and once a second by who shows progress
	hist   *hdrhistogram.Histogram
	failed map[string]int64
	err    error
}

func (t *tally) add(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failed[errs.Of(err).String()]++
		if t.err == nil {
			t.err = err
		}
		return
	}
	_ = t.hist.RecordValue(min(max(int64(took), shortest), longest)) // it is within the bounds
}

// Run measures. It returns early, with what it has, when ctx ends.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.Do(ctx, 0); err != nil {
		return Result{}, err
	}
	tallies := make([]*tally, o.Workers)
	for i := range tallies {
		tallies[i] = &tally{hist: hdrhistogram.New(shortest, longest, digits), failed: map[string]int64{}}
	}
	begin := time.Now()
	from, to := begin.Add(o.Warmup), begin.Add(o.Warmup+o.Duration)
	// Calls do not get the end of the measurement as their deadline: a client that
	// sees that a call could not end before it would refuse to make it.
	measured, cancel := context.WithDeadline(ctx, to)
	defer cancel()

	var due atomic.Int64 // number of the next call, with a rate
	var wg sync.WaitGroup
	for i, t := range tallies {
		wg.Go(func() {
			for measured.Err() == nil {
				at := time.Now()
				if o.Rate > 0 {
					at = begin.Add(time.Duration(float64(due.Add(1)-1) / o.Rate * float64(time.Second)))
					if !wait(measured, at) {
						return
					}
				}
				err := o.Do(ctx, i)
				end := time.Now()
				if !end.Before(to) || ctx.Err() != nil {
					return // I3
				}
				if at.Before(from) {
					continue
				}
				t.add(end.Sub(at), err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-every.C:
			if now := time.Now(); o.Tick != nil && now.After(from) {
				o.Tick(sum(tallies, now.Sub(from)))
			}
		case <-ended:
			return sum(tallies, max(min(time.Since(from), o.Duration), 0)), nil
		}
	}
}

// wait waits until at. It reports false when ctx ended before.
func wait(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func sum(tallies []*tally, elapsed time.Duration) Result {
	all := hdrhistogram.New(shortest, longest, digits)
	r := Result{Elapsed: elapsed, ByCode: map[string]int64{}}
	for _, t := range tallies {
		t.mu.Lock()
		all.Merge(t.hist)
		for code, n := range t.failed {
			r.ByCode[code] += n
			r.Failed += n
		}
		if r.FirstErr == nil {
			r.FirstErr = t.err
		}
		t.mu.Unlock()
	}
	r.Calls = all.TotalCount()
	if r.Calls == 0 {
		return r // an empty histogram has a maximum all the same
	}
	at := func(q float64) time.Duration { return time.Duration(all.ValueAtQuantile(q)) }
	r.P50, r.P90, r.P99, r.P999, r.Max = at(50), at(90), at(99), at(99.9), time.Duration(all.Max())
	return r
}
