//go:build unix

package localkeys

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/guard"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/memsec"
)

// told is a provider that fails as it is told, step by step.
type told struct {
	keystore.Provider

	health, describe, wrap, unwrap keystore.Class
	other                          bool // unwrap gives another secret
	notes                          []string
}

func as(class keystore.Class, op keystore.Op) error {
	if class == keystore.ClassUnspecified {
		return nil
	}
	return keystore.NewError(keystore.Error{Class: class, Provider: "ks", Op: op, RequestID: "r-1"}, errors.New("said \x1b[31mthe keystore"))
}

func (p told) Health(context.Context, corr.ID) error { return as(p.health, keystore.OpHealth) }

func (p told) Describe(ctx context.Context, r keystore.DescribeRequest) (keystore.Description, error) {
	if err := as(p.describe, keystore.OpDescribe); err != nil {
		return keystore.Description{}, err
	}
	d, err := p.Provider.Describe(ctx, r)
	d.Notes = p.notes
	return d, err
}

func (p told) Wrap(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
	if err := as(p.wrap, keystore.OpWrap); err != nil {
		return keystore.WrapResult{}, err
	}
	return p.Provider.Wrap(ctx, r)
}

func (p told) Unwrap(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	if err := as(p.unwrap, keystore.OpUnwrap); err != nil {
		return keystore.UnwrapResult{}, err
	}
	res, err := p.Provider.Unwrap(ctx, r)
	if p.other && err == nil {
		res.Secret.Destroy()
		res.Secret, err = memsec.Random(rand.Reader, 32, memsec.Hot)
	}
	return res, err
}

// probed checks a keystore of type "kind" with these settings and returns the
// steps by name.
func probed(t *testing.T, p told, settings map[string]string) map[string]step {
	t.Helper()
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	ks, err := local.Create(t.Context(), env, "ks", filepath.Join(t.TempDir(), "ks"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ks.CreateKey(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	p.Provider = ks
	typ := keystore.Type{Name: "kind", New: func(context.Context, keystore.Env, keystore.Config) (keystore.Provider, error) {
		// Guarded, as those of the program are: a check has to ask what is behind.
		return guard.New(p, "ks", env, guard.Options{Attempts: 10}, nil), nil
	}}
	pr := newProbe(env, typ, config.Keystore{Name: "ks", Type: "kind", Settings: settings}, "k")
	defer pr.close()
	out := map[string]step{}
	for _, s := range pr.run(t.Context()) {
		out[s.Name] = s
		if s.Verdict == failed && (s.Next == "" || s.Says == "" || s.code == 0) {
			t.Errorf("a failure without cause, next step or code: %+v", s)
		}
		if strings.ContainsRune(s.Says+s.Next, '\x1b') {
			t.Errorf("what the keystore says reaches the terminal as it is: %q", s.Says)
		}
	}
	if len(out) != len(steps) {
		t.Errorf("%d steps of %d", len(out), len(steps))
	}
	return out
}

func is(t *testing.T, found map[string]step, name string, want verdict, text string) {
	t.Helper()
	if s := found[name]; s.Verdict != want || !strings.Contains(s.Says, text) {
		t.Errorf("step %s: %s, %q, want %s with %q", name, s.Verdict, s.Says, want, text)
	}
}

func TestAFailureIsNamedInTheStepWhereItIs(t *testing.T) {
	codes := map[keystore.Class]errs.Code{
		keystore.Denied: errs.L1Denied, keystore.Unavailable: errs.L1Unavailable, keystore.Throttled: errs.Throttled,
		keystore.Misconfigured: errs.KeystoreMisconfigured, keystore.Corrupt: errs.StateCorrupt,
	}
	for class, code := range codes {
		for name, p := range map[string]told{
			"credentials": {health: class}, "key": {describe: class}, "proof": {wrap: class},
		} {
			found := probed(t, p, nil)
			for _, s := range []string{"settings", "credentials", "key", "proof"} {
				want := ok
				if s == name {
					want = failed
				}
				is(t, found, s, want, "")
			}
			if found[name].code != code || !strings.Contains(found[name].Says, "said ?[31mthe keystore") {
				t.Errorf("%s: %+v", class, found[name])
			}
		}
	}
	is(t, probed(t, told{unwrap: keystore.Corrupt}, nil), "proof", failed, "unwrap")
	is(t, probed(t, told{other: true}, nil), "proof", failed, "another secret")
	is(t, probed(t, told{}, nil), "import", skipped, "takes no key material")
	is(t, probed(t, told{notes: []string{"It can be exported."}}, nil), "key", ok, ". It can be exported.")
}

// endpoint is a server that says what time it is there.
func endpoint(t *testing.T, ahead time.Duration, opts wire.Options) (s *wire.Server, ca string) {
	t.Helper()
	s, err := wire.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", clock.System{}.Now().Add(ahead).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusForbidden)
	}), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CA, 0o644); err != nil {
		t.Fatal(err)
	}
	return s, ca
}

func TestTheNetworkIsLookedAtInItsParts(t *testing.T) {
	s, ca := endpoint(t, 0, wire.Options{})
	found := probed(t, told{}, map[string]string{"endpoint": s.URL, "ca_file": ca})
	// The server's certificate lives for a day.
	is(t, found, "network", warned, "is reached; its certificate ends")
	is(t, found, "clock", ok, "apart")
	is(t, found, "files", ok, "ca_file")

	is(t, probed(t, told{}, map[string]string{"endpoint": s.URL}), "network", failed, "TLS with "+s.Addr)
	is(t, probed(t, told{}, map[string]string{"endpoint": "https://name.invalid"}), "network", failed, "name.invalid")
	is(t, probed(t, told{}, map[string]string{"endpoint": "ftp://x"}), "network", failed, "is no URL")
	is(t, probed(t, told{}, map[string]string{"region": "eu-central-1"}), "network", skipped, "no endpoint")

	plain, _ := endpoint(t, 0, wire.Options{Plain: true})
	is(t, probed(t, told{}, map[string]string{"address": plain.URL}), "network", warned, "without TLS")
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}
	is(t, probed(t, told{}, map[string]string{"address": plain.URL}), "network", failed, "connection refused")
}

func TestAnotherIdeaOfTheTimeIsNamed(t *testing.T) {
	for ahead, text := range map[time.Duration]string{20 * time.Minute: "behind the keystore's", -20 * time.Minute: "ahead of the keystore's"} {
		s, ca := endpoint(t, ahead, wire.Options{})
		is(t, probed(t, told{}, map[string]string{"endpoint": s.URL, "ca_file": ca}), "clock", failed, text)
	}
}

func TestFilesAreLookedAt(t *testing.T) {
	file := func(mode os.FileMode, text string) string {
		at := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(at, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at, mode); err != nil { // past the umask
			t.Fatal(err)
		}
		return at
	}
	for name, c := range map[string]struct {
		settings map[string]string
		want     verdict
		text     string
	}{
		"none":           {map[string]string{"region": "r"}, skipped, "no setting"},
		"private":        {map[string]string{"pin_file": file(0o600, "x")}, ok, "pin_file"},
		"of a group":     {map[string]string{"pin_file": file(0o640, "x")}, warned, "group"},
		"of all":         {map[string]string{"pin_file": file(0o644, "x")}, failed, "everybody"},
		"projected":      {map[string]string{"token_file": file(0o644, "x"), "jwt_file": file(0o644, "x")}, ok, "jwt_file, token_file"},
		"missing":        {map[string]string{"token_file": "/none/there"}, failed, "token_file: stat /none/there"},
		"no certificate": {map[string]string{"ca_file": file(0o644, "garbage")}, failed, "has no certificate"},
		"bad PEM":        {map[string]string{"cert_file": file(0o644, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}, failed, "cert_file"},
		"a library":      {map[string]string{"module": file(0o755, "x")}, ok, "module"},
	} {
		t.Run(name, func(t *testing.T) { is(t, probed(t, told{}, c.settings), "files", c.want, c.text) })
	}
}

func TestACertificateThatEndsIsNamed(t *testing.T) {
	_, ca := endpoint(t, 0, wire.Options{}) // lives for a day
	is(t, probed(t, told{}, map[string]string{"cert_file": ca}), "files", warned, "ends at")
	env := keystore.Env{Clock: clock.NewFake(clock.System{}.Now().Add(48 * time.Hour))}
	p := newProbe(env, keystore.Type{}, config.Keystore{Settings: map[string]string{"ca_file": ca}}, "")
	if s := p.files(t.Context()); s.Verdict != failed || !strings.Contains(s.Says, "valid from") {
		t.Errorf("%+v", s)
	}
}

func TestAKeystoreThatDoesNotOpenHidesNoOtherStep(t *testing.T) {
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	typ := keystore.Type{Name: "kind", New: func(context.Context, keystore.Env, keystore.Config) (keystore.Provider, error) {
		return nil, as(keystore.Misconfigured, keystore.OpOpen)
	}}
	p := newProbe(env, typ, config.Keystore{Name: "ks", Settings: map[string]string{"pin_file": "/none"}}, "k")
	found := map[string]step{}
	for _, s := range p.run(t.Context()) {
		found[s.Name] = s
	}
	is(t, found, "files", failed, "pin_file")
	is(t, found, "settings", failed, "misconfigured")
	for _, name := range []string{"credentials", "key", "proof", "import"} {
		is(t, found, name, skipped, "not opened")
	}
}
