package node_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

// run runs the node in the bubble until the test ends it.
func (m *member) run(t *testing.T) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	synctest.Wait()
	return func() {
		t.Helper()
		cancel()
		check(t, <-done)
	}
}

func TestRunWipesWhatChangesAndTimeTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := cluster1(t, withClock(clock.System{}), withHold(time.Minute))
		end := m.run(t)
		_, _, err := m.encrypt(target("acme", "pay"), nil)
		check(t, err)
		_, _, err = m.encrypt(target("acme", "log"), nil)
		check(t, err)
		loaded := func(wantL21, wantL3 int) {
			t.Helper()
			synctest.Wait()
			if _, _, l21, l3 := m.Loaded(); l21 != wantL21 || l3 != wantL3 {
				t.Errorf("%d L2.1 and %d L3 after %v", l21, l3, time.Since(start))
			}
		}
		loaded(1, 2)
		check(t, m.changeObject(w.request(), object("acme", "log"), destroyO, node.WithoutWait))
		loaded(1, 1) // no clock: the change itself makes it look
		time.Sleep(59 * time.Second)
		loaded(1, 1)
		time.Sleep(7 * time.Second)
		loaded(0, 1)
		check(t, m.changeVersion(w.request(), object("acme", "pay"), 1, disable, 0))
		loaded(0, 0)
		end()
		if m.Unsealed() {
			t.Error("the node keeps its keys after Run")
		}
		// And it does not get them back.
		wants(t, m.AskKeystores(t.Context()), errs.Unavailable)
	})
}

func TestRunFollowsTheHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a := cluster1(t, withClock(clock.System{}))
		b := w.add(t, options{})
		w.join(b)
		end := b.run(t)
		check(t, b.ServingErr()) // by itself
		check(t, a.setHold(w.request(), node.Held))
		synctest.Wait()
		if b.Unsealed() {
			t.Error("held, and keeps its keys")
		}
		time.Sleep(time.Hour)
		if b.Unsealed() {
			t.Error("held, and unseals")
		}
		check(t, a.setHold(w.request(), node.Released))
		synctest.Wait()
		check(t, b.ServingErr())
		end()
	})
}

func TestRunTriesAgainWithPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := cluster1(t, withClock(clock.System{}))
		stop(m.Node)
		m.boot(t)
		m.follow()
		check(t, w.sealing.Disable(t.Context(), sealKey))
		end := m.run(t)
		attempts := func() int { return len(m.records("node.unseal")) / 2 }
		if attempts() != 1 {
			t.Fatalf("%d attempts at the start", attempts())
		}
		if st := must[node.SealStatus](t)(m.GetSeal()); st.LastFailure == "" || st.Unsealed {
			t.Errorf("%+v", st)
		}
		for range 20 { // a busy registry does not make it hurry
			check(t, m.setHold(w.request(), node.Released))
			synctest.Wait()
		}
		if attempts() != 1 {
			t.Errorf("%d attempts in no time", attempts())
		}
		for i, pause := range []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second} { // and the pauses grow
			time.Sleep(pause - time.Nanosecond)
			early := attempts()
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if early != i+1 || attempts() != i+2 {
				t.Errorf("%d attempts before the pause of %s is over, %d after", early, pause, attempts())
			}
		}
		time.Sleep(10 * time.Minute)
		if n := attempts(); n < 15 || n > 40 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
		check(t, w.sealing.Enable(t.Context(), sealKey))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if st := must[node.SealStatus](t)(m.GetSeal()); !st.Unsealed || st.LastFailure != "" {
			t.Errorf("%+v", st)
		}
		// Sealed by a person it rests.
		check(t, m.sealNode())
		before := attempts()
		time.Sleep(time.Hour)
		if m.Unsealed() || attempts() != before {
			t.Error("a node that was sealed by a person unseals by itself")
		}
		end()
	})
}

func TestRunDropsForgottenShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := newWorld(t, withClock(clock.System{}))
		m := w.add(t, o)
		out := must[*node.InitResult](t)(m.init(shamirPlan(t, 2, 3)))
		stop(m.Node)
		m.boot(t)
		m.follow()
		end := m.run(t)
		check(t, m.contribute(out.ShareTexts[0]))
		time.Sleep(seal.DefaultPatience + 6*time.Second)
		check(t, m.contribute(out.ShareTexts[1]))
		if m.Unsealed() {
			t.Error("a forgotten share still counted")
		}
		check(t, m.contribute(out.ShareTexts[0]))
		check(t, m.ServingErr())
		end()
	})
}

// TestRunCompilesPoliciesBeforeAnybodyAsks: for every change, without a call that
// needs them; what does not compile is known, and what is gone is forgotten.
func TestRunCompilesPoliciesBeforeAnybodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := cluster1(t, withClock(clock.System{}))
		w.tenant(m, "beta", "pay")
		end := m.run(t)
		is := func(compiled, faults int) {
			t.Helper()
			synctest.Wait()
			if got, broken := m.Compiled(), m.PolicyFaults(); got != compiled || len(broken) != faults {
				t.Errorf("policies of %d tenants are compiled, of %v they cannot be; want %d and %d", got, broken, compiled, faults)
			}
		}
		is(0, 0)
		m.forced("acme", "p", permitAll)
		is(1, 0)
		m.forced("beta", "p", "nonsense")
		is(2, 1)
		m.forced("beta", "p", permitAll)
		is(2, 0)
		check(t, m.deletePolicy(w.request(), "acme", "p"))
		is(1, 0)
		check(t, m.changeObject(w.request(), object("beta", ""), destroyO, node.WithoutWait))
		is(0, 0)
		end()
	})
}
