package awskms_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/awskms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaktest.Known()...) }

const (
	subject  = "system:serviceaccount:krypton:node"
	audience = "sts.amazonaws.com"
	name     = "eu-kms"
)

// world is an AWS with a role for web identities, and a token of the platform.
type world struct {
	*awsserver.Server

	clock clock.Clock
	role  string
	dir   string
	token string // path
}

func newWorld(tb testing.TB, o awsserver.Options) *world {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Minute) // the first use builds a program
	defer cancel()
	program, err := awsserver.Program(ctx)
	keystoretest.Require(tb, "local-kms", "scripts/tool localkms", err)
	o.Program = program
	s, err := awsserver.Start(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close the server: %v", err)
		}
	})
	w := &world{Server: s, dir: tb.TempDir(), clock: o.Clock}
	if w.clock == nil {
		w.clock = clock.System{}
	}
	w.token = filepath.Join(w.dir, "token")
	w.role = w.addRole(tb, awsserver.Role{Name: "krypton-eu", WebIdentity: subject, Audience: audience})
	w.project(tb, subject, time.Hour)
	return w
}

func (w *world) addRole(tb testing.TB, r awsserver.Role) string {
	tb.Helper()
	arn, err := w.AddRole(r)
	if err != nil {
		tb.Fatal(err)
	}
	return arn
}

// project writes a new token, as the platform does before the old one ends.
func (w *world) project(tb testing.TB, subject string, ttl time.Duration) {
	tb.Helper()
	token, err := w.WebIdentityToken(subject, audience, ttl)
	if err != nil {
		tb.Fatal(err)
	}
	w.write(tb, "token", token+"\n")
}

func (w *world) write(tb testing.TB, file, text string) string {
	tb.Helper()
	path := filepath.Join(w.dir, file)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// settings are those of a web identity, changed; an empty value takes one away.
func (w *world) settings(change map[string]string) map[string]string {
	s := map[string]string{
		"region": w.Region(), "endpoint": w.KMS().URL, "sts_endpoint": w.STS().URL, "ca_file": w.CAFile(),
		"auth": "web-identity", "role_arn": w.role, "token_file": w.token, "session_name": "node-1",
	}
	maps.Copy(s, change)
	maps.DeleteFunc(s, func(_, v string) bool { return v == "" })
	return s
}

func (w *world) env() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: w.clock}
}

func (w *world) open(tb testing.TB, change map[string]string) *awskms.Keystore {
	tb.Helper()
	return w.openWith(tb, w.env(), change)
}

func (w *world) openWith(tb testing.TB, env keystore.Env, change map[string]string) *awskms.Keystore {
	tb.Helper()
	p, err := awskms.New(tb.Context(), env, keystore.Config{Name: name, Type: awskms.Type, Settings: w.settings(change)})
	if err != nil {
		tb.Fatal(err)
	}
	k, ok := p.(*awskms.Keystore)
	if !ok {
		tb.Fatalf("%T", p)
	}
	tb.Cleanup(func() {
		if err := k.Close(); err != nil {
			tb.Error(err)
		}
	})
	return k
}

func (w *world) key(tb testing.TB) keystore.KeyRef {
	tb.Helper()
	arn, err := w.CreateKey(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return keystore.KeyRef(arn)
}

// do fails the test when a control of the server failed.
func do(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func secret(tb testing.TB) memsec.Secret {
	tb.Helper()
	s, err := memsec.Random(rand.Reader, 32, memsec.Hot)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Destroy)
	return s
}

func correlation(tb testing.TB) corr.ID {
	tb.Helper()
	id, err := corr.New(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func wrap(tb testing.TB, k keystore.Provider, key keystore.KeyRef) ([]byte, error) {
	tb.Helper()
	res, err := k.Wrap(tb.Context(), keystore.WrapRequest{Key: key, Secret: secret(tb), AAD: []byte("aad"), Correlation: correlation(tb)})
	return res.Blob, err
}

func mustWrap(tb testing.TB, k keystore.Provider, key keystore.KeyRef) []byte {
	tb.Helper()
	b, err := wrap(tb, k, key)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func unwrap(tb testing.TB, k keystore.Provider, key keystore.KeyRef, blob []byte) error {
	tb.Helper()
	res, err := k.Unwrap(tb.Context(), keystore.UnwrapRequest{Key: key, Blob: blob, AAD: []byte("aad"), Class: memsec.Hot, Correlation: correlation(tb)})
	res.Secret.Destroy()
	return err
}

// isClass checks the class of an error and that its text says something.
func isClass(tb testing.TB, err error, class keystore.Class, says ...string) {
	tb.Helper()
	if got := keystore.ClassOf(err); got != class {
		tb.Fatalf("class %s, want %s: %v", got, class, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			tb.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

func conformance() keystoretest.Config {
	return keystoretest.Config{
		Name: name, Type: awskms.Type, Patience: 30 * time.Second,
		Component: keystoretest.Component{Name: "local-kms behind our AWS front", Version: "e4d9425700fe", Origin: keystoretest.Community},
		Create:    fixture,
	}
}

func fixture(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
	t.Helper()
	w := newWorld(t, awsserver.Options{})
	arn := func(k keystore.KeyRef) string { return string(k) }
	once := func(control func(context.Context, string) error) func(*testing.T, keystore.KeyRef) {
		return func(t *testing.T, k keystore.KeyRef) { t.Helper(); do(t, control(t.Context(), arn(k))) }
	}
	healed := func(t *testing.T, heal func() error) func() {
		t.Helper()
		return func() { do(t, heal()) }
	}
	refuseSTS := func() (restore func()) {
		w.FailSTS("AssumeRoleWithWebIdentity", "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity", 403, -1)
		return func() { w.FailSTS("AssumeRoleWithWebIdentity", "", "", 0, 0) }
	}
	return keystoretest.Fixture{
		Provider:         w.openWith(t, env.Env, nil),
		NewKey:           func(t *testing.T) keystore.KeyRef { t.Helper(); return w.key(t) },
		UnknownKey:       keystore.KeyRef(w.KeyARN("00000000-1111-2222-3333-444444444444")),
		Disable:          once(w.Disable),
		Enable:           once(w.Enable),
		ScheduleDeletion: once(w.ScheduleDeletion),
		CancelDeletion: func(t *testing.T, k keystore.KeyRef) {
			t.Helper()
			do(t, w.CancelDeletion(t.Context(), arn(k)))
			do(t, w.Enable(t.Context(), arn(k))) // AWS leaves it disabled
		},
		Delete: once(w.Delete),
		Rotate: once(w.Rotate),
		Deny:   func(_ *testing.T, k keystore.KeyRef) { w.Deny(arn(k)) },

		Away: func(t *testing.T) func() { t.Helper(); return healed(t, w.KMS().Proxy.Refuse()) },
		Cut:  func(t *testing.T) func() { t.Helper(); return healed(t, w.KMS().Proxy.Cut(100)) },
		Hang: func(t *testing.T) func() { t.Helper(); return healed(t, w.KMS().Proxy.Hang()) },
		Slow: func(t *testing.T, d time.Duration) func() { t.Helper(); return healed(t, w.KMS().Proxy.Slow(d)) },
		Fail: func(*testing.T) func() {
			w.Fail("", "KMSInternalException", "An internal error occurred.", 500, -1)
			return func() { w.Fail("", "", "", 0, 0) }
		},
		Nonsense: func(*testing.T) func() { return w.KMS().HTTP.Answer(200, `{"KeyId": 7, "Plaintext": "%%%"}`) },
		Throttle: func(*testing.T) func() { return w.Throttle() },

		Revoke: func(*testing.T) func() {
			w.ForgetSessions()
			return refuseSTS()
		},
		ExpireToken:   func(*testing.T) { w.ExpireSessions() },
		RefuseRefresh: func(*testing.T) func() { return refuseSTS() },
		LoseIdentity:  func(t *testing.T) func() { t.Helper(); return healed(t, w.STS().Proxy.Refuse()) },
		Skew: func(_ *testing.T, d time.Duration) func() {
			w.Skew(d)
			return func() { w.Skew(0) }
		},
		NewImportKey: func(t *testing.T) keystore.KeyRef {
			t.Helper()
			k, err := w.CreateExternalKey(t.Context())
			do(t, err)
			return keystore.KeyRef(k)
		},
		Calls: func(*testing.T) []keystoretest.Call {
			var calls []keystoretest.Call
			for _, r := range w.Trail() {
				if r.Source == "kms.amazonaws.com" {
					calls = append(calls, keystoretest.Call{Correlation: r.Correlation(), RequestID: keystore.RequestID(r.RequestID)})
				}
			}
			return calls
		},
		Log: func(t *testing.T) []byte {
			t.Helper()
			b, err := json.Marshal(w.Trail())
			do(t, err)
			return b
		},
		Peer: func(t *testing.T) keystore.Provider { t.Helper(); return w.openWith(t, env.Env, nil) },
	}
}

func TestConformance(t *testing.T) { keystoretest.Test(t, conformance()) }

// waitFor waits for something that another goroutine does, yielding to it.
func waitFor(tb testing.TB, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.Done():
			tb.Fatal("it did not happen")
		}
	}
}

// safeBuffer is a buffer for a logger.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
