package lease_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

const second = time.Second

func at(d time.Duration) lease.Reading { return lease.Reading{Raw: d, Boot: d, Wall: d} }

// TestI1_NoReadingShortensAWait: whatever readings come, in whatever order, a leader
// lets no lease be over before both clocks have moved by a whole lease and the drift.
func TestI1_NoReadingShortensAWait(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const d = 3 * second
		l := established(t, "n1", d, 5, "n1", "n2")
		var now, most lease.Reading
		for range rapid.IntRange(1, 60).Draw(t, "readings") {
			step := rapid.Int64Range(0, int64(second))
			both := time.Duration(step.Draw(t, "both"))
			now.Raw, now.Boot = now.Raw+both, now.Boot+both
			if rapid.IntRange(0, 3).Draw(t, "apart") == 0 {
				now.Raw += time.Duration(step.Draw(t, "raw"))
				now.Boot += time.Duration(step.Draw(t, "boot"))
			}
			seen := now
			seen.Wall = time.Duration(rapid.Int64().Draw(t, "wall"))
			if rapid.IntRange(0, 3).Draw(t, "late") == 0 { // read before the lock was taken
				before := time.Duration(step.Draw(t, "before"))
				seen.Raw, seen.Boot = seen.Raw-before, seen.Boot-before
			}
			most.Raw, most.Boot = max(most.Raw, seen.Raw), max(most.Boot, seen.Boot)
			p := l.Advance(seen)
			if p.Complete == 5 && (most.Raw < lease.LeaderSpan(d) || most.Boot < lease.LeaderSpan(d)) {
				t.Fatalf("complete after raw %v, boot %v", most.Raw, most.Boot)
			}
		}
	})
}

func TestI1_MarginsAreRoundedToTheSafeSide(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(lease.MaxLease)).Draw(t, "length"))
		if h := lease.HolderSpan(d); 100*h > 99*d || 100*(h+1) <= 99*d {
			t.Errorf("a holder uses %v of %v", h, d)
		}
		if l := lease.LeaderSpan(d); 100*l < 101*d || 100*(l-1) >= 101*d {
			t.Errorf("a leader waits %v for %v", l, d)
		}
	})
}

// TestI2_AGrantNeedsAMajorityAskedAfterTheRequest counts answers in the naive way.
func TestI2_AGrantNeedsAMajorityAskedAfterTheRequest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nodes := names(rapid.IntRange(1, 6).Draw(t, "nodes"))
		l := established(t, nodes[0], 3*second, 5, nodes...)
		now := time.Duration(0)
		var voters []lease.NodeID
		var round uint64
		answers := map[uint64]map[lease.NodeID]bool{}       // round -> who said the right term
		nonces := map[lease.NodeID]map[lease.Nonce]uint64{} // node -> nonce -> rounds that had begun
		nonce := lease.Nonce(0)
		check := func(out []lease.Granted) {
			for _, g := range out {
				since, ok := nonces[g.To][g.Grant.Nonce]
				if !ok {
					t.Fatalf("%s is granted nonce %d, which it did not ask for, or twice", g.To, g.Grant.Nonce)
				}
				delete(nonces[g.To], g.Grant.Nonce)
				said := map[lease.NodeID]bool{}
				for r, who := range answers {
					for v := range who {
						if r > since && slices.Contains(voters, v) {
							said[v] = true
						}
					}
				}
				if len(said) < len(voters)/2+1 {
					t.Fatalf("granted by %v of %v", sortedKeys(said), voters)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				n := rapid.SampledFrom(nodes).Draw(t, "node")
				nonce++
				if nonces[n] == nil {
					nonces[n] = map[lease.Nonce]uint64{}
				}
				nonces[n][nonce] = round
				l.Renew(at(now), n, lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Nonce: nonce}, lease.Checks{})
			},
			"begin": func(t *rapid.T) {
				now += time.Duration(rapid.IntRange(0, 2).Draw(t, "later")) * lease.RoundRetry / 2
				use := rapid.SliceOfNDistinct(rapid.SampledFrom(nodes), 1, len(nodes), rapid.ID).Draw(t, "voters")
				own := rapid.Uint64Range(2, 3).Draw(t, "own term")
				out, q, ok := l.Begin(at(now), use, own, nil)
				if !ok {
					return
				}
				if q.Term != 2 {
					t.Fatalf("asks about term %d", q.Term)
				}
				voters, round = use, q.Round
				answers[round] = map[lease.NodeID]bool{}
				if own == 2 {
					answers[round][nodes[0]] = true
				}
				check(out)
			},
			"answer": func(t *rapid.T) {
				v := rapid.SampledFrom(nodes).Draw(t, "voter")
				r := rapid.Uint64Range(0, round+1).Draw(t, "round")
				term := rapid.Uint64Range(1, 3).Draw(t, "term")
				if term == 2 && answers[r] != nil {
					answers[r][v] = true
				}
				check(l.Confirmed(at(now), v, lease.Confirmed{History: history, Round: r, Term: term}, nil))
			},
		})
	})
}

func TestI2_AVoterAnswersForItsOwnHistoryOnly(t *testing.T) {
	t.Parallel()
	q := lease.Confirm{History: history, Round: 3, Term: 2}
	if a, ok := q.Answer(history, 7); !ok || a != (lease.Confirmed{History: history, Round: 3, Term: 7}) {
		t.Errorf("answers %v, %t", a, ok)
	}
	if _, ok := q.Answer(lease.History{9}, 2); ok {
		t.Error("answers for another history")
	}
}

// TestI3_WithoutAnEpochALeaderGivesNothing also after one ended, in each way in which it can.
func TestI3_WithoutAnEpochALeaderGivesNothing(t *testing.T) {
	t.Parallel()
	ask := lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: 5, Nonce: 1}
	for name, end := range map[string]func(*lease.Leader) bool{
		"a command of a higher term": func(l *lease.Leader) bool { return l.Applied(at(0), lease.Entry{Index: 6, Term: 3}) },
		"a restored state":           func(l *lease.Leader) bool { return l.Restored(at(0), lease.Entry{Index: 6, Term: 2}) },
		"leadership lost":            func(l *lease.Leader) bool { return l.Lost() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := established(t, "n1", second, 5, "n1", "n2", "n3")
			l.Renew(at(0), "n2", ask, lease.Checks{})
			if _, _, ok := l.Begin(at(0), []lease.NodeID{"n1", "n2", "n3"}, 2, nil); !ok {
				t.Fatal("no round")
			}
			if !end(l) {
				t.Error("the epoch did not end")
			}
			if out := l.Confirmed(at(0), "n2", lease.Confirmed{History: history, Round: 1, Term: 2}, nil); len(out) != 0 {
				t.Errorf("granted %v", out)
			}
			l.SetMembers([]lease.Member{{ID: "n2"}})
			if p := l.Advance(at(time.Hour)); p != (lease.Progress{}) || l.Complete() != 0 || l.Pending(at(0), 5) != nil || len(l.Holders(at(0))) != 0 {
				t.Errorf("goes on: %+v", p)
			}
			if r := l.Renew(at(0), "n2", ask, lease.Checks{}); r != lease.RefusedNotLeader {
				t.Errorf("refusal %v", r)
			}
			if _, _, ok := l.Begin(at(time.Hour), []lease.NodeID{"n1"}, 2, nil); ok {
				t.Error("begins a round")
			}
		})
	}
	t.Run("a command of the same term does not end it", func(t *testing.T) {
		t.Parallel()
		l := established(t, "n1", second, 5, "n1", "n2")
		if l.Applied(at(0), lease.Entry{Index: 6, Term: 2}) {
			t.Error("it ended")
		}
		if _, _, ok := l.Established(); !ok {
			t.Error("it is gone")
		}
	})
}

func TestI3_ACommandThatDoesNotFollowPanics(t *testing.T) {
	t.Parallel()
	for _, e := range []lease.Entry{{Index: 5, Term: 2}, {Index: 4, Term: 2}, {Index: 6, Term: 1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("entry %+v is taken", e)
				}
			}()
			established(t, "n1", second, 5, "n1").Applied(at(0), e)
		}()
	}
}

// TestI4_EveryMemberIsWaitedForOnce: one that is silent for the whole lease, and no
// longer; for each change anew, whatever others report.
func TestI4_EveryMemberIsWaitedFor(t *testing.T) {
	t.Parallel()
	nodes := []lease.NodeID{"n1", "n2", "n3", "n4"}
	for _, silent := range nodes[1:] {
		l := established(t, "n1", second, 5, nodes...)
		l.Applied(at(0), lease.Entry{Index: 6, Term: 2})
		for _, n := range nodes[1:] {
			applied := uint64(6)
			if n == silent {
				applied = 5 // the epoch alone is not enough for the change after it
			}
			l.Renew(at(0), n, lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: applied}, lease.Checks{})
		}
		if p := l.Advance(at(0)); p.Complete != 5 || p.Next != lease.LeaderSpan(second) {
			t.Errorf("%s is silent: %+v", silent, p)
		}
		if p := l.Advance(at(lease.LeaderSpan(second) - 1)); p.Complete != 5 || p.Next != 1 {
			t.Errorf("%s is silent: %+v", silent, p)
		}
		if p := l.Advance(at(lease.LeaderSpan(second))); p.Complete != 6 {
			t.Errorf("%s is silent for a whole lease: %+v", silent, p)
		}
	}
}

func TestI5_WhatIsCompleteStaysComplete(t *testing.T) {
	t.Parallel()
	l := established(t, "n1", second, 5, "n1", "n2")
	if p := l.Advance(at(2 * second)); p.Complete != 5 {
		t.Fatalf("%+v", p)
	}
	l.Renew(at(2*second), "n2", lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: 1, Nonce: 1}, lease.Checks{})
	if out, _, _ := l.Begin(at(2*second), []lease.NodeID{"n1"}, 2, nil); len(out) != 1 || out[0].Grant.Complete != 5 {
		t.Fatalf("granted %v", out)
	}
	l.SetMembers([]lease.Member{{ID: "n1"}, {ID: "n2"}, {ID: "n3"}})
	if p := l.Advance(at(2 * second)); p.Complete != 5 {
		t.Errorf("%+v", p)
	}
}

func TestI6_IncarnationsAreOrdered(t *testing.T) {
	t.Parallel()
	order := []lease.Incarnation{{}, {0, 1}, {1, 0}, {1, 1}, {1, 7}, {2, 0}, {2, 3}, {11, 0}}
	for i, a := range order {
		for j, b := range order {
			if got, want := a.Compare(b), max(-1, min(1, i-j)); got != want {
				t.Errorf("%v and %v: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestI6_AnOlderIncarnationIsRefused(t *testing.T) {
	t.Parallel()
	l := established(t, "n1", second, 5, "n1", "n2")
	say := func(boot, restores, applied uint64) lease.Refusal {
		return l.Renew(at(0), "n2", lease.Renew{History: history, Inc: lease.Incarnation{Boot: boot, Restores: restores}, Applied: applied}, lease.Checks{})
	}
	if r := say(2, 1, 3); r != lease.RefusalNone {
		t.Fatal(r)
	}
	for _, old := range [][2]uint64{{2, 0}, {1, 9}, {0, 1}} {
		if r := say(old[0], old[1], 9); r != lease.RefusedOldIncarnation {
			t.Errorf("%v: %v", old, r)
		}
	}
	if h := l.Holders(at(0))[1]; h.Reported != 3 {
		t.Errorf("%+v", h)
	}
}

// TestI7_AHolderServesUnderOneGrant: whatever comes, the lease is one grant whole,
// whose index the view has.
// TestI11_NobodyMakesAnythingLong floods a leader and a holder.
func TestI11_NobodyMakesAnythingLong(t *testing.T) {
	t.Parallel()
	t.Run("requests before an epoch", func(t *testing.T) {
		t.Parallel()
		l := lease.NewLeader(lease.LeaderConfig{Self: "n1", History: history, Lease: second})
		l.Expect(lease.EpochNonce{1})
		full := 0
		for i := range lease.MaxQueued + 100 {
			if l.Renew(at(0), lease.NodeID(fmt.Sprint(i)), lease.Renew{History: history, Nonce: 1}, lease.Checks{}) == lease.RefusedFull {
				full++
			}
		}
		if _, queue, _, _ := lease.Sizes(l); queue != lease.MaxQueued || full != 100 {
			t.Errorf("%d wait, %d refused", queue, full)
		}
		if r := l.Renew(at(0), "0", lease.Renew{History: history, Nonce: 2}, lease.Checks{}); r != lease.RefusalNone {
			t.Errorf("one that waits already: %v", r)
		}
	})
	t.Run("strangers", func(t *testing.T) {
		t.Parallel()
		l := established(t, "n1", second, 5, "n1")
		for i := range 1000 {
			l.Renew(at(0), lease.NodeID(fmt.Sprint(i)), lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Nonce: 1}, lease.Checks{})
		}
		if members, _, seen, _ := lease.Sizes(l); members != 1 || seen != 0 {
			t.Errorf("%d members, %d seen", members, seen)
		}
	})
	t.Run("members that come and go", func(t *testing.T) {
		t.Parallel()
		l := established(t, "n1", second, 5, "n1")
		for i := range 1000 {
			id := lease.NodeID(fmt.Sprint(i))
			l.SetMembers([]lease.Member{{ID: "n1"}, {ID: id}})
			l.Renew(at(0), id, lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Nonce: 1}, lease.Checks{})
		}
		if members, _, seen, _ := lease.Sizes(l); members != 2 || seen != 1 {
			t.Errorf("%d members, %d seen", members, seen)
		}
	})
	t.Run("grants", func(t *testing.T) {
		t.Parallel()
		l := established(t, "n1", lease.MaxLease, 5, "n1", "n2")
		now := time.Hour // what earlier leaders gave is over
		first := map[uint64]time.Duration{}
		for i := range uint64(3 * lease.MaxGrants) {
			now += 100 * time.Millisecond
			l.Applied(at(now), lease.Entry{Index: 10 + i, Term: 2})
			l.Renew(at(now), "n2", lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Nonce: lease.Nonce(i + 1)}, lease.Checks{})
			if out, _, _ := l.Begin(at(now), []lease.NodeID{"n1"}, 2, nil); len(out) != 1 {
				t.Fatal("no grant")
			}
			first[10+i] = now
		}
		if _, _, _, grants := lease.Sizes(l); grants != lease.MaxGrants {
			t.Errorf("%d grants", grants)
		}
		// No change waits shorter than for the last grant before it.
		for i := range uint64(3*lease.MaxGrants - 1) {
			change := 11 + i
			left := remaining(l.Pending(at(now), change))["n2"]
			if least := first[change-1] + lease.LeaderSpan(lease.MaxLease) - now; left < least {
				t.Fatalf("change %d waits %v, want at least %v", change, left, least)
			}
		}
	})
	t.Run("unanswered requests", func(t *testing.T) {
		t.Parallel()
		h := lease.NewHolder(lease.HolderConfig{History: history, Boot: 1, Renew: second})
		for i := range 100 {
			h.Renew(at(time.Duration(i)*second), lease.Mark{})
		}
		if n := lease.Asked(h); n != lease.MaxAsked {
			t.Errorf("remembers %d", n)
		}
		for n, want := range map[lease.Nonce]lease.Refusal{84: lease.RefusedUnknown, 85: lease.RefusalNone} {
			if r := h.Grant(at(99*second), lease.Grant{History: history, Inc: h.Incarnation(), Nonce: n, Lease: second}, lease.AgreementUnknown); r != want {
				t.Errorf("nonce %d: %v", n, r)
			}
		}
	})
}

func TestI12_AStuckLeaderGivesNoGrant(t *testing.T) {
	t.Parallel()
	l := established(t, "n1", second, 5, "n1", "n2")
	l.Renew(at(0), "n2", lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Nonce: 1}, lease.Checks{})
	l.Busy(lease.StuckAfter + 1)
	if out, _, ok := l.Begin(at(0), []lease.NodeID{"n1"}, 2, nil); ok || len(out) != 0 {
		t.Errorf("granted %v", out)
	}
	l.Busy(lease.StuckAfter)
	if out, _, ok := l.Begin(at(0), []lease.NodeID{"n1", "n2", "n3"}, 2, nil); !ok || len(out) != 0 {
		t.Errorf("round %t, granted %v", ok, out)
	}
	l.Busy(time.Hour)
	if out := l.Confirmed(at(0), "n2", lease.Confirmed{History: history, Round: 1, Term: 2}, nil); len(out) != 0 {
		t.Errorf("granted %v", out)
	}
	// Reports go on: a change may be complete.
	l.Renew(at(0), "n2", lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: 5}, lease.Checks{})
	if p := l.Advance(at(0)); p.Complete != 5 {
		t.Errorf("%+v", p)
	}
}
