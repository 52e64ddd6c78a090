package auth

// Power is what a governor decides, as far as it matters which governor may. It is
// here, and not where calls are let in, because every replica asks again when it
// applies the command. The numbers exist in memory only. Zero is invalid.
type Power int

// The powers. Inside a tenant decide its own governors; the platform's govern
// tenants, people and issuers, and can switch off, but not on, what is inside one.
const (
	PowerUnspecified    Power = iota
	PowerCluster              // people, issuers, revocations, the hold, the internal key
	PowerCreateTenant         // make a tenant
	PowerDeleteTenant         // destroy a tenant, at once or later, and take that back
	PowerSuspendTenant        // suspend a tenant
	PowerResumeTenant         // resume a tenant
	PowerSuspendService       // suspend a service
	PowerWeakenVersion        // disable a key version, or declare it compromised
	PowerTenant               // everything else inside a tenant: services, versions, pins, policies, workloads, its issuers, its governors
	powerEnd                  // one past the last power; not a power
)

// reach says who has a power: governors of the platform, governors of the tenant.
//
//nolint:gochecknoglobals // Immutable table.
var reach = [powerEnd]struct{ platform, tenant bool }{
	PowerCluster:        {platform: true},
	PowerCreateTenant:   {platform: true},
	PowerDeleteTenant:   {platform: true},
	PowerSuspendTenant:  {platform: true, tenant: true},
	PowerResumeTenant:   {platform: true, tenant: true},
	PowerSuspendService: {platform: true, tenant: true},
	PowerWeakenVersion:  {platform: true, tenant: true},
	PowerTenant:         {tenant: true},
}

// Standing is what a governor is to the object of an act.
type Standing struct {
	Platform bool // governs the platform
	Tenant   bool // governs the tenant that the object is, or belongs to
}

// Valid reports whether p is one of the powers.
func (p Power) Valid() bool { return p > PowerUnspecified && p < powerEnd }

// Powers returns every power in order of its number.
func Powers() []Power {
	all := make([]Power, 0, powerEnd-1)
	for p := PowerUnspecified + 1; p < powerEnd; p++ {
		all = append(all, p)
	}
	return all
}

// Has reports whether a governor of that standing has the power. Nobody has an
// invalid one.
func (p Power) Has(s Standing) bool {
	return p.Valid() && (reach[p].platform && s.Platform || reach[p].tenant && s.Tenant)
}
