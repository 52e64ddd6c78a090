package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const examplesPath = "../examples/policies"

// TestTheExamplesDecideAsTheySay holds every file of examples/policies against the
// decisions that stand in its comment.
func TestTheExamplesDecideAsTheySay(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(examplesPath, "*.cedar"))
	if err != nil || len(files) < 6 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := one(t, string(raw))
		verdicts := map[string]int{}
		for line := range strings.Lines(string(raw)) {
			rest, ok := strings.CutPrefix(strings.TrimSpace(line), "// decides: ")
			if !ok {
				continue
			}
			verdict, rest, _ := strings.Cut(rest, " ")
			verdicts[verdict]++
			if d := s.Decide(request(t, rest)); (verdict == "allow") != d.Allow {
				t.Errorf("%s: %s %s: the engine says: %s", filepath.Base(file), verdict, rest, d)
			}
		}
		if verdicts["allow"] == 0 || verdicts["deny"] == 0 || len(verdicts) != 2 {
			t.Errorf("%s shows half of it: %v", filepath.Base(file), verdicts)
		}
	}
}
