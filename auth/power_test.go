package auth_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
)

// TestWhoHasWhichPower says it a second time, from the documents.
func TestWhoHasWhichPower(t *testing.T) {
	t.Parallel()
	const platform, tenant, both = "platform", "tenant", "both"
	want := map[auth.Power]string{
		auth.PowerCluster: platform, auth.PowerCreateTenant: platform, auth.PowerDeleteTenant: platform,
		auth.PowerSuspendTenant: both, auth.PowerResumeTenant: both, auth.PowerSuspendService: both, auth.PowerWeakenVersion: both,
		auth.PowerTenant: tenant,
	}
	for _, p := range auth.Powers() {
		if !p.Valid() || want[p] == "" {
			t.Errorf("power %d is not in the table", p)
		}
		for _, s := range []auth.Standing{{}, {Platform: true}, {Tenant: true}, {Platform: true, Tenant: true}} {
			has := s.Platform && want[p] != tenant || s.Tenant && want[p] != platform
			if p.Has(s) != has {
				t.Errorf("power %d of %+v: %v", p, s, p.Has(s))
			}
		}
	}
	if len(want) != len(auth.Powers()) {
		t.Errorf("%d powers, want %d", len(auth.Powers()), len(want))
	}
	for _, p := range []auth.Power{auth.PowerUnspecified, -1, 100} {
		if p.Valid() || p.Has(auth.Standing{Platform: true, Tenant: true}) {
			t.Errorf("power %d is one", p)
		}
	}
}
