// Package vaultserver starts a real Vault server for tests and demonstrations and plays its administrator.
//
// The program is tools/vaultserver, a module of its own, because Vault is under
// the Business Source License and nothing of it may be linked into Krypton.
// scripts/tool builds it once. What listens is the core of HashiCorp Vault with
// its storage in memory: everything else, policies, tokens, keys, sealing, is
// done over Vault's own API, as an administrator would do it. OpenBao, from
// which Vault's transit engine does not differ in what Krypton uses, cannot be
// had as a Go module; its namespaces and soft-deleted keys are not here.
//
// Nothing here needs a testing.T.
//
// # Invariants
//
//   - I1: it listens on loopback only.
//   - I2: when Close returns, the process is gone; it also ends when this process does.
//
// # Concurrency
//
// Safe for concurrent use.
//
// # Failure
//
// A program that is not built is an error that says how to build it. What the
// server refuses is an error with its status and its words.
//
// # Source
//
// Vault's API documentation.
package vaultserver
