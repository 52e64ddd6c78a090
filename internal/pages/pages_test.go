package pages_test

import (
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/pages"
)

// run runs a page; ~ stands for a backquote.
func run(t *testing.T, text string) error {
	t.Helper()
	p, err := pages.Parse("page.md", strings.ReplaceAll(text, "~", "`"))
	if err != nil {
		t.Fatal(err)
	}
	return p.Execute(t.Context(), pages.Shell, t.TempDir(), "WHO=world")
}

func TestI1_BlocksRunInOrderInOneProcess(t *testing.T) {
	if err := run(t, "# A page\n\n~~~sh\nx=hello\n~~~\n\nand\n\n~~~sh not-run\nexit 1\n~~~\n~~~python\nno\n~~~\n~~~sh\necho $x $WHO\n~~~\n~~~text\nhello world\n~~~\n"); err != nil {
		t.Error(err)
	}
	if run(t, "~~~python\nx\n~~~\n") == nil {
		t.Error("a page without a block to run passes")
	}
}

func TestI2_WhatIsPrintedIsWhatThePageShows(t *testing.T) {
	for _, c := range []struct {
		printed, language, shown string
		fits                     bool
	}{
		{"a", "text", "a", true},
		{"a", "text", "b", false},
		{"a", "text", "", false},
		{"a\nb", "text", "a", false},
		{"key 17 is made", "text", "key ... is made", true},
		{"key 17 is gone", "text", "key ... is made", false},
		{"a\nb\nc\nd", "text", "a\n...\nd", true},
		{"a\nd", "text", "a\n...\nd", true},
		{"a\nb\nc", "text", "a\n...\nd", false},
		{"a.b", "text", "a.b", true},
		{"axb", "text", "a.b", false},
		{`{"a": 1, "b": [{"c": "x"}]}`, "json", `{"b": [{"c": "..."}], "a": 1}`, true},
		{`{"a": null}`, "json", `{"a": null}`, true},
		{`{"a": ""}`, "json", `{"a": "..."}`, false},
		{`{"a": 0}`, "json", `{"a": "..."}`, false},
		{`{"a": null}`, "json", `{"a": "..."}`, false},
		{`{"a": 1}`, "json", `{"a": 2}`, false},
		{`{"a": 1, "b": 1}`, "json", `{"a": 1}`, false},
		{`{"b": 1}`, "json", `{"a": 1}`, false},
		{`[1, 2]`, "json", `[1]`, false},
		{`[1, 2]`, "json", `[1, 3]`, false},
		{"no", "json", `{}`, false},
		{"{}", "json", `no`, false},
	} {
		err := run(t, "~~~sh\ncat <<'END'\n"+c.printed+"\nEND\n~~~\n\nIt prints:\n\n~~~"+c.language+"\n"+c.shown+"\n~~~\n")
		if (err == nil) != c.fits {
			t.Errorf("%q as %s %q: %v", c.printed, c.language, c.shown, err)
		}
	}
}

func TestI3_AnErrorNamesTheLine(t *testing.T) {
	for name, c := range map[string]struct{ page, want string }{
		"a command fails":   {"one\n~~~sh\ntrue\n~~~\ntwo\n~~~sh\nfalse\n~~~\n", "page.md:6: "},
		"it ends too early": {"~~~sh\nexit 0\n~~~\n", "page.md:1: "},
		"unset variable":    {"\n~~~sh\necho $NOBODY\n~~~\n", "page.md:2: "},
		"other output":      {"~~~sh\necho a\n~~~\n~~~text\nb\n~~~\n", "page.md:4: "},
	} {
		if err := run(t, c.page); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	if err := run(t, "\n\n~~~sh\nno-such-command\n~~~\n"); err == nil || !strings.Contains(err.Error(), "4: ") {
		t.Errorf("the shell's message has not the page's line: %v", err)
	}
	if _, err := pages.Parse("page.md", "```sh\ntrue\n"); err == nil {
		t.Error("a block without an end passes")
	}
}

func TestABlockHasTheLineThatLeadsToIt(t *testing.T) {
	p, err := pages.Parse("page.md", "One.\n\nIn another terminal:\n\n```sh not-run x\na\nb\n```\n")
	if err != nil || len(p.Blocks) != 1 {
		t.Fatalf("%v: %v", err, p.Blocks)
	}
	b := p.Blocks[0]
	if b.Lead != "In another terminal:" || b.Language != "sh" || len(b.Words) != 2 || b.Line != 5 || b.Text != "a\nb\n" || b.Runs("sh") {
		t.Errorf("got %+v", b)
	}
}
