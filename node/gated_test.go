package node_test

import (
	"context"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// TestI3_NoAnswerTellsOfAChangeThatIsNotComplete: until then another node may still
// answer by the state before, and whoever asks both would see time go back.
func TestI3_NoAnswerTellsOfAChangeThatIsNotComplete(t *testing.T) {
	w, m := cluster1(t)
	at := target("acme", "pay")
	ct, _, err := m.encrypt(at, []byte("x"))
	check(t, err)
	pay := node.Object{Tenant: "acme", Service: "pay"}
	check(t, m.changeVersion(w.request(), pay, 1, disable, 0))
	m.incomplete.Store(m.machine.View().Index())
	// A refusal tells state like a success.
	_, _, err = m.decrypt(at, ct)
	wants(t, err, errs.ChangeInProgress)
	asked := 0
	m.finish = func() {
		if asked++; asked == 2 {
			m.incomplete.Store(0)
		}
	}
	_, _, err = m.decrypt(at, ct)
	wants(t, err, errs.FailedState)
	if asked != 2 {
		t.Errorf("it waited %d times", asked)
	}

	m.finish = nil
	// And enabling it again shows only when that is complete.
	check(t, m.changeVersion(w.request(), pay, 1, enable, 0))
	m.incomplete.Store(m.machine.View().Index())
	_, _, err = m.decrypt(at, ct)
	wants(t, err, errs.ChangeInProgress)
	m.incomplete.Store(0)
	pt, _, err := m.decrypt(at, ct)
	if err != nil || string(pt) != "x" {
		t.Errorf("%q, %v", pt, err)
	}
}

// TestWhatNeverWasIsToldWhateverIsBeingChanged: no state up to the newest had it. If
// that waited for all changes to be complete, then under steady changes nobody would
// ever hear that a name is wrong.
func TestWhatNeverWasIsToldWhateverIsBeingChanged(t *testing.T) {
	w, m := cluster1(t)
	at := target("acme", "pay")
	ct, _, err := m.encrypt(at, []byte("x"))
	check(t, err)
	must[*fsmpb.Service](t)(m.createService(w.request(), "acme", "hr"))
	n := 0
	m.finish = func() { // a change is complete, and the next one is there already
		event := []fsmpb.ObjectEvent{suspend, resume}[n%2]
		n++
		check(t, m.changeObject(w.request(), object("acme", "log"), event, 0))
		m.incomplete.Store(m.machine.View().Index())
	}
	m.finish()
	for _, name := range []node.Target{target("acme", "nothing"), target("nobody", "pay")} {
		_, _, err = m.decrypt(name, ct)
		wants(t, err, errs.NotFound)
	}
	_, _, err = m.decrypt(target("acme", "hr"), ct) // of another service
	wants(t, err, errs.Integrity)

	// What it was looked for in may be new itself.
	m.finish = nil
	w.tenant(m, "beta")
	v, _ := m.machine.View().Tenant("beta")
	m.incomplete.Store(fsm.GateIndex(v))
	_, _, err = m.decrypt(target("beta", "nothing"), ct)
	wants(t, err, errs.ChangeInProgress)
	m.incomplete.Store(0)
	_, _, err = m.decrypt(target("beta", "nothing"), ct)
	wants(t, err, errs.NotFound)
}

// TestNotYetArrivesBeforeTheCallersDeadline: a caller that hears nothing takes the
// node for dead.
func TestNotYetArrivesBeforeTheCallersDeadline(t *testing.T) {
	w, m := cluster1(t, withClock(clock.System{}))
	check(t, m.changeObject(w.request(), node.Object{Tenant: "acme", Service: "pay"}, suspend, 0))
	m.incomplete.Store(m.machine.View().Index())
	ctx, cancel := context.WithTimeout(t.Context(), node.GateWait)
	defer cancel()
	wants(t, m.encryptCtx(ctx, target("acme", "pay")), errs.ChangeInProgress)
	if ctx.Err() != nil {
		t.Error("the answer comes after the deadline")
	}
}

// TestARotationKeepsNobodyWaiting: which version wraps while the pointer moves is
// either.
func TestARotationKeepsNobodyWaiting(t *testing.T) {
	w, m := cluster1(t)
	at := target("acme", "pay")
	ct, _, err := m.encrypt(at, []byte("x"))
	check(t, err)
	check(t, m.rotate(w.request(), node.Object{Tenant: "acme", Service: "pay"}))
	m.incomplete.Store(m.machine.View().Index())
	if pt, _, err := m.decrypt(at, ct); err != nil || string(pt) != "x" {
		t.Errorf("decrypt: %q, %v", pt, err)
	}
	_, used, err := m.encrypt(at, []byte("y"))
	check(t, err)
	if used.Name != "tenants/acme/services/pay/versions/2" {
		t.Errorf("wrapped by %s", used.Name)
	}
}
