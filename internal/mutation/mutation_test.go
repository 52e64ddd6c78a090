//go:build !mutation

package mutation_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// TestI1_NothingIsLeftOutWithoutTheTag although the variable of the other build is
// set. That the program has none of the names is for `make test-attacks`.
func TestI1_NothingIsLeftOutWithoutTheTag(t *testing.T) {
	path := filepath.Join(t.TempDir(), "all")
	for _, n := range mutation.Names() {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(string(n) + "\n"); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("KRYPTON_MUTATION", path)
	if mutation.Enabled || len(mutation.Variables()) != 0 {
		t.Error("the build for tests is the one without the tag")
	}
	for _, n := range mutation.Names() {
		if mutation.On(n) {
			t.Errorf("%s is left out", n)
		}
	}
}

func TestEveryDefenceHasANameOfItsOwn(t *testing.T) {
	t.Parallel()
	names := mutation.Names()
	slices.Sort(names)
	if len(names) == 0 || len(slices.Compact(slices.Clone(names))) != len(names) || slices.Contains(names, "") {
		t.Errorf("names: %q", names)
	}
}
