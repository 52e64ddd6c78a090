//go:build mutation

package mutation

import (
	"os"
	"slices"
	"strings"
)

// Enabled is true in builds with the tag mutation only.
const Enabled = true

// Variable names the file with the names of the defences that are left out, one on
// each line. It is read at every question, so that a running node begins to lie, and
// ends, without a restart.
const Variable = "KRYPTON_MUTATION"

// On reports whether a defence is left out.
func On(n Name) bool {
	path := os.Getenv(Variable)
	if path == "" {
		return false
	}
	b, err := os.ReadFile(path)
	return err == nil && slices.Contains(strings.Fields(string(b)), string(n))
}

// Variables returns the names of the environment variables that this build reads.
func Variables() []string { return []string{Variable} }
