package keystoretest

import (
	"strings"
	"testing"
)

// Only runs the one case whose name has part in it.
func Only(t *testing.T, cfg Config, part string) {
	t.Helper()
	var found []testCase
	for _, c := range cases {
		if strings.Contains(c.name, part) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d cases have %q in their names", len(found), part)
	}
	run(t, cfg, found)
}

// CaseNames returns the names of all cases.
func CaseNames() []string {
	var names []string
	for _, c := range cases {
		names = append(names, c.name)
	}
	return names
}

// Finds is finds.
var Finds = finds
