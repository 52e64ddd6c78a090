package lint

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
	"unicode"
)

// InitRule finds init functions. They act before main decided anything, and in
// every program that imports the package.
func InitRule(tree Tree) []string {
	var bad []string
	for _, f := range tree {
		if f.Generated {
			continue
		}
		for _, d := range f.AST.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				bad = append(bad, f.at(fn)+": func init; call it from main or a constructor")
			}
		}
	}
	return bad
}

// Names of fields that hold a secret, by their last word, and words before it
// that say that it is none.
var (
	secretWords = []string{
		"key", "keys", "secret", "secrets", "plaintext", "share", "shares", "seed", "kek", "dek",
		"pin", "password", "passphrase", "pad", "masterkey",
	}
	publicWords = []string{
		"public", "pub", "verify", "verification", "wrapped", "encrypted", "sealed", "idempotency", "map", "sort", "partition", "authority", "peer", "node",
	}
)

// SecretFieldRule finds struct fields of bytes that are named like key
// material, outside memsec, tests and generated code. Bytes in a field are
// copied, printed and kept by whoever holds the struct; a memsec.Secret is not.
//
// It is a heuristic over names: the last word of the field's name is one of
// secretWords and no other word is one of publicWords. Bytes are []byte,
// [N]byte, slices of them, and pointers to them. What it cannot see is a secret
// under an innocent name; that is for the reviewer.
func SecretFieldRule(tree Tree) []string {
	var bad []string
	for _, f := range tree {
		if f.Test || f.Generated || within(f.Package, []string{"memsec"}) {
			continue
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			st, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range st.Fields.List {
				if !isBytes(field.Type) {
					continue
				}
				for _, name := range field.Names {
					if namesSecret(name.Name) {
						bad = append(bad, fmt.Sprintf("%s: field %s holds bytes and is named like key material; use memsec.Secret, or name what it really is", f.at(name), name.Name))
					}
				}
			}
			return true
		})
	}
	return bad
}

func isBytes(t ast.Expr) bool {
	switch t := t.(type) {
	case *ast.StarExpr:
		return isBytes(t.X)
	case *ast.ArrayType:
		if id, ok := t.Elt.(*ast.Ident); ok {
			return id.Name == "byte" || id.Name == "uint8"
		}
		return isBytes(t.Elt)
	}
	return false
}

func namesSecret(name string) bool {
	words := split(name)
	last := words[len(words)-1]
	return slices.Contains(secretWords, last) &&
		!slices.ContainsFunc(words, func(w string) bool { return slices.Contains(publicWords, w) })
}

// split cuts a Go name into lower-case words: wrappedDEKs -> wrapped, deks.
func split(name string) []string {
	var words []string
	start := 0
	runes := []rune(name)
	for i := 1; i < len(runes); i++ {
		lowerToUpper := !unicode.IsUpper(runes[i-1]) && unicode.IsUpper(runes[i])
		endOfAcronym := i+1 < len(runes) && unicode.IsUpper(runes[i-1]) && unicode.IsUpper(runes[i]) && unicode.IsLower(runes[i+1]) && runes[i+1] != 's'
		if runes[i] == '_' || lowerToUpper || endOfAcronym {
			words = append(words, strings.ToLower(strings.Trim(string(runes[start:i]), "_")))
			start = i
		}
	}
	return append(words, strings.ToLower(strings.Trim(string(runes[start:]), "_")))
}

// headings that every package comment has, in this order.
var headings = []string{"# Invariants", "# Concurrency", "# Failure", "# Source"}

// PackageCommentRule finds packages whose comment is missing, stands twice, or
// lacks one of the four headings. Generated packages have none of ours.
func PackageCommentRule(tree Tree) []string {
	type comment struct{ path, text string }
	docs := map[string][]comment{}
	for _, f := range tree {
		if f.Test || f.Generated {
			continue
		}
		if docs[f.Package] == nil {
			docs[f.Package] = []comment{}
		}
		if text := f.AST.Doc.Text(); text != "" {
			docs[f.Package] = append(docs[f.Package], comment{f.Path, text})
		}
	}
	var bad []string
	for dir, found := range docs {
		if len(found) != 1 {
			bad = append(bad, fmt.Sprintf("%s: %d package comments, want one", dir, len(found)))
			continue
		}
		lines := strings.Split(found[0].text, "\n")
		last := -1
		for _, h := range headings {
			at := slices.Index(lines, h)
			switch {
			case at < 0:
				bad = append(bad, fmt.Sprintf("%s: the package comment lacks the heading %q", found[0].path, h))
			case at < last:
				bad = append(bad, fmt.Sprintf("%s: the heading %q is out of order", found[0].path, h))
			case at+2 >= len(lines) || strings.HasPrefix(lines[at+2], "# "):
				bad = append(bad, fmt.Sprintf("%s: nothing stands below the heading %q", found[0].path, h))
			}
			last = max(last, at)
		}
	}
	slices.Sort(bad)
	return bad
}
