package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/policy"
)

// TestI2_ATextThatCedarReadsOtherwiseIsRefused compares what Compile compares,
// for a text whose trees are made to differ: one has a condition more.
func TestI2_ATextThatCedarReadsOtherwiseIsRefused(t *testing.T) {
	t.Parallel()
	const text = `permit (principal, action in Krypton::Action::"use", resource) when { context.version - 1 - 1 > 0 };`
	if f := policy.SameInCedar(text, text); f != "" {
		t.Errorf("the same text: %s", f)
	}
	for _, other := range []string{
		`permit (principal, action in Krypton::Action::"use", resource) when { context.version - (1 - 1) > 0 };`,
		`forbid (principal, action in Krypton::Action::"use", resource) when { context.version - 1 - 1 > 0 };`,
		`permit (principal, action in Krypton::Action::"use", resource) unless { context.version - 1 - 1 > 0 };`,
		`permit (principal, action in Krypton::Action::"use", resource);`,
		`permit (principal, action in [Krypton::Action::"use"], resource) when { context.version - 1 - 1 > 0 };`,
		`permit (principal in Krypton::Tenant::"acme", action in Krypton::Action::"use", resource) when { context.version - 1 - 1 > 0 };`,
		`permit (principal, action in Krypton::Action::"use", resource is Krypton::Service) when { context.version - 1 - 1 > 0 };`,
		text + text,
	} {
		if policy.SameInCedar(text, other) == "" {
			t.Errorf("not told from the text: %s", other)
		}
	}
}

// TestI2_GeneratedTextsAreReadAsCedarReadsThem: Compile makes the comparison
// itself; this says that it is not what refuses.
func TestI2_GeneratedTextsAreReadAsCedarReadsThem(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := statementText(t, false)
		if f := policy.SameInCedar(text, text); f != "" {
			t.Fatalf("%s\n%s", f, text)
		}
	})
}

const overflow = ` (principal, action in Krypton::Action::"use", resource) when { context.version + 9223372036854775807 > 0 };`

func TestI3_AnErrorInAnyPolicyDenies(t *testing.T) {
	t.Parallel()
	const allow = `permit (principal, action, resource);`
	for _, effect := range []string{"permit", "forbid"} {
		for _, names := range [][2]hierarchy.Name{{"a", "z"}, {"z", "a"}} {
			s, err := policy.Compile("acme", []policy.Text{{Name: names[0], Text: allow}, {Name: names[1], Text: "\n" + effect + overflow}})
			if err != nil {
				t.Fatal(err)
			}
			q := request(t, "app1 crypto.decrypt payments version=1")
			for range 2 { // evaluated, then kept
				d := s.Decide(q)
				if d.Allow || d.Basis != policy.BasisFailure || !slices.Equal(d.Reasons, []policy.Reason{{Policy: names[1], Line: 2}}) || !strings.Contains(d.Fault, "overflow") {
					t.Errorf("%s as %s: %s", effect, names[1], d)
				}
			}
			if d := s.Decide(request(t, "app1 crypto.decrypt payments version=0")); d.Allow != (effect == "permit") || d.Basis == policy.BasisFailure {
				t.Errorf("%s as %s, where nothing fails: %s", effect, names[1], d)
			}
			if d := s.Decide(request(t, "app1 services.get payments")); !d.Allow {
				t.Errorf("%s as %s: an action that it is not about: %s", effect, names[1], d)
			}
		}
	}
}

// TestCedarAloneGoesOnWithoutAFailingForbid is why I3 exists. When this fails,
// cedar-go has changed, and I3 is to be looked at again.
func TestCedarAloneGoesOnWithoutAFailingForbid(t *testing.T) {
	t.Parallel()
	set, err := cedar.NewPolicySetFromBytes("", []byte(`permit (principal, action, resource); forbid (principal, action, resource) when { 1 + 9223372036854775807 > 0 };`))
	if err != nil {
		t.Fatal(err)
	}
	if d, diag := cedar.Authorize(set, nil, cedar.Request{}); d != cedar.Allow || len(diag.Errors) != 1 {
		t.Errorf("%v, %v", d, diag)
	}
}

func TestI5_ASetAnswersForItsTenantOnly(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", `permit (principal, action, resource);`} {
		var texts []policy.Text
		if text != "" {
			texts = []policy.Text{{Name: "p", Text: text}}
		}
		s, err := policy.Compile("acme", texts)
		if err != nil {
			t.Fatal(err)
		}
		if s.Tenant() != "acme" || s.Empty() != (text == "") {
			t.Errorf("tenant %s, empty %v", s.Tenant(), s.Empty())
		}
		q := request(t, "app1 crypto.decrypt payments")
		if d := s.Decide(q); !d.Allow {
			t.Errorf("%q: its own: %s", text, d)
		}
		q.Principal.Tenant = "globex"
		if d := s.Decide(q); d.Allow || d.Basis != policy.BasisQuery {
			t.Errorf("%q: another's workload: %s", text, d)
		}
	}
}

func TestI7_WithoutAPolicyTheRoleDecides(t *testing.T) {
	t.Parallel()
	empty, err := policy.Compile("acme", nil)
	if err != nil {
		t.Fatal(err)
	}
	silent := one(t, `permit (principal == Krypton::Workload::"nobody", action, resource);`)
	lockout := one(t, `forbid (principal, action, resource);`)
	var none *policy.Set
	for _, c := range []struct {
		line                   string
		empty, silent, lockout policy.Basis
	}{
		{"app1 crypto.encrypt payments", policy.BasisRoles, policy.BasisNoPermit, policy.BasisForbid},
		{"app1 services.list", policy.BasisRoles, policy.BasisNoPermit, policy.BasisForbid},
		{"governor/alice services.rotate payments", policy.BasisRoles, policy.BasisRoles, policy.BasisForbid},
		{"auditor/bob versions.get payments version=2", policy.BasisRoles, policy.BasisRoles, policy.BasisForbid},
		// What the schema does not have is no request, whatever the policies are.
		{"governor/alice crypto.decrypt payments", policy.BasisQuery, policy.BasisQuery, policy.BasisQuery},
		{"app1 services.rotate payments", policy.BasisQuery, policy.BasisQuery, policy.BasisQuery},
		{"app1 crypto.decrypt", policy.BasisQuery, policy.BasisQuery, policy.BasisQuery},
		{"app1 tenants.get payments", policy.BasisQuery, policy.BasisQuery, policy.BasisQuery},
		{"app1 resources.get payments", policy.BasisQuery, policy.BasisQuery, policy.BasisQuery},
		{"app1 crypto.decrypt payments version=9223372036854775808", policy.BasisQuery, policy.BasisQuery, policy.BasisQuery},
	} {
		q := request(t, c.line)
		for _, s := range []struct {
			name string
			set  *policy.Set
			want policy.Basis
		}{{"empty", empty, c.empty}, {"silent", silent, c.silent}, {"lockout", lockout, c.lockout}, {"nil", none, policy.BasisNone}} {
			d := s.set.Decide(q)
			if d.Basis != s.want || d.Allow != (s.want == policy.BasisRoles) {
				t.Errorf("%s, %s: %s", c.line, s.name, d)
			}
			if diff := cmp.Diff(d, s.set.Evaluate(q)); diff != "" {
				t.Errorf("%s, %s: %s", c.line, s.name, diff)
			}
		}
	}
	if d := empty.Decide(policy.Query{}); d.Allow {
		t.Errorf("a zero query: %s", d)
	}
	if none.Tenant() != "" || none.Empty() {
		t.Error("the nil set says something")
	}
	if d := (policy.Decision{}); d.Allow || d.String() != "policy: no decision" {
		t.Errorf("a zero decision: %s", d)
	}
}

func TestADecisionNamesWhatDecided(t *testing.T) {
	t.Parallel()
	texts := []policy.Text{
		{Name: "b", Text: `permit (principal, action, resource);` + "\n\n" + `permit (principal == Krypton::Workload::"app1", action, resource);`},
		{Name: "a", Text: `permit (principal, action in Krypton::Action::"use", resource);`},
		{Name: "c", Text: `forbid (principal == Krypton::Workload::"app2", action, resource);`},
	}
	for i := range 6 {
		texts = append(texts, policy.Text{Name: hierarchy.Name(fmt.Sprintf("d%d", i)), Text: `forbid (principal == Krypton::Workload::"app3", action, resource);`})
	}
	s, err := policy.Compile("acme", texts)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(texts)
	again, err := policy.Compile("acme", texts)
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"app1 crypto.decrypt payments": "policy: permitted by a:1, b:1, b:3",
		"app9 services.get payments":   "policy: permitted by b:1",
		"app2 crypto.decrypt payments": "policy: forbidden by c:1",
		"app3 crypto.decrypt payments": "policy: forbidden by d0:1, d1:1, d2:1 and 3 more",
	} {
		q := request(t, line)
		for _, s := range []*policy.Set{s, again} {
			if got := s.Decide(q).String(); got != want {
				t.Errorf("%s: %s, want %s", line, got, want)
			}
		}
	}
}

func TestARecordStaysSmall(t *testing.T) {
	t.Parallel()
	d := policy.Decision{Basis: policy.BasisFailure, Fault: strings.Repeat("x", 120)}
	for range 1000 {
		d.Reasons = append(d.Reasons, policy.Reason{Policy: hierarchy.Name(strings.Repeat("a", 63)), Line: 99999})
	}
	if n := len(d.String()); n > 500 {
		t.Errorf("%d bytes", n)
	}
}

// TestWhoAndWhatIsInWhat: each condition holds for exactly these requests.
func TestWhoAndWhatIsInWhat(t *testing.T) {
	t.Parallel()
	requests := []string{
		"app1 crypto.encrypt payments", "app1 crypto.encrypt invoices", "app2 services.list", "app1 resources.get payments resource=a/b",
		"governor/alice services.rotate payments", "auditor/app1 versions.get version=2",
	}
	for condition, want := range map[string]string{
		`principal in Krypton::Tenant::"acme"`:                                                              "0123",
		`principal is Krypton::Workload in Krypton::Tenant::"acme"`:                                         "0123",
		`principal in Krypton::Workload::"app1"`:                                                            "013",
		`principal == Krypton::Person::"app1"`:                                                              "5",
		`principal is Krypton::Person && principal.role == "governor"`:                                      "4",
		`principal is Krypton::Person && principal.name == "app1" && principal.issuer == "issuers/builtin"`: "5",
		`principal is Krypton::Workload && principal.tenant == "acme" && principal.name == "app2"`:          "2",
		`resource in Krypton::Tenant::"acme"`:                                                               "012345",
		`resource == Krypton::Tenant::"acme"`:                                                               "25",
		`resource in Krypton::Service::"payments"`:                                                          "034",
		`resource == Krypton::Service::"payments"`:                                                          "04",
		`resource == Krypton::Resource::"payments/a/b"`:                                                     "3",
		`resource is Krypton::Resource && resource.id == "a/b" && resource.service == "payments"`:           "3",
		`resource is Krypton::Resource && resource.tenant == "acme"`:                                        "3",
		`resource is Krypton::Service && resource.name == "payments" && resource.tenant == "acme"`:          "04",
		`resource is Krypton::Tenant && resource.name == "acme"`:                                            "25",
		`action in Krypton::Action::"use"`:                                                                  "01",
		`action in [Krypton::Action::"read", Krypton::Action::"govern"]`:                                    "2345",
		`action in Krypton::Action::"services.list"`:                                                        "2",
		`action == Krypton::Action::"versions.get"`:                                                         "5",
		`action == Krypton::Action::"use"`:                                                                  "",
		`context has version && context.version == 2`:                                                       "5",
		`context has encryption_context`:                                                                    "01",
	} {
		s := one(t, `forbid (principal, action, resource) when { `+condition+` };`)
		got := ""
		for i, line := range requests {
			switch d := s.Decide(request(t, line)); d.Basis {
			case policy.BasisForbid:
				got += fmt.Sprint(i)
			case policy.BasisRoles, policy.BasisNoPermit:
			case policy.BasisNone, policy.BasisPermit, policy.BasisFailure, policy.BasisQuery:
				t.Errorf("%s: %s: %s", condition, line, d)
			}
		}
		if got != want {
			t.Errorf("%s: holds for %q, want %q", condition, got, want)
		}
	}
}

// TestWhatIsReadIsFoundInEveryPlace: what stands in one branch, one condition or
// one statement only is in the key all the same.
func TestWhatIsReadIsFoundInEveryPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       policy.Reads
	}{
		{"nothing", head + `;`, policy.Reads{}},
		{"names only", head + ` when { principal.name == resource.name };`, policy.Reads{}},
		{"then", head + ` when { if principal.name == "a" then context.region == "x" else false };`, policy.Reads{Region: true}},
		{"else", head + ` when { if principal.name == "a" then false else context.version == 1 };`, policy.Reads{Version: true}},
		{"condition of if", head + ` when { if context.resource == "a" then principal has name else false };`, policy.Reads{Resource: true}},
		{"behind or", head + ` when { principal.name == "a" || context.encryption_context has b };`, policy.Reads{Keys: []string{"b"}}},
		{"unless", head + ` unless { context.encryption_context has c && context.encryption_context["c"] == "d" };`, policy.Reads{Keys: []string{"c"}}},
		{"second condition", head + ` when { true } when { context.region == "x" };`, policy.Reads{Region: true}},
		{"in a set", head + ` when { ["x", context.region].contains(context.resource) };`, policy.Reads{Region: true, Resource: true}},
		{"in a record", head + ` when { {a: context.version}.a == 1 };`, policy.Reads{Version: true}},
		{"like", head + ` when { context.resource like "a*" };`, policy.Reads{Resource: true}},
		{"presence by the action", head + ` when { context has encryption_context };`, policy.Reads{}},
		{"dots", head + ` when { context has encryption_context.e };`, policy.Reads{Keys: []string{"e"}}},
		{"the whole encryption context", head + ` when { context.encryption_context == context.encryption_context };`, policy.Reads{WholeContext: true}},
		{"the whole context", head + ` when { {c: context} == {c: context} };`, policy.Reads{WholeContext: true, Resource: true, Version: true, Region: true}},
		{"a context by another way", head + ` when { {c: context}.c.region == "x" };`, policy.Reads{WholeContext: true, Resource: true, Version: true, Region: true}},
		{"a context by a third way", head + ` when { (if principal.name == "a" then context else context).region == "x" };`, policy.Reads{WholeContext: true, Resource: true, Version: true, Region: true}},
		{
			"two statements", head + ` when { context.encryption_context has b };` + head + ` when { context.encryption_context has a };`,
			policy.Reads{Keys: []string{"a", "b"}},
		},
		{"a statement for another action", head + `; permit (principal, action == Krypton::Action::"versions.get", resource) when { context.version == 1 };`, policy.Reads{}},
	} {
		s := one(t, c.text)
		if diff := cmp.Diff(c.want, s.Reads(named(t, "crypto.encrypt"))); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
		if d := s.Evaluate(request(t, "app1 crypto.encrypt payments")); d.Basis == policy.BasisFailure {
			t.Errorf("%s: what is read was not there: %s", c.name, d)
		}
	}
	var none *policy.Set
	if r := none.Reads(1); r.WholeContext || r.Keys != nil {
		t.Error("the nil set reads something")
	}
}

// TestI4_AnAttributeOfOneBranchIsInTheKey: two requests that differ only in what
// one branch reads are two answers.
func TestI4_AnAttributeOfOneBranchIsInTheKey(t *testing.T) {
	t.Parallel()
	s := one(t, head+` when { if principal.name == "app1" then context.region == "eu-1" else context.encryption_context has a && context.encryption_context.a == "1" };`)
	for line, want := range map[string]bool{
		"app1 crypto.encrypt payments region=eu-1":     true,
		"app1 crypto.encrypt payments region=us-1":     false,
		"app2 crypto.encrypt payments region=eu-1":     false,
		"app2 crypto.encrypt payments a=1":             true,
		"app2 crypto.encrypt payments a=1 region=eu-1": true,
		"app2 crypto.encrypt payments a=2":             false,
		"app2 crypto.encrypt payments a=":              false,
	} {
		for range 2 {
			if d := s.Decide(request(t, line)); d.Allow != want {
				t.Errorf("%s: %s", line, d)
			}
		}
	}
	// And what no branch reads is not in it: this was never asked, and is known.
	if !policy.Kept(s, request(t, "app1 crypto.encrypt payments region=eu-1 version=77 b=9 resource=r")) {
		t.Error("the key has more than what is read")
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	s, err := policy.Compile("acme", []policy.Text{
		{Name: "use", Text: `permit (principal == Krypton::Workload::"app1", action in Krypton::Action::"use", resource in Krypton::Service::"payments");`},
		{Name: "read", Text: `permit (principal, action in Krypton::Action::"read", resource);`},
		{Name: "old", Text: `forbid (principal, action == Krypton::Action::"crypto.decrypt", resource) when { context.version < 3 };`},
	})
	if err != nil {
		t.Fatal(err)
	}
	q := request(t, "app1 crypto.decrypt payments version=2")
	var got []string
	for _, a := range s.MayDo(q, []hierarchy.Name{"payments", "invoices"}) {
		got = append(got, fmt.Sprintf("%s %s %v %s", a.Query.Action, a.Query.Service, a.Decision.Allow, a.Decision))
	}
	want := []string{
		"crypto.generate_data_key payments true policy: permitted by use:1",
		"crypto.generate_data_key invoices false policy: nothing permits it",
		"crypto.unwrap_data_key payments true policy: permitted by use:1",
		"crypto.unwrap_data_key invoices false policy: nothing permits it",
		"crypto.rewrap_data_key payments true policy: permitted by use:1",
		"crypto.rewrap_data_key invoices false policy: nothing permits it",
		"crypto.encrypt payments true policy: permitted by use:1",
		"crypto.encrypt invoices false policy: nothing permits it",
		"crypto.decrypt payments false policy: forbidden by old:1",
		"crypto.decrypt invoices false policy: forbidden by old:1",
		"tenants.get  true policy: permitted by read:1",
		"services.list  true policy: permitted by read:1",
		"services.get payments true policy: permitted by read:1",
		"services.get invoices true policy: permitted by read:1",
		"resources.list payments true policy: permitted by read:1",
		"resources.list invoices true policy: permitted by read:1",
		"versions.list  true policy: permitted by read:1",
		"versions.list payments true policy: permitted by read:1",
		"versions.list invoices true policy: permitted by read:1",
		"versions.get  true policy: permitted by read:1",
		"versions.get payments true policy: permitted by read:1",
		"versions.get invoices true policy: permitted by read:1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what app1 may do:\n%s", diff)
	}

	q.Resource = "r"
	if n := len(s.MayDo(q, []hierarchy.Name{"payments"})); n != 14 {
		t.Errorf("with a resource: %d answers", n)
	}

	q.Version = 7
	got = nil
	for _, a := range s.WhoMay(q, []policy.Subject{subject(t, "app2"), subject(t, "app1"), subject(t, "governor/alice")}) {
		got = append(got, fmt.Sprintf("%s %v %s", a.Query.Principal.Name, a.Decision.Allow, a.Decision))
	}
	want = []string{"app2 false policy: nothing permits it", "app1 true policy: permitted by use:1", "alice false policy: not a request of this tenant and its schema"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("who may decrypt:\n%s", diff)
	}
	if answers, _ := policy.KeptAnswers(s); answers != 0 {
		t.Errorf("explaining left %d answers in the cache", answers)
	}
}

// TestEveryQueryOfExplainIsOne: MayDo asks nothing that the schema does not have.
func TestEveryQueryOfExplainIsOne(t *testing.T) {
	t.Parallel()
	s := one(t, `permit (principal, action, resource);`)
	for _, r := range auth.Roles() {
		q := policy.Query{Subject: policy.Subject{Principal: auth.Principal{Issuer: auth.Issuer{1}, Role: r, Name: "x"}}, Resource: "r"}
		want := 0
		if r == auth.RoleWorkload {
			q.Principal.Tenant = "acme"
		}
		for _, a := range policy.Actions() {
			workload, person := policy.Admits(a)
			if r == auth.RoleWorkload && workload || r != auth.RoleWorkload && person {
				want++
			}
		}
		seen := map[policy.Action]bool{}
		for _, a := range s.MayDo(q, []hierarchy.Name{"payments"}) {
			seen[a.Query.Action] = true
			if a.Decision.Basis == policy.BasisQuery {
				t.Errorf("%s: %+v", a.Decision, a.Query)
			}
		}
		if len(seen) != want {
			t.Errorf("%s: %d of %d actions", r, len(seen), want)
		}
	}
}
