package auth

import (
	"encoding/hex"
	"errors"
	"strings"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Issuer identifies the authority that vouches for a principal: the first 16
// bytes of SHA-256 over the issuing CA's SubjectPublicKeyInfo. It is the key
// and not the CA's name, because anyone can make a CA of the same name. The
// zero value is invalid.
type Issuer [16]byte

// LocalIssuer vouches for whoever may open the administration socket in the
// data directory: the operating system's file permissions are the authority.
// No CA can have this value without a 128-bit second preimage of SHA-256.
var LocalIssuer = Issuer{'l', 'o', 'c', 'a', 'l', '-', 's', 'o', 'c', 'k', 'e', 't'} //nolint:gochecknoglobals // A constant; Go has no constant arrays.

// String returns the issuer in 32 lower-case hex digits.
func (i Issuer) String() string { return hex.EncodeToString(i[:]) }

// IsZero reports whether i is the invalid zero value.
func (i Issuer) IsZero() bool { return i == Issuer{} }

// Principal is an authenticated caller. It is comparable; two principals are
// the same caller in the same role exactly if they are equal. The zero value
// means "not authenticated" and is not valid.
type Principal struct {
	Issuer Issuer
	Role   Role
	Tenant hierarchy.Name // the one tenant a workload may touch; empty for people (I3)
	// TenantUID is the uid of that tenant, as the issuer knew it; zero for people,
	// and where the issuer did not say.
	TenantUID hierarchy.UID
	Name      string
}

// Identity is a principal without its role: a person keeps one identity in all
// of their roles, so that a four-eyes rule counts a person once.
type Identity struct {
	Issuer Issuer
	Kind   Kind
	Name   string // for a workload "<tenant>/<name>"
}

// LocalOperator is the principal of a call over the administration socket.
func LocalOperator() Principal {
	return Principal{Issuer: LocalIssuer, Role: RoleOperator, Name: "local"}
}

// Valid reports whether p is complete: an issuer, a role, a name, and a tenant
// exactly if it is a workload.
func (p Principal) Valid() bool {
	return !p.Issuer.IsZero() && p.Role.Valid() && ValidName(p.Name) &&
		(p.Role == RoleWorkload) == (p.Tenant != "") &&
		(p.Tenant == "" || validTenant(p.Tenant)) && (p.Tenant != "" || p.TenantUID.IsZero())
}

// Kind returns whether p is a person or a workload.
func (p Principal) Kind() Kind { return p.Role.Kind() }

// Identity returns who p is, regardless of role.
func (p Principal) Identity() Identity {
	name := p.Name
	if p.Kind() == KindWorkload {
		name = string(p.Tenant) + "/" + p.Name
	}
	return Identity{Issuer: p.Issuer, Kind: p.Kind(), Name: name}
}

// String returns p in the form that audit records and forwarded calls carry:
// <issuer>/<role>/<name> or <issuer>/workload/<tenant>/[<uid>/]<name>. The zero
// Principal is "unauthenticated".
func (p Principal) String() string {
	if p == (Principal{}) {
		return "unauthenticated"
	}
	var issuer [2 * len(p.Issuer)]byte // this runs once per data operation; concatenation allocates once
	hex.Encode(issuer[:], p.Issuer[:])
	if p.Role == RoleWorkload && !p.TenantUID.IsZero() {
		var uid [2 * hierarchy.UIDSize]byte
		hex.Encode(uid[:], p.TenantUID[:])
		return string(issuer[:]) + "/" + p.Role.String() + "/" + string(p.Tenant) + "/" + string(uid[:]) + "/" + p.Name
	}
	if p.Role == RoleWorkload {
		return string(issuer[:]) + "/" + p.Role.String() + "/" + string(p.Tenant) + "/" + p.Name
	}
	return string(issuer[:]) + "/" + p.Role.String() + "/" + p.Name
}

var errPrincipalForm = errors.New("principal is not <issuer>/<role>/<name> or <issuer>/workload/<tenant>/[<uid>/]<name>")

// ParsePrincipal is the inverse of [Principal.String] for valid principals. It
// proves nothing: whoever uses it must trust the sender of s.
func ParsePrincipal(s string) (Principal, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 3 || len(parts) > 5 {
		return Principal{}, errPrincipalForm
	}
	var p Principal
	if len(parts[0]) != 2*len(p.Issuer) || strings.ToLower(parts[0]) != parts[0] {
		return Principal{}, errPrincipalForm
	}
	if _, err := hex.Decode(p.Issuer[:], []byte(parts[0])); err != nil {
		return Principal{}, errPrincipalForm
	}
	role, err := ParseRole(parts[1])
	if err != nil {
		return Principal{}, err
	}
	p.Role, p.Name = role, parts[len(parts)-1]
	if len(parts) >= 4 {
		p.Tenant = hierarchy.Name(parts[2])
	}
	if len(parts) == 5 {
		if p.TenantUID, err = hierarchy.ParseUID(parts[3]); err != nil || p.TenantUID.IsZero() {
			return Principal{}, errPrincipalForm
		}
	}
	if !p.Valid() {
		return Principal{}, errPrincipalForm
	}
	return p, nil
}
