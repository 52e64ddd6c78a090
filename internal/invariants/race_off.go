//go:build !race

package invariants

// Race is false without the race detector.
const Race = false
