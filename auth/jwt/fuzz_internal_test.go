package jwt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// FuzzVerify: of all texts only those that were signed are accepted. The signature
// is Ed25519, which has one spelling.
func FuzzVerify(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	enc := base64.RawURLEncoding.EncodeToString
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		f.Fatal("no public key")
	}
	const iss = "https://kubernetes.default.svc.cluster.local"
	v := New(Options{Clock: clock.NewFake(now)})
	f.Cleanup(v.Close)
	if err := v.Replace(1, []Issuer{{
		UID: [16]byte{1}, Path: "issuers/p", URL: iss, Audiences: []string{"krypton"},
		StaticJWKS: []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"` + enc(public) + `"}]}`),
	}}); err != nil {
		f.Fatal(err)
	}
	signed := map[string]bool{}
	for _, header := range []string{`{"alg":"EdDSA","kid":"k1"}`, `{"alg":"EdDSA","typ":"JWT"}`, `{"alg":"none"}`, `{"alg":"EdDSA","crit":["b64"],"b64":false}`} {
		for _, claims := range []string{
			`{"iss":"` + iss + `","aud":"krypton","sub":"a","exp":1800000600,"iat":1800000000,"jti":"1"}`,
			`{"iss":"` + iss + `","aud":["x","krypton"],"sub":"a","exp":1800000600.5,"nbf":1799999999,"kubernetes.io":{"pod":{"name":"p"}}}`,
			`{"iss":"` + iss + `","aud":"krypton","sub":"a","sub":"b","exp":1e400}`,
		} {
			input := enc([]byte(header)) + "." + enc([]byte(claims))
			token := input + "." + enc(ed25519.Sign(private, []byte(input)))
			signed[token] = true
			f.Add(token)
		}
	}
	f.Add("")
	f.Add("..")
	f.Add("e30.e30.e30")
	f.Fuzz(func(t *testing.T, token string) {
		got, err := v.Verify(t.Context(), token)
		if err == nil && (!signed[token] || got.Subject != "a") {
			t.Errorf("%q is accepted as %+v", token, got)
		}
		if err != nil && len(token) > 40 && strings.Contains(err.Error(), token) {
			t.Errorf("the error quotes the token: %v", err)
		}
	})
}

// FuzzDocuments: what a provider sends. A key that is taken can be used; an issuer
// and a URL that are taken are what was asked for, and https.
func FuzzDocuments(f *testing.F) {
	const issuer = "https://id.example"
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"` + strings.Repeat("A", 43) + `"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","use":"sig","key_ops":["verify"]}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"` + strings.Repeat("_", 342) + `","e":"AQAB","alg":"RS256"},{"kty":"oct","k":"AAAA"},{"kty":"EC"},null]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA","x5c":["AAAA"],"x5t":"x"}]}`))
	f.Add([]byte(`{"issuer":"` + issuer + `","jwks_uri":"https://id.example/keys"}`))
	f.Add([]byte(`{"issuer":"` + issuer + `","jwks_uri":"http://id.example/keys"}`))
	f.Add([]byte(`{"issuer":{"a":[[[[[[]]]]]]}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		keys, err := parseKeys(document, skipUnusable)
		if err == nil && (len(keys) == 0 || len(keys) > MaxKeys) {
			t.Errorf("%d keys", len(keys))
		}
		for _, k := range keys {
			if _, err := x509.MarshalPKIXPublicKey(k.public); err != nil {
				t.Errorf("a key that is none: %v", err)
			}
		}
		if strictKeys, err := parseKeys(document, refuseUnusable); err == nil && len(strictKeys) != len(keys) {
			t.Errorf("%d keys strictly, %d else", len(strictKeys), len(keys))
		}
		at, err := parseDiscovery(document, issuer)
		if err != nil {
			return
		}
		var d struct{ Issuer string }
		if u, perr := url.Parse(at); perr != nil || u.Scheme != "https" || json.Unmarshal(document, &d) != nil || d.Issuer != issuer {
			t.Errorf("discovery of %q at %q", d.Issuer, at)
		}
	})
}
