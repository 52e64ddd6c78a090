//go:build unix && !nopkcs11

package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/memsec"
)

const (
	acme = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	beta = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
)

// tenants is a library with a token of the nodes and one of each tenant, in which both
// have a key "root".
type tenants struct {
	*world

	pins         string
	tokenA, tokB *hsm.Server
}

func newTenants(t *testing.T) *tenants {
	t.Helper()
	m := &tenants{pins: t.TempDir()}
	m.world = newWorld(t, hsm.Options{}, map[string]string{"pin_dir": m.pins})
	var err error
	m.tokenA, err = m.token.Another(m.ctx, "acme token", "pin-of-acme")
	must(t, err)
	m.tokB, err = m.token.Another(m.ctx, "beta token", "pin-of-beta")
	must(t, err)
	must(t, m.tokenA.NewAES(m.ctx, "root", hsm.All))
	must(t, m.tokB.NewAES(m.ctx, "root", hsm.All))
	m.pin(acme, "pin-of-acme")
	m.pin(beta, "pin-of-beta")
	return m
}

func (m *tenants) pin(uid, pin string) {
	m.Helper()
	must(m, os.WriteFile(filepath.Join(m.pins, uid), []byte(pin+"\n"), 0o600))
}

func (m *tenants) as(uid, token string) keystore.Owned {
	m.Helper()
	a, ok := m.p.(keystore.Assumer)
	if !ok {
		m.Fatal("the provider assumes nothing")
	}
	p, err := a.As(keystore.Identity{Tenant: uid, Names: map[string]string{"token": token}})
	must(m, err)
	m.Cleanup(func() { must(m, p.Close()) })
	return p
}

func (m *tenants) seal(p keystore.Provider) ([]byte, error) {
	res, err := p.Wrap(m.ctx, keystore.WrapRequest{Key: "root", Secret: m.secret([]byte("a secret of 32 bytes, as K1 is..")), AAD: aad})
	return res.Blob, err
}

func (m *tenants) unseal(p keystore.Provider, blob []byte) error {
	res, err := p.Unwrap(m.ctx, keystore.UnwrapRequest{Key: "root", Blob: blob, AAD: aad, Class: memsec.Hot})
	res.Secret.Destroy()
	return err
}

// TestI6_ATenantsTokenOpensByItsOwnPINAlone: two tenants have a key of one label, and
// neither opens what the other's wrapped, whatever token a binding names.
func TestI6_ATenantsTokenOpensByItsOwnPINAlone(t *testing.T) {
	m := newTenants(t)
	a, b := m.as(acme, "acme token"), m.as(beta, "beta token")
	blob, err := m.seal(a)
	must(t, err)
	must(t, m.unseal(a, blob))
	proofA, err := a.Prove(m.ctx, keystore.ProveRequest{Key: "root"})
	must(t, err)
	proofB, err := b.Prove(m.ctx, keystore.ProveRequest{Key: "root"})
	must(t, err)
	if proofA.Key == proofB.Key || !strings.HasPrefix(proofA.Key, "pkcs11:SoftHSM") || a.Owner() == b.Owner() {
		t.Errorf("the keys are %q and %q, the owners %q and %q", proofA.Key, proofB.Key, a.Owner(), b.Owner())
	}
	if err := m.unseal(b, blob); err == nil {
		t.Error("the key of one token opened the blob of the other")
	}
	stolen := m.as(beta, "acme token")
	for what, err := range map[string]error{
		"unwrap": m.unseal(stolen, blob),
		"wrap":   func() error { _, err := m.seal(stolen); return err }(),
		"prove":  func() error { _, err := stolen.Prove(m.ctx, keystore.ProveRequest{Key: "root"}); return err }(),
	} {
		m.is(err, keystore.Misconfigured, "refuses the PIN")
		if !errors.Is(err, keystore.ErrRefused) && what == "unwrap" {
			t.Errorf("%s: not told from other mistakes: %v", what, err)
		}
	}
	// The refused PIN was tried once: the owner's own still counts.
	must(t, m.unseal(a, blob))
	must(t, m.unseal(m.as(acme, "acme token"), blob))
}

func TestATokenOfATenantIsNamedAndHasItsPIN(t *testing.T) {
	m := newTenants(t)
	a := m.p.(keystore.Assumer)
	for name, id := range map[string]keystore.Identity{
		"no token":             {Tenant: beta},
		"the nodes' own":       {Tenant: beta, Names: map[string]string{"token": m.token.Label}},
		"a PIN file of its":    {Tenant: beta, Names: map[string]string{"token": "beta token", "pin_file": filepath.Join(m.pins, acme)}},
		"a library of its":     {Tenant: beta, Names: map[string]string{"token": "beta token", "module": "mine.so"}},
		"a path for a tenant":  {Tenant: "../" + acme[3:], Names: map[string]string{"token": "beta token"}},
		"too long a label":     {Tenant: beta, Names: map[string]string{"token": strings.Repeat("b", 33)}},
		"no tenant":            {Names: map[string]string{"token": "beta token"}},
		"a tenant in capitals": {Tenant: strings.ToUpper(beta), Names: map[string]string{"token": "beta token"}},
	} {
		t.Run(name, func(*testing.T) {
			_, err := a.As(id)
			m.is(err, keystore.Misconfigured, "")
		})
	}
	must(t, os.Remove(filepath.Join(m.pins, beta)))
	_, err := m.seal(m.as(beta, "beta token"))
	m.is(err, keystore.Misconfigured, "PIN file")
	without := newWorld(t, hsm.Options{}, nil)
	_, err = without.p.(keystore.Assumer).As(keystore.Identity{Tenant: acme, Names: map[string]string{"token": "acme token"}})
	without.is(err, keystore.Misconfigured, "no pin_dir")
}
