//go:build !race && !invariants

package node_test

import "testing"

// What one operation allocates on a node with everything loaded, gate and record
// included: nothing that grows with the data but the answer itself. Most of it
// are the lookups in the registry.
func TestAllocOfDataOperations(t *testing.T) {
	allocs(t, newHot(t))
}

// TestAllocWithPolicies: the same, with as many policies as there are in a large
// tenant: a decision that was made before costs no memory.
func TestAllocWithPolicies(t *testing.T) {
	h := newHot(t)
	h.ruled(t)
	allocs(t, h)
}

func allocs(t *testing.T, h *hot) {
	t.Helper()
	for name, c := range map[string]struct {
		op  func() error
		max float64
	}{
		"encrypt": {h.encrypt, 6}, "decrypt": {h.decrypt, 6},
		"generate": {h.generate, 6}, "unwrap": {h.unwrap, 5}, "rewrap": {h.rewrap, 8},
	} {
		if n := testing.AllocsPerRun(500, func() {
			if err := c.op(); err != nil {
				t.Fatal(err)
			}
		}); n > c.max {
			t.Errorf("%s allocates %.1f times, the budget is %.0f", name, n, c.max)
		}
	}
}

func TestAllocOfASuspendedTenantsRefusal(t *testing.T) {
	h := newHot(t)
	check(t, h.m.changeObject(h.m.w.request(), object("acme", ""), suspend, 0))
	if n := testing.AllocsPerRun(200, func() {
		if h.encrypt() == nil {
			t.Fatal("a suspended tenant encrypts")
		}
	}); n > 32 {
		t.Errorf("a refusal allocates %.1f times", n)
	}
}
