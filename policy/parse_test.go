package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/policy"
)

// stricter are parts of what this parser says about texts that Cedar's takes, or
// would take if it came to an end.
var stricter = []string{
	"no use here", "no comment in Cedar", "nested more than", "signs in a row", "of more than", "empty list of actions", "no path", "no statement", "more statements",
}

// readsAlike fails when this parser and Cedar's take different texts, or take one
// text for two trees.
func readsAlike(t rapid.TB, text string) (taken bool) {
	t.Helper()
	mine, theirs := policy.ReadAlike(text)
	if mine == "" {
		if theirs != "" {
			t.Fatalf("%s:\n%s", theirs, text)
		}
		return true
	}
	// Do not hand to Cedar's parser what is refused for its size or shape: 500 bytes
	// of has behind has keep it busy for longer than anybody waits.
	if slices.ContainsFunc(stricter, func(s string) bool { return strings.Contains(mine, s) }) {
		return false
	}
	if _, err := cedar.NewPolicyListFromBytes("", []byte(text)); err == nil {
		t.Fatalf("refused with %q, and Cedar takes it:\n%s", mine, text)
	}
	return false
}

// forms are expressions of every form; § is an expression.
var forms = []string{
	"§ && §", "§ || §", "!§", "-§", "!!§", "- -§", "(§)", "((§))",
	"§ == §", "§ != §", "§ < §", "§<=§", "§ > §", "§>=§", "§ in §",
	"§ + §", "§ - §", "§ * §", "§-§", "if § then § else §", "(if § then § else §)",
	`§ like "a*\*b"`, `§ like "**"`, `§ like ""`, "§ is A::B", "§ is A in §",
	"§ has a", `§ has "a b"`, "context has a.b.c", "§.a", "(§).a", `(§)["x"]`, `§["x"].y`, "[§, §]", "{a: §, b: §}",
	"(§).contains(§)", "(§).containsAll(§)", "[§].containsAny(§,)", "(§).isEmpty()",
}

var leaves = []string{
	"principal", "action", "resource", "context", "true", "false", "0", "-1", "- 1", "-9223372036854775808", "9223372036854775807",
	`"a"`, `"\u{1_F600}\x41\0\'"`, `"é*"`, `A::"b"`, `A::B::"c\"d"`, "context.a", `context["a b"]`, "[]", "{}", `{a: 1, "b": 2,}`, "[1,]",
}

// words writes an expression, well typed or not, with and without parentheses.
func words(t *rapid.T, depth int) string {
	if depth == 0 {
		return rapid.SampledFrom(leaves).Draw(t, "leaf")
	}
	parts := strings.Split(rapid.SampledFrom(forms).Draw(t, "form"), "§")
	text := parts[0]
	for _, p := range parts[1:] {
		text += words(t, depth-1) + p
	}
	return text
}

func TestI2_EveryFormIsReadAsCedarReadsIt(t *testing.T) {
	t.Parallel()
	taken, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		for range 5 {
			of := func(options ...string) string { return rapid.SampledFrom(options).Draw(t, "part") }
			text := of("", "@a ", `@if("x") `) + of("permit", "forbid") + "(" +
				of("principal", `principal == A::"b"`, `principal in A::"b"`, "principal is A::B", `principal is A in B::"c"`) + "," +
				of("action", `action == A::"b"`, `action in A::"b"`, `action in [A::"b", A::"c",]`, `action in []`) + ", " +
				of("resource", `resource == A::"b"`, `resource in A::"b"`, "resource is A", `resource is A in B::"c"`) + of("", ",") + ")" +
				of("", " // comment\n") + of("when", "unless") + "{" + words(t, rapid.IntRange(0, 3).Draw(t, "depth")) + "}" + of("", " when {true}") + ";"
			if readsAlike(t, text) {
				taken++
			} else {
				refused++
			}
		}
	})
	t.Logf("%d taken, %d refused", taken, refused)
	if taken < 100 || refused < 20 {
		t.Error("hardly tried")
	}
}

// FuzzParse: this parser and Cedar's agree about any text.
func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1024 { // Cedar's parser has no limits
			return
		}
		readsAlike(t, text)
	})
}
