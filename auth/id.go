package auth

import (
	"errors"
	"fmt"
	"strings"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// ID is what a caller's certificate says about its holder.
//
//	spiffe://<trust-domain>/krypton/<role>/<name>              governor, custodian, operator, auditor
//	spiffe://<trust-domain>/krypton/workload/<tenant>/<name>   workload
//	spiffe://<trust-domain>/krypton/workload/<tenant>/<tenant uid>/<name>
//
// It is a claim until package auth/pki has verified the certificate.
type ID struct {
	TrustDomain string
	Role        Role
	Tenant      hierarchy.Name // only for workloads (I3)
	// TenantUID says which tenant of that name is meant: a name can be used again
	// for another customer, a uid cannot. Zero: the issuer did not say.
	TenantUID hierarchy.UID
	Name      string
}

const (
	scheme   = "spiffe://"
	pathRoot = "krypton"

	// maxID bounds what ParseID looks at: scheme, domain, path root, longest role, tenant, name and slashes.
	maxID = len(scheme) + MaxTrustDomain + len(pathRoot) + len("custodian") + hierarchy.MaxNameBytes + 2*hierarchy.UIDSize + MaxName + 5
)

// Errors of [ParseID]. They never quote the input, which comes from a stranger.
var (
	errIDTooLong     = errors.New("identity URI is too long")
	errNotSPIFFE     = errors.New("identity is not a spiffe:// URI")
	errNotKrypton    = errors.New("identity URI has no /krypton/ path")
	errPathForm      = errors.New("identity URI is not /krypton/<role>/<name> or /krypton/workload/<tenant>/[<uid>/]<name>")
	errBadTenantUID  = errors.New("tenant uid in the identity URI is not 32 lower-case hex digits")
	errBadDomain     = errors.New("trust domain has characters other than a-z 0-9 . _ - or is empty")
	errBadTenant     = errors.New("tenant in the identity URI is not a tenant id")
	errBadName       = errors.New("name in the identity URI is not ^[a-z0-9]([a-z0-9._-]{0,62})$")
	errNotCallerRole = errors.New("identity URI names no role of a caller")
)

// ParseID reads an identity URI. Percent-encoding, user info, port, query and
// fragment are refused, because none of their characters is in any name (I2).
// It does not use net/url on purpose: that package repairs and decodes, and the
// state machine must not import it.
func ParseID(uri string) (ID, error) {
	if len(uri) > maxID {
		return ID{}, errIDTooLong
	}
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return ID{}, errNotSPIFFE
	}
	parts := strings.Split(rest, "/")
	if !ValidTrustDomain(parts[0]) {
		return ID{}, errBadDomain
	}
	if len(parts) < 2 || parts[1] != pathRoot {
		return ID{}, errNotKrypton
	}
	if len(parts) < 4 {
		return ID{}, errPathForm
	}
	role, err := ParseRole(parts[2])
	if err != nil {
		return ID{}, errNotCallerRole
	}
	id := ID{TrustDomain: parts[0], Role: role}
	switch {
	case role.Kind() == KindPerson && len(parts) == 4:
		id.Name = parts[3]
	case role.Kind() == KindWorkload && len(parts) == 5:
		id.Tenant, id.Name = hierarchy.Name(parts[3]), parts[4]
	case role.Kind() == KindWorkload && len(parts) == 6:
		id.Tenant, id.Name = hierarchy.Name(parts[3]), parts[5]
		if id.TenantUID, err = hierarchy.ParseUID(parts[4]); err != nil || id.TenantUID.IsZero() {
			return ID{}, errBadTenantUID
		}
	default:
		return ID{}, errPathForm
	}
	if err := id.Validate(); err != nil {
		return ID{}, err
	}
	return id, nil
}

// Validate reports the first part of id that could not stand in a certificate.
func (id ID) Validate() error {
	switch {
	case !id.Role.Valid():
		return errNotCallerRole
	case !ValidTrustDomain(id.TrustDomain):
		return errBadDomain
	case id.Role.Kind() == KindWorkload && !validTenant(id.Tenant):
		return errBadTenant
	case id.Role.Kind() == KindPerson && (id.Tenant != "" || !id.TenantUID.IsZero()):
		return errPathForm // I3
	case !ValidName(id.Name):
		return errBadName
	}
	return nil
}

// String returns the identity URI; it is the inverse of [ParseID].
func (id ID) String() string {
	if id.Role.Kind() == KindWorkload {
		tenant := string(id.Tenant)
		if !id.TenantUID.IsZero() {
			tenant += "/" + id.TenantUID.String()
		}
		return scheme + id.TrustDomain + "/" + pathRoot + "/" + id.Role.String() + "/" + tenant + "/" + id.Name
	}
	return scheme + id.TrustDomain + "/" + pathRoot + "/" + id.Role.String() + "/" + id.Name
}

// Principal returns the principal that id describes once issuer vouches for it.
func (id ID) Principal(issuer Issuer) (Principal, error) {
	if err := id.Validate(); err != nil {
		return Principal{}, err
	}
	p := Principal{Issuer: issuer, Role: id.Role, Tenant: id.Tenant, TenantUID: id.TenantUID, Name: id.Name}
	if !p.Valid() {
		return Principal{}, fmt.Errorf("identity %s has no issuer", id)
	}
	return p, nil
}
