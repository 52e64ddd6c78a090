// Package fleet starts one keystore of each kind that a seal can be spread over, for tests and demonstrations: a PKCS#11 token, a Transit server, AWS KMS and Azure Key Vault.
//
// The token is SoftHSM and the Transit server a real Vault; the two clouds are
// vendors' fakes (local-kms behind a front of ours, Microsoft's azkeys/fake).
// Each [Store] has one key and an identity that may use it, is described by the
// section that a node's configuration has of it, and can be cut off and brought
// back while nodes run.
//
// # Invariants
//
//   - I1: what a store is cut off from is the network or the slot, never its key: brought back, it opens what it wrapped before.
//   - I2: nothing outside the directory given is written, and no process outlives Close.
//
// # Concurrency
//
// A Fleet is used from one goroutine; the nodes that talk to it do so at any time.
//
// # Failure
//
// Start says which component is missing, and the command that installs it.
//
// # Source
//
// docs/keystores of this project; packages hsm, vaultserver, awsserver and azureserver beside this one.
package fleet
