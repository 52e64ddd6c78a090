// Package hsm starts tokens that speak PKCS#11, for tests and demonstrations: SoftHSM and openCryptoki's software token.
//
// Both are real products that run in software. A [Server] has a directory of
// its own, so that many can run side by side, and the owner's side of the
// token: keys are made, changed and destroyed by a program of its own.
// openCryptoki keeps its state at fixed places; it runs in a mount namespace
// with memory in their stead, which needs root.
//
// # Invariants
//
//   - I1: nothing outside the directory given is written, and no process outlives Close.
//
// # Concurrency
//
// Safe for concurrent use; commands of the owner are processes of their own.
//
// # Failure
//
// Start says which component is missing, and the command that installs it.
//
// # Source
//
// SoftHSM 2.6, openCryptoki 3.8, both as Debian has them.
package hsm
