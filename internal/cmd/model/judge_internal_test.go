package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The files in testdata are what the verifier of Spin 6.5.2 printed; it exited 0
// each time, except where it was killed.
func recorded(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestI1_I2_I3_I4_Judge(t *testing.T) {
	t.Parallel()
	full := testCase{kind: exhaustive}
	caught := testCase{kind: bug, breaks: s1}
	for name, tc := range map[string]struct {
		c    testCase
		text string
		want string // "" passes
	}{
		"full search without an error":         {full, recorded(t, "pass.txt"), ""},
		"errors with exit status 0":            {full, recorded(t, "caught-exit-0.txt"), "1 errors"},
		"depth bound, which only a line warns": {full, recorded(t, "depth.txt"), "max search depth too small"},
		"memory bound":                         {full, recorded(t, "memory.txt"), "not complete"},
		"interrupted":                          {full, recorded(t, "interrupted.txt"), "not complete"},
		"killed":                               {full, recorded(t, "killed.txt"), "no errors line"},
		"assertions off":                       {full, recorded(t, "no-assertions.txt"), "not a search of the full state space"},
		"I4 bits are not exhaustive":           {full, recorded(t, "bits.txt"), "not a search of the full state space"},
		"I4 neither is hash-compact":           {full, recorded(t, "hash-compact.txt"), "not a search of the full state space"},
		"two errors lines":                     {full, recorded(t, "pass.txt") + recorded(t, "pass.txt"), "no errors line"},
		"no states":                            {full, strings.Replace(recorded(t, "pass.txt"), "states, stored", "", 1), "no states"},

		"bug caught":                           {caught, recorded(t, "caught-exit-0.txt"), ""},
		"bug not caught":                       {caught, recorded(t, "pass.txt"), "not caught"},
		"goal not reached":                     {testCase{kind: goal, breaks: newest}, recorded(t, "pass.txt"), "not reached"},
		"bug breaks something else":            {testCase{kind: bug, breaks: s2}, recorded(t, "caught-exit-0.txt"), "and not"},
		"bug without what it breaks":           {testCase{kind: bug}, recorded(t, "caught-exit-0.txt"), "does not say"},
		"error without a broken assertion":     {caught, strings.Replace(recorded(t, "caught-exit-0.txt"), "assertion violated", "invalid end state", 1), "and not"},
		"bug whose verifier was killed":        {caught, recorded(t, "killed.txt"), "no errors line"},
		"bug whose search ran out of memory":   {caught, recorded(t, "memory.txt"), "not caught"},
		"a case that nobody gave a kind fails": {testCase{}, recorded(t, "pass.txt"), "without a kind"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := judge(tc.c, parse(tc.text))
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("failed: %v", err)
			case tc.want != "" && err == nil:
				t.Errorf("passed, want a failure with %q", tc.want)
			case tc.want != "" && !strings.Contains(err.Error(), tc.want):
				t.Errorf("failed with %q, want %q", err, tc.want)
			}
		})
	}
}

func TestParseReadsTheNumbers(t *testing.T) {
	t.Parallel()
	o := parse(recorded(t, "caught-exit-0.txt"))
	if o.states != 704 || o.depth != 49 || o.errors != 1 || !strings.HasPrefix(o.violated, "!(((lease[i]>(2-2))") {
		t.Errorf("read %+v", o)
	}
	if got := parse("  1.5e+08 states, stored\n").states; got != 150_000_000 {
		t.Errorf("read %d states, want 150000000", got)
	}
}

func TestSummaryFailsWithAnyRun(t *testing.T) {
	t.Parallel()
	good := func() []result {
		return []result{
			{c: testCase{kind: exhaustive}, o: outcome{states: 7}},
			{c: testCase{kind: bug}, o: outcome{errors: 1}},
			{c: testCase{kind: goal}, o: outcome{errors: 1}},
		}
	}
	s := sum(good())
	if err := s.verdict(); err != nil {
		t.Errorf("good runs: %v", err)
	}
	if want := "states=7\nerrors=0\ncomplete=yes\nbugs_caught=1/1\ngoals_reached=1/1\nexhaustive=1\n"; s.fields() != want {
		t.Errorf("fields %q, want %q", s.fields(), want)
	}
	for i, field := range []string{"complete=no", "bugs_caught=0/1", "goals_reached=0/1"} {
		r := good()
		r[i].err = fmt.Errorf("stopped")
		s := sum(r)
		if s.verdict() == nil {
			t.Errorf("run %d failed, and the whole did not", i)
		}
		if !strings.Contains(s.fields(), field) {
			t.Errorf("fields %q do not say %s", s.fields(), field)
		}
		if sum(slices.Delete(good(), i, i+1)).verdict() == nil {
			t.Errorf("nothing of kind %d, and no failure", i+1)
		}
	}
	found := good()
	found[0].o.errors, found[0].err = 1, fmt.Errorf("1 errors")
	if s := sum(found); !strings.Contains(s.fields(), "errors=1\n") || s.verdict() == nil {
		t.Errorf("an error of the protocol: %q", s.fields())
	}
	if sum(nil).verdict() == nil || sum(nil).complete() != "no" {
		t.Error("no runs at all pass")
	}
}

func TestI5_EverySeededBugIsACase(t *testing.T) {
	t.Parallel()
	const dir = "../../../cluster/lease/model"
	macro := regexp.MustCompile(`\b(?:BUG_[A-Z0-9]+|REACH[A-Z0-9]*)\b`)
	for _, model := range []string{"lease", "snapshot"} {
		text, err := os.ReadFile(filepath.Join(dir, model+".pml"))
		if err != nil {
			t.Fatal(err)
		}
		named := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "#if") {
				for _, m := range macro.FindAllString(line, -1) {
					named[m] = true
				}
			}
		}
		tried := map[string]bool{}
		for _, c := range cases {
			for _, d := range c.defines {
				if c.model == model && macro.MatchString(d) {
					tried[d] = true
					if c.kind != bug && c.kind != goal {
						t.Errorf("%s: a seeded bug or goal as %s", c.name(), c.kind)
					}
				}
			}
		}
		if !maps.Equal(named, tried) {
			t.Errorf("%s.pml names %v, the cases try %v", model, slices.Sorted(maps.Keys(named)), slices.Sorted(maps.Keys(tried)))
		}
	}
}

func TestCasesAreWholeAndOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range cases {
		if seen[c.name()] {
			t.Errorf("%s is there twice", c.name())
		}
		seen[c.name()] = true
		if (c.kind == bug || c.kind == goal) != (c.breaks != "") {
			t.Errorf("%s: kind %s with assertion %q", c.name(), c.kind, c.breaks)
		}
	}
}
