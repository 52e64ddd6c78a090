// Package pages runs the commands that a page of documentation shows, and
// compares what they print with what the page shows. It is for tests.
//
// # Invariants
//
//   - I1: every block of the language runs, in order and in one process, unless its fence says not-run.
//   - I2: a text or json block that follows a block that ran is what that block prints; anything else is an error.
//   - I3: an error names the line of the page.
//
// A fence is three backquotes at the start of a line, with a language and words
// behind it. In a text block "..." stands for any part of a line, and as a line of
// its own for any lines. In a json block the string "..." stands for any value
// but an empty one; spaces and the order of keys do not matter.
//
// # Concurrency
//
// A page never changes. Runs do not know of each other.
//
// # Failure
//
// A program that is not installed skips the test, with the command that installs
// it; under KRYPTON_REQUIRE=all that is a failure. A block that fails ends the run.
//
// # Source
//
// CONTRIBUTING.md (tests that need a component).
package pages

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Patience is how long one page may run.
const Patience = time.Minute

// NotRun is the word behind the language of a block that does not run.
const NotRun = "not-run"

// Page is a page of documentation.
type Page struct {
	Path   string
	Blocks []Block
	lines  int
}

// Block is what stands between two fences.
type Block struct {
	Language string
	Words    []string // behind the language
	Lead     string   // the last line of text before it
	Line     int      // of the opening fence, from 1
	Text     string   // with its last newline
}

// Runs reports whether the block is one to run (I1).
func (b Block) Runs(language string) bool {
	return b.Language == language && !slices.Contains(b.Words, NotRun)
}

// Program runs the blocks of one language.
type Program struct {
	Language string
	Command  []string // the file of the script is added
	Needs    []string // programs, called like the Debian packages that have them
	mark     string   // statement that prints a line of its own
}

// The programs.
var (
	Shell  = Program{Language: "sh", Command: []string{"sh", "-eu"}, mark: `printf '\n%s\n'`}      //nolint:gochecknoglobals // Immutable.
	Python = Program{Language: "python", Command: []string{"python3"}, Needs: []string{"python3"}, //nolint:gochecknoglobals // Immutable.
		mark: `print('\n%s', flush=True)`}
)

// With returns p for pages that need more programs.
func (p Program) With(needs ...string) Program {
	p.Needs = append(append([]string(nil), p.Needs...), needs...)
	return p
}

// mark is a line that no command prints by chance.
const mark = "--- end of a block of the page ---"

// Read reads a page.
func Read(t testing.TB, path string) Page {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(path, string(raw))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Parse finds the blocks of a page.
func Parse(path, text string) (Page, error) {
	p := Page{Path: path}
	var open *Block
	lead := ""
	for line := range strings.Lines(text) {
		p.lines++
		fence, isFence := strings.CutPrefix(strings.TrimRight(line, "\r\n"), "```")
		switch {
		case isFence && open == nil:
			words := strings.Fields(fence)
			open = &Block{Line: p.lines, Lead: lead}
			if len(words) > 0 {
				open.Language, open.Words = words[0], words[1:]
			}
		case isFence:
			p.Blocks = append(p.Blocks, *open)
			open = nil
		case open != nil:
			open.Text += line
		case strings.TrimSpace(line) != "":
			lead = strings.TrimSpace(line)
		}
	}
	if open != nil {
		return p, fmt.Errorf("%s:%d: the block has no end", path, open.Line)
	}
	return p, nil
}

// Run runs the blocks of the program's language in dir, with nothing in the
// environment but env and PATH.
func (p Page) Run(t testing.TB, program Program, dir string, env ...string) {
	t.Helper()
	for _, need := range program.Needs {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("%s needs %s: apt-get install %s", p.Path, need, need)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := p.Execute(ctx, program, dir, env...); err != nil {
		t.Error(err)
	}
}

// Execute is Run without a test.
func (p Page) Execute(ctx context.Context, program Program, dir string, env ...string) error {
	script, ran := p.script(program)
	if len(ran) == 0 {
		return fmt.Errorf("%s: no block of %s runs", p.Path, program.Language)
	}
	file := filepath.Join(dir, filepath.Base(p.Path)+"."+program.Language)
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program.Command[0], append(program.Command[1:len(program.Command):len(program.Command)], file)...) //nolint:gosec // The page is ours.
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, append([]string{"PATH=" + os.Getenv("PATH")}, env...), time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	printed := strings.Split(stdout.String(), "\n"+mark+"\n")
	if done := len(printed) - 1; err != nil || done != len(ran) {
		at := p.Blocks[ran[min(done, len(ran)-1)]]
		return fmt.Errorf("%s:%d: the block fails: %w\nstdout: %s\nstderr: %s", p.Path, at.Line, err, printed[len(printed)-1], stderr.String())
	}
	for i, n := range ran {
		if n+1 == len(p.Blocks) {
			continue
		}
		want := p.Blocks[n+1]
		if err := want.shows(printed[i]); err != nil {
			return fmt.Errorf("%s:%d: %w\nprinted: %s\nstderr: %s", p.Path, want.Line, err, printed[i], stderr.String())
		}
	}
	return nil
}

// script is the page with everything but the blocks of the language left out,
// line by line, so that messages of the program have the page's lines (I3).
func (p Page) script(program Program) (text string, ran []int) {
	lines := make([]string, p.lines)
	for i, b := range p.Blocks {
		if !b.Runs(program.Language) {
			continue
		}
		content := strings.Split(strings.TrimSuffix(b.Text, "\n"), "\n")
		copy(lines[b.Line:], content)
		lines[b.Line+len(content)] = fmt.Sprintf(program.mark, mark)
		ran = append(ran, i)
	}
	return strings.Join(lines, "\n") + "\n", ran
}

// shows compares what was printed with the block, if the block shows it (I2).
func (b Block) shows(printed string) error {
	switch b.Language {
	case "text":
		pattern := "\n" + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(b.Text)), `\.\.\.`, "...") + "\n"
		pattern = strings.ReplaceAll(pattern, "\n...\n", "\n(?:.*\n)*")
		pattern = strings.ReplaceAll(pattern, "...", ".*")
		if !regexp.MustCompile(`\A` + pattern + `\z`).MatchString("\n" + strings.TrimSpace(printed) + "\n") {
			return fmt.Errorf("the page shows\n%s", b.Text)
		}
	case "json":
		var want, got any
		if err := json.Unmarshal([]byte(b.Text), &want); err != nil {
			return fmt.Errorf("the page shows no JSON: %w", err)
		}
		if err := json.Unmarshal([]byte(printed), &got); err != nil {
			return fmt.Errorf("no JSON is printed: %w", err)
		}
		return alike(want, got, "")
	}
	return nil
}

func alike(want, got any, at string) error {
	differs := fmt.Errorf("the page shows %v at %q, and %v is printed", want, at, got)
	switch w := want.(type) {
	case string:
		if empty := got == nil || got == "" || got == false || got == 0.0; w == "..." && !empty {
			return nil
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return differs
		}
		for i := range w {
			if err := alike(w[i], g[i], fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return differs
		}
		for k := range w {
			v, ok := g[k]
			if !ok {
				return differs
			}
			if err := alike(w[k], v, at+"."+k); err != nil {
				return err
			}
		}
		return nil
	}
	if want != got {
		return differs
	}
	return nil
}
