//go:build unix

package transit_test

import (
	"encoding/base64"
	"testing"

	"github.com/openbao/openbao/api/v2"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// BenchmarkOverhead is what a wrap and an unwrap cost over the client library's
// own call, against the same server, over one connection.
func BenchmarkOverhead(b *testing.B) {
	w := newBench(b)
	key := w.newKey(b)
	tok, err := vault.CreateToken(b.Context(), map[string]any{"policies": []string{w.role}, "no_default_policy": true})
	must(b, err)
	p := open(b, testEnv(), w.as(map[string]string{"auth": "token-file", "token_file": w.write(b, "token", tok.ClientToken)}))

	cfg := api.NewConfig()
	cfg.Address, cfg.MaxRetries = vault.URL, 0
	must(b, cfg.ConfigureTLS(&api.TLSConfig{CACert: vault.CAFile}))
	bare, err := api.NewClient(cfg)
	must(b, err)
	bare.SetToken(tok.ClientToken)
	b.Cleanup(cfg.HttpClient.CloseIdleConnections)

	sec, err := memsec.Random(testEnv().Rand, 32, memsec.Hot)
	must(b, err)
	defer sec.Destroy()
	blob := mustWrap(b, p, key)
	aad := base64.StdEncoding.EncodeToString(theAAD)
	plain := base64.StdEncoding.EncodeToString(make([]byte, 32))
	res, err := bare.Logical().WriteWithContext(b.Context(), w.mount+"/encrypt/"+string(key), map[string]any{"plaintext": plain, "associated_data": aad})
	must(b, err)
	text := res.Data["ciphertext"]

	b.Run("Wrap/Bare", func(b *testing.B) {
		for b.Loop() {
			_, err := bare.Logical().WriteWithContext(b.Context(), w.mount+"/encrypt/"+string(key), map[string]any{"plaintext": plain, "associated_data": aad})
			must(b, err)
		}
	})
	b.Run("Wrap/Krypton", func(b *testing.B) {
		for b.Loop() {
			_, err := p.Wrap(b.Context(), keystore.WrapRequest{Key: key, Secret: sec, AAD: theAAD})
			must(b, err)
		}
	})
	b.Run("Unwrap/Bare", func(b *testing.B) {
		for b.Loop() {
			_, err := bare.Logical().WriteWithContext(b.Context(), w.mount+"/decrypt/"+string(key), map[string]any{"ciphertext": text, "associated_data": aad})
			must(b, err)
		}
	})
	b.Run("Unwrap/Krypton", func(b *testing.B) {
		for b.Loop() {
			must(b, unwrap(b, p, key, blob))
		}
	})
}
