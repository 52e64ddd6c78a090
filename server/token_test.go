package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// provider makes tokens (ES256) as an OpenID provider does.
type provider struct {
	url string
	key *ecdsa.PrivateKey
}

func newProvider(t testing.TB, url string) provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return provider{url: url, key: key}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwks is the key set that the provider publishes.
func (p provider) jwks(t testing.TB) []byte {
	t.Helper()
	raw, err := p.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "x": b64(raw[1:33]), "y": b64(raw[33:]),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// token says that the caller is subject, for an hour, unless change says otherwise.
func (p provider) token(t testing.TB, subject string, change ...func(map[string]any)) string {
	t.Helper()
	claims := map[string]any{
		"iss": p.url, "sub": subject, "aud": "krypton", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	for _, f := range change {
		f(claims)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := b64([]byte(`{"alg":"ES256","typ":"JWT","kid":"k1"}`)) + "." + b64(body)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64(sig)
}

// tokens is a world with a provider of its own and a workload of acme that shows its
// tokens as "app".
func tokens(t *testing.T) (*world, provider) {
	t.Helper()
	w := served(t)
	p := newProvider(t, "https://idp.example")
	w.must(t, "Access.CreateIssuer", &kryptonv1.CreateIssuerRequest{IssuerId: "idp", Issuer: &kryptonv1.Issuer{
		Kind:  &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{Url: p.url, Audiences: []string{"krypton"}, Keys: p.jwks(t)}},
		Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD, kryptonv1.Role_ROLE_AUDITOR}, AllTenants: true,
	}})
	w.must(t, "Access.CreateRoleBinding", &kryptonv1.CreateRoleBindingRequest{Parent: "tenants/acme", RoleBindingId: "by-token", RoleBinding: &kryptonv1.RoleBinding{
		Issuer: "issuers/idp", Subject: "app", Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "by-token",
	}})
	return w, p
}

// must is a call of the governor that does what it should.
func (w *world) must(t testing.TB, method string, m proto.Message) {
	t.Helper()
	if _, err := w.call(t, 0, "governor", method, m); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
}

// nobody is a connection without a client certificate.
func (w *world) nobody(t testing.TB) *grpc.ClientConn {
	t.Helper()
	cc := w.dial(0, w.tlsConfig())
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func bearer(ctx context.Context, tokens ...string) context.Context {
	var pairs []string
	for _, token := range tokens {
		pairs = append(pairs, "authorization", "Bearer "+token)
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// post is a call over HTTP without a client certificate.
func (w *world) post(t testing.TB, path, body string, tokens ...string) (status int, answer string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: w.tlsConfig(), DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(limited(t), http.MethodPost, "https://"+w.members[0].addrs.REST+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		r.Header.Add("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(out)
}

func TestATokenSaysWhoCallsThroughBothDoors(t *testing.T) {
	t.Parallel()
	w, p := tokens(t)
	who := kryptonv1.NewAccessClient(w.nobody(t))
	me, err := who.WhoAmI(bearer(limited(t), p.token(t, "app")), &kryptonv1.WhoAmIRequest{})
	if err != nil || me.GetName() != "by-token" || me.GetTenant() != "tenants/acme" || me.GetIssuerName() != "issuers/idp" || me.GetRoleBinding() != "tenants/acme/roleBindings/by-token" {
		t.Fatalf("whoami by token: %v, %v", me, err)
	}
	// The first message on a connection may be as long as any: the headers came first.
	c := kryptonv1.NewCryptoClient(w.nobody(t))
	large := &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: bytes.Repeat([]byte{7}, 1<<20)}
	out, err := c.Encrypt(bearer(limited(t), p.token(t, "app")), large)
	if err != nil {
		t.Fatalf("a long first message: %v", err)
	}
	back, err := c.Decrypt(bearer(limited(t), p.token(t, "app")), &kryptonv1.DecryptRequest{Service: large.GetService(), Ciphertext: out.GetCiphertext()})
	if err != nil || !bytes.Equal(back.GetPlaintext(), large.GetPlaintext()) {
		t.Fatalf("decrypt by token: %v", err)
	}
	status, answer := w.post(t, "/v1/tenants/acme/services/pay:encrypt", `{"plaintext":"`+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 256<<10))+`"}`, p.token(t, "app"))
	if status != http.StatusOK || !strings.Contains(answer, "ciphertext") {
		t.Fatalf("over HTTP: %d %.200s", status, answer)
	}
	// The token says it alone, whatever certificate the connection has.
	both := kryptonv1.NewAccessClient(w.grpc(0, "governor"))
	if me, err := both.WhoAmI(bearer(limited(t), p.token(t, "app")), &kryptonv1.WhoAmIRequest{}); err != nil || me.GetRole() != kryptonv1.Role_ROLE_WORKLOAD {
		t.Errorf("a token beside a governor's certificate: %v, %v", me, err)
	}
	if _, err := kryptonv1.NewTenantsClient(w.grpc(0, "governor")).SuspendTenant(bearer(limited(t), p.token(t, "app")), &kryptonv1.SuspendTenantRequest{Name: "tenants/acme"}); codeOf(err) != errs.Denied {
		t.Errorf("a workload's token governs with a governor's certificate: %v", err)
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	w, p := tokens(t)
	stranger := newProvider(t, p.url)
	set := func(name string, v any) func(map[string]any) {
		return func(c map[string]any) { c[name] = v }
	}
	good := p.token(t, "app")
	for name, tc := range map[string]struct {
		tokens []string
		says   string
	}{
		"expired":             {[]string{p.token(t, "app", set("exp", time.Now().Add(-time.Hour).Unix()), set("iat", time.Now().Add(-2*time.Hour).Unix()))}, "expired"},
		"for somebody else":   {[]string{p.token(t, "app", set("aud", "vault"))}, ""},
		"of another issuer":   {[]string{p.token(t, "app", set("iss", "https://evil.example"))}, ""},
		"of another key":      {[]string{stranger.token(t, "app")}, ""},
		"of nobody's binding": {[]string{p.token(t, "mallory")}, "has no role in this cluster"},
		"two":                 {[]string{good, good}, "more than one"},
		"garbage":             {[]string{"x.y.z"}, ""},
		"empty":               {[]string{""}, ""},
		"with a role claim":   {[]string{p.token(t, "mallory", set("role", "governor"), set("roles", []string{"governor"}), set("groups", []string{"governor"}))}, "has no role in this cluster"},
	} {
		_, err := kryptonv1.NewAccessClient(w.nobody(t)).WhoAmI(bearer(limited(t), tc.tokens...), &kryptonv1.WhoAmIRequest{})
		if codeOf(err) != errs.Unauthenticated || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s over gRPC: %v", name, err)
		}
		for _, token := range tc.tokens {
			if token != "" && strings.Contains(fmt.Sprint(wire.FromStatus(err)), token) {
				t.Errorf("%s: the error quotes the token", name)
			}
		}
		status, answer := w.post(t, "/v1/tenants/acme/services/pay:encrypt", `{"plaintext":"AA=="}`, tc.tokens...)
		if status != http.StatusUnauthorized || !strings.Contains(answer, "UNAUTHENTICATED") {
			t.Errorf("%s over HTTP: %d %s", name, status, answer)
		}
	}
	// Nor does a governor's certificate stand in for a token that is refused.
	if _, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).WhoAmI(bearer(limited(t), stranger.token(t, "app")), &kryptonv1.WhoAmIRequest{}); codeOf(err) != errs.Unauthenticated {
		t.Errorf("a refused token beside a certificate: %v", err)
	}
	basic := metadata.AppendToOutgoingContext(limited(t), "authorization", "Basic YTpi")
	if _, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).WhoAmI(basic, &kryptonv1.WhoAmIRequest{}); codeOf(err) != errs.Unauthenticated {
		t.Errorf("a password beside a certificate: %v", err)
	}
	for _, m := range w.members {
		for _, secret := range []string{good, "YTpi"} {
			if bytes.Contains(m.records(), []byte(secret)) {
				t.Error("a token is in the audit trail")
			}
		}
	}
}

// TestATokenEndsWithItsBindingAndItsIssuer at the next call after the
// acknowledgement, on a connection that is open.
func TestATokenEndsWithItsBindingAndItsIssuer(t *testing.T) {
	t.Parallel()
	w, p := tokens(t)
	c, token := kryptonv1.NewAccessClient(w.nobody(t)), p.token(t, "app")
	ask := func() error {
		_, err := c.WhoAmI(bearer(limited(t), token), &kryptonv1.WhoAmIRequest{}, grpc.WaitForReady(true))
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.call(t, 0, "governor", "Access.DeleteIssuer", &kryptonv1.DeleteIssuerRequest{Name: "issuers/idp"}); codeOf(err) != errs.FailedState {
		t.Errorf("an issuer with a binding is deleted: %v", err)
	}
	w.must(t, "Access.DeleteRoleBinding", &kryptonv1.DeleteRoleBindingRequest{Name: "tenants/acme/roleBindings/by-token"})
	if err := ask(); codeOf(err) != errs.Unauthenticated {
		t.Fatalf("without its binding: %v", err)
	}
	w.must(t, "Access.DeleteIssuer", &kryptonv1.DeleteIssuerRequest{Name: "issuers/idp"})
	if err := ask(); codeOf(err) != errs.Unauthenticated || strings.Contains(err.Error(), "issuers/idp") {
		t.Fatalf("without its issuer: %v", err)
	}
}
