// Package recovery executes the runbooks of docs/runbooks by which a cluster comes back
// from a disaster, with real processes and the command line that the pages name.
//
// # Invariants
//
//   - I1: every step is a command of a runbook; what the runbook says is refused is tried, too.
//
// # Concurrency
//
// Tests run one after the other: each has clusters of processes.
//
// # Failure
//
// A step that does not come about in 90 s fails the test, with the logs of the nodes.
//
// # Source
//
// docs/runbooks; docs/adr/0042-a-recovery-begins-an-incarnation.md.
package recovery
