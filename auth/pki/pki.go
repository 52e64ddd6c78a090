// Package pki makes and verifies the certificates that carry identities of
// package auth: certificate authorities, callers and nodes.
//
// A caller's certificate is an X.509 leaf with exactly one URI name, which is an
// auth.ID, issued directly by a registered caller CA. Nodes have another CA: a
// node's certificate is never a caller's, and a caller CA can issue no server
// certificate, because its own extended key usage does not allow it.
//
// # Invariants
//
//   - I1: Callers.Verify returns a proof only for a leaf that a registered CA signed, that is valid at the given time or marked as expired, and whose URI name, if it has one, is in the trust domain of that CA. It gives no role: see package auth/identity.
//   - I2: identity is the issuing key and the name in the bytes of the certificate; nothing is decoded, lower-cased or taken from the subject.
//   - I3: whoever asks for a certificate decides its key and nothing else: names in a request are ignored.
//   - I4: keys are ECDSA P-256 or Ed25519, serial numbers 128 random bits.
//   - I5: a private key at rest is a memsec.Secret with PKCS#8 inside.
//   - I6: a leaf of a CA that retires is marked as expired from its retire time on, by the clock of who verifies, whatever its own end.
//
// # Concurrency
//
// CA and Callers are immutable and safe for concurrent use.
//
// # Failure
//
// A certificate that is not accepted is errs.Unauthenticated, with what is wrong
// in the message. Revocation is not asked for here, but in the registry. While a CA signs, crypto.Signer keeps its private key
// on the Go heap; the standard library has no way around it. It is collected
// when the call returns, and not wiped.
//
// # Source
//
// RFC 5280, SPIFFE X.509-SVID (one URI name), docs/contract.md (tls).
package pki

import (
	"time"
)

// Lifetimes. Callers and nodes renew well before the end; a short life is what
// replaces revocation.
const (
	CallerLifetime = 30 * 24 * time.Hour // the default and the maximum for a caller
	NodeLifetime   = 30 * 24 * time.Hour // the default and the maximum for a node
	CALifetime     = 10 * 365 * 24 * time.Hour
	MinLifetime    = time.Minute

	// Backdate is how far before now a certificate begins, so that a peer whose
	// clock is behind accepts it.
	Backdate = 5 * time.Minute
)

// Purpose says whom a CA vouches for. Zero is invalid.
type Purpose int

// The purposes.
const (
	PurposeUnspecified Purpose = iota
	ForCallers                 // people and workloads: client certificates only
	ForNodes                   // nodes: server and client certificates
)

// String returns the purpose as it stands in the name of a CA.
func (p Purpose) String() string {
	switch p {
	case ForCallers:
		return "callers"
	case ForNodes:
		return "nodes"
	case PurposeUnspecified:
	}
	return "unspecified"
}
