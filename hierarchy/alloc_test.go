//go:build !race

package hierarchy_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

func TestAllocCanWrapIsFree(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		above := hierarchy.AboveServiceKey(hierarchy.ObjectActive, hierarchy.ObjectActive, hierarchy.Active, hierarchy.Active)
		if r := hierarchy.CanWrap(hierarchy.Active, hierarchy.StandingPrimary, above); r != hierarchy.NotRefused {
			t.Fatal(r)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestAllocAppendAADIsFreeWithRoom(t *testing.T) {
	b := hierarchy.Binding{Purpose: hierarchy.PurposeData, Resource: "orders", Context: mustContext(t, pair{"a", "b"})}
	buf, header := make([]byte, 0, b.AADLen(78)), make([]byte, 78)
	if n := testing.AllocsPerRun(100, func() { b.AppendAAD(buf, header) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
