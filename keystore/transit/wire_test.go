//go:build unix

package transit_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/keystore/transit"
	"github.com/openkcm/krypton-cluster/memsec"
)

// The engine makes a key that does not exist when one who may create encrypts
// under it. Nobody here may, not even root.
func TestI1_NoCallMakesAKey(t *testing.T) {
	keystoretest.Require(t, "Vault", vaultserver.Install, errVault)
	must(t, vault.Mount(t.Context(), "alone"))
	b := newBenchAt(t, "alone")
	key := b.newKey(t)
	tok, err := vault.CreateToken(t.Context(), map[string]any{"policies": []string{"root"}, "no_parent": true})
	must(t, err)
	root := open(t, testEnv(), b.settings(map[string]string{"auth": "token-file", "auth_mount": "", "role_id_file": "", "secret_id_file": "", "token_file": b.write(t, "root", tok.ClientToken)}))
	narrow := open(t, testEnv(), b.settings(nil))
	for name, p := range map[string]*transit.Provider{"root": root, "the page's policy": narrow} {
		t.Run(name, func(t *testing.T) {
			blob := mustWrap(t, p, key)
			_, err := wrap(t, p, "never")
			wantClass(t, err, keystore.Denied, "there is no such key")
			wantClass(t, unwrap(t, p, "never", blob), keystore.Denied, "there is no such key")
			_, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: "never"})
			wantClass(t, err, keystore.Denied, "there is no such key")
			// Of a key that is gone, too.
			gone := b.newKey(t)
			must(t, vault.DeleteKey(t.Context(), b.mount, string(gone)))
			_, err = wrap(t, p, gone)
			wantClass(t, err, keystore.Denied, "there is no such key")
		})
	}
	var list struct{ Data struct{ Keys []string } }
	must(t, vault.Admin(t.Context(), http.MethodGet, b.mount+"/keys?list=true", nil, &list))
	if diff := cmp.Diff([]string{string(key)}, list.Data.Keys); diff != "" {
		t.Error(diff)
	}
	// The test can see a key that is made.
	must(t, vault.Admin(t.Context(), http.MethodPost, b.mount+"/encrypt/never", map[string]string{"plaintext": "AAAA"}, nil))
	must(t, vault.Admin(t.Context(), http.MethodGet, b.mount+"/keys?list=true", nil, &list))
	if len(list.Data.Keys) != 2 {
		t.Errorf("keys %q", list.Data.Keys)
	}
}

func TestAReferenceIsTheNameOfAKeyAndNoPath(t *testing.T) {
	b := newBench(t)
	p := open(t, testEnv(), b.settings(nil))
	for _, ref := range []keystore.KeyRef{
		"..", "../keys/x", "a/b", "a/../b", "a?list=true", "a#b", "a%2fb", "a b", "a\nb", ".a", "a.", "-a", "a-", "ä", "https://other/v1/transit/keys/a", `a"b`, "a\x00",
	} {
		for name, err := range map[string]error{
			"wrap":     func() error { _, err := wrap(t, p, ref); return err }(),
			"unwrap":   unwrap(t, p, ref, []byte("vault:v1:AAAA")),
			"describe": func() error { _, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: ref}); return err }(),
			"import": func() error {
				_, err := p.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: ref, Wrapped: []byte{1}})
				return err
			}(),
			"parameters": func() error {
				_, err := p.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: ref})
				return err
			}(),
		} {
			if keystore.ClassOf(err) != keystore.Misconfigured || err == nil || !strings.Contains(err.Error(), "not the name of a key") {
				t.Errorf("%s of %q: %v", name, ref, err)
			}
		}
	}
	if n := len(b.front.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// Every variable that OpenBao's client, Vault's and Go's HTTP would read points
// to a trap: a server that must see nothing.
func TestI3_TheEnvironmentIsNotRead(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	var sprung atomic.Int64
	trap, err := wire.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sprung.Add(1) }), wire.Options{Plain: true})
	must(t, err)
	t.Cleanup(func() { must(t, trap.Close()) })
	for name, value := range map[string]string{
		"ADDR": trap.URL, "AGENT_ADDR": trap.URL, "PROXY_ADDR": trap.URL, "HTTP_PROXY": trap.URL, "TOKEN": "hvs.trap", "NAMESPACE": "trap", "WRAP_TTL": "1h",
		"CACERT": "/trap", "CAPATH": "/trap", "CLIENT_CERT": "/trap", "CLIENT_KEY": "/trap", "TLS_SERVER_NAME": "trap", "SKIP_VERIFY": "trap", "MAX_RETRIES": "trap", "CLIENT_TIMEOUT": "trap",
		"RATE_LIMIT": "trap", "SRV_LOOKUP": "trap", "DISABLE_REDIRECTS": "trap", "MFA": "trap",
	} {
		t.Setenv("VAULT_"+name, value)
		t.Setenv("BAO_"+name, value)
	}
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(name, trap.URL)
	}
	home := t.TempDir()
	must(t, os.WriteFile(filepath.Join(home, ".vault-token"), []byte("hvs.trap"), 0o600))
	t.Setenv("HOME", home)
	p := open(t, testEnv(), b.settings(nil))
	exercise(t, p, key)
	for _, r := range b.front.Requests() {
		all := fmt.Sprint(r.Header)
		for _, bad := range []string{"hvs.trap", "X-Vault-Namespace", "X-Vault-Wrap", "X-Vault-Mfa"} {
			if strings.Contains(all, bad) {
				t.Errorf("%s %s carries %s", r.Method, r.Path, bad)
			}
		}
	}
	if sprung.Load() != 0 || p.UsesProxy() {
		t.Errorf("%d requests went elsewhere; a proxy may be used: %v", sprung.Load(), p.UsesProxy())
	}
}

func TestI4_ARedirectionIsNotFollowed(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	var sprung atomic.Int64
	other, err := wire.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sprung.Add(1) }), wire.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	b.ca = b.write(t, "both.pem", string(readFile(t, b.ca))+string(other.CA)) // it would be trusted
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	for _, status := range []int{301, 302, 303, 307, 308} {
		heal := b.front.Fault(wire.Fault{Status: status, Header: http.Header{"Location": {other.URL + "/v1/x"}}, Body: `{"errors":[]}`})
		wantClass(t, unwrap(t, p, key, blob), keystore.Unavailable, "another address")
		heal()
	}
	must(t, unwrap(t, p, key, blob))
	if sprung.Load() != 0 {
		t.Errorf("%d requests went to another server", sprung.Load())
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

// Retries are those of the caller, who has a budget for them.
func TestAFailureIsOneAttempt(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	for name, f := range map[string]wire.Fault{
		"500":       {Status: 500, Body: errorsOf("internal error")},
		"503":       {Status: 503, Body: errorsOf("Vault is sealed")},
		"429":       {Status: 429, Body: errorsOf("rate limit quota exceeded"), Header: http.Header{"Retry-After": {"0"}}},
		"412":       {Status: 412, Body: errorsOf("required index state not present")},
		"502":       {Status: 502, Body: "bad gateway"},
		"cut":       {Cut: wire.CutAfter},
		"half":      {Cut: wire.CutMiddle},
		"nonsense":  {Status: 200, Body: "hello"},
		"a refusal": {Status: 400, Body: errorsOf("something else")},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(b.front.Requests())
			heal := b.front.Fault(f)
			defer heal()
			if err := unwrap(t, p, key, blob); err == nil || keystore.IsDenied(err) {
				t.Errorf("%v", err)
			}
			if n := len(b.front.Requests()) - before; n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
	must(t, unwrap(t, p, key, blob))
}

func TestAServerThatIsNotTheOneIsNotSpokenTo(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	foreign, err := vaultserver.NewAuthority("another CA")
	must(t, err)
	p := open(t, testEnv(), b.settings(map[string]string{"ca_file": b.write(t, "foreign.pem", string(foreign.PEM()))}))
	_, err = wrap(t, p, key)
	wantClass(t, err, keystore.Unavailable, "certificate")
	p = open(t, testEnv(), b.settings(map[string]string{"ca_file": ""})) // those of the machine
	_, err = wrap(t, p, key)
	wantClass(t, err, keystore.Unavailable, "certificate")
	if n := len(b.front.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// words is a server that says one thing.
func words(t *testing.T) (*transit.Provider, func(status int, body string)) {
	t.Helper()
	var status atomic.Int64
	var body atomic.Value
	srv, err := wire.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = fmt.Fprint(w, body.Load())
	}), wire.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, srv.Close()) })
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	p := open(t, testEnv(), map[string]string{"address": srv.URL, "ca_file": write("ca", string(srv.CA)), "auth": "token-file", "token_file": write("token", "hvs.any")})
	return p, func(s int, b string) { status.Store(int64(s)); body.Store(b) }
}

func errorsOf(s ...string) string {
	b, err := json.Marshal(map[string]any{"errors": s})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func itemOf(s string) string {
	return fmt.Sprintf(`{"request_id":"r-1","data":{"batch_results":[{"plaintext":"","error":%q,"reference":""}]}}`, s)
}

// What a real server says is held to by the tests on a real server; here are
// OpenBao's own words, and those of what may stand in between.
func TestI2_WhatAnAnswerMeans(t *testing.T) {
	p, say := words(t)
	for name, c := range map[string]struct {
		status int
		body   string
		class  keystore.Class
		text   string
	}{
		"soft-deleted":             {400, itemOf("refusing to use soft-deleted key"), keystore.Denied, "soft-deleted"},
		"soft-deleted, other form": {400, errorsOf("refusing to use soft-deleted key"), keystore.Denied, "soft-deleted"},
		"too old":                  {400, itemOf("ciphertext or signature version is disallowed by policy (too old)"), keystore.Denied, "min_decryption_version"},
		"an error with status 200": {200, itemOf("'[0].associated_data' provided for non-AEAD cipher suite rsa-4096"), keystore.Misconfigured, "non-AEAD"},
		"derived key":              {400, itemOf("missing 'context' for key derivation"), keystore.Misconfigured, "context"},
		"not authentic":            {400, itemOf("cipher: message authentication failed"), keystore.Corrupt, "r-1"},
		"bad ciphertext":           {400, itemOf("invalid ciphertext: version is too new"), keystore.Corrupt, "too new"},
		"sealed":                   {503, errorsOf("Vault is sealed"), keystore.Unavailable, "sealed"},
		"internal":                 {500, errorsOf("encryption key not found"), keystore.Unavailable, "500"},
		"precondition":             {412, errorsOf("required index state not present"), keystore.Unavailable, "412"},
		"quota":                    {429, errorsOf("rate limit quota exceeded"), keystore.Throttled, "quota"},
		"no route":                 {404, errorsOf(`no handler for route "transit/decrypt/k"`), keystore.Misconfigured, "mount and namespace"},
		"not found without words":  {404, `{"errors":[]}`, keystore.Misconfigured, "404"},
		"another bad request":      {400, errorsOf("something else"), keystore.Misconfigured, "something else"},
		"bad token":                {403, errorsOf("2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"), keystore.Misconfigured, "token"},
		"denied in the dark":       {403, errorsOf("1 error occurred:\n\t* permission denied\n\n"), keystore.Misconfigured, "does not tell"},
		"a firewall's 403":         {403, "<html>permission denied: encryption key not found</html>", keystore.Unavailable, "not the server's own"},
		"a firewall's JSON":        {403, `{"message":"permission denied"}`, keystore.Unavailable, "not the server's own"},
		"another 403":              {403, errorsOf("request blocked"), keystore.Unavailable, "blocked"},
		"a proxy's 404":            {404, "not found", keystore.Unavailable, "not the server's own"},
		"a proxy's 400":            {400, "Client sent an HTTP request to an HTTPS server.", keystore.Unavailable, "not the server's own"},
		"a proxy's 502":            {502, "bad gateway", keystore.Unavailable, "not the server's own"},
		"success of something":     {200, "<html>hello</html>", keystore.Unavailable, "not that of a transit engine"},
		"nothing":                  {200, "", keystore.Unavailable, "not the server's own"},
		"no secret":                {200, `{"request_id":"r-1","data":{"batch_results":[{"plaintext":""}]}}`, keystore.Corrupt, "no secret"},
		"no results":               {200, `{"request_id":"r-1","data":{"batch_results":[]}}`, keystore.Corrupt, "no secret"},
		"a secret too long":        {200, `{"request_id":"r-1","data":{"batch_results":[{"plaintext":"` + strings.Repeat("AAAA", 22) + `"}]}}`, keystore.Unavailable, "not that of a transit engine"},
		"two secrets":              {200, `{"request_id":"r-1","data":{"batch_results":[{"plaintext":"AAAA","plaintext":"AAAA"}]}}`, keystore.Unavailable, "not that of a transit engine"},
		"not base64":               {200, `{"request_id":"r-1","data":{"batch_results":[{"plaintext":"AA*A"}]}}`, keystore.Unavailable, "not that of a transit engine"},
		"an endless answer":        {200, strings.Repeat(" ", 2<<20), keystore.Unavailable, "longer than"},
		"an endless error":         {400, strings.Repeat(" ", 2<<20), keystore.Unavailable, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			say(c.status, c.body)
			err := unwrap(t, p, "k", []byte("vault:v1:AAAA"))
			wantClass(t, err, c.class, c.text)
			if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\t") {
				t.Errorf("the error has %d bytes, or line breaks: %q", len(err.Error()), err)
			}
		})
	}
	say(200, `{"request_id":"r-1","data":{"batch_results":[{"plaintext":"AAAA"}]}}`)
	must(t, unwrap(t, p, "k", []byte("vault:v1:AAAA"))) // the table's form is the one that works
	say(200, `{"request_id":"r-1","data":{"batch_results":[{"ciphertext":"bao:v1:AAAA"}]}}`)
	_, err := wrap(t, p, "k")
	wantClass(t, err, keystore.Unavailable, "a ciphertext that is none")
}

// The client library reads an error to its end, whatever its length.
func TestAnAnswerWithoutEndIsCut(t *testing.T) {
	const most = 256 << 20
	for _, status := range []int{200, 400, 503} {
		written := make(chan int, 1)
		srv, err := wire.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			block, n := make([]byte, 64<<10), 0
			for n < most {
				if _, err := w.Write(block); err != nil {
					break
				}
				n += len(block)
			}
			written <- n
		}), wire.Options{})
		must(t, err)
		dir := t.TempDir()
		for name, b := range map[string][]byte{"ca": srv.CA, "token": []byte("hvs.any")} {
			must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		}
		p := open(t, testEnv(), map[string]string{"address": srv.URL, "ca_file": filepath.Join(dir, "ca"), "auth": "token-file", "token_file": filepath.Join(dir, "token")})
		wantClass(t, unwrap(t, p, "k", []byte("vault:v1:AAAA")), keystore.Unavailable, "longer than")
		if n := <-written; n > most/4 {
			t.Errorf("status %d: %d bytes were taken", status, n)
		}
		must(t, srv.Close())
	}
}

func TestKeysThatBindNoAADAreRefused(t *testing.T) {
	b := newBench(t)
	b.keys++
	key := keystore.KeyRef(b.name(b.keys))
	must(t, vault.CreateKey(t.Context(), b.mount, string(key), "rsa-2048"))
	b.grant(t)
	p := open(t, testEnv(), b.settings(nil))
	_, err := wrap(t, p, key)
	wantClass(t, err, keystore.Misconfigured, "non-AEAD")
	d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
	must(t, err)
	if d.Kind != keystore.KindUnknown || d.Mechanism != "rsa-2048" || len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "cannot be used") {
		t.Errorf("%+v", d)
	}
}

func TestDescribeTellsWhatAnOwnerShouldKnow(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	old := mustWrap(t, p, key)
	must(t, vault.Rotate(t.Context(), b.mount, string(key)))
	fresh := mustWrap(t, p, key)
	must(t, unwrap(t, p, key, old))
	must(t, vault.ConfigureKey(t.Context(), b.mount, string(key), map[string]any{"min_decryption_version": 2, "deletion_allowed": true, "exportable": true}))
	d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
	must(t, err)
	want := keystore.Description{
		Key: key, State: keystore.StateEnabled, KeyVersion: "2", Kind: keystore.KindSymmetric, Protection: keystore.ProtectionSoftware, Mechanism: "AES-256-GCM", RequestID: d.RequestID,
		Notes: []string{
			"min_decryption_version is 2: blobs of older versions do not open.",
			"deletion_allowed is set: whoever may delete keys ends this one at once, for good.",
			"The key can be exported or backed up in clear: its holder is not only this server.",
		},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	// The owner retired the old version, and takes that back.
	wantClass(t, unwrap(t, p, key, old), keystore.Denied, "min_decryption_version")
	must(t, unwrap(t, p, key, fresh))
	must(t, vault.ConfigureKey(t.Context(), b.mount, string(key), map[string]any{"min_decryption_version": 1}))
	must(t, unwrap(t, p, key, old))
}

func TestDescribeOfASoftDeletedKey(t *testing.T) {
	p, say := words(t)
	say(200, `{"request_id":"r-1","data":{"type":"aes256-gcm96","latest_version":3,"soft_deleted":true}}`)
	d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: "k"})
	must(t, err)
	if d.State != keystore.StatePendingDeletion || d.KeyVersion != "3" || d.RequestID != "r-1" {
		t.Errorf("%+v", d)
	}
}

func TestThatAKeyMayNotBeDescribedSaysNothingOfItsUse(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	text := strings.ReplaceAll(b.policy(t, string(key), "use"), `"`+b.mount+`/keys/`, `"elsewhere/keys/`)
	must(t, vault.Policy(t.Context(), b.role, text))
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	_, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
	wantClass(t, err, keystore.Misconfigured, "allows read on")
	must(t, unwrap(t, p, key, blob))
}

// The server says 404 for a mount that is not there, also for a mistyped one.
func TestAMountThatIsDisabledIsNoDenial(t *testing.T) {
	keystoretest.Require(t, "Vault", vaultserver.Install, errVault)
	must(t, vault.Mount(t.Context(), "short-lived"))
	b := newBenchAt(t, "short-lived")
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	must(t, vault.Unmount(t.Context(), "short-lived"))
	wantClass(t, unwrap(t, p, key, blob), keystore.Misconfigured, "check mount and namespace")
	_, err := wrap(t, p, key)
	wantClass(t, err, keystore.Misconfigured, "check mount and namespace")
	_, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
	wantClass(t, err, keystore.Misconfigured, "check mount and namespace")
}

// Two names for one material: a blob still opens only under its own.
func TestABlobIsBoundToTheNameOfItsKey(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	must(t, vault.ConfigureKey(t.Context(), b.mount, string(key), map[string]any{"exportable": true, "allow_plaintext_backup": true}))
	var backup struct{ Data struct{ Backup string } }
	must(t, vault.Admin(t.Context(), http.MethodGet, b.mount+"/backup/"+string(key), nil, &backup))
	b.keys++
	twin := keystore.KeyRef(b.name(b.keys))
	must(t, vault.Admin(t.Context(), http.MethodPost, b.mount+"/restore/"+string(twin), map[string]string{"backup": backup.Data.Backup}, nil))
	b.grant(t)
	p := open(t, testEnv(), b.settings(nil))
	wantClass(t, unwrap(t, p, twin, mustWrap(t, p, key)), keystore.Corrupt, "does not open")
	exercise(t, p, twin)
}

func TestAnImportNeedsItsOwnRights(t *testing.T) {
	b := newBench(t)
	b.keys++
	key := keystore.KeyRef(b.name(b.keys))
	b.setPolicy(t, string(key)) // for use alone
	p := open(t, testEnv(), b.settings(nil))
	_, err := p.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: key})
	wantClass(t, err, keystore.Misconfigured, "allows update on "+b.mount+"/keys/"+string(key)+"/import")
	_, err = p.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: key, Wrapped: []byte{1}})
	wantClass(t, err, keystore.Misconfigured, "allows update on "+b.mount+"/keys/"+string(key)+"/import")
	must(t, vault.Policy(t.Context(), b.role, b.policy(t, string(key), "use")+b.policy(t, string(key), "import")))
	_, err = p.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: key, Wrapped: make([]byte, 600)})
	wantClass(t, err, keystore.Corrupt, "does not open")
	must(t, vault.CreateKey(t.Context(), b.mount, string(key), "aes256-gcm96"))
	_, err = p.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: key})
	wantClass(t, err, keystore.Misconfigured, "made by the server")
}

func TestSettingsAreStrict(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	must(t, os.WriteFile(file, []byte("x"), 0o600))
	good := map[string]string{"address": "https://bao.example.com:8200", "auth": "approle", "role_id_file": file, "secret_id_file": file}
	try := func(change map[string]string) error {
		s := map[string]string{}
		maps.Copy(s, good)
		maps.Copy(s, change)
		p, err := transit.New(t.Context(), testEnv(), keystore.Config{Name: "bao", Type: transit.Type, Settings: s})
		if err == nil {
			must(t, p.Close())
		}
		return err
	}
	must(t, try(nil))
	must(t, try(map[string]string{"mount": "customers/acme/transit", "namespace": "a/b", "auth_mount": "eu/approle"}))
	for name, c := range map[string]struct {
		change map[string]string
		text   string
	}{
		"http":                    {map[string]string{"address": "http://127.0.0.1:8200"}, "https://host:port"},
		"address with a path":     {map[string]string{"address": "https://a/v1"}, "https://host:port"},
		"address with a user":     {map[string]string{"address": "https://u:p@a"}, "https://host:port"},
		"address with a query":    {map[string]string{"address": "https://a?x"}, "https://host:port"},
		"socket":                  {map[string]string{"address": "unix:///run/bao"}, "https://host:port"},
		"mount that leads out":    {map[string]string{"mount": "a/../sys"}, "mount"},
		"mount with nothing":      {map[string]string{"mount": "a//b"}, "mount"},
		"namespace that is none":  {map[string]string{"namespace": "a\r\nX: y"}, "namespace"},
		"auth mount leads out":    {map[string]string{"auth_mount": "../sys"}, "auth_mount"},
		"no such auth":            {map[string]string{"auth": "userpass"}, "want cert, approle"},
		"no auth":                 {map[string]string{"auth": ""}, "auth"},
		"missing file":            {map[string]string{"secret_id_file": ""}, "needs the setting secret_id_file"},
		"setting of another auth": {map[string]string{"token_file": file}, "no use for the setting token_file"},
		"relative path":           {map[string]string{"role_id_file": "role"}, "absolute"},
		"misspelt":                {map[string]string{"token": "x"}, "unknown setting"},
		"no CA":                   {map[string]string{"ca_file": file}, "no certificate"},
		"CA that is not there":    {map[string]string{"ca_file": file + "x"}, "no such file"},
		"kubernetes without role": {map[string]string{"auth": "kubernetes", "role_id_file": "", "secret_id_file": ""}, "needs the setting role"},
	} {
		t.Run(name, func(t *testing.T) { wantClass(t, try(c.change), keystore.Misconfigured, c.text) })
	}
}

func TestSecretsOfEveryLengthGoThrough(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	for n := 1; n <= keystore.MaxSecret; n++ {
		sec, err := memsec.Random(testEnv().Rand, n, memsec.Hot)
		must(t, err)
		res, err := p.Wrap(t.Context(), keystore.WrapRequest{Key: key, Secret: sec, AAD: theAAD})
		must(t, err)
		got, err := p.Unwrap(t.Context(), keystore.UnwrapRequest{Key: key, Blob: res.Blob, AAD: theAAD, Class: memsec.Hot})
		must(t, err)
		if same, err := memsec.Equal(sec, got.Secret); err != nil || !same {
			t.Errorf("%d bytes came back different (%v)", n, err)
		}
		sec.Destroy()
		got.Secret.Destroy()
	}
}
