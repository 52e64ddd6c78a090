// Package auth says who a caller is: principals, their roles, and the names
// that carry them in certificates.
//
// It holds no trust: package auth/pki verifies certificates and returns what
// this package describes. It is apart from pki so that the replicated state
// machine can name roles without importing crypto/x509 or the network stack.
//
// # Invariants
//
//   - I1: the zero Role, Kind and Principal are invalid and never returned without an error.
//   - I2: an identity has exactly one spelling: ParseID accepts s only if the result's String is s.
//   - I3: only a workload has a tenant, and a workload always has exactly one.
//
// # Concurrency
//
// Everything here is an immutable value; safe for concurrent use.
//
// # Failure
//
// A name that is not exactly right is refused; nothing is repaired, decoded or
// lower-cased, because two spellings of one name are two chances to confuse a policy.
//
// # Source
//
// SPIFFE-ID standard (trust domain and path); docs/contract.md (names);
// ACD-302, roles of the root of trust.
package auth

import "fmt"

// Role says what a principal is for. Its numbers are stored in the registry and
// must never change. The zero value is invalid (I1).
type Role uint8

// The roles.
const (
	RoleUnspecified Role = 0
	RoleGovernor    Role = 1 // decides about tenants, keys, policies and people; never uses a key
	RoleCustodian   Role = 2 // holds a share of the MasterKey; seals and unseals
	RoleOperator    Role = 3 // runs nodes: members, snapshots, leadership
	RoleAuditor     Role = 4 // reads, and changes nothing
	RoleWorkload    Role = 5 // uses the keys of one tenant; governs nothing
)

// String returns the role as certificates, policies and audit records write it.
func (r Role) String() string {
	switch r {
	case RoleGovernor:
		return "governor"
	case RoleCustodian:
		return "custodian"
	case RoleOperator:
		return "operator"
	case RoleAuditor:
		return "auditor"
	case RoleWorkload:
		return "workload"
	case RoleUnspecified:
	}
	return "unspecified"
}

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return r >= RoleGovernor && r <= RoleWorkload }

// Roles returns every role in order of its number.
func Roles() []Role {
	return []Role{RoleGovernor, RoleCustodian, RoleOperator, RoleAuditor, RoleWorkload}
}

// ParseRole is the inverse of [Role.String].
func ParseRole(s string) (Role, error) {
	for _, r := range Roles() {
		if r.String() == s {
			return r, nil
		}
	}
	return RoleUnspecified, fmt.Errorf("no role of that name; roles are governor, custodian, operator, auditor, workload")
}

// Kind tells people from programs. Two people with different roles are still
// comparable as persons, which four-eyes rules need. The zero value is invalid.
type Kind uint8

// The kinds.
const (
	KindUnspecified Kind = 0
	KindPerson      Kind = 1 // a human, in one of the four roles for people
	KindWorkload    Kind = 2 // a program of a tenant
)

// String returns the kind as docs and JSON write it.
func (k Kind) String() string {
	switch k {
	case KindPerson:
		return "person"
	case KindWorkload:
		return "workload"
	case KindUnspecified:
	}
	return "unspecified"
}

// Kind returns the kind of principal that can have this role.
func (r Role) Kind() Kind {
	switch r {
	case RoleGovernor, RoleCustodian, RoleOperator, RoleAuditor:
		return KindPerson
	case RoleWorkload:
		return KindWorkload
	case RoleUnspecified:
	}
	return KindUnspecified
}
