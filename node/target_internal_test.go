package node

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// TestATargetKnowsItsNameWithoutMakingIt: what it takes for its name is its name,
// and nothing else is.
func TestATargetKnowsItsNameWithoutMakingIt(t *testing.T) {
	part := rapid.StringMatching(`[a-z/]{0,3}`)
	rapid.Check(t, func(t *rapid.T) {
		tg := Target{Tenant: hierarchy.Name(part.Draw(t, "tenant")), Service: hierarchy.Name(part.Draw(t, "service"))}
		other := Target{Tenant: hierarchy.Name(part.Draw(t, "other tenant")), Service: hierarchy.Name(part.Draw(t, "other service"))}
		for _, name := range []string{tg.Name(), other.Name(), other.Name() + "x", tg.Name() + "/versions/1", "", "tenants/" + string(tg.Tenant)} {
			if got, want := tg.hasName(name), name == tg.Name(); got != want {
				t.Fatalf("%q is the name of %+v: %t, want %t", name, tg, got, want)
			}
		}
	})
}
