// Package sign makes what package intent verifies: intents, and signatures by
// people's keys, wherever the keys are. Command lines and tests import it; the
// replicated state machine must not.
//
// A person's key is a [Signer]: a file ([OpenKey]), a key in an SSH agent
// ([Agent]), or any [crypto.Signer] of the program ([New]). One person makes an
// intent with [Propose], others look at it and add theirs with
// [File.Countersign]; a [File] carries it between them, also by hand to a machine
// without a network. PKCS#11 tokens are not a source of their own, because their
// library needs cgo; many of them can stand behind an SSH agent.
//
// # Invariants
//
//   - I1: every signature made here verifies under the public key that its signer shows; it was verified before it was returned.
//   - I2: a nonce is never zero; it has 128 bits from the given source.
//   - I3: nothing is signed but an intent over a request that this release knows field by field, for the keyspace that the person named, within the time that a cluster accepts. [Sign] and [Signer] are below this rule, [Propose] and [Countersign] hold it.
//   - I4: a file of a signed intent has one form, but for white space; what is read is whole: the intent is over the request, and every signature in it verifies.
//   - I5: a private key is in no text, error or dump of a value of this package.
//
// # Concurrency
//
// Safe for concurrent use as far as the signer is; the signers made here are.
//
// # Failure
//
// A signer that refuses, lies or does not answer, and a key of another algorithm,
// are errors; nothing is returned that does not verify. A software key lies on the
// Go heap while it is used: the program signs and ends.
//
// # Source
//
// RFC 8032, FIPS 186-5, RFC 5958 (PKCS#8), RFC 5915 (SEC1), OpenSSH PROTOCOL.key
// and draft-ietf-sshm-ssh-agent, docs/formats.md (signed intents).
package sign

import (
	"context"
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

var (
	errAlgorithm = errors.New("personal keys are Ed25519 or ECDSA P-256")
	errNotItsOwn = errors.New("the key's signature does not verify under its own public key")
)

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

// Signer is a person's key. Sign asks whatever holds the key and verifies what it
// gets, so an implementation that is wrong or lies is found here and not by the
// cluster, after the nonce and the ceremony are spent.
type Signer interface {
	// PublicKey returns the key under which signatures of Sign verify. Its ID is
	// the key id by which the registry knows it.
	PublicKey() intent.PublicKey
	// Sign returns the signature over in. It looks at nothing but the encoding of
	// in: callers use [Propose] or [Countersign].
	Sign(ctx context.Context, in intent.Intent) (intent.Signature, error)
}

// signer keeps a key in a closure, so that no verb of fmt and no encoder can
// reach it (I5).
type signer struct {
	pub  intent.PublicKey
	sign func(context.Context, intent.Intent) (intent.Signature, error)
}

func (s signer) PublicKey() intent.PublicKey { return s.pub }

func (s signer) Sign(ctx context.Context, in intent.Intent) (intent.Signature, error) {
	if err := ctx.Err(); err != nil {
		return intent.Signature{}, err
	}
	return s.sign(ctx, in)
}

// New makes a Signer of key. What it says of rand is what [Sign] says.
func New(rand io.Reader, key crypto.Signer) (Signer, error) {
	pub, err := PublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return signer{pub: pub, sign: func(_ context.Context, in intent.Intent) (intent.Signature, error) { return Sign(rand, key, in) }}, nil
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
	if !pub.Verify(message, sig) { // I1
		return intent.Signature{}, errNotItsOwn
	}
	return intent.Signature{Key: pub.ID(), Sig: sig}, nil
}
