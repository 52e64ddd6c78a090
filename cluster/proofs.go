package cluster

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

const (
	// MaxUnverified is how many entries a sealed node applies and remembers (80 bytes
	// each) until it can verify their proofs. Behind that it has to get its state from
	// another node.
	MaxUnverified = 1 << 20

	// maxVouch is how many entries may lie between the one that a leader vouches for and
	// the last that it had applied: others have to remember the chain there.
	maxVouch = maxChains / 2

	// verifyBatch is how many proofs are verified under the lock, which Apply takes.
	verifyBatch = 512
)

// proofs judges the log of this node (I19). Checksums can be made right by who edits a
// disk, and a chain can be compared only with somebody who has another one; a MAC
// needs the MasterKey.
type proofs struct {
	mac  macFunc
	fail func(error) // told of the first failure

	// verifying is held while proofs that waited are verified. It is taken before mu.
	verifying sync.Mutex

	mu      sync.Mutex
	base    uint64 // index of the snapshot that the state began with
	term    uint64 // of the last entry
	prev    uint64 // index of the last proof of that term; 0: none
	known   bool   // prev is that; false: the state began within the term
	floor   uint64 // last command before the term
	epoch   uint64 // counts snapshots that were restored
	waiting []unverified
	failure error

	refused atomic.Uint64 // index of the entry that a leader sent and that was refused last
}

// restored begins anew behind a snapshot, which has a MAC of its own. The caller makes
// the view visible afterwards.
func (p *proofs) restored(v *fsm.View) {
	index, term, _ := v.Applied()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.base, p.term, p.prev, p.known, p.floor = index, term, 0, false, 0
	p.epoch++
	p.waiting, p.failure = nil, nil
}

// judge looks at an entry before it is applied to v, and reports whether somebody
// vouched for it. The answer follows from the entry alone, so that it is the same on
// all nodes. What this node finds out besides, by its key and by what it had applied,
// keeps it from serving, and changes nothing in the state. chain returns the own
// state chain at an index.
func (p *proofs) judge(l *raft.Log, v *fsm.View, chain func(uint64) ([32]byte, bool)) bool {
	if p.mac == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.Term != p.term {
		p.term, p.prev, p.known, p.floor = l.Term, 0, true, v.Index()
	}
	proof, ok := decodeEntryProof(l.Extensions)
	if !ok {
		// One without a proof is nothing unusual. What is in the place of one otherwise
		// nobody wrote, and it vouches for nothing.
		return false
	}
	what := p.follows(proof, l.Index, chain)
	p.prev, p.known = l.Index, true
	if proof.generation != v.Generation() {
		// Where a MasterKey came into force, what came from the one before ends: also
		// what a leader vouched for just before it saw that, and who proposed it tries
		// again. Else who kept the old one could add to the log for ever.
		return false
	}
	if v.Cluster().GetFormatVersion() < fsm.FormatProofs || mutation.On(mutation.SkipEntryProof) {
		return true
	}
	u := proof.unverified(v.Cluster().GetKeyspaceId(), l)
	switch right, known := u.right(p.mac); {
	case what != "":
		p.flag(l.Index, what)
	case known && !right:
		p.flag(l.Index, errWrongProof)
	case !known && len(p.waiting) >= MaxUnverified:
		p.flag(l.Index, "it came while this node was sealed, behind more changes than a sealed node remembers")
	case !known:
		p.waiting = append(p.waiting, u)
	}
	return true
}

const errWrongProof = "its proof is not one of a node that had the MasterKey"

// follows returns what is wrong with the place of a proof, or "".
func (p *proofs) follows(proof entryProof, index uint64, chain func(uint64) ([32]byte, bool)) string {
	if p.known && proof.prev != p.prev || proof.prev >= index || !p.known && proof.prev > p.base {
		return "an entry before it is missing, or it stood elsewhere"
	}
	if proof.applied >= index || proof.applied < p.floor {
		return "it was written behind other entries than those before it"
	}
	if proof.applied < p.base {
		return "" // from before the snapshot, which has a MAC
	}
	if own, ok := chain(proof.applied); !ok || own != proof.chain {
		return "an entry before it was changed, added or removed"
	}
	return ""
}

// flag keeps the first failure. The caller holds mu.
func (p *proofs) flag(index uint64, what string) {
	if p.failure != nil {
		return
	}
	p.failure = errs.New(errs.StateCorrupt, fmt.Sprintf("entry %d of the log is not believed: %s", index, what),
		errs.Hint("find out who can write to the data directories; then remove this node (krypton operator remove) and let it join again with an empty one; docs/runbooks/state-not-proved.md"))
	p.waiting = nil
	p.fail(p.failure)
}

// verified verifies what waits and returns why the state of this node is not to be
// believed: STATE_CORRUPT, or SEALED if this node cannot tell.
func (p *proofs) verified() error {
	if p.mac == nil || mutation.On(mutation.SkipEntryProof) {
		return nil
	}
	p.verifying.Lock()
	defer p.verifying.Unlock()
	for {
		batch, epoch, err := p.batch()
		if err != nil || len(batch) == 0 {
			return err
		}
		good, known := 0, true
		for right := true; right && good < len(batch); {
			if right, known = batch[good].right(p.mac); right {
				good++
			}
		}
		p.settle(epoch, batch, good, known)
		if !known {
			u := batch[good]
			return errs.New(errs.Sealed, fmt.Sprintf("entry %d of the log cannot be verified without the MasterKey of generation %d", u.index, u.generation))
		}
	}
}

// settle takes what was verified off what waits: good of the batch are right, and if
// known the one behind them is not.
func (p *proofs) settle(epoch uint64, batch []unverified, good int, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch || p.failure != nil {
		return // the state is another one since
	}
	if p.waiting = p.waiting[good:]; len(p.waiting) == 0 {
		p.waiting = nil
	}
	if known && good < len(batch) {
		p.flag(batch[good].index, errWrongProof)
	}
}

// batch returns some of what waits.
func (p *proofs) batch() ([]unverified, uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting[:min(len(p.waiting), verifyBatch)], p.epoch, p.failure
}

func newProofs(c *Cluster) *proofs {
	return &proofs{mac: c.cfg.MAC, fail: func(err error) {
		c.log.LogAttrs(c.base, slog.LevelError, "the state of this node is not believed; it serves nothing", slog.Any("error", err))
	}}
}

// screen refuses entries whose proofs are wrong, before they are in the log of this
// node, where no node would believe its own state any more. Who sends them lies, or had
// its own log edited: while it leads nothing is committed, and what is there stays good.
// A sealed node cannot tell; it finds out when it applies them, or is unsealed.
func (c *Cluster) screen(from NodeID, req *raft.AppendEntriesRequest) error {
	v := c.machine.View()
	if c.cfg.MAC == nil || v.Cluster().GetFormatVersion() < fsm.FormatProofs || mutation.On(mutation.SkipEntryProof) {
		return nil
	}
	for _, l := range req.Entries {
		proof, ok := decodeEntryProof(l.Extensions)
		if !ok || l.Type != raft.LogCommand {
			continue
		}
		right, known := proof.unverified(v.Cluster().GetKeyspaceId(), l).right(c.cfg.MAC)
		if !known {
			continue // of another MasterKey; what is behind it may be of one that this node has
		}
		if !right {
			if c.proofs.refused.Swap(l.Index) != l.Index { // it is sent again and again
				c.log.LogAttrs(c.base, slog.LevelError, "the leader sends an entry that no node with the MasterKey vouched for; it is refused, and while that node leads nothing is committed",
					slog.String("peer", string(from)), slog.Uint64("index", l.Index))
			}
			return errs.New(errs.StateCorrupt, fmt.Sprintf("entry %d is refused: %s", l.Index, errWrongProof))
		}
	}
	return nil
}

// failed returns what was found wrong so far, without looking further.
func (p *proofs) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

// unsettled reports whether proofs wait to be verified. Whoever must not wait for that
// asks it before [Cluster.believed].
func (p *proofs) unsettled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) > 0
}

// judge is [proofs.judge] for an entry that is about to be applied.
func (c *Cluster) judge(l *raft.Log) bool {
	return c.proofs.judge(l, c.machine.View(), func(index uint64) ([32]byte, bool) {
		own, ok := c.chainAt(index)
		return own, ok
	})
}
