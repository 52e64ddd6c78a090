package intent

import (
	"math"
	"slices"

	"github.com/openkcm/krypton-cluster/auth"
)

// BindRole gives an identity a role. Of governors and custodians, who sign, it is
// the act set-authority-keys, of others bind-role.
type BindRole struct {
	Tenant       string // of workloads; empty: of a person
	TenantUID    []byte // as the command has it; empty: the cluster fills it in
	ID           string
	IssuerUID    []byte
	Role         string
	Name         string
	Subject      string // what the credential proves; empty: implied
	Platform     bool   // a governor who governs the platform
	ExpireTimeMs int64  // unix milliseconds; 0 or negative: never
	Keys         []BoundKey
}

// BoundKey is a public key of who is bound.
type BoundKey struct {
	Algorithm uint64 // an [Alg]; as wide as what a command can hold, so that no two of its numbers become one
	PublicKey []byte
	Sign      bool // intents
	TLS       bool // certificates
}

// Request returns the canonical form.
func (b BindRole) Request() *Request {
	r := NewRequest(actOfRole(b.Role)).
		Text("op", "bind").
		Text("tenant", b.Tenant).
		Bytes("tenant_uid", b.TenantUID).
		Text("id", b.ID).
		Bytes("issuer", b.IssuerUID).
		Text("role", b.Role).
		Text("name", b.Name).
		Text("subject", b.Subject).
		Uint("platform", flag(b.Platform)).
		Uint("expire", uint64(max(b.ExpireTimeMs, 0))).
		List("keys", len(b.Keys))
	for _, k := range b.Keys {
		r.Uint("algorithm", k.Algorithm).Bytes("key", k.PublicKey).Uint("sign", flag(k.Sign)).Uint("tls", flag(k.TLS))
	}
	return r
}

// UnbindRole takes a role from an identity. The act is that of [BindRole].
type UnbindRole struct {
	Tenant string // of workloads; empty: of a person
	ID     string
	UID    []byte
	Role   string // decides the act, and is no field: the uid names one binding, which never changes
}

// Request returns the canonical form.
func (u UnbindRole) Request() *Request {
	return NewRequest(actOfRole(u.Role)).Text("op", "unbind").Text("tenant", u.Tenant).Text("id", u.ID).Bytes("uid", u.UID)
}

// SetTenantGovernors says who governs a tenant.
type SetTenantGovernors struct {
	Tenant    string
	TenantUID []byte
	Governors [][]byte // uids of role bindings
}

// Request returns the canonical form.
func (g SetTenantGovernors) Request() *Request {
	return NewRequest(ActBindRole).Text("op", "governors").Text("tenant", g.Tenant).Bytes("tenant_uid", g.TenantUID).listBytes("governors", g.Governors)
}

// PutIssuer makes an issuer, or replaces what it says. One of X509 and JWT is set.
type PutIssuer struct {
	Tenant       string // whose own it is; empty: the cluster's
	TenantUID    []byte // as the command has it; empty: the cluster fills it in
	ID           string
	X509         *X509Issuer
	JWT          *JWTIssuer
	Roles        []string
	TenantUIDs   [][]byte
	AllTenants   bool
	UnboundRoles []string
}

// X509Issuer vouches by certificates.
type X509Issuer struct {
	Certificates [][]byte // DER
	TrustDomain  string
}

// JWTIssuer vouches by signed tokens.
type JWTIssuer struct {
	URL          string
	Audiences    []string
	CA           [][]byte // DER
	JWKS         []byte   // a JSON Web Key Set; empty: fetched
	SkewMs       uint32   // milliseconds
	MaxLifeS     uint32   // longest life of a token, seconds; 0: a day
	SubjectClaim string
}

// Request returns the canonical form.
func (p PutIssuer) Request() *Request {
	r := NewRequest(ActSetIssuer).Text("op", "put").Text("tenant", p.Tenant).Bytes("tenant_uid", p.TenantUID).Text("id", p.ID)
	switch x, j := p.X509, p.JWT; {
	case x != nil:
		r.Text("kind", "x509").listBytes("certificates", x.Certificates).Text("trust_domain", x.TrustDomain)
	case j != nil:
		r.Text("kind", "jwt").Text("url", j.URL).listText("audiences", j.Audiences).listBytes("ca", j.CA).
			Bytes("keys", j.JWKS).Uint("skew", uint64(j.SkewMs)).Uint("max_life", uint64(j.MaxLifeS)).Text("subject_claim", j.SubjectClaim)
	}
	return r.listText("roles", p.Roles).listBytes("tenants", p.TenantUIDs).
		Uint("all_tenants", flag(p.AllTenants)).listText("unbound_roles", p.UnboundRoles)
}

// RemoveIssuer removes an issuer under which nobody is bound.
type RemoveIssuer struct {
	Tenant string // whose own it is; empty: the cluster's
	ID     string
}

// Request returns the canonical form.
func (i RemoveIssuer) Request() *Request {
	return NewRequest(ActSetIssuer).Text("op", "remove").Text("tenant", i.Tenant).Text("id", i.ID)
}

// SetQuorum changes how many persons sign: governors for acts of governance,
// custodians for acts on the MasterKey.
type SetQuorum struct {
	Governors  uint32
	Custodians uint32
}

// Request returns the canonical form.
func (q SetQuorum) Request() *Request {
	return NewRequest(ActSetQuorum).Uint("governors", uint64(q.Governors)).Uint("custodians", uint64(q.Custodians))
}

func (r *Request) listBytes(name string, all [][]byte) *Request {
	r.List(name, len(all))
	for _, b := range all {
		r.Bytes(name, b)
	}
	return r
}

func (r *Request) listText(name string, all []string) *Request {
	r.List(name, len(all))
	for _, s := range all {
		r.Text(name, s)
	}
	return r
}

// actOfRole is the act of giving or taking that role: those who sign are changed
// by more people than those who do not.
func actOfRole(role string) Act {
	if signs(role) {
		return ActSetAuthorityKeys
	}
	return ActBindRole
}

func signs(role string) bool {
	return role == auth.RoleGovernor.String() || role == auth.RoleCustodian.String()
}

// Shapes of fields that several forms have.
func ofTenant(note string) shape {
	return shape{name: "tenant", kind: KindText, note: noteIfEmpty(note)}
}

func tenantUID() shape {
	return shape{name: "tenant_uid", kind: KindBytes, note: noteIfEmpty("filled in by the cluster")}
}

func opIs(name string) shape {
	return shape{name: "op", kind: KindText, fits: func(f Field) bool { return f.Text == name }}
}

func anID() shape { return shape{name: "id", kind: KindText, fits: notEmpty} }

func isFlag(name, on string) shape {
	return shape{name: name, kind: KindUint, fits: atMost(1), note: func(all []Field, i int) string {
		if all[i].Uint == 1 {
			return on
		}
		return "no"
	}}
}

func listOf(name string, k Kind, what string) shape {
	return shape{name: name, kind: KindList, each: []shape{{name: name, kind: k, note: noteAlways(what)}}}
}

func governorsOf(maybe bool) shape {
	s := listOf("governors", KindBytes, "uid of a governor's role binding")
	s.fits, s.maybe = notEmpty, maybe
	return s
}

// bindFields are the fields of [BindRole]; the role stands at [bindRole].
//
//nolint:gochecknoglobals // Immutable.
var bindFields = []shape{
	opIs("bind"), ofTenant("none: a person"), tenantUID(), anID(),
	{name: "issuer", kind: KindBytes, note: noteAlways("uid of the issuer that vouches")},
	{name: "role", kind: KindText, fits: notEmpty},
	{name: "name", kind: KindText},
	{name: "subject", kind: KindText, note: noteIfEmpty("implied by role, tenant and name")},
	isFlag("platform", "governs the platform"),
	{name: "expire", kind: KindUint, fits: atMost(math.MaxInt64), note: noteExpiry},
	{name: "keys", kind: KindList, each: []shape{
		{name: "algorithm", kind: KindUint, fits: isAlg, note: noteAlg},
		{name: "key", kind: KindBytes, fits: notEmpty, note: noteKeyID},
		isFlag("sign", "signs intents"),
		isFlag("tls", "opens connections"),
	}},
}

const bindRole = 5

//nolint:gochecknoglobals // Immutable.
var (
	unbindFields = []shape{opIs("unbind"), ofTenant("none: a person"), anID(), {name: "uid", kind: KindBytes, fits: notEmpty, note: noteAlways("uid of the role binding")}}
	issuerHead   = []shape{opIs("put"), ofTenant("none: the cluster's own"), tenantUID(), anID()}
	issuerTail   = []shape{
		listOf("roles", KindText, "role that it may vouch for"),
		listOf("tenants", KindBytes, "uid of a tenant that it may vouch for"),
		isFlag("all_tenants", "vouches for workloads of every tenant"),
		listOf("unbound_roles", KindText, "role that its certificates give without a binding"),
	}
)

// peopleForms are the forms of the types above.
//
//nolint:gochecknoglobals // Immutable.
var peopleForms = []form{
	{
		act: ActSetAuthorityKeys, orders: "let a governor or custodian in, who signs", fields: bindFields,
		whole: func(fs []Field) bool { return signs(fs[bindRole].Text) },
	},
	{
		act: ActBindRole, orders: "give an identity a role", fields: bindFields,
		whole: func(fs []Field) bool { return !signs(fs[bindRole].Text) },
	},
	{act: ActSetAuthorityKeys, orders: "take the role from a governor or custodian", fields: unbindFields},
	{act: ActBindRole, orders: "take a role from an identity", fields: unbindFields},
	{
		act: ActBindRole, orders: "say who governs a tenant",
		fields: []shape{
			opIs("governors"), {name: "tenant", kind: KindText, fits: notEmpty}, {name: "tenant_uid", kind: KindBytes, note: noteAlways("uid of the tenant")}, governorsOf(false),
		},
	},
	{
		act: ActSetIssuer, orders: "make or change an issuer that vouches by certificates",
		fields: slices.Concat(issuerHead, []shape{
			{name: "kind", kind: KindText, fits: func(f Field) bool { return f.Text == "x509" }},
			listOf("certificates", KindBytes, "CA certificate, DER"),
			{name: "trust_domain", kind: KindText, note: noteIfEmpty("any")},
		}, issuerTail),
	},
	{
		act: ActSetIssuer, orders: "make or change an issuer that vouches by tokens",
		fields: slices.Concat(issuerHead, []shape{
			{name: "kind", kind: KindText, fits: func(f Field) bool { return f.Text == "jwt" }},
			{name: "url", kind: KindText, fits: notEmpty},
			listOf("audiences", KindText, "audience that a token must name"),
			listOf("ca", KindBytes, "CA certificate for the fetch of the keys, DER"),
			{name: "keys", kind: KindBytes, note: noteIfEmpty("fetched from the URL")},
			{name: "skew", kind: KindUint, fits: atMost(math.MaxUint32), note: noteAlways("milliseconds that clocks may differ")},
			{name: "max_life", kind: KindUint, fits: atMost(math.MaxUint32), note: noteMaxLife},
			{name: "subject_claim", kind: KindText, note: noteIfEmpty("sub")},
		}, issuerTail),
	},
	{
		act: ActSetIssuer, orders: "remove an issuer",
		fields: []shape{opIs("remove"), ofTenant("none: the cluster's own"), anID()},
	},
	{
		act: ActSetQuorum, orders: "change how many persons sign what people sign for",
		fields: []shape{
			{name: "governors", kind: KindUint, fits: atMost(MaxRule), note: noteQuorum("governors", "acts of governance")},
			{name: "custodians", kind: KindUint, fits: atMost(MaxRule), note: noteQuorum("custodians", "acts on the MasterKey")},
		},
	},
}

func isAlg(f Field) bool {
	return f.Uint == uint64(AlgEd25519) || f.Uint == uint64(AlgECDSAP256SHA256)
}

func noteAlg(all []Field, i int) string { return Alg(all[i].Uint).String() } //nolint:gosec // isAlg: 1 or 2.

// noteKeyID says by which id the cluster knows the key behind the algorithm.
func noteKeyID(all []Field, i int) string {
	k, err := NewPublicKey(Alg(all[i-1].Uint), all[i].Bytes) //nolint:gosec // isAlg: 1 or 2.
	if err != nil {
		return "not a valid key"
	}
	return "key id " + k.ID().String()
}

// noteQuorum says what a quorum of that many means for the acts that ask for it.
func noteQuorum(role, acts string) func([]Field, int) string {
	return func(all []Field, i int) string {
		switch all[i].Uint {
		case 0:
			return "no signature of " + role + " for " + acts
		case 1:
			return "for " + acts + "; who asks may be the one"
		}
		return "for " + acts + "; other than who asks"
	}
}

func noteMaxLife(all []Field, i int) string {
	if all[i].Uint == 0 {
		return "a day from its issue is as long as a token may live"
	}
	return "seconds from its issue that a token may live"
}

func noteExpiry(all []Field, i int) string {
	if all[i].Uint == 0 {
		return "never"
	}
	return noteTime(all, i)
}
