// Package stream encrypts files and other data of any size under one data key of Krypton.
//
// [NewEncryptor] takes a data key from the cluster and returns a writer,
// [NewDecryptor] has it unwrapped and returns a reader. [NewReaderAt] reads a
// stream at any offset, out of a file or whatever else is an [io.ReaderAt]. One
// call to the cluster each, however long the data; what is encrypted never leaves
// the process in the clear. [Rewrap] moves a stream under the present version of
// its service key by exchanging its header; the data is copied as it is.
//
// All of them work with [io.Copy], in memory of a few segments. A stream is bound
// to its [client.Scope] and, if the caller likes, to [Options.AAD].
//
// # From end to end, or at an offset
//
// A [Decryptor] has checked the whole stream when it says io.EOF. A [ReaderAt]
// checks its size and its end when it is opened, and each segment when somebody
// reads in it; changes where nobody reads stay unseen. What either returns is
// authentic. Neither can tell an old file of the same scope from a new one: bind
// a version or a hash as AAD where that matters.
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
//	AAD       = lp("krypton/v1/stream") | magic | lp(bound) | u32 pairs | (lp(key) | lp(value))... | [lp(added)]
//	            pairs sorted by key; added is Options.AAD, and stands there only if it is not empty
//
// The body is Tink's AES256-GCM-HKDF streaming AEAD, byte for byte. The
// encryption context and what is added to it are not stored; who decrypts must
// know them.
//
// # Invariants
//
//   - I1: no byte of plaintext is returned before the segment it is in was authenticated, and after a segment that does not open none is ever returned again.
//   - I2: a stream that was cut, reordered, mixed from two or changed in any bit of header or body does not decrypt to its end.
//   - I3: service, resource, context and AAD are what the caller says, never what the file says; what the file says must agree.
//   - I4: the data key and every key derived from it is wiped from this package's memory before the first segment is processed.
//   - I5: a header has a bounded length and one spelling: encoding a decoded header gives the same bytes.
//   - I6: the size of a [ReaderAt] is authenticated before it returns anything, and what it returns for an offset was written at that offset of the stream it opened.
//   - I7: a [ReaderAt] keeps at most one segment in the clear, and wipes it when it is replaced, when a segment does not open, and on Close.
//
// # Concurrency
//
// An Encryptor or Decryptor is used by one goroutine at a time. A ReaderAt is
// used by any number of them; each call that is running holds one segment.
//
// # Failure
//
// Everything that does not open is one error of code INTEGRITY. Errors of the
// underlying reader and writer come back as they are; only io.EOF itself is an
// end. What was read before an error was authentic and is a prefix of what was
// written, or of what was asked for: whoever acts on data before the end of a
// stream must be able to undo it. More than [MaxPlaintext] is refused with code
// TOO_LARGE. A file that is rewrapped or replaced while a ReaderAt is open on it
// does not open any more; open it again.
//
// # Source
//
// Tink, Streaming AEAD wire format (AES-GCM-HKDF); Hoang, Reyhanitabar, Rogaway,
// Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"
// (STREAM); ACD-302, L4 data keys.
package stream
