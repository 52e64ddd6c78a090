// Package envelope is the one way in which Krypton protects bytes under a key, at every layer of the hierarchy.
//
// A parent key is only ever an input of key derivation. Each session, named by
// 16 random bytes, has a commitment and an AES-256-GCM key derived from it; a
// wrap is a session of one message. The blob is a header of fixed size, the
// ciphertext and the tag:
//
//	offset  size
//	0       1     format version, 1
//	1       1     suite, 1 = AES-256-GCM with HKDF-Expand-SHA-256
//	2       16    key-version id of the parent
//	18      16    session id
//	34      32    commitment
//	66      12    nonce
//	78      n     ciphertext
//	78+n    16    tag
//
// The header only selects. What the blob is bound to comes from the request and
// the registry, as a [Binding], and is never read from beside the blob.
//
// The envelope commits to the key, not to the context, and does not resist the
// reuse of a nonce: nonces are random and sessions are short instead.
// docs/formats.md is enough to write a decryptor without this package.
//
// # Invariants
//
//   - I1: what was sealed under one binding and parent key opens under these and nothing else.
//   - I2: every way of not opening is the same error to a caller, errs.Integrity; the cause is for the audit record.
//   - I3: the commitment is compared, in constant time, before the key of a session is derived; one ciphertext never opens under two keys.
//   - I4: a session seals at most 2^20 messages and 64 GiB within 60 s, and nothing after Retire.
//   - I5: a session is remembered only after two of its ciphertexts opened, and only within the quota.
//   - I6: an L2 opens only with both its IVK and its customer key; the customer's keystore never sees L2 and gets a fresh K1 each time.
//   - I7: a label of the MasterKey is used for one purpose.
//   - I8: no function here panics on input.
//
// # Concurrency
//
// Functions, [Sealer], [Opener] and [Quota] are safe for concurrent use. A
// random source that is handed in must be too, as crypto/rand.Reader is. No
// lock is held during cryptography or a call to a provider.
//
// # Failure
//
// What does not open is errs.DoesNotOpen. Errors of protected memory (destroyed
// key, no memory left) and of a provider come out as they are: they say nothing
// about the blob. A session that ended says [ErrSessionEnded]; the caller makes
// a new one, or fails when the parent is gone.
//
// # Source
//
// docs/formats.md; NIST SP 800-38D sections 8.2.2 and 8.3 (random nonces); RFC 5869 (HKDF);
// RFC 9771 and "Partitioning Oracle Attacks" (why to commit).
package envelope
