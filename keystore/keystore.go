// Package keystore is the border between Krypton and the places that hold other people's keys.
//
// A [Provider] wraps and unwraps small secrets under a key that never leaves
// its keystore: a customer's cloud KMS or HSM (the L1 key of a tenant), or the
// keystore that protects the MasterKey. Everything above this package sees one
// interface, one [Error] type and five error classes, whatever is behind.
//
// # Invariants
//
//   - I1: a secret is a [memsec.Secret] on both sides; no request, result or error holds key bytes or plaintext.
//   - I2: an error that is not a [*Error] is never [Denied]; nobody loses a tenant to a failure that no provider classified.
//   - I3: a blob opens only under the key reference and the AAD it was made with, on every provider, also on those whose mechanism has no AAD.
//   - I4: only Denied triggers the kill switch; only Unavailable and Throttled are retried and count towards a grace period.
//   - I5: a blob says by itself which mechanism, key version and IV made it; no caller reads inside it.
//
// # Concurrency
//
// Providers and [Registry] are safe for concurrent use. Requests are values;
// a provider does not keep or change what a request points to.
//
// # Failure
//
// Every method of a provider returns nil or a [*Error]. A keystore that is away
// gives [Unavailable]; what may still be served meanwhile is decided above, by
// the lease on the L1 proof, not here.
//
// # Source
//
// ACD-302, "Keystore Integration Archetypes" and "Compliance & Audit";
// MasterKey management (Shamir & Seal).
package keystore

import (
	"context"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Limits that hold for every provider, chosen so that the narrowest real
// mechanism still fits. Raising one is a change of what can be configured;
// lowering one breaks stored blobs.
const (
	// MaxSecret is the longest secret that Wrap takes, in bytes. Krypton wraps
	// one-time keys of 32 and Shamir shares of 33 bytes; RSA-OAEP-256 under a
	// 2048-bit key has room for 190.
	MaxSecret = 64
	// MaxAAD is the longest additional data, in bytes. AWS allows 8192
	// characters of encryption context, in which the AAD stands in base64, and
	// HSM-backed Google keys 8 KiB of AAD and plaintext together.
	MaxAAD = 4096
	// MaxBlob is the longest blob a provider may return or is asked to open, in
	// bytes. The longest known one is that of RSA-4096 with a bound context,
	// under 1 KiB.
	MaxBlob = 16 << 10
	// MaxKeyRef is the longest key reference, in bytes.
	MaxKeyRef = 1024
	// MaxKeyVersion is the longest key version, in bytes; Azure and Google name versions by URLs.
	MaxKeyVersion = 1024
	// MaxRequestID is the longest request id of a provider that is kept, in bytes.
	MaxRequestID = 256
)

// KeyRef names a key as its keystore does: an ARN, a resource name, a key
// identifier, a token object's label. It is public. At most [MaxKeyRef] bytes.
type KeyRef string

// KeyVersion names one version of a key as its keystore does. It is opaque and
// only compared for equality. Empty where a keystore does not tell (AWS keeps
// old backing keys under one id).
type KeyVersion string

// RequestID is the id under which the keystore's own log has the call. Empty
// where a keystore has none, or did not answer.
type RequestID string

// WrapRequest asks to wrap a secret.
type WrapRequest struct {
	Key         KeyRef        // under which key; not empty
	Secret      memsec.Secret // what: 1 to MaxSecret bytes
	AAD         []byte        // public context that must be given again to unwrap; 1 to MaxAAD bytes
	Correlation corr.ID       // travels to the keystore's own log where it has one
}

// WrapResult is a wrapped secret.
type WrapResult struct {
	Blob       []byte     // opaque; 1 to MaxBlob bytes
	KeyVersion KeyVersion // the version that wrapped it
	RequestID  RequestID
}

// UnwrapRequest asks to open a blob.
type UnwrapRequest struct {
	Key         KeyRef       // the key that wrapped it; providers must pass it on, never let the blob choose
	Blob        []byte       // what Wrap returned
	AAD         []byte       // the AAD that Wrap was given
	Class       memsec.Class // how the secret is held in memory
	Correlation corr.ID
}

// UnwrapResult is an opened blob. The caller owns Secret and destroys it.
type UnwrapResult struct {
	Secret     memsec.Secret
	KeyVersion KeyVersion // the version that opened it
	RequestID  RequestID
}

// DescribeRequest asks for the public facts about a key.
type DescribeRequest struct {
	Key         KeyRef
	Correlation corr.ID
}

// KeyState is what a keystore says of a key. The zero value means that it does
// not say. It is for people: that a key can be used is proved by unwrapping,
// never by a state (a policy can deny use of an enabled key).
type KeyState int

// The key states.
const (
	StateUnknown KeyState = iota
	StateEnabled
	StateDisabled
	StatePendingDeletion // deleted at a later time unless someone cancels
	StateDeleted
)

// String returns the state as documents and JSON write it.
func (s KeyState) String() string {
	switch s {
	case StateEnabled:
		return "enabled"
	case StateDisabled:
		return "disabled"
	case StatePendingDeletion:
		return "pending-deletion"
	case StateDeleted:
		return "deleted"
	case StateUnknown:
	}
	return "unknown"
}

// KeyKind says what a blob made under the key proves. The zero value means
// that the keystore does not say.
type KeyKind int

// The key kinds.
const (
	KindUnknown    KeyKind = iota
	KindSymmetric          // only who may use the key can make a blob that opens
	KindAsymmetric         // anyone with the public key can: confidentiality, not origin
)

// String returns the kind as documents and JSON write it.
func (k KeyKind) String() string {
	switch k {
	case KindSymmetric:
		return "symmetric"
	case KindAsymmetric:
		return "asymmetric"
	case KindUnknown:
	}
	return "unknown"
}

// Protection says where the keystore holds the key. The zero value means that
// the keystore does not say.
type Protection int

// The protections.
const (
	ProtectionUnknown  Protection = iota
	ProtectionSoftware            // in the memory or on the disk of ordinary machines
	ProtectionHSM                 // in a hardware security module
)

// String returns the protection as documents and JSON write it.
func (p Protection) String() string {
	switch p {
	case ProtectionSoftware:
		return "software"
	case ProtectionHSM:
		return "hsm"
	case ProtectionUnknown:
	}
	return "unknown"
}

// Description is what a keystore tells about a key.
type Description struct {
	Key        KeyRef     // the canonical reference, where an alias was asked for
	State      KeyState   // what the keystore says; not a proof
	KeyVersion KeyVersion // the version that Wrap would use now
	Kind       KeyKind
	Protection Protection
	Mechanism  string   // what wraps, for people: "AES-256-GCM", "RSA-OAEP-256"
	Notes      []string // what else a person should know of it, as sentences; seldom more than one
	RequestID  RequestID
}

// Provider is one configured keystore. Implementations are held to this
// contract by the suite in keystoretest.
//
// A method returns nil or a [*Error] that carries the provider's name, the
// operation, the key reference and the request id, if there was an answer. When
// ctx ends first the class is [Unavailable] and the error wraps ctx's error. A
// provider makes one attempt, without retries of its own, within the deadline
// of ctx; the caller owns the budget for retries.
//
// A capability that only some keystores have (to import key material, for
// instance) is a second interface that a Provider may satisfy as well, found by
// type assertion. This interface does not grow for it.
type Provider interface {
	// Wrap protects the secret under the current version of the key. Where the
	// mechanism has no AAD (RSA-OAEP, AES key wrap) the provider wraps a
	// one-time key with it and binds the AAD locally (I3).
	Wrap(ctx context.Context, req WrapRequest) (WrapResult, error)
	// Unwrap opens a blob of any version of the key that the keystore still
	// lets it use. A blob that does not open is [Corrupt]; where a keystore
	// answers alike for a broken blob and a refused key the provider finds out
	// before it says [Denied].
	Unwrap(ctx context.Context, req UnwrapRequest) (UnwrapResult, error)
	// Describe tells the public facts about a key, also of one that is disabled
	// or about to be deleted. It fails for a key that does not exist.
	Describe(ctx context.Context, req DescribeRequest) (Description, error)
	// Health reports whether the keystore answers and accepts the provider's
	// credentials. It says nothing about any key.
	Health(ctx context.Context, id corr.ID) error
	// Close releases connections, sessions and credentials. It is idempotent.
	// Later calls of other methods fail with [Unavailable].
	Close() error
}
