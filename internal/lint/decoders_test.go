package lint_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// decoderName is what functions are called that make something of bytes or text
// from outside.
var decoderName = regexp.MustCompile(`^([Pp]arse|[Dd]ecode|[Uu]nmarshal|[Rr]estore|[Ll]oad|[Ss]can|Read(File|Header|Addresses)|From[A-Z])`)

// fuzzedThrough says which decoders no fuzz target calls by their name, and why
// their input is fuzzed all the same, or is not input. An entry that is not
// needed fails.
var fuzzedThrough = map[string]string{}

// decoder is a function that a fuzz target has to call.
type decoder struct {
	dir, name, at string
}

// notProduct are directories that read nothing from outside, or only for the
// project's own tools and tests.
//
//nolint:gochecknoglobals // Immutable.
var notProduct = []string{"api", "build", "docs", "jepsen", "tools", "internal/cmd", "internal/devcluster", "internal/leaktest", "internal/lint", "internal/pages"}

// TestEveryDecoderHasAFuzzTarget: what reads bytes or text from outside is reached
// from a fuzz target of its own package, by the names of the functions that are
// called.
func TestEveryDecoderHasAFuzzTarget(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	var decoders []decoder
	called := map[string]map[string]bool{}            // by directory: names that fuzz targets call
	bodies := map[string]map[string]map[string]bool{} // by directory and function: names that it calls
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && strings.HasPrefix(d.Name(), ".") || slices.Contains(notProduct, filepath.ToSlash(rel)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".pb.go") || strings.HasSuffix(path, ".pb.gw.go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(rel))
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			switch {
			case strings.HasSuffix(path, "_test.go"):
				if strings.HasPrefix(fn.Name.Name, "Fuzz") {
					if called[dir] == nil {
						called[dir] = map[string]bool{}
					}
					callsOf(fn, called[dir])
				}
			default:
				if bodies[dir] == nil {
					bodies[dir] = map[string]map[string]bool{}
				}
				if bodies[dir][fn.Name.Name] == nil {
					bodies[dir][fn.Name.Name] = map[string]bool{}
				}
				callsOf(fn, bodies[dir][fn.Name.Name])
				if isDecoder(fn) {
					decoders = append(decoders, decoder{dir, fn.Name.Name, fset.Position(fn.Pos()).String()})
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(decoders) < 20 {
		t.Fatalf("only %d decoders are found: the rule looks at the wrong place", len(decoders))
	}
	for dir, names := range called {
		reach(names, bodies[dir])
	}
	used := map[string]bool{}
	for _, d := range decoders {
		id := d.dir + "." + d.name
		if called[d.dir][d.name] {
			continue
		}
		if fuzzedThrough[id] == "" {
			t.Errorf("%s: no fuzz target of %s reaches %s", d.at, d.dir, d.name)
		}
		used[id] = true
	}
	for id := range fuzzedThrough {
		if !used[id] {
			t.Errorf("%s is excused and need not be", id)
		}
	}
}

// isDecoder reports whether fn takes bytes, text or a reader, and says whether
// it could make something of it.
func isDecoder(fn *ast.FuncDecl) bool {
	params, results := fn.Type.Params.List, fn.Type.Results
	if !decoderName.MatchString(fn.Name.Name) || len(params) == 0 || results == nil || len(results.List) == 0 {
		return false
	}
	last, ok := results.List[len(results.List)-1].Type.(*ast.Ident)
	if !ok || last.Name != "error" && last.Name != "bool" {
		return false
	}
	return slices.ContainsFunc(params, func(f *ast.Field) bool {
		switch p := f.Type.(type) {
		case *ast.Ident:
			return p.Name == "string"
		case *ast.ArrayType:
			el, ok := p.Elt.(*ast.Ident)
			return ok && el.Name == "byte"
		case *ast.SelectorExpr:
			return p.Sel.Name == "Reader" || p.Sel.Name == "ReaderAt"
		}
		return false
	})
}

// reach adds to names what the functions of those names call, and so on.
func reach(names map[string]bool, bodies map[string]map[string]bool) {
	for grown := true; grown; {
		grown = false
		for fn, calls := range bodies {
			if !names[fn] {
				continue
			}
			for c := range calls {
				grown = grown || !names[c]
				names[c] = true
			}
		}
	}
}

// callsOf adds the names of the functions and methods that fn calls or hands on.
func callsOf(fn *ast.FuncDecl, out map[string]bool) {
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			out[n.Sel.Name] = true
		case *ast.Ident:
			out[n.Name] = true
		}
		return true
	})
}
