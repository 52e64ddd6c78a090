package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// StateUnsealed is what an unsealed node says of itself in [Health].SealState.
const StateUnsealed = "unsealed"

// vouching is the leader's part of the proofs of entries.
//
// A proof is made where Raft hands its entries to the log store: there, and not yet
// where a command is proposed, index and term are known. The simpler way, a number
// that is counted up beside raft.Apply, needs a lock over Raft's queue, with which
// every change would be a write to the disk of its own, and leaves an entry whose
// leader lost and won the leadership in between.
type vouching struct {
	c *Cluster

	mu  sync.Mutex
	own map[*byte]struct{} // first bytes of the commands that this node proposes

	term, prev uint64        // what was vouched for last; only Raft's main goroutine
	handing    chan struct{} // one slot: who looks for an unsealed voter
}

func newVouching(c *Cluster) *vouching {
	return &vouching{c: c, own: map[*byte]struct{}{}, handing: make(chan struct{}, 1)}
}

// propose notes a command that this node is about to propose. It is told from one of
// another leader, for which this node would never vouch, by where its bytes lie. The
// function forgets it.
func (v *vouching) propose(data []byte) (forget func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.own[&data[0]] = struct{}{}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.own, &data[0])
	}
}

func (v *vouching) proposed(l *raft.Log) bool {
	if l.Type != raft.LogCommand || len(l.Data) == 0 {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.own[&l.Data[0]]
	return ok
}

// vouch gives an entry that is about to be stored its proof, if this node as leader
// has the MasterKey and believes its own state. Entries that other leaders sent stay
// as they are.
func (v *vouching) vouch(l *raft.Log) {
	if v.c.cfg.MAC == nil || !v.proposed(l) {
		return
	}
	view := v.c.machine.View()
	applied, _, chain := view.Applied()
	// What was committed before this leader must be in the chain that it vouches for:
	// else an entry from before could be cut off, and this one be left.
	if applied == 0 || v.c.caught.Load() != l.Term || l.Index-applied > maxVouch || v.c.proofs.unsettled() || v.c.entitled() != nil {
		return
	}
	if v.term != l.Term {
		v.term, v.prev = l.Term, 0
	}
	p := entryProof{generation: view.Generation(), prev: v.prev, applied: applied, chain: chain}
	mac, ok := macOf(v.c.cfg.MAC, p.generation, p.digest(view.Cluster().GetKeyspaceId(), l))
	if !ok {
		return
	}
	p.mac, v.prev = mac, l.Index
	l.Extensions = p.encode()
}

// believed returns why this node may not vouch for its state, to others or to itself
// after a restart: SEALED, or STATE_CORRUPT. What it signed would be believed.
func (c *Cluster) believed() error {
	if c.cfg.Believed != nil {
		return c.cfg.Believed()
	}
	if c.cfg.MAC != nil {
		if _, ok := c.cfg.MAC(c.machine.View().Generation()); !ok { // it is over nothing and goes nowhere
			return errs.New(errs.Sealed, "this node is sealed")
		}
	}
	return c.Proved()
}

// Proved returns nil if a node that had the MasterKey vouched for every entry of this
// node's log that needs it (I19), as far as it was applied, and nothing is missing that
// this node has had (I20), and other members have the same state if it came in a
// snapshot (I21); otherwise an error with code
// STATE_CORRUPT, which says which entry and what to do, SEALED if this node cannot tell, or NOT_SERVING if it cannot tell yet. It verifies what was applied while the node was sealed.
func (c *Cluster) Proved() error {
	if err := c.proofs.verified(); err != nil {
		return err
	}
	if err := c.outdated(); err != nil {
		return err
	}
	if err := c.compared.err(); err != nil {
		return err
	}
	return c.ended()
}

// outdated returns why the state is not that of the MasterKey which opened this node:
// it is from before that came into force. A node that starts gets there as it applies
// its log; a leader that has caught up will not, so what it has is an old history, or one that who
// kept the MasterKey before made.
func (c *Cluster) outdated() error {
	v := c.machine.View()
	if c.cfg.Opened == nil || !v.Initialized() || v.Generation() >= c.cfg.Opened() {
		return nil
	}
	if c.end.leads() {
		return errEnd(fmt.Sprintf("the log of this node ends before MasterKey %d came into force, which opened it", c.cfg.Opened()))
	}
	return errs.New(errs.NotServing, "this node has not yet applied again how its MasterKey came into force", errs.Hint("retry, or use another node"))
}

// mayCommit returns nil if this leader can commit a command that needs a proof.
// Otherwise it hands leadership to a voter that can, if there is one, and the error
// is that there is no leader at this moment.
func (c *Cluster) mayCommit(ctx context.Context, cmd *fsmpb.Command) error {
	if c.cfg.MAC == nil || !fsm.NeedsProof(cmd) || c.machine.View().Cluster().GetFormatVersion() < fsm.FormatProofs {
		return nil
	}
	err := c.entitled()
	if errs.Is(err, errs.NotServing) { // it has not applied what its own log has
		if err := c.catchUp(ctx); err != nil {
			return err
		}
		err = c.entitled()
	}
	switch {
	case err == nil:
	case errs.Is(err, errs.Sealed):
		return c.handOver(ctx)
	case c.endAsked() && c.end.stands() == endNone: // another voter may have what this one has not
		if moved := c.handOver(ctx); errs.Is(moved, errs.NoLeader) {
			return moved
		}
		return err
	default:
		return err
	}
	if !c.end.isKept() {
		// Before the first tenant is there, the file is: else a death in between would
		// leave a cluster of one without both.
		if err := c.await(ctx, c.end.keep); err != nil {
			return err
		}
	}
	return c.catchUp(ctx)
}

// handOver hands the leadership of a sealed leader to a voter that is unsealed.
func (c *Cluster) handOver(ctx context.Context) error {
	select {
	case c.vouching.handing <- struct{}{}:
		defer func() { <-c.vouching.handing }()
	case <-ctx.Done():
		return errs.From(ctx.Err())
	}
	if !c.IsLeader() {
		return errNoLeader(nil)
	}
	members := c.machine.View().Members()
	for i := range members {
		m := members[(uint64(i)+c.Term())%uint64(len(members))] // another one first in the next term
		id := NodeID(m.GetId())
		if id == c.id || m.GetRemoved() || !c.IsVoter(id) {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, c.timers.heartbeat)
		h, err := c.Health(ask, id)
		cancel()
		if err != nil || h.SealState != StateUnsealed || h.Uncompared != "" {
			continue
		}
		if err := c.TransferLeadership(ctx, id); err != nil {
			c.log.LogAttrs(ctx, slog.LevelInfo, "a sealed leader could not hand leadership over", slog.String("peer", string(id)), slog.Any("error", err))
			continue
		}
		c.log.LogAttrs(ctx, slog.LevelInfo, "this leader is sealed, so an unsealed voter leads", slog.String("peer", string(id)))
		return errNoLeader(nil)
	}
	return errs.New(errs.Sealed, "no voter that could lead is unsealed, and a sealed leader can vouch for no change",
		errs.Hint("unseal a voter: krypton unseal; `krypton operator members` shows who votes"))
}
