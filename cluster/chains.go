package cluster

import (
	"sync"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// maxChains is how many commands back two members can compare their states: more
// than one applies while a message about leases is on its way.
const maxChains = 4096

// chains remembers the state chain at the last commands that this node applied.
// Entries on a disk have checksums, which who edits them can mend; a chain that
// other nodes have too cannot be mended (I15).
type chains struct {
	mu    sync.Mutex
	at    map[uint64][32]byte
	order [maxChains]uint64 // indexes, as a ring
	next  int
}

// note is called with each command that was applied and each snapshot restored.
func (c *chains) note(index uint64, chain [32]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = map[uint64][32]byte{}
	}
	delete(c.at, c.order[c.next])
	c.at[index], c.order[c.next] = chain, index
	c.next = (c.next + 1) % maxChains
}

// forget empties it: a snapshot replaced the state.
func (c *chains) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.order, c.next = nil, [maxChains]uint64{}, 0
}

// of returns the chain at index; false: not known.
func (c *chains) of(index uint64) ([32]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own, ok := c.at[index]
	return own, ok
}

// chainAt returns this node's chain at index; false: it has not applied it, or
// does not remember. The present state is asked first: readers see a command
// before note is called with it.
func (c *Cluster) chainAt(index uint64) (lease.Chain, bool) {
	if now, _, own := c.machine.Applied(); now == index {
		return own, index != 0
	}
	own, ok := c.chains.of(index)
	return own, ok
}
