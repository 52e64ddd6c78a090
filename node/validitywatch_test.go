package node_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// TestI20_AKeyThatIsWithdrawnEndsWhatMemoryHas: the node serves from memory and asks
// nobody, until the next proof; then nothing of that tenant is served or left in memory, its
// audit trail has it, and other tenants do not notice.
func TestI20_AKeyThatIsWithdrawnEndsWhatMemoryHas(t *testing.T) {
	w, m := cluster1(t)
	const otherKey = "beta-l1"
	check(t, w.customer.CreateKey(t.Context(), otherKey))
	b := binding()
	b.Key = otherKey
	_, err := m.createTenant(w.request(), "beta", b)
	check(t, err)
	_, err = m.createService(w.request(), "beta", "pay")
	check(t, err)
	w.bind(m, auth.RoleWorkload, "beta", "app")
	acme, beta := target("acme", "pay"), target("beta", "pay")
	_, _, err = m.encrypt(beta, nil)
	check(t, err)
	ivk, l2, l21, l3 := m.Loaded()
	before := memsec.Report().Secrets - ivk - l2 - l21 - l3
	ct, _, err := m.encrypt(acme, []byte("x"))
	check(t, err)

	check(t, w.customer.Disable(t.Context(), customerKey))
	w.advance(validity.DefaultCheck * 3 / 4)
	_, _, err = m.decrypt(acme, ct)
	check(t, err)
	w.advance(validity.DefaultCheck / 4)
	m.ProveL1(t.Context())
	calls := w.calls.unwraps.Load()
	for range 3 {
		_, _, err = m.decrypt(acme, ct)
		wants(t, err, errs.L1Denied)
	}
	if n := w.calls.unwraps.Load() - calls; n != 0 {
		t.Errorf("%d calls to the keystore of a tenant that is denied", n)
	}
	_, _, err = m.encrypt(beta, nil)
	check(t, err)
	if _, l2, l21, l3 := m.Loaded(); l2 != 1 || l21 != 1 || l3 != 1 {
		t.Errorf("%d, %d and %d keys of the layers in memory, want those of the other tenant", l2, l21, l3)
	}
	if rs := m.records("node.check_l1"); len(rs) != 1 || rs[0].Outcome != errs.OutcomeDenied || rs[0].Object != "tenants/acme" {
		t.Errorf("recorded: %+v", rs)
	}

	check(t, w.customer.Enable(t.Context(), customerKey))
	w.advance(validity.DefaultCheck)
	m.ProveL1(t.Context())
	_, _, err = m.decrypt(acme, ct)
	check(t, err)
	if rs := m.records("node.check_l1"); len(rs) != 2 || rs[1].Outcome != errs.OutcomeOK {
		t.Errorf("recorded: %+v", rs)
	}
	ivk, l2, l21, l3 = m.Loaded()
	if n := memsec.Report().Secrets - before; n != ivk+l2+l21+l3 {
		t.Errorf("%d secrets for %d keys", n, ivk+l2+l21+l3)
	}
}

// TestI20_AnOutageIsLivedThroughForTheGrace, and not longer, also by a node that made no
// proofs meanwhile: one that slept with its machine.
func TestI20_AnOutageIsLivedThroughForTheGrace(t *testing.T) {
	for _, slept := range []bool{false, true} {
		w, m := cluster1(t)
		tg := target("acme", "pay")
		_, _, err := m.encrypt(tg, nil)
		check(t, err)
		dir := filepath.Join(w.dir, "customer")
		check(t, os.Rename(dir, dir+".away"))
		if slept {
			w.advance(validity.DefaultGrace - 1)
		} else {
			for range int(validity.DefaultGrace/validity.DefaultCheck) - 1 {
				w.advance(validity.DefaultCheck)
				m.ProveL1(t.Context())
			}
		}
		_, _, err = m.encrypt(tg, nil)
		check(t, err)
		w.advance(validity.DefaultCheck)
		_, _, err = m.encrypt(tg, nil)
		wants(t, err, errs.L1Unavailable)
		m.ProveL1(t.Context())
		if _, l2, l21, l3 := m.Loaded(); l2+l21+l3 != 0 {
			t.Errorf("%d, %d and %d keys of the layers in memory", l2, l21, l3)
		}
		check(t, os.Rename(dir+".away", dir))
		_, _, err = m.encrypt(tg, nil)
		check(t, err)
	}
}

// TestI20_ATenantThatEndsIsNotProvedAnyMore.
func TestI20_ATenantThatEndsIsNotProvedAnyMore(t *testing.T) {
	w, m := cluster1(t)
	_, _, err := m.encrypt(target("acme", "pay"), nil)
	check(t, err)
	check(t, m.changeObject(w.request(), object("acme", ""), suspend, 0))
	calls := w.calls.unwraps.Load()
	for range 3 {
		w.advance(validity.DefaultCheck)
		m.ProveL1(t.Context())
	}
	if n := w.calls.unwraps.Load() - calls; n != 0 {
		t.Errorf("%d calls for a tenant that is suspended", n)
	}
	if tenants, _ := m.L1(); len(tenants) != 0 {
		t.Errorf("it watches %v", tenants)
	}
}
