//go:build unix && !nopkcs11

package pkcs11_test

import (
	"crypto/rand"
	"log/slog"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/memsec"
)

// BenchmarkOverhead shows what the provider costs over the calls of the library
// that one secret needs: the way to the helper and back, a search for the key at
// each call (its owner may have changed it), its attributes, the local binding.
// The token is in software; at a hardware one the library's part is larger.
func BenchmarkOverhead(b *testing.B) {
	s := startToken(b, hsm.Options{})
	must(b, s.NewAES(b.Context(), "k", hsm.All))
	for _, m := range []struct {
		setting string
		usage   hsm.Usage
	}{{"aes-kwp", hsm.Wrap}, {"aes-gcm", hsm.Encrypt}} {
		env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
		p := open(b, env, s, map[string]string{"mechanism": m.setting})
		secret, err := memsec.Random(rand.Reader, 32, memsec.Hot)
		must(b, err)
		defer secret.Destroy()
		wrap := keystore.WrapRequest{Key: "k", Secret: secret, AAD: aad}
		res, err := p.Wrap(b.Context(), wrap)
		must(b, err)
		unwrap := keystore.UnwrapRequest{Key: "k", Blob: res.Blob, AAD: aad, Class: memsec.Hot}
		for op, call := range map[string]func() error{
			"wrap": func() error { _, err := p.Wrap(b.Context(), wrap); return err },
			"unwrap": func() error {
				res, err := p.Unwrap(b.Context(), unwrap)
				res.Secret.Destroy()
				return err
			},
		} {
			b.Run(m.setting+"/"+op+"/Bare", func(b *testing.B) {
				took, err := s.Bench(b.Context(), "k", m.usage, op, b.N)
				must(b, err)
				b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "ns/op")
			})
			b.Run(m.setting+"/"+op+"/Krypton", func(b *testing.B) {
				for range b.N {
					must(b, call())
				}
			})
		}
	}
}
