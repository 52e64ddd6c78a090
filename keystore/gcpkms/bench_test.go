package gcpkms_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"hash/crc32"
	"net/http"
	"testing"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/gcpserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

// bearer is a token that stays the same.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}
func (bearer) RequireTransportSecurity() bool { return true }

// bare is Google's client as it is meant to be used, against the same server
// and with the same checks, on plaintext in a slice.
func bare(b *testing.B, s *setup) *kms.KeyManagementClient {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+s.MetadataHost()+"/computeMetadata/v1/instance/service-accounts/default/token", http.NoBody)
	check(b, err)
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	check(b, err)
	defer resp.Body.Close()
	var token struct {
		Value string `json:"access_token"`
	}
	check(b, json.NewDecoder(resp.Body).Decode(&token))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	conn, err := grpc.NewClient(s.Endpoint(),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13})), grpc.WithPerRPCCredentials(bearer(token.Value)))
	check(b, err)
	client, err := kms.NewKeyManagementClient(b.Context(), option.WithGRPCConn(conn))
	check(b, err)
	b.Cleanup(func() {
		_ = client.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return client
}

func crc(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

// benchAAD is as long as the additional data that the provider makes of theAAD.
var benchAAD = make([]byte, 200)

func benchmark(b *testing.B) (*setup, keystore.Provider, keystore.KeyRef) {
	b.Helper()
	s := start(b, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	return s, s.open(b, env, s.settings("endpoint", s.Endpoint())), s.newKey(b)
}

// BenchmarkOverhead is what a wrap and an unwrap cost over Google's own client.
func BenchmarkOverhead(b *testing.B) {
	b.Run("Wrap", benchmarkWrap)
	b.Run("Unwrap", benchmarkUnwrap)
}

func benchmarkWrap(b *testing.B) {
	b.Helper()
	s, p, key := benchmark(b)
	b.Run("Bare", func(b *testing.B) {
		client, plain := bare(b, s), make([]byte, 32)
		for b.Loop() {
			out, err := client.Encrypt(b.Context(), &kmspb.EncryptRequest{
				Name: string(key), Plaintext: plain, PlaintextCrc32C: crc(plain),
				AdditionalAuthenticatedData: benchAAD, AdditionalAuthenticatedDataCrc32C: crc(benchAAD),
			})
			check(b, err)
			if !out.GetVerifiedPlaintextCrc32C() || out.GetCiphertextCrc32C().GetValue() != crc(out.GetCiphertext()).GetValue() {
				b.Fatal("damaged")
			}
		}
	})
	b.Run("Krypton", func(b *testing.B) {
		secret := aSecret(b)
		for b.Loop() {
			_, err := wrap(b.Context(), p, key, secret)
			check(b, err)
		}
	})
}

func benchmarkUnwrap(b *testing.B) {
	b.Helper()
	s, p, key := benchmark(b)
	b.Run("Bare", func(b *testing.B) {
		client, plain := bare(b, s), make([]byte, 32)
		sealed, err := client.Encrypt(b.Context(), &kmspb.EncryptRequest{Name: string(key), Plaintext: plain, AdditionalAuthenticatedData: benchAAD})
		check(b, err)
		wrapped := sealed.GetCiphertext()
		for b.Loop() {
			out, err := client.Decrypt(b.Context(), &kmspb.DecryptRequest{
				Name: string(key), Ciphertext: wrapped, CiphertextCrc32C: crc(wrapped),
				AdditionalAuthenticatedData: benchAAD, AdditionalAuthenticatedDataCrc32C: crc(benchAAD),
			})
			check(b, err)
			if out.GetPlaintextCrc32C().GetValue() != crc(out.GetPlaintext()).GetValue() {
				b.Fatal("damaged")
			}
		}
	})
	b.Run("Krypton", func(b *testing.B) {
		_, blob := mustWrap(b, p, key)
		for b.Loop() {
			out, err := p.Unwrap(b.Context(), keystore.UnwrapRequest{Key: key, Blob: blob, AAD: theAAD, Class: memsec.Hot})
			check(b, err)
			out.Secret.Destroy()
		}
	})
}
