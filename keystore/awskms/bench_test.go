package awskms_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

// trusting makes an HTTP client with the connections that the provider makes.
func trusting(tb testing.TB, ca string) *http.Client {
	tb.Helper()
	text, err := os.ReadFile(ca)
	do(tb, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 16}
	tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// BenchmarkOverhead compares the provider with the SDK's client alone, against
// the same component: Krypton/Bare is what the provider adds.
func BenchmarkOverhead(b *testing.B) {
	w := newWorld(b, awsserver.Options{})
	key := w.key(b)
	arn := string(key)
	keys, err := w.SessionOf(w.role)
	do(b, err)
	client := bare(b, w, aws.Credentials{AccessKeyID: keys[0], SecretAccessKey: keys[1], SessionToken: keys[2]})
	context := map[string]string{"krypton": "0123456789012345678901234567890123456789012"}
	plaintext := make([]byte, 32)
	out, err := client.Encrypt(b.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: plaintext, EncryptionContext: context})
	do(b, err)
	k, sec, id := w.open(b, nil), secret(b), correlation(b)
	blob := mustWrap(b, k, key)

	b.Run("Wrap/Bare", func(b *testing.B) {
		for b.Loop() {
			if _, err := client.Encrypt(b.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: plaintext, EncryptionContext: context}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Wrap/Krypton", func(b *testing.B) {
		for b.Loop() {
			if _, err := k.Wrap(b.Context(), keystore.WrapRequest{Key: key, Secret: sec, AAD: []byte("aad"), Correlation: id}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unwrap/Bare", func(b *testing.B) {
		for b.Loop() {
			if _, err := client.Decrypt(b.Context(), &kms.DecryptInput{KeyId: &arn, CiphertextBlob: out.CiphertextBlob, EncryptionContext: context}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unwrap/Krypton", func(b *testing.B) {
		for b.Loop() {
			res, err := k.Unwrap(b.Context(), keystore.UnwrapRequest{Key: key, Blob: blob, AAD: []byte("aad"), Class: memsec.Hot, Correlation: id})
			if err != nil {
				b.Fatal(err)
			}
			res.Secret.Destroy()
		}
	})
}
