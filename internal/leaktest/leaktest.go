// Package leaktest says which goroutines may outlive the tests of a package that runs nodes.
//
// # Invariants
//
//   - I1: a goroutine that is not named here, with the reason, is a leak.
//
// # Concurrency
//
// Safe for concurrent use.
//
// # Failure
//
// What is left running is printed with its stack, and the tests of the package fail.
//
// # Source
//
// go.uber.org/goleak.
package leaktest

import "go.uber.org/goleak"

// Known returns the goroutines that live on by the choice of a library.
func Known() []goleak.Option {
	return []goleak.Option{
		// memguard re-keys its enclaves from a goroutine that lives as long as the process.
		goleak.IgnoreAnyFunction("github.com/awnumar/memguard/core.NewCoffer.func1"),
		goleak.IgnoreAnyFunction("github.com/awnumar/memguard/core.init.0.func1"),
		// Raft, told to shut down, drops the batch that is on its way to the state
		// machine without answering those who wait for it. Their future cannot be
		// interrupted; the node does not wait for it (cluster.await), its process ends.
		goleak.IgnoreAnyFunction("github.com/openkcm/krypton-cluster/cluster.(*Cluster).await.func1"),
	}
}
