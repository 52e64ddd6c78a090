package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is what the clocks of the tests show first.
var start = time.Unix(1_800_000_000, 0)

// steered is a clock that moves only when told, and that knows who sleeps, so that
// a test moves it when what it waits for has gone to sleep, and not before.
type steered struct {
	mu      sync.Mutex
	now     time.Time
	sleeps  []*sleep
	changed chan struct{} // closed, and replaced, when somebody goes to sleep or wakes
}

type sleep struct {
	at    time.Time
	d     time.Duration
	woken chan struct{}
}

var _ clock.Clock = (*steered)(nil)

func newClock() *steered { return &steered{now: start, changed: make(chan struct{})} }

func (c *steered) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *steered) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c *steered) Read() clock.Reading {
	since := time.Duration(c.Now().UnixNano())
	return clock.Reading{Raw: since, Boot: since, Wall: since}
}

func (c *steered) note() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *steered) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	c.mu.Lock()
	s := &sleep{c.now.Add(d), d, make(chan struct{})}
	c.sleeps = append(c.sleeps, s)
	c.note()
	c.mu.Unlock()
	select {
	case <-s.woken:
		return nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sleeps = slices.DeleteFunc(c.sleeps, func(o *sleep) bool { return o == s })
		c.note()
		return ctx.Err()
	}
}

// advance moves the clock and wakes whose time has come.
func (c *steered) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.sleeps = slices.DeleteFunc(c.sleeps, func(s *sleep) bool {
		due := !s.at.After(c.now)
		if due {
			close(s.woken)
		}
		return due
	})
	c.note()
}

// asleep returns how many sleep.
func (c *steered) asleep() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sleeps)
}

// idle waits until nobody sleeps.
func (c *steered) idle(t *testing.T) {
	t.Helper()
	for {
		c.mu.Lock()
		n, changed := len(c.sleeps), c.changed
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatalf("%d still sleep", n)
		}
	}
}

// sleeper waits until somebody sleeps for d.
func (c *steered) sleeper(t *testing.T, d time.Duration) {
	t.Helper()
	for {
		c.mu.Lock()
		found := slices.ContainsFunc(c.sleeps, func(s *sleep) bool { return s.d == d })
		changed := c.changed
		c.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatalf("nobody sleeps for %v", d)
		}
	}
}

// authority is a CA that TLS servers of the tests have certificates of.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "providers"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, k}
}

func (a *authority) leaf(t testing.TB) tls.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

// provider is an OpenID Connect provider: a TLS server with a discovery document
// and a key set, which a test can make lie, hang or fail.
type provider struct {
	ca  *authority
	url string
	srv *httptest.Server

	mu        sync.Mutex
	keys      []*signer
	discovery http.HandlerFunc // instead of the honest one
	jwks      http.HandlerFunc
	fetches   int // requests for the discovery document
}

const jwksPath = "/openid/v1/jwks"

func newProvider(t testing.TB, keys ...*signer) *provider {
	t.Helper()
	p := &provider{ca: newAuthority(t), keys: keys}
	p.srv = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.srv.TLS = &tls.Config{Certificates: []tls.Certificate{p.ca.leaf(t)}, MinVersion: tls.VersionTLS12}
	p.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	p.srv.StartTLS()
	t.Cleanup(p.srv.Close)
	p.url = p.srv.URL
	return p
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	discovery, jwks, keys := p.discovery, p.jwks, p.keys
	if r.URL.Path == "/.well-known/openid-configuration" {
		p.fetches++
	}
	p.mu.Unlock()
	switch {
	case r.URL.Path == "/.well-known/openid-configuration" && discovery != nil:
		discovery(w, r)
	case r.URL.Path == "/.well-known/openid-configuration":
		answer(w, map[string]any{"issuer": p.url, "jwks_uri": p.url + jwksPath, "id_token_signing_alg_values_supported": []string{"RS256"}})
	case r.URL.Path == jwksPath && jwks != nil:
		jwks(w, r)
	case r.URL.Path == jwksPath:
		_, _ = w.Write(jwks_(keys...))
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, document any) {
	b, err := json.Marshal(document)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// rotate makes keys the published ones.
func (p *provider) rotate(keys ...*signer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

// lie makes the provider answer with these handlers; nil is the honest one.
func (p *provider) lie(discovery, jwks http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.discovery, p.jwks = discovery, jwks
}

func (p *provider) fetched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetches
}

func unavailable(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

// issuer is what the registry says about p.
func (p *provider) issuer(n byte) jwt.Issuer {
	return jwt.Issuer{UID: uid(n), Path: "issuers/p", URL: p.url, Audiences: []string{"krypton"}, CAs: [][]byte{p.ca.cert.Raw}}
}

func uid(n byte) auth.Issuer { return auth.Issuer{0: n} }

// signer is a key of an issuer.
type signer struct {
	kid  string
	alg  string
	key  crypto.Signer
	open bool // published without saying for which algorithm
}

func newSigner(t testing.TB, kid, alg string) *signer {
	t.Helper()
	s := &signer{kid: kid, alg: alg}
	var err error
	switch alg {
	case "RS256", "PS256":
		s.key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		s.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "EdDSA":
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	default:
		t.Fatalf("no keys for %q", alg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *signer) jwk() jose.JSONWebKey {
	if s.open {
		return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid}
	}
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Algorithm: s.alg, Use: "sig"}
}

func jwks_(keys ...*signer) []byte {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.jwk())
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return b
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// text returns the token with exactly that header and those claims, which need not
// be JSON, signed as the signer's algorithm says.
func (s *signer) text(header, claims string) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	return input + "." + b64(s.sign([]byte(input)))
}

func (s *signer) sign(input []byte) []byte {
	var sig []byte
	var err error
	switch s.alg {
	case "RS256":
		h := sha256.Sum256(input)
		sig, err = s.key.Sign(rand.Reader, h[:], crypto.SHA256)
	case "PS256":
		h := sha256.Sum256(input)
		sig, err = s.key.Sign(rand.Reader, h[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	case "ES256", "ES384":
		hash, size := crypto.SHA256, 32
		if s.alg == "ES384" {
			hash, size = crypto.SHA384, 48
		}
		h := hash.New()
		h.Write(input)
		var r, v *big.Int
		if r, v, err = ecdsa.Sign(rand.Reader, s.key.(*ecdsa.PrivateKey), h.Sum(nil)); err == nil {
			sig = append(r.FillBytes(make([]byte, size)), v.FillBytes(make([]byte, size))...)
		}
	case "EdDSA":
		sig, err = s.key.Sign(nil, input, crypto.Hash(0))
	}
	if err != nil {
		panic(err)
	}
	return sig
}

// claims are the members of an object, in the order of their names.
type claims map[string]any

func (c claims) json() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// good returns the claims of a token of p that is accepted at now.
func good(url string, now time.Time) claims {
	return claims{
		"iss": url, "aud": "krypton", "sub": "alice", "jti": "t1",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
}

func (c claims) with(name string, value any) claims {
	o := maps.Clone(c)
	if value == nil {
		delete(o, name)
	} else {
		o[name] = value
	}
	return o
}

func (s *signer) header() string {
	h := claims{"alg": s.alg, "typ": "JWT", "kid": s.kid}
	if s.kid == "" {
		delete(h, "kid")
	}
	return h.json()
}

// token returns a token with those claims.
func (s *signer) token(c claims) string { return s.text(s.header(), c.json()) }

// hs256 signs with a secret, as an attacker does who takes a public key for one.
func hs256(secret []byte, header, claims string) string {
	input := b64([]byte(header)) + "." + b64([]byte(claims))
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(input))
	return input + "." + b64(m.Sum(nil))
}

// newVerifier returns a verifier of those issuers, closed when the test ends.
func newVerifier(t testing.TB, c clock.Clock, issuers ...jwt.Issuer) *jwt.Verifier {
	t.Helper()
	v := jwt.New(jwt.Options{Clock: c})
	t.Cleanup(v.Close)
	if err := v.Replace(1, issuers); err != nil {
		t.Fatal(err)
	}
	return v
}

// accepted fails the test unless v accepts the token, and returns what it proves.
func accepted(t testing.TB, v *jwt.Verifier, token string) jwt.Token {
	t.Helper()
	got, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return got
}

// refused fails the test unless v refuses the token with that code and a message
// that has said in it, and quotes nothing of the token.
func refused(t testing.TB, v *jwt.Verifier, token string, code errs.Code, said string) {
	t.Helper()
	got, err := v.Verify(t.Context(), token)
	if err == nil {
		t.Fatalf("accepted as %+v", got)
	}
	if errs.Of(err) != code || !strings.Contains(err.Error(), said) {
		t.Errorf("refused with %v: %v; want %v and %q", errs.Of(err), err, code, said)
	}
	if got != (jwt.Token{}) {
		t.Errorf("refused, and yet %+v", got)
	}
	e := errs.From(err)
	if e.Hint == "" {
		t.Error("the error does not say what to do")
	}
	for _, part := range quotable(token) {
		if strings.Contains(e.Error(), part) {
			t.Errorf("the error quotes the token: %v", e)
		}
	}
}

// quotable returns what of a token an error could quote.
func quotable(token string) []string {
	var all []string
	for part := range strings.SplitSeq(token, ".") {
		if len(part) < 8 {
			continue
		}
		all = append(all, part)
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			continue
		}
		var m map[string]any
		if json.Unmarshal(b, &m) == nil {
			for _, v := range m {
				if s, ok := v.(string); ok && len(s) > 8 {
					all = append(all, s)
				}
			}
		}
	}
	return all
}

// many returns a key set with n keys of different ids.
func many(t testing.TB, s *signer, n int) string {
	t.Helper()
	keys := make([]*signer, 0, n)
	for i := range n {
		keys = append(keys, &signer{kid: s.kid + strconv.Itoa(i), alg: s.alg, key: s.key})
	}
	return string(jwks_(keys...))
}

// shorter returns a key set with an RSA key of 2040 bits.
func shorter(t testing.TB, s *signer) string {
	t.Helper()
	pub := *s.key.(*rsa.PrivateKey)
	n := new(big.Int).Rsh(pub.N, 8)
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &rsa.PublicKey{N: n, E: pub.E}, KeyID: s.kid, Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
