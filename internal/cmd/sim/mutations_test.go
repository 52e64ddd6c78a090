package main

import (
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

const root = "../../.."

// A protection that was written anew needs its mutation written anew: this finds
// out at once, `make sim` later.
func TestEveryMutationFindsItsPlace(t *testing.T) {
	t.Parallel()
	files, err := mutate(root, mutations())
	if err != nil {
		t.Fatal(err)
	}
	for name, src := range files {
		if _, err := parser.ParseFile(token.NewFileSet(), name, src, 0); err != nil {
			t.Errorf("%s, mutated: %v", name, err)
		}
	}
	faults, err := os.ReadFile(root + "/cluster/sim_faults_internal_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutations() {
		if m.fault != "" && !strings.Contains(string(faults), "{\""+m.fault+"\",") {
			t.Errorf("%s: there is no fault %q", m.name, m.fault)
		}
		for _, e := range m.edits {
			if !strings.Contains(e.new, "mutated(\""+m.name+"\")") && !strings.Contains(e.new, "Persist(") && !strings.Contains(e.new, "Revive(") && m.name != "current-term" {
				t.Errorf("%s: an edit of %s counts in every mutated program", m.name, e.file)
			}
		}
	}
}

func TestAMutationWithoutItsPlaceIsAnError(t *testing.T) {
	t.Parallel()
	for _, old := range []string{"no such line", "\n"} {
		_, err := mutate(root, []mutation{{name: "x", edits: []edit{{"cluster/lease/leader.go", old, "y"}}}})
		if err == nil || !strings.Contains(err.Error(), "mutation x") {
			t.Errorf("%q: %v", old, err)
		}
	}
}
