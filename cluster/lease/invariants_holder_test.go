package lease_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestI1_AHolderCountsByTheClockThatSaysMost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		step := rapid.Int64Range(-int64(second), int64(10*second))
		a := at(time.Hour)
		b := lease.Reading{
			Raw:  a.Raw + time.Duration(step.Draw(t, "raw")),
			Boot: a.Boot + time.Duration(step.Draw(t, "boot")),
			Wall: a.Wall + time.Duration(step.Draw(t, "wall")),
		}
		long, short := b.Longest(a), b.Shortest(a)
		if long < 0 || long < b.Raw-a.Raw || long < b.Boot-a.Boot || long < b.Wall-a.Wall {
			t.Errorf("longest %v", long)
		}
		if short < 0 || short > max(b.Raw-a.Raw, 0) || short > max(b.Boot-a.Boot, 0) {
			t.Errorf("shortest %v", short)
		}
		l := lease.Lease{Start: a, Span: second}
		if l.Usable(b) != (long < second) || l.Usable(b) != (l.Remaining(b) > 0) {
			t.Errorf("usable %t after %v of a second, %v remain", l.Usable(b), long, l.Remaining(b))
		}
	})
}

func TestI7_AHolderServesUnderOneGrant(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := lease.NewHolder(lease.HolderConfig{History: history, Boot: 1, Renew: 250 * time.Millisecond})
		var now time.Duration
		var applied, maxTerm uint64
		starts := map[lease.Nonce]time.Duration{}
		valid := map[lease.Lease]bool{}
		var best lease.Lease // what was in use
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(*rapid.T) {
				if n := h.Renew(at(now), lease.Mark{}).Nonce; n != 0 {
					starts[n] = now
				}
			},
			"tick":  func(t *rapid.T) { now += time.Duration(rapid.Int64Range(0, int64(second)).Draw(t, "time")) },
			"apply": func(*rapid.T) { applied++; h.Applied(at(now), lease.Entry{Index: applied, Term: 1}) },
			"restore": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "often") == 0 {
					h.Restore()
					clear(starts)
					clear(valid)
					applied, best = 0, lease.Lease{}
				}
			},
			"grant": func(t *rapid.T) {
				n := lease.Nonce(rapid.Uint64Range(0, 20).Draw(t, "nonce"))
				if len(starts) > 0 {
					for s := range starts {
						n = max(n, s)
					}
					n -= min(n, lease.Nonce(rapid.IntRange(0, 2).Draw(t, "older")))
				}
				g := lease.Grant{
					History: history, Term: rapid.Uint64Range(1, 4).Draw(t, "term"), Inc: h.Incarnation(), Nonce: n,
					Index: rapid.Uint64Range(0, applied+3).Draw(t, "index"), Lease: time.Duration(rapid.Int64Range(1, int64(3*second)).Draw(t, "length")),
				}
				start, ok := starts[n]
				ref := h.Grant(at(now), g, lease.AgreementUnknown)
				if (ref == lease.RefusalNone) != (ok && g.Term >= maxTerm) {
					t.Fatalf("%+v of %d, term heard %d: %v", g, start, maxTerm, ref)
				}
				if ref != lease.RefusalNone {
					return
				}
				maxTerm = g.Term
				for s := range starts {
					if s <= n {
						delete(starts, s)
					}
				}
				valid[lease.Lease{Start: at(start), Span: lease.HolderSpan(g.Lease), Term: g.Term, Index: g.Index}] = true
			},
			"": func(t *rapid.T) {
				l := h.Lease()
				if l == (lease.Lease{}) {
					return
				}
				if !valid[l] || l.Index > applied {
					t.Fatalf("serves under %+v with a view at %d", l, applied)
				}
				if best.Usable(at(now)) && l.Remaining(at(now)) < best.Remaining(at(now)) {
					t.Fatalf("%+v replaced %+v, which lasts longer", l, best)
				}
				best = l
			},
		})
	})
}

func TestI8_ARestoredViewHasNoLease(t *testing.T) {
	t.Parallel()
	h := lease.NewHolder(lease.HolderConfig{History: history, Boot: 7, Renew: second})
	h.Applied(at(0), lease.Entry{Index: 5, Term: 1})
	grant := func(n lease.Nonce, index uint64) lease.Refusal {
		return h.Grant(at(0), lease.Grant{
			History: history, Term: 1, Inc: h.Incarnation(), Nonce: n, Index: index, Lease: 10 * second, Complete: 5,
		}, lease.AgreementUnknown)
	}
	grant(h.Renew(at(0), lease.Mark{}).Nonce, 5)
	now := at(second)
	waits := h.Renew(now, lease.Mark{}).Nonce
	grant(waits, 9) // waits for 9
	unanswered := h.Renew(at(2*second), lease.Mark{}).Nonce
	if !h.Lease().Usable(now) || h.Complete() != 5 {
		t.Fatal("no lease to begin with")
	}
	before := h.Incarnation()
	h.Restore()
	if h.Incarnation().Compare(before) <= 0 {
		t.Errorf("incarnation %v after %v", h.Incarnation(), before)
	}
	if r := grant(unanswered, 5); r != lease.RefusedUnknown {
		t.Errorf("what was asked before is %v", r)
	}
	h.Applied(now, lease.Entry{Index: 20, Term: 1}) // the one that waited is void, too
	if h.Lease() != (lease.Lease{}) || h.Complete() != 0 {
		t.Errorf("lease %+v, complete %d", h.Lease(), h.Complete())
	}
}

func TestI9_NothingLeavesBeforeItIsComplete(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var read, newest lease.ReadSet
		high, changed := uint64(0), false
		for range rapid.IntRange(0, 5).Draw(t, "objects") {
			gate, mod := rapid.Uint64Range(0, 9).Draw(t, "gate"), rapid.Uint64Range(1, 12).Draw(t, "mod")
			read.Note(gate, mod)
			if gate == 0 {
				gate = mod
			}
			high = max(high, gate)
			if rapid.IntRange(0, 4).Draw(t, "change") == 0 { // by an entry that the first view did not have
				gate, changed = 20, true
			}
			newest.Note(gate, mod)
		}
		if read.Index() != high {
			t.Fatalf("index %d, want %d", read.Index(), high)
		}
		complete := rapid.Uint64Range(0, 12).Draw(t, "complete")
		l := lease.Lease{Span: rapid.SampledFrom([]time.Duration{0, second}).Draw(t, "span")}
		for _, a := range []lease.Answer{lease.AnswerUnspecified, lease.AnswerSuccess, lease.AnswerRefusal} {
			may := a != lease.AnswerUnspecified && high <= complete
			if got := lease.Gate(a, read, complete) == lease.Serve; got != may {
				t.Errorf("answer %d: serve %t, index %d, complete %d", a, got, high, complete)
			}
			may = may && l.Span > 0 && !changed
			if got := lease.Final(a, l, lease.Reading{}, read, newest, complete) == lease.Serve; got != may {
				t.Errorf("answer %d at last: serve %t, index %d, complete %d, lease %v, changed %t", a, got, high, complete, l.Span, changed)
			}
		}
		if lease.Gate(lease.AnswerNothing, read, complete) != lease.Serve || lease.Final(lease.AnswerNothing, lease.Lease{}, at(0), read, newest, 0) != lease.Serve {
			t.Error("an answer that tells nothing waits")
		}
	})
}

func TestI10_StatesThatDifferGiveNoLease(t *testing.T) {
	t.Parallel()
	five, other := lease.Chain{5}, lease.Chain{6}
	for _, tc := range []struct {
		name        string
		own, theirs lease.Chain
		index       uint64
		agrees      lease.Agreement
		want        lease.Refusal
	}{
		{"the same", five, five, 5, lease.AgreementUnknown, lease.RefusalNone},
		{"another", five, other, 5, lease.AgreementUnknown, lease.RefusedStateDiffers},
		{"not known", five, lease.Chain{}, 5, lease.AgreementUnknown, lease.RefusalNone},
		{"compared by the caller: another", five, other, 4, lease.Differs, lease.RefusedStateDiffers},
		{"compared by the caller: the same", five, other, 4, lease.Agrees, lease.RefusalNone},
	} {
		h := lease.NewHolder(lease.HolderConfig{History: history, Boot: 1, Renew: second})
		h.Applied(at(0), lease.Entry{Index: 5, Term: 1, Chain: tc.own})
		n := h.Renew(at(0), lease.Mark{}).Nonce
		g := lease.Grant{History: history, Term: 1, Inc: h.Incarnation(), Nonce: n, Index: tc.index, Chain: tc.theirs, Lease: second}
		if r := h.Grant(at(0), g, tc.agrees); r != tc.want {
			t.Errorf("%s: %v", tc.name, r)
		}
		if usable := h.Lease().Usable(at(0)); usable != (tc.want == lease.RefusalNone) {
			t.Errorf("%s: usable %t", tc.name, usable)
		}
		if differs := h.Renew(at(0), lease.Mark{}).Differs; differs != (tc.want == lease.RefusedStateDiffers) {
			t.Errorf("%s: tells the leader %t", tc.name, differs)
		}
	}
	// The leader's side: a member that differs gets nothing, and its report counts for nothing.
	l := established(t, "n1", second, 5, "n1", "n2")
	r := lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: 5, Nonce: 1}
	if ref := l.Renew(at(0), "n2", r, lease.Checks{State: lease.Differs}); ref != lease.RefusedStateDiffers {
		t.Error(ref)
	}
	if out, _, ok := l.Begin(at(0), []lease.NodeID{"n1"}, 2, nil); ok || l.Advance(at(0)).Complete != 0 {
		t.Errorf("granted %v", out)
	}
}

func TestI13_TimersThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for _, tm := range []lease.Timing{lease.LAN(), lease.WAN()} {
		if err := tm.Check(); err != nil {
			t.Errorf("%+v: %v", tm, err)
		}
	}
	// The formula, counted in another way: D(1-eps) > R + failover + grant. Besides, a
	// leader asks no faster than it does, and a holder remembers only so many requests.
	rapid.Check(t, func(t *rapid.T) {
		d := func(what string, most time.Duration) time.Duration {
			unit := rapid.SampledFrom([]time.Duration{1, time.Microsecond, time.Millisecond}).Draw(t, what+" in")
			return unit * time.Duration(rapid.Int64Range(-1, int64(most/unit)).Draw(t, what))
		}
		tm := lease.Timing{Heartbeat: d("heartbeat", 16*second), Renew: d("renew", 8*second), Lease: d("lease", 61*second), Grant: d("grant", 8*second)}
		needs := tm.Renew + 4*tm.Heartbeat + tm.Grant
		if near := rapid.Int64Range(-3, 3).Draw(t, "near"); rapid.Bool().Draw(t, "at the border") && needs > 0 && needs < 59*second {
			tm.Lease = (100*needs+98)/99 + time.Duration(near) // the least that is not too short, or close to it
		}
		const most = time.Minute
		within := tm.Heartbeat > 0 && tm.Heartbeat <= most && tm.Renew > 0 && tm.Renew <= most && tm.Lease > 0 && tm.Lease <= most && tm.Grant > 0 && tm.Grant <= most
		works := within && 99*tm.Lease/100 > needs && tm.Renew >= 20*time.Millisecond && tm.Grant < 16*tm.Renew
		if err := tm.Check(); (err == nil) != works || err != nil && !errs.Is(err, errs.InvalidConfig) {
			t.Errorf("%+v, which works: %t: %v", tm, works, err)
		}
	})
}

// TestI13_ALeaseThatNeverComesIsRefused: with requests faster than a holder remembers
// them until they are answered, every grant is one that it did not ask for.
func TestI13_ALeaseThatNeverComesIsRefused(t *testing.T) {
	t.Parallel()
	gets := func(tm lease.Timing) bool {
		h := lease.NewHolder(lease.HolderConfig{History: history, Boot: 1, Renew: tm.Renew})
		h.Applied(at(0), lease.Entry{Index: 5, Term: 1})
		type sent struct {
			at    time.Duration
			nonce lease.Nonce
		}
		var under []sent
		for now := time.Duration(0); now < tm.Lease; now += tm.Renew {
			for len(under) > 0 && under[0].at+tm.Grant <= now {
				g := lease.Grant{History: history, Term: 1, Inc: h.Incarnation(), Nonce: under[0].nonce, Index: 5, Lease: tm.Lease}
				under = under[1:]
				if h.Grant(at(now), g, lease.Agrees) == lease.RefusalNone {
					return true
				}
			}
			under = append(under, sent{now, h.Renew(at(now), lease.Mark{}).Nonce})
		}
		return false
	}
	works := lease.Timing{Heartbeat: second, Renew: 50 * time.Millisecond, Lease: 20 * second, Grant: 799 * time.Millisecond}
	never := works
	never.Grant = 850 * time.Millisecond
	if err := works.Check(); err != nil || !gets(works) {
		t.Errorf("%+v: %v, a lease comes: %t", works, err, gets(works))
	}
	if err := never.Check(); err == nil || gets(never) {
		t.Errorf("%+v: %v, a lease comes: %t", never, err, gets(never))
	}
}
