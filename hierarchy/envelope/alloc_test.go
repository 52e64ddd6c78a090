//go:build !race

package envelope_test

import (
	"crypto/rand"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// The budgets of the hot path. A buffer for the associated data comes from a
// pool; a garbage collection may empty it, which is rare enough not to show in
// an average.
const (
	sealBudget = 0
	openBudget = 0
)

func TestAllocSealIntoPreparedRoom(t *testing.T) {
	s, err := envelope.NewSealer(rand.Reader, clock.System{}, l3(t), hierarchy.PurposeData, testScope(), envelope.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Retire()
	b, pt := dataAt("orders"), make([]byte, 256)
	b.Context = contextOf(t, [][2]string{{"app", "shop"}})
	dst := make([]byte, 0, len(pt)+envelope.Overhead)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := s.Seal(dst, b, pt); err != nil {
			t.Fatal(err)
		}
	}); n > sealBudget {
		t.Errorf("Seal allocates %v times, budget %d", n, sealBudget)
	}
}

func TestAllocOpenOfAKeptSession(t *testing.T) {
	o := newOpener(t, envelope.NewQuota(1))
	blob, b := sealed(t, session(t), string(make([]byte, 256))), dataAt("r")
	dst := make([]byte, 0, 256)
	for range 2 {
		if _, err := o.Open(dst, b, blob); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := o.Open(dst, b, blob); err != nil {
			t.Fatal(err)
		}
	}); n > openBudget {
		t.Errorf("Open allocates %v times, budget %d", n, openBudget)
	}
}
