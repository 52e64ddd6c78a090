// Package dev is `krypton dev`: a whole cluster on the developer's machine, with
// throw-away people and a sample tenant, for as long as the command runs.
//
// # Invariants
//
//   - I1: after the command nothing is left of it: no process, no context, and no directory unless it was named with --dir.
//   - I2: contexts of the person stay as they are; those named dev-* are put aside while the command runs, and put back.
//   - I3: stdout has the result once everything works and nothing before; progress goes to stderr.
//
// # Concurrency
//
// One command per process. Two at a time work; of their contexts, the last started wins until it ends.
//
// # Failure
//
// A cluster that does not start is an error with the end of each node's output.
// A node that dies later is told of, and the others go on. After kill -9 of the
// command the directory and the contexts stay; the next run replaces the contexts.
//
// # Source
//
// docs/contract.md (CLI, ENV). The nodes are those of package internal/devcluster.
package dev
