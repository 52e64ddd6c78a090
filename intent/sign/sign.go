// Package sign makes what package intent verifies: nonces, key descriptions and
// signatures. Command lines and tests import it; the replicated state machine
// must not.
//
// # Invariants
//
//   - I1: every signature made here verifies under the public key made here from the same signer.
//   - I2: a nonce is never zero; it has 128 bits from the given source.
//
// # Concurrency
//
// Safe for concurrent use as far as the signer is.
//
// # Failure
//
// A signer that refuses, and a key of another algorithm, are errors. Private keys
// stay behind [crypto.Signer], so a hardware token works as well as a file; a
// software key lies on the Go heap while it is used.
//
// # Source
//
// RFC 8032, FIPS 186-5, docs/formats.md (signed intents).
package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/intent"
)

var errAlgorithm = errors.New("personal keys are Ed25519 or ECDSA P-256")

// PublicKey describes pub, an ed25519.PublicKey or *ecdsa.PublicKey on P-256,
// as the registry stores it.
func PublicKey(pub crypto.PublicKey) (intent.PublicKey, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return intent.NewPublicKey(intent.AlgEd25519, k)
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return intent.PublicKey{}, errAlgorithm
		}
		raw, err := k.Bytes()
		if err != nil {
			return intent.PublicKey{}, fmt.Errorf("encode public key: %w", err)
		}
		return intent.NewPublicKey(intent.AlgECDSAP256SHA256, raw)
	}
	return intent.PublicKey{}, errAlgorithm
}

// Nonce draws a nonce from rand.
func Nonce(rand io.Reader) (intent.Nonce, error) {
	var n intent.Nonce
	if _, err := io.ReadFull(rand, n[:]); err != nil {
		return intent.Nonce{}, fmt.Errorf("draw nonce: %w", err)
	}
	if n == (intent.Nonce{}) {
		return intent.Nonce{}, errors.New("draw nonce: the random source returned only zeros")
	}
	return n, nil
}

// Sign signs in with key. ECDSA draws from rand unless the Go runtime draws by
// itself, as it does since Go 1.26; Ed25519 needs no randomness.
func Sign(rand io.Reader, key crypto.Signer, in intent.Intent) (intent.Signature, error) {
	pub, err := PublicKey(key.Public())
	if err != nil {
		return intent.Signature{}, err
	}
	message, err := in.Message()
	if err != nil {
		return intent.Signature{}, fmt.Errorf("encode intent: %w", err)
	}
	toSign, opts := message, crypto.SignerOpts(crypto.Hash(0))
	if pub.Alg() == intent.AlgECDSAP256SHA256 {
		h := sha256.Sum256(message)
		toSign, opts = h[:], crypto.SHA256
	}
	sig, err := key.Sign(rand, toSign, opts)
	if err != nil {
		return intent.Signature{}, fmt.Errorf("sign intent: %w", err)
	}
	// A token that signs with another key than it shows would be found only by
	// the cluster, after the nonce and the ceremony are spent.
	if !pub.Verify(message, sig) {
		return intent.Signature{}, errors.New("the key's signature does not verify under its own public key")
	}
	return intent.Signature{Key: pub.ID(), Sig: sig}, nil
}
