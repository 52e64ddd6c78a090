package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// maxLine bounds one line of input.
const maxLine = 4 << 20

// mark stands before a report; it is keystoretest.ReportMark.
const mark = "CONFORMANCE "

// event is one line of go test -json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// report is what a conformance test says of itself; see keystoretest.Report.
type report struct {
	Provider  string `json:"provider"`
	Component string `json:"component"`
	Version   string `json:"version"`
	Origin    string `json:"origin"`
	Cases     int    `json:"cases"`
	NA        []struct {
		Case    string `json:"case"`
		Ability string `json:"ability"`
		Reason  string `json:"reason"`
	} `json:"na"`
}

// test is one conformance test, or a package if it has no name.
type test struct {
	pkg, name string
	output    strings.Builder
	verdict   string // pass, fail, skip; empty: none yet
	failed    []string
}

// table turns events into the table.
type table struct {
	out   io.Writer
	tests []*test

	providers map[string]bool
	cases, na int
}

func newTable(out io.Writer) *table { return &table{out: out, providers: map[string]bool{}} }

// of returns the test, or package, that an event is about.
func (t *table) of(pkg, name string) *test {
	top, _, _ := strings.Cut(name, "/")
	for _, x := range t.tests {
		if x.pkg == pkg && x.name == top {
			return x
		}
	}
	x := &test{pkg: pkg, name: top}
	t.tests = append(t.tests, x)
	return x
}

func (t *table) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(t.out, lines.Text())
			continue
		}
		if e.Package == "" {
			fmt.Fprint(t.out, e.Output) // of the compiler
			continue
		}
		x := t.of(e.Package, e.Test)
		switch e.Action {
		case "output":
			x.output.WriteString(e.Output) // long lines come in pieces
		case "pass", "fail", "skip":
			if strings.Contains(e.Test, "/") {
				if e.Action == "fail" {
					x.failed = append(x.failed, e.Test)
				}
				continue
			}
			x.verdict = e.Action
		}
	}
	return lines.Err()
}

// reports returns what a test printed of itself: one for each run of the suite.
func (x *test) reports() (all []report) {
	for line := range strings.Lines(x.output.String()) {
		_, text, found := strings.Cut(line, mark)
		var r report
		if found && json.Unmarshal([]byte(strings.TrimSpace(text)), &r) == nil && r.Provider != "" {
			all = append(all, r)
		}
	}
	return all
}

// finish prints what was read and returns whether all is well.
func (t *table) finish() (ok bool) {
	ok = true
	slices.SortFunc(t.tests, func(a, b *test) int { return strings.Compare(a.pkg+" "+a.name, b.pkg+" "+b.name) })
	var rows, reasons strings.Builder
	w := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PROVIDER\tCOMPONENT\tORIGIN\tCASES\tN/A\tRESULT")
	for _, x := range t.tests {
		if x.name == "" {
			// A package fails for its tests, or without one: then it is the only one to say so.
			if x.verdict != "pass" && x.verdict != "skip" && !t.failedIn(x.pkg) {
				ok = false
				fmt.Fprintf(t.out, "FAIL %s\n%s", x.pkg, &x.output)
			}
			continue
		}
		all := x.reports()
		switch {
		case x.verdict == "skip":
			fmt.Fprintf(&reasons, "%s: not run: %s\n", short(x.pkg), skipReason(x.output.String()))
			continue
		case x.verdict != "pass" || len(all) == 0: // I1
			ok = false
			fmt.Fprintf(t.out, "FAIL %s %s (%d cases failed)\n%s", short(x.pkg), x.name, len(x.failed), &x.output)
		}
		for _, r := range all {
			result := map[bool]string{true: "pass", false: "FAIL"}[x.verdict == "pass"]
			fmt.Fprintf(w, "%s\t%s %s\t%s\t%d\t%d\t%s\n", r.Provider, r.Component, r.Version, r.Origin, r.Cases, len(r.NA), result)
			t.providers[r.Provider] = true
			t.cases, t.na = t.cases+r.Cases, t.na+len(r.NA)
			for _, why := range grouped(r) {
				fmt.Fprintf(&reasons, "%s, %s: n/a: %s\n", r.Provider, r.Component, why)
			}
		}
	}
	_ = w.Flush() // into memory
	fmt.Fprintf(t.out, "%s\n%s", &rows, &reasons)
	return ok && len(t.providers) > 0
}

func (t *table) failedIn(pkg string) bool {
	return slices.ContainsFunc(t.tests, func(x *test) bool { return x.pkg == pkg && x.name != "" && x.verdict == "fail" })
}

// grouped returns one line for each thing that a component cannot do.
func grouped(r report) (lines []string) {
	cases := map[string]int{}
	for _, n := range r.NA {
		cases["it cannot "+n.Ability+": "+n.Reason]++
	}
	for why, n := range cases {
		lines = append(lines, fmt.Sprintf("%s (cases: %d)", why, n))
	}
	slices.Sort(lines)
	return lines
}

// skipReason is what a skipped test said, without the place in its source.
func skipReason(output string) string {
	for line := range strings.Lines(output) {
		if _, text, found := strings.Cut(strings.TrimSpace(line), ".go:"); found {
			_, text, _ = strings.Cut(text, ": ")
			return text
		}
	}
	return "it did not say why"
}

// short is a package's path without the module's.
func short(pkg string) string {
	if i := strings.Index(pkg, "/keystore/"); i >= 0 {
		return pkg[i+1:]
	}
	return pkg
}

// fields are the counts for the RESULT line.
func (t *table) fields() string {
	return fmt.Sprintf("providers=%d\ncases=%d\nna=%d\n", len(t.providers), t.cases, t.na)
}
