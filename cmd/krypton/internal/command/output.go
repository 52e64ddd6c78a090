package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// format returns table or json.
func (in *Invocation) format() (string, error) {
	f := in.setting("output", "KRYPTON_OUTPUT", in.ctx.Output)
	switch f {
	case "", "table":
		return "table", nil
	case "json":
		return f, nil
	}
	return "", usagef("use table or json", "there is no output format %q", f)
}

func (in *Invocation) jsonOutput() bool {
	f, err := in.format()
	return err == nil && f == "json"
}

// write writes a result. Output that did not arrive is an error: the next
// program in the pipe must not take half of it for all.
func (in *Invocation) write(b []byte) error {
	in.meter.clear()
	if _, err := in.env.Stdout.Write(b); err != nil {
		return cannotWrite("the result", err)
	}
	return nil
}

// grid is a table: a line of headings, and lines.
type grid struct {
	head []string
	rows [][]string
}

func (g *grid) add(cells ...string) {
	for i, c := range cells {
		cells[i] = visible(c)
	}
	g.rows = append(g.rows, cells)
}

// visible is text with every character escaped that a terminal obeys and does not
// show, or that turns the text around it. Names, reasons and errors are what a node
// says, and a node that lies must not write over what the person has just read.
func visible(text string) string {
	if !strings.ContainsFunc(text, hidden) && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for s := text; s != ""; {
		r, n := utf8.DecodeRuneInString(s)
		if hidden(r) || r == utf8.RuneError && n == 1 {
			q := strconv.QuoteToASCII(s[:n])
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func hidden(r rune) bool { return !unicode.IsPrint(r) }

// sheet is an object: lines of a name and a value.
type sheet [][2]string

func (s *sheet) add(name, value string) {
	if value != "" {
		*s = append(*s, [2]string{visible(name), visible(value)})
	}
}

func (g *grid) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(g.head, "\t"))
	for _, r := range g.rows {
		for i, c := range r {
			if c == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush() // into a strings.Builder
	return trimRight(b.String())
}

func (s *sheet) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, l := range *s {
		fmt.Fprintf(w, "%s:\t%s\n", l[0], l[1])
	}
	_ = w.Flush() // into a strings.Builder
	return b.String()
}

// withoutEmptyColumns returns g without the columns that no row has a cell for.
func (g *grid) withoutEmptyColumns() *grid {
	out := &grid{rows: make([][]string, len(g.rows))}
	for i, h := range g.head {
		if !slices.ContainsFunc(g.rows, func(r []string) bool { return r[i] != "" }) {
			continue
		}
		out.head = append(out.head, h)
		for j, r := range g.rows {
			out.rows[j] = append(out.rows[j], r[i])
		}
	}
	return out
}

// trimRight takes the blanks from the ends of lines, which tabwriter leaves.
func trimRight(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n")
}

// toJSON returns the JSON form of a message. protojson varies its white space on
// purpose, so that nobody compares its bytes; a command line is compared.
func toJSON(m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = json.Compact(&out, raw)
	return out.Bytes(), err
}

// show prints a result: a message as JSON, or what table makes of it.
func (in *Invocation) show(m proto.Message, table func() string) error {
	if !in.jsonOutput() {
		return in.write([]byte(table()))
	}
	raw, err := toJSON(m)
	if err != nil {
		return err
	}
	return in.showJSON(raw)
}

// showJSON prints v, which is no message.
func (in *Invocation) showJSON(v any) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	return in.write(escaped(out.Bytes()))
}

// escaped is JSON that says the same, with what [visible] escapes in the escapes of
// JSON. Only strings have such characters; line ends stand between them.
func escaped(text []byte) []byte {
	if !bytes.ContainsFunc(text, func(r rune) bool { return hidden(r) && r != '\n' }) {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		switch {
		case !hidden(r) || r == '\n':
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

// wantsJSON reports whether a command line asks for JSON, before it is known
// whether it is one: a program wants to read that error, too.
func wantsJSON(args []string, getenv func(string) string) bool {
	f := getenv("KRYPTON_OUTPUT")
	for i, a := range args {
		if a == "--" {
			break
		}
		if v, ok := strings.CutPrefix(a, "--output="); ok {
			f = v
		} else if a == "--output" && i+1 < len(args) {
			f = args[i+1]
		}
	}
	return f == "json"
}

// failJSON prints an error for programs, on stderr.
func (e *Env) failJSON(err error, code errs.Code, corr string) {
	msg, hint := err.Error(), ""
	if ae, ok := errors.AsType[*errs.Error](err); ok {
		msg, hint = ae.Msg, ae.Hint
	}
	type body struct {
		Code          string `json:"code"`
		Message       string `json:"message"`
		Hint          string `json:"hint"`
		CorrelationID string `json:"correlationId"`
		Exit          int    `json:"exit"`
	}
	raw, jerr := json.Marshal(map[string]body{"error": {code.String(), msg, hint, corr, code.Row().Exit}})
	if jerr != nil {
		raw = []byte(`{"error":{}}`)
	}
	fmt.Fprintln(e.Stderr, string(escaped(raw)))
}

// when returns a time as the person's clock shows it, "" for none. JSON has it in
// RFC 3339 and UTC.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05 MST")
}

// enum returns the last part of the name of an enum value: ACTIVE.
func enum(e fmt.Stringer, prefix string) string { return strings.TrimPrefix(e.String(), prefix) }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
