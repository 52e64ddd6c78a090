//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	codeBlock = regexp.MustCompile("(?ms)^```(yaml|text)\n(.*?)^```\n")
	nameLine  = regexp.MustCompile(`\A# (\S+\.yaml)\n`)
	recipient = regexp.MustCompile(`(\w+)\.recipient`)
)

// TestTheSealsOfTheManualAreWhatTheProgramSays runs every command of docs/seals.md on
// the plans that stand there; -update writes what the program says.
func TestTheSealsOfTheManualAreWhatTheProgramSays(t *testing.T) {
	page := filepath.Join("..", "..", "docs", "seals.md")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	krypton := func(args ...string) string {
		cmd := exec.Command("krypton", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "KRYPTON_CONFIG=krypton.yaml")
		out, err := cmd.CombinedOutput()
		if ee, failed := errors.AsType[*exec.ExitError](err); failed && ee.ExitCode() != 2 || err != nil && !failed {
			t.Fatalf("krypton %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	plans, commands := 0, 0
	made := map[string]bool{}
	got := codeBlock.ReplaceAllStringFunc(string(text), func(block string) string {
		m := codeBlock.FindStringSubmatch(block)
		if m[1] == "yaml" {
			name := nameLine.FindStringSubmatch(m[2])
			if name == nil {
				t.Fatalf("a block of YAML does not begin with the name of its file:\n%s", m[2])
			}
			plans++
			for _, who := range recipient.FindAllStringSubmatch(m[2], -1) {
				if !made[who[1]] {
					krypton("operator", "share", "new-identity", who[1], "--no-passphrase")
					made[who[1]] = true
				}
			}
			if err := os.WriteFile(filepath.Join(dir, name[1]), []byte(m[2]), 0o600); err != nil {
				t.Fatal(err)
			}
			return block
		}
		line, _, _ := strings.Cut(m[2], "\n")
		args, found := strings.CutPrefix(line, "$ krypton ")
		if !found {
			t.Fatalf("a block of text does not begin with a command: %q", line)
		}
		commands++
		return "```text\n" + line + "\n" + krypton(strings.Fields(args)...) + "```\n"
	})
	if plans != 7 || commands != 6 {
		t.Errorf("%d files and %d commands found", plans, commands)
	}
	if *update {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), got); diff != "" {
		t.Errorf("docs/seals.md is not what the program says; run go test ./cmd/krypton -run TestTheSealsOfTheManual -update:\n%s", diff)
	}
}
