//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fixed is a side that does so many operations in every turn, and notes its turns.
func fixed(ops int64, name string, turns *strings.Builder) side {
	return side{loop: func(_ context.Context, d time.Duration) (tally, error) {
		turns.WriteString(name)
		return tally{ops: ops, took: d}, nil
	}}
}

// of is a pair whose subject does so many operations in the time of 100.
func of(name string, goal float64, subject int64, turns *strings.Builder) pair {
	return pair{name: name, goal: goal, why: "a test", open: func(context.Context, *env) (match, error) {
		return match{subject: fixed(subject, "s", turns), baseline: fixed(100, "b", turns)}, nil
	}}
}

func measured(t *testing.T, rounds int, all ...pair) []result {
	t.Helper()
	results, err := measure(t.Context(), &env{out: io.Discard}, all, rounds)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

func TestI1_AnOperationThatFailsEndsItsTurn(t *testing.T) {
	broken := errors.New("it answers an error, quickly")
	var calls atomic.Int64
	late := func() error {
		if calls.Add(1) > 100 {
			return broken
		}
		return nil
	}
	for name, loop := range map[string]loop{
		"alone": alone(late),
		"crowd": crowd(4, func(context.Context, int) error { return late() }),
	} {
		calls.Store(0)
		if _, err := loop(t.Context(), time.Hour); !errors.Is(err, broken) {
			t.Errorf("%s: got %v, want the error of the operation", name, err)
		}
	}
}

func TestI1_ATurnThatFailsFailsTheRun(t *testing.T) {
	broken := errors.New("it answers an error, quickly")
	// The first turn is the warming up.
	for failing := range 5 {
		for _, which := range []string{"subject", "baseline"} {
			turn := 0
			bad := side{loop: func(_ context.Context, d time.Duration) (tally, error) {
				if turn++; turn > failing {
					return tally{}, broken
				}
				return tally{1, d}, nil
			}}
			var turns strings.Builder
			p := pair{name: "the pair", open: func(context.Context, *env) (match, error) {
				if which == "subject" {
					return match{subject: bad, baseline: fixed(1, "b", &turns)}, nil
				}
				return match{subject: fixed(1, "s", &turns), baseline: bad}, nil
			}}
			results, err := measure(t.Context(), &env{out: io.Discard}, []pair{p}, 1)
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), "the pair") || results != nil {
				t.Errorf("%s, turn %d: got %v with %v, want the pair's name and its error", which, failing, results, err)
			}
		}
	}
}

func TestI1_ATurnWithoutAnOperationFailsTheRun(t *testing.T) {
	var turns strings.Builder
	if _, err := measure(t.Context(), &env{out: io.Discard}, []pair{of("idle", 0.5, 0, &turns)}, 1); err == nil {
		t.Error("a subject that did nothing was measured")
	}
}

func TestI1_ACallerThatFailsEndsTheOthers(t *testing.T) {
	broken := errors.New("broken")
	wait := crowd(8, func(ctx context.Context, caller int) error {
		if caller == 5 {
			return broken
		}
		<-ctx.Done() // as a call that hangs until its caller gives up
		return ctx.Err()
	})
	if _, err := wait(t.Context(), time.Hour); !errors.Is(err, broken) {
		t.Errorf("got %v, want the first error", err)
	}
}

func TestATurnOfFewOperationsEndsEarly(t *testing.T) {
	var calls atomic.Int64
	got, err := crowdUpTo(3, 10, func(context.Context, int) error {
		calls.Add(1)
		return nil
	})(t.Context(), time.Hour)
	if err != nil || got.ops < 10 || got.ops > 12 || got.ops != calls.Load() {
		t.Errorf("%d operations of %d calls, %v; want 10 and at most one more per other caller", got.ops, calls.Load(), err)
	}
}

func TestI2_TheVerdictFollowsTheGoals(t *testing.T) {
	var turns strings.Builder
	met, missed := of("met", 0.70, 70, &turns), of("missed", 0.70, 69, &turns)
	for _, c := range []struct {
		name    string
		results []result
		found   []finding
		fields  string
		verdict string
	}{
		{"all met", measured(t, 3, met, met), nil, "goals_met=2/2", "pass"},
		{"one missed", measured(t, 3, met, missed), nil, "goals_met=1/2", "miss"},
		{"a drill met", measured(t, 3, met), []finding{{met: true}}, "goals_met=2/2", "pass"},
		{"a drill missed", measured(t, 3, met), []finding{{met: true}, {}}, "goals_met=2/3", "miss"},
		{"nothing measured", nil, nil, "goals_met=0/0", "miss"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if fields, verdict := summary(c.results, c.found); fields != c.fields || verdict != c.verdict {
				t.Errorf("%s %s, want %s %s", verdict, fields, c.verdict, c.fields)
			}
			var out strings.Builder
			table(&out, c.results)
			if got, want := strings.Contains(out.String(), "missed: missed: 0.69"), c.name == "one missed"; got != want {
				t.Errorf("the table names the missed goal: %t, want %t\n%s", got, want, out.String())
			}
		})
	}
}

func TestI2_TheMedianCounts(t *testing.T) {
	for _, c := range []struct {
		ratios []float64
		want   float64
	}{
		{[]float64{0.5}, 0.5},
		{[]float64{9, 0.1, 0.7}, 0.7},
		{[]float64{0.8, 0.6}, 0.7},
		{[]float64{0.69, 0.71, 0.7, 100, 0.0001}, 0.7},
	} {
		if got := (&result{ratios: c.ratios}).ratio(); got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("%v: got %v, want %v", c.ratios, got, c.want)
		}
	}
}

func TestI3_SidesTakeTurns(t *testing.T) {
	var turns strings.Builder
	measured(t, 2, of("p", 0.5, 50, &turns))
	const want = "sb" + "sbbsbssb" + "bssbsbbs" // warming up, then two rounds
	if turns.String() != want {
		t.Errorf("turns %s, want %s", turns.String(), want)
	}
}

func TestEveryGoalHasANameAReasonAndABaseline(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range append(pairs(), fencePairs()...) {
		if p.name == "" || p.baseline == "" || p.why == "" || p.goal <= 0 || p.open == nil || seen[p.name] {
			t.Errorf("incomplete or twice: %+v", p.name)
		}
		seen[p.name] = true
	}
	for _, d := range drills() {
		if d.name == "" || d.goal == "" || d.why == "" || d.run == nil || seen[d.name] {
			t.Errorf("incomplete or twice: %+v", d.name)
		}
		seen[d.name] = true
	}
	if len(seen) < 27 {
		t.Errorf("%d goals", len(seen))
	}
}

func TestAnOperationOfSeveralTakesTheirTimeTogether(t *testing.T) {
	of := func(each time.Duration) loop {
		return func(_ context.Context, d time.Duration) (tally, error) { return tally{int64(d / each), d}, nil }
	}
	got, err := together(of(time.Millisecond), 2, of(500*time.Microsecond))(t.Context(), 10*time.Second)
	if err != nil || got.ops != 4000 || got.took != 10*time.Second {
		t.Errorf("%+v, %v; want 4000 operations of 2.5 ms in 10 s", got, err)
	}
}

func TestTheSilenceOfANodeIsFound(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	answers := []time.Time{at(10), at(20), at(400), at(410), at(990)}
	for _, c := range []struct {
		name     string
		from, to int
		want     time.Duration
		rate     float64
	}{
		{"between answers", 0, 1000, 580 * time.Millisecond, 5},
		{"before the first", 30, 410, 370 * time.Millisecond, 1 / 0.38},
		{"after the last", 405, 900, 490 * time.Millisecond, 1 / 0.495},
		{"no answer at all", 500, 900, 400 * time.Millisecond, 0},
	} {
		if got := longest(answers, at(c.from), at(c.to)); got != c.want {
			t.Errorf("%s: %s without an answer, want %s", c.name, got, c.want)
		}
		if got := rate(answers, at(c.from), at(c.to)); got < c.rate-1e-9 || got > c.rate+1e-9 {
			t.Errorf("%s: %v per second, want %v", c.name, got, c.rate)
		}
	}
}

func TestBookkeepingIsReadAsTheBenchmarkSaysIt(t *testing.T) {
	const said = `goos: linux
BenchmarkFence/holders=3-4         	 3000	       812.0 ns/op	       0 B/op	       0 allocs/op
BenchmarkFence/holders=100-4       	  300	      4021 ns/op	       0 B/op	       0 allocs/op
BenchmarkFence/holders=1000        	   30	     40210 ns/op	       0 B/op	       %s allocs/op
PASS
`
	good := strings.Replace(said, "%s", "0", 1)
	f, err := readBookkeeping([]byte(good))
	if err != nil || !f.met || !strings.Contains(f.said, "1000 holders: 40210 ns") {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = readBookkeeping([]byte(strings.Replace(said, "%s", "2", 1))); err != nil || f.met {
		t.Errorf("two allocations are met: %+v, %v", f, err)
	}
	if _, err := readBookkeeping([]byte(good[:200])); err == nil {
		t.Error("a benchmark that tells of less is no finding")
	}
}
