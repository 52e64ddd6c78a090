package intent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
)

// Alg is a signature algorithm. Its numbers are part of key ids and stored, and
// must never change. Zero is invalid.
type Alg uint8

// The algorithms.
const (
	AlgUnspecified     Alg = 0
	AlgEd25519         Alg = 1 // RFC 8032, pure; the key is 32 bytes
	AlgECDSAP256SHA256 Alg = 2 // FIPS 186-5; the key is 65 bytes: 0x04, X, Y. For hardware tokens.
)

// String returns the name of the algorithm as docs and JSON write it.
func (a Alg) String() string {
	switch a {
	case AlgEd25519:
		return "ED25519"
	case AlgECDSAP256SHA256:
		return "ECDSA_P256_SHA256"
	case AlgUnspecified:
	}
	return "unspecified"
}

// keyLabel separates key ids from other digests.
const keyLabel = "krypton/v1/authority-key"

// KeyID names a public key: SHA-256 over the label, the algorithm and the key.
type KeyID [32]byte

// String returns the id in 64 lower-case hex digits.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// PublicKey is a registered personal key. Make one with [NewPublicKey], which
// refuses keys that verify what nobody signed. The zero value verifies nothing.
type PublicKey struct {
	alg Alg
	raw string // immutable, so that a PublicKey is comparable and cannot be changed through an alias
}

// Errors of [NewPublicKey].
var (
	errAlg      = errors.New("signature algorithm is not ED25519 or ECDSA_P256_SHA256")
	errKeySize  = errors.New("public key has the wrong length for its algorithm")
	errKeyPoint = errors.New("public key is not a point of its curve")
	errWeakKey  = errors.New("public key is of small order or not in canonical form; signatures under it prove nothing")
)

// NewPublicKey checks raw and copies it (I6).
func NewPublicKey(alg Alg, raw []byte) (PublicKey, error) {
	switch alg {
	case AlgEd25519:
		if len(raw) != ed25519.PublicKeySize {
			return PublicKey{}, errKeySize
		}
		if weakEd25519(raw) {
			return PublicKey{}, errWeakKey
		}
	case AlgECDSAP256SHA256:
		if len(raw) != 65 {
			return PublicKey{}, errKeySize
		}
		if _, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw); err != nil {
			return PublicKey{}, errKeyPoint
		}
	case AlgUnspecified:
		return PublicKey{}, errAlg
	default:
		return PublicKey{}, errAlg
	}
	return PublicKey{alg: alg, raw: string(raw)}, nil
}

// Alg returns the algorithm of the key.
func (k PublicKey) Alg() Alg { return k.alg }

// Raw returns a copy of the key's bytes.
func (k PublicKey) Raw() []byte { return []byte(k.raw) }

// IsZero reports whether k is the zero value, which verifies nothing.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// ID returns SHA-256 over u32 length and label, u8 algorithm, u32 length and key.
func (k PublicKey) ID() KeyID {
	b := appendBytes(nil, keyLabel)
	b = append(b, byte(k.alg))
	return sha256.Sum256(appendBytes(b, k.raw))
}

// Verify reports whether sig is k's signature over message.
func (k PublicKey) Verify(message, sig []byte) bool {
	switch k.alg {
	case AlgEd25519:
		return len(sig) == ed25519.SignatureSize && ed25519.Verify([]byte(k.raw), message, sig)
	case AlgECDSAP256SHA256:
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), []byte(k.raw))
		if err != nil || len(sig) > MaxSignature {
			return false
		}
		h := sha256.Sum256(message)
		return ecdsa.VerifyASN1(pub, h[:], sig)
	case AlgUnspecified:
	}
	return false
}

// smallOrderY are the y coordinates, little-endian, of the eight points of order
// 1, 2, 4 and 8 of edwards25519 (their x differ only in sign). Under such a key
// a signature made without any private key verifies for one message in at most
// eight, so two people could both claim, or both deny, an approval.
var smallOrderY = [...][32]byte{ //nolint:gochecknoglobals // A constant table; Go has no constant arrays.
	{},  // order 4
	{1}, // order 1
	{ // order 8
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{ // order 8
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
	{ // p-1, order 2
		0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	},
}

// weakEd25519 reports whether raw, 32 bytes, is of small order or spells its y
// coordinate as y + p, which would give one key two ids (I6).
func weakEd25519(raw []byte) bool {
	y := [32]byte(raw)
	y[31] &= 0x7f
	if slices.Contains(smallOrderY[:], y) {
		return true
	}
	// y >= p = 2^255 - 19: every byte at its greatest but for the lowest, which is at least 0xed.
	if y[31] != 0x7f || y[0] < 0xed {
		return false
	}
	for _, c := range y[1:31] {
		if c != 0xff {
			return false
		}
	}
	return true
}
