package command

// color is an ANSI sequence; results carry it only on a terminal.
type color string

const (
	red    color = "\x1b[31m"
	green  color = "\x1b[32m"
	yellow color = "\x1b[33m"
	plain  color = "\x1b[0m"
)

// paint colours a word of the result, if a person sees it: not in a pipe or a
// file, not with NO_COLOR (https://no-color.org), not on a dumb terminal. The
// word says the same without its colour.
func (in *Invocation) paint(s string, c color) string {
	if !terminal(in.env.Stdout) || in.env.Getenv("NO_COLOR") != "" || in.env.Getenv("TERM") == "dumb" {
		return s
	}
	return string(c) + s + string(plain)
}
