//go:build !invariants && !race

package invariants

// Enabled is false in release builds.
const Enabled = false
