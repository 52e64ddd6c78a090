package gcpkms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/gcpkms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/gcpserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/memsec"
)

var theAAD = []byte("keyspace 1, tenant 7")

// logs collects what a provider logs.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func envWith(c clock.Clock) (keystore.Env, *logs) {
	l := &logs{}
	return keystore.Env{Logger: slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})), Rand: rand.Reader, Clock: c}, l
}

func aSecret(t testing.TB) memsec.Secret {
	t.Helper()
	s, err := memsec.Random(rand.Reader, 32, memsec.Hot)
	check(t, err)
	t.Cleanup(s.Destroy)
	return s
}

func newID(t testing.TB) corr.ID {
	t.Helper()
	id, err := corr.New(rand.Reader)
	check(t, err)
	return id
}

func wrap(ctx context.Context, p keystore.Provider, key keystore.KeyRef, s memsec.Secret) (keystore.WrapResult, error) {
	return p.Wrap(ctx, keystore.WrapRequest{Key: key, Secret: s, AAD: theAAD})
}

func mustWrap(t testing.TB, p keystore.Provider, key keystore.KeyRef) (memsec.Secret, []byte) {
	t.Helper()
	s := aSecret(t)
	res, err := wrap(t.Context(), p, key, s)
	check(t, err)
	return s, res.Blob
}

func unwrap(ctx context.Context, p keystore.Provider, key keystore.KeyRef, blob []byte) error {
	res, err := p.Unwrap(ctx, keystore.UnwrapRequest{Key: key, Blob: blob, AAD: theAAD, Class: memsec.Hot})
	res.Secret.Destroy()
	return err
}

func wantClass(t testing.TB, err error, class keystore.Class, texts ...string) {
	t.Helper()
	var e *keystore.Error
	if !errors.As(err, &e) || e.Class != class {
		t.Fatalf("want class %s: %v", class, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
}

// identity is one way to be somebody.
type identity struct {
	principal string
	services  []gcpserver.TokenService // that take part, in order
	settings  map[string]string
	file      string // of the subject token or key
}

// identities makes every way, with files in a directory of the test.
func (s *setup) identities(t testing.TB) map[string]identity {
	t.Helper()
	subject, keyFile := filepath.Join(t.TempDir(), "token"), filepath.Join(t.TempDir(), "key.json")
	s.writeSubject(t, subject, gcpserver.WorkloadSubject, time.Hour)
	text, err := s.KeyFile()
	check(t, err)
	check(t, os.WriteFile(keyFile, text, 0o600))
	federation := []string{
		"auth", "federation", "metadata_host", "", "audience", gcpserver.Audience, "token_file", subject, "sts_endpoint", s.STSEndpoint(),
	}
	s.GrantImpersonation(gcpserver.TargetAccount, gcpserver.WorkloadPrincipal)
	return map[string]identity{
		"metadata": {
			principal: gcpserver.MachineAccount, services: []gcpserver.TokenService{gcpserver.Metadata}, settings: s.settings(),
		},
		"federation": {
			principal: gcpserver.WorkloadPrincipal, services: []gcpserver.TokenService{gcpserver.SecurityTokens},
			settings: s.settings(federation...), file: subject,
		},
		"federation and impersonation": {
			principal: gcpserver.TargetAccount, services: []gcpserver.TokenService{gcpserver.SecurityTokens, gcpserver.Impersonation},
			settings: s.settings(append(federation, "impersonate", gcpserver.TargetAccount, "iam_endpoint", s.IAMEndpoint())...), file: subject,
		},
		"key file": {
			principal: gcpserver.KeyFileAccount, services: []gcpserver.TokenService{gcpserver.KeyFileTokens},
			settings: s.settings("auth", "service-account-file", "metadata_host", "", "credentials_file", keyFile, "token_endpoint", s.TokenEndpoint()), file: keyFile,
		},
	}
}

func (s *setup) writeSubject(t testing.TB, path, subject string, lifetime time.Duration) {
	t.Helper()
	text, err := s.SubjectToken(subject, lifetime)
	check(t, err)
	check(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
}

func (s *setup) issued(id identity) int { return s.Issued(id.services[len(id.services)-1]) }

// Every way to an identity is the principal that the policy of the key names,
// and its token is renewed before its end, with the old one while that is good.
func TestIdentitiesActExpireAndAreRefused(t *testing.T) {
	const lifetime = 10 * time.Minute
	for _, name := range []string{"metadata", "federation", "federation and impersonation", "key file"} {
		t.Run(name, func(t *testing.T) {
			clk := clock.NewFake(time.Now())
			s := start(t, gcpserver.Options{Clock: clk, TokenLifetime: lifetime})
			id := s.identities(t)[name]
			env, log := envWith(clk)
			p := s.open(t, env, id.settings)
			key := s.newKey(t)
			s.Revoke(string(key), gcpserver.MachineAccount)
			s.Grant(string(key), id.principal, roleKrypton)
			last := id.services[len(id.services)-1]

			_, blob := mustWrap(t, p, key)
			check(t, unwrap(t.Context(), p, key, blob))
			if n := s.issued(id); n != 1 {
				t.Errorf("%d tokens for two calls", n)
			}
			records := s.Records()
			if got := records[len(records)-1].Principal; got != id.principal {
				t.Errorf("acted as %q, want %q", got, id.principal)
			}

			// Renewed before its end, by the call that comes first.
			clk.Advance(lifetime - 2*time.Minute)
			check(t, unwrap(t.Context(), p, key, blob))
			if n := s.issued(id); n != 2 {
				t.Errorf("%d tokens, want a new one before the end", n)
			}

			// What cannot be renewed yet is used until its end, and asked for seldom.
			s.Refuse(last, true)
			clk.Advance(lifetime - 2*time.Minute)
			for range 3 {
				check(t, unwrap(t.Context(), p, key, blob))
			}
			if n := strings.Count(log.String(), "access token not renewed yet"); n != 1 {
				t.Errorf("%d warnings for three calls in one moment", n)
			}

			// Past its end there is none.
			clk.Advance(3 * time.Minute)
			wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "get an access token")
			s.Refuse(last, false)
			if id.file != "" && name != "key file" {
				s.writeSubject(t, id.file, gcpserver.WorkloadSubject, time.Hour)
			}
			check(t, unwrap(t.Context(), p, key, blob))

			// The service away is no refusal.
			s.RevokeTokens()
			s.Away(last, true)
			wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Unavailable, "503")
			s.Away(last, false)

			// Refused in the middle of use: one new token, and the call goes through.
			check(t, unwrap(t.Context(), p, key, blob))
			s.RevokeTokens()
			before := s.issued(id)
			check(t, unwrap(t.Context(), p, key, blob))
			if n := s.issued(id) - before; n != 1 {
				t.Errorf("%d new tokens after a refusal, want one", n)
			}
			// And with the token service refusing too, nobody lost a key.
			s.RevokeTokens()
			s.Refuse(last, true)
			wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "get an access token")
			wantClass(t, p.Health(t.Context(), ""), keystore.Misconfigured)
		})
	}
}

// A projected token is replaced in its file while it is still good; the
// exchange reads the file each time.
func TestARotatedSubjectTokenIsReadAnew(t *testing.T) {
	clk := clock.NewFake(time.Now())
	s := start(t, gcpserver.Options{Clock: clk, TokenLifetime: 10 * time.Minute})
	id := s.identities(t)["federation"]
	env, log := envWith(clk)
	p := s.open(t, env, id.settings)
	key := s.newKey(t)
	s.Grant(string(key), id.principal, roleKrypton)
	_, blob := mustWrap(t, p, key)

	clk.Advance(2 * time.Hour) // the subject token of one hour is over
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "invalid_grant", "not valid at this time")
	s.writeSubject(t, id.file, gcpserver.WorkloadSubject, time.Hour)
	check(t, unwrap(t.Context(), p, key, blob))

	// Another workload's token in the file is another principal, which has no role.
	s.writeSubject(t, id.file, "system:serviceaccount:other:node", time.Hour)
	s.RevokeTokens()
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Denied, "IAM_PERMISSION_DENIED")

	subject, err := os.ReadFile(id.file)
	check(t, err)
	for what, change := range map[string]func() error{
		"gone":     func() error { return os.Remove(id.file) },
		"empty":    func() error { return os.WriteFile(id.file, nil, 0o600) },
		"too long": func() error { return os.WriteFile(id.file, make([]byte, 64<<10+1), 0o600) },
		"forged":   func() error { return os.WriteFile(id.file, bytes.ToUpper(subject), 0o600) },
	} {
		check(t, change())
		s.RevokeTokens()
		err := unwrap(t.Context(), p, key, blob)
		wantClass(t, err, keystore.Misconfigured)
		if strings.Contains(err.Error()+log.String(), strings.TrimSpace(string(subject))) {
			t.Errorf("%s: the subject token stands in an error or in the log", what)
		}
	}
}

func TestAKeyFileIsReadAnewAndJudged(t *testing.T) {
	clk := clock.NewFake(time.Now())
	s := start(t, gcpserver.Options{Clock: clk})
	id := s.identities(t)["key file"]
	env, _ := envWith(clk)
	p := s.open(t, env, id.settings)
	key := s.newKey(t)
	s.Grant(string(key), id.principal, roleKrypton)
	_, blob := mustWrap(t, p, key)
	good, err := os.ReadFile(id.file)
	check(t, err)

	// Its key was replaced at Google: refused until the file is replaced too.
	check(t, s.RotateKeyFile())
	s.RevokeTokens()
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "invalid_grant", "Invalid JWT Signature")
	next, err := s.KeyFile()
	check(t, err)
	check(t, os.WriteFile(id.file, next, 0o600))
	check(t, unwrap(t.Context(), p, key, blob))

	// A clock that differs from Google's by more than it accepts.
	for _, skew := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
		s.RevokeTokens()
		s.Skew(skew)
		wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "Check your iat and exp values")
		s.Skew(0)
	}
	check(t, unwrap(t.Context(), p, key, blob))

	pemStart := bytes.Index(next, []byte("BEGIN PRIVATE KEY"))
	for what, text := range map[string][]byte{
		"the old one":            good,
		"no JSON":                []byte("key"),
		"no key":                 []byte(`{"type":"service_account","client_email":"a@b","token_uri":"` + s.TokenEndpoint() + `"}`),
		"damaged key":            append(append(bytes.Clone(next[:pemStart+40]), '!'), next[pemStart+41:]...),
		"another kind":           bytes.Replace(next, []byte("service_account"), []byte("authorized_user"), 1),
		"another token endpoint": bytes.Replace(next, []byte(s.TokenEndpoint()), []byte("https://collector.example/token"), 1),
	} {
		check(t, os.WriteFile(id.file, text, 0o600))
		s.RevokeTokens()
		err := unwrap(t.Context(), p, key, blob)
		wantClass(t, err, keystore.Misconfigured)
		if strings.Contains(err.Error(), "PRIVATE KEY") || strings.Contains(err.Error(), string(next[pemStart+30:pemStart+60])) {
			t.Errorf("%s: the error shows the file: %v", what, err)
		}
	}
	check(t, os.WriteFile(id.file, next, 0o600))
	check(t, os.Chmod(id.file, 0o604))
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "mode 0604")
	check(t, os.Chmod(id.file, 0o640))
	check(t, unwrap(t.Context(), p, key, blob))
}

// A token service that takes calls and answers nothing costs calls a moment
// while the present token is good, and only one of them.
func TestAHangingTokenServiceHoldsUpNoCall(t *testing.T) {
	const lifetime = 10 * time.Minute
	clk := clock.NewFake(time.Now())
	s := start(t, gcpserver.Options{Clock: clk, TokenLifetime: lifetime})
	meta, err := wire.NewProxy(s.MetadataHost())
	check(t, err)
	defer func() { check(t, meta.Close()) }()
	env, log := envWith(clk)
	p := s.open(t, env, s.settings("metadata_host", meta.Addr()))
	key := s.newKey(t)
	_, blob := mustWrap(t, p, key)
	healed := meta.Hang()
	clk.Advance(lifetime - 2*time.Minute)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := unwrap(t.Context(), p, key, blob); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(log.String(), "access token not renewed yet"); n != 1 {
		t.Errorf("%d calls waited", n)
	}
	// Without a good token there is nothing to go on with, for as long as a call lasts.
	clk.Advance(3 * time.Minute)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	wantClass(t, unwrap(short, p, key, blob), keystore.Unavailable)
	check(t, healed())
	check(t, unwrap(t.Context(), p, key, blob))
}

func TestImpersonationEndsWithItsGrant(t *testing.T) {
	s := start(t, gcpserver.Options{})
	id := s.identities(t)["federation and impersonation"]
	env, _ := envWith(clock.System{})
	p := s.open(t, env, id.settings)
	key := s.newKey(t)
	s.Grant(string(key), id.principal, roleKrypton)
	_, blob := mustWrap(t, p, key)
	s.Revoke("serviceAccounts/"+gcpserver.TargetAccount, gcpserver.WorkloadPrincipal)
	s.RevokeTokens()
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "the IAM credentials service answers 403", "PERMISSION_DENIED")
	s.Refuse(gcpserver.SecurityTokens, true)
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Misconfigured, "the security token service answers 400")
}

// I1: nothing that Google's libraries would find by themselves is used. The
// traps are a key file, a configuration of gcloud, a metadata server, a proxy
// and a log that shows requests; each would be seen.
func TestI1_NothingIsTakenFromTheEnvironment(t *testing.T) {
	var touched atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		touched.Add(1)
		http.Error(w, "trap", http.StatusTeapot)
	}))
	defer trap.Close()
	host := trap.Listener.Addr().(*net.TCPAddr).String()
	home := t.TempDir()
	adc := filepath.Join(home, "adc.json")
	refresh := `{"type":"authorized_user","client_id":"x","client_secret":"x","refresh_token":"x","token_uri":"` + trap.URL + `"}`
	check(t, os.WriteFile(adc, []byte(refresh), 0o600))
	gcloud := filepath.Join(home, ".config", "gcloud")
	check(t, os.MkdirAll(gcloud, 0o700))
	check(t, os.WriteFile(filepath.Join(gcloud, "application_default_credentials.json"), []byte(refresh), 0o600))
	for name, value := range map[string]string{
		"HOME": home, "CLOUDSDK_CONFIG": gcloud, "GOOGLE_APPLICATION_CREDENTIALS": adc, "GCE_METADATA_HOST": host,
		"GOOGLE_CLOUD_PROJECT": "trap", "GOOGLE_CLOUD_QUOTA_PROJECT": "trap", "GOOGLE_API_USE_CLIENT_CERTIFICATE": "true", "GOOGLE_API_USE_MTLS_ENDPOINT": "always",
		"GOOGLE_CLOUD_UNIVERSE_DOMAIN": "trap.example", "HTTPS_PROXY": trap.URL, "HTTP_PROXY": trap.URL, "ALL_PROXY": trap.URL, "NO_PROXY": "",
		"GOOGLE_SDK_GO_LOGGING_LEVEL": "debug",
	} {
		t.Setenv(name, value)
	}
	stderr := capture(t)
	for _, name := range []string{"metadata", "federation", "federation and impersonation", "key file"} {
		s := start(t, gcpserver.Options{})
		id := s.identities(t)[name]
		env, log := envWith(clock.System{})
		p := s.open(t, env, id.settings)
		key := s.newKey(t)
		s.Grant(string(key), id.principal, roleKrypton)
		_, blob := mustWrap(t, p, key)
		check(t, unwrap(t.Context(), p, key, blob))
		_, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
		check(t, err)
		check(t, p.Health(t.Context(), ""))
		for _, r := range s.Records() {
			if r.Principal != id.principal || r.Code != codes.OK && r.Method != "GetKeyRing" {
				t.Errorf("%s: %s as %q: %s", name, r.Method, r.Principal, r.Code)
			}
		}
		if log.String() != "" {
			t.Errorf("%s: log: %s", name, log)
		}
	}
	if n := touched.Load(); n != 0 {
		t.Errorf("%d requests went to a trap", n)
	}
	if out := stderr(); strings.Contains(out, "plaintext") || strings.Contains(out, "api request") {
		t.Errorf("Google's client logged a request: %.200s", out)
	}
}

// capture collects what is written to standard error from now on.
func capture(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stderr")
	f, err := os.Create(path)
	check(t, err)
	old := os.Stderr
	os.Stderr = f
	t.Cleanup(func() { os.Stderr = old; _ = f.Close() })
	return func() string {
		b, err := os.ReadFile(path)
		check(t, err)
		return string(b)
	}
}

func TestOurIDStandsInGooglesLog(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	secret := aSecret(t)
	ids := map[string]corr.ID{"Encrypt": newID(t), "Decrypt": newID(t), "GetCryptoKey": newID(t), "GetKeyRing": newID(t)}
	res, err := p.Wrap(t.Context(), keystore.WrapRequest{Key: key, Secret: secret, AAD: theAAD, Correlation: ids["Encrypt"]})
	check(t, err)
	out, err := p.Unwrap(t.Context(), keystore.UnwrapRequest{Key: key, Blob: res.Blob, AAD: theAAD, Class: memsec.Hot, Correlation: ids["Decrypt"]})
	check(t, err)
	out.Secret.Destroy()
	_, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: key, Correlation: ids["GetCryptoKey"]})
	check(t, err)
	check(t, p.Health(t.Context(), ids["GetKeyRing"]))
	seen := map[string]int{}
	for _, r := range s.Records() {
		seen[r.Method]++
		if r.Reason != string(ids[r.Method]) || !strings.HasPrefix(r.UserAgent, "krypton ") || r.Principal != gcpserver.MachineAccount || !strings.HasPrefix(r.Routing, "name=projects%2F") {
			t.Errorf("record %+v, want reason %s", r, ids[r.Method])
		}
	}
	// The first wrap under a key learns which version encrypts, and names it then.
	if r := s.Records(); r[0].Resource != string(key) || r[1].Resource != string(key)+"/cryptoKeyVersions/1" {
		t.Errorf("encrypted under %s and %s", r[0].Resource, r[1].Resource)
	}
	if seen["Encrypt"] != 2 || seen["Decrypt"] != 1 || seen["GetCryptoKey"] != 1 || seen["GetKeyRing"] != 1 {
		t.Errorf("calls %v", seen)
	}
	if _, err := wrap(t.Context(), p, key, secret); err != nil {
		t.Fatal(err)
	}
	records := s.Records()
	if last := records[len(records)-1]; len(records) != 6 || last.Method != "Encrypt" || last.Reason != "" {
		t.Errorf("%d records, the last %+v: a second wrap is one call, and no id is no header", len(records), last)
	}
}

// What answers in the place of a token service gets no token from us, and none
// of its answers is used.
func TestImpostorsOfTokenServices(t *testing.T) {
	s := start(t, gcpserver.Options{})
	var elsewhere atomic.Int64
	trap := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			elsewhere.Add(1)
		}
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer trap.Close()
	answers := map[string]func(w http.ResponseWriter){
		"no metadata server": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"Bearer","expires_in":3600}`)
		},
		"no token": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{}`) },
		"no JSON":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, `ya29.token-in-text`) },
		"another type": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"MAC","expires_in":3600}`)
		},
		"over already": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"Bearer","expires_in":0}`)
		},
		"for ever": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"Bearer","expires_in":99999999}`)
		},
		"without an end": func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat(" ", 64<<10+1)) },
		"too many":       func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) },
	}
	classes := map[string]keystore.Class{"no metadata server": keystore.Misconfigured, "too many": keystore.Throttled}
	env, _ := envWith(clock.System{})
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if name != "no metadata server" {
					w.Header().Set("Metadata-Flavor", "Google")
				}
				answer(w)
			}))
			defer srv.Close()
			p := s.open(t, env, s.settings("metadata_host", srv.Listener.Addr().String()))
			err := p.Health(t.Context(), "")
			wantClass(t, err, max(classes[name], keystore.Unavailable))
			if strings.Contains(err.Error(), "ya29") {
				t.Errorf("the answer stands in the error: %v", err)
			}
		})
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(ca, append(s.CA(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trap.Certificate().Raw})...), 0o600))
	id := s.identities(t)["federation"]
	id.settings["ca_file"], id.settings["sts_endpoint"] = ca, trap.URL+"/v1/token"
	wantClass(t, s.open(t, env, id.settings).Health(t.Context(), ""), keystore.Misconfigured, "answers 307")
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d subject tokens followed a redirection", n)
	}
	// A certificate that is not of the configured CA.
	id.settings["ca_file"] = s.ca
	wantClass(t, s.open(t, env, id.settings).Health(t.Context(), ""), keystore.Unavailable, "certificate")
	if n := len(s.Records()); n != 0 {
		t.Errorf("%d calls with no token", n)
	}
}

func TestSettingsAreStrict(t *testing.T) {
	s := start(t, gcpserver.Options{})
	empty := filepath.Join(t.TempDir(), "empty.pem")
	check(t, os.WriteFile(empty, nil, 0o600))
	env, _ := envWith(clock.System{})
	for name, c := range map[string]struct {
		change []string
		text   string
	}{
		"unknown setting":      {[]string{"endpiont", "x:1"}, `unknown setting "endpiont"`},
		"no auth":              {[]string{"auth", ""}, `"auth"`},
		"default chain":        {[]string{"auth", "default"}, "want metadata, federation or service-account-file"},
		"endpoint is a URL":    {[]string{"endpoint", "https://cloudkms.googleapis.com"}, "want a host and port"},
		"endpoint has no port": {[]string{"endpoint", "cloudkms.googleapis.com"}, "want a host and port"},
		"project":              {[]string{"project", "a/b"}, "want the id or number of a project"},
		"federation alone":     {[]string{"auth", "federation"}, `auth "federation" needs`},
		"other way's setting":  {[]string{"token_file", "/t"}, `token_file is for auth "federation"`},
		"relative file":        {[]string{"auth", "service-account-file", "credentials_file", "k.json"}, "want an absolute path"},
		"impersonate":          {[]string{"impersonate", "a@b/../c"}, "want the e-mail"},
		"plain HTTP":           {[]string{"sts_endpoint", "http://sts.example"}, "want an https URL"},
		"secret in URL":        {[]string{"iam_endpoint", "https://u:p@iam.example"}, "want an https URL"},
		"metadata path":        {[]string{"metadata_host", "host/path"}, "want a host"},
		"no CA":                {[]string{"ca_file", empty}, "has no certificate"},
		"CA not there":         {[]string{"ca_file", empty + "x"}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gcpkms.New(t.Context(), env, keystore.Config{Name: theName, Type: gcpkms.Type, Settings: s.settings(c.change...)})
			wantClass(t, err, keystore.Misconfigured, c.text)
		})
	}
	if n := len(s.Records()) + s.Issued(gcpserver.Metadata); n != 0 {
		t.Errorf("%d calls were made by constructors", n)
	}
}
