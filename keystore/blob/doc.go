// Package blob is the layout of what providers return as their opaque blob, and the binding of a context to mechanisms that have none.
//
// A provider puts into a [Blob] what its keystore will need to open the secret
// again: the mechanism, the version of the key, the IV that the keystore chose,
// and the ciphertext. Mechanisms with additional data of their own ([AESGCM],
// [Native]) encrypt the secret itself under [Binding.Full]. RSA-OAEP and AES key
// wrap have no additional data: there [Bind] wraps a one-time key with the
// mechanism and seals the secret locally under that key, with the context as
// additional data.
//
// # Format
//
// Integers are big-endian. Changing this breaks every stored blob.
//
//	blob   u8 format (1) | u8 mechanism
//	       u16 length, key version  at most 1024 bytes
//	       u8  length, IV           at most 64 bytes; empty unless the mechanism is AES-GCM
//	       u16 length, wrapped      1 to 8192 bytes: the secret, or the one-time key, as the keystore wrapped it
//	       u8  length, sealed       empty, or 12 bytes nonce | ciphertext | 16 bytes tag of the secret under the one-time key
//	AAD    lp(domain) lp(key reference) u8 mechanism lp(key version) lp(caller's AAD); lp(x) = u32 length, x
//
// # Invariants
//
//   - I1: a blob has one encoding; what parses encodes to the same bytes.
//   - I2: a bound secret opens only under the domain, key reference, mechanism, key version and AAD it was bound with.
//   - I3: a one-time key is used once, is only ever in protected memory here, and ends with the call.
//   - I4: whatever is wrong with a blob, the error is the same [ErrDoesNotOpen].
//
// # Concurrency
//
// Functions of values; safe for concurrent use.
//
// # Failure
//
// Nothing is kept, so nothing is left behind by a failure.
//
// # Source
//
// ACD-302, "Keystore Integration Archetypes"; NIST SP 800-38D for the local
// sealing; the one-time key is the habit of RFC 9180 and of the nested L2 of
// package hierarchy.
package blob
