//go:build !noazurekv

package azurekv

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

var theVault = &url.URL{Scheme: "https", Host: "eu.vault.azure.net"}

func FuzzReference(f *testing.F) {
	for _, s := range []string{
		"tenant-7", "https://eu.vault.azure.net/keys/tenant-7", "https://EU.vault.azure.net:443/keys/Tenant-7/0123456789ABCDEF0123456789abcdef",
		"https://eu.vault.azure.net/keys/a/b", "https://eu.vault.azure.net.evil.net/keys/a", "//eu.vault.azure.net/keys/a", "https://eu.vault.azure.net/keys/a%2fb", "",
	} {
		f.Add(s)
	}
	s := settings{vault: theVault}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := s.reference(keystore.KeyRef(text))
		if err != nil {
			if r != (reference{}) {
				t.Errorf("%q: %v and %+v", text, err, r)
			}
			return
		}
		if !validName(r.name) || (r.version != "" && !validVersion(r.version)) {
			t.Errorf("%q became %+v", text, r)
		}
		if strings.Contains(text, "/") && !strings.HasPrefix(strings.ToLower(text), "https://eu.vault.azure.net") {
			t.Errorf("%q was accepted for %s", text, theVault.Host)
		}
		full := theVault.String() + "/keys/" + r.name
		if r.version != "" {
			full += "/" + r.version
		}
		again, err := s.reference(keystore.KeyRef(full))
		if err != nil || again != r {
			t.Errorf("%q became %+v and again %+v: %v", text, r, again, err)
		}
	})
}

func FuzzTargetType(f *testing.F) {
	f.Add([]byte(`{"schema_version":"1.0.0","header":{"kid":"https://v/keys/kek/1","alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},"ciphertext":"AAAA","generator":"x"}`))
	f.Add([]byte(`{"ciphertext":"%"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		kind, err := targetType(doc, "kek")
		if (err == nil) != (kind == azkeys.KeyTypeRSAHSM || kind == azkeys.KeyTypeOctHSM) {
			t.Errorf("%q, %v", kind, err)
		}
	})
}

// Whatever a 403 has for a body, only the listed reasons are a withdrawal.
func FuzzAnswer(f *testing.F) {
	f.Add(403, []byte(`{"error":{"code":"Forbidden","message":"m","innererror":{"code":"KeyDisabled"}}}`))
	f.Add(403, []byte(`{"error":{"code":"Forbidden","innererror":{"code":"ForbiddenByFirewall"}}}`))
	f.Add(404, []byte(`<html>`))
	f.Add(200, []byte(`{"error":[]}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		resp := &http.Response{StatusCode: status, Body: http.NoBody, Header: http.Header{}, Request: &http.Request{Method: http.MethodGet, URL: theVault}}
		if len(body) > 0 {
			resp.Body = readCloser{strings.NewReader(string(body))}
		}
		err := runtime.NewResponseError(resp)
		e, ok := errors.AsType[*azcore.ResponseError](err)
		if !ok {
			return // azcore makes another error of it
		}
		a := parseAnswer(e)
		withdrawal := a.inner == "KeyDisabled" || a.inner == "KeyOperationForbidden" || a.inner == "ForbiddenByRbac" || a.inner == "AccessDenied"
		if v := a.judge(); v == withdrawn && (status != http.StatusForbidden || !withdrawal) {
			t.Errorf("status %d and %q are a withdrawal", status, a.inner)
		}
		if len(a.String()) > 2048 || strings.ContainsAny(a.String(), "\r\n") {
			t.Errorf("text of %d bytes: %q", len(a.String()), a)
		}
	})
}

func expired(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	t.Cleanup(cancel)
	return ctx
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// The body that brought the one-time key is wiped as far as Microsoft's client
// hands it out, and so is the slice that it made of it.
func TestTheAnswerOfAnUnwrapIsWiped(t *testing.T) {
	srv, err := azureserver.Start(t.Context(), azureserver.Options{Flavour: azureserver.ManagedHSM})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	}()
	id := srv.AddManaged()
	if err := srv.CreateAES("key"); err != nil {
		t.Fatal(err)
	}
	srv.Assign(id, srv.EncryptionUser(), "key")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, srv.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	k, err := open(t.Context(), env, keystore.Config{Name: "hsm", Type: Type, Settings: map[string]string{
		"vault": srv.VaultURL(), "auth": "managed", "imds_endpoint": srv.MetadataURL(), "ca_file": ca, "challenge_resource": "unverified",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = k.Close() }()
	secret, err := memsec.Random(rand.Reader, 32, memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Destroy()
	wrapped, err := k.Wrap(t.Context(), keystore.WrapRequest{Key: "key", Secret: secret, AAD: []byte("aad")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, c, err := k.begin(t.Context(), keystore.OpUnwrap, "key", "", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer c.end()
	b, err := blob.Parse(wrapped.Blob)
	if err != nil {
		t.Fatal(err)
	}
	oneTime, err := c.unwrap(ctx, string(b.KeyVersion), azkeys.EncryptionAlgorithmA256KW, b.Wrapped)
	if err != nil {
		t.Fatal(err)
	}
	oneTime.Destroy()
	body, err := runtime.Payload(c.last.resp)
	if err != nil || len(body) < 100 {
		t.Fatalf("%d bytes, %v", len(body), err)
	}
	for i, x := range body {
		if x != 0 {
			t.Fatalf("byte %d of the answer is %q", i, x)
		}
	}
}

// The standard library never takes a proxy for the loopback, so that no test
// with a server shows what it would do elsewhere.
func TestI1_ProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	p, ok := newHTTP(theVault, nil).Transport.(*pinned)
	if !ok || p.Proxy != nil {
		t.Error("a proxy may be asked")
	}
}

// What Wrap remembers of keys is bounded, whoever names keys.
func TestRememberedKindsAreBounded(t *testing.T) {
	k := &Keystore{kinds: make(map[reference]azkeys.KeyType)}
	for i := range 3*maxKinds + 7 {
		r := reference{name: strings.Repeat("k", 1+i%100) + string(rune('a'+i/100))}
		k.remember(r, azkeys.KeyTypeRSA)
		if _, ok := k.kind(r); !ok || len(k.kinds) > maxKinds {
			t.Fatalf("%d remembered, the last one %v", len(k.kinds), ok)
		}
	}
}

// Our own deadline is no end of the caller's context: the error says that
// nothing came and does not claim that the caller's time is over.
func TestOurOwnDeadlineIsNotTheCallers(t *testing.T) {
	c := &call{k: &Keystore{}, caller: t.Context()}
	v, cause := c.failed(expired(t), expired(t).Err())
	if v != passing || errors.Is(cause, expired(t).Err()) || !strings.Contains(cause.Error(), "did not answer") {
		t.Errorf("%v: %v", v, cause)
	}
	c.caller = expired(t)
	if v, cause = c.failed(c.caller, errors.New("x")); v != passing || !errors.Is(cause, c.caller.Err()) {
		t.Errorf("%v: %v", v, cause)
	}
}

func TestALoginThatHangsIsUnavailable(t *testing.T) {
	cred := &credential{settings: settings{auth: authManaged}}
	err := cred.classify(expired(t), expired(t).Err())
	e, ok := errors.AsType[*identityError](err)
	if !ok || e.class != keystore.Unavailable || errors.Is(err, expired(t).Err()) {
		t.Errorf("%v", err)
	}
}

func TestTheTokenOfAMachineExpiresWhenItSays(t *testing.T) {
	srv, err := azureserver.Start(t.Context(), azureserver.Options{TokenLifetime: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	}()
	srv.AddManaged()
	imds, err := url.Parse(srv.MetadataURL())
	if err != nil {
		t.Fatal(err)
	}
	clk := clock.NewFake(time.Unix(1_000_000, 0))
	cred := newCredential(settings{auth: authManaged, imds: imds}, clk)
	defer cred.http.CloseIdleConnections()
	tok, err := cred.fromMachine(t.Context(), "https://vault.azure.net/.default")
	if err != nil || !tok.ExpiresOn.Equal(clk.Now().Add(10*time.Minute)) {
		t.Errorf("expires %s, %v", tok.ExpiresOn, err)
	}
}
