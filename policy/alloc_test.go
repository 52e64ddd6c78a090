//go:build !race && !invariants

package policy_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/policy"
)

// TestAllocHit: an answer that is kept costs nothing, however many policies there
// are, and one allocation when the key is longer than what lies on the stack.
func TestAllocHit(t *testing.T) {
	for _, c := range []struct {
		name string
		set  *policy.Set
		q    policy.Query
		want float64
	}{
		{"500 statements", some(t, 500), ordinary(t), 0},
		{"a long key", one(t, perRequest), withContext(t, ordinary(t), "id", string(make([]byte, 600))), 1},
		{"no policy", some(t, 0), ordinary(t), 0},
	} {
		c.set.Decide(c.q)
		if n := testing.AllocsPerRun(200, func() { c.set.Decide(c.q) }); n > c.want {
			t.Errorf("%s: %v allocations, want %v", c.name, n, c.want)
		}
		if !c.set.Empty() && !policy.Kept(c.set, c.q) {
			t.Errorf("%s: the answer is not kept", c.name)
		}
	}
}
