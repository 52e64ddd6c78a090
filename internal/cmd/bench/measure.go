//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// defaultSlice is how long one side runs at a time. A round has eight slices per
// pair, A B B A B A A B, so that a machine that gets slower or faster meanwhile
// does so to both.
const defaultSlice = 75 * time.Millisecond

// turnsPerRound is how often each side runs in a round.
const turnsPerRound = 4

// pair is one goal: a subject, its baseline, and how they have to compare.
type pair struct {
	name     string
	baseline string        // what it is compared with, for the table
	goal     float64       // least ratio of the subject's speed to the baseline's
	why      string        // why this is the goal
	slice    time.Duration // 0 = defaultSlice
	open     func(ctx context.Context, e *env) (match, error)
}

// match is a pair that is ready to run.
type match struct {
	subject, baseline side
	close             func() error // nil: nothing to close
}

// side is one of the two that a pair compares.
type side struct {
	loop loop
	cost meter // nil: it runs in this process
}

// loop does as many operations as it can in about d, and says how many.
type loop func(ctx context.Context, d time.Duration) (tally, error)

// tally is operations, and the time they took.
type tally struct {
	ops  int64
	took time.Duration
}

func (t *tally) add(o tally) { t.ops, t.took = t.ops+o.ops, t.took+o.took }

// rate is operations per second.
func (t *tally) rate() float64 { return float64(t.ops) / t.took.Seconds() }

// cost is what a process has used so far.
type cost struct {
	allocs, bytes float64
	cpu           float64 // seconds
	caller        float64 // seconds of processor time of the caller, if that is another process
}

func (c cost) minus(o cost) cost {
	return cost{c.allocs - o.allocs, c.bytes - o.bytes, c.cpu - o.cpu, c.caller - o.caller}
}

func (c cost) plus(o cost) cost {
	return cost{c.allocs + o.allocs, c.bytes + o.bytes, c.cpu + o.cpu, c.caller + o.caller}
}

// meter reads the cost of a process.
type meter func(context.Context) (cost, error)

// own is what this process has used.
func own() (cost, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return cost{}, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return cost{
		allocs: float64(m.Mallocs), bytes: float64(m.TotalAlloc),
		cpu: time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds(),
	}, nil
}

// result is what was found out about a pair.
type result struct {
	pair
	ratios            []float64 // one per round
	subject, baseline tally
	used, usedBase    cost // per all operations
	remote            bool // the sides are processes of their own, so their processor time counts
}

func (r *result) ratio() float64 {
	sorted := slices.Sorted(slices.Values(r.ratios))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// met compares with the goal as the table prints it: two digits.
func (r *result) met() bool { return int(r.ratio()*100+0.5) >= int(r.goal*100+0.5) }

// measure runs every pair in every round.
func measure(ctx context.Context, e *env, all []pair, rounds int) (results []result, err error) {
	e.turns = rounds * turnsPerRound
	matches := make([]match, len(all))
	defer func() {
		for _, m := range matches {
			if m.close != nil {
				err = errors.Join(err, m.close())
			}
		}
	}()
	results = make([]result, len(all))
	for i, p := range all {
		if matches[i], err = p.open(ctx, e); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		results[i] = result{pair: p, remote: matches[i].subject.cost != nil}
		// What is made on first use is not part of any goal: keys, connections,
		// the growth of buffers.
		for _, s := range []side{matches[i].subject, matches[i].baseline} {
			if _, err := s.loop(ctx, p.sliceTime()/3); err != nil {
				return nil, fmt.Errorf("%s, warming up: %w", p.name, err)
			}
		}
	}
	for round := 0; round < rounds && len(all) > 0; round++ {
		for i := range results {
			if err := results[i].round(ctx, matches[i], round); err != nil {
				return nil, fmt.Errorf("%s: %w", results[i].name, err)
			}
		}
		fmt.Fprintf(e.out, "round %d of %d\n", round+1, rounds)
	}
	return results, nil
}

func (p pair) sliceTime() time.Duration {
	if p.slice == 0 {
		return defaultSlice
	}
	return p.slice
}

// round measures both sides four times, in an order that alternates (I3).
func (r *result) round(ctx context.Context, m match, round int) error {
	var subject, baseline tally
	first := func() error { return r.one(ctx, m.subject, &subject, &r.used) }
	second := func() error { return r.one(ctx, m.baseline, &baseline, &r.usedBase) }
	if round%2 == 1 {
		first, second = second, first
	}
	turns := func() error {
		for _, run := range []func() error{first, second, second, first, second, first, first, second} {
			if err := run(); err != nil {
				return err
			}
		}
		return nil
	}
	// Another process is asked once per round: it does nothing in the other's
	// turns, and the question itself costs it more than many operations.
	err := metered(ctx, m.subject.cost, &r.used, func() error { return metered(ctx, m.baseline.cost, &r.usedBase, turns) })
	if err != nil {
		return err
	}
	r.subject.add(subject)
	r.baseline.add(baseline)
	r.ratios = append(r.ratios, subject.rate()/baseline.rate())
	return nil
}

// metered adds to used what the process behind read uses while fn runs.
func metered(ctx context.Context, read meter, used *cost, fn func() error) error {
	if read == nil {
		return fn()
	}
	before, err := read(ctx)
	if err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	after, err := read(ctx)
	*used = used.plus(after.minus(before))
	return err
}

// one is one turn of a side.
func (r *result) one(ctx context.Context, s side, t *tally, used *cost) error {
	runtime.GC() // what the other side left behind is not this side's to sweep
	before, err := own()
	if err != nil {
		return err
	}
	slice, err := s.loop(ctx, r.sliceTime())
	if err != nil {
		return err
	}
	after, err := own()
	if err != nil {
		return err
	}
	if slice.ops == 0 {
		return errors.New("a slice ended without one operation")
	}
	t.add(slice)
	spent := after.minus(before)
	if s.cost != nil {
		spent = cost{caller: spent.cpu}
	}
	*used = used.plus(spent)
	return nil
}

// alone does one operation after the other. The time is looked at once per
// batch, because reading it costs as much as the smallest operations.
func alone(op func() error) loop {
	return func(ctx context.Context, d time.Duration) (tally, error) {
		var ops int64
		batch := int64(1)
		began := time.Now()
		for {
			at := time.Now()
			for range batch {
				if err := op(); err != nil {
					return tally{}, err
				}
			}
			ops += batch
			now := time.Now()
			if took := now.Sub(began); took >= d {
				return tally{ops, took}, nil
			}
			if now.Sub(at) < d/64 {
				batch *= 2
			}
			if ctx.Err() != nil {
				return tally{}, ctx.Err()
			}
		}
	}
}

// crowd lets n callers do one operation after the other. It ends when the last
// of them has its answer.
func crowd(n int, op func(ctx context.Context, caller int) error) loop {
	return crowdUpTo(n, math.MaxInt64, op)
}

// crowdUpTo is [crowd] for operations of which there may not be many: a turn ends
// early when about most were done.
func crowdUpTo(n int, most int64, op func(ctx context.Context, caller int) error) loop {
	return func(ctx context.Context, d time.Duration) (tally, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var ops atomic.Int64
		var over atomic.Bool
		var wg sync.WaitGroup
		failed := make(chan error, n)
		full := make(chan struct{}, n)
		began := time.Now()
		for caller := range n {
			wg.Go(func() {
				for !over.Load() {
					if err := op(ctx, caller); err != nil {
						failed <- err
						cancel()
						return
					}
					if ops.Add(1) >= most {
						full <- struct{}{}
						return
					}
				}
			})
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-full:
		case <-ctx.Done():
		}
		over.Store(true)
		wg.Wait()
		took := time.Since(began)
		select {
		case err := <-failed: // the first one; the others are its consequence
			return tally{}, err
		default:
			return tally{ops.Load(), took}, ctx.Err()
		}
	}
}
