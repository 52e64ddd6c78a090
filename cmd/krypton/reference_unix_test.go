//go:build unix

package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
)

var update = flag.Bool("update", false, "write docs/cli.md instead of comparing it")

func TestReferenceIsUpToDate(t *testing.T) {
	page := filepath.Join("..", "..", "docs", "cli.md")
	want := command.Reference(command.Tree(nodeCommands("")...))
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("docs/cli.md is not what the commands say; run go test ./cmd/krypton -run TestReferenceIsUpToDate -update:\n%s", diff)
	}
}

// TestTheCommandsOfNodesAreDocumentedToo: those of callers are looked at in package command.
func TestTheCommandsOfNodesAreDocumentedToo(t *testing.T) {
	check := func(c *command.Command, path ...string) {
		if c.Usage == "" || c.About == "" || len(c.Examples) == 0 {
			t.Errorf("%s has no usage, description or example", path)
		}
		out, err := exec.Command("krypton", append([]string{"help"}, path...)...).Output()
		if err != nil || !strings.Contains(string(out), "Exit status:\n  0 ") {
			t.Errorf("help of %s does not explain the exit status: %v", path, err)
		}
	}
	var walk func(c *command.Command, path ...string)
	walk = func(c *command.Command, path ...string) {
		if len(c.Sub) == 0 {
			check(c, path...)
		}
		for _, sub := range c.Sub {
			walk(sub, append(slices.Clone(path), sub.Name)...)
		}
	}
	for _, c := range nodeCommands("test") {
		walk(c, c.Name)
	}
}

// TestEveryManualPageIsWellFormed checks what man(7) asks for, and lets man
// itself read the pages where it is installed.
func TestEveryManualPageIsWellFormed(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("krypton", "man", "--dir", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	if len(files) < 60 {
		t.Errorf("only %d pages", len(files))
	}
	macro := regexp.MustCompile(`^\.(TH|SH|TP|B|nf|fi|PP)( |$)`)
	man, noMan := exec.LookPath("man")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		name := strings.TrimSuffix(filepath.Base(file), ".1")
		if !strings.HasPrefix(text, ".TH "+strings.ReplaceAll(strings.ToUpper(name), "-", `\-`)+" 1 ") {
			t.Errorf("%s has no title", name)
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "SEE ALSO"} {
			if !strings.Contains(text, "\n.SH "+section+"\n") {
				t.Errorf("%s has no section %s", name, section)
			}
		}
		filled := true
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, ".") && !macro.MatchString(line) || strings.HasPrefix(line, "'") || line == "" && filled {
				t.Errorf("%s: %q is no line of man(7)", name, line)
			}
			switch line {
			case ".nf":
				filled = false
			case ".fi":
				filled = true
			}
		}
		for also := range strings.SplitSeq(text[strings.LastIndex(text, ".SH SEE ALSO\n")+len(".SH SEE ALSO\n"):], ", ") {
			page := strings.ReplaceAll(strings.TrimSuffix(strings.TrimSpace(also), "(1)"), `\-`, "-")
			if _, err := os.Stat(filepath.Join(dir, page+".1")); err != nil {
				t.Errorf("%s refers to %s, which does not exist", name, page)
			}
		}
	}
	if noMan != nil {
		return // the rules above are what is checked then
	}
	for _, page := range []string{"krypton", "krypton-key-rotate", "krypton-init", "krypton-operator-cert-issue", "krypton-dev"} {
		cmd := exec.Command(man, "--warnings=w", "-E", "UTF-8", "-l", "-P", "cat", filepath.Join(dir, page+".1"))
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=140")
		var warnings strings.Builder
		cmd.Stderr = &warnings
		shown, err := cmd.Output()
		if err != nil || warnings.Len() > 0 || !strings.Contains(string(shown), "SYNOPSIS") {
			t.Errorf("man shows %s with %v and says %q", page, err, warnings.String())
		}
	}
}
