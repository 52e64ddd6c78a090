package jwt

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// key is a public key of an issuer.
type key struct {
	id     string
	alg    jose.SignatureAlgorithm // the only algorithm that the issuer uses it for; empty: any that fits
	public crypto.PublicKey

	withdrawn atomic.Bool // the issuer publishes it no longer (I5)
}

// fits reports whether a signature of algorithm alg can be one of k (I2).
func (k *key) fits(alg jose.SignatureAlgorithm) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch pub := k.public.(type) {
	case *rsa.PublicKey:
		return alg == jose.RS256 || alg == jose.PS256
	case *ecdsa.PublicKey:
		return alg == jose.ES256 && pub.Curve == elliptic.P256() || alg == jose.ES384 && pub.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}

func (k *key) same(o *key) bool {
	pub, ok := k.public.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && k.id == o.id && k.alg == o.alg && pub.Equal(o.public)
}

// keySet is what an issuer publishes, and when it was fetched. It is immutable.
type keySet struct {
	keys    []*key
	fetched time.Time
	static  bool // registered with the issuer: counts for ever
}

// usable reports whether s still counts. Both clocks must agree that KeepKeys
// have not passed: the monotonic one stands still while a machine is suspended,
// and the wall clock can be set back.
func (s *keySet) usable(now time.Time) bool {
	return s != nil && (s.static || now.Sub(s.fetched) < KeepKeys && now.Round(0).Sub(s.fetched.Round(0)) < KeepKeys)
}

// found says what find found.
type found int

const (
	foundNone found = iota
	foundOne
	foundSeveral
)

// find returns the one key that a token with that key id and algorithm can be
// signed with. Two that fit are no answer (OpenID Connect Core, 10.1: a key id is
// required if there are several): to try them in turn is work that a stranger orders.
func (s *keySet) find(id string, alg jose.SignatureAlgorithm) (*key, found) {
	var one *key
	for _, k := range s.keys {
		if !k.fits(alg) || id != "" && id != k.id {
			continue
		}
		if one != nil {
			return nil, foundSeveral
		}
		one = k
	}
	if one == nil {
		return nil, foundNone
	}
	return one, foundOne
}

// succeed returns s with those keys of old that it still has, and marks the others
// of old as withdrawn. A token that was verified with a key that stays remains
// remembered.
func (s *keySet) succeed(old *keySet) *keySet {
	if old == nil {
		return s
	}
	for _, k := range old.keys {
		i := slices.IndexFunc(s.keys, k.same)
		if i < 0 {
			k.withdrawn.Store(true)
			continue
		}
		s.keys[i] = k
	}
	return s
}

// Errors of key sets. What an issuer publishes is never quoted.
var (
	errKeysForm    = errors.New("not a JSON Web Key Set")
	errKeysNone    = errors.New("no key in it that can verify RS256, PS256, ES256, ES384 or EdDSA")
	errKeysMany    = fmt.Errorf("more than %d keys", MaxKeys)
	errKeysPrivate = errors.New("private or symmetric key")
	errKeysUse     = errors.New("key not for signatures")
	errKeysKind    = errors.New("kind of key that is not used: RSA of 2048 to 8192 bits, P-256, P-384 and Ed25519 are")
	errKeysID      = fmt.Errorf("key id that is longer than %d bytes or not printable", MaxKeyID)
)

// strictness says what becomes of a key set with a key that cannot be used.
type strictness int

const (
	// skipUnusable is for what a provider publishes: it also has keys for other
	// purposes, and of kinds to come (RFC 7517, 5).
	skipUnusable strictness = iota
	// refuseUnusable is for what a person registered, who wants to know.
	refuseUnusable
)

// parseKeys reads a JSON Web Key Set.
func parseKeys(document []byte, s strictness) ([]*key, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("larger than %d bytes", MaxDocument)
	}
	if _, ok := members(document); !ok {
		return nil, errKeysForm
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &set); err != nil || set.Keys == nil {
		return nil, errKeysForm
	}
	var keys []*key
	for i, raw := range set.Keys {
		k, err := parseKey(raw)
		switch {
		case err != nil && s == refuseUnusable:
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		case err != nil:
			continue
		}
		if slices.ContainsFunc(keys, k.same) {
			continue
		}
		if keys = append(keys, k); len(keys) > MaxKeys {
			return nil, errKeysMany
		}
	}
	if len(keys) == 0 {
		return nil, errKeysNone
	}
	return keys, nil
}

// parseKey reads one key of a set.
func parseKey(raw []byte) (*key, error) {
	var jwk jose.JSONWebKey
	if err := json.Unmarshal(raw, &jwk); err != nil {
		return nil, errKeysKind // err may quote the document
	}
	var more struct {
		Operations []string `json:"key_ops"`
	}
	if err := json.Unmarshal(raw, &more); err != nil {
		return nil, errKeysForm
	}
	switch {
	case !jwk.IsPublic():
		return nil, errKeysPrivate // who publishes it has lost it
	case jwk.Use != "" && jwk.Use != "sig", more.Operations != nil && !slices.Contains(more.Operations, "verify"):
		return nil, errKeysUse
	case jwk.KeyID != "" && !printable(jwk.KeyID, MaxKeyID):
		return nil, errKeysID
	}
	if rsaKey, ok := jwk.Key.(*rsa.PublicKey); ok && (rsaKey.N.BitLen() < minRSABits || rsaKey.N.BitLen() > maxRSABits) {
		return nil, errKeysKind
	}
	k := &key{id: jwk.KeyID, alg: jose.SignatureAlgorithm(jwk.Algorithm), public: jwk.Key}
	if !slices.ContainsFunc(algorithms, k.fits) {
		return nil, errKeysKind
	}
	return k, nil
}

var errSignature = errors.New("signature")

// oneKey is the key set that the library verifies one token with: the one key
// that was chosen, of the one algorithm that the token's header names.
type oneKey struct {
	key   *key
	token *unverified

	refused bool // the signature is not one of the key
}

// VerifySignature implements oidc.KeySet. The claims that were judged are the ones
// that were signed: the library has the payload from its own parser, and it must
// be the same.
func (o *oneKey) VerifySignature(_ context.Context, token string) ([]byte, error) {
	o.refused = true
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{o.token.alg})
	if err != nil {
		return nil, errSignature
	}
	payload, err := jws.Verify(o.key.public)
	if err != nil || !bytes.Equal(payload, o.token.payload) {
		return nil, errSignature
	}
	o.refused = false
	return payload, nil
}
