//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// stagesAtOnce is how many clusters are attacked side by side: most of the time a
// stage waits for a node that starts.
const stagesAtOnce = 4

// attack is one thing that an attacker tries.
type attack struct {
	name  string // short, unique
	who   string // who attacks, and what they have
	tries string // what they try
	stops string // what stops it
	// without says what the control takes away.
	without string
	// open: nothing stops it today, which is said in docs/threat-model.md. It is tried so
	// that this stays true: one that fails is an error, too.
	open bool
	run  func(ctx context.Context, w *world) (finding, error)
}

// finding is how one attack ended. An attack that cannot be tried is an error instead.
type finding struct {
	broke    bool   // the attacker got what they wanted
	ended    string // in a few words: refused with which code, stopped, repaired
	evidence string // what the nodes said, verbatim where they said something
	control  string // what the control got; empty: it did not work either
}

// outcome is a finding of an attack.
type outcome struct {
	attack
	finding

	took time.Duration
}

// stage is a list of attacks on clusters of their own.
type stage struct {
	name    string
	attacks []attack
}

// run tries the attacks of a stage that are picked.
func (s stage) run(ctx context.Context, b builds, out io.Writer, pick *regexp.Regexp) (done []outcome, err error) {
	w := newWorld(s.name, b, out)
	defer func() { err = errors.Join(err, w.close(err != nil)) }() //nolint:contextcheck // Cleans up although ctx may have ended.
	for _, a := range s.attacks {
		if !pick.MatchString(a.name) {
			continue
		}
		began := time.Now()
		f, err := a.run(ctx, w)
		if err != nil {
			return done, fmt.Errorf("%s: %w", a.name, err)
		}
		done = append(done, outcome{a, f, time.Since(began)})
	}
	return done, nil
}

// tally counts.
type tally struct {
	all                      []outcome
	attacks, broke, controls int
	open                     int // that work, as documented
	stale                    []string
}

func (t *tally) add(more []outcome) {
	for _, o := range more {
		t.all = append(t.all, o)
		if o.open {
			t.open++
			if !o.broke {
				t.stale = append(t.stale, o.name)
			}
			continue
		}
		t.attacks++
		if o.broke {
			t.broke++
		}
		if o.control != "" {
			t.controls++
		}
	}
}

func (t *tally) verdict() error {
	switch {
	case t.attacks+t.open == 0:
		return errors.New("nothing was attacked")
	case len(t.stale) > 0:
		return fmt.Errorf("documented as not defended, and it is: %s", strings.Join(t.stale, "; "))
	case t.broke > 0:
		return fmt.Errorf("%d of %d attacks broke in", t.broke, t.attacks)
	case t.controls != t.attacks:
		return fmt.Errorf("%d of %d controls did not work: their attacks prove nothing", t.attacks-t.controls, t.attacks)
	}
	return nil
}

// print writes the table.
func (t *tally) print(out io.Writer) {
	for i, o := range t.all {
		mark := "held"
		control := o.without + ": " + orNone(o.control)
		switch {
		case o.open:
			mark, control = "OPEN", "needs none: it works"
		case o.broke:
			mark = "BROKE IN"
		case o.control == "":
			mark = "PROVES NOTHING"
		}
		fmt.Fprintf(out, "\n%3d  %-8s %s   (%.1f s)\n", i+1, mark, o.name, o.took.Seconds())
		for _, line := range [][2]string{
			{"who", o.who}, {"tries", o.tries}, {"ended", o.ended}, {"evidence", oneLine(o.evidence)}, {"control", control},
		} {
			fmt.Fprintf(out, "       %-8s %s\n", line[0], line[1])
		}
	}
	fmt.Fprintln(out)
}

func orNone(s string) string {
	if s == "" {
		return "it did not work either"
	}
	return oneLine(s)
}

// maxEvidence is how much of one piece of evidence is shown.
const maxEvidence = 260

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxEvidence {
		s = s[:maxEvidence] + "..."
	}
	return s
}

// markdown is the table of docs/attacks.md.
func markdown(all []stage) string {
	var b strings.Builder
	cell := func(s string) string { return strings.ReplaceAll(s, "|", "\\|") }
	for _, s := range all {
		fmt.Fprintf(&b, "\n### %s\n\n| attack | who | tries | what stops it | control |\n| :--- | :--- | :--- | :--- | :--- |\n", s.name)
		for _, a := range s.attacks {
			stops, control := a.stops, a.without
			if a.open {
				stops, control = "**open:** "+stops, ""
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", cell(a.name), cell(a.who), cell(a.tries), cell(stops), cell(control))
		}
	}
	return b.String()
}
