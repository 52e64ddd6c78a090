package command

import (
	"bytes"
	"encoding/json"
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

// JSON on a terminal is obeyed as well, and must say the same when it is escaped.
func TestJSONIsShownAndNotObeyed(t *testing.T) {
	for _, text := range []string{"plain", "a\u202eb", "a\u009b2Jb", "a\x7fb", "a\U000e0001b", "Ünïcödé, 日本", "a\nb\x1b[2J"} {
		raw, err := json.Marshal(map[string]string{"name": text})
		if err != nil {
			t.Fatal(err)
		}
		shown := escaped(append(raw, '\n'))
		if bytes.ContainsFunc(shown, func(r rune) bool { return hidden(r) && r != '\n' }) {
			t.Errorf("%q reaches the terminal: %q", text, shown)
		}
		var back map[string]string
		if err := json.Unmarshal(shown, &back); err != nil || back["name"] != text {
			t.Errorf("%q comes back as %q, error %v", text, back["name"], err)
		}
	}
}
