//go:build unix

package transit_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/keystore/transit"
)

const (
	acme = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	beta = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
)

// tenants is one node's certificate, and a role and a key of each tenant.
type tenants struct {
	*bench

	provider *transit.Provider
}

func newTenants(t *testing.T) *tenants {
	t.Helper()
	b := newBench(t)
	m := &tenants{bench: b}
	auth := "tenants-" + b.role
	cert, key := filepath.Join(b.dir, "node.crt"), filepath.Join(b.dir, "node.key")
	must(t, vault.Clients.WriteClient("node-1.krypton", cert, key))
	for i, uid := range []string{acme, beta} {
		name := m.keyOf(uid)
		must(t, vault.CreateKey(t.Context(), b.mount, name, "aes256-gcm96"))
		must(t, vault.Policy(t.Context(), "own-"+b.role+"-"+uid, b.policy(t, name, "use")))
		params := map[string]any{"token_policies": "own-" + b.role + "-" + uid, "token_no_default_policy": true, "token_ttl": "20m"}
		if i == 0 {
			must(t, vault.CertAuth(t.Context(), auth, roleOf(uid), "node-1.krypton", params))
			continue
		}
		params["certificate"], params["allowed_common_names"] = string(vault.Clients.PEM()), "node-1.krypton"
		must(t, vault.Admin(t.Context(), http.MethodPost, "auth/"+auth+"/certs/"+roleOf(uid), params, nil))
	}
	m.provider = open(t, testEnv(), b.as(map[string]string{"auth": "cert", "auth_mount": auth, "cert_file": cert, "key_file": key}))
	return m
}

func roleOf(uid string) string { return "customer-" + uid }

func (m *tenants) keyOf(uid string) string { return m.role + "-" + uid[:2] }

func identityOf(uid, role string) keystore.Identity {
	return keystore.Identity{Tenant: uid, Names: map[string]string{"role": role}}
}

func (m *tenants) as(t *testing.T, uid, role string) keystore.Owned {
	t.Helper()
	p, err := m.provider.As(identityOf(uid, role))
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// TestI6_ATenantsRoleOpensItsKeyAndNoOther: the same node, with one certificate, has the
// rights of one tenant in each call.
func TestI6_ATenantsRoleOpensItsKeyAndNoOther(t *testing.T) {
	m := newTenants(t)
	a, b := m.as(t, acme, roleOf(acme)), m.as(t, beta, roleOf(beta))
	key := keystore.KeyRef(m.keyOf(acme))
	blob := mustWrap(t, a, key)
	must(t, unwrap(t, a, key, blob))
	proof, err := a.Prove(t.Context(), keystore.ProveRequest{Key: key})
	must(t, err)
	if !strings.HasSuffix(proof.Key, ":"+m.mount+"/"+string(key)) || proof.RequestID == "" {
		t.Errorf("proved: %+v", proof)
	}
	before := decrypted(t, m.mount, string(key))
	_, err = b.Prove(t.Context(), keystore.ProveRequest{Key: key})
	wantClass(t, err, keystore.Denied, "no policy of this identity")
	wantClass(t, unwrap(t, b, key, blob), keystore.Denied, "no policy of this identity")
	_, err = wrap(t, b, key)
	wantClass(t, err, keystore.Denied, "no policy of this identity")
	if after := decrypted(t, m.mount, string(key)); after != before {
		t.Errorf("the server opened %d blobs for another tenant", after-before)
	}
	must(t, unwrap(t, a, key, blob))
	if a.Owner() == b.Owner() {
		t.Errorf("two roles are one owner, %q", a.Owner())
	}
}

// decrypted counts what the server's audit log has of blobs that it opened under a key.
func decrypted(t *testing.T, mount, key string) (n int) {
	t.Helper()
	log, err := vault.Audited()
	must(t, err)
	for _, e := range log {
		if e.Type == "response" && e.Request.Path == mount+"/decrypt/"+key && e.Error == "" {
			n++
		}
	}
	return n
}

// TestI6_OnlyARoleWithTheTenantsUIDIsItsOwn: a binding that names the role of another
// tenant, or an address, never becomes a call.
func TestI6_OnlyARoleWithTheTenantsUIDIsItsOwn(t *testing.T) {
	m := newTenants(t)
	for name, id := range map[string]keystore.Identity{
		"another tenant's role":   identityOf(beta, roleOf(acme)),
		"a role for everybody":    identityOf(beta, "krypton"),
		"the uid alone":           identityOf(beta, beta),
		"no role":                 {Tenant: beta},
		"a path for a role":       identityOf(beta, "x/../"+roleOf(beta)),
		"a path for a namespace":  {Tenant: beta, Names: map[string]string{"role": roleOf(beta), "namespace": "a/../b"}},
		"an address":              {Tenant: beta, Names: map[string]string{"role": roleOf(beta), "address": "https://mine.example:8200"}},
		"an address as namespace": {Tenant: beta, Names: map[string]string{"role": roleOf(beta), "namespace": "https://mine.example"}},
		"a mount":                 {Tenant: beta, Names: map[string]string{"role": roleOf(beta), "mount": "other"}},
		"no tenant":               identityOf("", roleOf(beta)),
	} {
		t.Run(name, func(t *testing.T) {
			p, err := m.provider.As(id)
			wantClass(t, err, keystore.Misconfigured, "")
			if p != nil {
				t.Error("and there is a provider")
			}
		})
	}
	one := m.as(t, beta, roleOf(beta))
	for _, ref := range []string{"../../sys/seal", "a/b", "https://mine.example/v1/transit/keys/a", "a?x=1", "a%2fb"} {
		_, err := one.Prove(t.Context(), keystore.ProveRequest{Key: keystore.KeyRef(ref)})
		wantClass(t, err, keystore.Misconfigured, "not the name of a key")
	}
}

// TestARoleThatIsNotThereIsNoWithdrawal: what a login says is about the identity.
func TestARoleThatIsNotThereIsNoWithdrawal(t *testing.T) {
	m := newTenants(t)
	one := m.as(t, beta, "nobody-"+beta)
	_, err := wrap(t, one, keystore.KeyRef(m.keyOf(beta)))
	wantClass(t, err, keystore.Misconfigured, "login with cert")
	if !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("not told from other mistakes: %v", err)
	}
}

// TestOneIdentityForAllTenantsIsNone: approle and a token in a file are the node's own.
func TestOneIdentityForAllTenantsIsNone(t *testing.T) {
	b := newBench(t)
	p := open(t, testEnv(), b.settings(nil))
	_, err := p.As(identityOf(acme, roleOf(acme)))
	wantClass(t, err, keystore.Misconfigured, "one identity for all tenants")
}

// TestTheNamespaceOfATenantIsItsOwn: it goes with the login and with every call. The
// community edition has none, so the wire is looked at.
func TestTheNamespaceOfATenantIsItsOwn(t *testing.T) {
	keystoretest.Require(t, "Vault", vaultserver.Install, errVault)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.crt"), filepath.Join(dir, "c.key")
	must(t, vault.Clients.WriteClient("node-1.krypton", cert, key))
	var mu sync.Mutex
	var seen []string
	server, err := wire.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Header.Get("X-Vault-Namespace"))
		mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/v1/auth/") {
			_, _ = w.Write([]byte(`{"request_id":"r","auth":{"client_token":"t","lease_duration":600}}`))
			return
		}
		http.Error(w, `{"errors":["no"]}`, http.StatusBadRequest)
	}), wire.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	ca := filepath.Join(dir, "ca.pem")
	must(t, os.WriteFile(ca, server.CA, 0o600))
	p := open(t, testEnv(), map[string]string{
		"address": "https://" + server.Addr, "ca_file": ca, "namespace": "operators", "auth": "cert", "cert_file": cert, "key_file": key,
	})
	for _, ns := range []string{"", "customers/acme"} {
		names, want := map[string]string{"role": roleOf(acme)}, "operators"
		if ns != "" {
			names["namespace"], want = ns, ns
		}
		one, err := p.As(keystore.Identity{Tenant: acme, Names: names})
		must(t, err)
		_, err = wrap(t, one, "k")
		wantClass(t, err, keystore.Misconfigured, "no")
		must(t, one.Close())
		mu.Lock()
		got := seen
		seen = nil
		mu.Unlock()
		if len(got) < 2 {
			t.Fatalf("%d requests were made", len(got))
		}
		for _, header := range got {
			if header != want {
				t.Errorf("a request went to namespace %q, want %q", header, want)
			}
		}
	}
}
