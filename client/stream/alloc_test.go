//go:build !race

package stream_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/client/stream"
)

// Buffers of segments come from a pool. A garbage collection may empty it, which
// is rare enough not to show in an average.
const readAtBudget = 0

func TestAllocReadAtWithinASegment(t *testing.T) {
	k := newKeys()
	r := mustOpenAt(t, k, encrypt(t, k, stream.Options{Scope: scope}, pattern(300_000)))
	p := make([]byte, 4096)
	var off int64
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := r.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		off = (off + 97) % 50_000
	}); n > readAtBudget {
		t.Errorf("ReadAt of the segment that is kept allocates %v times, budget %d", n, readAtBudget)
	}
}

func TestAllocReadAtOfAnotherSegment(t *testing.T) {
	k := newKeys()
	r := mustOpenAt(t, k, encrypt(t, k, stream.Options{Scope: scope}, pattern(300_000)))
	p := make([]byte, 4096)
	var off int64
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := r.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		off = (off + 70_000) % 280_000
	}); n > readAtBudget {
		t.Errorf("ReadAt of another segment allocates %v times, budget %d", n, readAtBudget)
	}
}
