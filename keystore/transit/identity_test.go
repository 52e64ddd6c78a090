//go:build unix

package transit_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/keystore/transit"
)

// seen counts requests on the wire whose path has a suffix.
func (b *bench) seen(suffix string) int {
	n := 0
	for _, r := range b.front.Requests() {
		if strings.HasSuffix(r.Path, suffix) {
			n++
		}
	}
	return n
}

func paths(suffix string) func(*http.Request) bool {
	return func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, suffix) }
}

// exercise does everything that a node does with a key.
func exercise(t *testing.T, p *transit.Provider, key keystore.KeyRef) {
	t.Helper()
	must(t, unwrap(t, p, key, mustWrap(t, p, key)))
	d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
	must(t, err)
	if d.State != keystore.StateEnabled {
		t.Errorf("state %s", d.State)
	}
	must(t, p.Health(t.Context(), ""))
}

func TestThePagesPolicyIsEnoughForEveryIdentity(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	b.setPolicy(t, string(key)) // and nothing else
	params := map[string]any{"token_policies": b.role, "token_no_default_policy": true, "token_ttl": "20m"}

	t.Run("approle", func(t *testing.T) { exercise(t, open(t, testEnv(), b.settings(nil)), key) })

	t.Run("cert", func(t *testing.T) {
		auth := b.auth + "-cert"
		must(t, vault.CertAuth(t.Context(), auth, "node", "node-1.krypton", params))
		cert, keyFile := filepath.Join(b.dir, "node.pem"), filepath.Join(b.dir, "node-key.pem")
		must(t, vault.Clients.WriteClient("node-1.krypton", cert, keyFile))
		s := b.as(map[string]string{"auth": "cert", "auth_mount": auth, "cert_file": cert, "key_file": keyFile})
		p := open(t, testEnv(), s)
		exercise(t, p, key)
		s["role"] = "node"
		exercise(t, open(t, testEnv(), s), key)

		// The certificate is replaced on disk by one that is not allowed, and the session ends.
		must(t, vault.Clients.WriteClient("intruder", cert, keyFile))
		must(t, vault.RevokeLogins(t.Context(), auth))
		wantClass(t, p.Health(t.Context(), ""), keystore.Misconfigured, "login with cert")

		// A certificate with the right name of another CA.
		other, err := vaultserver.NewAuthority("another CA")
		must(t, err)
		must(t, other.WriteClient("node-1.krypton", cert, keyFile))
		wantClass(t, open(t, testEnv(), s).Health(t.Context(), ""), keystore.Misconfigured, "login with cert")

		must(t, vault.Clients.WriteClient("node-1.krypton", cert, keyFile))
		exercise(t, open(t, testEnv(), s), key)
	})

	t.Run("kubernetes", func(t *testing.T) {
		k8s, err := vaultserver.StartKubernetes()
		must(t, err)
		t.Cleanup(func() { must(t, k8s.Close()) })
		auth := b.auth + "-k8s"
		must(t, vault.KubernetesAuth(t.Context(), auth, k8s, "node", "krypton", "node", params))
		jwt, err := k8s.Token("krypton", "node")
		must(t, err)
		s := b.as(map[string]string{"auth": "kubernetes", "auth_mount": auth, "role": "node", "jwt_file": b.write(t, "jwt", jwt)})
		p := open(t, testEnv(), s)
		exercise(t, p, key)
		if k8s.Reviews() == 0 {
			t.Error("the cluster was not asked about the token")
		}
		// The service account is deleted while the node runs.
		k8s.Forget()
		must(t, p.Health(t.Context(), "")) // its session goes on
		must(t, vault.RevokeLogins(t.Context(), auth))
		wantClass(t, p.Health(t.Context(), ""), keystore.Misconfigured, "login with kubernetes")
		// The pod gets a new token in the same file.
		jwt, err = k8s.Token("krypton", "node")
		must(t, err)
		b.write(t, "jwt", jwt)
		exercise(t, p, key)
		// A token of another service account.
		jwt, err = k8s.Token("krypton", "intruder")
		must(t, err)
		b.write(t, "jwt", jwt)
		wantClass(t, open(t, testEnv(), s).Health(t.Context(), ""), keystore.Misconfigured, "login with kubernetes")
	})

	t.Run("token-file", func(t *testing.T) {
		create := func() vaultserver.Token {
			tok, err := vault.CreateToken(t.Context(), map[string]any{"policies": []string{b.role}, "no_default_policy": true, "ttl": "20m"})
			must(t, err)
			b.write(t, "token", tok.ClientToken+"\n")
			return tok
		}
		tok := create()
		before := b.seen("renew-self") + b.seen("revoke-self")
		s := b.settings(map[string]string{"auth": "token-file", "auth_mount": "", "role_id_file": "", "secret_id_file": "", "token_file": filepath.Join(b.dir, "token")})
		p, err := transit.New(t.Context(), testEnv(), keystore.Config{Name: "bao", Type: transit.Type, Settings: s})
		must(t, err)
		exercise(t, p.(*transit.Provider), key)
		blob := mustWrap(t, p, key)
		must(t, vault.RevokeToken(t.Context(), tok.ClientToken))
		wantClass(t, unwrap(t, p, key, blob), keystore.Misconfigured, "does not accept the token")
		tok = create() // the agent writes another one
		must(t, unwrap(t, p, key, blob))
		must(t, p.Close())
		// The token is the agent's: closing did not end it.
		must(t, vault.Call(t.Context(), tok.ClientToken, http.MethodGet, "auth/token/lookup-self", nil, nil))
		if n := b.seen("renew-self") + b.seen("revoke-self") - before; n != 0 {
			t.Errorf("%d renewals and revocations of a token in a file", n)
		}
	})
}

func TestASessionThatEndsInTheMiddleIsReplacedOnce(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	must(t, vault.RevokeLogins(t.Context(), b.auth))
	must(t, unwrap(t, p, key, blob))
	if n := b.seen("/login"); n != 2 {
		t.Errorf("%d logins, want one at the start and one after the revocation", n)
	}
	must(t, unwrap(t, p, key, blob))
	if n := b.seen("/login"); n != 2 {
		t.Errorf("%d logins after another call", n)
	}
}

func TestATokenThatWasUsedUpIsReplaced(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	_, err := vault.AppRole(t.Context(), b.auth, "node", map[string]any{"token_policies": b.role, "token_no_default_policy": true, "token_num_uses": 2})
	must(t, err)
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	for range 5 {
		must(t, unwrap(t, p, key, blob))
	}
	if n := b.seen("/login"); n != 3 {
		t.Errorf("%d logins for six calls with tokens for two", n)
	}
}

func TestATokenIsRenewedBeforeItEnds(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	clk := &fakeClock{}
	env := testEnv()
	env.Clock = clk
	p := open(t, env, b.settings(nil))
	blob := mustWrap(t, p, key)
	at := func(d time.Duration, logins, renewals int) {
		t.Helper()
		clk.ahead.Store(int64(d))
		must(t, unwrap(t, p, key, blob))
		if l, r := b.seen("/login"), b.seen("renew-self"); l != logins || r != renewals {
			t.Errorf("at %s: %d logins and %d renewals, want %d and %d", d, l, r, logins, renewals)
		}
	}
	at(13*time.Minute, 1, 0) // of 20
	at(14*time.Minute, 1, 1) // two thirds are over
	at(14*time.Minute, 1, 1)
	at(28*time.Minute, 1, 2)
	at(60*time.Minute, 2, 2) // it ended: nothing to renew
}

func TestATokenThatIsNotMadeLongerIsReplaced(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	clk := &fakeClock{}
	env := testEnv()
	env.Clock = clk
	p := open(t, env, b.settings(nil))
	blob := mustWrap(t, p, key)
	// What a server says near the token's maximum: well, but for a minute only.
	heal := b.front.Fault(wire.Fault{Match: paths("renew-self"), Status: http.StatusOK, Body: `{"request_id":"r","auth":{"client_token":"hvs.near-its-end","lease_duration":60,"renewable":true}}`})
	defer heal()
	clk.ahead.Store(int64(14 * time.Minute))
	must(t, unwrap(t, p, key, blob))
	if l, r := b.seen("/login"), b.seen("renew-self"); l != 2 || r != 1 {
		t.Errorf("%d logins and %d renewals", l, r)
	}
}

func TestARenewalThatFailsCostsNothingWhileTheTokenHolds(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	clk := &fakeClock{}
	env := testEnv()
	env.Clock = clk
	p := open(t, env, b.settings(nil))
	blob := mustWrap(t, p, key)
	heal := b.front.Fault(wire.Fault{Cut: wire.CutBefore, Match: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/auth/") }})
	clk.ahead.Store(int64(14 * time.Minute))
	for range 3 {
		must(t, unwrap(t, p, key, blob))
	}
	if n := b.seen("renew-self"); n != 1 {
		t.Errorf("%d renewals tried within the pause", n)
	}
	heal()
	clk.ahead.Add(int64(transit.RenewalPause))
	must(t, unwrap(t, p, key, blob))
	if n := b.seen("renew-self"); n != 2 {
		t.Errorf("%d renewals tried after the pause", n)
	}
}

// The server locks out who tries often with wrong credentials.
func TestARefusedLoginIsNotTriedAgainAtOnce(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	clk := &fakeClock{}
	env := testEnv()
	env.Clock = clk
	p := open(t, env, b.settings(nil))
	blob := mustWrap(t, p, key)
	must(t, vault.DestroySecretID(t.Context(), b.auth, "node", b.secretID))
	must(t, unwrap(t, p, key, blob)) // the session goes on
	must(t, vault.RevokeLogins(t.Context(), b.auth))
	for range 4 {
		err := unwrap(t, p, key, blob)
		wantClass(t, err, keystore.Misconfigured, "invalid role or secret ID")
		if strings.Contains(err.Error(), b.secretID) {
			t.Error("the error has the secret id")
		}
	}
	if n := b.seen("/login"); n != 2 {
		t.Errorf("%d logins, want one at the start and one that was refused", n)
	}
	// The pause is over; the credentials are still wrong.
	clk.ahead.Store(int64(transit.RefusalPause))
	wantClass(t, unwrap(t, p, key, blob), keystore.Misconfigured, "invalid role or secret ID")
	if n := b.seen("/login"); n != 3 {
		t.Errorf("%d logins after the pause", n)
	}
	// New ones need no pause.
	b.newSecretID(t)
	must(t, unwrap(t, p, key, blob))
}

func TestCallersAtOnceShareOneLogin(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.seen("/login"); n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestCallersAtOnceShareOneFailure(t *testing.T) {
	const callers = 8
	b := newBench(t)
	p := open(t, testEnv(), b.settings(nil))
	heal := b.front.Fault(wire.Fault{Match: paths("/login"), Delay: time.Second, Status: http.StatusServiceUnavailable, Body: errorsOf("Vault is sealed")})
	defer heal()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if err := p.Health(t.Context(), ""); keystore.ClassOf(err) != keystore.Unavailable {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// One, but for callers that were slower to come than the answer.
	if n := b.seen("/login"); n >= callers {
		t.Errorf("%d logins of %d callers", n, callers)
	}
}

// Who gave up does not decide for the others.
func TestALoginThatIsCancelledGoesToTheNext(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	heal := b.front.Fault(wire.Fault{Match: paths("/login"), Times: 1, Hang: true})
	defer heal()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- p.Health(ctx, "") }()
	for b.seen("/login") == 0 {
		runtime.Gosched()
	}
	second := make(chan error, 1)
	go func() {
		_, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
		second <- err
	}()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	must(t, <-second)
}

func TestClosingEndsTheSession(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	mustWrap(t, p, key)
	var used string
	for _, r := range b.front.Requests() {
		if v := r.Header.Get("X-Vault-Token"); v != "" {
			used = v
		}
	}
	must(t, vault.Call(t.Context(), used, http.MethodGet, "auth/token/lookup-self", nil, nil))
	must(t, p.Close())
	var refused *vaultserver.RefusedError
	if err := vault.Call(t.Context(), used, http.MethodGet, "auth/token/lookup-self", nil, nil); !errors.As(err, &refused) || refused.Status != http.StatusForbidden {
		t.Errorf("the token lives on: %v", err)
	}
}

// The community edition has no namespaces and ignores the header.
func TestTheNamespaceStandsOnEveryRequest(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	exercise(t, open(t, testEnv(), b.settings(map[string]string{"namespace": "/customers/acme/"})), key)
	for _, r := range b.front.Requests() {
		if ns := r.Header.Get("X-Vault-Namespace"); ns != "customers/acme" {
			t.Errorf("%s %s: namespace %q", r.Method, r.Path, ns)
		}
	}
	if len(b.front.Requests()) < 5 {
		t.Errorf("%d requests", len(b.front.Requests()))
	}
}

// A server with namespaces denies everything in a wrong one, login and all, and
// a token of another namespace is denied everything, without a word about the token.
func TestI2_AWrongNamespaceIsNoDenial(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	heal := b.front.Fault(wire.Fault{
		Match:  func(r *http.Request) bool { return r.Header.Get("X-Vault-Namespace") != "customers/acme" },
		Status: http.StatusForbidden, Body: `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`,
	})
	defer heal()
	blob := mustWrap(t, open(t, testEnv(), b.settings(map[string]string{"namespace": "customers/acme"})), key)
	for name, ns := range map[string]string{"none": "", "another": "customers/other"} {
		t.Run(name, func(t *testing.T) {
			p := open(t, testEnv(), b.settings(map[string]string{"namespace": ns}))
			wantClass(t, unwrap(t, p, key, blob), keystore.Misconfigured, "permission denied")
			tok, err := vault.CreateToken(t.Context(), map[string]any{"policies": []string{b.role}})
			must(t, err)
			p = open(t, testEnv(), b.settings(map[string]string{
				"namespace": ns, "auth": "token-file", "auth_mount": "", "role_id_file": "", "secret_id_file": "", "token_file": b.write(t, "token", tok.ClientToken),
			}))
			wantClass(t, unwrap(t, p, key, blob), keystore.Misconfigured, "does not tell whether it knows the token")
		})
	}
}

func TestI2_APolicyWithoutAnythingIsADenial(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	// The owner deletes the whole policy, also the right to ask for capabilities.
	must(t, vault.Policy(t.Context(), b.role, `path "nothing" { capabilities = ["read"] }`))
	wantClass(t, unwrap(t, p, key, blob), keystore.Denied, "no policy of this identity allows update on "+b.mount+"/decrypt/")
	if n := b.seen("/login"); n != 2 {
		t.Errorf("%d logins: a denial without a second opinion needs a token that was just given out", n)
	}
	b.grant(t)
	must(t, unwrap(t, p, key, blob))
}

func TestI2_ADenialThatTheServerContradictsIsNone(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	heal := b.front.Fault(wire.Fault{Match: paths("/decrypt/" + string(key)), Status: http.StatusForbidden, Body: `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`})
	wantClass(t, unwrap(t, p, key, blob), keystore.Unavailable, "nothing follows")
	heal()
	must(t, unwrap(t, p, key, blob))
}

// Servers that do not say "invalid token" deny everything to a token that ended.
func TestATokenThatEndedWithoutAWordIsReplaced(t *testing.T) {
	b := newBench(t)
	key := b.newKey(t)
	p := open(t, testEnv(), b.settings(nil))
	blob := mustWrap(t, p, key)
	defer b.front.Fault(wire.Fault{Times: 2, Status: http.StatusForbidden, Body: `{"errors":["permission denied"]}`})()
	must(t, unwrap(t, p, key, blob))
	if n := b.seen("/login"); n != 2 {
		t.Errorf("%d logins", n)
	}
}

func TestCredentialsThatAreNoneAreMisconfigured(t *testing.T) {
	b := newBench(t)
	for name, text := range map[string]string{
		"empty": " \n", "two lines": "a\nb", "quote": `a"b`, "backslash": `a\b`, "not ASCII": "\u00e4", "long": strings.Repeat("a", 17<<10),
	} {
		t.Run(name, func(t *testing.T) {
			b.write(t, "bad", text)
			p := open(t, testEnv(), b.settings(map[string]string{"secret_id_file": filepath.Join(b.dir, "bad")}))
			wantClass(t, p.Health(t.Context(), ""), keystore.Misconfigured, "bad")
		})
	}
	p := open(t, testEnv(), b.settings(map[string]string{"secret_id_file": filepath.Join(b.dir, "gone")}))
	wantClass(t, p.Health(t.Context(), ""), keystore.Misconfigured, "no such file")
	if n := len(b.front.Requests()); n != 0 {
		t.Errorf("%d requests with credentials that are none: %v", n, fmt.Sprint(b.front.Requests()[0].Path))
	}
}
