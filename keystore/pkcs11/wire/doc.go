// Package wire is what a node and its PKCS#11 helper say to each other over a socket pair.
//
// The node asks, the helper answers; answers come in any order. The protocol
// has a version and no negotiation: both ends are built from one tree, and a
// helper of another version is refused by name when it says hello.
//
// # Format
//
// Integers are big-endian.
//
//	frame     u32 length of the rest, at most 32768 | u64 call | body
//	request   u8 op | u8 mechanism | part key reference | part id | part IV | part AAD | part wrapped | payload (the rest)
//	answer    u8 status | u8 stage | u32 CKR | u8 mechanism | part id | part IV | part wrapped | payload (the rest)
//	part      u16 length, bytes
//
// A payload is the one thing of a frame that may be secret: the secret to wrap,
// or the one that was opened. Of hello, describe and the import calls it is JSON.
//
// # Invariants
//
//   - I1: no length that a frame claims makes the reader take more than the limit, or read beyond it.
//   - I2: a request and an answer have one encoding.
//   - I3: a payload is in the one buffer of its frame, which its owner wipes; no struct holds it.
//
// # Concurrency
//
// Functions of values. A stream has one reader and one writer at a time.
//
// # Failure
//
// A frame that does not decode ends the helper: the two ends no longer agree.
//
// # Source
//
// docs/adr/0036-a-program-of-its-own-for-the-hsm.md.
package wire
