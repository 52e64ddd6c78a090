// Package strictyaml reads YAML that a person wrote into a struct, and leaves nothing of it unread.
//
// A decoder that skips what it does not know turns a misspelt name into a default
// that nobody chose. The decoder's own strict mode names neither the section nor
// what was meant, so the nodes are walked before they are decoded.
//
// # Invariants
//
//   - I1: a key that the struct does not have is a problem that names file, line and the nearest key.
//   - I2: a key that stands twice, a second document, and text in the place of a section are problems.
//
// # Concurrency
//
// The functions have no state.
//
// # Failure
//
// Every problem is returned, not only the first; into may then be filled in part.
//
// # Source
//
// YAML 1.2; package config and package seal/plan read their files with it.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

// Special looks at a node in place of the general rules, for a type whose keys
// depend on its values. It reports false for a type it has no say in.
type Special func(file string, n *yaml.Node, t reflect.Type, prefix string) (problems []string, handled bool)

// Decode reads the one YAML document in b into the struct that into points to and
// returns what is wrong with it. Every field has a yaml tag. An empty document
// changes nothing. file is only named in problems. special may be nil.
func Decode(file string, b []byte, into any, special Special) []string {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return []string{fmt.Sprintf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return []string{file + ": more than one YAML document"}
	}
	if len(doc.Content) == 0 {
		return nil
	}
	w := walk{file: file, special: special}
	if w.look(doc.Content[0], reflect.TypeOf(into).Elem(), ""); len(w.problems) > 0 {
		return w.problems
	}
	if err := doc.Decode(into); err != nil {
		return []string{fmt.Sprintf("%s: %s", file, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n  "), "\n  ", "; "))}
	}
	return nil
}

type walk struct {
	file     string
	special  Special
	problems []string
}

func (w *walk) bad(line int, format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf("%s:%d: %s", w.file, line, fmt.Sprintf(format, args...)))
}

func (w *walk) look(n *yaml.Node, t reflect.Type, prefix string) {
	if w.special != nil {
		if problems, handled := w.special(w.file, n, t, prefix); handled {
			w.problems = append(w.problems, problems...)
			return
		}
	}
	switch {
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for i, item := range n.Content {
			w.look(item, t.Elem(), fmt.Sprintf("%s[%d].", strings.TrimSuffix(prefix, "."), i))
		}
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		w.section(n, t, prefix)
	case t.Kind() == reflect.Struct && n.Tag != "!!null":
		w.bad(n.Line, "%q must be a section with keys", strings.TrimSuffix(prefix, "."))
	}
}

func (w *walk) section(n *yaml.Node, t reflect.Type, prefix string) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		f, ok := byKey(t, key.Value)
		switch {
		case !ok:
			w.bad(key.Line, "unknown key %q, did you mean %q?", prefix+key.Value, prefix+Nearest(key.Value, keysOf(t)))
		case seen[key.Value]:
			w.bad(key.Line, "key %q stands twice", prefix+key.Value)
		default:
			w.look(val, f.Type, prefix+key.Value+".")
		}
		seen[key.Value] = true
	}
}

func byKey(t reflect.Type, key string) (reflect.StructField, bool) {
	for f := range t.Fields() {
		if f.Tag.Get("yaml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func keysOf(t reflect.Type) []string {
	keys := make([]string, 0, t.NumField())
	for f := range t.Fields() {
		keys = append(keys, f.Tag.Get("yaml"))
	}
	return keys
}

// Nearest returns the candidate with the smallest edit distance to s.
func Nearest(s string, candidates []string) string {
	best, dist := "", -1
	for _, c := range candidates {
		if d := editDistance(s, c); dist < 0 || d < dist {
			best, dist = c, d
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diag
			if a[i-1] != b[j-1] {
				cost++
			}
			diag = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
