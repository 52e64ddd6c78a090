package seal

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// box is a secret under a key that is used once, and that key as a keystore
// wrapped it (I6). All of it is ciphertext: a keystore's log, or a proxy that
// inspects TLS before it, is worth nothing without the box.
type box struct {
	keyVersion string
	wrappedKey []byte
	nonce      []byte
	sealed     []byte
}

// binding is the associated data of a box: of the key that the keystore wraps,
// and of what that key encrypts.
type binding struct{ outer, inner []byte }

// seal gives the keystore a key that is used once and encrypts the secret with it.
func (b binding) seal(ctx context.Context, rand io.Reader, secret memsec.Secret, k ProviderKey, keystores *keystore.Registry) (box, error) {
	if keystores == nil {
		return box{}, errors.New("no keystores are configured")
	}
	prov, err := keystores.Get(k.Provider)
	if err != nil {
		return box{}, err
	}
	once, err := memsec.Random(rand, memsec.KeySize, memsec.Hot)
	if err != nil {
		return box{}, err
	}
	defer once.Destroy()
	nonce, sealed, err := sealUnder(rand, once, secret, b.inner)
	if err != nil {
		return box{}, err
	}
	res, err := prov.Wrap(ctx, keystore.WrapRequest{Key: k.Key, Secret: once, AAD: b.outer, Correlation: corr.From(ctx)})
	if err != nil {
		return box{}, err
	}
	return box{keyVersion: string(res.KeyVersion), wrappedKey: res.Blob, nonce: nonce, sealed: sealed}, nil
}

// open asks the keystore for the key and opens the secret with it. What does not
// open is a [*keystore.Error] of the class Corrupt.
func (b binding) open(ctx context.Context, x box, k ProviderKey, keystores *keystore.Registry) (memsec.Secret, error) {
	if keystores == nil {
		return memsec.Secret{}, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: k.Provider, Op: keystore.OpUnwrap},
			errors.New("no keystores are configured"))
	}
	prov, err := keystores.Get(k.Provider)
	if err != nil {
		return memsec.Secret{}, err
	}
	res, err := prov.Unwrap(ctx, keystore.UnwrapRequest{
		Key: k.Key, Blob: x.wrappedKey, AAD: b.outer, Class: memsec.Hot, Correlation: corr.From(ctx),
	})
	if err != nil {
		return memsec.Secret{}, err
	}
	defer res.Secret.Destroy()
	corrupt := func(cause error) error {
		return keystore.NewError(keystore.Error{Class: keystore.Corrupt, Provider: k.Provider, Key: k.Key, Op: keystore.OpUnwrap, RequestID: res.RequestID}, cause)
	}
	if res.Secret.Len() != memsec.KeySize {
		return memsec.Secret{}, corrupt(fmt.Errorf("the keystore returned %d bytes, want %d", res.Secret.Len(), memsec.KeySize))
	}
	secret, err := openUnder(res.Secret, x.nonce, x.sealed, b.inner)
	if errs.Is(err, errs.Integrity) {
		return memsec.Secret{}, corrupt(errors.New("what the record has does not open with the key that the keystore returned"))
	}
	return secret, err
}

// sealUnder encrypts a secret under a key with AES-256-GCM and a nonce from rand.
func sealUnder(rand io.Reader, key, secret memsec.Secret, aad []byte) (nonce, sealed []byte, err error) {
	a, err := memsec.NewAEAD(key)
	if err != nil {
		return nil, nil, err
	}
	defer a.Destroy()
	nonce = make([]byte, memsec.NonceSize)
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, nil, fmt.Errorf("draw nonce: %w", err)
	}
	sealed, err = a.SealSecret(nil, nonce, secret, aad)
	return nonce, sealed, err
}

// openUnder is the reverse; what does not open is errs.Integrity.
func openUnder(key memsec.Secret, nonce, sealed, aad []byte) (memsec.Secret, error) {
	a, err := memsec.NewAEAD(key)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer a.Destroy()
	return a.OpenSecret(nonce, sealed, aad, memsec.Cold)
}
