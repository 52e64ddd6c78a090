package command

import (
	"cmp"
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
	case Reads:
		out = append(out, errs.ExitNotFound, errs.ExitDenied, errs.ExitState, errs.ExitUnavailable, errs.ExitSealed)
	case Acts, Changes:
		out = append(out, errs.ExitNotFound, errs.ExitDenied, errs.ExitState, errs.ExitUnavailable, errs.ExitSealed, errs.ExitPending)
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
	p("%s - %s\n\nUsage:\n  %s\n", words(path), c.Usage, c.synopsis(path))
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
	if shared := c.shared(); len(shared) > 0 {
		p("\nCommon flags:\n%s", flagColumns(shared))
	}
	if c.Run != nil || c.native != nil {
		p("\nExit status:\n%s", columns(func(row func(string, string)) {
			for _, e := range c.exits() {
				row(fmt.Sprint(e), exitMeanings[e])
			}
		}))
	}
	if len(path) == 1 {
		p("\nEnvironment:\n  KRYPTON_ADDR (a list) KRYPTON_CONTEXT KRYPTON_CA_FILE KRYPTON_CERT_FILE KRYPTON_KEY_FILE\n" +
			"  KRYPTON_TOKEN_FILE KRYPTON_TENANT KRYPTON_SERVICE KRYPTON_OUTPUT\n" +
			"  A flag goes before the environment, the environment before the context, the context before the default.\n")
	}
	if len(c.Sub) > 0 {
		p("\nMore: %s COMMAND --help\n", words(path))
	}
	return b.String()
}

// synopsis is the command with what belongs behind it.
func (c *Command) synopsis(path []*Command) string {
	out := words(path)
	if len(c.Sub) > 0 {
		out += " COMMAND"
	}
	if c.Args != "" {
		out += " " + c.Args
	}
	if len(c.flags()) > 0 || len(c.Sub) > 0 {
		out += " [flags]"
	}
	return out
}

func columns(fill func(row func(string, string))) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fill(func(l, r string) { fmt.Fprintf(w, "  %s\t%s\n", l, r) })
	_ = w.Flush() // into a strings.Builder
	return b.String()
}

func flagColumns(flags []cli.Flag) string {
	return columns(func(row func(string, string)) { flagRows(flags, row) })
}

// flagRows calls row for every flag that is shown: its names with the
// placeholder of its value, and what it is for.
func flagRows(flags []cli.Flag, row func(left, right string)) {
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
		if def := d.GetDefaultText(); def != "" && d.TakesValue() && def != `""` && def != "[]" && def != "0" && def != "0s" {
			if dur, ok := f.(*cli.DurationFlag); ok {
				def = span(dur.Value)
			}
			usage += " (default: " + strings.Trim(def, `"`) + ")"
		}
		row(left, usage)
	}
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
