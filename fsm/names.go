package fsm

import (
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// nameSlots is how many tenants, and how many services, a view remembers by
// name. Two that share a slot take turns.
const nameSlots = 64

// names remembers the tenants and services of one view that were found by their
// names: every data operation begins with them, and finding them in the tree
// costs four allocations each. A view never changes, so what was found in it
// stays right; the next view begins with nothing. There is no lock: a slot is
// one pointer, and whoever finds another object in it looks into the tree.
type names struct{ table atomic.Pointer[nameTable] }

type nameTable struct {
	tenants  [nameSlots]atomic.Pointer[row[*fsmpb.Tenant]]
	services [nameSlots]atomic.Pointer[row[*fsmpb.Service]]
}

// get makes the table when it is first needed: most views are superseded before
// anybody asks them.
func (n *names) get() *nameTable {
	if t := n.table.Load(); t != nil {
		return t
	}
	n.table.CompareAndSwap(nil, new(nameTable))
	return n.table.Load()
}

func (n *names) tenant(name string) *atomic.Pointer[row[*fsmpb.Tenant]] {
	return &n.get().tenants[hashed(fnvOffset, name)%nameSlots]
}

func (n *names) service(tenant []byte, name string) *atomic.Pointer[row[*fsmpb.Service]] {
	return &n.get().services[hashed(hashed(fnvOffset, tenant), name)%nameSlots]
}

// FNV-1a. It only spreads: names that somebody chose to collide are found in the tree.
const (
	fnvOffset uint32 = 2166136261
	fnvPrime  uint32 = 16777619
)

func hashed[T string | []byte](h uint32, s T) uint32 {
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * fnvPrime
	}
	return h
}
