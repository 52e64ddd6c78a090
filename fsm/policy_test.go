package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI18_EveryDataOperationReadsThePolicies: whatever else it reads, what a data
// operation is gated by knows of the last change of a policy of its tenant, and of
// no other tenant's.
func TestI18_EveryDataOperationReadsThePolicies(t *testing.T) {
	w := peopled(t)
	gateOf := func(tenant string) uint64 {
		tn, s := w.tenantOf(tenant), w.serviceOf(tenant, "pay")
		return w.view().GateIndex(fsm.ReadSet{Tenant: tn, Service: s, Version: s.GetVersions()[0]})
	}
	other := gateOf("beta")
	put := func() *fsmpb.Command { return w.putPolicy("acme", "p", "one") }
	for _, f := range []func() *fsmpb.Command{put, put, func() *fsmpb.Command { return removePolicy("acme", "p") }} {
		c := f()
		c.Principal = caller("governor", "g1")
		if at := w.ok(c).GetIndex(); gateOf("acme") != at || w.tenantOf("acme").GetPolicyIndex() != at {
			t.Errorf("after the change at %d the gate is %d and the policies are of %d", at, gateOf("acme"), w.tenantOf("acme").GetPolicyIndex())
		}
	}
	if got := gateOf("beta"); got != other {
		t.Errorf("the gate of another tenant moved from %d to %d", other, got)
	}
}

// TestI20_AGovernorOfAnotherTenantSetsNoPolicy, nor one of the platform.
func TestI20_AGovernorOfAnotherTenantSetsNoPolicy(t *testing.T) {
	w := peopled(t)
	for _, who := range []string{"gov", "g2"} {
		for _, c := range []*fsmpb.Command{w.putPolicy("acme", "p", "text"), w.putPolicy("acme", "first", "text"), removePolicy("acme", "first")} {
			c.Principal = caller("governor", who)
			w.refused(errs.Denied, c)
		}
	}
	if p, ok := w.view().Policy("acme", "first"); !ok || p.GetText() != "text" || len(w.view().Policies(w.tenantOf("acme"), "", 100)) != 1 {
		t.Errorf("the policies changed: %v", p)
	}
}

// TestI8_APolicyIsSignedByGovernorsOfItsTenant: whole, and by nobody else's.
func TestI8_APolicyIsSignedByGovernorsOfItsTenant(t *testing.T) {
	w, keys := sovereign(t)
	put := func() *fsmpb.Command { return w.putPolicy("acme", "p", "permit (principal, action, resource);") }
	sign := func(c *fsmpb.Command, who ...string) *fsmpb.Command {
		all := make([]ed25519.PrivateKey, 0, len(who))
		for _, n := range who {
			all = append(all, keys[n])
		}
		return w.signedBy(c, w.ordered(c), all...)
	}
	w.refused(errs.IntentRefused, put())
	w.refused(errs.IntentRefused, sign(put(), "alice", "bob")) // alice governs the platform
	other := put()
	signed := sign(put(), "carol", "bob")
	other.GetPutPolicy().GetPolicy().Text += "\n// and one byte more"
	other.Principal, other.Intents = signed.GetPrincipal(), signed.GetIntents()
	w.refused(errs.IntentRefused, other)
	w.ok(signed)
	p, _ := w.view().Policy("acme", "p")
	if len(p.GetAuthorizedBy()) == 0 {
		t.Error("the policy does not say who signed it")
	}
	w.refused(errs.IntentRefused, removePolicy("acme", "p"))
	w.ok(sign(removePolicy("acme", "p"), "carol", "bob"))
}

func TestLimitsOfPolicies(t *testing.T) {
	w := peopled(t)
	g1 := func(c *fsmpb.Command) *fsmpb.Command { c.Principal = caller("governor", "g1"); return c }
	big := strings.Repeat("x", fsm.MaxPolicyBytes)
	w.refused(errs.InvalidArgument, g1(w.putPolicy("acme", "p", big+"x")))
	w.refused(errs.InvalidArgument, g1(w.putPolicy("acme", "p", "")))
	w.refused(errs.InvalidArgument, g1(w.putPolicy("acme", "P", "text")))
	for n := range fsm.MaxPolicySetBytes / fsm.MaxPolicyBytes {
		text := big
		if n == 0 {
			text = big[:len(big)-len("text")] // for the one that is there
		}
		w.ok(g1(w.putPolicy("acme", fmt.Sprintf("big%d", n), text)))
	}
	w.refused(errs.LimitReached, g1(w.putPolicy("acme", "p", "x")))
	w.refused(errs.LimitReached, g1(w.putPolicy("acme", "first", "text and more")))
	w.ok(g1(w.putPolicy("acme", "first", "none")))
	w.ok(g1(w.putPolicy("acme", "big0", "x")))
	for n := len(w.view().Policies(w.tenantOf("acme"), "", 100)); n < fsm.MaxPoliciesPerTenant; n++ {
		w.ok(g1(w.putPolicy("acme", fmt.Sprintf("p%d", n), "x")))
	}
	w.refused(errs.LimitReached, g1(w.putPolicy("acme", "one-more", "x")))
	w.ok(g1(w.putPolicy("acme", "big0", "y"))) // one that is there may change
	w.ok(g1(removePolicy("acme", "big0")))
	w.ok(g1(w.putPolicy("acme", "one-more", "x")))
	restored := fsm.New(fsm.Options{})
	if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	sameState(t, w.m, restored)
}

// TestPoliciesGoWithTheirTenant: they count no more at once, and are gone with ticks;
// a tenant that takes the name has none.
func TestPoliciesGoWithTheirTenant(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	w.ok(w.putPolicy("beta", "p", "text"))
	stale := w.putPolicy("beta", "q", "text")
	w.ok(destroyNow("beta", ""))
	if _, ok := w.view().Policy("beta", "p"); ok || len(w.view().Policies(w.tenantOf("beta"), "", 100)) != 0 {
		t.Error("a destroyed tenant has policies")
	}
	w.refused(errs.FailedState, stale)
	w.refused(errs.FailedState, removePolicy("beta", "p"))
	w.ok(w.createTenant("beta"))
	w.refused(errs.Aborted, stale) // made for the tenant before
	for range 3 {
		w.ok(tick())
	}
	w.ok(w.createService("beta", "pay"))
	if tn := w.tenantOf("beta"); tn.GetPolicyIndex() != 0 || len(w.view().Policies(tn, "", 100)) != 0 {
		t.Errorf("the new tenant has policies: %v", tn)
	}
	for _, it := range itemsOf(t, snapshot(t, w.m, nil)) {
		if it.GetPolicy() != nil {
			t.Errorf("still there: %v", it)
		}
	}
}

func TestEtagsOfPolicies(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	at := w.ok(w.putPolicy("acme", "p", "one")).GetIndex()
	create := w.putPolicy("acme", "p", "two")
	create.GetPutPolicy().Create = true
	w.refused(errs.AlreadyExists, create)
	two := w.putPolicy("acme", "p", "two")
	two.GetPutPolicy().Etag = at
	w.ok(two)
	w.refused(errs.StaleEtag, two)
	// What was checked without another policy that came since is checked again.
	other := w.putPolicy("acme", "q", "one")
	w.ok(w.putPolicy("acme", "r", "one"))
	w.refused(errs.Aborted, other)
	gone := removePolicy("acme", "p")
	gone.GetRemovePolicy().Etag = at
	w.refused(errs.StaleEtag, gone)
	w.refused(errs.NotFound, removePolicy("acme", "none"))
	w.refused(errs.NotFound, removePolicy("nobody", "p"))
}

// TestOlderClustersHaveNoPolicies: a release of before would stop at one.
func TestOlderClustersHaveNoPolicies(t *testing.T) {
	w := newWorld(t, ofFormat(fsm.FormatAuthority-1))
	furnish(w)
	w.refused(errs.FailedState, w.putPolicy("acme", "p", "text"))
	w.refused(errs.FailedState, removePolicy("acme", "p"))
}

// TestI13_NoSnapshotHasPoliciesThatNoCommandCouldMake.
func TestI13_NoSnapshotHasPoliciesThatNoCommandCouldMake(t *testing.T) {
	w := newWorld(t)
	furnish(w)
	w.ok(w.putPolicy("acme", "p", "text"))
	w.ok(w.putPolicy("acme", "q", "text"))
	raw := snapshot(t, w.m, testMAC)
	policy := func(f func(*fsmpb.Policy)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetPolicy().GetId() == "q" {
					f(it.GetPolicy())
				}
			}
			return items
		}
	}
	for name, change := range map[string]func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem{
		"no text":             policy(func(p *fsmpb.Policy) { p.Text = "" }),
		"a text too long":     policy(func(p *fsmpb.Policy) { p.Text = strings.Repeat("x", fsm.MaxPolicyBytes+1) }),
		"no name":             policy(func(p *fsmpb.Policy) { p.Id = "Q" }),
		"another name of it":  policy(func(p *fsmpb.Policy) { p.Tenant = "beta" }),
		"another tenant":      policy(func(p *fsmpb.Policy) { p.Tenant, p.TenantUid = "beta", w.tenantOf("beta").GetUid() }),
		"of nobody":           policy(func(p *fsmpb.Policy) { p.TenantUid = w.uid() }),
		"no time":             policy(func(p *fsmpb.Policy) { p.CreateTimeMs = 0 }),
		"no index":            policy(func(p *fsmpb.Policy) { p.ModIndex = 0 }),
		"a change of later":   policy(func(p *fsmpb.Policy) { p.ModIndex = w.index + 1 }),
		"an intent that none": policy(func(p *fsmpb.Policy) { p.AuthorizedBy = []*fsmpb.SignedIntent{{}} }),
		"a tenant that does not know of it": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetTenant().GetName() == "acme" {
					it.GetTenant().PolicyIndex--
				}
			}
			return items
		},
		"a tenant whose gate does not know of it": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetTenant().GetName() == "acme" {
					it.GetTenant().GateIndex--
				}
			}
			return items
		},
	} {
		err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(edit(t, raw, change)))
		if !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(edit(t, raw, policy(func(*fsmpb.Policy) {})))); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}
