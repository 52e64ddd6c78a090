package lint_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/lint"
)

// root is the root of the module.
var root = filepath.Join("..", "..")

var load = sync.OnceValues(func() (lint.Tree, error) { return lint.Load(os.DirFS(root)) })

func tree(t *testing.T) lint.Tree {
	t.Helper()
	tr, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if len(tr) < 10 {
		t.Fatalf("only %d files found", len(tr))
	}
	return tr
}

var list = sync.OnceValues(func() (lint.Graph, error) { return lint.List(context.Background(), root) })

func graph(t *testing.T) lint.Graph {
	t.Helper()
	g, err := list()
	if err != nil {
		t.Fatal(err)
	}
	if len(g) < 100 {
		t.Fatalf("only %d packages found", len(g))
	}
	return g
}

// files are those under version control, and new ones that are not ignored.
var files = sync.OnceValues(func() ([]string, error) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var found []string
	for f := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if _, err := os.Lstat(filepath.Join(root, f)); err == nil {
			found = append(found, f)
		}
	}
	return found, nil
})

func tracked(t *testing.T) (fs.FS, []string) {
	t.Helper()
	fl, err := files()
	if err != nil {
		t.Fatal(err)
	}
	return os.DirFS(root), fl
}

func report(t *testing.T, problems []string) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
}

func TestI1_LayersImportDownwards(t *testing.T) {
	t.Parallel()
	report(t, lint.LayerRule(tree(t), lint.Layers))
}

func TestRestrictedImports(t *testing.T) {
	t.Parallel()
	report(t, lint.RestrictionRule(tree(t), lint.Restrictions))
}

func TestStateMachineIsPure(t *testing.T) {
	t.Parallel()
	report(t, lint.PurityRule(graph(t), "fsm"))
}

func TestClientClosure(t *testing.T) {
	t.Parallel()
	report(t, lint.ClientClosure(graph(t)))
}

func TestNoInitFunctions(t *testing.T) {
	t.Parallel()
	report(t, lint.InitRule(tree(t)))
}

func TestNoSecretsInFields(t *testing.T) {
	t.Parallel()
	report(t, lint.SecretFieldRule(tree(t)))
}

func TestHeadersAreReadInOnePlace(t *testing.T) {
	t.Parallel()
	report(t, lint.HeaderRule(tree(t), lint.HeaderReaders))
	for file, why := range lint.HeaderReaders {
		if len(why) < 10 {
			t.Errorf("no reason for %s", file)
		}
	}
}

func TestPackageComments(t *testing.T) {
	t.Parallel()
	report(t, lint.PackageCommentRule(tree(t)))
}

func TestDecisionRecordsAreLinked(t *testing.T) {
	t.Parallel()
	report(t, lint.ADRRule(os.DirFS(root)))
}

func TestLinksResolve(t *testing.T) {
	t.Parallel()
	report(t, lint.LinkRule(tracked(t)))
}

func TestMakeTargets(t *testing.T) {
	t.Parallel()
	report(t, lint.MakeRule(tracked(t)))
}

func TestProofsInTheReadmeExist(t *testing.T) {
	t.Parallel()
	report(t, lint.ProofRule(os.DirFS(root), "README.md"))
}

func TestNoPathsOfOneMachine(t *testing.T) {
	t.Parallel()
	report(t, lint.MachinePathRule(tracked(t)))
}
