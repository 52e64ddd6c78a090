package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

func manCommand() *Command {
	return &Command{
		Name: "man", Usage: "print the manual page of all commands, or write one page for each",
		About:    "With --dir every command and group has a page of its own, such as krypton-key-rotate.1; pages that are there are replaced.",
		Examples: []string{"krypton man | man -l -", "krypton man --dir /usr/local/share/man/man1"},
		Flags:    []cli.Flag{&cli.StringFlag{Name: "dir", Usage: "`DIR` to write pages to, such as /usr/local/share/man/man1"}},
		Run: func(_ context.Context, in *Invocation) error {
			dir := in.c.String("dir")
			if dir == "" {
				if in.c.IsSet("dir") {
					return usagef("name one, or leave --dir out to print one page", "--dir is empty")
				}
				if in.jsonOutput() {
					return in.showJSON(map[string]string{"page": manual(in.root, in.env.Version)})
				}
				return in.write([]byte(manual(in.root, in.env.Version)))
			}
			files, err := in.writePages(dir)
			if err != nil {
				return err
			}
			if in.jsonOutput() {
				return in.showJSON(map[string][]string{"files": files})
			}
			return in.write([]byte(strings.Join(files, "\n") + "\n"))
		},
	}
}

// writePages writes a page for every command and returns their paths.
func (in *Invocation) writePages(dir string) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // Everybody reads manual pages.
		return nil, cannotMake(dir, err)
	}
	everyPath(in.root, func(path []*Command) {
		if err != nil {
			return
		}
		file := filepath.Join(dir, pageName(path)+".1")
		var f *outFile
		if f, err = in.env.create(file, 0o644); err != nil {
			return
		}
		if _, werr := f.WriteString(page(path, in.env.Version)); werr != nil {
			_ = f.abort() // the other error says why
			err = cannotWrite(file, werr)
			return
		}
		err = f.commit()
		files = append(files, file)
	})
	return files, err
}

// everyPath calls do for every command that is shown, with its path.
func everyPath(root *Command, do func(path []*Command)) {
	var walk func(path []*Command)
	walk = func(path []*Command) {
		c := path[len(path)-1]
		if c.Hidden {
			return
		}
		do(path)
		for _, s := range c.Sub {
			walk(append(slices.Clone(path), s))
		}
	}
	walk([]*Command{root})
}

func pageName(path []*Command) string { return strings.ReplaceAll(words(path), " ", "-") }

// roff writes man(7).
type roff struct{ b strings.Builder }

//nolint:gochecknoglobals // Immutable table.
var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// line writes a line of text, which is none of roff's own.
func (r *roff) line(s string) {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + roffEscapes.Replace(s)
	} else {
		s = roffEscapes.Replace(s)
	}
	r.b.WriteString(s + "\n")
}

func (r *roff) title(name, version string) {
	fmt.Fprintf(&r.b, ".TH %s 1 \"\" \"krypton %s\" \"Krypton manual\"\n", roffEscapes.Replace(strings.ToUpper(name)), roffEscapes.Replace(version))
}

func (r *roff) section(name string) { r.b.WriteString(".SH " + roffEscapes.Replace(name) + "\n") }

// verbatim writes lines as they stand.
func (r *roff) verbatim(text string) {
	r.b.WriteString(".nf\n")
	for l := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		r.line(l)
	}
	r.b.WriteString(".fi\n")
}

// tagged writes a term and what it means.
func (r *roff) tagged(term, meaning string) {
	r.b.WriteString(".TP\n.B ")
	r.line(term)
	r.line(meaning)
}

// text writes paragraphs: lines that are indented stay as they are, others are filled.
func (r *roff) text(s string) {
	for i, par := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if i > 0 {
			r.b.WriteString(".PP\n")
		}
		if strings.Contains("\n"+par, "\n ") {
			r.verbatim(par)
			continue
		}
		for l := range strings.SplitSeq(par, "\n") {
			r.line(l)
		}
	}
}

// page returns the manual page of the last command of path.
func page(path []*Command, version string) string {
	c := path[len(path)-1]
	var r roff
	r.title(pageName(path), version)
	r.section("NAME")
	r.line(pageName(path) + " - " + c.Usage)
	r.section("SYNOPSIS")
	r.b.WriteString(".B ")
	r.line(c.synopsis(path))
	if c.About != "" {
		r.section("DESCRIPTION")
		r.text(c.About)
	}
	if len(c.Sub) > 0 {
		r.section("COMMANDS")
		for _, s := range c.Sub {
			if !s.Hidden {
				r.tagged(s.Name, s.Usage)
			}
		}
	}
	if all := c.flags(); len(all) > 0 {
		r.section("OPTIONS")
		flagRows(all, r.tagged)
	}
	if len(c.Examples) > 0 {
		r.section("EXAMPLES")
		r.verbatim(strings.Join(c.Examples, "\n"))
	}
	if c.Run != nil || c.native != nil {
		r.section("EXIT STATUS")
		for _, e := range c.exits() {
			r.tagged(fmt.Sprint(e), exitMeanings[e])
		}
	}
	if len(path) == 1 || c.Reach >= Reads {
		r.section("ENVIRONMENT")
		r.line("KRYPTON_ADDR, KRYPTON_CONTEXT, KRYPTON_CA_FILE, KRYPTON_CERT_FILE, KRYPTON_KEY_FILE,")
		r.line("KRYPTON_TOKEN_FILE, KRYPTON_TENANT, KRYPTON_SERVICE, KRYPTON_OUTPUT. A flag goes before the environment, that before the context, that before the default.")
	}
	var also []string
	if len(path) > 1 {
		also = append(also, pageName(path[:len(path)-1])+"(1)")
	}
	for _, s := range c.Sub {
		if !s.Hidden {
			also = append(also, pageName(append(slices.Clone(path), s))+"(1)")
		}
	}
	r.section("SEE ALSO")
	r.line(strings.Join(also, ", "))
	return r.b.String()
}

// manual returns one page with the help of every command.
func manual(root *Command, version string) string {
	var r roff
	r.title("krypton", version)
	r.section("NAME")
	r.line("krypton - " + root.Usage)
	everyPath(root, func(path []*Command) {
		if len(path) == 1 {
			r.section("DESCRIPTION")
		} else {
			r.section(strings.ToUpper(words(path[1:])))
		}
		r.verbatim(path[len(path)-1].help(path))
	})
	return r.b.String()
}
