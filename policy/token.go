package policy

import (
	"strings"
	"unicode/utf8"
)

// place is where something stands in the text of a policy, from 1. The column
// counts characters.
type place struct{ line, column int }

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenName
	tokenReserved
	tokenNumber
	tokenString // text is what stands between the quotes, not unquoted
	tokenSign
)

type token struct {
	kind tokenKind
	text string
	at   place
}

// scanner splits text into tokens by the rules of Cedar.
type scanner struct {
	text string
	pos  int
	at   place
}

// scan returns the tokens of text; the last is tokenEnd.
func scan(text string) ([]token, *fault) {
	s := scanner{text: text, at: place{1, 1}}
	if i := strings.IndexByte(text, 0); i >= 0 {
		s.advance(i)
		return nil, s.fault("a zero byte", "save the policy as plain UTF-8 text")
	}
	if !utf8.ValidString(text) {
		for s.pos < len(text) {
			r, n := utf8.DecodeRuneInString(text[s.pos:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			s.advance(n)
		}
		return nil, s.fault("not valid UTF-8", "save the policy as plain UTF-8 text")
	}
	var all []token
	for {
		t, f := s.next()
		if f != nil {
			return nil, f
		}
		all = append(all, t)
		if t.kind == tokenEnd {
			return all, nil
		}
	}
}

func (s *scanner) fault(what, fix string) *fault { return &fault{at: s.at, what: what, fix: fix} }

// advance goes n bytes on; they are whole characters.
func (s *scanner) advance(n int) {
	for _, r := range s.text[s.pos : s.pos+n] {
		s.at.column++
		if r == '\n' {
			s.at = place{s.at.line + 1, 1}
		}
	}
	s.pos += n
}

func (s *scanner) skipSpace() *fault {
	for s.pos < len(s.text) {
		rest := s.text[s.pos:]
		switch {
		case strings.IndexByte(" \t\r\n", rest[0]) >= 0:
			s.advance(1)
		case strings.HasPrefix(rest, "//"):
			n := strings.IndexByte(rest, '\n')
			if n < 0 {
				n = len(rest)
			}
			s.advance(n)
		case strings.HasPrefix(rest, "/*"):
			// One Go implementation of Cedar takes these; the language has none.
			return s.fault("a comment that is no comment in Cedar", "begin each line of a comment with //")
		default:
			return nil
		}
	}
	return nil
}

func (s *scanner) next() (token, *fault) {
	if f := s.skipSpace(); f != nil {
		return token{}, f
	}
	t := token{at: s.at}
	rest := s.text[s.pos:]
	if rest == "" {
		return t, nil
	}
	switch n := 0; {
	case isNameByte(rest[0], true):
		for n < len(rest) && isNameByte(rest[n], false) {
			n++
		}
		t.kind, t.text = tokenName, rest[:n]
		if isReserved(t.text) {
			t.kind = tokenReserved
		}
		s.advance(n)
	case isDigit(rest[0]):
		for n < len(rest) && isDigit(rest[n]) {
			n++
		}
		t.kind, t.text = tokenNumber, rest[:n]
		s.advance(n)
	case rest[0] == '"':
		n, ok := endOfString(rest)
		if !ok {
			return t, s.fault("a text without its closing quote", `close it with " on the same line`)
		}
		t.kind, t.text = tokenString, rest[1:n-1]
		s.advance(n)
	default:
		for _, sign := range [...]string{"::", "&&", "||", "==", "!=", "<=", ">="} {
			if strings.HasPrefix(rest, sign) {
				n = 2
			}
		}
		if n == 0 && strings.IndexByte("@.,;(){}[]+-*:!<>", rest[0]) >= 0 {
			n = 1
		}
		if n == 0 {
			return t, s.fault("a character that Cedar has no use for", "comments begin with //, texts stand in double quotes")
		}
		t.kind, t.text = tokenSign, rest[:n]
		s.advance(n)
	}
	return t, nil
}

// endOfString returns the length of the quoted text that s begins with.
func endOfString(s string) (int, bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i + 1, true
		case '\n':
			return 0, false
		case '\\':
			i++
		}
	}
	return 0, false
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isNameByte(c byte, first bool) bool {
	return c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || !first && isDigit(c)
}

func isReserved(s string) bool {
	switch s {
	case "true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar":
		return true
	}
	return false
}

// wild stands for a * that matches anything, in the result of unquote.
const wild = -1

// unquote resolves the escapes of Cedar. In a pattern, * is wild and \* is a star.
func unquote(s string, pattern bool) ([]rune, bool) {
	out := make([]rune, 0, len(s))
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == '*' && pattern:
			out = append(out, wild)
			continue
		case r != '\\':
			out = append(out, r)
			continue
		case i >= len(s):
			return nil, false
		}
		c := s[i]
		i++
		switch c {
		case 'n':
			r = '\n'
		case 'r':
			r = '\r'
		case 't':
			r = '\t'
		case '0':
			r = 0
		case '\\', '\'', '"':
			r = rune(c)
		case '*':
			if !pattern {
				return nil, false
			}
			r = '*'
		case 'x':
			v, ok := 0, len(s) >= i+2
			for range 2 {
				if ok {
					v, ok = hexDigit(v, s[i])
					i++
				}
			}
			if !ok || v > 0x7f {
				return nil, false
			}
			r = rune(v)
		case 'u':
			end := strings.IndexByte(s[i:], '}')
			if end < 2 || s[i] != '{' || s[i+1] == '_' {
				return nil, false
			}
			v, digits := 0, 0
			for _, d := range []byte(s[i+1 : i+end]) {
				if d == '_' {
					continue
				}
				if digits++; digits > 6 {
					return nil, false
				}
				var ok bool
				if v, ok = hexDigit(v, d); !ok {
					return nil, false
				}
			}
			r = rune(v)
			if !utf8.ValidRune(r) {
				return nil, false
			}
			i += end + 1
		default:
			return nil, false
		}
		out = append(out, r)
	}
	return out, true
}

func hexDigit(v int, c byte) (int, bool) {
	switch {
	case isDigit(c):
		return 16*v + int(c-'0'), true
	case c >= 'a' && c <= 'f':
		return 16*v + int(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return 16*v + int(c-'A') + 10, true
	}
	return v, false
}
