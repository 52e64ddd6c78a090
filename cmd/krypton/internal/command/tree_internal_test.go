package command

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// walk calls f for every command with its path.
func walk(path []*Command, f func(path []*Command)) {
	f(path)
	for _, s := range path[len(path)-1].Sub {
		walk(append(slices.Clone(path), s), f)
	}
}

func everyCommand(t *testing.T, f func(t *testing.T, path []*Command, c *Command)) {
	t.Helper()
	n := 0
	walk([]*Command{Tree()}, func(path []*Command) {
		n++
		t.Run(strings.ReplaceAll(words(path), " ", "/"), func(t *testing.T) { f(t, path, path[len(path)-1]) })
	})
	if n < 60 {
		t.Fatalf("only %d commands found", n)
	}
}

func TestEveryCommandIsDocumented(t *testing.T) {
	everyCommand(t, func(t *testing.T, path []*Command, c *Command) {
		t.Helper()
		if c.Usage == "" || c.Usage[0] < 'a' || c.Usage[0] > 'z' || strings.HasSuffix(c.Usage, ".") {
			t.Errorf("usage %q is not a lower-case line", c.Usage)
		}
		help := c.help(path)
		if len(c.Sub) > 0 {
			for _, s := range c.Sub {
				if !s.Hidden && !strings.Contains(help, "  "+s.Name) {
					t.Errorf("help does not list %s", s.Name)
				}
			}
			return
		}
		if len(c.Examples) == 0 {
			t.Error("no example")
		}
		if (c.Args == "") != (c.NArgs[1] == 0) || c.NArgs[0] > c.NArgs[1] {
			t.Errorf("arguments %q, from %d to %d", c.Args, c.NArgs[0], c.NArgs[1])
		}
		if optional := strings.HasPrefix(c.Args, "["); c.Args != "" && !c.Hidden && optional != (c.NArgs[0] == 0) {
			t.Errorf("arguments %q, at least %d", c.Args, c.NArgs[0])
		}
		for _, e := range c.exits() {
			if exitMeanings[e] == "" || !regexp.MustCompile(fmt.Sprintf(`(?m)^  %d +%s$`, e, regexp.QuoteMeta(exitMeanings[e]))).MatchString(help) {
				t.Errorf("help does not explain exit status %d", e)
			}
		}
		if c.Reach == Uses && !slices.Contains(c.exits(), errs.ExitIntegrity) {
			t.Error("uses keys, but does not say that they may not open")
		}
		for l := range strings.SplitSeq(help, "\n") {
			if len(l) > 140 {
				t.Errorf("a line of help has %d characters: %s", len(l), l)
			}
		}
	})
}

// TestEveryExampleIsRight finds the command of every example with all its flags.
func TestEveryExampleIsRight(t *testing.T) {
	root := Tree()
	everyCommand(t, func(t *testing.T, path []*Command, c *Command) {
		t.Helper()
		for _, e := range c.Examples {
			found := false
			for part := range strings.SplitSeq(strings.NewReplacer("<(", "", ")", "").Replace(e), "|") {
				i := strings.Index(part, "krypton ")
				if i < 0 {
					continue
				}
				line := strings.FieldsFunc(part[i:], func(r rune) bool { return r == '<' || r == '>' })[0]
				req, err := resolve(root, fields(line)[1:])
				if err != nil {
					t.Errorf("%s: %v", line, err)
					continue
				}
				found = found || req.command().Name == c.Name || len(path) == 1
			}
			if !found {
				t.Errorf("example %q is of another command", e)
			}
		}
	})
}

// fields splits a line at blanks that are not in quotes.
func fields(line string) []string {
	var out []string
	for i, q := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, q)
			continue
		}
		out = append(out, strings.Fields(q)...)
	}
	return out
}

func TestI4_NoFlagTakesASecret(t *testing.T) {
	secret := regexp.MustCompile(`(?i)(token|share|secret|password|pin|plaintext)$`)
	everyCommand(t, func(t *testing.T, _ []*Command, c *Command) {
		t.Helper()
		for _, f := range c.flags() {
			if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() && secret.MatchString(f.Names()[0]) {
				t.Errorf("flag --%s takes a secret from the command line", f.Names()[0])
			}
		}
	})
}

func TestEveryFlagIsExplainedAndUnique(t *testing.T) {
	everyCommand(t, func(t *testing.T, _ []*Command, c *Command) {
		t.Helper()
		seen := map[string]bool{}
		for _, f := range c.flags() {
			d, ok := f.(cli.DocGenerationFlag)
			if !ok || d.GetUsage() == "" {
				t.Errorf("flag %v is not explained", f.Names())
				continue
			}
			if p, _ := unquote(d.GetUsage()); d.TakesValue() && p == "" {
				t.Errorf("flag --%s does not name its value", f.Names()[0])
			}
			for _, n := range f.Names() {
				if seen[n] {
					t.Errorf("flag %s is there twice", n)
				}
				seen[n] = true
			}
		}
	})
}

// TestI5_WhatCannotBeUndoneAsks lists the commands that must ask.
func TestI5_WhatCannotBeUndoneAsks(t *testing.T) {
	want := []string{
		"krypton seal", "krypton tenant delete", "krypton service delete", "krypton key deprecate", "krypton key compromise",
		"krypton key destroy", "krypton operator remove", "krypton approval approve", "krypton operator quorum set",
	}
	for _, w := range want {
		req, err := resolve(Tree(), append(strings.Fields(w)[1:], "--help"))
		if err != nil {
			t.Fatal(err)
		}
		if req.command().flag("yes") == nil {
			t.Errorf("%s has no --yes", w)
		}
	}
}

func TestFlagsMayStandAnywhere(t *testing.T) {
	for _, line := range []string{
		"key destroy demo --version 1 --yes --output json",
		"--output json key --yes destroy --version 1 demo",
		"key destroy --version=1 --output=json -y demo",
		"key destroy --version 1 --yes --output json -- demo",
	} {
		r, err := resolve(Tree(), strings.Fields(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		argv := r.argv()
		if n := len(argv); argv[n-2] != "--" || argv[n-1] != "demo" || argv[0] != "key" || argv[1] != "destroy" {
			t.Errorf("%s: %q", line, argv)
		}
		slices.Sort(r.flags)
		if got := strings.ReplaceAll(strings.Join(r.flags, " "), "--yes", "-y"); !strings.Contains(got, "-y") || !strings.Contains(got, "json") || !strings.Contains(got, "1") {
			t.Errorf("%s: flags %q", line, r.flags)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"create", "list", "get", "suspend", "resume", "delete", "undelete", "rotate", "rollback"}
	for got, want := range map[string]string{
		"crate": "create", "lsit": "list", "rotat": "rotate", "undlete": "undelete", "susepnd": "suspend", "gte": "get",
		"xyzzy": "", "": "", "g": "", "frobnicate": "",
	} {
		if n := nearest(got, names); n != want {
			t.Errorf("nearest to %q is %q, want %q", got, n, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"kitten", "sitting", 3}} {
		if d := distance(tt.a, tt.b); d != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, d, tt.want)
		}
		if d := distance(tt.b, tt.a); d != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.b, tt.a, d, tt.want)
		}
	}
}

// FuzzResolve: no command line makes the parser fail in any other way than with
// an error of the table.
func FuzzResolve(f *testing.F) {
	f.Add("tenant get demo --output json")
	f.Add("--help key")
	f.Add("-- - -x --= --=x")
	f.Add("key destroy --version")
	root := Tree()
	f.Fuzz(func(t *testing.T, line string) {
		req, err := resolve(root, strings.Split(line, " "))
		if err != nil && !errs.Is(err, errs.InvalidArgument) {
			t.Fatal(err)
		}
		if err == nil && !req.help && req.command().Run == nil {
			t.Fatalf("%q resolves to %s, which does nothing", line, words(req.path))
		}
	})
}
