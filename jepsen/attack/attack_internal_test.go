//go:build unix

package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/attacks.md")

// The table stands between these lines of the page.
const (
	tableBegins = "<!-- The table is written by `go test ./jepsen/attack -update`. -->\n"
	tableEnds   = "<!-- End of the table. -->\n"
)

func TestI4_ThePageHasEveryAttack(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "docs", "attacks.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !ok || !ends {
		t.Fatalf("%s has no place for the table", path)
	}
	want := before + tableBegins + markdown(stages()) + "\n" + tableEnds + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(page) {
		t.Errorf("%s is not what the code tries: go test ./jepsen/attack -update", path)
	}
}

func TestEveryAttackSaysWhatItIs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range stages() {
		for _, a := range s.attacks {
			if a.name == "" || a.who == "" || a.tries == "" || a.stops == "" || a.run == nil {
				t.Errorf("%s: %q leaves something out", s.name, a.name)
			}
			if seen[a.name] {
				t.Errorf("%q is there twice", a.name)
			}
			seen[a.name] = true
			if a.open != (a.without == "") {
				t.Errorf("%q: an attack that something stops has a control, and one that works has none", a.name)
			}
			if a.open != strings.HasPrefix(a.stops, "nothing") {
				t.Errorf("%q: open = %t, and what stops it is %q", a.name, a.open, a.stops)
			}
		}
	}
}

// TestI1_WhatFailsTheRun: an attack that broke in, a control that did not, an attack
// that is documented to work and does not any more, and nothing at all.
func TestI1_WhatFailsTheRun(t *testing.T) {
	t.Parallel()
	held := outcome{attack: attack{name: "a"}, finding: finding{control: "it worked"}}
	broke := outcome{attack: attack{name: "b"}, finding: finding{broke: true, control: "it worked"}}
	powerless := outcome{attack: attack{name: "c"}}
	open := outcome{attack: attack{name: "d", open: true}, finding: finding{broke: true}}
	closed := outcome{attack: attack{name: "e", open: true}}
	for name, c := range map[string]struct {
		all  []outcome
		want string // in the error; empty: none
	}{
		"held":         {[]outcome{held, held}, ""},
		"and one open": {[]outcome{held, open}, ""},
		"broke in":     {[]outcome{held, broke}, "1 of 2 attacks broke in"},
		"no control":   {[]outcome{held, powerless}, "1 of 2 controls did not work"},
		"not open":     {[]outcome{held, closed}, "documented as not defended"},
		"nothing":      {nil, "nothing was attacked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tl tally
			tl.add(c.all)
			err := tl.verdict()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			var out bytes.Buffer
			tl.print(&out)
			for word, must := range map[string]bool{"BROKE IN": c.want == "1 of 2 attacks broke in", "PROVES NOTHING": c.want == "1 of 2 controls did not work"} {
				if strings.Contains(out.String(), word) != must {
					t.Errorf("the table says %q: %t\n%s", word, !must, out.String())
				}
			}
		})
	}
}
