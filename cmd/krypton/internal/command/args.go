package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// request is a command line after its words were told apart: which command, its
// flags, its arguments. urfave/cli stops to look for flags at the first
// argument, so `krypton tenant get demo --output json` would silently print a
// table; here flags may stand anywhere, before the command too.
type request struct {
	path  []*Command // from the root
	flags []string
	args  []string
	help  bool
}

func (r request) command() *Command { return r.path[len(r.path)-1] }

func (r request) argv() []string {
	var out []string
	for _, c := range r.path[1:] {
		out = append(out, c.Name)
	}
	out = append(out, r.flags...)
	return append(append(out, "--"), r.args...)
}

func usagef(hint, format string, a ...any) error {
	return errs.Newf(errs.InvalidArgument, format, a...).With(errs.Hint("%s", hint))
}

// resolve finds the command of args.
func resolve(root *Command, args []string) (request, error) {
	r := request{path: []*Command{root}}
	var early []string // flags before the command is known
	if len(args) == 1 && (args[0] == "--version" || args[0] == "-v") {
		args = []string{"version"}
	}
	if len(args) == 0 {
		r.help = true
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		cur := r.command()
		if a == "" && !cur.Hidden {
			return r, emptyArgument(r.path)
		}
		switch {
		case a == "--":
			if slices.Contains(args[i+1:], "") && !cur.Hidden {
				return r, emptyArgument(r.path)
			}
			r.args = append(r.args, args[i+1:]...)
			i = len(args)
		case a == "--help" || a == "-h":
			r.help = true
		case len(a) > 1 && a[0] == '-' && a != "-":
			name, _, inline := strings.Cut(strings.TrimLeft(a, "-"), "=")
			f := cur.flag(name)
			if f == nil && cur.Run == nil && cur.native == nil {
				f = anyFlag(root, name) // belongs to a command further on
			}
			if f == nil {
				if r.help {
					continue
				}
				return r, cur.unknownFlag(r.path, a)
			}
			early = append(early, a)
			if !inline && takesValue(f) {
				if i+1 == len(args) {
					return r, usagef("see "+words(r.path)+" --help", "flag %s needs a value", a)
				}
				i++
				early = append(early, args[i])
			}
		case a == "help" && cur.Run == nil && cur.native == nil:
			r.help = true
		case len(cur.Sub) > 0:
			next := cur.find(a)
			if next == nil {
				return r, cur.unknownCommand(r.path, a)
			}
			r.path = append(r.path, next)
		default:
			r.args = append(r.args, a)
		}
	}
	cur := r.command()
	if r.help {
		return r, nil
	}
	if len(cur.Sub) > 0 {
		return r, usagef("use one of: "+strings.Join(cur.names(), ", "), "%s needs a command", words(r.path))
	}
	for i := 0; i < len(early); i++ { // flags that stood before the command: are they its own?
		name, value, inline := strings.Cut(strings.TrimLeft(early[i], "-"), "=")
		f := cur.flag(name)
		if f == nil {
			return r, cur.unknownFlag(r.path, early[i])
		}
		if !inline && takesValue(f) {
			i++
			value = early[i]
		}
		if name == "context" && value == "" {
			return r, usagef("name one, or leave --context out", "--context is empty")
		}
		if inline || takesValue(f) {
			if err := checkValue(f, name, value); err != nil {
				return r, err
			}
		}
	}
	r.flags = early
	if f := cur.missing(early); f != "" {
		return r, usagef("see "+words(r.path)+" --help", "%s needs --%s", words(r.path), f)
	}
	if n := len(r.args); n < cur.NArgs[0] {
		return r, usagef("see "+words(r.path)+" --help", "%s needs %s", words(r.path), cur.Args)
	} else if n > cur.NArgs[1] {
		return r, usagef("see "+words(r.path)+" --help", "%s takes %s, %d given", words(r.path), atMost(cur.NArgs[1]), n)
	}
	return r, nil
}

// emptyArgument refuses what a script passes when one of its variables is not
// set: without this, "tenant delete $TENANT" would be about the tenant of the
// context.
func emptyArgument(path []*Command) error {
	return usagef("leave it out, or check that the variable of your script is set", "an argument of %s is empty", words(path))
}

func atMost(n int) string {
	switch n {
	case 0:
		return "no argument"
	case 1:
		return "one argument"
	}
	return fmt.Sprintf("at most %d arguments", n)
}

func words(path []*Command) string {
	var out []string
	for _, c := range path {
		out = append(out, c.Name)
	}
	return strings.Join(out, " ")
}

func (c *Command) find(name string) *Command {
	for _, s := range c.Sub {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func (c *Command) names() []string {
	var out []string
	for _, s := range c.Sub {
		if !s.Hidden {
			out = append(out, s.Name)
		}
	}
	return out
}

func (c *Command) flag(name string) cli.Flag {
	for _, f := range c.flags() {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// missing returns the first required flag that is not among given.
func (c *Command) missing(given []string) string {
	for _, f := range c.Flags {
		if q, ok := f.(cli.RequiredFlag); !ok || !q.IsRequired() {
			continue
		}
		if !slices.ContainsFunc(given, func(g string) bool {
			name, _, _ := strings.Cut(strings.TrimLeft(g, "-"), "=")
			return strings.HasPrefix(g, "-") && slices.Contains(f.Names(), name)
		}) {
			return f.Names()[0]
		}
	}
	return ""
}

// anyFlag finds a flag of that name anywhere below c.
func anyFlag(c *Command, name string) cli.Flag {
	if f := c.flag(name); f != nil {
		return f
	}
	for _, s := range c.Sub {
		if f := anyFlag(s, name); f != nil {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func (c *Command) unknownCommand(path []*Command, got string) error {
	if s := nearest(got, c.names()); s != "" {
		return usagef(fmt.Sprintf("did you mean %s %s?", words(path), s), "%s has no command %q", words(path), got)
	}
	return usagef("use one of: "+strings.Join(c.names(), ", "), "%s has no command %q", words(path), got)
}

func (c *Command) unknownFlag(path []*Command, got string) error {
	all := []string{"help"}
	if len(path) == 1 {
		all = append(all, "version")
	}
	for _, f := range c.flags() {
		for _, n := range f.Names() {
			if len(n) > 1 {
				all = append(all, n)
			}
		}
	}
	name, _, _ := strings.Cut(strings.TrimLeft(got, "-"), "=")
	if s := nearest(name, all); s != "" {
		return usagef(fmt.Sprintf("did you mean --%s?", s), "%s has no flag --%s", words(path), name)
	}
	return usagef("see "+words(path)+" --help", "%s has no flag --%s", words(path), name)
}

// nearest returns the candidate that is most like got, or "" when none is.
func nearest(got string, candidates []string) string {
	best, limit := "", max(1, min(3, len(got)/2))+1
	for _, c := range candidates {
		if d := distance(got, c); d < limit {
			best, limit = c, d
		}
	}
	return best
}

// distance is the Damerau-Levenshtein distance: insertions, deletions,
// substitutions and swaps of neighbours.
func distance(a, b string) int {
	var before []int
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev = prev, cur
	}
	return prev[len(b)]
}
