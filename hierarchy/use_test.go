package hierarchy_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// TestI8_WrapAndUnwrapOverEveryCombination walks all states of a version and of
// everything above it, invalid ones included, against a one-line rule.
func TestI8_WrapAndUnwrapOverEveryCombination(t *testing.T) {
	versions := append(hierarchy.VersionStates(), 0, -1, 8)
	objects := append(hierarchy.ObjectStates(), 0, -1, 5)
	standings := []hierarchy.Standing{hierarchy.StandingNone, hierarchy.StandingPrimary, hierarchy.StandingPinned, 99}
	grants := []hierarchy.Grant{hierarchy.GrantNone, hierarchy.GrantRecovery, 99}

	opens := func(s hierarchy.VersionState, g hierarchy.Grant) bool {
		return s == hierarchy.Active || s == hierarchy.Deprecated || s == hierarchy.Compromised && g == hierarchy.GrantRecovery
	}
	n := 0
	check := func(s hierarchy.VersionState, above hierarchy.Ancestors, up func(hierarchy.Grant) bool, what ...any) {
		for _, st := range standings {
			n++
			want := s == hierarchy.Active && (st == hierarchy.StandingPrimary || st == hierarchy.StandingPinned) && up(hierarchy.GrantNone)
			if r := hierarchy.CanWrap(s, st, above); (r == hierarchy.NotRefused) != want {
				t.Fatalf("CanWrap(%s, %d, %v) = %s, want allowed=%v", s, st, what, r, want)
			}
		}
		for _, g := range grants {
			n++
			want := (opens(s, g) || s == hierarchy.PreActive) && up(g)
			if r := hierarchy.CanUnwrap(s, above, g); (r == hierarchy.NotRefused) != want {
				t.Fatalf("CanUnwrap(%s, %v, %d) = %s, want allowed=%v", s, what, g, r, want)
			}
		}
	}
	for _, s := range versions {
		check(s, hierarchy.Ancestors{}, func(hierarchy.Grant) bool { return false }, "no ancestors given")
		check(s, hierarchy.AboveInternal(), func(hierarchy.Grant) bool { return true }, "internal")
		for _, tenant := range objects {
			for _, ivk := range versions {
				check(s, hierarchy.AboveTenantKey(tenant, ivk), func(g hierarchy.Grant) bool {
					return tenant == hierarchy.ObjectActive && opens(ivk, g)
				}, tenant, ivk)
				for _, service := range objects {
					for _, tk := range versions {
						check(s, hierarchy.AboveServiceKey(tenant, service, tk, ivk), func(g hierarchy.Grant) bool {
							return tenant == hierarchy.ObjectActive && service == hierarchy.ObjectActive && opens(tk, g) && opens(ivk, g)
						}, tenant, service, tk, ivk)
					}
				}
			}
		}
	}
	if n < 100_000 {
		t.Errorf("only %d combinations", n)
	}
}

func TestRefusalsOfUseSayWhichSideIsInTheWay(t *testing.T) {
	ok := hierarchy.AboveServiceKey(hierarchy.ObjectActive, hierarchy.ObjectActive, hierarchy.Active, hierarchy.Active)
	for _, tc := range []struct {
		got, want hierarchy.Refusal
	}{
		{hierarchy.CanWrap(hierarchy.Active, hierarchy.StandingNone, ok), hierarchy.RefusedNotPrimary},
		{hierarchy.CanWrap(hierarchy.Deprecated, hierarchy.StandingPrimary, ok), hierarchy.RefusedDeprecated},
		{hierarchy.CanWrap(hierarchy.PreActive, hierarchy.StandingPrimary, ok), hierarchy.RefusedNotActive},
		{hierarchy.CanUnwrap(hierarchy.PreActive, ok, hierarchy.GrantNone), hierarchy.NotRefused}, // a node that is behind in a rotation
		{hierarchy.CanUnwrap(hierarchy.Disabled, ok, hierarchy.GrantRecovery), hierarchy.RefusedDisabled},
		{hierarchy.CanUnwrap(hierarchy.Compromised, ok, hierarchy.GrantNone), hierarchy.RefusedCompromised},
		{hierarchy.CanUnwrap(hierarchy.DestroyScheduled, ok, hierarchy.GrantRecovery), hierarchy.RefusedDestroyPending},
		{hierarchy.CanUnwrap(hierarchy.Destroyed, ok, hierarchy.GrantRecovery), hierarchy.RefusedDestroyed},
		{hierarchy.CanUnwrap(hierarchy.Active, hierarchy.AboveTenantKey(hierarchy.ObjectSuspended, hierarchy.Active), 0), hierarchy.RefusedSuspended},
		{hierarchy.CanUnwrap(hierarchy.Active, hierarchy.AboveTenantKey(hierarchy.ObjectActive, hierarchy.Disabled), 0), hierarchy.RefusedParent},
		{hierarchy.CanUnwrap(hierarchy.Active, hierarchy.AboveServiceKey(hierarchy.ObjectActive, hierarchy.ObjectDestroyed, hierarchy.Active, hierarchy.Active), 0), hierarchy.RefusedDestroyed},
		{hierarchy.CanUnwrap(0, ok, hierarchy.GrantRecovery), hierarchy.RefusedInvalid},
	} {
		if tc.got != tc.want {
			t.Errorf("got %s, want %s", tc.got, tc.want)
		}
	}
}
