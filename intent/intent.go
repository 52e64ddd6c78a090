// Package intent verifies that people, and not nodes, ordered a sovereign act.
//
// A sovereign act changes who holds power over the cluster or its keys. It needs
// an [Intent] signed by registered personal keys. Every replica runs [Verify]
// when it applies the command, so a lying follower, leader or certificate
// authority cannot act in a person's name. What the act orders is a [Request]: it
// has a digest for the machines and a description for the people who sign. This
// package only verifies; signing and randomness are in intent/sign, so that the
// replicated state machine can import this package.
//
// # Invariants
//
//   - I1: an intent has exactly one encoding; Decode accepts b only if Encode returns b.
//   - I2: Verify is a pure function of its arguments: every replica gets the same result.
//   - I3: a signature is over keyspace, act, request digest, preconditions, expiry and nonce together; none of them can be exchanged.
//   - I4: a person counts once, however many keys that person has, and the requester does not count where the rule excludes them.
//   - I5: a nonce is accepted once. It is the replay key, not the signature, so that a malleable signature is not a second act.
//   - I6: a public key has one encoding and one id, and is not one under which anybody can sign.
//   - I7: a canonical request has exactly one encoding; ParseRequest accepts b only if Canonical returns b.
//   - I8: a description shows all of what is signed, and no value in it can look like another field, another line or the end of the text.
//
// # Concurrency
//
// Everything here is an immutable value or a pure function; safe for concurrent
// use as far as the lookups in [Check] are.
//
// # Failure
//
// [Verify] returns a [RefusalError] with a reason that is part of the replicated
// result. A check that cannot be made is a refusal; nothing is accepted in doubt.
//
// # Source
//
// ACD-302, four-eyes strategy; RFC 8032 (Ed25519), FIPS 186-5 (ECDSA),
// docs/formats.md (signed intents).
package intent

import (
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Version is the version of the encoding that this package writes and reads.
const Version = 1

// Label separates signatures over intents from signatures over anything else
// that a personal key may sign. Changing it voids every stored signature.
const Label = "krypton/v1/intent"

// Limits of an intent.
const (
	MaxPreconditions = 16                // objects that one intent may depend on
	MaxObject        = 512               // bytes of an object name in a precondition
	MaxSignatures    = 32                // signatures on one intent
	MaxSignature     = 72                // bytes of one signature: the longest DER form of ECDSA P-256
	MaxLifetimeMs    = 30 * 86400 * 1000 // how far NotAfter may lie ahead, in ms; bounds how long nonces are kept

	// MaxEncoded is the length in bytes of the longest intent.
	MaxEncoded = fixedLen + MaxPreconditions*(4+MaxObject+8)
)

// Digest is a SHA-256 value.
type Digest [32]byte

// Nonce makes every intent unique (I5). It is drawn at random by the signer;
// the zero value is invalid.
type Nonce [16]byte

// Precondition says that the intent holds only while the object has not changed
// since its signers looked at it.
type Precondition struct {
	Object   string // name of the object, 1 to MaxObject bytes of printable ASCII
	ModIndex uint64 // index of its last change; 0 = the object does not exist
}

// Intent is what a person signs.
type Intent struct {
	Keyspace      hierarchy.KeyspaceID // so that it is worthless in another cluster's keyspace
	Act           Act
	Request       Digest         // of the canonical request, see [Request]
	NotAfter      int64          // unix milliseconds; refused from this instant on
	Nonce         Nonce          // never zero, never used twice
	Preconditions []Precondition // in ascending order of Object, without duplicates
}

// Signature is one personal key's signature over an intent.
type Signature struct {
	Key KeyID
	Sig []byte // Ed25519: 64 bytes. ECDSA P-256: ASN.1 DER, at most MaxSignature bytes.
}

// Signed is an intent with the signatures that were gathered for it. All of
// them are over the same bytes.
type Signed struct {
	Intent     Intent
	Signatures []Signature
}
