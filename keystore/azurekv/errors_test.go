//go:build !noazurekv

package azurekv_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/azurekv"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// Each answer that the documents of the vault know, and what it means. The look
// at the key that some need is answered alike.
func TestI3_AnswersAreClassified(t *testing.T) {
	for _, c := range []struct {
		status      int
		code, inner string
		class       keystore.Class
	}{
		{http.StatusForbidden, "Forbidden", "KeyDisabled", keystore.Denied},
		{http.StatusForbidden, "Forbidden", "ForbiddenByRbac", keystore.Denied},
		{http.StatusForbidden, "Forbidden", "AccessDenied", keystore.Denied},
		{http.StatusForbidden, "Forbidden", "KeyOperationForbidden", keystore.Denied},
		{http.StatusForbidden, "Forbidden", "ForbiddenByFirewall", keystore.Misconfigured},
		{http.StatusForbidden, "Forbidden", "ForbiddenByConnection", keystore.Misconfigured},
		{http.StatusForbidden, "Forbidden", "ForbiddenByPolicy", keystore.Misconfigured},
		{http.StatusForbidden, "Forbidden", "", keystore.Misconfigured},
		{http.StatusForbidden, "Forbidden", "SomethingNew", keystore.Misconfigured},
		{http.StatusNotFound, "KeyNotFound", "", keystore.Denied},
		{http.StatusBadRequest, "BadParameter", "", keystore.Misconfigured},
		{http.StatusUnauthorized, "Unauthorized", "", keystore.Misconfigured},
		{http.StatusConflict, "Conflict", "", keystore.Misconfigured},
		{http.StatusFound, "Moved", "", keystore.Misconfigured},
		{http.StatusTooManyRequests, "Throttled", "", keystore.Throttled},
		{http.StatusRequestTimeout, "Timeout", "", keystore.Unavailable},
		{http.StatusInternalServerError, "InternalError", "", keystore.Unavailable},
		{http.StatusServiceUnavailable, "ServiceUnavailable", "", keystore.Unavailable},
	} {
		t.Run(strings.TrimSpace(http.StatusText(c.status)+" "+c.inner), func(t *testing.T) {
			b := start(t, azureserver.Vault)
			p, key, s := b.open(b.settings), b.newKey(), b.secret()
			blob := b.good(p, key, s)
			b.Answer(c.status, c.code, c.inner)
			_, err := b.wrap(p, key, s)
			is(t, "wrap", err, c.class)
			err = b.unwrap(p, key, blob, s)
			is(t, "unwrap", err, c.class)
			var e *keystore.Error
			if !errors.As(err, &e) || e.RequestID == "" {
				t.Errorf("no request id in %v", err)
			}
			b.Answer(0, "", "")
			b.must(b.unwrap(p, key, blob, s))
		})
	}
}

// A 403 that is not understood, and one for the operation only, are settled by
// a look at the key.
func TestI3_AnUnknownRefusalIsDeniedOnlyWhenTheKeyIsDisabled(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	blob := b.good(p, key, s)
	heal := b.HTTP().Fault(wire.Fault{
		Match:  func(r *http.Request) bool { return r.Method == http.MethodPost },
		Status: http.StatusForbidden, Body: `{"error":{"code":"Forbidden","message":"no","innererror":{"code":"SomethingNew"}}}`,
	})
	is(t, "enabled", b.unwrap(p, key, blob, s), keystore.Misconfigured, "SomethingNew", "enabled")
	b.must(b.SetEnabled(string(key), false))
	is(t, "disabled", b.unwrap(p, key, blob, s), keystore.Denied, "disabled")
	heal()
}

// What is found on the second look was not withdrawn.
func TestI3_OneNotFoundIsNoWithdrawal(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	blob := b.good(p, key, s)
	missing := wire.Fault{
		Match:  func(r *http.Request) bool { return r.Method == http.MethodPost },
		Status: http.StatusNotFound, Body: `{"error":{"code":"KeyNotFound","message":"gone"}}`,
	}
	heal := b.HTTP().Fault(missing)
	_, err := b.wrap(p, key, s)
	is(t, "wrap", err, keystore.Misconfigured)
	is(t, "unwrap", b.unwrap(p, key, blob, s), keystore.Corrupt)
	// A look that gets no answer settles nothing.
	healLook := b.HTTP().Fault(wire.Fault{Match: func(r *http.Request) bool { return r.Method == http.MethodGet }, Cut: wire.CutBefore})
	is(t, "unwrap without a look", b.unwrap(p, key, blob, s), keystore.Unavailable, "second look")
	healLook()
	heal()
	b.must(b.unwrap(p, key, blob, s))
}

// An answer about another key, or none, is no answer.
func TestAnAnswerOfAnotherKeyIsNone(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	b.good(p, key, s)
	for name, body := range map[string]string{
		"another key":     `{"kid":"https://v/keys/other/` + unknownVersion + `","value":"AAAA"}`,
		"no version":      `{"kid":"https://v/keys/tenant-1","value":"AAAA"}`,
		"another version": `{"kid":"https://v/keys/tenant-1/latest","value":"AAAA"}`,
		"not a key":       `{"kid":"https://v/secrets/tenant-1/` + unknownVersion + `","value":"AAAA"}`,
		"no kid":          `{"value":"AAAA"}`,
		"no value":        `{"kid":"https://v/keys/tenant-1/` + unknownVersion + `"}`,
		"no key":          `{}`,
	} {
		heal := b.HTTP().Fault(wire.Fault{Status: http.StatusOK, Body: body})
		_, err := b.wrap(p, key, s)
		is(t, "wrap: "+name, err, keystore.Unavailable)
		_, err = b.wrap(b.open(b.settings), key, s)
		is(t, "first wrap: "+name, err, keystore.Unavailable)
		_, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
		is(t, "describe: "+name, err, keystore.Unavailable)
		heal()
	}
	b.good(p, key, s)
}

// The trap of the type: a blob is pinned to the version that wrapped it.
func TestADisabledVersionIsDeniedAndNamed(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	old := b.good(p, key, s)
	b.must(b.Rotate(string(key)))
	fresh := b.good(p, key, s)
	versions, err := b.Versions(string(key))
	b.must(err)
	b.must(b.SetVersionEnabled(string(key), versions[0], false))
	is(t, "the old version", b.unwrap(p, key, old, s), keystore.Denied, "KeyDisabled", versions[0])
	b.must(b.unwrap(p, key, fresh, s))
	b.good(p, key, s)
	b.must(b.SetVersionEnabled(string(key), versions[0], true))
	b.must(b.unwrap(p, key, old, s))
	// The newest one disabled stops wrapping, and nothing falls back to an older one.
	b.must(b.SetVersionEnabled(string(key), versions[1], false))
	_, err = b.wrap(p, key, s)
	is(t, "wrap", err, keystore.Denied, "KeyDisabled")
	b.must(b.unwrap(p, key, old, s))
}

func TestADeletedKeyComesBackByRecoveryAndAPurgedOneDoesNot(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	blob := b.good(p, key, s)
	b.must(b.Delete(string(key)))
	is(t, "deleted", b.unwrap(p, key, blob, s), keystore.Denied, "deleted, or never was")
	b.must(b.Recover(string(key)))
	b.must(b.unwrap(p, key, blob, s))
	b.must(b.Delete(string(key)))
	if err := b.CreateRSA(string(key), rsaBits); !errors.Is(err, azureserver.ErrConflict) {
		t.Errorf("the name of a deleted key is free: %v", err)
	}
	b.must(b.Purge(string(key)))
	b.create(string(key))
	// Another key of this name: the blob is not of it, and nobody withdrew it.
	is(t, "made again", b.unwrap(p, key, blob, s), keystore.Corrupt, "does not have the version")
}

func TestAKeyWhoseOperationsWereTakenAwayIsDenied(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	blob := b.good(p, key, s)
	b.must(b.SetOperations(string(key), azkeys.KeyOperationSign))
	_, err := b.wrap(p, key, s)
	is(t, "wrap", err, keystore.Denied, "KeyOperationForbidden")
	is(t, "unwrap", b.unwrap(p, key, blob, s), keystore.Denied, "KeyOperationForbidden")
	// Before anything was wrapped under it, it is the wrong key.
	_, err = b.wrap(b.open(b.settings), key, s)
	is(t, "first wrap", err, keystore.Misconfigured, "does not wrap")
}

// The custom role of the page has the data actions of the built-in one, which
// is what the tests assign.
func TestThePagesRoleIsTheTestedOne(t *testing.T) {
	page, err := os.ReadFile("../../docs/keystores/azurekv.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```json\n")
	text, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the page has no role")
	}
	var role struct {
		Name, Description string
		Actions           []string
		DataActions       []string
		AssignableScopes  []string
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&role); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range role.DataActions {
		got = append(got, strings.TrimPrefix(a, "Microsoft.KeyVault/vaults/"))
	}
	if diff := cmp.Diff(azureserver.CryptoServiceEncryptionUser.Actions, got); diff != "" || len(role.Actions) != 0 {
		t.Errorf("actions %v, data actions (-tested +page):\n%s", role.Actions, diff)
	}
}

// The documented role, action by action: each is needed for what the document says.
func TestLeastPrivilege(t *testing.T) {
	for _, flavour := range []azureserver.Flavour{azureserver.Vault, azureserver.ManagedHSM} {
		t.Run(flavour.String(), func(t *testing.T) {
			b := start(t, flavour)
			p, s := b.open(b.settings), b.secret()
			key := b.newKey()
			blob := b.good(p, key, s)
			role := b.EncryptionUser()
			for i, action := range role.Actions {
				var rest []string
				rest = append(append(rest, role.Actions[:i]...), role.Actions[i+1:]...)
				b.Unassign(b.id, string(key))
				b.Assign(b.id, azureserver.Role{Name: "less", Actions: rest}, string(key))
				_, werr := b.wrap(p, key, s)
				uerr := b.unwrap(p, key, blob, s)
				_, derr := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
				for name, c := range map[string]struct {
					err  error
					lost bool
				}{
					"wrap": {werr, strings.Contains(action, "/wrap")}, "unwrap": {uerr, strings.Contains(action, "/unwrap")}, "describe": {derr, strings.Contains(action, "/read")},
				} {
					if c.lost {
						is(t, name+" without "+action, c.err, keystore.Denied, "ForbiddenByRbac")
					} else if c.err != nil {
						t.Errorf("%s without %s: %v", name, action, c.err)
					}
				}
			}
			// Without read, a provider that does not know the key's type takes it
			// for RSA. What it cannot find out is never a withdrawal.
			b.Unassign(b.id, string(key))
			b.Assign(b.id, azureserver.Role{Name: "less", Actions: role.Actions[1:]}, string(key))
			q := b.open(b.settings)
			_, err := b.wrap(q, key, s)
			if flavour == azureserver.Vault {
				b.must(err)
			} else {
				is(t, "first wrap with an AES key without read", err, keystore.Misconfigured, "second look", "ForbiddenByRbac")
			}
			b.must(b.unwrap(q, key, blob, s))
			bad := append(bytes.Clone(blob[:60]), blob[60:]...)
			bad[60] ^= 1
			is(t, "changed blob without read", b.unwrap(q, key, bad, s), keystore.Misconfigured, "second look", "ForbiddenByRbac")
			b.Unassign(b.id, string(key))
			_, err = b.wrap(b.open(b.settings), key, s)
			is(t, "first wrap without a role", err, keystore.Denied, "ForbiddenByRbac")
			// The role does not reach another key, nor the vault.
			b.create("foreign")
			_, err = b.wrap(p, "foreign", s)
			is(t, "another key", err, keystore.Denied, "ForbiddenByRbac")
			b.must(p.Health(t.Context(), b.correlation()))
		})
	}
}

// The owner may make a version of another type: what was found out is found out again.
func TestI4_AVersionOfAnotherTypeWrapsWithItsOwnMechanism(t *testing.T) {
	b := start(t, azureserver.ManagedHSM)
	p, s := b.open(b.settings), b.secret()
	key := keystore.KeyRef("changing")
	b.must(b.CreateRSA("changing", rsaBits))
	b.Assign(b.id, b.EncryptionUser(), "changing")
	blobs := [][]byte{b.good(p, key, s)}
	b.must(b.CreateAES("changing"))
	blobs = append(blobs, b.good(p, key, s))
	b.must(b.CreateRSA("changing", rsaBits))
	blobs = append(blobs, b.good(p, key, s))
	for _, blob := range blobs {
		b.must(b.unwrap(p, key, blob, s))
	}
	for i, want := range []keystore.KeyKind{keystore.KindAsymmetric, keystore.KindSymmetric, keystore.KindAsymmetric} {
		versions, err := b.Versions("changing")
		b.must(err)
		d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: keystore.KeyRef(b.VaultURL() + "/keys/changing/" + versions[i])})
		b.must(err)
		if d.Kind != want || d.Protection != keystore.ProtectionHSM || string(d.KeyVersion) != versions[i] {
			t.Errorf("version %d: %+v", i, d)
		}
	}
}

func TestDescribeTellsTheProtection(t *testing.T) {
	b := start(t, azureserver.Vault)
	b.must(b.CreateSoftwareRSA("soft", rsaBits))
	b.Assign(b.id, b.EncryptionUser(), "soft")
	p := b.open(b.settings)
	d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: "soft"})
	b.must(err)
	if d.Protection != keystore.ProtectionSoftware || d.Mechanism != "RSA-OAEP-256" || d.Kind != keystore.KindAsymmetric || d.State != keystore.StateEnabled || d.Key != keystore.KeyRef(b.VaultURL()+"/keys/soft") {
		t.Errorf("%+v", d)
	}
}

// A restore of the vault's backup elsewhere keeps name and version: the binding
// does not name the vault, and a vault that has other material does not open.
func TestReferencesOfOneKeyAreOneKey(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	res, err := b.wrap(p, key, s)
	b.must(err)
	full := keystore.KeyRef(b.VaultURL() + "/keys/" + string(key))
	for _, ref := range []keystore.KeyRef{key, keystore.KeyRef(strings.ToUpper(string(key))), full, full + "/" + keystore.KeyRef(res.KeyVersion)} {
		if err := b.unwrap(p, ref, res.Blob, s); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
	b.must(b.Rotate(string(key)))
	pinned := full + "/" + keystore.KeyRef(res.KeyVersion)
	again, err := b.wrap(p, pinned, s)
	b.must(err)
	if again.KeyVersion != res.KeyVersion {
		t.Errorf("wrapped with %s under a reference that names %s", again.KeyVersion, res.KeyVersion)
	}
	fresh, err := b.wrap(p, key, s)
	b.must(err)
	is(t, "blob of another version", b.unwrap(p, pinned, fresh.Blob, s), keystore.Misconfigured, string(res.KeyVersion))
}

func TestI1_AReferenceLeadsNowhereElse(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, s := b.open(b.settings), b.secret()
	for _, ref := range []string{
		"https://evil.vault.azure.net/keys/tenant-1", "https://127.0.0.1/keys/tenant-1", "http://" + b.VaultURL()[8:] + "/keys/tenant-1",
		b.VaultURL() + "/secrets/tenant-1", b.VaultURL() + "/keys/", b.VaultURL() + "/keys/a/b/c", b.VaultURL() + "/keys/a?x=1", b.VaultURL() + "/keys/a#x",
		b.VaultURL() + "/keys/a/latest", b.VaultURL() + "/keys/%2e%2e", "https://u@" + b.VaultURL()[8:] + "/keys/a", "../a", "a/b", "a b", "a.b", "schlüssel", strings.Repeat("a", 128),
	} {
		before := len(b.HTTP().Requests())
		_, err := b.wrap(p, keystore.KeyRef(ref), s)
		is(t, ref, err, keystore.Misconfigured)
		if n := len(b.HTTP().Requests()) - before; n != 0 {
			t.Errorf("%s: %d requests", ref, n)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	b := start(t, azureserver.Vault)
	for name, c := range map[string]struct {
		change map[string]string
		text   string
	}{
		"no vault":                 {map[string]string{"vault": ""}, "vault"},
		"vault over http":          {map[string]string{"vault": "http://a.vault.azure.net"}, "https://HOST"},
		"vault with a path":        {map[string]string{"vault": "https://a.vault.azure.net/keys"}, "https://HOST"},
		"vault with a user":        {map[string]string{"vault": "https://u:p@a.vault.azure.net"}, "https://HOST"},
		"no auth":                  {map[string]string{"auth": ""}, "auth"},
		"unknown auth":             {map[string]string{"auth": "default"}, "workload or certificate or managed"},
		"no tenant":                {map[string]string{"tenant_id": ""}, "needs tenant_id"},
		"tenant by name":           {map[string]string{"tenant_id": "contoso.onmicrosoft.com"}, "not a UUID"},
		"client by name":           {map[string]string{"client_id": "krypton"}, "not a UUID"},
		"no token file":            {map[string]string{"token_file": ""}, "needs token_file"},
		"relative token file":      {map[string]string{"token_file": "token"}, "absolute"},
		"certificate for workload": {map[string]string{"certificate_file": "/x"}, "does not use certificate_file"},
		"tenant for managed":       {map[string]string{"auth": "managed", "token_file": ""}, "does not use tenant_id"},
		"challenge anywhere":       {map[string]string{"vault": "https://a.vault.azure.net"}, "loopback"},
		"challenge by name":        {map[string]string{"vault": "https://localhost:1"}, "loopback"},
		"unknown challenge":        {map[string]string{"challenge_resource": "no"}, "want verified or unverified"},
		"authority over http":      {map[string]string{"authority": "http://login.microsoftonline.com"}, "https://HOST"},
		"no CA":                    {map[string]string{"ca_file": "/does/not/exist"}, "ca_file"},
		"CA without certificate":   {map[string]string{"ca_file": b.token}, "no certificate"},
		"KEK with a path":          {map[string]string{"import_kek": "a/b"}, "import_kek"},
		"unknown setting":          {map[string]string{"client_secret": "x"}, "unknown setting"},
	} {
		p, err := azurekv.New(t.Context(), testEnv(), keystore.Config{Name: providerName, Type: azurekv.Type, Settings: b.with(c.change)})
		if p != nil {
			t.Errorf("%s: opened", name)
		}
		is(t, name, err, keystore.Misconfigured, c.text)
	}
	if n := len(b.HTTP().Requests()) + len(b.Login().Requests()); n != 0 {
		t.Errorf("construction made %d requests", n)
	}
}

func TestI5_TheVaultsLogHasOurIdAndNameAndWeHaveItsId(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, key, s := b.open(b.settings), b.newKey(), b.secret()
	id := b.correlation()
	res, err := p.Wrap(t.Context(), keystore.WrapRequest{Key: key, Secret: s, AAD: aad, Correlation: id})
	b.must(err)
	for _, r := range b.Records() {
		if r.OperationName == "KeyWrap" && r.CorrelationID == string(id) && r.RequestID == string(res.RequestID) {
			if r.CallerObjectID != b.id.ObjectID || r.CallerAppID != b.id.ClientID || !strings.HasPrefix(r.ClientInfo, "krypton ") || !strings.HasSuffix(r.KeyID, "/keys/tenant-1/wrapkey") && !strings.Contains(r.KeyID, "/keys/tenant-1") {
				t.Errorf("%+v", r)
			}
			return
		}
	}
	t.Errorf("no record of %s: %s", id, b.log())
}

func TestI2_UnwrappingNamesTheKeyAndTheBlobOnlyTheVersion(t *testing.T) {
	b := start(t, azureserver.Vault)
	p, one, two, s := b.open(b.settings), b.newKey(), b.newKey(), b.secret()
	res, err := b.wrap(p, one, s)
	b.must(err)
	b.must(b.unwrap(p, one, res.Blob, s))
	before := len(b.HTTP().Requests())
	is(t, "under another key", b.unwrap(p, two, res.Blob, s), keystore.Corrupt)
	requests := b.HTTP().Requests()
	if want := "/keys/" + string(one) + "/" + string(res.KeyVersion) + "/unwrapkey"; requests[before-1].Path != want {
		t.Errorf("asked for %s, want %s", requests[before-1].Path, want)
	}
	for _, r := range requests[before:] {
		if !strings.HasPrefix(r.Path, "/keys/"+string(two)+"/") {
			t.Errorf("a blob of %s under %s led to %s", one, two, r.Path)
		}
	}
}

// Also the connection of a call that was under way when the provider was closed.
func TestCloseLeavesNoConnection(t *testing.T) {
	b := start(t, azureserver.Vault)
	key, s := b.newKey(), b.secret()
	before := goleak.IgnoreCurrent()
	p, err := azurekv.New(t.Context(), testEnv(), keystore.Config{Name: providerName, Type: azurekv.Type, Settings: b.settings})
	b.must(err)
	blob := b.good(p, key, s)
	reached, goOn := make(chan struct{}), make(chan struct{})
	heal := b.HTTP().Fault(wire.Fault{Times: 1, Match: func(*http.Request) bool {
		close(reached)
		<-goOn
		return false
	}})
	done := make(chan error)
	go func() { done <- b.unwrap(p, key, blob, s) }()
	<-reached
	b.must(p.Close())
	close(goOn)
	b.must(<-done)
	heal()
	if err := goleak.Find(append(leaktest.Known(), before)...); err != nil {
		t.Error(err)
	}
}

// The look that comes before the first wrap is classified as carefully as the one after a refusal.
func TestI3_TheFirstLookGuessesNoWithdrawal(t *testing.T) {
	b := start(t, azureserver.Vault)
	key, s := b.newKey(), b.secret()
	first := func(what string, ref keystore.KeyRef, f wire.Fault, class keystore.Class, texts ...string) {
		t.Helper()
		if f.Status != 0 {
			defer b.HTTP().Fault(f)()
		}
		_, err := b.wrap(b.open(b.settings), ref, s)
		is(t, what, err, class, texts...)
	}
	first("a version that is not there", keystore.KeyRef(b.VaultURL()+"/keys/"+string(key)+"/"+unknownVersion), wire.Fault{}, keystore.Misconfigured, "the version is not")
	// A vault that has lost the key for one answer. The fault is for those who have logged in.
	loggedIn := func(r *http.Request) bool { return r.Header.Get("Authorization") != "" }
	first("not found once", key, wire.Fault{Match: loggedIn, Times: 1, Status: http.StatusNotFound, Body: `{"error":{"code":"KeyNotFound"}}`}, keystore.Unavailable)
	first("a refusal that is not understood", key, wire.Fault{Match: loggedIn, Status: http.StatusForbidden, Body: `{"error":{"code":"Forbidden","innererror":{"code":"New"}}}`}, keystore.Misconfigured, "New")
	first("an answer that is too long", key, wire.Fault{Match: loggedIn, Status: http.StatusOK, Body: strings.Repeat("x", 2<<20)}, keystore.Unavailable)
	b.Answer(http.StatusForbidden, "Forbidden", "New")
	is(t, "health", b.open(b.settings).Health(t.Context(), b.correlation()), keystore.Misconfigured)
	b.Answer(0, "", "")
	p := b.open(b.settings)
	blob := b.good(p, key, s)
	heal := b.HTTP().Fault(wire.Fault{Status: http.StatusOK, Body: `{"kid":"x"}`})
	is(t, "unwrap without a value", b.unwrap(p, key, blob, s), keystore.Unavailable)
	heal()
	b.must(b.unwrap(p, key, blob, s))
}
