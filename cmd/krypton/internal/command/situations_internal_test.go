package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation"
)

// TestEveryUsageErrorIsARow reads the source for what usagef says, and looks for
// the row of docs/errors.md; that a transcript provokes the row is tested there.
func TestEveryUsageErrorIsARow(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	verb := regexp.MustCompile(`%[a-z]`)
	found := 0
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") || strings.HasSuffix(file.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "usagef" {
				return true
			}
			format := literal(call.Args[1])
			found++
			says := verb.ReplaceAllStringFunc(format, func(v string) string {
				if v == "%q" {
					return `"x"`
				}
				return "x"
			})
			for _, s := range situation.All() {
				if s.Code == errs.InvalidArgument && situation.Matches(s.Says, says) {
					return true
				}
			}
			t.Errorf("%s: no row says %q", file.Name(), format)
			return true
		})
	}
	if found < 40 {
		t.Errorf("only %d usage errors found", found)
	}
}

// literal returns the text of a string literal, or of the first one in a sum.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		if err == nil {
			return s
		}
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return "x"
}
