//go:build unix

package transit_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/keystore/transit"
)

func TestConformance(t *testing.T) {
	newBench(t) // says what is missing, where the server is
	keystoretest.Test(t, keystoretest.Config{
		Name: "bao", Type: transit.Type,
		Component: keystoretest.Component{Name: "HashiCorp Vault", Version: vault.Version, Origin: keystoretest.Real},
		Patience:  30 * time.Second,
		Create:    fixture,
		Cannot: map[keystoretest.Ability]string{
			keystoretest.CanDisable:          "a transit key has no disabled state; access is withdrawn by policy",
			keystoretest.CanScheduleDeletion: "Vault deletes at once; OpenBao's soft-deletion is tested by its words",
			keystoretest.CanCancelDeletion:   "Vault deletes at once; OpenBao's soft-deletion is tested by its words",
			keystoretest.CanSkew:             "the server's clock is its machine's; nothing here depends on it, tokens have durations",
		},
	})
}

func fixture(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
	t.Helper()
	b := newBench(t)
	return keystoretest.Fixture{
		Provider:   open(t, env.Env, b.settings(nil)),
		NewKey:     func(t *testing.T) keystore.KeyRef { t.Helper(); return b.newKey(t) },
		UnknownKey: "never",
		Delete: func(t *testing.T, k keystore.KeyRef) {
			t.Helper()
			must(t, vault.DeleteKey(t.Context(), b.mount, string(k)))
		},
		Rotate: func(t *testing.T, k keystore.KeyRef) {
			t.Helper()
			must(t, vault.Rotate(t.Context(), b.mount, string(k)))
		},
		Deny: func(t *testing.T, k keystore.KeyRef) { t.Helper(); b.grant(t, string(k)) },
		Away: func(t *testing.T) func() { t.Helper(); return healed(t, b.proxy.Refuse()) },
		Cut: func(t *testing.T) func() {
			t.Helper()
			return b.front.Fault(wire.Fault{Cut: wire.CutMiddle})
		},
		Hang: func(t *testing.T) func() { t.Helper(); return healed(t, b.proxy.Hang()) },
		Slow: func(t *testing.T, d time.Duration) func() {
			t.Helper()
			return b.front.Fault(wire.Fault{Delay: d, Match: nil})
		},
		Fail: func(t *testing.T) func() {
			t.Helper()
			must(t, vault.Seal(t.Context()))
			return func() { must(t, vault.Unseal(context.WithoutCancel(t.Context()))) }
		},
		Nonsense: func(t *testing.T) func() {
			t.Helper()
			return b.front.Fault(wire.Fault{Status: http.StatusOK, Body: `{"hello":"world"}`})
		},
		Throttle: func(t *testing.T) func() { t.Helper(); return throttle(t, b) },
		Revoke: func(t *testing.T) func() {
			t.Helper()
			must(t, vault.DestroySecretID(t.Context(), b.auth, "node", b.secretID))
			must(t, vault.RevokeLogins(t.Context(), b.auth))
			return func() { b.newSecretID(t) }
		},
		ExpireToken: func(t *testing.T) { t.Helper(); must(t, vault.RevokeLogins(t.Context(), b.auth)) },
		RefuseRefresh: func(t *testing.T) func() {
			t.Helper()
			must(t, vault.DestroySecretID(t.Context(), b.auth, "node", b.secretID))
			return func() { b.newSecretID(t) }
		},
		LoseIdentity: func(t *testing.T) func() {
			t.Helper()
			return b.front.Fault(wire.Fault{Cut: wire.CutBefore, Match: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/auth/") }})
		},
		NewImportKey: func(t *testing.T) keystore.KeyRef {
			t.Helper()
			b.keys++ // one that does not exist: the engine has no keys without material
			b.grant(t)
			// A server makes its wrapping key when it is first asked for.
			must(t, vault.Admin(t.Context(), http.MethodGet, b.mount+"/wrapping_key", nil, nil))
			return keystore.KeyRef(b.name(b.keys))
		},
		Calls: func(t *testing.T) []keystoretest.Call { t.Helper(); return calls(t) },
		Log: func(t *testing.T) []byte {
			t.Helper()
			log, err := vault.AuditLog()
			must(t, err)
			return log
		},
		Peer: func(t *testing.T) keystore.Provider {
			t.Helper()
			p, err := transit.New(t.Context(), env.Env, keystore.Config{Name: "bao", Type: transit.Type, Settings: b.settings(nil)})
			must(t, err)
			return p
		},
	}
}

func healed(t *testing.T, heal func() error) func() {
	t.Helper()
	return func() { must(t, heal()) }
}

// throttle uses up what a quota of the server allows below the mount.
func throttle(t *testing.T, b *bench) func() {
	t.Helper()
	lift, err := vault.Limit(t.Context(), b.role, b.mount+"/", time.Minute)
	must(t, err)
	for {
		err := vault.Admin(t.Context(), http.MethodGet, b.mount+"/keys/"+b.name(1), nil, nil)
		if err != nil && strings.Contains(err.Error(), "429") {
			break
		}
		must(t, err)
	}
	return func() { must(t, lift(t.Context())) }
}

// calls reads what the server's audit log has of requests with a correlation id.
func calls(t *testing.T) []keystoretest.Call {
	t.Helper()
	entries, err := vault.Audited()
	must(t, err)
	var all []keystoretest.Call
	for _, e := range entries {
		if e.Type != "request" {
			continue
		}
		for name, values := range e.Request.Headers {
			if strings.EqualFold(name, transit.CorrelationHeader) && len(values) == 1 {
				all = append(all, keystoretest.Call{Correlation: corr.ID(values[0]), RequestID: keystore.RequestID(e.Request.ID)})
			}
		}
	}
	return all
}
