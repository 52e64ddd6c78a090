// Package stream encrypts files and other data of any size under one data key of Krypton.
//
// [NewEncryptor] takes a data key from the cluster and returns a writer,
// [NewDecryptor] has it unwrapped and returns a reader. One call to the cluster
// each, however long the data; what is encrypted never leaves the process in the
// clear. [Rewrap] moves a stream under the present version of its service key by
// exchanging its header; the data is copied as it is.
//
// # Format
//
// Integers are big-endian; lp(x) is a u32 length and x. Changing any of it makes
// existing files unreadable; a change is a new magic.
//
//	stream    = magic | lp(bound) | lp(envelope) | body
//	magic     = "KRYPTS1\n"
//	bound     = u8 algorithm, 1 | u32 segment size, 65536 or 1048576 | lp(service) | lp(resource)
//	envelope  = lp(key version) | lp(wrapped data key)
//	body      = u8 40 | salt [32] | nonce prefix [7] | segment...
//	segment i = AES-256-GCM(key, nonce prefix | u32 i | u8 last, plaintext), 16 bytes longer than the plaintext;
//	            each fills the segment size but the first, which is 40 bytes shorter, and the last
//	key       = HKDF-SHA-256(data key, salt, info = AAD, 32)
//	AAD       = lp("krypton/v1/stream") | magic | lp(bound) | u32 pairs | (lp(key) | lp(value))...   pairs sorted by key
//
// The body is Tink's AES256-GCM-HKDF streaming AEAD, byte for byte. The
// encryption context is not stored; who decrypts must know it.
//
// # Invariants
//
//   - I1: no byte of plaintext is returned before the segment it is in was authenticated, and after an error none is ever returned again.
//   - I2: a stream that was cut, reordered, mixed from two or changed in any bit of header or body does not decrypt to its end.
//   - I3: service, resource and context are what the caller says, never what the file says; what the file says must agree.
//   - I4: the data key and every key derived from it is wiped from this package's memory before the first segment is processed.
//   - I5: a header has a bounded length and one spelling: encoding a decoded header gives the same bytes.
//
// # Concurrency
//
// An Encryptor or Decryptor is used by one goroutine at a time.
//
// # Failure
//
// Everything that does not open is one error of code INTEGRITY. Errors of the
// underlying reader and writer come back as they are. What was read before an
// error was authentic and is a prefix of what was written: whoever acts on data
// before the end of a stream must be able to undo it.
//
// # Source
//
// Tink, Streaming AEAD wire format (AES-GCM-HKDF); Hoang, Reyhanitabar, Rogaway,
// Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"
// (STREAM); ACD-302, L4 data keys.
package stream
