package blob

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Binding is the context that a secret is bound to.
type Binding struct {
	Domain string          // a label of the provider type's own: "krypton/v1/pkcs11"
	Key    keystore.KeyRef // as the request names it
	AAD    []byte          // the caller's
}

// Full returns the additional data for a mechanism of its own, see the package
// comment. version is empty where it is not known before the keystore answers.
func (to Binding) Full(m Mechanism, version keystore.KeyVersion) []byte {
	b := make([]byte, 0, 4*4+1+len(to.Domain)+len(to.Key)+len(version)+len(to.AAD))
	b = appendPart(b, to.Domain)
	b = appendPart(b, to.Key)
	b = append(b, byte(m))
	b = appendPart(b, version)
	return appendPart(b, to.AAD)
}

func appendPart[T ~string | ~[]byte](b []byte, part T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // Limits of package keystore.
	return append(b, part...)
}

// Wrapped is what a keystore made of a one-time key.
type Wrapped struct {
	KeyVersion keystore.KeyVersion // that wrapped it
	Bytes      []byte              // its ciphertext
}

// Bind seals secret for a mechanism without additional data: it makes a
// one-time key of [memsec.KeySize] bytes, has it wrapped by wrap, and seals
// secret under it with the context as additional data. wrap must not keep the
// key, which ends with the call (I3). Errors of wrap are returned as they are.
func Bind(rand io.Reader, m Mechanism, to Binding, secret memsec.Secret, wrap func(oneTime memsec.Secret) (Wrapped, error)) (Blob, error) {
	if !m.Bound() {
		return Blob{}, fmt.Errorf("mechanism %s has additional data of its own", m)
	}
	oneTime, err := memsec.Random(rand, memsec.KeySize, memsec.Hot)
	if err != nil {
		return Blob{}, err
	}
	defer oneTime.Destroy()
	w, err := wrap(oneTime)
	if err != nil {
		return Blob{}, err
	}
	aead, err := memsec.NewAEAD(oneTime)
	if err != nil {
		return Blob{}, err
	}
	defer aead.Destroy()
	// The key seals once, so that any nonce is unique; a random one makes that
	// no condition of safety.
	sealed := make([]byte, memsec.NonceSize, maxSealed)
	if _, err := io.ReadFull(rand, sealed); err != nil {
		return Blob{}, fmt.Errorf("read randomness: %w", err)
	}
	sealed, err = aead.SealSecret(sealed, sealed[:memsec.NonceSize], secret, to.Full(m, w.KeyVersion))
	if err != nil {
		return Blob{}, err
	}
	return Blob{Mechanism: m, KeyVersion: w.KeyVersion, Wrapped: w.Bytes, Sealed: sealed}, nil
}

// Unbind opens what [Bind] made: it has the one-time key unwrapped by unwrap,
// destroys it afterwards, and opens the secret under it. A secret that does not
// open in this context is [ErrDoesNotOpen], and so is a one-time key of another
// length: who knows the public key of an RSA mechanism can wrap anything.
// Errors of unwrap are returned as they are.
func (b Blob) Unbind(to Binding, class memsec.Class, unwrap func(wrapped []byte) (memsec.Secret, error)) (memsec.Secret, error) {
	if !b.check() || !b.Mechanism.Bound() {
		return memsec.Secret{}, ErrDoesNotOpen
	}
	oneTime, err := unwrap(b.Wrapped)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer oneTime.Destroy()
	if oneTime.Len() != memsec.KeySize {
		return memsec.Secret{}, ErrDoesNotOpen
	}
	aead, err := memsec.NewAEAD(oneTime)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer aead.Destroy()
	secret, err := aead.OpenSecret(b.Sealed[:memsec.NonceSize], b.Sealed[memsec.NonceSize:], to.Full(b.Mechanism, b.KeyVersion), class)
	if errs.Is(err, errs.Integrity) {
		return memsec.Secret{}, ErrDoesNotOpen
	}
	return secret, err
}
