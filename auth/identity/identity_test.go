package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A view of the registry is a directory.
var _ identity.Directory = (*fsm.View)(nil)

// registry is a directory of the test's own.
type registry struct {
	issuers  []*fsmpb.Issuer
	bindings []*fsmpb.RoleBinding
	tenants  map[string]*fsmpb.Tenant
}

func (r registry) IssuerByUID(uid []byte) (*fsmpb.Issuer, bool) {
	for _, i := range r.issuers {
		if string(i.GetUid()) == string(uid) {
			return i, true
		}
	}
	return nil, false
}

func (r registry) BindingBySubject(uid []byte, subject string) (*fsmpb.RoleBinding, bool) {
	for _, b := range r.bindings {
		if string(b.GetIssuerUid()) == string(uid) && b.GetSubject() == subject {
			return b, true
		}
	}
	return nil, false
}

func (r registry) Tenant(name string) (*fsmpb.Tenant, bool) {
	t, ok := r.tenants[name]
	return t, ok
}

func uid(b byte) []byte { return append(make([]byte, 15), b) }

var (
	builtinUID = auth.Issuer(uid(1))
	corpUID    = auth.Issuer(uid(2))
	ownUID     = auth.Issuer(uid(3))
	idpUID     = auth.Issuer(uid(4))
)

// world has the builtin issuer, a CA and a token service of the company for people
// and workloads of acme, and a CA of the tenant acme itself.
func world() registry {
	all := []string{"governor", "custodian", "operator", "auditor", "workload"}
	return registry{
		issuers: []*fsmpb.Issuer{
			{Id: "builtin", Uid: builtinUID[:], Roles: all, AllTenants: true},
			{Id: "corp", Uid: corpUID[:], Roles: []string{"operator", "workload"}, TenantUids: [][]byte{uid(11)}, UnboundRoles: []string{"workload"}},
			{Id: "own", Uid: ownUID[:], Roles: []string{"workload"}, Tenant: "acme", TenantUid: uid(11)},
			{Id: "idp", Uid: idpUID[:], Roles: []string{"auditor", "workload"}, AllTenants: true},
		},
		tenants: map[string]*fsmpb.Tenant{"acme": {Name: "acme", Uid: uid(11)}, "other": {Name: "other", Uid: uid(12)}},
	}
}

func key(t testing.TB) (crypto.PublicKey, *fsmpb.BindingKey) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := sign.PublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k.Public(), &fsmpb.BindingKey{Key: &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256, Raw: pub.Raw()}, Tls: true}
}

func proof(issuer auth.Issuer, role auth.Role, tenant hierarchy.Name, name string, k crypto.PublicKey) pki.Proof {
	id := auth.ID{TrustDomain: "bank.example", Role: role, Tenant: tenant, Name: name}
	return pki.Proof{Issuer: issuer, ID: id, Subject: "uri:" + id.String(), Key: k, NotAfter: now.Add(time.Hour), Serial: "\x07"}
}

func refused(t *testing.T, what string, id identity.Identity, err error, says string) {
	t.Helper()
	if !errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), says) || errs.From(err).Hint == "" {
		t.Errorf("%s: %v, want UNAUTHENTICATED with %q and a hint", what, err, says)
	}
	if id != (identity.Identity{}) {
		t.Errorf("%s: refused, and returned %+v", what, id)
	}
}

func TestI1_IssuersStayWithinTheirLimits(t *testing.T) {
	t.Parallel()
	r := world()
	r.bindings = []*fsmpb.RoleBinding{
		{Uid: uid(21), IssuerUid: corpUID[:], Subject: "cn:olga", Role: "operator", Name: "olga"},
		{Uid: uid(22), IssuerUid: corpUID[:], Subject: "cn:gabi", Role: "governor", Name: "gabi", Platform: true},
		{Uid: uid(23), IssuerUid: corpUID[:], Subject: "cn:app", Role: "workload", Name: "app", Tenant: "acme", TenantUid: uid(11)},
		{Uid: uid(24), IssuerUid: corpUID[:], Subject: "cn:spy", Role: "workload", Name: "spy", Tenant: "other", TenantUid: uid(12)},
		{Uid: uid(25), IssuerUid: ownUID[:], Subject: "cn:app", Role: "workload", Name: "app", Tenant: "acme", TenantUid: uid(11)},
		{Uid: uid(26), IssuerUid: ownUID[:], Subject: "cn:spy", Role: "workload", Name: "spy", Tenant: "other", TenantUid: uid(12)},
		{Uid: uid(27), IssuerUid: ownUID[:], Subject: "cn:olga", Role: "operator", Name: "olga"},
		{Uid: uid(28), IssuerUid: idpUID[:], Subject: "app", Role: "workload", Name: "app", Tenant: "other", TenantUid: uid(12)},
		{Uid: uid(29), IssuerUid: idpUID[:], Subject: "olga", Role: "operator", Name: "olga"},
	}
	k, _ := key(t)
	cn := func(issuer auth.Issuer, name string) pki.Proof {
		return pki.Proof{Issuer: issuer, Subject: "cn:" + name, Key: k, NotAfter: now.Add(time.Hour)}
	}
	for what, tc := range map[string]struct {
		proof pki.Proof
		says  string // empty: accepted
	}{
		"operator of the company":            {cn(corpUID, "olga"), ""},
		"governor of the company":            {cn(corpUID, "gabi"), "may not vouch for the role governor"},
		"workload of its tenant":             {cn(corpUID, "app"), ""},
		"workload of another tenant":         {cn(corpUID, "spy"), "workloads of this tenant"},
		"workload of the tenant's own CA":    {cn(ownUID, "app"), ""},
		"another tenant by a tenant's CA":    {cn(ownUID, "spy"), "workloads of this tenant"},
		"operator by a tenant's CA":          {cn(ownUID, "olga"), "may not vouch for the role operator"},
		"own form, its tenant":               {proof(corpUID, auth.RoleWorkload, "acme", "app9", k), ""},
		"own form, another tenant":           {proof(corpUID, auth.RoleWorkload, "other", "app9", k), "workloads of this tenant"},
		"own form, operator without binding": {proof(corpUID, auth.RoleOperator, "", "eve", k), "has no role in this cluster"},
		"own form, by the tenant's own CA":   {proof(ownUID, auth.RoleWorkload, "acme", "app9", k), "has no role in this cluster"},
		"issuer that nobody registered":      {cn(auth.Issuer{9}, "olga"), "not registered"},
		"nobody":                             {cn(corpUID, "mallory"), "has no role in this cluster"},
		"no name":                            {pki.Proof{Issuer: corpUID, Key: k, NotAfter: now.Add(time.Hour)}, "no name"},
	} {
		id, err := identity.OfCertificate(r, tc.proof, now)
		if tc.says != "" {
			refused(t, what, id, err, tc.says)
			continue
		}
		if err != nil || !id.Principal.Valid() || id.Principal.Issuer != tc.proof.Issuer || id.Serial != "" || id.Expired {
			t.Errorf("%s: %+v, %v", what, id, err)
		}
	}
	if id, err := identity.OfToken(r, identity.Token{Issuer: idpUID, Subject: "app", NotAfter: now.Add(time.Minute)}, now); err != nil || id.Principal.Tenant != "other" || !id.NotAfter.Equal(now.Add(time.Minute)) || id.Issuer != "issuers/idp" {
		t.Errorf("a token: %+v, %v", id, err)
	}
	for subject, says := range map[string]string{"olga": "may not vouch for the role operator", "mallory": "has no role", "": "no name"} {
		id, err := identity.OfToken(r, identity.Token{Issuer: idpUID, Subject: subject, NotAfter: now.Add(time.Minute)}, now)
		refused(t, "token of "+subject, id, err, says)
	}
	id, err := identity.OfToken(r, identity.Token{Issuer: auth.Issuer{9}, Subject: "app"}, now)
	refused(t, "token of nobody", id, err, "not registered")
}

func TestI2_TheRegistryGivesTheRole(t *testing.T) {
	t.Parallel()
	k, pinned := key(t)
	r := world()
	for _, role := range auth.Roles() {
		tenant := hierarchy.Name("")
		if role == auth.RoleWorkload {
			tenant = "acme"
		}
		p := proof(builtinUID, role, tenant, "alice", k)
		id, err := identity.OfCertificate(r, p, now)
		refused(t, "unbound "+role.String(), id, err, "has no role in this cluster")

		b := &fsmpb.RoleBinding{Uid: uid(30), IssuerUid: builtinUID[:], Subject: identity.Subject(p.ID), Role: role.String(), Name: "alice", Keys: []*fsmpb.BindingKey{pinned}}
		if tenant != "" {
			b.Tenant, b.TenantUid = "acme", uid(11)
		}
		with := r
		with.bindings = []*fsmpb.RoleBinding{b}
		id, err = identity.OfCertificate(with, p, now)
		want := auth.Principal{Issuer: builtinUID, Role: role, Tenant: tenant, Name: "alice"}
		if tenant != "" {
			want.TenantUID = hierarchy.UID(uid(11))
		}
		if err != nil || id.Principal != want || id.Binding != hierarchy.UID(uid(30)) || id.Serial != "\x07" || id.Issuer != "issuers/builtin" {
			t.Errorf("bound %s: %+v, %v", role, id, err)
		}
		// Another name, role or tenant in the certificate is another identity.
		for _, other := range []pki.Proof{
			proof(builtinUID, role, tenant, "alicia", k), proof(builtinUID, auth.RoleAuditor, "", "alice2", k), proof(builtinUID, auth.RoleWorkload, "other", "alice", k),
		} {
			id, err := identity.OfCertificate(with, other, now)
			refused(t, "as "+other.ID.String(), id, err, "has no role in this cluster")
		}
		id, err = identity.OfCertificate(with, pki.Proof{Issuer: builtinUID, Subject: "cn:alice", Key: k, NotAfter: now.Add(time.Hour)}, now)
		refused(t, "builtin without our own form", id, err, "names no role")
	}
}

func TestI3_AStolenCAKeyMakesNobody(t *testing.T) {
	t.Parallel()
	k, pinned := key(t)
	thief, other := key(t)
	signOnly := &fsmpb.BindingKey{Key: other.GetKey(), Sign: true}
	r := world()
	p := proof(builtinUID, auth.RoleGovernor, "", "alice", thief)
	r.bindings = []*fsmpb.RoleBinding{{Uid: uid(30), IssuerUid: builtinUID[:], Subject: "governor/alice", Role: "governor", Name: "alice", Keys: []*fsmpb.BindingKey{pinned, signOnly}}}
	id, err := identity.OfCertificate(r, p, now)
	refused(t, "another key", id, err, "does not have")
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p.Key = ed
	id, err = identity.OfCertificate(r, p, now)
	refused(t, "another kind of key", id, err, "does not have")
	p.Key = "no key at all"
	id, err = identity.OfCertificate(r, p, now)
	refused(t, "no key", id, err, "does not have")
	p.Key = k
	if _, err := identity.OfCertificate(r, p, now); err != nil {
		t.Errorf("the bound key: %v", err)
	}
	// A role that the issuer gives without a binding gives way to a binding.
	r.issuers[0].UnboundRoles = []string{"auditor"}
	q := proof(builtinUID, auth.RoleAuditor, "", "ada", thief)
	if _, err := identity.OfCertificate(r, q, now); err != nil {
		t.Errorf("a role that needs no binding: %v", err)
	}
	r.bindings = append(r.bindings, &fsmpb.RoleBinding{Uid: uid(31), IssuerUid: builtinUID[:], Subject: "auditor/ada", Role: "auditor", Name: "ada", Keys: []*fsmpb.BindingKey{{Key: pinned.GetKey(), Tls: true}}})
	id, err = identity.OfCertificate(r, q, now)
	refused(t, "bound by now, to another key", id, err, "does not have")
}

func TestI4_ExpiredCertificatesCountOnlyUnderABinding(t *testing.T) {
	t.Parallel()
	k, pinned := key(t)
	r := world()
	r.issuers[0].UnboundRoles = []string{"auditor"}
	r.bindings = []*fsmpb.RoleBinding{
		{Uid: uid(30), IssuerUid: builtinUID[:], Subject: "custodian/carol", Role: "custodian", Name: "carol", Keys: []*fsmpb.BindingKey{pinned}},
		{Uid: uid(31), IssuerUid: corpUID[:], Subject: "cn:olga", Role: "operator", Name: "olga"},
	}
	late := func(p pki.Proof) pki.Proof {
		p.NotAfter, p.Expired = now.Add(-90*24*time.Hour), true
		return p
	}
	id, err := identity.OfCertificate(r, late(proof(builtinUID, auth.RoleCustodian, "", "carol", k)), now)
	if err != nil || !id.Expired || id.Principal.Name != "carol" {
		t.Errorf("bound: %+v, %v", id, err)
	}
	thief, _ := key(t)
	id, err = identity.OfCertificate(r, late(proof(builtinUID, auth.RoleCustodian, "", "carol", thief)), now)
	refused(t, "another key", id, err, "does not have")
	id, err = identity.OfCertificate(r, late(proof(builtinUID, auth.RoleAuditor, "", "ada", k)), now)
	refused(t, "without a binding", id, err, "expired at")
	id, err = identity.OfCertificate(r, late(pki.Proof{Issuer: corpUID, Subject: "cn:olga", Key: k}), now)
	refused(t, "of another issuer", id, err, "expired at")

	// A revocation is forgotten when its certificate has expired: whoever had one is known
	// by valid certificates only.
	r.bindings[0].StrictExpiry = true
	id, err = identity.OfCertificate(r, late(proof(builtinUID, auth.RoleCustodian, "", "carol", k)), now)
	refused(t, "after a revocation", id, err, "expired at")
	if _, err := identity.OfCertificate(r, proof(builtinUID, auth.RoleCustodian, "", "carol", k), now); err != nil {
		t.Errorf("valid, after a revocation: %v", err)
	}
	r.bindings[0].StrictExpiry, r.issuers[0].StrictExpiry = false, true
	id, err = identity.OfCertificate(r, late(proof(builtinUID, auth.RoleCustodian, "", "carol", k)), now)
	refused(t, "after a revocation of nobody knows whom", id, err, "expired at")
	r.issuers[0].StrictExpiry = false

	// A binding has an end of its own.
	r.bindings[0].ExpireTimeMs = now.Add(time.Minute).UnixMilli()
	p := proof(builtinUID, auth.RoleCustodian, "", "carol", k)
	if id, err := identity.OfCertificate(r, p, now); err != nil || !id.NotAfter.Equal(now.Add(time.Minute)) {
		t.Errorf("until the binding ends: %+v, %v", id, err)
	}
	id, err = identity.OfCertificate(r, p, now.Add(time.Minute))
	refused(t, "after the binding ended", id, err, "role binding of this identity expired")
}

func TestI5_ATenantOfTheSameNameIsAnother(t *testing.T) {
	t.Parallel()
	k, pinned := key(t)
	r := world()
	r.bindings = []*fsmpb.RoleBinding{{Uid: uid(30), IssuerUid: builtinUID[:], Subject: "workload/acme/app", Role: "workload", Name: "app", Tenant: "acme", TenantUid: uid(11), Keys: []*fsmpb.BindingKey{pinned}}}
	p := proof(builtinUID, auth.RoleWorkload, "acme", "app", k)
	p.ID.TenantUID = hierarchy.UID(uid(99))
	id, err := identity.OfCertificate(r, p, now)
	refused(t, "of a tenant before", id, err, "another tenant of this name")
	p.ID.TenantUID = hierarchy.UID(uid(11))
	if _, err := identity.OfCertificate(r, p, now); err != nil {
		t.Errorf("of this tenant: %v", err)
	}
	// Whom an issuer names without a binding is of the tenant that has the name now,
	// unless the certificate says which it means.
	q := proof(corpUID, auth.RoleWorkload, "acme", "app9", k)
	if id, err := identity.OfCertificate(r, q, now); err != nil || id.Principal.TenantUID != hierarchy.UID(uid(11)) {
		t.Errorf("by name: %+v, %v", id, err)
	}
	q.ID.TenantUID = hierarchy.UID(uid(99))
	if id, err := identity.OfCertificate(r, q, now); err == nil && id.Principal.TenantUID == hierarchy.UID(uid(11)) {
		t.Errorf("by the uid of a tenant before: %+v", id)
	}
}

// TestNobodyIsSomebodyByChance: whatever is in the registry, a principal has the role
// and the tenant of a binding of exactly that issuer and subject, or of an unbound
// role, and its issuer may vouch for it.
func TestNobodyIsSomebodyByChance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := world()
		roles := []string{"governor", "custodian", "operator", "auditor", "workload"}
		subjects := []string{"cn:a", "cn:b", "uri:spiffe://bank.example/x", "workload/acme/a", "governor/a", "uri:spiffe://bank.example/krypton/workload/acme/a"}
		for i := range rapid.IntRange(0, 4).Draw(t, "bindings") {
			b := &fsmpb.RoleBinding{
				Uid: uid(byte(40 + i)), IssuerUid: r.issuers[rapid.IntRange(0, 3).Draw(t, "issuer")].GetUid(),
				Subject: rapid.SampledFrom(subjects).Draw(t, "subject"), Role: rapid.SampledFrom(roles).Draw(t, "role"), Name: "a",
			}
			if b.GetRole() == "workload" {
				b.Tenant = rapid.SampledFrom([]string{"acme", "other"}).Draw(t, "tenant")
				b.TenantUid = r.tenants[b.GetTenant()].GetUid()
			}
			r.bindings = append(r.bindings, b)
		}
		issuer := r.issuers[rapid.IntRange(0, 3).Draw(t, "by")]
		p := pki.Proof{Issuer: auth.Issuer(issuer.GetUid()), Subject: rapid.SampledFrom(append(subjects, "")).Draw(t, "as"), NotAfter: now.Add(time.Hour), Expired: rapid.Bool().Draw(t, "expired")}
		if rapid.Bool().Draw(t, "own form") {
			p.ID = auth.ID{TrustDomain: "bank.example", Role: auth.RoleWorkload, Tenant: "acme", Name: "a"}
			p.Subject = "uri:" + p.ID.String()
		}
		id, err := identity.OfCertificate(r, p, now)
		if err != nil {
			return
		}
		if id.Expired || identity.IsBuiltin(issuer) { // no key is bound here
			t.Fatalf("accepted as %+v", id)
		}
		b, bound := r.BindingBySubject(issuer.GetUid(), p.Subject)
		if !bound && (p.ID == auth.ID{} || issuer.GetId() != "corp") || bound && (id.Principal.Role.String() != b.GetRole() || string(id.Principal.Tenant) != b.GetTenant()) {
			t.Fatalf("%+v is from no binding of %q", id, p.Subject)
		}
		if id.Principal.Tenant == "other" && issuer.GetId() != "idp" {
			t.Fatalf("%s vouches for %+v", issuer.GetId(), id)
		}
	})
}
