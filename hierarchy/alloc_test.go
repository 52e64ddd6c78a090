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

// Every data operation parses the name of its service and writes it again.
func TestAllocNamesOfServices(t *testing.T) {
	const name = "tenants/acme/services/payments"
	if n := testing.AllocsPerRun(100, func() {
		p, err := hierarchy.ParsePath(name)
		if err != nil || p.Kind != hierarchy.KindService {
			t.Fatal(p, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations to parse, want 0", n)
	}
	p := hierarchy.ServicePath("acme", "payments")
	if n := testing.AllocsPerRun(100, func() {
		if p.String() != name {
			t.Fatal(p)
		}
	}); n != 1 {
		t.Errorf("%v allocations to write, want 1", n)
	}
}
