package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// exitMeanings are the exit statuses in words.
//
//nolint:gochecknoglobals // Immutable table.
var exitMeanings = map[int]string{
	errs.ExitOK:          "done",
	errs.ExitInternal:    "internal error",
	errs.ExitUsage:       "wrong usage or configuration",
	errs.ExitNotFound:    "not found",
	errs.ExitDenied:      "denied",
	errs.ExitState:       "the state does not allow it, or a conflict",
	errs.ExitUnavailable: "unavailable, try again",
	errs.ExitSealed:      "sealed",
	errs.ExitIntegrity:   "does not open",
	errs.ExitPending:     "pending",
	errs.ExitInterrupted: "interrupted",
}

// exits returns the statuses with which c can end.
func (c *Command) exits() []int {
	out := []int{errs.ExitOK, errs.ExitInternal, errs.ExitUsage, errs.ExitInterrupted}
	switch c.Reach {
	case Local:
	case Socket:
		out = append(out, errs.ExitState, errs.ExitUnavailable)
	case Reads, Acts:
		out = append(out, errs.ExitNotFound, errs.ExitDenied, errs.ExitState, errs.ExitUnavailable, errs.ExitSealed)
	case Uses:
		out = append(out, errs.ExitNotFound, errs.ExitDenied, errs.ExitState, errs.ExitUnavailable, errs.ExitSealed, errs.ExitIntegrity)
	}
	out = append(out, c.Exits...)
	slices.Sort(out)
	return slices.Compact(out)
}

// help returns the help of the last command of path.
func (c *Command) help(path []*Command) string {
	var b strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&b, format, a...) }
	p("%s - %s\n\nUsage:\n  %s", words(path), c.Usage, words(path))
	if len(c.Sub) > 0 {
		p(" COMMAND")
	}
	if c.Args != "" {
		p(" %s", c.Args)
	}
	if len(c.flags()) > 0 || len(c.Sub) > 0 {
		p(" [flags]")
	}
	p("\n")
	if c.About != "" {
		p("\n%s\n", strings.TrimSpace(c.About))
	}
	if len(c.Sub) > 0 {
		p("\nCommands:\n%s", columns(func(row func(string, string)) {
			for _, s := range c.Sub {
				if !s.Hidden {
					row(s.Name, s.Usage)
				}
			}
		}))
	}
	if len(c.Examples) > 0 {
		p("\nExamples:\n")
		for _, e := range c.Examples {
			p("  %s\n", e)
		}
	}
	if len(c.Flags) > 0 {
		p("\nFlags:\n%s", flagColumns(c.Flags))
	}
	if c.native == nil && c.Run != nil {
		if shared := c.shared(); len(shared) > 0 {
			p("\nCommon flags:\n%s", flagColumns(shared))
		}
		p("\nExit status:\n%s", columns(func(row func(string, string)) {
			for _, e := range c.exits() {
				row(fmt.Sprint(e), exitMeanings[e])
			}
		}))
	}
	if len(path) == 1 {
		p("\nEnvironment:\n  KRYPTON_ADDR (a list) KRYPTON_CONTEXT KRYPTON_CA_FILE KRYPTON_CERT_FILE KRYPTON_KEY_FILE\n" +
			"  KRYPTON_TENANT KRYPTON_SERVICE KRYPTON_OUTPUT\n" +
			"  A flag goes before the environment, the environment before the context, the context before the default.\n")
	}
	if len(c.Sub) > 0 {
		p("\nMore: %s COMMAND --help\n", words(path))
	}
	return b.String()
}

func columns(fill func(row func(string, string))) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fill(func(l, r string) { fmt.Fprintf(w, "  %s\t%s\n", l, r) })
	_ = w.Flush() // into a strings.Builder
	return b.String()
}

func flagColumns(flags []cli.Flag) string {
	return columns(func(row func(string, string)) {
		for _, f := range flags {
			d, ok := f.(cli.DocGenerationFlag)
			if v, visible := f.(cli.VisibleFlag); !ok || visible && !v.IsVisible() {
				continue
			}
			placeholder, usage := unquote(d.GetUsage())
			var names []string
			for _, n := range f.Names() {
				dash := "--"
				if len(n) == 1 {
					dash = "-"
				}
				names = append(names, dash+n)
			}
			left := strings.Join(names, ", ")
			if d.TakesValue() {
				left += " " + cmp.Or(placeholder, "VALUE")
			}
			if def := d.GetDefaultText(); def != "" && d.TakesValue() && def != `""` && def != "[]" && def != "0" {
				usage += " (default: " + strings.Trim(def, `"`) + ")"
			}
			row(left, usage)
		}
	})
}

// unquote takes the placeholder out of a usage text, which stands in backquotes.
func unquote(usage string) (placeholder, text string) {
	before, rest, ok := strings.Cut(usage, "`")
	if !ok {
		return "", usage
	}
	name, after, ok := strings.Cut(rest, "`")
	if !ok {
		return "", usage
	}
	return name, before + name + after
}

func manCommand() *Command {
	return &Command{
		Name: "man", Usage: "print the manual page of all commands",
		Examples: []string{"krypton man | man -l -", "krypton man > /usr/local/share/man/man1/krypton.1"},
		Run: func(_ context.Context, in *Invocation) error {
			return in.write([]byte(manual(in.root)))
		},
	}
}

// manual returns the manual page in man(7) format.
func manual(root *Command) string {
	var b strings.Builder
	esc := strings.NewReplacer(`\`, `\e`, "-", `\-`)
	line := func(s string) {
		if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
			s = `\&` + s
		}
		b.WriteString(esc.Replace(s) + "\n")
	}
	fmt.Fprintf(&b, ".TH KRYPTON 1\n.SH NAME\nkrypton \\- %s\n", root.Usage)
	var walk func(path []*Command)
	walk = func(path []*Command) {
		c := path[len(path)-1]
		if c.Hidden {
			return
		}
		if len(path) == 1 {
			b.WriteString(".SH DESCRIPTION\n.nf\n")
		} else {
			fmt.Fprintf(&b, ".SH %s\n.nf\n", strings.ToUpper(esc.Replace(words(path[1:]))))
		}
		for l := range strings.SplitSeq(strings.TrimRight(c.help(path), "\n"), "\n") {
			line(l)
		}
		b.WriteString(".fi\n")
		for _, s := range c.Sub {
			walk(append(slices.Clone(path), s))
		}
	}
	walk([]*Command{root})
	return b.String()
}
