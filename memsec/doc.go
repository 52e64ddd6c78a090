// Package memsec keeps key bytes in protected memory and lets the program use them without holding them.
//
// A [Secret] is a handle. What it names lives in locked pages ([Hot]) or in an
// encrypted enclave ([Cold]); derivation, MACs and AEAD work on it in place, and
// bytes come out only inside a callback of package memsec/reveal, whose
// importers are few and listed. Whoever makes a secret owns it and calls
// [Secret.Destroy]: a handle that is merely forgotten keeps its memory.
//
// What is not covered. The expanded key of an [AEAD] is on the Go heap while the
// AEAD lives; it is the one key copy outside of locked pages. Stack and registers
// are erased only in builds with GOEXPERIMENT=runtimesecret ([Status.Erases]).
// Tier mlock keeps keys out of swap, core dumps and child processes, not from
// root. What a callback of reveal copies is the callback's to wipe.
//
// # Invariants
//
//   - I1: no printing, logging, encoding or reflection of a Secret or AEAD, at any depth, shows a byte of the key.
//   - I2: after Destroy, and after Purge, every use of the handle is [ErrDestroyed]; a handle never comes to name another secret.
//   - I3: key bytes are wiped by the last operation that uses them, never under a running one.
//   - I4: running out of lockable memory is [ErrBudget]; it is never a panic and takes nothing from other secrets.
//   - I5: [Take] wipes its argument in every case.
//   - I6: every way in which a ciphertext does not open is one error, errs.Integrity.
//   - I7: Expand, MAC and AEAD are HKDF-Expand-SHA-256, HMAC-SHA-256 and AES-256-GCM, byte for byte.
//   - I8: sealing and opening allocate nothing when dst has room.
//
// # Concurrency
//
// Everything is safe for concurrent use. Lookups take no lock. Opening cold
// secrets is serialised (about 0.1 ms each): they are for keys used rarely.
//
// # Failure
//
// A use after Destroy is refused with errs.NotServing, exhausted memory with
// errs.Unavailable; both leave everything else as it was. If the enclaves become
// unreadable, which memguard answers with a panic after wiping its key, the
// process crashes at once and on purpose: it must stop serving and unseal again.
//
// # Source
//
// RFC 5869 (HKDF), RFC 2104 (HMAC), SP 800-38D (GCM), mlock(2), memguard, docs/threat-model.md.
package memsec
