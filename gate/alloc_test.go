//go:build !race && !invariants

package gate_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// nowhere is a sink that costs nothing.
type nowhere struct{}

func (nowhere) Append(audit.Record) error { return nil }
func (nowhere) Err() error                { return nil }

func TestAllocDataOperation(t *testing.T) {
	g, err := gate.New(gate.Config{Node: "n1", Sink: nowhere{}, Policy: gate.RolePolicy{}, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	req := request(auth.RoleWorkload, gate.Encrypt)
	fn := func(gate.Token) error { return nil }
	// The operation itself, and the text of the principal.
	if n := testing.AllocsPerRun(500, func() {
		if err := g.Do(t.Context(), req, fn); err != nil {
			t.Error(err)
		}
	}); n > 2 {
		t.Errorf("%v allocations per data operation, want at most 2", n)
	}
}
