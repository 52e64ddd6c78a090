package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/policy"
)

// head is a head under which conditions about data operations are written.
const head = `permit (principal, action in Krypton::Action::"use", resource)`

func problems(text string) []policy.Problem {
	return policy.Check("acme", []policy.Text{{Name: "p", Text: text}})
}

func TestWhatIsWrongIsSaidWithItsPlace(t *testing.T) {
	t.Parallel()
	in := func(condition string) string { return head + " when {\n  " + condition + "\n};" }
	for _, c := range []struct {
		name, text   string
		line, column int
		what         string // a part of it
	}{
		{"nothing", "", 1, 1, "no statement"},
		{"only a comment", "// nothing\n", 2, 1, "no statement"},
		{"no effect", "allow (principal, action, resource);", 1, 1, "neither permit nor forbid"},
		{"no end", "permit (principal, action, resource)", 1, 37, "where ; should"},
		{"heads in another order", "permit (action, principal, resource);", 1, 9, "where principal should"},
		{"a second statement", "permit (principal, action, resource);\nforbd (principal, action, resource);", 2, 1, "neither permit"},
		{"text without an end", in(`context.region == "eu-1`), 2, 21, "without its closing quote"},
		{"unknown escape", in(`context.region == "\q"`), 2, 21, "an escape"},
		{"half an escape", in(`context.region == "\u{110000}"`), 2, 21, "an escape"},
		{"block comment", "/* a */ permit (principal, action, resource);", 1, 1, "no comment in Cedar"},
		{"zero byte", "permit (principal,\n\x00", 2, 1, "zero byte"},
		{"no UTF-8", "// \xff\n", 1, 4, "UTF-8"},
		{"a character", "permit (principal, action, resource) when { 1 ~ 2 };", 1, 47, "no use for"},
		{"columns are characters", in(`context.region == "äöü" && nothing`), 2, 30, "a word that means nothing"},
		{"unknown variable", in(`subject == principal`), 2, 3, "a word that means nothing"},
		{"number too large", in(`context.version < 9223372036854775808`), 2, 21, "64 bits"},
		{"annotation twice", "@a(\"1\") @a permit (principal, action, resource);", 1, 10, "same annotation twice"},
		{"attribute twice", in(`{a: 1, a: 2} == {a: 1}`), 2, 10, "same attribute twice"},
		{"empty set", in(`[].contains(1)`), 2, 3, "an empty set"},
		{"empty list of actions", `permit (principal, action in [], resource);`, 1, 31, "empty list of actions"},
		{"address", in(`ip("10.0.0.1").isLoopback()`), 2, 3, "no use here"},
		{"tag", in(`principal.hasTag("a")`), 2, 13, "no use here"},
		{"wrong number of arguments", in(`[1].contains()`), 2, 7, "wrong number of arguments"},
		{"dots behind no path", in(`{a: principal} has a.name`), 2, 18, "no path"},

		{"unknown type", `permit (principal == Krypton::User::"a", action, resource);`, 1, 22, "a type that"},
		{"type without namespace", `permit (principal is Workload, action, resource);`, 1, 9, "a type that"},
		{"unknown type behind is", in(`principal is Krypton::Workload || resource is Service`), 2, 46, "a type that"},
		{"unknown action", `permit (principal, action == Krypton::Action::"crypto.decript", resource);`, 1, 30, "an action that"},
		{"unknown action where nobody looks", in(`false && action == Krypton::Action::"crypto.decript"`), 2, 22, "an action that"},
		{"act beyond policies", `forbid (principal, action == Krypton::Action::"tenants.suspend", resource);`, 1, 30, "waits for nothing"},
		{"group with ==", `permit (principal, action == Krypton::Action::"use", resource);`, 1, 1, "fits no request"},
		{"action as principal", `permit (principal == Krypton::Action::"use", action, resource);`, 1, 22, "an action where"},
		{"no action as action", `permit (principal, action == Krypton::Service::"a", resource);`, 1, 30, "no action"},
		{"people use no keys", `permit (principal is Krypton::Person, action in Krypton::Action::"use", resource);`, 1, 1, "fits no request"},
		{"nobody is in a service", `permit (principal in Krypton::Service::"payments", action, resource);`, 1, 1, "fits no request"},
		{"data operations are on services", `permit (principal, action in Krypton::Action::"use", resource is Krypton::Resource);`, 1, 1, "fits no request"},
		{"workload with its tenant", `permit (principal == Krypton::Workload::"acme/app1", action, resource);`, 1, 22, "cannot exist"},
		{"service that nobody can make", `permit (principal, action, resource in Krypton::Service::"Payments");`, 1, 40, "cannot exist"},
		{"resource without its service", `permit (principal, action, resource == Krypton::Resource::"invoices");`, 1, 40, "cannot exist"},

		{"unknown attribute of the context", in(`context.time == "now"`), 2, 11, "an attribute that no context has"},
		{"asking for an unknown attribute of the context", in(`context has time`), 2, 11, "an attribute that no context has"},
		{"attribute of another action's context", `permit (principal, action, resource) when { context.region == "a" };`, 1, 53, "the context of tenants.get"},
		{"unknown attribute of a workload", in(`principal.role == "x"`), 2, 13, "Krypton::Workload does not have"},
		{"asking for an attribute that nothing has", in(`principal has nam`), 2, 13, "no type of the schema"},
		{"attribute of another entity", in(`Krypton::Service::"a".name == "a"`), 2, 25, "not part of the request"},
		{"attribute of an action", in(`action.name == "a"`), 2, 10, "an action, which has none"},
		{"key that may not be there", in(`context.encryption_context.purpose == "a"`), 2, 30, "may not be there"},
		{"another key was asked for", in(`context.encryption_context has a && context.encryption_context.b == "a"`), 2, 66, "may not be there"},
		{"asked in one branch only", in(`(context.encryption_context has a || context.region == "x") && context.encryption_context.a == "a"`), 2, 93, "may not be there"},
		{"asked in one branch of if", in(`(if context.region == "x" then context.encryption_context has a else true) && context.encryption_context.a == "1"`), 2, 108, "may not be there"},
		{"asked for its absence", in(`!(context.encryption_context has a) && context.encryption_context.a == "a"`), 2, 69, "may not be there"},
		{"asked in another condition", head + ` when { context.encryption_context has a } when { context.encryption_context.a == "a" };`, 1, 140, "may not be there"},
		{"else has not asked", in(`if context.encryption_context has a then true else context.encryption_context.a == "a"`), 2, 81, "may not be there"},
		{"key that callers cannot give", in(`context.encryption_context has krypton`), 2, 30, "no encryption context can have"},
		{"encryption context by a way of its own", in(`{e: context.encryption_context}.e has a`), 2, 37, "another way than its name"},
		{"encryption context against a record", in(`context.encryption_context == {a: "b"}`), 2, 30, "of one type"},

		{"text and number", in(`context.version == "1"`), 2, 19, "a number and a text"},
		{"order of texts", in(`context.region < "b"`), 2, 11, "a text where a number"},
		{"set of both", in(`["a", 1].contains("a")`), 2, 9, "of one type"},
		{"contains another type", in(`["a"].contains(1)`), 2, 9, "of one type"},
		{"no condition", in(`context.version`), 2, 11, "a condition that is a number"},
		{"and of a text", in(`context.region && true`), 2, 11, "true or false"},
		{"or of a text", in(`principal has name || context.region`), 2, 33, "true or false"},
		{"if of a text", in(`if context.region then true else false`), 2, 14, "true or false"},
		{"two types of if", in(`(if principal has name then 1 else "a") == 1`), 2, 4, "of one type"},
		{"like of a number", in(`context.version like "1*"`), 2, 11, "a number where a text"},
		{"in a text", in(`principal in "acme"`), 2, 16, "an entity or a set"},
		{"is of a text", in(`context.region is Krypton::Service`), 2, 11, "an entity"},
		{"never", in(`principal is Krypton::Person`), 1, 1, "never apply"},
		{"never unless", `forbid (principal, action, resource) unless { true };`, 1, 1, "never apply"},

		{"another tenant", `permit (principal in Krypton::Tenant::"globex", action, resource);`, 1, 22, "another tenant"},
		{"another tenant in a condition", in(`resource in Krypton::Tenant::"globex"`), 2, 15, "another tenant"},
		{"another tenant in a set", in(`resource in [Krypton::Tenant::"acme", Krypton::Tenant::"globex"]`), 2, 41, "another tenant"},
		{"another tenant as a text", in(`principal.tenant == "globex"`), 2, 23, "another tenant"},
		{"another tenant as a text, first", in(`"globex" != resource.tenant`), 2, 3, "another tenant"},
		{"another tenant where nobody looks", in(`true || principal["tenant"] == "globex"`), 2, 34, "another tenant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all := problems(c.text)
			if len(all) != 1 {
				t.Fatalf("problems %v", all)
			}
			p := all[0]
			if p.Policy != "p" || p.Line != c.line || p.Column != c.column || !strings.Contains(p.What, c.what) || p.Fix == "" {
				t.Errorf("%s (%s), want %d:%d %s", p, p.Fix, c.line, c.column, c.what)
			}
			s, err := policy.Compile("acme", []policy.Text{{Name: "p", Text: c.text}})
			if s != nil || !errs.Is(err, errs.InvalidArgument) || err.Error() == "" {
				t.Errorf("Compile: %v, %v", s, err)
			}
			if strings.Contains(p.String()+p.Fix, "globex") {
				t.Error("the message quotes the text")
			}
		})
	}
}

func TestWhatIsWellIsTaken(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`permit(principal,action,resource);`,
		`@note("why") @if permit (principal, action, resource,);`,
		head + `;`,
		head + ` when { context has encryption_context };`,
		head + ` when { context has encryption_context.purpose && context.encryption_context.purpose == "a" };`,
		`permit (principal, action, resource) when { context has encryption_context && context.encryption_context has a && context.encryption_context["a"] like "x*" };`,
		`permit (principal, action, resource) when { action in Krypton::Action::"use" && context.version > 3 };`,
		`permit (principal, action, resource) when { principal is Krypton::Person && principal.role == "auditor" };`,
		`permit (principal, action, resource) when { if principal is Krypton::Person then principal.role == "auditor" else principal.tenant == "acme" };`,
		`permit (principal, action == Krypton::Action::"resources.get", resource == Krypton::Resource::"payments/a/b");`,
		head + ` when { (context.encryption_context has a && context.encryption_context.a == "1") || (context.encryption_context has b && context.encryption_context.b == "1") };`,
		head + ` when { context.encryption_context has a && context.encryption_context has b && context.encryption_context.a == context.encryption_context.b };`,
		head + ` when { true && context.encryption_context has a && (context.encryption_context has b && context.encryption_context.a == context.encryption_context.b) };`,
		head + ` when { if context.encryption_context has a && context.region == "x" then context.encryption_context.a == "1" else false };`,
		head + ` when { (if context.region == "x" then context.encryption_context has a else context.encryption_context has a) && context.encryption_context.a == "1" };`,
		head + ` when { if context.encryption_context has a then context.encryption_context.a == "1" else context.version == -9223372036854775808 };`,
		head + ` when { context.encryption_context has a || context.encryption_context has b } unless { context.region like "\*\u{65}*" };`,
		head + ` when { {a: {b: context.region}}.a.b == "x" && ["a", "b"].containsAll(["a"]) && ![["a"]].isEmpty() };`,
		head + ` when { principal is Krypton::Workload in Krypton::Tenant::"acme" && - - 1 == 1 };`,
	} {
		if p := problems(text); len(p) != 0 {
			t.Errorf("%v (%s)\n%s", p, p[0].Fix, text)
		}
	}
}

func TestProblemsOfSeveralPoliciesComeInTheOrderOfNames(t *testing.T) {
	t.Parallel()
	texts := []policy.Text{
		{Name: "c", Text: "permit"},
		{Name: "a", Text: "\nforbid ("},
		{Name: "b", Text: "permit (principal, action, resource);"},
	}
	want := policy.Check("acme", texts)
	if len(want) != 2 || want[0].Policy != "a" || want[1].Policy != "c" || want[0].Line != 2 {
		t.Errorf("problems %v", want)
	}
	_, err := policy.Compile("acme", texts)
	if err == nil || !strings.HasPrefix(err.Error(), "policy a, line 2, column 9: something else where principal should stand (and 1 more)") {
		t.Errorf("Compile: %v", err)
	}
	texts[0], texts[2] = texts[2], texts[0]
	if diff := cmp.Diff(want, policy.Check("acme", texts)); diff != "" {
		t.Errorf("in another order of texts:\n%s", diff)
	}
}

func TestNamesOfPoliciesAndTenants(t *testing.T) {
	t.Parallel()
	const text = "permit (principal, action, resource);"
	for name, texts := range map[string][]policy.Text{
		"twice":      {{Name: "a", Text: text}, {Name: "b", Text: text}, {Name: "a", Text: text}},
		"empty":      {{Name: "", Text: text}},
		"not a name": {{Name: "A b", Text: text}},
	} {
		if p := policy.Check("acme", texts); len(p) != 1 || p[0].Fix == "" || p[0].String() == "" {
			t.Errorf("%s: %v", name, p)
		}
	}
	for _, tenant := range []hierarchy.Name{"", "Acme", "a/b"} {
		if s, err := policy.Compile(tenant, nil); s != nil || err == nil {
			t.Errorf("tenant %q: %v, %v", tenant, s, err)
		}
	}
}
