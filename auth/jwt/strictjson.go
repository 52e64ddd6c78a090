package jwt

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// members reads b, which must be exactly one JSON object without two members of
// one name at any depth, and not deeper than maxDepth. Names on the first level
// that differ in case only count as one name: encoding/json, which the library
// uses, takes them for the same (I3).
//
// Bytes that are no UTF-8 are refused, because encoding/json would make the same
// replacement character of all of them.
func members(b []byte) (map[string]any, bool) {
	if !utf8.Valid(b) || !json.Valid(b) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // a float64 would make one number of several
	v, ok := value(d, 0)
	if !ok {
		return nil, false
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	folded := make(map[string]bool, len(m))
	for name := range m {
		f := strings.ToLower(strings.ToUpper(name)) // both: U+017F and U+212A are upper and lower case of letters of ASCII
		if folded[f] {
			return nil, false
		}
		folded[f] = true
	}
	return m, true
}

// value reads the next value of d. Its grammar has been checked before.
func value(d *json.Decoder, depth int) (any, bool) {
	if depth > maxDepth {
		return nil, false
	}
	t, err := d.Token()
	if err != nil {
		return nil, false
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, true
	}
	if delim == '[' {
		var list []any
		for d.More() {
			v, ok := value(d, depth+1)
			if !ok {
				return nil, false
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err == nil
	}
	m := map[string]any{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, false
		}
		if _, twice := m[name]; twice {
			return nil, false
		}
		if m[name], ok = value(d, depth+1); !ok {
			return nil, false
		}
	}
	_, err = d.Token()
	return m, err == nil
}

// printable reports whether s has 1 to limit bytes and only characters that a
// person can see, spaces among them: no control or format characters, which
// change what a log shows, and not U+FFFD, which stands for what could not be read.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}
