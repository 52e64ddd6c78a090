//go:build unix && !nopkcs11

package pkcs11_test

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11"
)

// startToken starts a token, or ends the test with the command that installs it.
func startToken(tb testing.TB, o hsm.Options) *hsm.Server {
	tb.Helper()
	o.Programs = programs
	s, err := hsm.Start(tb.Context(), o)
	keystoretest.Require(tb, map[hsm.Product]string{hsm.SoftHSM: "SoftHSM", hsm.OpenCryptoki: "openCryptoki"}[o.Product], hsm.Install, err)
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("stop the token: %v", err)
		}
	})
	return s
}

func open(tb testing.TB, env keystore.Env, s *hsm.Server, settings map[string]string) keystore.Provider {
	tb.Helper()
	cfg := s.Config("hsm")
	maps.Copy(cfg.Settings, settings)
	p, err := pkcs11.New(tb.Context(), env, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return p
}

// row is one way in which the suite is run.
type row struct {
	name     string
	product  hsm.Product
	settings map[string]string
	newKey   func(t *testing.T, s *hsm.Server, label string)
	imports  bool
}

func aes(u hsm.Usage) func(*testing.T, *hsm.Server, string) {
	return func(t *testing.T, s *hsm.Server, label string) {
		t.Helper()
		must(t, s.NewAES(t.Context(), label, u))
	}
}

func rsa(t *testing.T, s *hsm.Server, label string) {
	t.Helper()
	must(t, s.NewRSA(t.Context(), label))
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// The suite is run with each mechanism that a component has: key wrap by
// C_WrapKey, GCM, and OAEP with SHA-1 on SoftHSM; OAEP with SHA-256 on
// openCryptoki, which has neither key wrap nor GCM.
func TestConformance(t *testing.T) {
	for _, r := range []row{
		{"SoftHSM AES-KWP", hsm.SoftHSM, map[string]string{"import_key": "import"}, aes(hsm.All), true},
		{"SoftHSM AES-GCM", hsm.SoftHSM, map[string]string{"mechanism": "aes-gcm"}, aes(hsm.Encrypt), false},
		{"SoftHSM RSA-OAEP", hsm.SoftHSM, nil, rsa, false},
		{"openCryptoki RSA-OAEP-256", hsm.OpenCryptoki, nil, rsa, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			conform(t, r)
		})
	}
}

func conform(t *testing.T, r row) {
	t.Helper()
	probe := startToken(t, hsm.Options{Product: r.product})
	const noDelay = "PKCS#11 has no deletion with a delay"
	cfg := keystoretest.Config{
		Name: "hsm", Type: pkcs11.Type,
		Component: keystoretest.Component{Name: r.name, Version: probe.Version, Origin: keystoretest.Real},
		Create: func(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
			t.Helper()
			return fixture(t, r, env.Env)
		},
		Cannot: map[keystoretest.Ability]string{
			keystoretest.CanScheduleDeletion: noDelay,
			keystoretest.CanCancelDeletion:   noDelay,
			keystoretest.CanDeny:             "PKCS#11 has one user, who may use every object or none; a key's own attributes are what withdraws it",
			keystoretest.CanSkew:             "nothing in PKCS#11 depends on the time",
			keystoretest.CanShowCalls:        "PKCS#11 has no field for a caller's id, and returns none",
			keystoretest.CanShowLog:          "the token has no log of calls",
		},
	}
	if !r.imports {
		cfg.Cannot[keystoretest.CanImport] = "the row with AES-KWP imports; it has the RSA key pair and the AES keys for it"
	}
	keystoretest.Test(t, cfg)
}

// fixture is a token with the module for faults before it.
func fixture(t *testing.T, r row, env keystore.Env) keystoretest.Fixture {
	t.Helper()
	s := startToken(t, hsm.Options{Product: r.product, Faults: true})
	broken := func(f hsm.Fault) func(*testing.T) func() {
		return func(t *testing.T) func() {
			t.Helper()
			mend, err := s.Break(f)
			must(t, err)
			return func() { must(t, mend()) }
		}
	}
	// A PIN that was refused is not tried again: the owner gives the user a new
	// one and writes it into the file.
	locks := 0
	lockOut := func(t *testing.T) func() {
		t.Helper()
		locks++
		must(t, s.ChangePIN(t.Context(), fmt.Sprintf("new-%03d", locks)))
		return func() { must(t, s.WritePIN(fmt.Sprintf("new-%03d", locks))) }
	}
	var made atomic.Int64
	f := keystoretest.Fixture{
		Provider:   open(t, env, s, r.settings),
		UnknownKey: "never-made",
		NewKey: func(t *testing.T) keystore.KeyRef {
			t.Helper()
			label := fmt.Sprintf("tenant-%d", made.Add(1))
			r.newKey(t, s, label)
			return keystore.KeyRef(label)
		},
		Disable: func(t *testing.T, key keystore.KeyRef) { t.Helper(); must(t, s.Disable(t.Context(), string(key))) },
		Enable:  func(t *testing.T, key keystore.KeyRef) { t.Helper(); must(t, s.Enable(t.Context(), string(key))) },
		Delete:  func(t *testing.T, key keystore.KeyRef) { t.Helper(); must(t, s.Destroy(t.Context(), string(key), "")) },
		Rotate:  func(t *testing.T, key keystore.KeyRef) { t.Helper(); r.newKey(t, s, string(key)) },
		Peer:    func(t *testing.T) keystore.Provider { t.Helper(); return open(t, env, s, r.settings) },

		Away: func(t *testing.T) func() {
			t.Helper()
			back, err := s.Remove()
			must(t, err)
			return func() { must(t, back()) }
		},
		Cut:  broken(hsm.Crash),
		Hang: broken(hsm.Hang),
		Slow: func(t *testing.T, d time.Duration) func() {
			t.Helper()
			return broken(hsm.Slow(d.Milliseconds()))(t)
		},
		Fail:     broken(hsm.Fail(0x30)), // CKR_DEVICE_ERROR
		Nonsense: broken(hsm.Nonsense),
		Throttle: broken(hsm.Fail(0xB1)), // CKR_SESSION_COUNT

		ExpireToken: func(t *testing.T) {
			t.Helper()
			_, err := s.Break(hsm.Logout) // mends itself
			must(t, err)
		},
		RefuseRefresh: lockOut,
		Revoke: func(t *testing.T) func() {
			t.Helper()
			restore := lockOut(t)
			_, err := s.Break(hsm.Logout)
			must(t, err)
			return restore
		},
		LoseIdentity: broken(hsm.Login(0x30)),
	}
	if r.imports {
		f.NewImportKey = func(t *testing.T) keystore.KeyRef {
			t.Helper()
			rsa(t, s, "import")
			return f.NewKey(t)
		}
	}
	if r.product == hsm.OpenCryptoki {
		f.Away = broken(hsm.Fail(0xE0)) // CKR_TOKEN_NOT_PRESENT: its token is not one that can be pulled
	}
	return f
}
