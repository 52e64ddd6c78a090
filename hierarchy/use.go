package hierarchy

// Standing says on what ground a version is asked to wrap. Zero is no ground.
type Standing int

// The grounds.
const (
	StandingNone    Standing = iota // neither primary nor pinned: superseded, staged
	StandingPrimary                 // the primary of its chain
	StandingPinned                  // the version that the resource is pinned to
)

// Grant says whether a recovery grant is in force for an unwrap. Zero is none.
type Grant int

// The grants.
const (
	GrantNone     Grant = iota
	GrantRecovery       // a signed recovery grant: compromised versions unwrap, for re-encryption
)

// Ancestors is the state of everything above a key version. Revoking anything
// above takes the power of everything below, so none may be forgotten: the
// constructors ask for all of them, and the zero Ancestors refuses.
type Ancestors struct {
	kind            int // 0 refuses
	tenant, service ObjectState
	tenantKey, ivk  VersionState
}

const (
	ancestorsOfInternal = iota + 1
	ancestorsOfTenant
	ancestorsOfService
)

// AboveInternal is what stands above an IVK version: nothing but the MasterKey.
func AboveInternal() Ancestors { return Ancestors{kind: ancestorsOfInternal} }

// AboveTenantKey is what stands above an L2.1 version: the tenant, and the IVK
// version under which its L2 is stored.
func AboveTenantKey(tenant ObjectState, ivk VersionState) Ancestors {
	return Ancestors{kind: ancestorsOfTenant, tenant: tenant, ivk: ivk}
}

// AboveServiceKey is what stands above an L3 version: the tenant, the service,
// the L2.1 version under which it is wrapped, and the IVK version under which
// the tenant's L2 is stored.
func AboveServiceKey(tenant, service ObjectState, tenantKey, ivk VersionState) Ancestors {
	return Ancestors{kind: ancestorsOfService, tenant: tenant, service: service, tenantKey: tenantKey, ivk: ivk}
}

// CanWrap reports whether a version in state s with that standing may protect
// something new (I8). ACTIVE alone is not enough: a superseded version waits
// for a rollback and does not wrap.
func CanWrap(s VersionState, st Standing, above Ancestors) Refusal {
	if r := above.allow(GrantNone); r != NotRefused {
		return r
	}
	if r := s.unwraps(GrantNone); r != NotRefused {
		return r
	}
	switch {
	case s == Deprecated:
		return RefusedDeprecated
	case s != Active:
		return RefusedInvalid
	case st != StandingPrimary && st != StandingPinned:
		return RefusedNotPrimary
	}
	return NotRefused
}

// CanUnwrap reports whether a version in state s may open what it protected.
// With [GrantRecovery] a compromised version, and one under a compromised
// parent, may too.
//
// A PRE_ACTIVE version protects nothing yet, in this state. What it did protect
// was wrapped by a node that already knows it as the primary, and would be refused
// here for as long as this node is one entry behind: a rotation would show. So it
// opens. It is no parent of anything, and does not wrap.
func CanUnwrap(s VersionState, above Ancestors, g Grant) Refusal {
	if r := above.allow(g); r != NotRefused {
		return r
	}
	if s == PreActive {
		return NotRefused
	}
	return s.unwraps(g)
}

func (s VersionState) unwraps(g Grant) Refusal {
	switch s {
	case Active, Deprecated:
		return NotRefused
	case PreActive:
		return RefusedNotActive
	case Disabled:
		return RefusedDisabled
	case Compromised:
		if g == GrantRecovery {
			return NotRefused
		}
		return RefusedCompromised
	case DestroyScheduled:
		return RefusedDestroyPending
	case Destroyed:
		return RefusedDestroyed
	}
	return RefusedInvalid
}

func (s ObjectState) serves() Refusal {
	switch s {
	case ObjectActive:
		return NotRefused
	case ObjectSuspended:
		return RefusedSuspended
	case ObjectDestroyScheduled:
		return RefusedDestroyPending
	case ObjectDestroyed:
		return RefusedDestroyed
	}
	return RefusedInvalid
}

func (a Ancestors) allow(g Grant) Refusal {
	switch a.kind {
	case ancestorsOfInternal:
		return NotRefused
	case ancestorsOfService:
		if r := a.service.serves(); r != NotRefused {
			return r
		}
		if a.tenantKey.unwraps(g) != NotRefused {
			return RefusedParent
		}
	case ancestorsOfTenant:
	default:
		return RefusedInvalid
	}
	if r := a.tenant.serves(); r != NotRefused {
		return r
	}
	if a.ivk.unwraps(g) != NotRefused {
		return RefusedParent
	}
	return NotRefused
}
