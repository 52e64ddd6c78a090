//go:build !noazurekv

package azurekv_test

import (
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/azurekv"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// unknownVersion never was. The suite's unknown key names a version, because an
// import into a free name makes the key: that is how Azure imports.
const unknownVersion = "0123456789abcdef0123456789abcdef"

func TestConformance(t *testing.T) {
	cannot := map[keystoretest.Ability]string{
		keystoretest.CanScheduleDeletion: "a deleted key is gone at once for who uses it; that it can be recovered is the owner's side",
		keystoretest.CanCancelDeletion:   "there is no scheduled deletion; recovery has a test of its own",
	}
	t.Run("vault", func(t *testing.T) {
		own := map[keystoretest.Ability]string{
			keystoretest.CanImport: "configured without a key exchange key; a Key Vault has no symmetric keys to import, and the import of an RSA key has a test of its own",
		}
		maps.Copy(own, cannot)
		keystoretest.Test(t, conformance("azkeys/fake, own service behind it, Key Vault", azureserver.Vault, own))
	})
	t.Run("managed HSM", func(t *testing.T) {
		keystoretest.Test(t, conformance("azkeys/fake, own service behind it, Managed HSM", azureserver.ManagedHSM, cannot))
	})
}

func conformance(name string, flavour azureserver.Flavour, cannot map[keystoretest.Ability]string) keystoretest.Config {
	return keystoretest.Config{
		Name: providerName, Type: azurekv.Type, Cannot: cannot, Patience: 30 * time.Second,
		Component: keystoretest.Component{Name: name, Version: "1.5.0", Origin: keystoretest.VendorFake},
		Create: func(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
			t.Helper()
			b := start(t, flavour)
			settings := b.settings
			if flavour == azureserver.Vault {
				settings = b.with(map[string]string{"import_kek": ""})
			}
			healed := func(heal func() error) func() {
				return func() { b.must(heal()) }
			}
			fault := func(f wire.Fault) func(*testing.T) func() {
				return func(*testing.T) func() { return b.HTTP().Fault(f) }
			}
			f := keystoretest.Fixture{
				Provider:   b.openWith(env.Env, settings),
				NewKey:     func(*testing.T) keystore.KeyRef { return b.newKey() },
				UnknownKey: keystore.KeyRef(b.VaultURL() + "/keys/never-was/" + unknownVersion),
				Disable:    func(_ *testing.T, k keystore.KeyRef) { b.must(b.SetEnabled(string(k), false)) },
				Enable:     func(_ *testing.T, k keystore.KeyRef) { b.must(b.SetEnabled(string(k), true)) },
				Delete:     func(_ *testing.T, k keystore.KeyRef) { b.must(b.Delete(string(k))) },
				Rotate:     func(_ *testing.T, k keystore.KeyRef) { b.must(b.Rotate(string(k))) },
				Deny:       func(_ *testing.T, k keystore.KeyRef) { b.Unassign(b.id, string(k)) },
				Away:       func(*testing.T) func() { return healed(b.Link().Refuse()) },
				Cut:        fault(wire.Fault{Cut: wire.CutMiddle}),
				Hang:       fault(wire.Fault{Hang: true}),
				Slow: func(_ *testing.T, d time.Duration) func() {
					return b.HTTP().Fault(wire.Fault{Delay: d, Cut: wire.CutNever})
				},
				Fail: func(*testing.T) func() {
					b.Answer(unavailable, "ServiceUnavailable", "")
					return func() { b.Answer(0, "", "") }
				},
				Nonsense: fault(wire.Fault{Status: http.StatusOK, Body: "<html>welcome</html>"}),
				Throttle: func(*testing.T) func() { b.Throttle(true); return func() { b.Throttle(false) } },
				Revoke: func(*testing.T) func() {
					b.RevokeTokens()
					b.RefuseLogins(http.StatusUnauthorized, "invalid_client", "AADSTS700016: Application was not found in the directory.")
					return func() { b.RefuseLogins(0, "", "") }
				},
				ExpireToken: func(*testing.T) { b.RevokeTokens() },
				RefuseRefresh: func(*testing.T) func() {
					b.RefuseLogins(http.StatusUnauthorized, "invalid_client", "AADSTS700024: Client assertion is not within its valid time range.")
					return func() { b.RefuseLogins(0, "", "") }
				},
				LoseIdentity: func(*testing.T) func() { return b.Login().Fault(wire.Fault{Cut: wire.CutBefore}) },
				Skew: func(_ *testing.T, d time.Duration) func() {
					b.Advance(d)
					return func() { b.Advance(-d) }
				},
				Calls: func(*testing.T) []keystoretest.Call {
					var calls []keystoretest.Call
					for _, r := range b.Records() {
						calls = append(calls, keystoretest.Call{Correlation: corr.ID(r.CorrelationID), RequestID: keystore.RequestID(r.RequestID)})
					}
					return calls
				},
				Log:  func(*testing.T) []byte { return b.log() },
				Peer: func(*testing.T) keystore.Provider { return b.open(settings) },
			}
			// The role is on single keys. The unknown one has it too, as if it
			// had been assigned to a key that is gone.
			b.Assign(b.id, b.EncryptionUser(), "never-was")
			if flavour == azureserver.ManagedHSM {
				b.must(b.CreateKEK(kekName, rsaBits))
				b.Assign(b.id, b.EncryptionUser(), kekName)
				f.NewImportKey = func(*testing.T) keystore.KeyRef {
					key := b.newKey()
					b.Assign(b.id, azureserver.Importer, string(key))
					return key
				}
			}
			return f
		},
	}
}
