package fsm_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// sampled says after which commands [checkRestores] looks: after every one where a
// test has few of them, else after some, so that it costs less than the test itself.
// The tests of limits have states of many MB, and [TestI1_OneLogOneState] looks after
// every one of a random history.
func (w *world) sampled() bool {
	if _, random := w.tb.(*rapid.T); random {
		return w.index%16 == 0
	}
	if w.index > 100 && w.index%1009 != 0 {
		return false
	}
	// Hundreds of tests begin with the same commands; the chain says which.
	_, _, chain := w.m.Applied()
	_, seen := looked.LoadOrStore(chain, true)
	return !seen
}

// looked has the state chains after which [checkRestores] looked.
var looked sync.Map

// checkRestores holds I1 of the state after every command of every test: a machine
// that is restored from its snapshot has the same state, and that is more than what
// the snapshot says. What a machine keeps besides, counters, indexes, what is due and
// what is to be removed, decides what the next command does.
func checkRestores(t tb, m *fsm.Machine) {
	t.Helper()
	var buf bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&buf, nil); err != nil {
		t.Fatalf("write: %v", err)
	}
	again := fsm.New(fsm.Options{})
	if err := again.Restore(&buf); err != nil {
		t.Fatalf("restore: %v", err)
	}
	if d := m.View().Differs(again.View()); d != "" {
		t.Fatalf("I1: a state at index %d is another one after a restore: %s", m.View().Index(), d)
	}
}

// TestI1_AKeyThatLeavesADestroyedTenant: the binding of a destroyed tenant gives way
// to a new one with its key, before a tick removed it. Nothing is left to reap then,
// on the replica that has the log no less than on one that got a snapshot.
func TestI1_AKeyThatLeavesADestroyedTenant(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"acme", "beta"} {
		w.ok(w.createTenant(name))
	}
	w.ok(bind(w.workload("acme", "app")))
	moved := w.workload("beta", "app")
	moved.Keys = w.workload("acme", "app").GetKeys()
	w.refused(errs.AlreadyExists, bind(moved))
	w.ok(destroyNow("acme", ""))
	if at, ok := w.view().NextDue(); !ok || at != 0 {
		t.Fatalf("a tick is due at %d, %v, want at once: the tenant owns a binding", at, ok)
	}
	w.ok(bind(moved))
	if at, ok := w.view().NextDue(); ok && at == 0 {
		t.Error("a tick is due at once, and has nothing to do")
	}
	checkRestores(t, w.m)
}

// TestI1_TheLastServiceGoesWithATickThatIsSpent: the tick that destroys the last
// service of a destroyed tenant, because its own time has come, has done all that one
// tick may and reaps nothing any more.
func TestI1_TheLastServiceGoesWithATickThatIsSpent(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"acme", "beta"} {
		w.ok(w.createTenant(name))
	}
	schedule := func(tenant, service string) {
		w.ok(w.createService(tenant, service))
		w.ok(changeObject(tenant, service, fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, ""))
	}
	schedule("acme", "last")
	w.now++ // it is the first to be due
	for i := range fsm.MaxTickObjects - 1 {
		schedule("beta", fmt.Sprintf("s%d", i))
	}
	w.ok(destroyNow("acme", ""))
	w.now += destroyW
	w.ok(tick())
	for _, name := range []string{"last", "s0", fmt.Sprintf("s%d", fsm.MaxTickObjects-2)} {
		tenant := "beta"
		if name == "last" {
			tenant = "acme"
		}
		if s := w.serviceOf(tenant, name); s.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
			t.Fatalf("service %s is %v after the tick, want destroyed", name, s.GetState())
		}
	}
	if at, ok := w.view().NextDue(); ok && at <= w.now {
		t.Errorf("a tick is due at %d, and has nothing to do", at)
	}
	checkRestores(t, w.m)
}

// TestI1_ASnapshotIsSoundBeforeTheTick: an issuer was limited to other tenants than
// the destroyed one in which somebody is still bound under it. A snapshot of that
// moment, before a tick removed the binding, is one that a node can start from.
func TestI1_ASnapshotIsSoundBeforeTheTick(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"acme", "beta"} {
		w.ok(w.createTenant(name))
	}
	i := jwtIssuer("idp")
	i.AllTenants, i.TenantUids = false, [][]byte{w.tenantOf("acme").GetUid(), w.tenantOf("beta").GetUid()}
	sortUIDs(i.GetTenantUids())
	w.ok(putIssuer(i))
	idp := w.issuerOf("", "idp")
	w.ok(bind(under(idp, w.workload("beta", "app"), "app")))
	gone := w.tenantOf("beta").GetUid()
	w.ok(destroyNow("beta", ""))
	less := jwtIssuer("idp")
	less.AllTenants, less.TenantUids = false, [][]byte{w.tenantOf("acme").GetUid()}
	w.ok(putIssuer(less))
	if n := len(w.view().Bindings("beta", "", 2)); n != 0 {
		t.Fatalf("%d bindings of a destroyed tenant are shown", n)
	}
	checkRestores(t, w.m)

	// Who is bound beyond the issuer in a tenant that is there is refused still.
	w.ok(bind(under(idp, w.workload("acme", "app"), "other")))
	raw := edit(t, snapshotOf(t, w.view()), func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		for _, it := range items {
			if o := it.GetIssuer(); o.GetId() == "idp" {
				o.TenantUids = [][]byte{gone}
			}
		}
		return items
	})
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(raw)); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("got %v, want %s", err, errs.StateCorrupt)
	}
}

// TestI1_WhoWasBehindSeesThatPoliciesAreGone: a node compiles policies again only when
// [fsm.View.PoliciesAt] is another number. One that was behind, and got a snapshot in
// which a policy that it knew is gone, must not find the number that it had.
func TestI1_WhoWasBehindSeesThatPoliciesAreGone(t *testing.T) {
	for name, gone := range map[string]func(w *world){
		"removed":                func(w *world) { w.ok(removePolicy("acme", "first")) },
		"with its tenant":        func(w *world) { w.ok(destroyNow("acme", "")); w.ok(tick()) },
		"with a replaced tenant": func(w *world) { w.ok(destroyNow("acme", "")); w.ok(tick()); w.ok(w.createTenant("acme")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for _, tenant := range []string{"acme", "beta"} {
				w.ok(w.createTenant(tenant))
				w.ok(w.putPolicy(tenant, "first", "text"))
			}
			behind := replay(t, w.log)
			knew := behind.View().PoliciesAt()
			gone(w)
			var buf bytes.Buffer
			if _, err := w.m.Snapshot().WriteTo(&buf, nil); err != nil {
				t.Fatal(err)
			}
			if err := behind.Restore(&buf); err != nil {
				t.Fatal(err)
			}
			if at := behind.View().PoliciesAt(); at == knew || at != w.view().PoliciesAt() {
				t.Errorf("policies changed at %d after the restore, %d before it and %d where the log is", at, knew, w.view().PoliciesAt())
			}
		})
	}
}
