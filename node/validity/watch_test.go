package validity_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// owner is the customers' side: what their keystores answer, and who was asked when.
type owner struct {
	clock clock.Simple
	mu    sync.Mutex
	says  map[hierarchy.UID]keystore.Class // ClassUnspecified: yes
	takes time.Duration                    // of each answer
	hangs bool
	gone  map[hierarchy.UID]bool
	asked map[hierarchy.UID][]time.Duration

	busy, most int // proofs at this time, and the most at one time
	held       map[hierarchy.UID]bool
	purged     []hierarchy.UID
	told       []validity.Change
	watch      *validity.Watch
	terms      validity.Terms
}

func newOwner(t validity.Terms) *owner {
	o := &owner{says: map[hierarchy.UID]keystore.Class{}, gone: map[hierarchy.UID]bool{}, asked: map[hierarchy.UID][]time.Duration{}, held: map[hierarchy.UID]bool{}, terms: t}
	o.watch = validity.New(validity.Config{
		Clock: o.clock, Rand: rand.Reader, Prove: o.unwrap,
		Terms: func(hierarchy.UID) validity.Terms { return o.terms },
		Held: func() map[hierarchy.UID]bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			held := map[hierarchy.UID]bool{}
			for t := range o.held {
				held[t] = true
			}
			return held
		},
		Purge: func(t hierarchy.UID) {
			o.mu.Lock()
			defer o.mu.Unlock()
			delete(o.held, t)
			o.purged = append(o.purged, t)
		},
		Tell: func(_ context.Context, c validity.Change) {
			o.mu.Lock()
			defer o.mu.Unlock()
			if (c.Is == validity.Denied || c.Is == validity.Unproved) && !slices.Contains(o.purged, c.Tenant) {
				panic("told before it was purged")
			}
			o.told = append(o.told, c)
		},
	})
	return o
}

func (o *owner) now() time.Duration { return o.clock.Read().Boot }

// unwrap is what a keystore does: the answer is the one of the moment at which it was asked.
func (o *owner) unwrap(ctx context.Context, t hierarchy.UID) error {
	o.mu.Lock()
	o.asked[t] = append(o.asked[t], o.now())
	class, takes, hangs := o.says[t], o.takes, o.hangs
	if o.gone[t] {
		o.mu.Unlock()
		return validity.ErrGone
	}
	o.busy++
	o.most = max(o.most, o.busy)
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.busy--
		o.mu.Unlock()
	}()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if takes > 0 {
		if err := o.clock.Sleep(ctx, takes); err != nil {
			return err
		}
	}
	if class == keystore.ClassUnspecified {
		return nil
	}
	return keystore.NewError(keystore.Error{Class: class, Op: keystore.OpUnwrap}, errors.New("said so"))
}

// load is what a node does for a caller whose key is not in memory.
func (o *owner) load(ctx context.Context, t hierarchy.UID) error {
	p, err := o.watch.Begin(t)
	if err != nil {
		return err
	}
	err = o.unwrap(ctx, t)
	p.Done(ctx, err)
	if err == nil {
		o.mu.Lock()
		o.held[t] = true
		o.mu.Unlock()
	}
	return err
}

func (o *owner) answers(t hierarchy.UID, c keystore.Class) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.says[t] = c
}

func (o *owner) calls(t hierarchy.UID) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.asked[t])
}

func (o *owner) err(t hierarchy.UID) error { return o.watch.Standing(t).Err(o.clock.Read()) }

// run runs the watch until the test ends it.
func (o *owner) run(t *testing.T) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for o.clock.Sleep(ctx, validity.Look) == nil {
			o.watch.Once(ctx)
		}
	}()
	return func() { cancel(); <-done; o.watch.Shut(); o.watch.Wait() }
}

var (
	acme = hierarchy.UID{1}
	base = validity.Terms{Check: 30 * time.Second, Grace: 15 * time.Minute}
)

func wants(t *testing.T, err error, code errs.Code) {
	t.Helper()
	if !errs.Is(err, code) {
		t.Errorf("got %v, want %v", err, code)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestI1_AnOutageIsLivedThroughForTheGraceAndNoLonger, counted from when the last proof
// that succeeded was sent, not from its answer.
func TestI1_AnOutageIsLivedThroughForTheGraceAndNoLonger(t *testing.T) {
	for _, class := range []keystore.Class{keystore.Unavailable, keystore.Throttled, keystore.Misconfigured, keystore.Corrupt} {
		synctest.Test(t, func(t *testing.T) {
			o := newOwner(base)
			o.takes = 3 * time.Second
			wants(t, o.err(acme), errs.L1Unavailable) // before anything is known
			check(t, o.load(t.Context(), acme))
			sent := o.asked[acme][0]
			o.answers(acme, class)
			defer o.run(t)()
			time.Sleep(base.Grace - (o.now() - sent) - time.Millisecond)
			check(t, o.err(acme))
			time.Sleep(time.Millisecond)
			wants(t, o.err(acme), errs.L1Unavailable)
			time.Sleep(time.Second)
			synctest.Wait()
			o.mu.Lock()
			if len(o.held) != 0 || len(o.told) != 3 || o.told[0].Is != validity.Proved || o.told[1].Is != validity.Failing || o.told[2].Is != validity.Unproved {
				t.Errorf("%v: held %v, told %v", class, o.held, o.told)
			}
			o.mu.Unlock()
			o.answers(acme, keystore.ClassUnspecified)
			check(t, o.load(t.Context(), acme))
			check(t, o.err(acme))
		})
	}
}

// TestI1_WithoutGraceTheFirstFailureEndsIt, and a keystore that hangs does by its time.
func TestI1_WithoutGraceTheFirstFailureEndsIt(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			o := newOwner(validity.Terms{Check: 30 * time.Second})
			check(t, o.load(t.Context(), acme))
			defer o.run(t)()
			time.Sleep(time.Minute)
			check(t, o.err(acme))
			o.mu.Lock()
			last := o.asked[acme][len(o.asked[acme])-1]
			o.hangs = hangs
			o.mu.Unlock()
			if !hangs {
				o.answers(acme, keystore.Unavailable)
			}
			time.Sleep(last + 30*time.Second + validity.ProofTime + time.Second - o.now())
			wants(t, o.err(acme), errs.L1Unavailable)
		})
	}
}

// TestI4_ALapseIsPurgedAndToldByWhoFindsIt: a caller whose proof fails in that moment, before
// the watch looked; and a failure after that purges nothing, because nothing is there.
func TestI4_ALapseIsPurgedAndToldByWhoFindsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(base)
		check(t, o.load(t.Context(), acme))
		time.Sleep(base.Grace)
		o.answers(acme, keystore.Unavailable)
		for range 3 {
			if err := o.load(t.Context(), acme); err == nil {
				t.Fatal("the keystore does not answer")
			}
		}
		if len(o.purged) != 1 || len(o.told) != 2 || o.told[1].Is != validity.Unproved {
			t.Errorf("purged %v, told %v", o.purged, o.told)
		}
	})
}

// TestI2_ADenialStandsUntilAProofThatWasSentAfterIt: the answer to an older question that
// comes late says nothing about the present.
func TestI2_ADenialStandsUntilAProofThatWasSentAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(base)
		late, err := o.watch.Begin(acme)
		check(t, err)
		time.Sleep(time.Second)
		check(t, o.load(t.Context(), acme))
		time.Sleep(time.Second)
		o.answers(acme, keystore.Denied)
		if err := o.load(t.Context(), acme); !keystore.IsDenied(err) {
			t.Fatal(err)
		}
		wants(t, o.err(acme), errs.L1Denied)
		late.Done(t.Context(), nil)
		wants(t, o.err(acme), errs.L1Denied)
		o.answers(acme, keystore.Unavailable) // and an outage does not bring it back
		defer o.run(t)()
		time.Sleep(time.Minute)
		wants(t, o.err(acme), errs.L1Denied)
		o.answers(acme, keystore.ClassUnspecified)
		time.Sleep(base.Check + time.Second)
		check(t, o.err(acme))
	})
}

// TestI2_ALateDenialOfAnOlderQuestionEndsNothing.
func TestI2_ALateDenialOfAnOlderQuestionEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(base)
		late, err := o.watch.Begin(acme)
		check(t, err)
		time.Sleep(time.Second)
		check(t, o.load(t.Context(), acme))
		late.Done(t.Context(), keystore.NewError(keystore.Error{Class: keystore.Denied}, nil))
		check(t, o.err(acme))
	})
}

// TestI5_WhoIsDeniedCausesNoCalls, and it is noticed by itself when the key is back.
func TestI5_WhoIsDeniedCausesNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(base)
		check(t, o.load(t.Context(), acme))
		o.answers(acme, keystore.Denied)
		defer o.run(t)()
		time.Sleep(base.Check + time.Second)
		wants(t, o.err(acme), errs.L1Denied)
		n := o.calls(acme)
		for range 100 {
			wants(t, o.load(t.Context(), acme), errs.L1Denied)
		}
		if o.calls(acme) != n {
			t.Errorf("%d calls for callers of a tenant that is denied", o.calls(acme)-n)
		}
		time.Sleep(10 * base.Check)
		if n := o.calls(acme) - n; n < 9 || n > 14 {
			t.Errorf("asked %d times in 10 checks", n)
		}
	})
}

// TestI5_NoTenantIsAskedTwiceAtOnce, by a keystore that answers slower than it is asked.
func TestI5_NoTenantIsAskedTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(validity.Terms{Check: validity.MinCheck, Grace: time.Hour})
		o.takes = 8 * time.Second
		check(t, o.load(t.Context(), acme))
		defer o.run(t)()
		time.Sleep(10 * time.Minute)
		if n := o.calls(acme); o.most != 1 || n < 50 {
			t.Errorf("%d at once, %d in all", o.most, n)
		}
		check(t, o.err(acme))
	})
}

// TestI6_ProofsAreAtMostCheckApartAndDriftApart.
func TestI6_ProofsAreAtMostCheckApartAndDriftApart(t *testing.T) {
	const tenants, rounds = 200, 20
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(base)
		for i := range tenants {
			check(t, o.load(t.Context(), hierarchy.UID{2, byte(i)}))
		}
		defer o.run(t)()
		time.Sleep(rounds * base.Check)
		at := map[time.Duration]int{}
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, all := range o.asked {
			for i := range all[1:] {
				if d := all[i+1] - all[i]; d > base.Check+500*time.Millisecond || d < base.Check*3/4 {
					t.Fatalf("two proofs %v apart", d)
				}
			}
			if n := len(all); n < rounds || n > rounds*4/3+1 {
				t.Errorf("asked %d times in %d checks", n, rounds)
			}
			at[all[len(all)-1].Truncate(time.Second)]++
		}
		for when, n := range at {
			if n > tenants/5 {
				t.Errorf("%d of %d tenants in the second %v, after %d rounds", n, tenants, when, rounds)
			}
		}
		if o.most > validity.AtOnce {
			t.Errorf("%d proofs at once", o.most)
		}
	})
}

// TestWhoHasNoKeysInMemoryIsNotAsked, and neither is one that is gone.
func TestWhoHasNoKeysInMemoryIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOwner(base)
		other := hierarchy.UID{3}
		check(t, o.load(t.Context(), acme))
		check(t, o.load(t.Context(), other))
		defer o.run(t)()
		o.mu.Lock()
		delete(o.held, acme)
		o.gone[other] = true
		o.mu.Unlock()
		time.Sleep(time.Hour)
		synctest.Wait()
		if a, b := o.calls(acme), o.calls(other); a != 1 || b != 2 {
			t.Errorf("asked %d and %d times, want 1 and 2", a, b)
		}
		if tenants, _ := o.watch.Counts(); len(tenants) != 0 {
			t.Errorf("it keeps %v", tenants)
		}
		wants(t, o.err(other), errs.L1Unavailable)
	})
}

// TestI1I2I3_AnyHistory: against a model that knows when each question was sent.
func TestI1I2I3_AnyHistory(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		terms := validity.Terms{
			Check: time.Duration(rapid.IntRange(5, 60).Draw(r, "check")) * time.Second,
			Grace: time.Duration(rapid.IntRange(0, 300).Draw(r, "grace")) * time.Second,
		}
		fake := clock.NewFake(time.Unix(1e9, 0))
		w := validity.New(validity.Config{
			Clock: fake, Rand: rand.Reader, Terms: func(hierarchy.UID) validity.Terms { return terms },
			Prove: func(context.Context, hierarchy.UID) error { return validity.ErrGone }, Held: func() map[hierarchy.UID]bool { return nil },
			Purge: func(hierarchy.UID) {}, Tell: func(context.Context, validity.Change) {},
		})
		type question struct {
			p    validity.Proof
			sent time.Duration
		}
		var open []question
		var proved, denied time.Duration = -1, -1 // when those that count were sent
		now := func() time.Duration { return fake.Read().Boot }
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			switch rapid.IntRange(0, 3).Draw(r, "step") {
			case 0:
				p, err := w.Begin(acme)
				if wantErr := denied > proved; (err != nil) != wantErr {
					r.Fatalf("begin: %v, denied at %v, proved at %v", err, denied, proved)
				}
				if err == nil {
					open = append(open, question{p, now()})
				}
			case 1:
				fake.Advance(time.Duration(rapid.IntRange(1, 100_000).Draw(r, "ms")) * time.Millisecond)
			default:
				if len(open) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(open)-1).Draw(r, "which")
				q := open[i]
				open = slices.Delete(open, i, i+1)
				class := keystore.Class(rapid.IntRange(0, int(keystore.Corrupt)).Draw(r, "class"))
				if class == keystore.ClassUnspecified {
					q.p.Done(r.Context(), nil)
					if q.sent > denied || denied <= proved {
						proved = max(proved, q.sent)
					}
					continue
				}
				q.p.Done(r.Context(), keystore.NewError(keystore.Error{Class: class}, nil))
				if class == keystore.Denied && q.sent >= proved {
					denied = max(denied, q.sent)
					if denied == proved {
						denied, proved = proved, -1 // asked at the same instant: the denial counts
					}
				}
			}
			err := w.Standing(acme).Err(fake.Read())
			switch {
			case proved < 0 || denied > proved:
				if err == nil {
					r.Fatalf("usable: proved %v, denied %v", proved, denied)
				}
			case now() >= proved+max(terms.Grace, terms.Check+validity.ProofTime):
				if err == nil {
					r.Fatalf("usable %v after the last proof, with %+v", now()-proved, terms)
				}
			case now() < proved+terms.Grace:
				if err != nil {
					r.Fatalf("not usable %v after the last proof, with %+v: %v", now()-proved, terms, err)
				}
			}
		}
	})
}

func TestAskingCostsNoAllocation(t *testing.T) {
	o := newOwner(base)
	check(t, o.load(t.Context(), acme))
	s, now := o.watch.Standing(acme), o.clock.Read()
	if n := testing.AllocsPerRun(100, func() { _ = s.Err(now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
