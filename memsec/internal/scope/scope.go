// Package scope runs code that touches key bytes so that its stack, registers and heap garbage are erased, where the toolchain can do that.
//
// # Invariants
//
//   - I1: the function runs exactly once, on the calling goroutine, in both builds, and its panic reaches the caller.
//
// # Concurrency
//
// Safe for concurrent use. Goroutines started by the function are outside of the scope.
//
// # Failure
//
// In a build without GOEXPERIMENT=runtimesecret the function just runs; [Erases] says so and status reports it.
// A cgo call inside a scope crashes the process (Go 1.26): a PKCS#11 module is never called from one.
//
// # Source
//
// Package runtime/secret of the Go distribution.
package scope
