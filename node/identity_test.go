package node_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// Operations on issuers, role bindings and certificates, as somebody.

func (m *member) issue(p auth.Principal, r node.Request, c node.Caller, ttl time.Duration) (leaf *x509.Certificate, err error) {
	object := node.ObjectCluster
	if c.Tenant != "" {
		object = hierarchy.TenantPath(c.Tenant).String()
	}
	err = m.do(p, gate.IssueCertificate, object, func(ctx context.Context, tok gate.Token) (err error) {
		leaf, _, err = m.IssueCaller(ctx, tok, r, c, ttl)
		return err
	})
	return leaf, err
}

func (m *member) renew(p auth.Principal, binding []byte, key crypto.PublicKey, ttl time.Duration) (leaf *x509.Certificate, err error) {
	err = m.do(p, gate.RenewCertificate, node.ObjectCluster, func(ctx context.Context, tok gate.Token) (err error) {
		var uid hierarchy.UID
		copy(uid[:], binding)
		leaf, _, err = m.RenewCaller(ctx, tok, uid, key, ttl)
		return err
	})
	return leaf, err
}

func issuerName(tenant, id string) string {
	return hierarchy.IssuerPath(hierarchy.Name(tenant), hierarchy.Name(id)).String()
}

func (m *member) createIssuer(p auth.Principal, r node.Request, i *fsmpb.Issuer) (out *fsmpb.Issuer, err error) {
	err = m.do(p, gate.CreateIssuer, issuerName(i.GetTenant(), i.GetId()), func(ctx context.Context, tok gate.Token) (err error) {
		out, err = m.CreateIssuer(ctx, tok, r, proto.CloneOf(i))
		return err
	})
	return out, err
}

func (m *member) updateIssuer(p auth.Principal, r node.Request, i *fsmpb.Issuer) (out *fsmpb.Issuer, err error) {
	err = m.do(p, gate.UpdateIssuer, issuerName(i.GetTenant(), i.GetId()), func(ctx context.Context, tok gate.Token) (err error) {
		out, err = m.UpdateIssuer(ctx, tok, r, proto.CloneOf(i))
		return err
	})
	return out, err
}

func (m *member) deleteIssuer(p auth.Principal, r node.Request, tenant, id string) (out *fsmpb.Issuer, err error) {
	err = m.do(p, gate.DeleteIssuer, issuerName(tenant, id), func(ctx context.Context, tok gate.Token) (err error) {
		out, err = m.DeleteIssuer(ctx, tok, r, hierarchy.Name(tenant), hierarchy.Name(id))
		return err
	})
	return out, err
}

func (m *member) unbind(p auth.Principal, r node.Request, tenant, id string) (out *fsmpb.RoleBinding, err error) {
	name := hierarchy.RoleBindingPath(hierarchy.Name(tenant), hierarchy.Name(id)).String()
	err = m.do(p, gate.DeleteRoleBinding, name, func(ctx context.Context, tok gate.Token) (err error) {
		out, err = m.DeleteRoleBinding(ctx, tok, r, hierarchy.Name(tenant), hierarchy.Name(id))
		return err
	})
	return out, err
}

func (m *member) setGovernors(p auth.Principal, r node.Request, tenant hierarchy.Name, uids ...[]byte) error {
	slices.SortFunc(uids, bytes.Compare)
	return m.do(p, gate.SetGovernors, hierarchy.TenantPath(tenant).String(), func(ctx context.Context, tok gate.Token) error {
		return m.SetGovernors(ctx, tok, r, tenant, uids)
	})
}

// boundAs returns the role binding of somebody.
func (m *member) boundAs(p auth.Principal) *fsmpb.RoleBinding {
	m.w.tb.Helper()
	var tenant []byte
	if p.Tenant != "" {
		tenant = p.TenantUID[:]
	}
	b, ok := m.machine.View().BindingOf(p.Issuer[:], p.Role, tenant, p.Name)
	if !ok {
		m.w.tb.Fatalf("%s %s has no role binding", p.Role, p.Name)
	}
	return b
}

func keyIn(t tb, c node.Caller) crypto.PublicKey {
	t.Helper()
	return must[crypto.PublicKey](t)(pki.ParsePublicKey(c.PublicKey))
}

func tokenIssuer(tenant, id string) *fsmpb.Issuer {
	i := &fsmpb.Issuer{
		Tenant: tenant, Id: id, Roles: []string{"workload"},
		Kind: &fsmpb.Issuer_Jwt{Jwt: &fsmpb.JWTIssuer{Url: "https://" + id + ".example", Audiences: []string{"krypton"}}},
	}
	if tenant == "" {
		i.Roles, i.AllTenants = []string{"operator", "auditor", "workload"}, true
	} else {
		i.GetJwt().Audiences = []string{fsm.TenantAudience(tenant)}
	}
	return i
}

// unbound lets certificates of the cluster's CA give a role by themselves.
func (w *world) unbound(m *member, roles ...string) {
	w.tb.Helper()
	builtin, _ := m.machine.View().Issuer("", "builtin")
	i := proto.CloneOf(builtin)
	i.Uid, i.CreateTimeMs, i.ModIndex, i.UnboundRoles = nil, 0, 0, roles
	must[*fsmpb.Issuer](w.tb)(m.updateIssuer(m.governor(), w.request(), i))
}

// Certificates.

// TestACertificateIsOnlyForABoundKey: the first certificate of an identity binds its
// key, the next ones are for that key, and no other key gets one until a governor has
// removed the binding.
func TestACertificateIsOnlyForABoundKey(t *testing.T) {
	w, m := cluster1(t)
	for name, c := range map[string]node.Caller{
		"workload":  {Role: auth.RoleWorkload, Tenant: "acme", Name: "ledger"},
		"auditor":   {Role: auth.RoleAuditor, Name: "ada"},
		"operator":  {Role: auth.RoleOperator, Name: "o.lav_2"},
		"custodian": {Role: auth.RoleCustodian, Name: "carl"},
		"governor":  {Role: auth.RoleGovernor, Name: "gina"},
	} {
		t.Run(name, func(t *testing.T) {
			c.PublicKey = person(t, c.Name).PublicKey
			leaf := must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, time.Hour))
			if got := leaf.NotAfter; !got.Equal(w.clock.Now().Add(time.Hour)) {
				t.Errorf("ends %v", got)
			}
			b := m.boundAs(m.caller(c.Role, c.Tenant, c.Name))
			signs := c.Role == auth.RoleGovernor || c.Role == auth.RoleCustodian
			want := must[*fsmpb.PublicKey](t)(node.PublicKey(c.PublicKey))
			if k := b.GetKeys(); len(k) != 1 || !proto.Equal(k[0].GetKey(), want) || !k[0].GetTls() || k[0].GetSign() != signs {
				t.Errorf("keys %v", k)
			}
			if b.GetPlatform() || b.GetEveryTenant() || b.GetExpireTimeMs() != 0 {
				t.Errorf("a certificate gives %v", b)
			}

			commands := len(w.commands)
			again := must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
			if len(w.commands) != commands {
				t.Error("another certificate for the same key changes the registry")
			}
			if again.SerialNumber.Cmp(leaf.SerialNumber) == 0 || again.URIs[0].String() != leaf.URIs[0].String() {
				t.Error("not another certificate")
			}

			other := c
			other.PublicKey = person(t, c.Name).PublicKey
			_, err := m.issue(m.governor(), w.request(), other, 0)
			wants(t, err, errs.FailedState)
			way := hierarchy.RoleBindingPath(c.Tenant, hierarchy.Name(b.GetId())).String()
			if h := errs.From(err).Hint; !strings.Contains(h, way) {
				t.Errorf("the hint %q does not name %s", h, way)
			}
			must[*fsmpb.RoleBinding](t)(m.unbind(m.governor(), w.request(), string(c.Tenant), b.GetId()))
			must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), other, 0))
			if now := m.boundAs(m.caller(c.Role, c.Tenant, c.Name)); bytes.Equal(now.GetUid(), b.GetUid()) {
				t.Error("another key has the old binding")
			}
		})
	}
}

// TestAKeyIsOneIdentitys: a certificate for a key that is somebody else's would let
// its holder be both.
func TestAKeyIsOneIdentitys(t *testing.T) {
	w, m := cluster1(t)
	c := node.Caller{Role: auth.RoleAuditor, Name: "ada", PublicKey: person(t, "ada").PublicKey}
	must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	for _, twin := range []node.Caller{{Role: auth.RoleOperator, Name: "ada"}, {Role: auth.RoleWorkload, Tenant: "acme", Name: "ada"}} {
		twin.PublicKey = c.PublicKey
		_, err := m.issue(m.governor(), w.request(), twin, 0)
		wants(t, err, errs.AlreadyExists)
	}
}

// TestWhatCannotBeSignedBindsNobody: a lifetime that is not possible, a key that is
// none, a node that is sealed.
func TestWhatCannotBeSignedBindsNobody(t *testing.T) {
	w, m := cluster1(t)
	commands := len(w.commands)
	good := person(t, "ada").PublicKey
	for name, c := range map[string]struct {
		key []byte
		ttl time.Duration
	}{"too short": {good, pki.MinLifetime - 1}, "too long": {good, pki.CallerLifetime + 1}, "no key": {nil, 0}, "half a key": {good[:20], 0}} {
		_, err := m.issue(m.governor(), w.request(), node.Caller{Role: auth.RoleAuditor, Name: "ada", PublicKey: c.key}, c.ttl)
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, m.sealNode())
	_, err := m.issue(m.governor(), w.request(), node.Caller{Role: auth.RoleAuditor, Name: "ada", PublicKey: good}, 0)
	wants(t, err, errs.Sealed)
	if len(w.commands) != commands {
		t.Error("the registry changed")
	}
}

// TestARetryOfACertificateBindsOnce: the first answer was lost on its way.
func TestARetryOfACertificateBindsOnce(t *testing.T) {
	w, m := cluster1(t)
	r, c := w.request(), node.Caller{Role: auth.RoleAuditor, Name: "ada", PublicKey: person(t, "ada").PublicKey}
	m.hooks(nil, func(*fsmpb.Command) error { return errs.New(errs.Indeterminate, "lost") })
	_, err := m.issue(m.governor(), r, c, 0)
	wants(t, err, errs.Indeterminate)
	m.hooks(nil, nil)
	b := m.boundAs(m.caller(auth.RoleAuditor, "", "ada"))
	must[*x509.Certificate](t)(m.issue(m.governor(), r, c, 0))
	if now := m.boundAs(m.caller(auth.RoleAuditor, "", "ada")); !proto.Equal(now, b) {
		t.Errorf("%v, want %v", now, b)
	}
}

// TestABindingsNameThatIsTakenIsNoObstacle: the ids of role bindings are the
// governors', so one that a certificate would get may be another's.
func TestABindingsNameThatIsTakenIsNoObstacle(t *testing.T) {
	w, m := cluster1(t)
	must[*fsmpb.Issuer](t)(m.createIssuer(m.governor(), w.request(), tokenIssuer("acme", "idp")))
	idp, _ := m.machine.View().Issuer("acme", "idp")
	b := &fsmpb.RoleBinding{Id: "ledger", IssuerUid: idp.GetUid(), Subject: "s", Role: "workload", Tenant: "acme", Name: "ledger"}
	must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(), b))
	c := node.Caller{Role: auth.RoleWorkload, Tenant: "acme", Name: "ledger", PublicKey: person(t, "x").PublicKey}
	must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	if got := m.boundAs(m.caller(auth.RoleWorkload, "acme", "ledger")); got.GetId() == "ledger" || !bytes.Equal(got.GetIssuerUid(), w.callers[:]) {
		t.Errorf("%v", got)
	}
}

// TestACertificateIsForTheTenantOfToday: the binding under the tenant that had the
// name before does not count for the one that has it now, though nothing removed it yet.
func TestACertificateIsForTheTenantOfToday(t *testing.T) {
	w, m := cluster1(t)
	c := node.Caller{Role: auth.RoleWorkload, Tenant: "acme", Name: "ledger", PublicKey: person(t, "x").PublicKey}
	must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	was := m.boundAs(m.caller(auth.RoleWorkload, "acme", "ledger"))
	check(t, m.changeObject(w.request(), object("acme", ""), destroyO, node.WithoutWait))
	w.tenant(m, "acme")
	_, err := m.renew(m.caller(auth.RoleWorkload, "acme", "ledger"), was.GetUid(), keyIn(t, c), 0)
	wants(t, err, errs.Unauthenticated)
	leaf := must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	now := m.boundAs(m.caller(auth.RoleWorkload, "acme", "ledger"))
	if bytes.Equal(now.GetUid(), was.GetUid()) || !strings.Contains(leaf.URIs[0].String(), hex.EncodeToString(now.GetTenantUid())) {
		t.Errorf("%s for %v", leaf.URIs[0], now)
	}
}

// TestRenewalIsForTheBoundIdentityAndKey and for nothing else: whoever holds the key
// needs nobody for it.
func TestRenewalIsForTheBoundIdentityAndKey(t *testing.T) {
	w, m := cluster1(t)
	for _, c := range []node.Caller{
		{Role: auth.RoleWorkload, Tenant: "acme", Name: "ledger"}, {Role: auth.RoleOperator, Name: "olaf"}, {Role: auth.RoleGovernor, Name: "gina"},
	} {
		c.PublicKey = person(t, c.Name).PublicKey
		old := must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, time.Hour))
		p := m.caller(c.Role, c.Tenant, c.Name)
		b := m.boundAs(p)
		w.advance(2 * time.Hour) // it has expired
		commands := len(w.commands)
		leaf := must[*x509.Certificate](t)(m.renew(p, b.GetUid(), keyIn(t, c), 0))
		ca, _ := node.Authority(m.machine.View(), node.SecretCallerCA)
		check(t, leaf.CheckSignatureFrom(ca))
		switch {
		case leaf.URIs[0].String() != old.URIs[0].String():
			t.Errorf("%s becomes %s", old.URIs[0], leaf.URIs[0])
		case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, c.PublicKey):
			t.Errorf("%s: another key", c.Name)
		case !leaf.NotAfter.Equal(w.clock.Now().Add(pki.CallerLifetime)):
			t.Errorf("%s: ends %v", c.Name, leaf.NotAfter)
		case len(w.commands) != commands:
			t.Errorf("%s: the registry changed", c.Name)
		}
		// By a view from before, the key was another one.
		_, err := m.renew(p, b.GetUid(), keyIn(t, node.Caller{PublicKey: person(t, "x").PublicKey}), 0)
		wants(t, err, errs.Unauthenticated)
		// A certificate that counts without a role binding.
		_, err = m.renew(p, nil, keyIn(t, c), 0)
		wants(t, err, errs.FailedState)
		for _, ttl := range []time.Duration{pki.MinLifetime - 1, pki.CallerLifetime + 1} {
			_, err = m.renew(p, b.GetUid(), keyIn(t, c), ttl)
			wants(t, err, errs.InvalidArgument)
		}
	}
}

// TestWhoIsBoundNoMoreRenewsNothing, however late this node hears of it.
func TestWhoIsBoundNoMoreRenewsNothing(t *testing.T) {
	clk := &pausing{Fake: clock.NewFake(start)}
	w, m := cluster1(t, withClock(clk))
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	c := node.Caller{Role: auth.RoleOperator, Name: "olaf", PublicKey: person(t, "x").PublicKey}
	must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	p := m.caller(c.Role, "", c.Name)
	was := m.boundAs(p)
	renew := func(on *member) error { _, err := on.renew(p, was.GetUid(), keyIn(t, c), 0); return err }
	check(t, renew(b))

	b.behind.Store(true)
	must[*fsmpb.RoleBinding](t)(m.unbind(m.governor(), w.request(), "", was.GetId()))
	wants(t, renew(m), errs.Unauthenticated)
	b.contact.Store(int64(leaseSpan / 2))
	var pauses atomic.Int32
	clk.each(func() {
		if pauses.Add(1) == 3 {
			b.follow()
		}
	})
	wants(t, renew(b), errs.Unauthenticated)
	if pauses.Load() < 3 {
		t.Errorf("it waited %d times", pauses.Load())
	}
	// Bound again, for the same key: another binding, which other certificates are for.
	must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	wants(t, renew(m), errs.Unauthenticated)
	_, err := m.renew(p, m.boundAs(p).GetUid(), keyIn(t, c), 0)
	check(t, err)
	check(t, m.sealNode())
	_, err = m.renew(p, m.boundAs(p).GetUid(), keyIn(t, c), 0)
	wants(t, err, errs.Sealed)
}

// TestARenewedCertificateEndsWithItsBinding: nobody has to think of it twice.
func TestARenewedCertificateEndsWithItsBinding(t *testing.T) {
	w, m := cluster1(t)
	c := node.Caller{Role: auth.RoleAuditor, Name: "ada", PublicKey: person(t, "x").PublicKey}
	b := w.roleBinding(auth.RoleAuditor, "", "ada")
	b.Keys[0].Key = must[*fsmpb.PublicKey](t)(node.PublicKey(c.PublicKey))
	end := w.clock.Now().Add(time.Hour)
	b.ExpireTimeMs = end.UnixMilli()
	b = must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(), b))
	p := m.caller(auth.RoleAuditor, "", "ada")
	for ttl, want := range map[time.Duration]time.Time{
		0: end, 2 * time.Hour: end, pki.CallerLifetime: end, 30 * time.Minute: w.clock.Now().Add(30 * time.Minute),
	} {
		leaf := must[*x509.Certificate](t)(m.renew(p, b.GetUid(), keyIn(t, c), ttl))
		if !leaf.NotAfter.Equal(want) {
			t.Errorf("asked for %v, ends %v, want %v", ttl, leaf.NotAfter, want)
		}
	}
	w.advance(time.Hour - pki.MinLifetime/2)
	leaf := must[*x509.Certificate](t)(m.renew(p, b.GetUid(), keyIn(t, c), 0))
	if want := w.clock.Now().Add(pki.MinLifetime); !leaf.NotAfter.Equal(want) {
		t.Errorf("ends %v, want the shortest there is, %v", leaf.NotAfter, want)
	}
	w.advance(pki.MinLifetime / 2)
	_, err := m.renew(p, b.GetUid(), keyIn(t, c), 0)
	wants(t, err, errs.Unauthenticated)
	// A role that needs no binding does not make the end of one undone.
	w.unbound(m, "auditor")
	_, err = m.renew(p, b.GetUid(), keyIn(t, c), 0)
	wants(t, err, errs.Unauthenticated)
	c.PublicKey = person(t, "y").PublicKey // another key: the binding that ended is in nobody's way
	must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
}

// TestAKeyToSignIntentsWithGetsNoCertificate: it may lie where no connection is made.
func TestAKeyToSignIntentsWithGetsNoCertificate(t *testing.T) {
	w, m := cluster1(t)
	offline := node.Caller{Role: auth.RoleGovernor, Name: "gina", PublicKey: person(t, "x").PublicKey}
	b := w.roleBinding(auth.RoleGovernor, "", "gina")
	b.Keys = append(b.Keys, &fsmpb.BindingKey{Key: must[*fsmpb.PublicKey](t)(node.PublicKey(offline.PublicKey)), Sign: true})
	b = must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(), b))
	_, err := m.issue(m.governor(), w.request(), offline, 0)
	wants(t, err, errs.FailedState)
	_, err = m.renew(m.caller(auth.RoleGovernor, "", "gina"), b.GetUid(), keyIn(t, offline), 0)
	wants(t, err, errs.Unauthenticated)
}

// TestOtherIssuersCertificatesAreNotRenewedHere: this cluster's CA would vouch for
// what another one said.
func TestOtherIssuersCertificatesAreNotRenewedHere(t *testing.T) {
	w, m := cluster1(t)
	corp := must[*fsmpb.Issuer](t)(m.createIssuer(m.governor(), w.request(), tokenIssuer("", "corp")))
	b := must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(),
		&fsmpb.RoleBinding{Id: "ada", IssuerUid: corp.GetUid(), Subject: "ada@example", Role: "auditor", Name: "ada"}))
	p := auth.Principal{Issuer: auth.Issuer(corp.GetUid()), Role: auth.RoleAuditor, Name: "ada"}
	_, err := m.renew(p, b.GetUid(), keyIn(t, node.Caller{PublicKey: person(t, "x").PublicKey}), 0)
	wants(t, err, errs.FailedState)
}

// TestBeforeTheUpgradeACertificateSpeaksForItself: nobody is bound, and every key gets
// one. With the upgrade the governors of the genesis stay what they were, and nobody
// else is a governor.
func TestBeforeTheUpgradeACertificateSpeaksForItself(t *testing.T) {
	w, m := cluster1(t, ofFormat(fsm.FormatAuthority-1))
	if got := m.machine.View().Cluster().GetFormatVersion(); got != fsm.FormatAuthority-1 {
		t.Fatalf("format version %d", got)
	}
	c := node.Caller{Role: auth.RoleOperator, Name: "olaf"}
	commands := len(w.commands)
	for range 2 {
		c.PublicKey = person(t, "x").PublicKey
		must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	}
	if len(w.commands) != commands {
		t.Error("the registry changed")
	}
	unknown := m.caller(auth.RoleGovernor, "", "gus")
	must[*x509.Certificate](t)(m.issue(unknown, w.request(), c, 0))
	_, err := m.renew(m.caller(auth.RoleOperator, "", "olaf"), nil, keyIn(t, c), 0)
	wants(t, err, errs.FailedState)
	_, err = m.createIssuer(m.governor(), w.request(), tokenIssuer("", "corp"))
	wants(t, err, errs.FailedState)
	wants(t, m.setGovernors(m.governor(), w.request(), "acme", bytes.Repeat([]byte{1}, 16)), errs.FailedState)

	check(t, fsm.Err(w.commit(&fsmpb.Command{Format: fsm.CommandFormat, Body: &fsmpb.Command_RaiseFormat{RaiseFormat: &fsmpb.RaiseFormat{Version: fsm.FormatAuthority}}})))
	check(t, m.rotate(w.request(), object("acme", "pay")))
	_, err = m.issue(unknown, w.request(), c, 0)
	wants(t, err, errs.Denied)
	// Certificates of those who only use or run it go on, and the next one binds.
	wants(t, node.Bound(m.machine.View(), m.caller(auth.RoleOperator, "", "olaf"), hierarchy.UID{}, w.clock.Now()), errs.Unspecified)
	wants(t, node.Bound(m.machine.View(), m.workload("acme"), hierarchy.UID{}, w.clock.Now()), errs.Unspecified)
	wants(t, node.Bound(m.machine.View(), unknown, hierarchy.UID{}, w.clock.Now()), errs.Unauthenticated)
	must[*x509.Certificate](t)(m.issue(m.governor(), w.request(), c, 0))
	c.PublicKey = person(t, "x").PublicKey
	_, err = m.issue(m.governor(), w.request(), c, 0)
	wants(t, err, errs.FailedState)
}

// TestARoleIsAskedForOnceMore before something is signed that lives for long.
func TestARoleIsAskedForOnceMore(t *testing.T) {
	w, m := cluster1(t)
	now, other := w.clock.Now(), m.caller(auth.RoleGovernor, "", "gus")
	b := w.roleBinding(auth.RoleAuditor, "", "ada")
	b.ExpireTimeMs = now.Add(time.Hour).UnixMilli()
	must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(), b))
	w.tenant(m, "beta")
	ada, stranger, crossed := m.caller(auth.RoleAuditor, "", "ada"), m.governor(), m.workload("acme")
	stranger.Issuer[0]++
	crossed.TenantUID = hierarchy.UID{1}
	for name, c := range map[string]struct {
		p    auth.Principal
		at   time.Time
		want errs.Code
	}{
		"a governor":                {m.governor(), now, errs.Unspecified},
		"a custodian":               {m.custodian("cust"), now, errs.Unspecified},
		"a workload":                {m.workload("beta"), now, errs.Unspecified},
		"nobody":                    {other, now, errs.Unauthenticated},
		"in another role":           {m.caller(auth.RoleOperator, "", "gov"), now, errs.Unauthenticated},
		"under another issuer":      {stranger, now, errs.Unauthenticated},
		"of another tenant":         {crossed, now, errs.Unauthenticated},
		"before the binding's end":  {ada, now.Add(time.Hour - time.Millisecond), errs.Unspecified},
		"from the binding's end on": {ada, now.Add(time.Hour), errs.Unauthenticated},
	} {
		if err := node.Bound(m.machine.View(), c.p, hierarchy.UID{}, c.at); errs.Of(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// By the binding with which it began, and not by another one under the same name.
	is, _ := m.machine.View().Binding("", b.GetId())
	uid := hierarchy.UID(is.GetUid())
	wants(t, node.Bound(m.machine.View(), ada, uid, now), errs.Unspecified)
	wants(t, node.Bound(m.machine.View(), ada, hierarchy.UID{9}, now), errs.Unauthenticated)
	must[*fsmpb.RoleBinding](t)(m.unbind(m.governor(), w.request(), "", b.GetId()))
	wants(t, node.Bound(m.machine.View(), ada, uid, now), errs.Unauthenticated)
	anew := w.roleBinding(auth.RoleAuditor, "", "ada")
	must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(), anew))
	wants(t, node.Bound(m.machine.View(), ada, uid, now), errs.Unauthenticated)
	wants(t, node.Bound(m.machine.View(), ada, hierarchy.UID{}, now), errs.Unspecified)
	// The issuer says that the role needs no binding.
	w.unbound(m, "operator", "auditor")
	wants(t, node.Bound(m.machine.View(), ada, uid, now), errs.Unauthenticated)
	w.unbound(m, "operator")
	wants(t, node.Bound(m.machine.View(), m.caller(auth.RoleOperator, "", "gov"), hierarchy.UID{}, now), errs.Unspecified)
	wants(t, node.Bound(m.machine.View(), m.caller(auth.RoleAuditor, "", "gov"), hierarchy.UID{}, now), errs.Unauthenticated)
}

// TestAGovernorWhoIsNoneAnyMoreSignsNothing: on a node that is behind, the gate lets
// a governor in whose role was taken away.
func TestAGovernorWhoIsNoneAnyMoreSignsNothing(t *testing.T) {
	clk := &pausing{Fake: clock.NewFake(start)}
	w, m := cluster1(t, withClock(clk))
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	gina := w.roleBinding(auth.RoleGovernor, "", "gina")
	gina.Platform = true
	must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(), gina))
	p := m.caller(auth.RoleGovernor, "", "gina")
	c := node.Caller{Role: auth.RoleAuditor, Name: "ada", PublicKey: person(t, "x").PublicKey}
	must[*x509.Certificate](t)(b.issue(p, w.request(), c, 0))
	b.behind.Store(true)
	must[*fsmpb.RoleBinding](t)(m.unbind(m.governor(), w.request(), "", "gina"))
	b.contact.Store(int64(leaseSpan / 2))
	clk.each(b.follow)
	_, err := b.issue(p, w.request(), c, 0)
	wants(t, err, errs.Unauthenticated)
	_, err = m.issue(p, w.request(), c, 0)
	wants(t, err, errs.Denied) // the gate of a node that knows
}

// Issuers.

func TestIssuersAreMadeChangedAndRemoved(t *testing.T) {
	for _, tenant := range []string{"", "acme"} {
		t.Run("of "+tenant, func(t *testing.T) {
			w, m := cluster1(t)
			idp := tokenIssuer(tenant, "idp")
			_, err := m.updateIssuer(m.governor(), w.request(), idp)
			wants(t, err, errs.NotFound)
			_, err = m.deleteIssuer(m.governor(), w.request(), tenant, "idp")
			wants(t, err, errs.NotFound)

			checked := w.request()
			checked.ValidateOnly = true
			must[*fsmpb.Issuer](t)(m.createIssuer(m.governor(), checked, idp))
			if _, ok := m.machine.View().Issuer(tenant, "idp"); ok {
				t.Fatal("only checked, and there")
			}
			r := w.request()
			made := must[*fsmpb.Issuer](t)(m.createIssuer(m.governor(), r, idp))
			if len(made.GetUid()) != 16 || made.GetTenant() != tenant || (tenant != "") != (len(made.GetTenantUid()) == 16) {
				t.Errorf("%v", made)
			}
			if again := must[*fsmpb.Issuer](t)(m.createIssuer(m.governor(), r, idp)); !proto.Equal(again, made) {
				t.Errorf("a retry: %v", again)
			}
			_, err = m.createIssuer(m.governor(), w.request(), idp)
			wants(t, err, errs.AlreadyExists)

			idp.GetJwt().SkewMs = 2000
			stale := w.request()
			stale.ETag = made.GetModIndex() - 1
			_, err = m.updateIssuer(m.governor(), stale, idp)
			wants(t, err, errs.StaleEtag)
			seen := w.request()
			seen.ETag = made.GetModIndex()
			now := must[*fsmpb.Issuer](t)(m.updateIssuer(m.governor(), seen, idp))
			if now.GetJwt().GetSkewMs() != 2000 || !bytes.Equal(now.GetUid(), made.GetUid()) {
				t.Errorf("%v", now)
			}

			b := &fsmpb.RoleBinding{Id: "x", IssuerUid: made.GetUid(), Subject: "x", Role: "workload", Tenant: "acme", Name: "x"}
			must[*fsmpb.RoleBinding](t)(m.createRoleBinding(m.governor(), w.request(), b))
			_, err = m.deleteIssuer(m.governor(), w.request(), tenant, "idp")
			wants(t, err, errs.FailedState)
			gone := must[*fsmpb.RoleBinding](t)(m.unbind(m.governor(), w.request(), "acme", "x"))
			if gone.GetSubject() != "x" {
				t.Errorf("%v", gone)
			}
			last := w.request()
			was := must[*fsmpb.Issuer](t)(m.deleteIssuer(m.governor(), last, tenant, "idp"))
			if !proto.Equal(was, now) {
				t.Errorf("it was %v", was)
			}
			must[*fsmpb.Issuer](t)(m.deleteIssuer(m.governor(), last, tenant, "idp"))
			if _, ok := m.machine.View().Issuer(tenant, "idp"); ok {
				t.Error("it is there still")
			}
		})
	}
}

// TestAnUpdateNeverMakesAnIssuer: somebody removes it in between. Whoever does that
// ends what it vouches for, and an update by who did not know must not undo it.
func TestAnUpdateNeverMakesAnIssuer(t *testing.T) {
	w, m := cluster1(t)
	idp := must[*fsmpb.Issuer](t)(m.createIssuer(m.governor(), w.request(), tokenIssuer("", "idp")))
	m.hooks(func(cmd *fsmpb.Command) error {
		if cmd.GetPutIssuer() != nil {
			m.hooks(nil, nil)
			must[*fsmpb.Issuer](t)(m.deleteIssuer(m.governor(), w.request(), "", "idp"))
		}
		return nil
	}, nil)
	_, err := m.updateIssuer(m.governor(), w.request(), tokenIssuer("", "idp"))
	wants(t, err, errs.StaleEtag)
	if i, ok := m.machine.View().Issuer("", "idp"); ok {
		t.Errorf("%v, it was %v", i, idp)
	}
}

// TestATenantIsNotMissingToWhoIsBehind: without a lease a node does not say that
// something is not there, and with one it says so once that is complete.
func TestATenantIsNotMissingToWhoIsBehind(t *testing.T) {
	w, m := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	check(t, b.AskKeystores(t.Context()))
	b.behind.Store(true)
	w.tenant(m, "beta")
	ask := map[string]func(m *member) error{
		"an issuer": func(m *member) error {
			_, err := m.createIssuer(m.governor(), w.request(), tokenIssuer("beta", "idp"))
			return err
		},
		"a role binding": func(m *member) error {
			_, err := m.createRoleBinding(m.governor(), w.request(), w.roleBinding(auth.RoleWorkload, "beta", "y"))
			return err
		},
		"governors": func(m *member) error {
			return m.setGovernors(m.governor(), w.request(), "beta", m.boundAs(m.governor()).GetUid())
		},
	}
	b.contact.Store(1 << 62)
	for name, do := range ask {
		if err := do(b); !errs.Is(err, errs.NotServing) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.contact.Store(0)
	b.incomplete.Store(b.machine.View().Index())
	for name, do := range ask {
		if err := do(b); !errs.Is(err, errs.ChangeInProgress) {
			t.Errorf("%s: %v", name, err)
		}
		if err := do(m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Governors of tenants.

// TestARetryOfNewGovernorsActsOnce, though others were named in between.
func TestARetryOfNewGovernorsActsOnce(t *testing.T) {
	w, m := cluster1(t)
	anna, ben := w.bind(m, auth.RoleGovernor, "", "anna"), w.bind(m, auth.RoleGovernor, "", "ben")
	gov := m.boundAs(m.governor()).GetUid()
	governors := func() [][]byte { tn, _ := m.machine.View().Tenant("acme"); return tn.GetGovernors() }
	if got := governors(); len(got) != 1 || !bytes.Equal(got[0], gov) {
		t.Fatalf("made by gov, governed by %x", got)
	}
	r := w.request()
	check(t, m.setGovernors(m.governor(), r, "acme", gov, m.boundAs(anna).GetUid()))
	check(t, m.setGovernors(anna, w.request(), "acme", gov, m.boundAs(anna).GetUid(), m.boundAs(ben).GetUid()))
	at := m.machine.View().AuthorityAt()
	check(t, m.setGovernors(m.governor(), r, "acme", gov, m.boundAs(anna).GetUid()))
	if got := governors(); len(got) != 3 || m.machine.View().AuthorityAt() != at {
		t.Errorf("the retry acted: %x", got)
	}
	stale := w.request()
	stale.ETag = 1
	wants(t, m.setGovernors(anna, stale, "acme", m.boundAs(anna).GetUid()), errs.StaleEtag)
	wants(t, m.setGovernors(anna, w.request(), "acme"), errs.InvalidArgument)
	wants(t, m.setGovernors(anna, w.request(), "acme", m.boundAs(m.custodian("cust")).GetUid()), errs.NotFound)

	// Who hands a tenant over does not govern it any more, and hears that when asking again.
	over := w.request()
	check(t, m.setGovernors(m.governor(), over, "acme", m.boundAs(ben).GetUid()))
	wants(t, m.setGovernors(m.governor(), over, "acme", m.boundAs(ben).GetUid()), errs.Denied)
	wants(t, m.setGovernors(anna, w.request(), "acme", m.boundAs(anna).GetUid()), errs.Denied)
	_, err := m.unbind(m.governor(), w.request(), "", "ben")
	wants(t, err, errs.FailedState) // the last one of acme
}
