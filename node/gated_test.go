package node_test

import (
	"context"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
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
// node for dead. A machine that has other things to do may keep one answer for long,
// and not each of many.
func TestNotYetArrivesBeforeTheCallersDeadline(t *testing.T) {
	w, m := cluster1(t, withClock(clock.System{}))
	check(t, m.changeObject(w.request(), node.Object{Tenant: "acme", Service: "pay"}, suspend, 0))
	m.incomplete.Store(m.machine.View().Index())
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), node.GateWait)
		err := m.encryptCtx(ctx, target("acme", "pay"))
		late := ctx.Err() != nil
		cancel()
		if !late {
			wants(t, err, errs.ChangeInProgress)
			return
		}
	}
	t.Error("no answer comes before its deadline")
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

// TestALookIsAsOldAsItIs: a lease that comes after the look says nothing of what was
// looked at. And what was looked at with a lease is shown once it is complete.
func TestALookIsAsOldAsItIs(t *testing.T) {
	w, m := cluster1(t)
	m.contact.Store(1 << 62)
	old := m.Look()
	m.contact.Store(0)
	if !old.Stale || m.Look().Stale {
		t.Errorf("without a lease %v, with one %v", old.Stale, m.Look().Stale)
	}
	check(t, m.changeObject(w.request(), object("acme", "pay"), suspend, 0))
	now := m.Look()
	m.incomplete.Store(now.View.Index())
	check(t, m.Shown(t.Context(), old, now.View.Index())) // marked
	check(t, m.Shown(t.Context(), now, now.View.Index()-1))
	wants(t, m.Shown(t.Context(), now, now.View.Index()), errs.ChangeInProgress)
}

// TestWhatANodeDecidesByItselfItDecidesWithALease: the primary that a pin is fixed to,
// the version before it, and what a change that is only checked would do. By an old
// view a pin would fix a version that a rotation had taken out of use.
func TestWhatANodeDecidesByItselfItDecidesWithALease(t *testing.T) {
	w, a := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	o := object("acme", "pay")
	check(t, a.rotate(w.request(), o))
	b.follow()
	b.behind.Store(true)
	b.contact.Store(1 << 62)
	check(t, a.rotate(w.request(), o))
	checked := func() node.Request {
		r := w.request()
		r.ValidateOnly = true
		return r
	}
	for name, f := range map[string]func(m *member, o node.Object) error{
		"pin":          func(m *member, o node.Object) error { return m.pinResource(w.request(), o, "row", 0) },
		"roll back":    func(m *member, o node.Object) error { return m.rollback(w.request(), o, 0) },
		"to a version": func(m *member, o node.Object) error { return m.rollback(w.request(), o, 1) },
		"only checked": func(m *member, o node.Object) error { return m.changeObject(checked(), o, suspend, 0) },
	} {
		for _, o := range []node.Object{o, object("acme", "nothing")} {
			if err := f(b, o); !errs.Is(err, errs.NotServing) {
				t.Errorf("%s of %s: %v", name, o.Name(), err)
			}
		}
	}
	check(t, a.pinResource(w.request(), o, "row", 0))
	s, _ := a.machine.View().Service("acme", "pay")
	if r, ok := a.machine.View().Resource(s, "row"); !ok || r.GetVersion() != s.GetPrimary() {
		t.Errorf("pinned to %d, the primary is %d", r.GetVersion(), s.GetPrimary())
	}
}

// TestRefusalsOfChangesTellNothingThatIsNotComplete, also those that no command was
// committed for: whoever is told that a tenant is suspended asks another node, which
// serves it.
func TestRefusalsOfChangesTellNothingThatIsNotComplete(t *testing.T) {
	w, m := cluster1(t)
	o := object("acme", "pay")
	w.tenant(m, "beta")
	check(t, m.changeObject(w.request(), object("beta", ""), suspend, 0))
	checked := w.request()
	checked.ValidateOnly = true
	w.tenant(m, "gone")
	check(t, m.changeObject(w.request(), object("gone", ""), fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, node.WithoutWait))
	for _, c := range []struct {
		name string
		do   func() error
		want errs.Code
	}{
		{"a service of a suspended tenant", func() error { _, err := m.createService(w.request(), "beta", "x"); return err }, errs.FailedState},
		{"a version of a suspended tenant", func() error { return m.rotate(w.request(), object("beta", "")) }, errs.FailedState},
		{"a service of no tenant", func() error { _, err := m.createService(w.request(), "nobody", "x"); return err }, errs.NotFound},
		{"what was before nothing", func() error { return m.rollback(w.request(), o, 0) }, errs.FailedState},
		{"a pin of nothing", func() error { return m.pinResource(w.request(), object("acme", "nothing"), "row", 0) }, errs.NotFound},
		{"only checked", func() error { return m.changeObject(checked, object("beta", ""), suspend, 0) }, errs.FailedState},
		{"a certificate for a destroyed tenant", func() error { return m.issueWorkload("gone") }, errs.NotFound},
	} {
		m.incomplete.Store(m.machine.View().Index())
		if c.name == "a certificate for a destroyed tenant" {
			v, _ := m.machine.View().Tenant("gone")
			m.incomplete.Store(v.GetModIndex())
		}
		if err := c.do(); !errs.Is(err, errs.ChangeInProgress) {
			t.Errorf("%s, while a change is not complete: %v", c.name, err)
		}
		m.incomplete.Store(0)
		if err := c.do(); !errs.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func (m *member) issueWorkload(tenant hierarchy.Name) error {
	return m.do(m.governor(), gate.IssueCertificate, hierarchy.TenantPath(tenant).String(), func(ctx context.Context, tok gate.Token) error {
		_, _, err := m.IssueCaller(ctx, tok, m.w.request(), node.Caller{Role: auth.RoleWorkload, Tenant: tenant, Name: "x", PublicKey: m.spki()}, 0)
		return err
	})
}
