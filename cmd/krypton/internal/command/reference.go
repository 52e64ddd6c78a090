package command

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// Reference returns docs/cli.md: every command below root, in Markdown.
func Reference(root *Command) string {
	var b strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&b, format, a...) }
	fenced := func(text string) { p("\n```text\n%s```\n", text) }
	p("# The command line\n\n<!-- Generated from the command tree: go test ./cmd/krypton -run TestReferenceIsUpToDate -update. Do not edit. -->\n\n")
	p("Every command, as `krypton COMMAND --help` shows it. Manual pages: `krypton man --dir DIR`. Completion: `krypton completion SHELL`.\n\n")
	p("- stdout has the result and nothing else. Errors are one line on stderr; with `--output json` one JSON object.\n" +
		"- Tables are for people, and times in them are those of the person's clock; JSON is for programs, and has times in RFC 3339.\n" +
		"- On a terminal a command that takes longer than two seconds says what it is doing; without one it is silent.\n" +
		"- Colours come on a terminal only, and not with `NO_COLOR`.\n" +
		"- An empty argument is refused: it is a variable that was not set.\n\n")
	p("| command | |\n| :--- | :--- |\n")
	everyPath(root, func(path []*Command) {
		if len(path) > 1 && len(path[len(path)-1].Sub) == 0 {
			p("| [`%s`](#%s) | %s |\n", words(path[1:]), pageName(path), path[len(path)-1].Usage)
		}
	})
	p("\n## Flags of many commands\n\nA command that asks or changes something in a cluster has the first and the second group, one that speaks to the node of its machine\nthe second, any other one `--output` alone. One that changes what every node follows, which is an operation, has the third too;\none that people may have to sign has the fourth.\n")
	fenced(flagColumns(append(connectionFlags(), contextFlag())))
	fenced(flagColumns(sharedFlags()))
	fenced(flagColumns([]cli.Flag{asyncFlag()}))
	fenced(flagColumns(signFlags()))
	p("\n## Exit statuses\n")
	fenced(columns(func(row func(string, string)) {
		for _, e := range (&Command{Reach: Uses, Exits: []int{9}}).exits() {
			row(fmt.Sprint(e), exitMeanings[e])
		}
	}))
	everyPath(root, func(path []*Command) {
		c := path[len(path)-1]
		if len(path) == 1 {
			return
		}
		p("\n## %s\n\n%s.\n", words(path), upperFirst(c.Usage))
		fenced(c.synopsis(path) + "\n")
		if about := strings.TrimSpace(c.About); about != "" {
			fenced(about + "\n")
		}
		if len(c.Flags) > 0 {
			fenced(flagColumns(c.Flags))
		}
		if len(c.Examples) > 0 {
			fenced(strings.Join(c.Examples, "\n") + "\n")
		}
		if c.Run != nil || c.native != nil {
			p("\nExit statuses: %s.\n", strings.Trim(strings.ReplaceAll(fmt.Sprint(c.exits()), " ", ", "), "[]"))
		}
	})
	return b.String()
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
