package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxLine bounds one line of input. A test that prints a longer line is cut by
// go test -json itself, at 1 MiB.
const maxLine = 4 << 20

// event is one line of go test -json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string
	Elapsed    float64
	Output     string
}

// pkg is what is known of one package.
type pkg struct {
	failedTests int
	tests       int
	output      []string // lines that belong to no test
	running     bool
}

type testKey struct{ pkg, test string }

// skip is a skipped test and why.
type skip struct {
	key    testKey
	reason string
}

// counter turns events into counts and a readable log.
type counter struct {
	out                     io.Writer
	passed, failed, skipped int
	pkgs                    map[string]*pkg
	lines                   map[testKey][]string
	skips                   []skip
}

func newCounter(out io.Writer) *counter {
	return &counter{out: out, pkgs: map[string]*pkg{}, lines: map[testKey][]string{}}
}

func (c *counter) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			fmt.Fprintln(c.out, lines.Text())
			continue
		}
		c.add(e)
	}
	return lines.Err()
}

func (c *counter) add(e event) {
	if e.ImportPath != "" && e.Package == "" {
		if e.Action == "build-output" {
			fmt.Fprint(c.out, e.Output)
		}
		return // the package's own fail event follows
	}
	p := c.pkgs[e.Package]
	if p == nil {
		p = &pkg{}
		c.pkgs[e.Package] = p
	}
	key := testKey{e.Package, e.Test}
	switch e.Action {
	case "start", "run":
		p.running = true
	case "output":
		if e.Test == "" {
			p.output = append(p.output, e.Output)
		} else {
			c.lines[key] = append(c.lines[key], e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			c.endPackage(e, p)
			return
		}
		c.endTest(e, p, key)
	}
}

func (c *counter) endTest(e event, p *pkg, key testKey) {
	p.tests++
	switch e.Action {
	case "pass":
		c.passed++
	case "fail":
		c.failed++
		p.failedTests++
		fmt.Fprint(c.out, strings.Join(c.lines[key], ""))
	case "skip":
		c.skipped++
		c.skips = append(c.skips, skip{key, reason(c.lines[key])})
	}
	delete(c.lines, key)
}

func (c *counter) endPackage(e event, p *pkg) {
	p.running = false
	switch {
	case e.Action == "fail":
		if p.failedTests == 0 {
			c.failed++ // I2
		}
		// The output of tests that never ended: they were running when it crashed.
		for key, lines := range c.lines {
			if key.pkg == e.Package {
				fmt.Fprint(c.out, strings.Join(lines, ""))
				delete(c.lines, key)
			}
		}
		fmt.Fprint(c.out, strings.Join(p.output, ""))
		fmt.Fprintf(c.out, "FAIL\t%s\t%.2fs\n", e.Package, e.Elapsed)
	case p.tests > 0:
		fmt.Fprintf(c.out, "ok\t%s\t%.2fs\t%d tests\n", e.Package, e.Elapsed, p.tests)
	}
}

// reason finds what a skipped test said.
func reason(lines []string) string {
	for _, l := range slices.Backward(lines) {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "=== ") || strings.HasPrefix(l, "--- ") {
			continue
		}
		return l
	}
	return "no reason given"
}

// finish judges what was read and prints what a reader must know before the
// closing line. It reports whether the run counts as passed (I3).
func (c *counter) finish(strict bool) bool {
	for name, p := range c.pkgs {
		if p.running {
			c.failed++
			fmt.Fprintf(c.out, "FAIL\t%s\tended without a verdict\n", name)
		}
	}
	for _, s := range c.skips {
		fmt.Fprintf(c.out, "skipped %s %s: %s\n", s.key.pkg, s.key.test, s.reason)
	}
	switch {
	case c.failed > 0:
		return false
	case c.skipped > 0 && strict:
		fmt.Fprintln(c.out, "KRYPTON_REQUIRE=all: a skipped test is a failure; install what is missing")
		return false
	}
	// Nothing ran: right for a filter that matches nothing yet, wrong for a tree
	// without a package, where go test itself fails.
	return len(c.pkgs) > 0
}

func (c *counter) closing() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}
