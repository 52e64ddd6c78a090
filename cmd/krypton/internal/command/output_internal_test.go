package command

import (
	"bytes"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// What a node says must not write over what stands on the terminal.
func TestWhatANodeSaysIsShownAndNotObeyed(t *testing.T) {
	for _, evil := range []string{"\x1b[2J\x1b[Hdone", "a\rb", "a\u202eb", "a\u009b2Jb", "a\x7fb", "a\xffb", "a\u200bb"} {
		var out bytes.Buffer
		Fail(&out, errs.New(errs.FailedState, "the object "+evil, errs.Hint("do %s", evil)))
		g, s := grid{head: []string{"NAME"}}, sheet{}
		g.add(evil)
		s.add("name", evil)
		for where, text := range map[string]string{"error": out.String(), "table": g.text(), "sheet": s.text()} {
			if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && hidden(r) }) || strings.Contains(text, "\xff") {
				t.Errorf("%s: %q reaches the terminal: %q", where, evil, text)
			}
		}
	}
	for _, plain := range []string{"", "acme", "Ünïcödé, 日本 (100 %)", `a\b "c"`} {
		if got := visible(plain); got != plain {
			t.Errorf("%q is shown as %q", plain, got)
		}
	}
}
