//go:build !noazurekv

package azurekv_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// identities are the three ways to log in, each with settings for it.
func identities(b *bench) map[string]map[string]string {
	b.Helper()
	app, file, err := b.AddApplication()
	b.must(err)
	cert := filepath.Join(b.TempDir(), "app.pem")
	b.write(cert, file)
	machine := b.AddManaged()
	for _, id := range []*azureserver.Identity{b.id, app, machine} {
		b.Assign(id, b.EncryptionUser(), "tenant-1")
	}
	return map[string]map[string]string{
		"workload":               b.settings,
		"certificate":            b.with(map[string]string{"auth": "certificate", "client_id": app.ClientID, "token_file": "", "certificate_file": cert}),
		"managed":                b.with(map[string]string{"auth": "managed", "client_id": "", "tenant_id": "", "token_file": "", "imds_endpoint": b.MetadataURL()}),
		"managed, user-assigned": b.with(map[string]string{"auth": "managed", "client_id": machine.ClientID, "tenant_id": "", "token_file": "", "imds_endpoint": b.MetadataURL()}),
	}
}

func TestEveryIdentityLogsInRenewsAndIsRefused(t *testing.T) {
	for _, flavour := range []azureserver.Flavour{azureserver.Vault, azureserver.ManagedHSM} {
		b := start(t, flavour)
		key, s := b.newKey(), b.secret()
		for name, settings := range identities(b) {
			t.Run(flavour.String()+" "+name, func(t *testing.T) {
				p := b.open(settings)
				before := b.Logins()
				blob := b.good(p, key, s)
				b.good(p, key, s)
				if n := b.Logins() - before; n != 1 {
					t.Errorf("%d logins for four calls", n)
				}
				// The vault refuses the token in the middle of use: one new login.
				b.RevokeTokens()
				b.must(b.unwrap(p, key, blob, s))
				if n := b.Logins() - before; n != 2 {
					t.Errorf("%d logins after a revocation", n)
				}
				// The token expires by the vault's clock, which is ahead of ours. The
				// federated token was renewed meanwhile, as Kubernetes does it; the
				// certificate's assertion is signed with our clock and fails.
				b.Advance(61 * time.Minute)
				b.renewToken(time.Hour)
				err := b.unwrap(p, key, blob, s)
				if settings["auth"] == "certificate" {
					is(t, "assertion of the past", err, keystore.Misconfigured, "AADSTS700024")
				} else if err != nil {
					t.Errorf("after the token's expiry: %v", err)
				}
				b.Advance(-61 * time.Minute)
				b.renewToken(time.Hour)
				b.must(b.unwrap(p, key, blob, s))
				// The identity is refused in the middle of use, and accepted again.
				b.RevokeTokens()
				b.RefuseLogins(http.StatusBadRequest, "unauthorized_client", "AADSTS700016: Application was not found in the directory.")
				is(t, "refused", b.unwrap(p, key, blob, s), keystore.Misconfigured, "AADSTS700016")
				is(t, "health refused", p.Health(t.Context(), b.correlation()), keystore.Misconfigured)
				b.RefuseLogins(http.StatusServiceUnavailable, "temporarily_unavailable", "AADSTS90033: A transient error has occurred.")
				is(t, "login fails", b.unwrap(p, key, blob, s), keystore.Unavailable)
				b.RefuseLogins(http.StatusTooManyRequests, "temporarily_unavailable", "AADSTS50196: Too many requests.")
				is(t, "login throttled", b.unwrap(p, key, blob, s), keystore.Throttled)
				b.RefuseLogins(0, "", "")
				heal := b.Login().Fault(wire.Fault{Cut: wire.CutBefore})
				is(t, "login cut off", b.unwrap(p, key, blob, s), keystore.Unavailable)
				heal()
				b.must(b.unwrap(p, key, blob, s))
			})
		}
	}
}

func TestAFederatedTokenIsReadAtEveryLogin(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	blob := b.good(p, key, s)
	old, err := os.ReadFile(b.token)
	b.must(err)
	b.Advance(2 * time.Hour) // both tokens have expired for Entra and vault
	is(t, "token file expired", b.unwrap(p, key, blob, s), keystore.Misconfigured, "AADSTS700024")
	b.renewToken(time.Hour)
	b.must(b.unwrap(p, key, blob, s))
	b.RevokeTokens()
	b.write(b.token, old)
	is(t, "token file of yesterday", b.unwrap(p, key, blob, s), keystore.Misconfigured, "AADSTS700024")
	b.must(os.Remove(b.token))
	is(t, "no token file", b.unwrap(p, key, blob, s), keystore.Misconfigured, "token_file")
	b.write(b.token, nil)
	is(t, "empty token file", b.unwrap(p, key, blob, s), keystore.Misconfigured, "empty")
	b.write(b.token, make([]byte, 65<<10))
	is(t, "huge token file", b.unwrap(p, key, blob, s), keystore.Misconfigured, "longer than")
	b.renewToken(time.Hour)
	b.must(b.unwrap(p, key, blob, s))
}

func TestARenewedCertificateIsUsedAtTheNextLogin(t *testing.T) {
	b := start(t, azureserver.Vault)
	key, s := b.newKey(), b.secret()
	app, file, err := b.AddApplication()
	b.must(err)
	b.Assign(app, b.EncryptionUser(), string(key))
	path := filepath.Join(t.TempDir(), "app.pem")
	b.write(path, file)
	p := b.open(b.with(map[string]string{"auth": "certificate", "client_id": app.ClientID, "token_file": "", "certificate_file": path}))
	blob := b.good(p, key, s)
	renewed, err := b.RenewCertificate(app)
	b.must(err)
	b.must(b.unwrap(p, key, blob, s)) // the token still holds
	b.RevokeTokens()
	is(t, "old certificate", b.unwrap(p, key, blob, s), keystore.Misconfigured, "AADSTS700027")
	b.write(path, renewed)
	b.must(b.unwrap(p, key, blob, s))
	// A file that is no certificate is not quoted.
	b.RevokeTokens()
	b.write(path, []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0IHNlY3JldA==\n-----END PRIVATE KEY-----\n"))
	err = b.unwrap(p, key, blob, s)
	is(t, "no certificate", err, keystore.Misconfigured, "certificate_file")
	if strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("the file is quoted: %v", err)
	}
}

// Every variable that Microsoft's libraries or the standard library look at
// leads to a server that counts, or away from the configured one.
func TestI1_TheEnvironmentIsNotUsed(t *testing.T) {
	b := start(t, azureserver.Vault)
	key, s := b.newKey(), b.secret()
	var sprung atomic.Int32
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sprung.Add(1) }))
	defer trap.Close()
	other := b.AddWorkload("system:serviceaccount:other:other")
	stolen := filepath.Join(t.TempDir(), "token")
	b.write(stolen, []byte("not.a.token"))
	for name, value := range map[string]string{
		"AZURE_TENANT_ID": "11111111-1111-1111-1111-111111111111", "AZURE_CLIENT_ID": other.ClientID, "AZURE_CLIENT_SECRET": "secret",
		"AZURE_CLIENT_CERTIFICATE_PATH": stolen, "AZURE_CLIENT_CERTIFICATE_PASSWORD": "x", "AZURE_FEDERATED_TOKEN_FILE": stolen,
		"AZURE_AUTHORITY_HOST": trap.URL, "AZURE_REGIONAL_AUTHORITY_NAME": "westeurope", "MSAL_FORCE_REGION": "westeurope", "REGION_NAME": "westeurope",
		"AZURE_USERNAME": "u", "AZURE_PASSWORD": "p", "AZURE_TOKEN_CREDENTIALS": "prod", "AZURE_ADDITIONALLY_ALLOWED_TENANTS": "*",
		"AZURE_KUBERNETES_TOKEN_PROXY": trap.URL, "AZURE_KUBERNETES_SNI_NAME": "x", "AZURE_KUBERNETES_CA_FILE": stolen,
		"AZURE_POD_IDENTITY_AUTHORITY_HOST": trap.URL, "IDENTITY_ENDPOINT": trap.URL, "IDENTITY_HEADER": "x", "IDENTITY_SERVER_THUMBPRINT": "x",
		"MSI_ENDPOINT": trap.URL, "MSI_SECRET": "x", "IMDS_ENDPOINT": trap.URL,
		"HTTP_PROXY": trap.URL, "HTTPS_PROXY": trap.URL, "ALL_PROXY": trap.URL, "NO_PROXY": "",
	} {
		t.Setenv(name, value)
	}
	for name, settings := range identities(b) {
		before := len(b.Login().Requests())
		b.good(b.open(settings), key, s)
		if len(b.Login().Requests()) == before {
			t.Errorf("%s: the configured service was not asked", name)
		}
	}
	if n := sprung.Load(); n != 0 {
		t.Errorf("%d requests went where the environment says", n)
	}
	for _, r := range b.Login().Requests() {
		if strings.Contains(r.Host, "westeurope") || strings.Contains(string(r.Body), other.ClientID) {
			t.Errorf("the environment is in a login: %s %s", r.Host, r.Path)
		}
	}
	for _, r := range b.Records() {
		if r.CallerAppID == other.ClientID {
			t.Errorf("called as the identity of the environment: %+v", r)
		}
	}
}

// A false Entra ID, or one that somebody sits in front of, must not get the
// assertion sent elsewhere.
func TestI1_ALoginGoesToTheAuthorityOnly(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	var sprung atomic.Int32
	trap := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sprung.Add(1) }))
	defer trap.Close()
	doc, err := json.Marshal(map[string]string{
		"issuer": b.AuthorityURL() + "/" + b.Tenant() + "/v2.0", "token_endpoint": trap.URL + "/token", "authorization_endpoint": trap.URL + "/authorize",
	})
	b.must(err)
	heal := b.Login().Fault(wire.Fault{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: string(doc)})
	_, err = b.wrap(p, key, s)
	is(t, "token endpoint elsewhere", err, keystore.Misconfigured, "refused")
	heal()
	// Redirects of the vault are not followed, with a token in hand or without.
	heal = b.HTTP().Fault(wire.Fault{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {trap.URL}}})
	_, err = b.wrap(p, key, s)
	is(t, "redirect", err, keystore.Misconfigured, "307")
	heal()
	blob := b.good(p, key, s)
	heal = b.HTTP().Fault(wire.Fault{Status: http.StatusTemporaryRedirect, Header: http.Header{"Location": {trap.URL}}})
	is(t, "redirect with a token", b.unwrap(p, key, blob, s), keystore.Misconfigured, "307")
	heal()
	if n := sprung.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

func TestAVaultMayAskOnlyForTokensOfItsOwnDomainAndTenant(t *testing.T) {
	b := start(t, azureserver.Vault)
	key, s := b.newKey(), b.secret()
	_, err := b.wrap(b.open(b.with(map[string]string{"challenge_resource": "verified"})), key, s)
	is(t, "resource of another domain", err, keystore.Misconfigured, "challenge")
	if n := b.Logins(); n != 0 {
		t.Errorf("%d logins for a challenge that was refused", n)
	}
	p := b.open(b.with(map[string]string{"tenant_id": "11111111-1111-1111-1111-111111111111"}))
	_, err = b.wrap(p, key, s)
	is(t, "another tenant", err, keystore.Misconfigured, "the vault belongs to the tenant", b.Tenant())
	if n := len(b.Login().Requests()); n != 0 {
		t.Errorf("%d requests to Entra ID for challenges that were refused", n)
	}
	heal := b.HTTP().Fault(wire.Fault{Status: http.StatusUnauthorized})
	_, err = b.wrap(b.open(b.settings), key, s)
	is(t, "no challenge", err, keystore.Misconfigured)
	heal()
}

func TestMetadataServiceAnswersAreClassified(t *testing.T) {
	b := start(t, azureserver.Vault)
	key, s := b.newKey(), b.secret()
	settings := b.with(map[string]string{"auth": "managed", "client_id": "", "tenant_id": "", "token_file": "", "imds_endpoint": b.MetadataURL()})
	_, err := b.wrap(b.open(settings), key, s)
	is(t, "machine without identity", err, keystore.Misconfigured, "Identity not found")
	for status, class := range map[int]keystore.Class{
		http.StatusNotFound: keystore.Unavailable, http.StatusGone: keystore.Unavailable, http.StatusInternalServerError: keystore.Unavailable,
		http.StatusForbidden: keystore.Misconfigured, http.StatusTooManyRequests: keystore.Throttled, http.StatusOK: keystore.Unavailable,
	} {
		heal := b.Login().Fault(wire.Fault{Status: status, Body: `{}`})
		_, err := b.wrap(b.open(settings), key, s)
		is(t, http.StatusText(status), err, class)
		heal()
	}
}

// A vault behind a certificate of nobody's gets no token and no key.
func TestAVaultWithAForeignCertificateIsUnavailable(t *testing.T) {
	b := start(t, azureserver.Vault)
	foreign := start(t, azureserver.Vault)
	key, s := b.newKey(), b.secret()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	b.write(ca, foreign.CA())
	_, err := b.wrap(b.open(b.with(map[string]string{"ca_file": ca})), key, s)
	is(t, "foreign certificate", err, keystore.Unavailable, "certificate")
	var e *keystore.Error
	if errors.As(err, &e) && e.RequestID != "" {
		t.Errorf("request id %q without an answer", e.RequestID)
	}
}
