package node

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// personKey turns a person's public key into the raw form in which the state
// machine keeps it: it verifies signatures without parsing X.509.
func personKey(p Person) (*fsmpb.PublicKey, error) {
	if !auth.ValidName(p.Name) {
		return nil, errs.Newf(errs.InvalidArgument, "%q is not a name for a person", p.Name).
			With(errs.Hint("lower-case letters, digits, dot, dash and underscore, at most 63"))
	}
	return PublicKey(p.PublicKey)
}

// PublicKey turns a SubjectPublicKeyInfo (DER) into the form in which the registry
// keeps public keys.
func PublicKey(der []byte) (*fsmpb.PublicKey, error) {
	pub, err := pki.ParsePublicKey(der)
	if err != nil {
		return nil, err
	}
	return publicKey(pub)
}

func publicKey(pub crypto.PublicKey) (*fsmpb.PublicKey, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519, Raw: k}, nil
	case *ecdsa.PublicKey:
		raw, err := k.Bytes()
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "the public key is not a point of P-256", errs.Cause(err))
		}
		return &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256, Raw: raw}, nil
	}
	return nil, errs.New(errs.InvalidArgument, "the public key is neither Ed25519 nor ECDSA P-256")
}
