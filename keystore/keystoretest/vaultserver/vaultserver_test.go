package vaultserver_test

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaktest.Known()...) }

func start(t *testing.T) *vaultserver.Server {
	t.Helper()
	_, err := vaultserver.Find(t.Context())
	keystoretest.Require(t, "Vault", vaultserver.Install, err)
	s, err := vaultserver.Start(t.Context(), vaultserver.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func refused(t *testing.T, err error, status int) {
	t.Helper()
	var r *vaultserver.RefusedError
	if !errors.As(err, &r) || r.Status != status {
		t.Fatalf("want a refusal with %d: %v", status, err)
	}
}

func TestTheAdministratorSeesWhatHappens(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	for _, err := range []error{
		s.Mount(ctx, "transit"), s.CreateKey(ctx, "transit", "k", "aes256-gcm96"), s.AuditHeader(ctx, "X-Mark"),
		s.Policy(ctx, "reader", `path "transit/keys/k" { capabilities = ["read"] }`),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tok, err := s.CreateToken(ctx, map[string]any{"policies": []string{"reader"}})
	if err != nil {
		t.Fatal(err)
	}
	read := func() error { return s.Call(ctx, tok.ClientToken, http.MethodGet, "transit/keys/k", nil, nil) }
	if err := read(); err != nil {
		t.Fatal(err)
	}
	refused(t, s.Call(ctx, tok.ClientToken, http.MethodPost, "transit/keys/k/rotate", nil, nil), http.StatusForbidden)

	if err := s.Seal(ctx); err != nil {
		t.Fatal(err)
	}
	refused(t, read(), http.StatusServiceUnavailable)
	if err := s.Unseal(ctx); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteKey(ctx, "transit", "k"); err != nil {
		t.Fatal(err)
	}
	refused(t, read(), http.StatusNotFound)
	if err := s.RevokeToken(ctx, tok.ClientToken); err != nil {
		t.Fatal(err)
	}
	refused(t, read(), http.StatusForbidden)

	entries, err := s.Audited()
	if err != nil {
		t.Fatal(err)
	}
	reads := 0
	for _, e := range entries {
		if e.Type == "request" && e.Request.Path == "transit/keys/k" && e.Request.Operation == "read" {
			reads++
		}
	}
	if reads == 0 {
		t.Errorf("no read of the key in %d entries", len(entries))
	}
}

func TestI1_OnlyLoopback(t *testing.T) {
	u, err := url.Parse(start(t).URL)
	if err != nil {
		t.Fatal(err)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" || ip == nil || !ip.IsLoopback() {
		t.Errorf("%s", u)
	}
}

func TestI2_ClosingEndsTheProcess(t *testing.T) {
	s := start(t)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var refusal *vaultserver.RefusedError
	if err := s.Admin(t.Context(), http.MethodGet, "sys/health", nil, nil); err == nil || errors.As(err, &refusal) {
		t.Errorf("something answers: %v", err)
	}
}

func TestAProgramThatIsNotItIsAnError(t *testing.T) {
	_, err := vaultserver.Start(t.Context(), vaultserver.Options{Dir: t.TempDir(), Binary: "/bin/false"})
	if err == nil || !strings.Contains(err.Error(), "before it was ready") {
		t.Errorf("%v", err)
	}
	_, err = vaultserver.Start(t.Context(), vaultserver.Options{Dir: t.TempDir(), Binary: filepath.Join(t.TempDir(), "none")})
	if err == nil {
		t.Error("started nothing")
	}
}
