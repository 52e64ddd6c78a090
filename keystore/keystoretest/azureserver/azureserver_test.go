package azureserver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a server, an identity and Microsoft's client of it.
type node struct {
	*azureserver.Server

	t      *testing.T
	id     *azureserver.Identity
	http   *http.Client
	client *azkeys.Client
}

type static struct{ azcore.AccessToken }

func (s static) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return s.AccessToken, nil
}

func start(t *testing.T, flavour azureserver.Flavour) *node {
	t.Helper()
	srv, err := azureserver.Start(t.Context(), azureserver.Options{Flavour: flavour})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(srv.CA())
	n := &node{Server: srv, t: t, id: srv.AddWorkload("system:serviceaccount:a:b")}
	n.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(func() {
		n.http.CloseIdleConnections()
		for range 2 {
			if err := srv.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	token, expires, err := srv.AccessToken(n.id)
	n.must(err)
	n.client, err = azkeys.NewClient(srv.VaultURL(), static{azcore.AccessToken{Token: token, ExpiresOn: expires}}, &azkeys.ClientOptions{
		DisableChallengeResourceVerification: true,
		ClientOptions:                        azcore.ClientOptions{Transport: n.http, Retry: policy.RetryOptions{MaxRetries: -1}},
	})
	n.must(err)
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// refused checks status and inner code.
func (n *node) refused(what string, err error, status int, inner string) {
	n.t.Helper()
	var e *azcore.ResponseError
	if !errors.As(err, &e) || e.StatusCode != status {
		n.t.Errorf("%s: %v, want status %d", what, err, status)
		return
	}
	var doc struct {
		Error struct {
			Inner struct {
				Code string `json:"code"`
			} `json:"innererror"`
		} `json:"error"`
	}
	body, err := runtime.Payload(e.RawResponse)
	n.must(err)
	n.must(json.Unmarshal(body, &doc))
	if doc.Error.Inner.Code != inner {
		n.t.Errorf("%s: inner code %q, want %q", what, doc.Error.Inner.Code, inner)
	}
}

func (n *node) wrap(name, version string, value []byte) (azkeys.KeyOperationResult, error) {
	alg := azkeys.EncryptionAlgorithmRSAOAEP256
	if n.Flavour() == azureserver.ManagedHSM {
		alg = azkeys.EncryptionAlgorithmA256KW
	}
	res, err := n.client.WrapKey(n.t.Context(), name, version, azkeys.KeyOperationParameters{Algorithm: &alg, Value: value}, nil)
	return res.KeyOperationResult, err
}

func (n *node) unwrap(name, version string, value []byte) ([]byte, error) {
	alg := azkeys.EncryptionAlgorithmRSAOAEP256
	if n.Flavour() == azureserver.ManagedHSM {
		alg = azkeys.EncryptionAlgorithmA256KW
	}
	res, err := n.client.UnwrapKey(n.t.Context(), name, version, azkeys.KeyOperationParameters{Algorithm: &alg, Value: value}, nil)
	return res.Result, err
}

func (n *node) create(name string) {
	n.t.Helper()
	if n.Flavour() == azureserver.ManagedHSM {
		n.must(n.CreateAES(name))
		return
	}
	n.must(n.CreateRSA(name, 2048))
}

// The client of Microsoft takes the server for a vault, and the cryptography is real.
func TestKeysHaveALifeAsTheDocumentsSay(t *testing.T) {
	for _, flavour := range []azureserver.Flavour{azureserver.Vault, azureserver.ManagedHSM} {
		t.Run(flavour.String(), func(t *testing.T) {
			n := start(t, flavour)
			n.create("k")
			n.Assign(n.id, n.EncryptionUser(), "")
			value := make([]byte, 32)
			_, err := rand.Read(value)
			n.must(err)
			first, err := n.wrap("k", "", value)
			n.must(err)
			v1 := first.KID.Version()
			open := func(what string, res azkeys.KeyOperationResult) {
				t.Helper()
				got, err := n.unwrap("k", res.KID.Version(), res.Result)
				if err != nil || !bytes.Equal(got, value) {
					t.Errorf("%s: %x, %v", what, got, err)
				}
			}
			open("at once", first)
			n.must(n.Rotate("k"))
			second, err := n.wrap("k", "", value)
			n.must(err)
			if second.KID.Version() == v1 || second.KID.Name() != "k" {
				t.Errorf("identifiers %s and %s", *first.KID, *second.KID)
			}
			open("after a rotation", first)
			open("of the new version", second)
			_, err = n.unwrap("k", v1, second.Result)
			n.refused("another version's", err, http.StatusBadRequest, "")
			_, err = n.unwrap("k", strings.Repeat("0", 32), second.Result)
			n.refused("a version that never was", err, http.StatusNotFound, "")
			n.must(n.SetVersionEnabled("k", v1, false))
			_, err = n.unwrap("k", v1, first.Result)
			n.refused("a disabled version's", err, http.StatusForbidden, "KeyDisabled")
			open("beside a disabled version", second)
			n.must(n.SetEnabled("k", false))
			_, err = n.wrap("k", "", value)
			n.refused("disabled", err, http.StatusForbidden, "KeyDisabled")
			got, err := n.client.GetKey(t.Context(), "k", v1, nil)
			n.must(err)
			if *got.Attributes.Enabled {
				t.Error("a disabled version says that it is enabled")
			}
			n.must(n.SetEnabled("k", true))
			n.must(n.Delete("k"))
			_, err = n.unwrap("k", v1, first.Result)
			n.refused("deleted", err, http.StatusNotFound, "")
			if err := n.Delete("k"); !errors.Is(err, azureserver.ErrNotFound) {
				t.Errorf("deleted twice: %v", err)
			}
			if err := n.CreateRSA("k", 2048); !errors.Is(err, azureserver.ErrConflict) {
				t.Errorf("made over a deleted one: %v", err)
			}
			n.must(n.Recover("k"))
			open("recovered", first)
			if err := n.Purge("k"); !errors.Is(err, azureserver.ErrNotFound) {
				t.Errorf("purged without being deleted: %v", err)
			}
			n.must(n.Delete("k"))
			n.must(n.Purge("k"))
			n.create("k")
			_, err = n.unwrap("k", v1, first.Result)
			n.refused("purged", err, http.StatusNotFound, "")
		})
	}
}

// The public part is that of the private one: what is wrapped outside with
// standard RSA-OAEP opens inside.
func TestTheRSAKeyIsReal(t *testing.T) {
	n := start(t, azureserver.Vault)
	n.create("k")
	n.Assign(n.id, n.EncryptionUser(), "k")
	got, err := n.client.GetKey(t.Context(), "k", "", nil)
	n.must(err)
	pub := &rsa.PublicKey{N: new(big.Int).SetBytes(got.Key.N), E: int(new(big.Int).SetBytes(got.Key.E).Int64())}
	c, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, []byte("outside"), nil)
	n.must(err)
	out, err := n.unwrap("k", got.Key.KID.Version(), c)
	if err != nil || string(out) != "outside" {
		t.Errorf("%q, %v", out, err)
	}
	if err := n.CreateAES("aes"); err == nil {
		t.Error("a Key Vault made an AES key")
	}
}

// Authenticated, then authorised, then executed, and recorded each time.
func TestI1_EveryRequestIsJudgedAndRecorded(t *testing.T) {
	n := start(t, azureserver.Vault)
	n.create("k")
	ask := func(token string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.VaultURL()+"/keys/k?api-version=7.4", nil)
		n.must(err)
		r.Header.Set("x-ms-client-request-id", "id-1")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := n.http.Do(r)
		n.must(err)
		n.must(resp.Body.Close())
		if resp.StatusCode == http.StatusUnauthorized && !strings.Contains(resp.Header.Get("WWW-Authenticate"), `resource="https://vault.azure.net"`) {
			t.Errorf("challenge %q", resp.Header.Get("WWW-Authenticate"))
		}
		if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
			t.Error("throttled without a time to retry after")
		}
		last := n.Records()[len(n.Records())-1]
		if last.HTTPStatusCode != resp.StatusCode || last.CorrelationID != "id-1" || last.RequestID == "" || last.RequestID != resp.Header.Get("x-ms-request-id") {
			t.Errorf("record %+v of an answer %d", last, resp.StatusCode)
		}
		return resp.StatusCode
	}
	good, _, err := n.AccessToken(n.id)
	n.must(err)
	foreign := start(t, azureserver.Vault)
	other, _, err := foreign.AccessToken(foreign.id)
	n.must(err)
	hsm := start(t, azureserver.ManagedHSM)
	hsmToken, _, err := hsm.AccessToken(hsm.id)
	n.must(err)
	for name, token := range map[string]string{"none": "", "garbage": "x", "another tenant's": other, "another service's": hsmToken, "changed": good[:len(good)-8] + "AAAAAAAA"} {
		if got := ask(token); got != http.StatusUnauthorized {
			t.Errorf("token %s: %d", name, got)
		}
	}
	if got := ask(good); got != http.StatusForbidden {
		t.Errorf("without a role: %d", got)
	}
	n.Assign(n.id, n.EncryptionUser(), "k")
	if got := ask(good); got != http.StatusOK {
		t.Errorf("with the role: %d", got)
	}
	n.Advance(2 * time.Hour)
	if got := ask(good); got != http.StatusUnauthorized {
		t.Errorf("expired: %d", got)
	}
	n.Advance(-4 * time.Hour)
	if got := ask(good); got != http.StatusUnauthorized {
		t.Errorf("not valid yet: %d", got)
	}
	n.Advance(2 * time.Hour)
	n.RevokeTokens()
	if got := ask(good); got != http.StatusUnauthorized {
		t.Errorf("revoked: %d", got)
	}
	n.Throttle(true)
	if got := ask(good); got != http.StatusTooManyRequests {
		t.Errorf("throttled: %d", got)
	}
}

// The role for wrapping does none of the owner's operations, and what has no
// handler says so.
func TestTheRoleIsNotTheOwners(t *testing.T) {
	n := start(t, azureserver.Vault)
	n.create("k")
	n.Assign(n.id, n.EncryptionUser(), "")
	kty := azkeys.KeyTypeRSA
	_, err := n.client.CreateKey(t.Context(), "new", azkeys.CreateKeyParameters{Kty: &kty}, nil)
	n.refused("create", err, http.StatusForbidden, "ForbiddenByRbac")
	_, err = n.client.DeleteKey(t.Context(), "k", nil)
	n.refused("delete", err, http.StatusForbidden, "ForbiddenByRbac")
	_, err = n.client.RotateKey(t.Context(), "k", nil)
	n.refused("rotate", err, http.StatusForbidden, "ForbiddenByRbac")
	_, err = n.client.UpdateKey(t.Context(), "k", "", azkeys.UpdateKeyParameters{}, nil)
	n.refused("update", err, http.StatusForbidden, "ForbiddenByRbac")
	_, err = n.client.ImportKey(t.Context(), "k", azkeys.ImportKeyParameters{Key: &azkeys.JSONWebKey{Kty: &kty}}, nil)
	n.refused("import", err, http.StatusForbidden, "ForbiddenByRbac")
	n.Assign(n.id, azureserver.Role{Name: "creator", Actions: []string{"keys/create/action"}}, "")
	_, err = n.client.CreateKey(t.Context(), "new", azkeys.CreateKeyParameters{Kty: &kty}, nil)
	n.refused("create without a handler", err, http.StatusNotImplemented, "")
}

func TestI3_RecordsDoNotHoldWhatIsWrapped(t *testing.T) {
	n := start(t, azureserver.ManagedHSM)
	n.create("k")
	n.Assign(n.id, n.EncryptionUser(), "k")
	value := bytes.Repeat([]byte("SECRETS!"), 4)
	res, err := n.wrap("k", "", value)
	n.must(err)
	_, err = n.unwrap("k", "", res.Result)
	n.must(err)
	text, err := json.Marshal(n.Records())
	n.must(err)
	if !bytes.Contains(text, []byte("KeyUnwrap")) || bytes.Contains(text, []byte("SECRETS")) || bytes.Contains(text, []byte("U0VDUkVU")) {
		t.Errorf("%s", text)
	}
}

// login asks the token endpoint.
func (n *node) login(form url.Values) (int, string) {
	n.t.Helper()
	r, err := http.NewRequestWithContext(n.t.Context(), http.MethodPost, n.AuthorityURL()+"/"+n.Tenant()+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	n.must(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := n.http.Do(r)
	n.must(err)
	body, err := io.ReadAll(resp.Body)
	n.must(errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, string(body)
}

func TestAnAssertionIsVerified(t *testing.T) {
	n := start(t, azureserver.Vault)
	other := n.AddWorkload("system:serviceaccount:c:d")
	good, err := n.FederatedToken(n.id, time.Hour)
	n.must(err)
	foreign, err := n.FederatedToken(other, time.Hour)
	n.must(err)
	old, err := n.FederatedToken(n.id, -time.Minute)
	n.must(err)
	stranger, err := start(t, azureserver.Vault).FederatedToken(n.id, time.Hour)
	n.must(err)
	form := func(client, assertion string, change ...string) url.Values {
		v := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {client}, "scope": {"https://vault.azure.net/.default openid"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion},
		}
		for i := 0; i < len(change); i += 2 {
			v.Set(change[i], change[i+1])
		}
		return v
	}
	for name, c := range map[string]struct {
		form   url.Values
		status int
		text   string
	}{
		"good":                     {form(n.id.ClientID, good), http.StatusOK, "access_token"},
		"of another subject":       {form(n.id.ClientID, foreign), http.StatusUnauthorized, "AADSTS700024"},
		"expired":                  {form(n.id.ClientID, old), http.StatusUnauthorized, "AADSTS700024"},
		"of another cluster":       {form(n.id.ClientID, stranger), http.StatusUnauthorized, "AADSTS700027"},
		"unsigned":                 {form(n.id.ClientID, "eyJhbGciOiJub25lIn0.e30."), http.StatusUnauthorized, "AADSTS50027"},
		"unknown application":      {form("x", good), http.StatusBadRequest, "AADSTS700016"},
		"another resource":         {form(n.id.ClientID, good, "scope", "https://graph.microsoft.com/.default"), http.StatusBadRequest, "AADSTS500011"},
		"with a secret":            {form(n.id.ClientID, good, "client_assertion_type", ""), http.StatusBadRequest, "AADSTS70003"},
		"another grant":            {form(n.id.ClientID, good, "grant_type", "password"), http.StatusBadRequest, "AADSTS70003"},
		"identity of the machines": {form(n.AddManaged().ClientID, good), http.StatusUnauthorized, "AADSTS700213"},
	} {
		if status, text := n.login(c.form); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
}

func TestTheMetadataServiceWantsItsHeader(t *testing.T) {
	n := start(t, azureserver.Vault)
	id := n.AddManaged()
	ask := func(query string, header ...string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.MetadataURL()+"/metadata/identity/oauth2/token?"+query, nil)
		n.must(err)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := n.http.Do(r)
		n.must(err)
		n.must(resp.Body.Close())
		return resp.StatusCode
	}
	q := "api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
	for name, got := range map[string][2]int{
		"good":            {ask(q, "Metadata", "true"), http.StatusOK},
		"by client id":    {ask(q+"&client_id="+id.ClientID, "Metadata", "true"), http.StatusOK},
		"no header":       {ask(q), http.StatusBadRequest},
		"forwarded":       {ask(q, "Metadata", "true", "X-Forwarded-For", "1.1.1.1"), http.StatusBadRequest},
		"another version": {ask("api-version=2017&resource=https%3A%2F%2Fvault.azure.net", "Metadata", "true"), http.StatusBadRequest},
		"another client":  {ask(q+"&client_id="+n.id.ClientID, "Metadata", "true"), http.StatusBadRequest},
		"another service": {ask("api-version=2018-02-01&resource=https%3A%2F%2Fgraph.microsoft.com", "Metadata", "true"), http.StatusBadRequest},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d, want %d", name, got[0], got[1])
		}
	}
	n.AddManaged()
	if got := ask(q, "Metadata", "true"); got != http.StatusBadRequest {
		t.Errorf("two identities and none named: %d", got)
	}
}

func TestTheServerEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv, err := azureserver.Start(ctx, azureserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := srv.Close(); err != nil { // waits for the end that the context began
		t.Error(err)
	}
	if _, err := (&tls.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(srv.VaultURL(), "https://")); err == nil {
		t.Error("it still listens")
	}
}

func TestI2_TheServicesAreOnTheLoopbackOnly(t *testing.T) {
	n := start(t, azureserver.Vault)
	for _, u := range []string{n.VaultURL(), n.AuthorityURL(), n.MetadataURL(), "https://" + n.Link().Addr()} {
		parsed, err := url.Parse(u)
		n.must(err)
		if parsed.Hostname() != "127.0.0.1" {
			t.Errorf("%s", u)
		}
	}
}
