package memsec

import "github.com/openkcm/krypton-cluster/memsec/internal/core"

// Sizes of AES-256-GCM, in bytes.
const (
	NonceSize = core.NonceSize // of the nonce that the caller gives
	Overhead  = core.Overhead  // of the tag: how much longer a ciphertext is
)

// AEAD is AES-256-GCM under a key that it keeps. It is a handle like [Secret]:
// small, comparable, silent, and safe for concurrent use. The zero AEAD is
// unusable.
type AEAD struct{ ref core.Ref }

// NewAEAD makes an AEAD from a secret of [KeySize] bytes. It is independent of
// the secret's later Destroy and has to be destroyed itself.
func NewAEAD(key Secret) (AEAD, error) {
	r, err := core.Process().NewAEAD(key.ref)
	if err != nil {
		return AEAD{}, err
	}
	return AEAD{ref: r}, nil
}

// IsZero reports whether a is the zero AEAD.
func (a AEAD) IsZero() bool { return a.ref == 0 }

// Seal encrypts plaintext, authenticates it with aad, and appends the result
// to dst. The nonce has [NonceSize] bytes and must never be used twice under
// one key. dst may be plaintext[:0]; other overlaps are refused. On error the
// result is nil.
func (a AEAD) Seal(dst, nonce, plaintext, aad []byte) ([]byte, error) {
	return core.Process().Seal(a.ref, dst, nonce, plaintext, aad)
}

// Open is the reverse of Seal. Whatever is wrong with nonce, ciphertext, key
// or aad, the error is the same errs.Integrity. dst may be ciphertext[:0];
// other overlaps are refused. On error the result is nil and the room in dst
// may have been overwritten.
func (a AEAD) Open(dst, nonce, ciphertext, aad []byte) ([]byte, error) {
	return core.Process().Open(a.ref, dst, nonce, ciphertext, aad)
}

// SealSecret is Seal with the bytes of s as plaintext; they go from protected
// memory straight into the cipher.
func (a AEAD) SealSecret(dst, nonce []byte, s Secret, aad []byte) ([]byte, error) {
	return core.Process().SealSecret(a.ref, dst, nonce, s.ref, aad)
}

// OpenSecret is Open into protected memory. A ciphertext of fewer than 1 or
// more than [MaxLen] plaintext bytes does not open.
func (a AEAD) OpenSecret(nonce, ciphertext, aad []byte, c Class) (Secret, error) {
	if err := check(c); err != nil {
		return Secret{}, err
	}
	return wrap(core.Process().OpenSecret(a.ref, nonce, ciphertext, aad, core.Class(c)))
}

// Destroy ends the AEAD, as [Secret.Destroy] does.
func (a AEAD) Destroy() { core.Process().Destroy(a.ref) }
