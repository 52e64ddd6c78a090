// Package identity turns what a credential proves into a principal: it asks the
// registry which role the identity has, and within which limits its issuer vouches.
//
// A certificate or token only says who somebody is to its issuer. What that somebody
// is to this cluster stands in a role binding, so that neither the holder of a CA
// key nor who edits the claims of a token can give a role.
//
// # Invariants
//
//   - I1: no principal without a registered issuer, a role that this issuer may vouch for, and, of workloads, a tenant that it may vouch for.
//   - I2: no role without a role binding of exactly this issuer and subject, but for roles that the issuer is registered to give by the certificate alone.
//   - I3: a certificate of the builtin issuer counts only for a key that stands in the role binding of its identity: a stolen CA key makes nobody.
//   - I4: an expired certificate counts only under I3, and is marked: its holder may renew it and unseal, nothing else.
//   - I5: a workload is of the tenant with the uid that the registry has under the name now; a credential that names another uid is refused.
//
// # Concurrency
//
// Pure functions of their arguments; safe for concurrent use.
//
// # Failure
//
// Whoever cannot be resolved is errs.Unauthenticated, with what is missing and who can
// mend it. The answer tells about the caller's own credential and nothing else.
//
// # Source
//
// docs/identity.md; SPIFFE X.509-SVID; RFC 8725; RFC 9525 (why a common name counts
// only where a binding says so).
package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// Builtin is the id of the issuer that is the cluster's own CA.
const Builtin = "builtin"

// Directory is what the registry says, at one moment. A *fsm.View is one.
type Directory interface {
	// IssuerByUID returns the issuer with that uid.
	IssuerByUID(uid []byte) (*fsmpb.Issuer, bool)
	// BindingBySubject returns the role binding of whom that issuer names so; it may
	// have expired.
	BindingBySubject(issuerUID []byte, subject string) (*fsmpb.RoleBinding, bool)
	// Tenant returns the tenant that has the name now.
	Tenant(name string) (*fsmpb.Tenant, bool)
}

// Identity is a caller who is who they say until NotAfter, as far as the directory
// does not change. A connection may live longer: compare with the time of each call.
type Identity struct {
	Principal auth.Principal
	Binding   hierarchy.UID // of the role binding; zero: the issuer gives the role by itself
	NotAfter  time.Time     // the first end of certificate or token and binding
	Expired   bool          // I4
	// Serial is the serial number of a certificate of the builtin issuer, its bytes: by
	// it a certificate is revoked. Other issuers' numbers mean nothing here; empty.
	Serial string
	Issuer string // name of the issuer object
}

// Token is what a verified token proves.
type Token struct {
	Issuer   auth.Issuer // uid of the registered issuer
	Subject  string
	NotAfter time.Time
}

// IssuerName returns the name of an issuer object: issuers/{i}, or
// tenants/{t}/issuers/{i} of a tenant's own.
func IssuerName(i *fsmpb.Issuer) string {
	if i.GetTenant() != "" {
		return "tenants/" + i.GetTenant() + "/issuers/" + i.GetId()
	}
	return "issuers/" + i.GetId()
}

// IsBuiltin reports whether i is the cluster's own CA.
func IsBuiltin(i *fsmpb.Issuer) bool { return i.GetId() == Builtin && i.GetTenant() == "" }

// OfCertificate resolves what a verified certificate proves.
func OfCertificate(d Directory, p pki.Proof, now time.Time) (Identity, error) {
	issuer, err := find(d, p.Issuer)
	if err != nil {
		return Identity{}, err
	}
	own, builtin := p.ID != auth.ID{}, IsBuiltin(issuer)
	subject := p.Subject
	if builtin {
		if !own {
			return Identity{}, refuse("the client certificate names no role", "a certificate of this cluster has one URI name spiffe://<trust-domain>/krypton/<role>/<name>")
		}
		subject = Subject(p.ID)
	}
	b, bound := d.BindingBySubject(issuer.GetUid(), subject)
	bound = bound && subject != ""
	id := Identity{NotAfter: p.NotAfter, Expired: p.Expired, Issuer: IssuerName(issuer)}
	if builtin {
		id.Serial = p.Serial
	}
	switch {
	case bound:
		if p.Expired && (b.GetStrictExpiry() || issuer.GetStrictExpiry()) { // it may be a revoked one
			return Identity{}, pki.ErrExpired(p.NotAfter, now)
		}
		if builtin && !pinned(b, p) { // I3
			return Identity{}, refuse("the client certificate is for a key that the role binding of "+subject+" does not have",
				"use the certificate for the bound key; a governor binds another key: krypton role bind")
		}
		if p.Expired && !builtin { // I4
			return Identity{}, pki.ErrExpired(p.NotAfter, now)
		}
		err = id.bind(d, issuer, b, now)
	case p.Expired: // I4: nothing but the certificate speaks for its key
		return Identity{}, pki.ErrExpired(p.NotAfter, now)
	case own && slices.Contains(issuer.GetUnboundRoles(), p.ID.Role.String()):
		id.Principal, err = p.ID.Principal(p.Issuer)
		if err != nil {
			return Identity{}, refuse("the client certificate names no caller", "use a certificate of your own")
		}
		err = id.limit(d, issuer)
	default:
		return Identity{}, unbound(issuer, subject)
	}
	if err != nil {
		return Identity{}, err
	}
	if own && !p.ID.TenantUID.IsZero() && p.ID.TenantUID != id.Principal.TenantUID { // I5
		return Identity{}, errTenant()
	}
	return id, nil
}

// OfToken resolves what a verified token proves.
func OfToken(d Directory, t Token, now time.Time) (Identity, error) {
	issuer, err := find(d, t.Issuer)
	if err != nil {
		return Identity{}, err
	}
	b, ok := d.BindingBySubject(issuer.GetUid(), t.Subject)
	if !ok || t.Subject == "" {
		return Identity{}, unbound(issuer, t.Subject)
	}
	id := Identity{NotAfter: t.NotAfter, Issuer: IssuerName(issuer)}
	if err := id.bind(d, issuer, b, now); err != nil {
		return Identity{}, err
	}
	return id, nil
}

// Subject returns the subject of role bindings of the builtin issuer for what a
// certificate says: role/name, or workload/tenant/name.
func Subject(id auth.ID) string {
	if id.Role == auth.RoleWorkload {
		return id.Role.String() + "/" + string(id.Tenant) + "/" + id.Name
	}
	return id.Role.String() + "/" + id.Name
}

// BindingID returns the id of the role binding that comes with the first
// certificate of id: the name under a tenant, role and name of a person. A name that
// an id cannot be, with dots or too long, is replaced by a digest.
func BindingID(id auth.ID) string {
	name := id.Name
	if id.Tenant == "" {
		name = id.Role.String() + "-" + id.Name
	}
	if _, err := hierarchy.ParseName(name); err == nil {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return id.Role.String() + "-" + hex.EncodeToString(sum[:8])
}

// bind makes id what a role binding says.
func (id *Identity) bind(d Directory, issuer *fsmpb.Issuer, b *fsmpb.RoleBinding, now time.Time) error {
	if end := b.GetExpireTimeMs(); end != 0 {
		until := time.UnixMilli(end)
		if !now.Before(until) {
			return refuse("the role binding of this identity expired at "+until.UTC().Format(time.RFC3339), "ask a governor for a new one: krypton role bind")
		}
		if until.Before(id.NotAfter) {
			id.NotAfter = until
		}
	}
	role, err := auth.ParseRole(b.GetRole())
	if err != nil {
		return errs.New(errs.StateCorrupt, "a role binding has no role", errs.Cause(err))
	}
	id.Principal = auth.Principal{Issuer: auth.Issuer(issuer.GetUid()), Role: role, Tenant: hierarchy.Name(b.GetTenant()), Name: b.GetName()}
	if len(b.GetTenantUid()) > 0 {
		if id.Principal.TenantUID, err = hierarchy.UIDFromBytes(b.GetTenantUid()); err != nil {
			return errs.New(errs.StateCorrupt, "a role binding has no uid of its tenant", errs.Cause(err))
		}
	}
	if id.Binding, err = hierarchy.UIDFromBytes(b.GetUid()); err != nil {
		return errs.New(errs.StateCorrupt, "a role binding has no uid", errs.Cause(err))
	}
	return id.limit(d, issuer)
}

// limit holds id within what its issuer may vouch for (I1).
func (id *Identity) limit(d Directory, issuer *fsmpb.Issuer) error {
	p := &id.Principal
	if !p.Valid() {
		return errs.New(errs.StateCorrupt, "the registry makes no valid principal of this identity")
	}
	if !slices.Contains(issuer.GetRoles(), p.Role.String()) {
		return refuse(id.Issuer+" may not vouch for the role "+p.Role.String(), "have the identity issued by the cluster's own CA, or the issuer's limits changed: krypton issuer update")
	}
	if p.Role != auth.RoleWorkload {
		return nil
	}
	t, ok := d.Tenant(string(p.Tenant))
	if !ok {
		// Nothing of it exists, and what does not exist is told alike by every call.
		return nil
	}
	if p.TenantUID.IsZero() && !IsBuiltin(issuer) {
		p.TenantUID = hierarchy.UID(t.GetUid())
	}
	if p.TenantUID != (hierarchy.UID{}) && string(p.TenantUID[:]) != string(t.GetUid()) {
		return nil // of a tenant that had the name before; it reaches nothing
	}
	may := issuer.GetAllTenants() && len(issuer.GetTenantUid()) == 0 || bytes.Equal(issuer.GetTenantUid(), t.GetUid()) ||
		slices.ContainsFunc(issuer.GetTenantUids(), func(uid []byte) bool { return bytes.Equal(uid, t.GetUid()) })
	if !may {
		return refuse(id.Issuer+" may not vouch for workloads of this tenant", "have the identity issued by the cluster's own CA, or by an issuer of the tenant")
	}
	return nil
}

// pinned reports whether the certificate's key is one of the binding's for TLS.
func pinned(b *fsmpb.RoleBinding, p pki.Proof) bool {
	key, err := sign.PublicKey(p.Key)
	if err != nil {
		return false
	}
	for _, k := range b.GetKeys() {
		if k.GetTls() && key.ID() == KeyID(k.GetKey()) || mutation.On(mutation.SkipPins) {
			return true
		}
	}
	return false
}

// KeyID returns the id of a public key as the registry has it; the zero id if it is none.
func KeyID(k *fsmpb.PublicKey) intent.KeyID {
	alg := intent.Alg(0)
	switch k.GetAlgorithm() {
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519:
		alg = intent.AlgEd25519
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256:
		alg = intent.AlgECDSAP256SHA256
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_UNSPECIFIED:
	}
	key, err := intent.NewPublicKey(alg, k.GetRaw())
	if err != nil {
		return intent.KeyID{}
	}
	return key.ID()
}

func find(d Directory, uid auth.Issuer) (*fsmpb.Issuer, error) {
	i, ok := d.IssuerByUID(uid[:])
	if !ok {
		return nil, refuse("the issuer of the credential is not registered any more", "use a certificate that this cluster issued")
	}
	return i, nil
}

func unbound(issuer *fsmpb.Issuer, subject string) error {
	name := IssuerName(issuer)
	switch {
	case IsBuiltin(issuer):
		return refuse("the identity "+subject+" has no role in this cluster: it was never bound, or its role binding was removed", "ask a governor: krypton operator cert issue")
	case subject == "":
		return refuse("the credential of "+name+" has no name that a role binding could know", "a certificate needs one URI name in the issuer's trust domain, or one common name")
	}
	return refuse("the identity "+strconv.Quote(subject)+" of "+name+" has no role in this cluster", "ask a governor to bind it: krypton role bind --issuer "+name+" --subject "+strconv.Quote(subject))
}

func errTenant() error {
	return refuse("the credential was issued for another tenant of this name", "have a new one issued")
}

func refuse(msg, hint string) error {
	return errs.New(errs.Unauthenticated, msg, errs.Hint("%s", hint))
}
