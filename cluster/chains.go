package cluster

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxChains is how many commands back two members can compare their states: more
// than one applies while a question of contact is on its way.
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

// differs reports whether chain is not this node's at index. Where this node does
// not know, it does not.
func (c *chains) differs(index uint64, chain []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	own, ok := c.at[index]
	return ok && len(chain) != 0 && string(own[:]) != string(chain)
}

// differsAt reports whether chain is not this node's at index. The present state is
// asked first: readers see a command before note is called with it, and a node
// that differs must not serve for the second until it is asked again.
func (c *Cluster) differsAt(index uint64, chain []byte) bool {
	if now, _, own := c.machine.Applied(); now == index {
		return len(chain) != 0 && string(own[:]) != string(chain)
	}
	return c.chains.differs(index, chain)
}

// Differs returns why this node must not serve although it hears its leader: the
// two applied the same entries and have different states. Nil: they agree, or
// nobody could tell yet. Which of them is wrong only a majority can say: a leader
// that most voters contradict stops by itself.
func (c *Cluster) Differs() error {
	c.contact.mu.Lock()
	index := c.contact.differs
	c.contact.mu.Unlock()
	if index == 0 || c.IsLeader() {
		return nil
	}
	return errs.New(errs.StateCorrupt, fmt.Sprintf("the state of this node differs from its leader's at entry %d of the log", index),
		errs.Hint("find out who can write to the data directories; if only this node says so, replace it: krypton operator remove, then krypton join with an empty data directory"))
}

// compared notes whether the leader's chain at index is this node's, and reports
// whether it is not.
func (ct *contact) compared(index uint64, chain []byte) bool {
	differs := ct.c.differsAt(index, chain)
	ct.mu.Lock()
	before := ct.differs
	ct.differs = 0
	if differs {
		ct.differs = index
	}
	ct.mu.Unlock()
	if differs && before == 0 {
		ct.c.log.LogAttrs(ct.c.base, slog.LevelError, "the state of this node differs from its leader's; it does not serve", slog.Uint64("index", index))
	}
	return differs
}

// contradicted reports whether most voters have another state than this leader.
// They are believed as they are for a vote. The caller holds mu.
func (ct *contact) contradicted(servers []raft.Server, term uint64) bool {
	against := 0
	for _, s := range servers {
		if v, ok := ct.said(NodeID(s.ID)); ok && s.Suffrage == raft.Voter && v.term == term && v.differs {
			against++
		}
	}
	return against >= voterCount(servers)/2+1
}
