package policy_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/policy"
)

const pagePath = "../docs/policy.md"

func page(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// fence is a block of the page.
type fence struct {
	language, text string
	line           int
}

func fences(t *testing.T) []fence {
	t.Helper()
	var all []fence
	open := false
	for i, l := range strings.SplitAfter(page(t), "\n") {
		switch rest, ok := strings.CutPrefix(l, "```"); {
		case ok && !open:
			all, open = append(all, fence{language: strings.TrimSpace(rest), line: i + 1}), true
		case ok:
			open = false
		case open:
			all[len(all)-1].text += l
		}
	}
	if open || len(all) == 0 {
		t.Fatal("the page's fences do not match")
	}
	return all
}

// one is a set of one text.
func one(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Compile("acme", []policy.Text{{Name: "example", Text: text}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request reads "who action [service] [what=value...]".
func request(t testing.TB, line string) policy.Query {
	t.Helper()
	f := strings.Fields(line)
	if len(f) < 2 {
		t.Fatalf("no request: %q", line)
	}
	q := policy.Query{Subject: subject(t, f[0]), Version: 1}
	var ok bool
	if q.Action, ok = policy.ActionNamed(f[1]); !ok {
		t.Fatalf("no action: %q", line)
	}
	var pairs []hierarchy.ContextPair
	for i, w := range f[2:] {
		k, v, isPair := strings.Cut(w, "=")
		switch {
		case !isPair && i == 0:
			q.Service = hierarchy.Name(w)
		case !isPair:
			t.Fatalf("not understood: %q", line)
		case k == "version":
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			q.Version = hierarchy.VersionNumber(n)
		case k == "region":
			q.Region = v
		case k == "resource":
			q.Resource = hierarchy.ResourceID(v)
		case k == "issuer":
			q.IssuerName = v
		default:
			pairs = append(pairs, hierarchy.ContextPair{Key: k, Value: v})
		}
	}
	var err error
	if q.Context, err = hierarchy.NewEncryptionContext(pairs...); err != nil {
		t.Fatal(err)
	}
	return q
}

// subject reads a workload of acme, or role/name.
func subject(t testing.TB, s string) policy.Subject {
	t.Helper()
	p := auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleWorkload, Tenant: "acme", Name: s}
	if role, name, ok := strings.Cut(s, "/"); ok {
		r, err := auth.ParseRole(role)
		if err != nil {
			t.Fatal(err)
		}
		p.Role, p.Tenant, p.Name = r, "", name
	}
	return policy.Subject{Principal: p, IssuerName: "issuers/builtin"}
}

func TestTheExamplesOfThePageDecideAsItSays(t *testing.T) {
	t.Parallel()
	all := fences(t)
	examples, lines := 0, 0
	for i, f := range all {
		if f.language != "cedar" {
			continue
		}
		examples++
		if i+1 == len(all) || all[i+1].language != "decisions" {
			t.Errorf("line %d: no decisions behind the example", f.line)
			continue
		}
		s := one(t, f.text)
		allowed, denied := 0, 0
		for l := range strings.SplitSeq(strings.TrimSpace(all[i+1].text), "\n") {
			verdict, rest, _ := strings.Cut(l, " ")
			lines++
			q := request(t, rest)
			d := s.Decide(q)
			if (verdict == "allow") != d.Allow || verdict != "allow" && verdict != "deny" {
				t.Errorf("line %d: %s: the engine says: %s", all[i+1].line, l, d)
			}
			if d.Allow {
				allowed++
			} else {
				denied++
			}
		}
		if allowed == 0 || denied == 0 {
			t.Errorf("line %d: an example that allows %d and denies %d shows half of it", f.line, allowed, denied)
		}
	}
	if examples < 5 || lines < 20 {
		t.Errorf("only %d examples with %d decisions are found", examples, lines)
	}
}

func TestTheProblemsOfThePageAreThoseOfTheEngine(t *testing.T) {
	t.Parallel()
	all := fences(t)
	n := 0
	for i, f := range all {
		if f.language != "cedar refused" {
			continue
		}
		n++
		p := policy.Check("acme", []policy.Text{{Name: "payments", Text: f.text}})
		if len(p) != 1 || i+1 == len(all) {
			t.Errorf("line %d: problems %v", f.line, p)
			continue
		}
		if want := p[0].String() + "\n" + p[0].Fix + "\n"; all[i+1].text != want {
			t.Errorf("line %d: the page says\n%sthe engine says\n%s", all[i+1].line, all[i+1].text, want)
		}
	}
	if n < 4 {
		t.Errorf("only %d refused examples are found", n)
	}
}

func TestThePageHasTheLimits(t *testing.T) {
	t.Parallel()
	table := "| what | at most |\n| :--- | :--- |\n"
	for _, r := range []struct {
		what string
		n    int
		unit string
	}{
		{"policies", policy.MaxPolicies, ""},
		{"one policy, comments included", policy.MaxTextBytes >> 10, " KiB"},
		{"all policies together", policy.MaxSetBytes >> 10, " KiB"},
		{"statements in all policies together", policy.MaxStatements, ""},
		{"parts of one statement: operators, names, values", policy.MaxNodes, ""},
		{"parts of all statements together", policy.MaxSetNodes, ""},
		{"parentheses, sets, records, ifs, attributes in each other", policy.MaxDepth, ""},
		{"different keys of encryption contexts that one statement reads", hierarchy.MaxContextPairs, ""},
		{"different keys that all statements for one action read", policy.MaxKeys, ""},
		{"mentions of `context` in all policies; a pattern with a `*` on something of it counts four for each character", policy.MaxMentions, ""},
	} {
		table += fmt.Sprintf("| %s | %d%s |\n", r.what, r.n, r.unit)
	}
	if !strings.Contains(page(t), table) {
		t.Errorf("%s does not have this table:\n%s", pagePath, table)
	}
}

func TestThePageShowsWhatRecordsSay(t *testing.T) {
	t.Parallel()
	s, err := policy.Compile("acme", []policy.Text{
		{Name: "payments", Text: `permit (principal == Krypton::Workload::"app1", action in Krypton::Action::"use", resource);`},
		{Name: "old-versions", Text: "// Not before 3.\n" + `forbid (principal, action in Krypton::Action::"use", resource) when { context.version < 3 };`},
		{Name: "sums", Text: `forbid (principal, action in Krypton::Action::"use", resource) when { context.version + 9223372036854775800 < 3 };`},
	})
	if err != nil {
		t.Fatal(err)
	}
	calm, err := policy.Compile("acme", []policy.Text{
		{Name: "payments", Text: `permit (principal == Krypton::Workload::"app1", action in Krypton::Action::"use", resource);`},
		{Name: "old-versions", Text: "// Not before 3.\n" + `forbid (principal, action in Krypton::Action::"use", resource) when { context.version < 3 };`},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, d := range []policy.Decision{
		calm.Decide(request(t, "app1 crypto.decrypt payments version=2")),
		calm.Decide(request(t, "app2 crypto.decrypt payments version=7")),
		s.Decide(request(t, "app1 crypto.decrypt payments version=9")),
	} {
		if d.Allow {
			t.Errorf("allowed: %s", d)
		}
		want += d.String() + "\n"
	}
	if !strings.Contains(page(t), "```text\n"+want+"```\n") {
		t.Errorf("%s does not have this block:\n%s", pagePath, want)
	}
}
