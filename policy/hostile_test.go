package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/policy"
)

// patience is how long the worst text or set may take, on a slow and busy machine
// under the race detector. Alone it is a thousandth of it: BenchmarkWorstSet. What
// these tests find is work that grows with the square of the text, or faster.
const patience = 30 * time.Second

// in is a condition about data operations.
func in(condition string) string { return head + " when { " + condition + " };" }

// hostile are texts that cost a careless reader time, stack or memory.
func hostile() map[string]string {
	deep := func(open, middle, end string) string {
		n := (policy.MaxTextBytes - 200) / (len(open) + len(end))
		return in(strings.Repeat(open, n) + middle + strings.Repeat(end, n))
	}
	return map[string]string{
		"parentheses":        deep("(", "true", ")"),
		"open parentheses":   deep("(", "", ""),
		"sets":               deep("[", "1", "]") + "",
		"records":            deep("{a:", "1", "}"),
		"ifs":                deep("if true then ", "true", " else true"),
		"negations":          deep("!", "true", ""),
		"minuses":            deep("-", "1", "") + "",
		"minuses apart":      deep("- ", "context.version", "") + "",
		"attributes":         in("context" + strings.Repeat(".a", 7000) + " == 1"),
		"brackets":           in("context" + strings.Repeat(`["a"]`, 3000) + " == 1"),
		"has with dots":      in("context has a" + strings.Repeat(".a", 7000)),
		"has of has":         in(strings.Repeat("(", 31) + "context" + strings.Repeat(" has a.b.c.d)", 31)),
		"calls":              in("[1]" + strings.Repeat(".contains(1)", 1200)),
		"nested calls":       in(strings.Repeat("[1].contains(", 1000) + "1" + strings.Repeat(")", 1000)),
		"many ands":          in("true" + strings.Repeat(" && true", 1900)),
		"many sums":          in("1" + strings.Repeat("+1", 7000) + " == 1"),
		"many ins":           in("principal" + strings.Repeat(" in principal", 1000)),
		"many keys":          in("true" + keysAsked(600)),
		"a large set":        in("[" + strings.Repeat("1,", 7000) + "1].contains(context.version)"),
		"a long text":        in(`context.region == "` + strings.Repeat("a", 16000) + `"`),
		"a long pattern":     in(`context.region like "` + strings.Repeat("a*", 8000) + `"`),
		"a long name":        `permit (principal is ` + strings.Repeat("a", 16000) + `, action, resource);`,
		"a long path":        `permit (principal is a` + strings.Repeat("::a", 5000) + `, action, resource);`,
		"many actions":       `permit (principal, action in [` + strings.Repeat(`Krypton::Action::"use",`, 700) + `], resource);`,
		"many annotations":   strings.Repeat("@a", 8000),
		"other annotations":  manyAnnotations(),
		"many conditions":    "permit (principal, action, resource)" + strings.Repeat(" when {true}", 1300) + ";",
		"many statements":    strings.Repeat("permit(principal,action,resource);", 480),
		"tiny statements":    strings.Repeat(";", 16000),
		"comments":           strings.Repeat("//\n", 5400),
		"quotes":             strings.Repeat(`"`, 16001),
		"backslashes":        in(`context.region == "` + strings.Repeat(`\\`, 8000) + `"`),
		"colons":             strings.Repeat("::", 8000),
		"one byte too much":  strings.Repeat(" ", policy.MaxTextBytes+1),
		"far too much":       strings.Repeat("permit(principal,action,resource);", 1<<17),
		"right to left":      in("context.region == \"\u202e\""),
		"only of characters": strings.Repeat("é", 8000),
	}
}

func keysAsked(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " && context.encryption_context has k%d", i)
	}
	return b.String()
}

func manyAnnotations() string {
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "@a%d ", i)
	}
	return b.String() + "permit (principal, action, resource);"
}

func TestI6_HostileTextsCostBoundedTime(t *testing.T) {
	t.Parallel()
	for name, text := range hostile() {
		start := time.Now()
		p := problems(text)
		if d := time.Since(start); d > patience {
			t.Errorf("%s: %s", name, d)
		}
		s, err := policy.Compile("acme", []policy.Text{{Name: "p", Text: text}})
		if (err == nil) != (len(p) == 0) || (s == nil) != (err != nil) {
			t.Errorf("%s: problems %v, but %v", name, p, err)
		}
		if s != nil {
			s.Decide(request(t, "app1 crypto.decrypt payments a=1"))
		}
	}
}

func TestI6_LimitsHoldAndWhatIsInsideIsTaken(t *testing.T) {
	t.Parallel()
	const small = "permit(principal,action,resource);"
	texts := func(n int, text string) (all []policy.Text) {
		for i := range n {
			all = append(all, policy.Text{Name: hierarchy.Name(fmt.Sprintf("p%d", i)), Text: text})
		}
		return all
	}
	padded := func(n int) string { return small + strings.Repeat(" ", n-len(small)) }
	nested := func(n int) string { return in(strings.Repeat("(", n) + "principal has name" + strings.Repeat(")", n)) }
	pattern := func(n int) string { return in(`context.region like "` + strings.Repeat("a", n-1) + `*"`) }
	for _, c := range []struct {
		name           string
		inside, beyond []policy.Text
	}{
		{"policies", texts(policy.MaxPolicies, small), texts(policy.MaxPolicies+1, small)},
		{"bytes of a text", texts(1, padded(policy.MaxTextBytes)), texts(1, padded(policy.MaxTextBytes+1))},
		{"bytes of a set", texts(policy.MaxSetBytes/policy.MaxTextBytes, padded(policy.MaxTextBytes)), texts(policy.MaxSetBytes/policy.MaxTextBytes+1, padded(policy.MaxTextBytes))},
		{"statements", texts(policy.MaxPolicies/2, strings.Repeat(small, 2*policy.MaxStatements/policy.MaxPolicies)), texts(policy.MaxPolicies/2+1, strings.Repeat(small, 2*policy.MaxStatements/policy.MaxPolicies))},
		{"statements of one text", texts(1, strings.Repeat(small, 400)), texts(3, strings.Repeat(small, 400))},
		{"depth", texts(1, nested(policy.MaxDepth-1)), texts(1, nested(policy.MaxDepth))},
		// A set of n numbers, contains and what is contained, and the entity of the head.
		{"parts", texts(1, in("["+strings.Repeat("1,", policy.MaxNodes-4)+"].contains(1)")), texts(1, in("["+strings.Repeat("1,", policy.MaxNodes-3)+"].contains(1)"))},
		{"parts of a set", texts(8, in("["+strings.Repeat("1,", 4000)+"].contains(1)")), texts(9, in("["+strings.Repeat("1,", 4000)+"].contains(1)"))},
		{"keys of a statement", texts(1, in("true"+keysAsked(64))), texts(1, in("true"+keysAsked(65)))},
		// A condition that mentions the context once, with a pattern of 255 characters.
		{"mentions", texts(4, pattern(255)), texts(5, pattern(255))},
	} {
		if p := policy.Check("acme", c.inside); len(p) != 0 {
			t.Errorf("%s: inside: %v", c.name, p)
		}
		if p := policy.Check("acme", c.beyond); len(p) == 0 || p[0].Fix == "" {
			t.Errorf("%s: beyond: %v", c.name, p)
		}
	}
	keys := func(n int) (all []policy.Text) {
		for i := range n {
			if i%8 == 0 {
				all = append(all, policy.Text{Name: hierarchy.Name(fmt.Sprintf("p%d", i/8))})
			}
			all[i/8].Text += in(fmt.Sprintf("context.encryption_context has k%d", i))
		}
		return all
	}
	if p := policy.Check("acme", keys(policy.MaxKeys)); len(p) != 0 {
		t.Errorf("keys of a set: inside: %v", p)
	}
	if p := policy.Check("acme", keys(policy.MaxKeys+1)); len(p) != 1 || !strings.Contains(p[0].What, "more keys") {
		t.Errorf("keys of a set: beyond: %v", p)
	}
}

// worst are sets that use up what the limits allow, with the most expensive
// query that a caller can make.
func worst(t testing.TB) map[string]*policy.Set {
	t.Helper()
	fill := func(text string, n int) (all []policy.Text) {
		for i := range n {
			all = append(all, policy.Text{Name: hierarchy.Name(fmt.Sprintf("p%d", i)), Text: text})
		}
		return all
	}
	compare := "context.encryption_context == context.encryption_context"
	sets := map[string][]policy.Text{
		"pattern":       fill(in(`context.encryption_context has v && context.encryption_context.v like "*`+strings.Repeat("a", 1018)+`b"`), 1),
		"patterns":      fill(in(`context.encryption_context has v && (`+strings.Repeat(`context.encryption_context.v like "*ab" || `, 78)+`false)`), 4),
		"comparisons":   fill(in(compare+strings.Repeat(" && "+compare, 200)), 10),
		"sets of texts": fill(in(`context.encryption_context has v && (`+strings.Repeat(`[context.encryption_context.v].contains(context.region) || `, 240)+`false)`), 8),
		"names":         fill(in(strings.Repeat(`principal.name like "*`+strings.Repeat("a", 30)+`b" || `, 240)+`false`), 16),
		"statements":    fill(strings.Repeat(in("context.version > 1"), policy.MaxStatements/policy.MaxPolicies), policy.MaxPolicies),
		"sums":          fill(in("context.version"+strings.Repeat("+1", 2000)+" > 1"), 8),
	}
	out := map[string]*policy.Set{}
	for name, texts := range sets {
		s, err := policy.Compile("acme", texts)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = s
	}
	return out
}

func worstQuery(t testing.TB) policy.Query {
	t.Helper()
	return withContext(t, request(t, strings.Repeat("a", 63)+" crypto.decrypt payments"), "v", strings.Repeat("a", hierarchy.MaxContextBytes-1))
}

func TestI6_TheWorstSetAnswersInBoundedTime(t *testing.T) {
	t.Parallel()
	for name, s := range worst(t) {
		start := time.Now()
		s.Evaluate(worstQuery(t))
		d := time.Since(start)
		t.Logf("%s: %s", name, d)
		if d > patience {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func BenchmarkWorstSet(b *testing.B) {
	q := worstQuery(b)
	for name, s := range worst(b) {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			for b.Loop() {
				s.Evaluate(q)
			}
		})
	}
}

// split makes up to eight policies of one text, at lines of dashes.
func split(text string) []policy.Text {
	var all []policy.Text
	for i, part := range strings.SplitN(text, "\n---\n", 8) {
		all = append(all, policy.Text{Name: hierarchy.Name(fmt.Sprintf("p%d", i)), Text: part})
	}
	return all
}

func seeds(f *testing.F) []string {
	f.Helper()
	all := []string{
		head + ";", "permit (principal, action, resource);\n---\nforbid" + overflow,
		in(`context.encryption_context has a && context.encryption_context["a"] like "x*\*"`),
		in(`if principal is Krypton::Workload then context.region == "eu-1" else false`),
		in(`[1, 2].containsAny([context.version]) && {a: {b: -1}}.a.b < 0 - 5 * 3`),
		"@a(\"b\") permit (principal == Krypton::Workload::\"app1\", action in [Krypton::Action::\"crypto.decrypt\"], resource in Krypton::Service::\"payments\",) unless { !(context.version >= 3) }; // end",
	}
	for _, text := range hostile() {
		if len(text) <= policy.MaxTextBytes {
			all = append(all, text)
		}
	}
	slices.Sort(all)
	return all
}

// FuzzCompile: whatever the text is, there is a set or a problem with a place in
// it; both ways to ask agree; and what is taken is read by Cedar the same way,
// which Compile compares itself.
func FuzzCompile(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		texts := split(text)
		start := time.Now()
		s, err := policy.Compile("acme", texts)
		problems := policy.Check("acme", texts)
		if d := time.Since(start); d > patience {
			t.Errorf("%s", d)
		}
		if (err == nil) != (s != nil) || (err == nil) != (len(problems) == 0) {
			t.Fatalf("%v, %v, %v", s, err, problems)
		}
		for _, p := range problems {
			i := slices.IndexFunc(texts, func(x policy.Text) bool { return x.Name == p.Policy })
			if p.What == "" || p.Fix == "" || strings.Contains(p.String(), "Cedar itself") {
				t.Errorf("%+v", p)
			}
			if i >= 0 && p.Line > strings.Count(texts[i].Text, "\n")+1 {
				t.Errorf("%s is behind the end of the text", p)
			}
		}
	})
}

// FuzzDecide: no text that is taken and no query stops the engine, or makes the
// cache answer what an evaluation would not.
func FuzzDecide(f *testing.F) {
	for i, s := range seeds(f) {
		f.Add(s, uint8(i%5+1), "app1", "payments", "a", "x", uint64(i), "eu-1")
	}
	f.Fuzz(func(t *testing.T, text string, action uint8, name, service, key, value string, version uint64, region string) {
		s, err := policy.Compile("acme", split(text))
		if err != nil {
			return
		}
		q := policy.Query{
			Subject: policy.Subject{Principal: auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleWorkload, Tenant: "acme", Name: name}, IssuerName: value},
			Action:  policy.Action(action), Service: hierarchy.Name(service), Resource: hierarchy.ResourceID(key),
			Version: hierarchy.VersionNumber(version), Region: region,
		}
		if c, err := hierarchy.NewEncryptionContext(hierarchy.ContextPair{Key: key, Value: value}); err == nil {
			q.Context = c
		}
		for range 2 {
			fresh, kept := s.Evaluate(q), s.Decide(q)
			if diff := cmp.Diff(fresh, kept); diff != "" {
				t.Error(diff)
			}
			if len(kept.String()) > 500 {
				t.Errorf("a record of %d bytes", len(kept.String()))
			}
		}
		if !q.Principal.Valid() && s.Decide(q).Allow {
			t.Error("a principal that is none is allowed something")
		}
	})
}
