package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// kind says what a run must show.
type kind int

const (
	exhaustive kind = iota + 1 // no error in the full state space
	bug                        // the assertion that the seeded bug breaks
	goal                       // that something good is reached; its assertion says that it is not
)

func (k kind) String() string {
	return [...]string{"?", "exhaustive", "bug", "goal"}[k]
}

// outcome is what one run of the verifier printed.
type outcome struct {
	saysErrors bool   // there is an errors: line
	errors     int    // its number
	states     int64  // stored
	depth      int    // reached
	full       bool   // the full state space was the aim, with assertions
	cut        string // why the search is not complete
	violated   string // the assertion that broke
}

var (
	errorsLine   = regexp.MustCompile(`(?m)^State-vector .*depth reached (\d+), errors: (\d+)\s*$`)
	storedLine   = regexp.MustCompile(`(?m)^\s*([0-9.e+]+) states, stored`)
	violatedLine = regexp.MustCompile(`(?m)^pan:\d+: assertion violated (.*?)(?: \(at depth \d+\))?\s*$`)
)

// incomplete are the texts by which the verifier says that it did not search everything.
// The depth bound has no warning at the end: only the one when it is first met.
var incomplete = []string{
	"Search not completed", "max search depth too small", "out of memory", "memory limit", "bytes limit", "VECTORSZ is too small",
	"aborting", "Interrupted", "hash-table is full", "stack overflow",
}

// parse reads what the verifier printed. It believes no line that is not there.
func parse(text string) outcome {
	var o outcome
	if m := errorsLine.FindAllStringSubmatch(text, -1); len(m) == 1 {
		depth, errDepth := strconv.Atoi(m[0][1])
		n, errNumber := strconv.Atoi(m[0][2])
		if errDepth == nil && errNumber == nil {
			o.saysErrors, o.depth, o.errors = true, depth, n
		}
	}
	if m := storedLine.FindStringSubmatch(text); m != nil {
		if f, err := strconv.ParseFloat(m[1], 64); err == nil {
			o.states = int64(f)
		}
	}
	o.full = strings.Contains(text, "assertion violations\t+") && strings.Contains(text, "Full statespace search for:")
	for _, why := range incomplete {
		if strings.Contains(text, why) {
			o.cut = why
			break
		}
	}
	if m := violatedLine.FindStringSubmatch(text); m != nil {
		o.violated = strings.TrimSpace(m[1])
	}
	return o
}

// judge says why a run does not show what c must show, or nil.
func judge(c testCase, o outcome) error {
	if !o.saysErrors {
		return errors.New("the verifier printed no errors line")
	}
	switch c.kind {
	case exhaustive:
		switch {
		case o.errors != 0:
			return fmt.Errorf("%d errors: %s", o.errors, o.violated)
		case o.cut != "":
			return fmt.Errorf("the search is not complete: %s", o.cut)
		case !o.full:
			return errors.New("not a search of the full state space with assertions")
		case o.states == 0:
			return errors.New("no states")
		}
	case bug, goal:
		switch {
		case o.errors == 0 && c.kind == goal:
			return errors.New("not reached")
		case o.errors == 0:
			return errors.New("not caught")
		case c.breaks == "":
			return errors.New("the case does not say which assertion must break")
		case !strings.Contains(o.violated, c.breaks):
			return fmt.Errorf("broke %q, and not %s", o.violated, c.breaks)
		}
	default:
		return errors.New("a case without a kind")
	}
	return nil
}

// summary is what all runs together show.
type summary struct {
	states         int64
	errors         int
	incomplete     int // exhaustive searches that are not
	exhaustive     int
	caught, bugs   int
	reached, goals int
	failed         []string
}

func sum(results []result) summary {
	var s summary
	for _, r := range results {
		switch r.c.kind {
		case exhaustive:
			s.exhaustive++
			s.states += r.o.states
			s.errors += r.o.errors
			if r.err != nil && r.o.errors == 0 {
				s.incomplete++
			}
		case bug:
			s.bugs++
			if r.err == nil {
				s.caught++
			}
		case goal:
			s.goals++
			if r.err == nil {
				s.reached++
			}
		}
		if r.err != nil {
			s.failed = append(s.failed, r.c.name()+": "+r.err.Error())
		}
	}
	return s
}

func (s summary) complete() string {
	if s.incomplete > 0 || s.exhaustive == 0 {
		return "no"
	}
	return "yes"
}

func (s summary) fields() string {
	return fmt.Sprintf("states=%d\nerrors=%d\ncomplete=%s\nbugs_caught=%d/%d\ngoals_reached=%d/%d\nexhaustive=%d\n",
		s.states, s.errors, s.complete(), s.caught, s.bugs, s.reached, s.goals, s.exhaustive)
}

func (s summary) line() string {
	return fmt.Sprintf("%d exhaustive searches, %d states, %d errors, complete: %s; %d of %d seeded bugs caught; %d of %d goals reached",
		s.exhaustive, s.states, s.errors, s.complete(), s.caught, s.bugs, s.reached, s.goals)
}

// verdict is nil only if every case shows what it must and there is one of each kind that a tier needs.
func (s summary) verdict() error {
	switch {
	case len(s.failed) > 0:
		return errors.New(strings.Join(s.failed, "\n       "))
	case s.exhaustive == 0 || s.bugs == 0 || s.goals == 0:
		return errors.New("nothing shown: exhaustive searches, seeded bugs and goals belong together")
	}
	return nil
}
