package node

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// retireAfter is how long the key that wrapped internal keys before a rekey stays
// after it: what began by the state before may take so long.
const retireAfter = 2 * loadTimeout

// generation is what a node keeps of one MasterKey: what is derived from it.
type generation struct {
	number hierarchy.Generation
	mac    memsec.Secret // authenticates what nodes write down
	parent memsec.Secret // wraps internal keys; zero: none is wrapped under it any more
}

func deriveGeneration(number hierarchy.Generation, masterKey memsec.Secret) (generation, error) {
	mac, err := envelope.RegistryMACKey(masterKey)
	if err != nil {
		return generation{}, fmt.Errorf("derive the key of snapshots: %w", err)
	}
	parent, err := envelope.IVKParent(masterKey)
	if err != nil {
		mac.Destroy()
		return generation{}, fmt.Errorf("derive the key that wraps internal keys: %w", err)
	}
	return generation{number: number, mac: mac, parent: parent}, nil
}

func (g generation) destroy() {
	g.mac.Destroy()
	g.parent.Destroy()
}

// generations are the keys of all MasterKeys that an unsealed node knows.
//
// Which of them counts the state says, not this table: a node that has the next one
// before the entry that brings it into force is applied needs no moment at which it
// changes over, and no lock where keys are used. It lives from unseal to seal.
type generations struct {
	opened hierarchy.Generation // of the record by which the node was opened

	all atomic.Pointer[[]generation] // in ascending order; never changed, replaced

	mu     sync.Mutex // of who replaces it
	isShut bool
	// since is when a sweep first found inForce; under mu.
	inForce hierarchy.Generation
	since   time.Time
}

// newGenerations makes the table of a node that was opened by that MasterKey.
func newGenerations(number hierarchy.Generation, masterKey memsec.Secret) (*generations, error) {
	g, err := deriveGeneration(number, masterKey)
	if err != nil {
		return nil, err
	}
	k := &generations{opened: number}
	k.all.Store(&[]generation{g})
	return k, nil
}

// of returns the keys of a generation; false: there are none.
func (k *generations) of(number hierarchy.Generation) (generation, bool) {
	for _, g := range *k.all.Load() {
		if g.number == number {
			return g, true
		}
	}
	return generation{}, false
}

// knows reports whether the node has the MasterKey of that generation.
func (k *generations) knows(number hierarchy.Generation) bool {
	g, ok := k.of(number)
	return ok && !g.parent.IsZero()
}

// sum computes a MAC under the key of a generation; false: there is none.
func (k *generations) sum(number hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
	g, ok := k.of(number)
	if !ok {
		return sum, false
	}
	sum, err := memsec.MAC(g.mac, parts...)
	return sum, err == nil // not nil: sealed at this moment
}

// retire wipes what wrapped internal keys before the generation in force, once it has
// been in force for long enough that nobody looks at the state before it.
func (k *generations) retire(inForce hierarchy.Generation, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.isShut || k.inForce != inForce {
		k.inForce, k.since = inForce, now
		return
	}
	have := *k.all.Load()
	if now.Sub(k.since) < retireAfter || have[0].number >= inForce || have[0].parent.IsZero() {
		return
	}
	next := make([]generation, len(have))
	for i, g := range have {
		if g.number < inForce {
			g.parent.Destroy()
			g.parent = memsec.Secret{}
		}
		next[i] = g
	}
	k.all.Store(&next)
}

// shut wipes all of them. Who is using one finishes with it.
func (k *generations) shut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.isShut = true
	for _, g := range *k.all.Load() {
		g.destroy()
	}
	k.all.Store(&[]generation{})
}

// errBehind says that a node was opened by a MasterKey that is not in force any more.
func errBehind(opened, now hierarchy.Generation) error {
	return errs.New(errs.Sealed, fmt.Sprintf("this node was opened by MasterKey %d, and the cluster has MasterKey %d by now", opened, now),
		errs.Hint("use another node, or unseal this one by the new seal: krypton unseal"))
}
