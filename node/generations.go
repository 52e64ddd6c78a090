package node

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/manifest"
)

// retireAfter is how long the key that wrapped internal keys before a rekey stays
// after it: what began by the state before may take so long.
const retireAfter = 2 * loadTimeout

// generation is what a node keeps of one MasterKey: what is derived from it.
type generation struct {
	number     hierarchy.Generation
	commitment [envelope.CommitmentSize]byte // of the MasterKey, public; zero: only its MAC key is known
	mac        memsec.Secret                 // authenticates what nodes write down
	parent     memsec.Secret                 // wraps internal keys; zero: none is wrapped under it any more
}

// deriveGeneration derives what a node keeps of the MasterKey of a record, which was
// compared with its commitment. The caller keeps the MasterKey.
func deriveGeneration(r seal.Record, masterKey memsec.Secret) (generation, error) {
	mac, err := envelope.RegistryMACKey(masterKey)
	if err != nil {
		return generation{}, fmt.Errorf("derive the key of snapshots: %w", err)
	}
	parent, err := envelope.IVKParent(masterKey)
	if err != nil {
		mac.Destroy()
		return generation{}, fmt.Errorf("derive the key that wraps internal keys: %w", err)
	}
	return generation{number: r.Generation(), commitment: commitmentOf(r), mac: mac, parent: parent}, nil
}

func commitmentOf(r seal.Record) (c [envelope.CommitmentSize]byte) {
	copy(c[:], r.Manifest().GetMasterKeyCommitment())
	return c
}

func (g generation) destroy() {
	g.mac.Destroy()
	g.parent.Destroy()
}

// generations are the keys of all MasterKeys that an unsealed node knows: of the one
// by which it was opened, of one that is about to come into force, and of earlier ones
// what proves what was written under them.
//
// Which of them counts the state says, not this table: a node that has the next one
// before the entry that brings it into force is applied needs no moment at which it
// changes over, and no lock where keys are used. It lives from unseal to seal.
type generations struct {
	opened atomic.Uint64 // generation of the last MasterKey that this node had when it was in force

	all atomic.Pointer[[]generation] // in ascending order; never changed, replaced

	mu     sync.Mutex // of who replaces it
	isShut bool

	read atomic.Pointer[committed] // what a state was last asked for

	// since is when a sweep first found inForce; under mu.
	inForce hierarchy.Generation
	since   time.Time
	looked  []byte // digest of the manifest of the staged rekey that was looked at; under mu
}

// newGenerations makes the table of a node that was opened by the MasterKey of that
// record, with the keys that the record carries from earlier ones.
func newGenerations(r seal.Record, masterKey memsec.Secret) (*generations, error) {
	carried, err := r.OpenCarriedKeys(masterKey)
	if err != nil {
		return nil, err
	}
	all := make([]generation, 0, len(carried)+2)
	for _, c := range carried {
		all = append(all, generation{number: c.Generation, mac: c.Key})
	}
	g, err := deriveGeneration(r, masterKey)
	if err != nil {
		for _, c := range all {
			c.destroy()
		}
		return nil, err
	}
	all = append(all, g)
	k := &generations{}
	k.opened.Store(uint64(g.number))
	k.all.Store(&all)
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

// committed is the commitment to the MasterKey of a generation in a state.
type committed struct {
	in     *fsmpb.Cluster
	number hierarchy.Generation
	to     [envelope.CommitmentSize]byte // zero: there is none
}

// in returns the keys of a generation that is in force, or was, in that state; false: there
// are none. A next MasterKey that was taken is not yet one of the cluster: its ceremony may
// be cancelled, and another MasterKey get its number, while this node hears of nothing. So it
// counts once the state says that it is the one. To judge by it before that was rejected:
// what the other one proves would be wrong, and this node would take its own log for forged.
func (k *generations) in(c *fsmpb.Cluster, number hierarchy.Generation) (generation, bool) {
	g, ok := k.of(number)
	switch {
	case !ok:
		return generation{}, false
	case uint64(number) <= k.opened.Load():
		return g, true // it opened this node, is carried by the record of that one, or was in force in a state that was proved
	case number > fsm.GenerationOf(c) || g.commitment == [envelope.CommitmentSize]byte{}:
		return generation{}, false
	}
	is := k.read.Load()
	if is == nil || is.in != c || is.number != number {
		is = &committed{c, number, commitmentIn(c, number)}
		k.read.Store(is)
	}
	return g, is.to == g.commitment
}

// commitmentIn returns the commitment to the MasterKey of a generation in a state, or zeros.
func commitmentIn(c *fsmpb.Cluster, number hierarchy.Generation) (to [envelope.CommitmentSize]byte) {
	if number == fsm.GenerationOf(c) {
		if r, err := manifest.Parse(c.GetSealRecord()); err == nil && r.GetManifest().GetGeneration() == uint64(number) {
			copy(to[:], r.GetManifest().GetMasterKeyCommitment())
		}
		return to
	}
	for _, raw := range slices.Backward(c.GetSealManifests()) {
		if m, err := manifest.ParseManifest(raw); err == nil && m.GetGeneration() == uint64(number) {
			copy(to[:], m.GetMasterKeyCommitment())
			return to
		}
	}
	return to
}

// knows reports whether the node has the MasterKey that is in force in that state.
func (k *generations) knows(c *fsmpb.Cluster) bool {
	g, ok := k.in(c, fsm.GenerationOf(c))
	return ok && !g.parent.IsZero()
}

// isOf reports whether the node has the MasterKey of that record.
func (k *generations) isOf(r seal.Record) bool {
	g, ok := k.of(r.Generation())
	return ok && !g.parent.IsZero() && g.commitment == commitmentOf(r)
}

// add takes over the keys of the MasterKey that is to come into force after the last one
// that the node knows. Of two that were to, the one that came later counts: a ceremony that was
// cancelled leaves one that never comes into force.
func (k *generations) add(g generation) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.isShut {
		g.destroy()
		return errShut
	}
	have := *k.all.Load()
	next := make([]generation, 0, len(have)+1)
	for _, old := range have {
		if old.number == g.number && old.commitment == g.commitment {
			g.destroy()
			return nil
		}
		if old.number < g.number {
			next = append(next, old)
		}
	}
	if uint64(g.number) <= k.opened.Load() {
		g.destroy()
		return errs.New(errs.FailedState, fmt.Sprintf("MasterKey %d cannot come into force any more, MasterKey %d did", g.number, k.opened.Load()))
	}
	next = append(next, g)
	k.all.Store(&next)
	for _, old := range have[len(next)-1:] {
		old.destroy()
	}
	return nil
}

// reached is told of a generation that is in force in a state which this node believes:
// no older one is believed from then on.
func (k *generations) reached(number hierarchy.Generation) {
	for {
		was := k.opened.Load()
		if uint64(number) <= was || k.opened.CompareAndSwap(was, uint64(number)) {
			return
		}
	}
}

// carried returns the keys with which what was written before a MasterKey is proved.
// They stay this table's.
func (k *generations) carried(before hierarchy.Generation) (keys []seal.CarriedKey) {
	for _, g := range *k.all.Load() {
		if g.number < before {
			keys = append(keys, seal.CarriedKey{Generation: g.number, Key: g.mac})
		}
	}
	return keys
}

// sum computes a MAC under the key of a generation that is in force, or was, in that
// state; false: there is none.
func (k *generations) sum(c *fsmpb.Cluster, number hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
	g, ok := k.in(c, number)
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
	old := func(g generation) bool { return g.number < inForce && !g.parent.IsZero() }
	have := *k.all.Load()
	if now.Sub(k.since) < retireAfter || !slices.ContainsFunc(have, old) {
		return
	}
	next := slices.Clone(have)
	for i, g := range next {
		if old(g) {
			next[i].parent = memsec.Secret{}
			defer g.parent.Destroy()
		}
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

// errBehind says that the MasterKey of a node is not in force any more.
func errBehind(opened uint64, now hierarchy.Generation) error {
	return errs.New(errs.Sealed, fmt.Sprintf("this node has MasterKey %d, and the cluster has MasterKey %d by now", opened, now),
		errs.Hint("use another node, or unseal this one by the new seal: krypton unseal"))
}
