// Package crash lets the real program die at every step of what it does, and looks at what is left.
//
// Each scenario is one thing that people do (init, join, unseal, rotate, ...).
// The program does it under package steps and is killed before its first step that
// a disk or a caller could notice; the test starts it again and looks; then, in a
// new world, before the second step, and so on until it came to its end. This is
// done three times: with kill -9, with a power cut that leaves only what was
// synced, and with SIGTERM.
//
// `go test` looks at a sample, which is the same in every run: each scenario dies
// once under each fate, before steps of different kinds, and once after its answer.
// `make crash` looks at all steps.
//
// # Invariants
//
// After every death:
//
//   - I1: the node starts again and says its true state.
//   - I2: the operation is done or not done; what was acknowledged is done; the same call again makes it done, once.
//   - I3: what was acknowledged before stays, and what was encrypted before opens.
//   - I4: no file is left over, and no secret is in a file or a log.
//   - I5: after SIGTERM the node ends with status 0 in its stated time, and calls get an answer or an error of the table.
//
// # Concurrency
//
// Worlds are independent; several run at once.
//
// # Failure
//
// A failure names scenario, fate, and step; the log of the nodes is shown.
//
// # Source
//
// docs/errors.md ("Death in the middle"), ADR 0022.
package crash
