package fsm_test

import (
	"fmt"
	"sync"
	"testing"
)

// Many more names than a view remembers, and one name under many tenants: each
// answer is the object that was asked for, however often and by how many.
func TestNamesThatTakeTurnsInAViewAreNotMixedUp(t *testing.T) {
	const tenants = 300
	w := newWorld(t)
	for i := range tenants {
		w.ok(w.createTenant(fmt.Sprintf("t%d", i)))
		w.ok(w.createService(fmt.Sprintf("t%d", i), "payments"))
	}
	v := w.view()
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for round := range 3 {
				for i := range tenants {
					name := fmt.Sprintf("t%d", (i+worker*round)%tenants)
					ten, ok := v.Tenant(name)
					if !ok || ten.GetName() != name {
						t.Errorf("tenant %s: got %q, %t", name, ten.GetName(), ok)
						return
					}
					svc, ok := v.ServiceOf(ten, "payments")
					if !ok || svc.GetName() != "payments" || string(svc.GetTenantUid()) != string(ten.GetUid()) {
						t.Errorf("the service of %s is another tenant's", name)
						return
					}
					if _, ok := v.ServiceOf(ten, "orders"); ok {
						t.Errorf("%s has a service that nobody made", name)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if _, ok := v.Tenant("t" + fmt.Sprint(tenants)); ok {
		t.Error("a tenant that nobody made")
	}
}

// What a view remembers is its own: the next one answers from its own state, and
// the one before goes on answering from its own.
func TestI4_NamesAreRememberedPerView(t *testing.T) {
	w := newWorld(t)
	w.ok(w.createTenant("acme"))
	w.ok(w.createService("acme", "payments"))
	before := w.view()
	old, _ := before.Service("acme", "payments")
	w.ok(changeObject("acme", "payments", suspend, ""))
	now, _ := w.view().Service("acme", "payments")
	if old.GetState() == now.GetState() {
		t.Error("a view answers what it was before the change")
	}
	if again, _ := before.Service("acme", "payments"); again != old {
		t.Error("an older view answers what came after it")
	}
}
