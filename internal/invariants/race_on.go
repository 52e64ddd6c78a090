//go:build race

package invariants

// Race is true under the race detector, where everything takes ten times as long.
// A test that has nothing to find there but wrong results does a part of its
// work then; it stands in scripts/ci, stage whole, which runs it without.
const Race = true
