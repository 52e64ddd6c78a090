package intent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What is written here is read by a person who decides by it, and every value
// in it may come from an attacker (I8):
//
//   - Only printable ASCII and line ends. Everything else is escaped as in Go, so
//     that no control character moves the cursor, no bidi character turns text
//     around, and a letter of another script is not taken for a Latin one.
//   - A value stands between quotes, or in pieces of at most [pieceWidth] columns
//     behind a bar. So it cannot end early, and a terminal has no line to break
//     at a place that the value chose.
//   - Nothing is left out or shortened.
const (
	pieceWidth = 64 // columns of one piece of a value
	quoteWidth = 40 // columns up to which a text stands on the line of its name
	lineWidth  = 78 // columns of a line with a note
	bar        = "    | "
)

// Describe returns what r orders, for a person: the act, every field by its name
// and what it means, and the digest that is signed, on the same line as
// [Intent.Describe] has it. Lines have at most 80
// columns of printable ASCII and end in a newline.
func (r *Request) Describe() string {
	fm, _, known := r.form()
	if !known {
		fm.orders = "this release does not know what these fields order"
	}
	lines := slices.Concat([]string{actLine(r.act) + ": " + fm.orders}, slices.Concat(r.lines()...))
	d := r.Digest()
	lines = append(lines, "  request "+hex.EncodeToString(d[:]))
	return strings.Join(lines, "\n") + "\n"
}

// Differences returns what theirs says otherwise than mine, for a person: lines
// as [Request.Describe] has them, of mine behind "- ", of theirs behind "+ ".
// It is empty if, and only if, the two are equal.
func Differences(mine, theirs *Request) string {
	var out []string
	mark := func(sign string, lines []string) {
		for _, l := range lines {
			out = append(out, sign+l)
		}
	}
	if mine.act != theirs.act {
		mark("- ", []string{actLine(mine.act)})
		mark("+ ", []string{actLine(theirs.act)})
	}
	before, after := mine.lines(), theirs.lines()
	for i := range max(len(before), len(after)) {
		if i < len(before) && i < len(after) && sameField(mine.fields[i], theirs.fields[i]) {
			continue
		}
		if i < len(before) {
			mark("- ", before[i])
		}
		if i < len(after) {
			mark("+ ", after[i])
		}
	}
	if len(out) == 0 {
		return ""
	}
	return strings.Join(out, "\n") + "\n"
}

// Describe returns what in says beside the request, for a person, with the same
// care as [Request.Describe].
func (in Intent) Describe() string {
	lines := []string{
		"intent, version " + strconv.Itoa(Version),
		"  keyspace " + in.Keyspace.String(),
		"  act " + actLine(in.Act),
		"  request " + hex.EncodeToString(in.Request[:]),
		"  not after " + strconv.FormatInt(in.NotAfter, 10) + " (" + timeText(uint64(max(in.NotAfter, 0))) + ")",
		"  nonce " + hex.EncodeToString(in.Nonce[:]),
	}
	if len(in.Preconditions) == 0 {
		lines = append(lines, "  no preconditions")
	}
	for _, p := range in.Preconditions {
		note := "if unchanged since index " + strconv.FormatUint(p.ModIndex, 10)
		if p.ModIndex == 0 {
			note = "if it does not exist"
		}
		lines = append(lines, textLines("precondition", p.Object, note)...)
	}
	return strings.Join(lines, "\n") + "\n"
}

func actLine(a Act) string { return fmt.Sprintf("%s (act %d)", a, uint16(a)) }

func sameField(a, b Field) bool {
	return a.Name == b.Name && a.Kind == b.Kind && a.Text == b.Text && bytes.Equal(a.Bytes, b.Bytes) && a.Uint == b.Uint
}

// lines returns the lines of every field.
func (r *Request) lines() [][]string {
	_, shapes, known := r.form()
	all := make([][]string, len(r.fields))
	for i, f := range r.fields {
		note := ""
		if known && shapes[i].note != nil {
			note = shapes[i].note(r.fields, i)
		}
		all[i] = f.lines(note)
	}
	return all
}

func (f Field) lines(note string) []string {
	name := f.Name
	if !validFieldName(name) { // a builder's mistake; ParseRequest refuses it
		name = strconv.QuoteToASCII(name)
	}
	switch f.Kind {
	case KindText:
		return textLines(name, f.Text, note)
	case KindBytes:
		return bytesLines(name, f.Bytes, note)
	case KindUint:
		return noted("  "+name+": "+strconv.FormatUint(f.Uint, 10), note)
	case KindList:
		return noted("  "+name+": list of "+strconv.FormatUint(f.Uint, 10), note)
	case KindUnspecified:
	}
	return nil
}

func noted(line, note string) []string {
	switch {
	case note == "":
		return []string{line}
	case len(line)+len(note)+3 <= lineWidth:
		return []string{line + " (" + note + ")"}
	}
	return []string{line, "    (" + note + ")"}
}

func textLines(name, value, note string) []string {
	if quoted := strconv.QuoteToASCII(value); len(quoted) <= quoteWidth && !strings.Contains(value, "\n") {
		return noted("  "+name+": "+quoted, note)
	}
	lines := noted(fmt.Sprintf("  %s: text of %d bytes", name, len(value)), note)
	for _, p := range pieces(value) {
		lines = append(lines, bar+p)
	}
	return lines
}

// pieces escapes s and cuts it after each line end and at pieceWidth. A line end
// shows as \n, and a blank at the end of a piece as \x20. Joined, the pieces are
// s in the escapes of Go.
func pieces(s string) []string {
	var all []string
	var cur []byte
	cut := func() {
		if n := len(cur); n > 0 && cur[n-1] == ' ' {
			cur = append(cur[:n-1], `\x20`...)
		}
		all, cur = append(all, string(cur)), nil
	}
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		token := s[:n]
		if r != '"' { // there are no quotes around a piece
			token = strconv.QuoteToASCII(token)
			token = token[1 : len(token)-1]
		}
		if len(cur)+len(token) > pieceWidth {
			cut()
		}
		cur = append(cur, token...)
		if r == '\n' {
			cut()
		}
		s = s[n:]
	}
	if len(cur) > 0 {
		cut()
	}
	return all
}

func bytesLines(name string, value []byte, note string) []string {
	lines := noted(fmt.Sprintf("  %s: %d bytes", name, len(value)), note)
	digits := hex.EncodeToString(value)
	for rest := digits; rest != ""; {
		n := min(len(rest), pieceWidth)
		lines = append(lines, bar+rest[:n])
		rest = rest[n:]
	}
	if len(digits) > pieceWidth { // else nobody can compare it
		d := sha256.Sum256(value)
		lines = append(lines, "    SHA-256 "+hex.EncodeToString(d[:]))
	}
	return lines
}
