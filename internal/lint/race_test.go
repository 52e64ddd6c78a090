package lint_test

import (
	"go/ast"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/lint"
)

// TestWhatDoesLessUnderTheRaceDetectorIsRunWhole: a test that asks invariants.Race
// is named in the stage of scripts/ci that runs without the detector, and nothing
// else is.
func TestWhatDoesLessUnderTheRaceDetectorIsRunWhole(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	tree, err := lint.Load(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "scripts", "ci"))
	if err != nil {
		t.Fatal(err)
	}
	var stage string
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "stage whole ") {
			stage = line
		}
	}
	_, pattern, _ := strings.Cut(stage, "'^(")
	pattern, packages, found := strings.Cut(pattern, ")$'")
	if !found {
		t.Fatalf("scripts/ci has no stage whole with names and packages: %q", stage)
	}
	named := map[string]bool{}
	for name := range strings.SplitSeq(pattern, "|") {
		named[name] = false
	}
	for _, f := range tree {
		for _, d := range f.AST.Decls {
			ast.Inspect(d, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok || s.Sel.Name != "Race" {
					return true
				}
				if x, ok := s.X.(*ast.Ident); !ok || x.Name != "invariants" {
					return true
				}
				fn, ok := d.(*ast.FuncDecl)
				if !ok || !f.Test {
					t.Errorf("%s: invariants.Race is for the functions of tests", f.Path)
					return true
				}
				if _, ok := named[fn.Name.Name]; !ok || !slices.Contains(strings.Fields(packages), "./"+f.Package) {
					t.Errorf("%s: %s does less under the race detector and is not in the stage whole of scripts/ci", f.Path, fn.Name.Name)
				}
				named[fn.Name.Name] = true
				return true
			})
		}
	}
	for name, used := range named {
		if !used {
			t.Errorf("the stage whole of scripts/ci has %s, which does not ask invariants.Race", name)
		}
	}
}
