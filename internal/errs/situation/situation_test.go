package situation_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation"
)

var idForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(-[a-z0-9]+)*$`)

func TestI1_EveryRowSaysOneThing(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, g := range situation.Groups() {
		for _, s := range g.Rows {
			switch {
			case !idForm.MatchString(s.ID) || !strings.HasPrefix(s.ID, g.Name+"/"):
				t.Errorf("%q is no id of group %s", s.ID, g.Name)
			case seen[s.ID]:
				t.Errorf("%s is there twice", s.ID)
			case s.When == "":
				t.Errorf("%s does not say when", s.ID)
			case (s.Code == errs.Unspecified) == (s.Outcome == ""):
				t.Errorf("%s has to have either a code or an outcome", s.ID)
			case s.Code != errs.Unspecified && s.Says == "":
				t.Errorf("%s says nothing", s.ID)
			case s.Outcome != "" && s.Says+s.Next+s.Bare != "":
				t.Errorf("%s has an outcome and an error", s.ID)
			}
			seen[s.ID] = true
		}
	}
}

func TestI3_EveryErrorHasANextStep(t *testing.T) {
	t.Parallel()
	for _, s := range situation.All() {
		if s.Code != errs.Unspecified && (s.Next == "") == (s.Bare == "") {
			t.Errorf("%s has to say either what to do next or why there is nothing to do", s.ID)
		}
	}
}

func TestI2_EveryRowIsTested(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	tested := map[string]bool{}
	inTranscript := regexp.MustCompile(`(?m)^situation ([a-z0-9/-]+)`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "build" || d.Name() == "situation") {
			return filepath.SkipDir
		}
		switch {
		case strings.HasSuffix(path, ".txtar"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range inTranscript.FindAllSubmatch(text, -1) {
				tested[string(m[1])] = true
			}
		case strings.HasSuffix(path, "_test.go"):
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil && idForm.MatchString(s) {
						tested[s] = true
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range situation.All() {
		if !tested[s.ID] {
			t.Errorf("no test looks at %s", s.ID)
		}
	}
}

func TestMatchesKnowsPlaceholders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"node {id} is sealed", "node n1 is sealed", true},
		{"node {id} is sealed", "node  is sealed", false},
		{"node {id} is sealed", "node n1 is sealed!", false},
		{"a.b", "axb", false},
		{"{file}: {cause}", "a: b\nc", false},
		{"", "", true},
		{"", "x", false},
	} {
		if got := situation.Matches(tt.pattern, tt.text); got != tt.want {
			t.Errorf("Matches(%q, %q) = %v", tt.pattern, tt.text, got)
		}
	}
}
