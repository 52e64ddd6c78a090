// Package hierarchy is the vocabulary of Krypton's keys: layers, names, states, and what every ciphertext is bound to.
//
//	L1   customer key         in the customer's keystore; never seen here
//	 | wraps                          MasterKey   in memory only
//	 v                                   | wraps
//	L2   tenant key   <-- nested in --  IVK       internal versioned key
//	 | wraps
//	 v
//	L2.1 tenant key versions            rotate, roll back
//	 | wraps
//	 v
//	L3   service key versions           rotate, roll back, pin per resource
//	 | wraps, under a key derived per session
//	 v
//	L4   data keys
//
// The package is pure: it holds no key material, reads no clock and draws no
// randomness. It is shared by the replicated state machine, which must not be
// able to see plaintext, and by package envelope, which does the cryptography.
// All durable encodings of both packages are written down in docs/formats.md.
//
// # Invariants
//
//   - I1: the encoding of an encryption context does not depend on the order of its pairs, and no two different contexts have one encoding.
//   - I2: no two different (header, binding) have one associated data, and no two different derivation scopes have one derivation context.
//   - I3: every pair of state and event has exactly one row in the table: a next state or a named refusal.
//   - I4: DESTROYED is terminal: no event leads out of it.
//   - I5: DEPRECATED is one way: a version that was deprecated never wraps again.
//   - I6: compromised is sticky: a version that was ever compromised never wraps again and is never rolled back to.
//   - I7: enable returns a version to the state it was disabled in, and to no more power than it would have had without the disable.
//   - I8: at most the primary version wraps, or the one that a resource is pinned to; and only while it and everything above it is ACTIVE or, for parents, able to unwrap.
//   - I9: an ACTIVE version is the primary or knows when it was superseded; after the rollback window it is no longer ACTIVE unless a resource is pinned to it.
//   - I10: rollback moves the primary pointer only to an ACTIVE, never-compromised version whose rollback window is open, and pauses the rotation schedule.
//   - I11: numbers and wire strings of durable vocabulary never change.
//
// # Concurrency
//
// Everything is a value; methods return changed copies and never write to what
// they were given. Safe for concurrent use.
//
// # Failure
//
// Input is refused with an error of package errs. A transition that the table
// does not allow is a [Refusal], which is a replicated fact and not an error of
// the node; [Refusal.Err] makes it one for a caller. Unknown or zero values
// never give power: they refuse.
//
// # Source
//
// ACD-302 (layered key hierarchy L1 to L4); NIST SP 800-57 part 1 rev. 5, section 7 (key states);
// KMIP 1.4, section 3.22 (State); docs/formats.md.
package hierarchy
