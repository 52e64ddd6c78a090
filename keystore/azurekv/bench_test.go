//go:build !noazurekv

package azurekv_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

// machineToken logs the bare client in, once.
type machineToken struct{ azcore.AccessToken }

func (m machineToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return m.AccessToken, nil
}

// BenchmarkOverhead compares a call with the bare call of Microsoft's client
// that it is made of, against the same server: both send 32 bytes over TLS and
// have them wrapped by a 2048-bit RSA key. The difference is the one-time key,
// the binding and protected memory.
func BenchmarkOverhead(b *testing.B) {
	env := start(b, azureserver.Vault)
	p, key, s := env.open(env.settings), env.newKey(), env.secret()
	blob := env.good(p, key, s)

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(env.CA())
	token, expires, err := env.AccessToken(env.id)
	env.must(err)
	bare, err := azkeys.NewClient(env.VaultURL(), machineToken{azcore.AccessToken{Token: token, ExpiresOn: expires}}, &azkeys.ClientOptions{
		DisableChallengeResourceVerification: true,
		ClientOptions: azcore.ClientOptions{
			Retry:     policy.RetryOptions{MaxRetries: -1},
			Transport: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}},
		},
	})
	env.must(err)
	alg := azkeys.EncryptionAlgorithmRSAOAEP256
	value := make([]byte, 32)
	_, err = rand.Read(value)
	env.must(err)
	wrapped, err := bare.WrapKey(b.Context(), string(key), "", azkeys.KeyOperationParameters{Algorithm: &alg, Value: value}, nil)
	env.must(err)

	b.Run("Wrap/Bare", func(b *testing.B) {
		for b.Loop() {
			if _, err := bare.WrapKey(b.Context(), string(key), "", azkeys.KeyOperationParameters{Algorithm: &alg, Value: value}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Wrap/Krypton", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.Wrap(b.Context(), keystore.WrapRequest{Key: key, Secret: s, AAD: aad}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unwrap/Bare", func(b *testing.B) {
		for b.Loop() {
			if _, err := bare.UnwrapKey(b.Context(), string(key), wrapped.KID.Version(), azkeys.KeyOperationParameters{Algorithm: &alg, Value: wrapped.Result}, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unwrap/Krypton", func(b *testing.B) {
		for b.Loop() {
			res, err := p.Unwrap(b.Context(), keystore.UnwrapRequest{Key: key, Blob: blob, AAD: aad, Class: memsec.Hot})
			if err != nil {
				b.Fatal(err)
			}
			res.Secret.Destroy()
		}
	})
}
