package invariants_test

import (
	"bytes"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/invariants"
)

func TestViolatedPanicsInEveryBuild(t *testing.T) {
	t.Parallel()
	defer func() {
		if got, want := recover(), "fsm: internal error: index went from 7 to 6"; got != want {
			t.Errorf("panic %v, want %q", got, want)
		}
	}()
	invariants.Violated("fsm", "index went from %d to %d", 7, 6)
}

func TestMangleOverwritesOnlyInCheckedBuilds(t *testing.T) {
	t.Parallel()
	b := []byte("kept too long")
	before := bytes.Clone(b)
	invariants.Mangle(b)
	if changed := !bytes.Equal(b, before); changed != invariants.Enabled {
		t.Errorf("mangled = %t in a build with Enabled = %t", changed, invariants.Enabled)
	}
	if invariants.Enabled && bytes.ContainsAny(b, string(before)) {
		t.Errorf("part of the buffer is left: %q", b)
	}
}
