package node_test

import (
	"context"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/policy"
)

const (
	permitAll  = `permit (principal, action, resource);`
	permitRead = `permit (principal, action in Krypton::Action::"read", resource);`
)

func (m *member) putPolicy(r node.Request, tenant, id hierarchy.Name, text string) (p *fsmpb.Policy, err error) {
	err = m.do(m.governor(), gate.PutPolicy, hierarchy.PolicyPath(tenant, id).String(), func(ctx context.Context, tok gate.Token) (err error) {
		p, err = m.PutPolicy(ctx, tok, r, tenant, policy.Text{Name: id, Text: text}, node.ReplaceExisting)
		return err
	})
	return p, err
}

func (m *member) deletePolicy(r node.Request, tenant, id hierarchy.Name) error {
	return m.do(m.governor(), gate.DeletePolicy, hierarchy.PolicyPath(tenant, id).String(), func(ctx context.Context, tok gate.Token) error {
		_, err := m.DeletePolicy(ctx, tok, r, tenant, id)
		return err
	})
}

// forced is a policy that no node of today would take: a command by a node that
// checks nothing.
func (m *member) forced(tenant, id, text string) {
	m.w.tb.Helper()
	t, _ := m.machine.View().Tenant(tenant)
	res := m.w.commit(&fsmpb.Command{
		Format: 1, TimeUnixMs: m.w.clock.Now().UnixMilli(), Principal: &fsmpb.Principal{Issuer: m.w.callers.String(), Kind: "governor", Name: "gov"},
		RequestId: m.w.request().ID, RequestDigest: make([]byte, 32),
		Body: &fsmpb.Command_PutPolicy{PutPolicy: &fsmpb.PutPolicy{
			Policy: &fsmpb.Policy{Tenant: tenant, TenantUid: t.GetUid(), Id: id, Text: text}, PolicyIndex: t.GetPolicyIndex(),
		}},
	})
	if res.GetReason() != "" {
		m.w.tb.Fatalf("%v", res)
	}
}

// read passes the gate for an act that changes nothing.
func (m *member) read(p auth.Principal, act gate.Act, object string) error {
	return m.do(p, act, object, func(context.Context, gate.Token) error { return nil })
}

// TestI10_WhatNoPolicyPermitsIsDenied: without policies the role decides; with the
// first one, only what is permitted.
func TestI10_WhatNoPolicyPermitsIsDenied(t *testing.T) {
	w, m := cluster1(t)
	pay, log := target("acme", "pay"), target("acme", "log")
	ct, _, err := m.encrypt(pay, []byte("x"))
	check(t, err)
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "pay", `permit (principal == Krypton::Workload::"app", action in Krypton::Action::"use", resource == Krypton::Service::"pay");`))
	_, _, err = m.decrypt(pay, ct)
	check(t, err)
	_, _, err = m.encrypt(log, []byte("x"))
	wants(t, err, errs.Denied)
	wants(t, m.read(m.workload("acme"), gate.GetService, "tenants/acme/services/pay"), errs.Denied)

	// The caller learns no more than of any other denial, the record names the policy.
	if e := errs.From(err); strings.Contains(e.Msg+e.Hint, "permit") || e.Msg != "the role workload may not do crypto.encrypt here" {
		t.Errorf("the caller hears %q, %q", e.Msg, e.Hint)
	}
	all := m.records("crypto.decrypt")
	if got := all[len(all)-1].Cause; got != "policy: permitted by pay:1" {
		t.Errorf("the record of what is allowed says %q", got)
	}
	all = m.records("crypto.encrypt")
	if got := all[len(all)-1]; got.Cause != "policy: nothing permits it" || got.Outcome != errs.OutcomeDenied || got.Code != errs.Denied {
		t.Errorf("the record of what is denied is %+v", got)
	}

	// Another tenant is none the worse, and without the last policy all is as it was.
	w.tenant(m, "beta", "pay")
	_, _, err = m.encrypt(target("beta", "pay"), []byte("x"))
	check(t, err)
	check(t, m.deletePolicy(w.request(), "acme", "pay"))
	_, _, err = m.encrypt(log, []byte("x"))
	check(t, err)
	check(t, m.read(m.workload("acme"), gate.GetService, "tenants/acme/services/pay"))
}

// TestI10_AForbidThatFailsDenies: cedar-go alone would skip it, and the permit would win.
func TestI10_AForbidThatFailsDenies(t *testing.T) {
	w, m := cluster1(t)
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "all", permitAll))
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "sums", "// No more than that.\n"+
		`forbid (principal, action == Krypton::Action::"crypto.encrypt", resource) when { context.version + 9223372036854775807 < 3 };`))
	_, _, err := m.encrypt(target("acme", "pay"), []byte("x"))
	wants(t, err, errs.Denied)
	all := m.records("crypto.encrypt")
	if got := all[len(all)-1].Cause; !strings.HasPrefix(got, "policy: sums:2 could not be evaluated: ") {
		t.Errorf("the record says %q", got)
	}
	_, _, _, err = m.generate(target("acme", "pay"), 0)
	check(t, err)
}

// TestI10_WhatDoesNotCompileDenies: all of that tenant that policies decide, on that
// node, and nothing else; and the node says so.
func TestI10_WhatDoesNotCompileDenies(t *testing.T) {
	w, m := cluster1(t)
	w.tenant(m, "beta", "pay")
	ct, _, err := m.encrypt(target("acme", "pay"), []byte("x"))
	check(t, err)
	m.forced("acme", "bad", "permit (principal, action, resource) when { context.wishes };")
	for range 2 {
		_, _, err = m.decrypt(target("acme", "pay"), ct)
		wants(t, err, errs.Denied)
	}
	wants(t, m.read(m.workload("acme"), gate.GetService, "tenants/acme/services/pay"), errs.Denied)
	wants(t, m.rotate(w.request(), object("acme", "pay")), errs.Denied)
	faults := m.PolicyFaults()
	if len(faults) != 1 || faults[0].Tenant != "acme" || !strings.HasPrefix(faults[0].Reason, "policy bad, line 1, column 53: ") || strings.Contains(faults[0].Reason, "wishes") {
		t.Errorf("faults are %v", faults)
	}
	_, _, err = m.encrypt(target("beta", "pay"), []byte("x"))
	check(t, err)
	// What takes power away in an emergency asks no policy, nor does what mends them.
	check(t, m.changeVersion(w.request(), object("acme", "log"), 1, disable, 0))
	_, err = m.putPolicy(w.request(), "acme", "good", permitAll)
	wants(t, err, errs.InvalidArgument) // together they would not be right either
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "bad", permitAll))
	_, _, err = m.decrypt(target("acme", "pay"), ct)
	check(t, err)
	if faults := m.PolicyFaults(); len(faults) != 0 {
		t.Errorf("faults are %v", faults)
	}
}

// TestWhatIsNotRightIsNotStored: with place and remedy, and nothing of the text.
func TestWhatIsNotRightIsNotStored(t *testing.T) {
	w, m := cluster1(t)
	_, err := m.putPolicy(w.request(), "acme", "p", "permit (principal, action, resource)\nwhen { context.secretwish };")
	wants(t, err, errs.InvalidArgument)
	if e := errs.From(err); !strings.Contains(e.Msg, "policy p, line 2, column 16") || strings.Contains(e.Msg+e.Hint, "secretwish") || e.Hint == "" {
		t.Errorf("%q, %q", e.Msg, e.Hint)
	}
	if tn, _ := m.machine.View().Tenant("acme"); tn.GetPolicyIndex() != 0 {
		t.Error("it is stored")
	}
}

// TestPoliciesSeeTheRequest: whatever the schema promises of a data operation is what
// the operation is.
func TestPoliciesSeeTheRequest(t *testing.T) {
	w, m := cluster1(t)
	pay := object("acme", "pay")
	_, old, _, err := m.generate(target("acme", "pay"), 0)
	check(t, err)
	check(t, m.rotate(w.request(), pay))
	for _, c := range []struct {
		name, when string
		at         node.Target
		allow      bool
	}{
		{"version that wraps", `context.version == 2`, target("acme", "pay"), true},
		{"another version", `context.version == 1`, target("acme", "pay"), false},
		{"region", `context.region == "eu-1"`, target("acme", "pay"), true},
		{"resource", `context.resource == "row"`, node.Target{Tenant: "acme", Service: "pay", Resource: "row"}, true},
		{"no resource", `context.resource == "row"`, target("acme", "pay"), false},
		{"context", `context.encryption_context has "purpose" && context.encryption_context["purpose"] == "bill"`, node.Target{Tenant: "acme", Service: "pay", Context: encryptionContext(t, "purpose", "bill", "x", "y")}, true},
		{"no context", `context.encryption_context has "purpose"`, target("acme", "pay"), false},
		{"issuer", `principal.issuer == "issuers/builtin"`, target("acme", "pay"), true},
		{"name", `principal.name == "app" && principal.tenant == "acme"`, target("acme", "pay"), true},
		{"service", `resource.name == "log"`, target("acme", "pay"), false},
	} {
		must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", `permit (principal is Krypton::Workload, action in Krypton::Action::"use", resource is Krypton::Service) when { `+c.when+` };`))
		for range 2 { // evaluated, and kept
			if _, _, err := m.encrypt(c.at, []byte("x")); (err == nil) != c.allow || err != nil && !errs.Is(err, errs.Denied) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	// Of a rewrap it is the version that the key comes from, which is the one to forbid.
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", `permit (principal, action == Krypton::Action::"crypto.rewrap_data_key", resource) when { context.version == 1 };`))
	fresh, used, _, err := m.rewrap(target("acme", "pay"), old)
	if err != nil || used.Name != pay.VersionName(2) {
		t.Errorf("rewrap: %s, %v", used.Name, err)
	}
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", permitAll))
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "q", `forbid (principal, action == Krypton::Action::"crypto.rewrap_data_key", resource) when { context.version == 1 };`))
	_, _, _, err = m.rewrap(target("acme", "pay"), old)
	wants(t, err, errs.Denied)
	_ = fresh
}

// TestI3_ADenialTellsOfAPolicyLikeEveryAnswer: not before no node decides by the
// policies before, and so with what a new one permits.
func TestI3_ADenialTellsOfAPolicyLikeEveryAnswer(t *testing.T) {
	w, m := cluster1(t)
	pay := target("acme", "pay")
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", permitRead))
	m.incomplete.Store(m.machine.View().Index())
	_, _, err := m.encrypt(pay, []byte("x"))
	wants(t, err, errs.ChangeInProgress)
	m.incomplete.Store(0)
	_, _, err = m.encrypt(pay, []byte("x"))
	wants(t, err, errs.Denied)
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", permitAll))
	m.incomplete.Store(m.machine.View().Index())
	_, _, err = m.encrypt(pay, []byte("x"))
	wants(t, err, errs.ChangeInProgress)
	m.incomplete.Store(0)
	_, _, err = m.encrypt(pay, []byte("x"))
	check(t, err)
}

// TestI3_APolicyThatComesAfterTheRecordStopsTheAnswer, and one that goes stops the denial.
func TestI3_APolicyThatComesAfterTheRecordStopsTheAnswer(t *testing.T) {
	w, m := cluster1(t)
	pay := target("acme", "pay")
	put := func(text string) func() {
		return func() {
			m.sinkHook(nil)
			must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", text))
		}
	}
	put(permitAll)()
	m.sinkHook(put(permitRead))
	_, _, err := m.encrypt(pay, []byte("x"))
	wants(t, err, errs.ChangeInProgress)
	m.sinkHook(put(permitAll))
	_, _, err = m.encrypt(pay, []byte("x"))
	wants(t, err, errs.ChangeInProgress)
	_, _, err = m.encrypt(pay, []byte("x"))
	check(t, err)
}

// TestPoliciesForbidThingsToPeople, and lock nobody out of policies.
func TestPoliciesForbidThingsToPeople(t *testing.T) {
	w, m := cluster1(t)
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", permitRead))
	check(t, m.rotate(w.request(), object("acme", "pay"))) // needs no permit
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "q", `forbid (principal, action, resource);`))
	wants(t, m.rotate(w.request(), object("acme", "pay")), errs.Denied)
	wants(t, m.read(m.governor(), gate.GetService, "tenants/acme/services/pay"), errs.Denied)
	all := m.records("services.rotate")
	if got := all[len(all)-1]; got.Cause != "policy: forbidden by q:1" || got.Outcome != errs.OutcomeDenied {
		t.Errorf("the record is %+v", got)
	}
	check(t, m.changeObject(w.request(), object("acme", ""), suspend, 0))
	check(t, m.changeObject(w.request(), object("acme", ""), resume, 0))
	check(t, m.deletePolicy(w.request(), "acme", "q"))
	check(t, m.rotate(w.request(), object("acme", "pay")))
}

// TestANodeWithoutPoliciesDeniesWhereThereAreSome: a gate that was put together
// wrongly fails closed.
func TestANodeWithoutPoliciesDeniesWhereThereAreSome(t *testing.T) {
	w, m := cluster1(t)
	p := node.TenantPolicy{Machine: m.machine, Next: gate.RolePolicy{}}
	ask := func() gate.Decision {
		v, err := p.Decide(gate.Query{Principal: m.workload("acme"), Act: gate.GetService, Object: "tenants/acme/services/pay", Tenant: "acme"})
		check(t, err)
		return v.Decision
	}
	if got := ask(); got != gate.Allow {
		t.Errorf("without policies: %v", got)
	}
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", permitAll))
	if got := ask(); got != gate.Deny {
		t.Errorf("with policies: %v", got)
	}
}

// TestPoliciesJudgeWhicheverIsPrimaryByItsNumber: a name that says "primary" is that
// of a version like any other.
func TestPoliciesJudgeWhicheverIsPrimaryByItsNumber(t *testing.T) {
	w, m := cluster1(t)
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "p", `permit (principal, action == Krypton::Action::"versions.get", resource) when { context.version == 1 };`))
	app := m.workload("acme")
	for _, key := range []string{"tenants/acme", "tenants/acme/services/pay"} {
		check(t, m.read(app, gate.GetVersion, key+node.Primary))
		check(t, m.read(app, gate.GetVersion, key+"/versions/1"))
		wants(t, m.read(app, gate.GetVersion, key+"/versions/2"), errs.Denied)
	}
	wants(t, m.read(app, gate.GetVersion, "tenants/acme/services/none"+node.Primary), errs.Denied)
	check(t, m.rotate(w.request(), object("acme", "pay")))
	wants(t, m.read(app, gate.GetVersion, "tenants/acme/services/pay"+node.Primary), errs.Denied)
}
