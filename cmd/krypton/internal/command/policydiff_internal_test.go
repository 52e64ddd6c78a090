package command

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAPolicyDiffShowsEveryLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ was, is, want string }{
		"new":       {"", "a\nb\n", "p is new:\n+ a\n+ b\n"},
		"same":      {"a\n", "a\n", "p stays as it is:\n  a\n"},
		"changed":   {"a\nb\nc\n", "a\nx\nc\n", "p changes:\n  a\n- b\n+ x\n  c\n"},
		"moved":     {"a\nb\nc\nd\n", "b\nc\na\nd\n", "p changes:\n- a\n  b\n  c\n+ a\n  d\n"},
		"line end":  {"a\n", "a", "p changes:\n- a\n+ a (without a line end)\n"},
		"emptied":   {"a\n", "\n", "p changes:\n- a\n+ \n"},
		"quotes":    {"", "\"x\" like \"*\"\n", "p is new:\n+ \"x\" like \"*\"\n"},
		"lookalike": {"", "p\u0430y\x1b[2K\r\u202e\n", "p is new:\n+ p\\u0430y\\x1b[2K\\r\\u202e\n"},
	} {
		if d := cmp.Diff(c.want, policyDiff("p", c.was, c.is)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestAPolicyDiffLosesNothing: without what comes it is the old text, without what
// goes the new one, however long they are.
func TestAPolicyDiffLosesNothing(t *testing.T) {
	t.Parallel()
	side := func(diff, other string) (all []string) {
		for _, l := range strings.Split(strings.TrimSuffix(diff, "\n"), "\n")[1:] {
			if !strings.HasPrefix(l, other) {
				all = append(all, l[2:])
			}
		}
		return all
	}
	check := func(was, is []string) string {
		text := func(l []string) string { return strings.Join(l, "\n") + "\n" }
		d := policyDiff("p", text(was), text(is))
		return cmp.Diff(was, side(d, "+ ")) + cmp.Diff(is, side(d, "- "))
	}
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", ""}), 1, 30)
		if d := check(some.Draw(t, "was"), some.Draw(t, "is")); d != "" {
			t.Error(d)
		}
	})
	long := make([]string, 30_000)
	for i := range long {
		long[i] = strings.Repeat("x", i%7)
	}
	if d := check(long, append([]string{"y"}, long[1:len(long)-1]...)); d != "" {
		t.Error("of long texts something is lost")
	}
}
