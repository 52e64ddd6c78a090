package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	permitAll  = "permit (principal, action, resource);\n"
	permitRead = "permit (principal, action in Krypton::Action::\"read\", resource);\n"
)

func put(id, text string) *kryptonv1.PutPolicyRequest {
	return &kryptonv1.PutPolicyRequest{Name: "tenants/acme/policies/" + id, Text: text}
}

// TestAPolicyIsInForceOnEveryNodeWhenItIsAnswered, whichever node took it, on the
// leader and on followers: what a new policy forbids nobody does after its answer,
// and what it permits is done everywhere.
func TestAPolicyIsInForceOnEveryNodeWhenItIsAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	until(t, "everybody serves", func() error {
		for i := range w.members {
			if _, err := w.ask(t, i, "workload/acme", "Crypto.Encrypt", encryptRequest()); err != nil {
				return err
			}
		}
		return nil
	})
	for round := range 6 {
		text, want := permitRead, errs.Denied
		if round%2 == 1 {
			text, want = permitAll, errs.Unspecified
		}
		if _, err := w.call(t, round%3, "governor", "Policies.PutPolicy", put("p", text)); err != nil {
			t.Fatal(err)
		}
		for i := range w.members {
			// No patience: a node that has lost its lease would be another answer.
			if _, err := w.ask(t, i, "workload/acme", "Crypto.Encrypt", encryptRequest()); codeOf(err) != want {
				t.Errorf("round %d: after the answer node %d says %v, want %v", round, i, err, want)
			}
			if _, err := w.ask(t, i, "workload/acme", "Tenants.GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/acme"}); err != nil {
				t.Errorf("round %d: node %d does not let read: %v", round, i, err)
			}
		}
	}
	if _, err := w.call(t, 1, "governor", "Policies.DeletePolicy", &kryptonv1.DeletePolicyRequest{Name: "tenants/acme/policies/p"}); err != nil {
		t.Fatal(err)
	}
	for i := range w.members {
		if _, err := w.ask(t, i, "workload/acme", "Crypto.Encrypt", encryptRequest()); err != nil {
			t.Errorf("without policies node %d says %v", i, err)
		}
	}
}

// TestPolicyObjects are made, replaced under their etags, read, listed and deleted, at
// both doors.
func TestPolicyObjects(t *testing.T) {
	t.Parallel()
	w := served(t)
	got := func(method string, m proto.Message) proto.Message {
		t.Helper()
		out, err := w.call(t, 0, "governor", method, m)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return out
	}
	code := func(want errs.Code, method string, m proto.Message) {
		t.Helper()
		if _, err := w.call(t, 0, "governor", method, m); codeOf(err) != want {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
	}
	first := got("Policies.PutPolicy", put("b", permitAll)).(*kryptonv1.Policy)
	if first.GetText() != permitAll || first.GetName() != "tenants/acme/policies/b" || first.GetEtag() == "" || first.GetCreateTime() == nil {
		t.Errorf("made: %v", first)
	}
	again := put("b", permitRead)
	again.Create = true
	code(errs.AlreadyExists, "Policies.PutPolicy", again)
	again.Create, again.Etag, again.ValidateOnly = false, first.GetEtag(), true
	got("Policies.PutPolicy", again)
	again.ValidateOnly = false
	second := got("Policies.PutPolicy", again).(*kryptonv1.Policy)
	if second.GetText() != permitRead || second.GetEtag() == first.GetEtag() || second.GetCreateTime().AsTime() != first.GetCreateTime().AsTime() {
		t.Errorf("replaced: %v", second)
	}
	code(errs.StaleEtag, "Policies.PutPolicy", again)
	got("Policies.PutPolicy", put("a", permitAll))
	page := got("Policies.ListPolicies", &kryptonv1.ListPoliciesRequest{Parent: "tenants/acme", PageSize: 1}).(*kryptonv1.ListPoliciesResponse)
	rest := got("Policies.ListPolicies", &kryptonv1.ListPoliciesRequest{Parent: "tenants/acme", PageSize: 1, PageToken: page.GetNextPageToken()}).(*kryptonv1.ListPoliciesResponse)
	if len(page.GetPolicies()) != 1 || len(rest.GetPolicies()) != 1 || rest.GetNextPageToken() != "" || rest.GetPolicies()[0].GetName() != second.GetName() {
		t.Errorf("pages %v and %v", page, rest)
	}
	if d := cmp.Diff(second, got("Policies.GetPolicy", &kryptonv1.GetPolicyRequest{Name: second.GetName()}).(*kryptonv1.Policy), protocmp.Transform()); d != "" {
		t.Error(d)
	}
	var over kryptonv1.Policy
	a := w.send(t, "auditor", http.MethodGet, "/v1/tenants/acme/policies/b", "")
	if err := protojson.Unmarshal(a.body, &over); err != nil || a.status != http.StatusOK || over.GetText() != permitRead {
		t.Errorf("over HTTP: %d %s, %v", a.status, a.body, err)
	}
	if a := w.send(t, "governor", http.MethodPost, "/v1/tenants/acme/policies/c:put", `{"text": "permit (principal, action, resource);"}`); a.status != http.StatusOK {
		t.Errorf("put over HTTP: %d %s", a.status, a.body)
	}
	if a := w.send(t, "governor", http.MethodDelete, "/v1/tenants/acme/policies/c", ""); a.status != http.StatusOK {
		t.Errorf("delete over HTTP: %d %s", a.status, a.body)
	}
	code(errs.NotFound, "Policies.GetPolicy", &kryptonv1.GetPolicyRequest{Name: "tenants/acme/policies/c"})
	code(errs.NotFound, "Policies.DeletePolicy", &kryptonv1.DeletePolicyRequest{Name: "tenants/acme/policies/c"})
	code(errs.InvalidArgument, "Policies.GetPolicy", &kryptonv1.GetPolicyRequest{Name: "tenants/acme"})
	// Place and remedy of what is wrong; the text is quoted nowhere.
	_, err := w.call(t, 0, "governor", "Policies.PutPolicy", put("d", "permit (principal, action, resource)\nwhen { principal.canary };"))
	if r := refusalOf(err); r.Code != errs.InvalidArgument || !strings.Contains(fmt.Sprint(r), "policy d, line 2, column 18") || strings.Contains(fmt.Sprint(r), "canary") {
		t.Errorf("%+v", r)
	}
}

// TestTestPolicy answers who may do what and why, of what is stored and of what would be.
func TestTestPolicy(t *testing.T) {
	t.Parallel()
	w := served(t)
	ask := func(r *kryptonv1.TestPolicyRequest) *kryptonv1.TestPolicyResponse {
		t.Helper()
		r.Parent = "tenants/acme"
		out, err := w.call(t, 0, "auditor", "Policies.TestPolicy", r)
		if err != nil {
			t.Fatal(err)
		}
		return out.(*kryptonv1.TestPolicyResponse)
	}
	name := ""
	// Who may do it: the workloads that are bound, before there is any policy.
	for _, a := range ask(&kryptonv1.TestPolicyRequest{Action: "crypto.decrypt", Service: "pay"}).GetAnswers() {
		if name = a.GetSubject().GetMember(); !a.GetAllowed() || a.GetSubject().GetIssuer() != "issuers/builtin" {
			t.Errorf("without policies: %v", a)
		}
	}
	if name == "" {
		t.Fatal("nobody is bound")
	}
	w.must(t, "Policies.PutPolicy", put("use", "// Only this one.\npermit (principal == Krypton::Workload::\""+name+"\", action == Krypton::Action::\"crypto.encrypt\", resource) when { context.version < 9 && context.encryption_context has \"purpose\" };\n"))
	// What may it do: everything a workload can ask for, on each service.
	allowed := 0
	all := ask(&kryptonv1.TestPolicyRequest{Subject: &kryptonv1.PolicySubject{Member: name}, EncryptionContext: []*kryptonv1.ContextPair{{Key: "purpose", Value: "x"}}}).GetAnswers()
	for _, a := range all {
		if a.GetAllowed() {
			allowed++
			if a.GetAction() != "crypto.encrypt" || a.GetService() != "pay" || a.GetWhy() != "policy: permitted by use:2" || a.GetReasons()[0].GetPolicyId() != "use" || a.GetReasons()[0].GetLine() != 2 ||
				strings.Join(a.GetDependsOn(), " ") != "version context.purpose" {
				t.Errorf("allowed: %v", a)
			}
		}
	}
	if allowed != 1 || len(all) < 10 {
		t.Errorf("%d of %d are allowed", allowed, len(all))
	}
	one := func(r *kryptonv1.TestPolicyRequest) *kryptonv1.PolicyAnswer {
		t.Helper()
		out := ask(r)
		if len(out.GetAnswers()) != 1 {
			t.Fatalf("%v", out)
		}
		return out.GetAnswers()[0]
	}
	why := &kryptonv1.TestPolicyRequest{Subject: &kryptonv1.PolicySubject{Member: name}, Action: "crypto.encrypt", Service: "pay"}
	if a := one(why); a.GetAllowed() || a.GetWhy() != "policy: nothing permits it" {
		t.Errorf("without the context: %v", a)
	}
	// As it would be; and nothing of it is.
	why.Changes = []*kryptonv1.PolicyText{{PolicyId: "use", Text: permitAll}}
	if a := one(why); !a.GetAllowed() {
		t.Errorf("with another text: %v", a)
	}
	why.Changes = []*kryptonv1.PolicyText{{PolicyId: "use"}}
	if a := one(why); !a.GetAllowed() {
		t.Errorf("without the policy: %v", a)
	}
	why.Changes = nil
	if a := one(why); a.GetAllowed() {
		t.Errorf("a test changed something: %v", a)
	}
	if a := one(&kryptonv1.TestPolicyRequest{Subject: &kryptonv1.PolicySubject{Member: "gina", Role: kryptonv1.Role_ROLE_GOVERNOR}, Action: "crypto.encrypt", Service: "pay"}); a.GetAllowed() {
		t.Errorf("a governor uses keys: %v", a)
	}
	if a := one(&kryptonv1.TestPolicyRequest{Subject: &kryptonv1.PolicySubject{Member: "gina", Role: kryptonv1.Role_ROLE_GOVERNOR}, Action: "services.rotate", Service: "pay"}); !a.GetAllowed() {
		t.Errorf("a governor needs a permit: %v", a)
	}
	bad := ask(&kryptonv1.TestPolicyRequest{Changes: []*kryptonv1.PolicyText{{PolicyId: "x", Text: "permit (principal, action, resource) when { 1 };"}, {PolicyId: "y", Text: "nonsense"}}})
	if len(bad.GetProblems()) != 2 || bad.GetProblems()[0].GetPolicyId() != "x" || bad.GetProblems()[0].GetLine() != 1 || bad.GetProblems()[0].GetColumn() == 0 || bad.GetProblems()[0].GetFix() == "" || len(bad.GetAnswers()) != 0 {
		t.Errorf("problems: %v", bad)
	}
	for _, r := range []*kryptonv1.TestPolicyRequest{
		{Action: "crypto.everything"},
		{Subject: &kryptonv1.PolicySubject{Member: "NO"}},
		{Subject: &kryptonv1.PolicySubject{Member: name, Issuer: "issuers/none"}},
		{Action: "crypto.encrypt", Service: "NO"},
		{Changes: []*kryptonv1.PolicyText{{PolicyId: "NO", Text: "x"}}},
	} {
		r.Parent = "tenants/acme"
		if _, err := w.call(t, 0, "auditor", "Policies.TestPolicy", r); codeOf(err) != errs.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
}

// TestClaimsOfATokenCountForNoPolicy: the name, the role and the issuer that policies
// see are those of the role binding, whatever the token says besides its subject.
func TestClaimsOfATokenCountForNoPolicy(t *testing.T) {
	t.Parallel()
	w, p := tokens(t)
	w.must(t, "Policies.PutPolicy", put("admins", `permit (principal == Krypton::Workload::"admin", action, resource);
permit (principal, action, resource) when { principal.issuer == "issuers/builtin" };`))
	token := p.token(t, "app", func(c map[string]any) {
		for _, k := range []string{"name", "preferred_username", "principal"} {
			c[k] = "admin"
		}
		c["role"], c["roles"], c["groups"] = "governor", []string{"governor", "admin"}, []string{"admin"}
		c["krypton"] = map[string]any{"role": "governor", "name": "admin", "issuer": "issuers/builtin"}
		c["issuer"] = "issuers/builtin"
	})
	cc := kryptonv1.NewCryptoClient(w.nobody(t))
	if _, err := cc.Encrypt(bearer(limited(t), token), encryptRequest()); codeOf(err) != errs.Denied {
		t.Errorf("claims count: %v", err)
	}
	if _, err := kryptonv1.NewPoliciesClient(w.nobody(t)).PutPolicy(bearer(limited(t), token), put("own", permitAll)); codeOf(err) != errs.Denied {
		t.Errorf("a claim makes a governor: %v", err)
	}
	w.must(t, "Policies.PutPolicy", put("admins", `permit (principal == Krypton::Workload::"by-token", action, resource) when { principal.issuer == "issuers/idp" };`))
	if _, err := cc.Encrypt(bearer(limited(t), token), encryptRequest()); err != nil {
		t.Errorf("the role binding does not count: %v", err)
	}
}

// TestAPolicyAsLargeAsMayBeFitsAnApproval: what one person may set alone, four eyes can.
func TestAPolicyAsLargeAsMayBeFitsAnApproval(t *testing.T) {
	name := strings.Repeat("n", 63)
	m := &kryptonv1.PutPolicyRequest{Name: "tenants/" + name + "/policies/" + name, Text: strings.Repeat("x", fsm.MaxPolicyBytes), Etag: `"18446744073709551615"`, Create: true}
	if n := proto.Size(m); n > fsm.MaxApprovalRequestBytes {
		t.Errorf("the request has %d bytes, an approval takes %d", n, fsm.MaxApprovalRequestBytes)
	}
	r := intent.PutPolicy{Tenant: name, TenantUID: make([]byte, hierarchy.UIDSize), ID: name, Text: m.GetText()}.Request()
	if n := len(r.Canonical()); n > fsm.MaxApprovalOrderBytes {
		t.Errorf("what people sign has %d bytes, an approval takes %d", n, fsm.MaxApprovalOrderBytes)
	}
}
