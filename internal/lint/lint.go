// Package lint holds the rules of this project that no linter knows, as
// functions that a test runs over the whole tree.
//
// Each rule takes what it judges as a value and returns the problems it found,
// each as one line that begins with a place and ends with what to do. The same
// rule runs over a bad fixture in its own test, so that a rule that never fires
// is noticed.
//
// # Invariants
//
//   - I1: a package that no layer names is a problem, so a new package cannot escape the import rules.
//   - I2: every rule has a test in which it finds something.
//   - I3: source rules read every file, whatever its build constraints.
//
// # Concurrency
//
// A [Tree] is read-only once loaded; rules are pure functions of it.
//
// # Failure
//
// A problem fails the tests of this package and nothing else.
//
// # Source
//
// docs/architecture.md (layers), docs/adr/0001-layout-and-layers.md,
// docs/adr/0004-what-the-state-machine-may-import.md. The habit of writing
// project rules as Go tests is that of Pebble.
package lint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Module is the path of this module.
const Module = "github.com/openkcm/krypton-cluster"

// File is one Go file of the module.
type File struct {
	Path      string // from the root of the module, with slashes
	Package   string // import path of its directory, from the root; "" is the root
	AST       *ast.File
	Test      bool // name ends in _test.go
	Generated bool // carries the standard comment
	fset      *token.FileSet
}

// at says where in the file a node stands.
func (f *File) at(n ast.Node) string {
	return f.Path + ":" + strconv.Itoa(f.fset.Position(n.Pos()).Line)
}

// Imports returns the import paths of f.
func (f *File) Imports() []string {
	paths := make([]string, 0, len(f.AST.Imports))
	for _, s := range f.AST.Imports {
		if p, err := strconv.Unquote(s.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// skipped are directories at the root that are not part of the module.
var skipped = []string{"bin", "build", "tools", "vendor"}

// Tree is the Go source of the module.
type Tree []*File

// Load parses every Go file below root, except what the go command leaves out
// too (testdata, names that begin with a dot or an underscore) and the modules
// of the developer tools. A file that does not parse is an error.
func Load(root fs.FS) (Tree, error) {
	var tree Tree
	fset := token.NewFileSet()
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != "." && (name == "testdata" || name[0] == '.' || name[0] == '_' || slices.Contains(skipped, p)) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, p, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir := path.Dir(p)
		if dir == "." {
			dir = ""
		}
		tree = append(tree, &File{
			Path: p, Package: dir, AST: f, fset: fset,
			Test: strings.HasSuffix(name, "_test.go"), Generated: ast.IsGenerated(f),
		})
		return nil
	})
	return tree, err
}

// own returns the part of an import path below the module, and whether it is of
// the module at all.
func own(importPath string) (string, bool) {
	if importPath == Module {
		return "", true
	}
	return strings.CutPrefix(importPath, Module+"/")
}

// within reports whether importPath is one of roots or below one.
func within(importPath string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool {
		return importPath == r || strings.HasPrefix(importPath, r+"/")
	})
}

// Package is one package as the go command sees it.
type Package struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

// Graph is the import graph of the module and everything below it, by import path.
type Graph map[string]Package

// List asks the go command for the import graph of the module in dir.
func List(ctx context.Context, dir string) (Graph, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-deps", "-tags", "invariants",
		"-json=ImportPath,Imports,Standard", "./...")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, fmt.Errorf("go list: %w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	g := Graph{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p Package
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return g, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		g[p.ImportPath] = p
	}
}

// closure returns roots and all that they import, directly or not, sorted.
func (g Graph) closure(roots ...string) []string {
	seen := map[string]bool{}
	for queue := roots; len(queue) > 0; {
		p := queue[0]
		queue = queue[1:]
		if seen[p] {
			continue
		}
		seen[p] = true
		queue = append(slices.Clip(queue), g[p].Imports...)
	}
	all := make([]string, 0, len(seen))
	for p := range seen {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}
