//go:build !mutation

package mutation

// Enabled is true in builds with the tag mutation only.
const Enabled = false

// On reports whether a defence is left out: never.
func On(Name) bool { return false }

// Variables returns the names of the environment variables that this build reads: none.
func Variables() []string { return nil }
