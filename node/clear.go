package node

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// After an exposed MasterKey was replaced, what the registry was before is still in the
// logs and snapshots of the members, and the old MasterKey opens it there. The leader has
// every member clear its disk, itself last, and asks until each has done it or is removed.

const (
	// clearTask asks a member to clear its disk of what the registry was before the entry
	// whose index (u64) follows.
	clearTask = "krypton/v1/clear-disk"
	// clearLook is how often the leader looks whether a member has to be asked.
	clearLook = time.Second
	// clearTime bounds one answer. A member that takes longer goes on, and answers the next
	// question sooner.
	clearTime = 30 * time.Second
	// clearBackoff is the longest time between two questions to a member that does not
	// answer: when it is back people look at what is left, and wait.
	clearBackoff = 5 * time.Second
)

// clearing is what a leader knows of the members that did not clear their disks.
type clearing struct {
	mu      sync.Mutex
	of      hierarchy.UID // the exposure
	members map[string]clearAttempt
}

type clearAttempt struct {
	failure string
	after   time.Time // the next is not before
	pause   time.Duration
}

// own forgets what was about another exposure than that.
func (c *clearing) own(of hierarchy.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of != of {
		c.of, c.members = of, nil
	}
}

// due returns those that are to be asked now.
func (c *clearing) due(ids []string, now time.Time) (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if !now.Before(c.members[id].after) {
			out = append(out, id)
		}
	}
	return out
}

// note remembers how a member answered; nil: it has done it. It reports whether that is
// another answer than before.
func (c *clearing) note(id string, now time.Time, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		delete(c.members, id)
		return true
	}
	was := c.members[id]
	is := clearAttempt{failure: errs.From(err).Msg, pause: min(max(2*was.pause, minBackoff), clearBackoff)}
	is.after = now.Add(is.pause)
	if c.members == nil {
		c.members = map[string]clearAttempt{}
	}
	c.members[id] = is
	return was.failure != is.failure
}

// Uncleared returns why members have not cleared their disks yet, by member id, as far as this
// node knows: it asked them, as the leader.
func (n *Node) Uncleared() map[string]string {
	n.clearing.mu.Lock()
	defer n.clearing.mu.Unlock()
	out := make(map[string]string, len(n.clearing.members))
	for id, a := range n.clearing.members {
		out[id] = a.failure
	}
	return out
}

// NoteBackup notes in the registry that this node gave an operator a copy of it that ends
// with that change. It does nothing in a cluster that has no room for it yet.
func (n *Node) NoteBackup(ctx context.Context, tok gate.Token, index uint64) error {
	if err := tok.Require(gate.SaveSnapshot, ObjectCluster); err != nil {
		return err
	}
	if n.machine.View().Cluster().GetFormatVersion() < fsm.FormatSealProof {
		return nil
	}
	_, err := n.cluster.Propose(ctx, tok, &fsmpb.Command{
		Format: fsm.CommandFormat, Body: &fsmpb.Command_NoteBackup{NoteBackup: &fsmpb.NoteBackup{Backup: &fsmpb.Backup{Index: index, Node: n.id}}},
	}, cluster.Committed)
	return err
}

// toClear returns the exposure if members have to clear their disks for it.
func toClear(v *fsm.View) (fsm.Exposed, bool) {
	x, ok := v.Exposure()
	return x, ok && x.Exposure.GetDoneTimeMs() == 0 && x.ClearIndex != 0
}

// clearMembers has the members clear their disks, while this node leads.
func (n *Node) clearMembers(ctx context.Context) error {
	for {
		if err := n.clock.Sleep(ctx, clearLook); err != nil {
			return err
		}
		if err := n.clearDue(ctx); err != nil {
			return err
		}
	}
}

// clearDue makes one round. The leader is the last: entries that it has removed it has to
// replace by its snapshot, for a member that is behind.
func (n *Node) clearDue(ctx context.Context) error {
	x, ok := toClear(n.machine.View())
	if !ok || len(x.MembersLeft) == 0 || !n.watches() {
		n.clearing.own(hierarchy.UID{})
		return nil
	}
	of, err := uidOf(x.Exposure.GetCeremonyId())
	if err != nil {
		return err
	}
	n.clearing.own(of)
	due := n.clearing.due(x.MembersLeft, n.clock.Now())
	var wg sync.WaitGroup
	for _, id := range due {
		if id != n.id {
			wg.Go(func() { n.clearMember(ctx, x, id) })
		}
	}
	wg.Wait()
	if slices.Contains(due, n.id) {
		n.clearMember(ctx, x, n.id)
	}
	return nil
}

// clearMember has one member clear its disk, and says so in the registry. That one is
// asked and does not answer has no record: it may be so for days.
func (n *Node) clearMember(ctx context.Context, x fsm.Exposed, id string) {
	bound, cancel := context.WithTimeout(ctx, clearTime)
	defer cancel()
	oldest, err := n.askToClear(bound, id, x.ClearIndex)
	if err == nil {
		err = n.cleared(bound, x, id, oldest)
	}
	if ctx.Err() != nil || !n.clearing.note(id, n.clock.Now(), err) {
		return
	}
	if err != nil {
		n.log.WarnContext(ctx, "a member has not cleared its disk of what the registry was before the MasterKey was replaced; it is asked again",
			slog.String("peer", id), slog.Any("error", err))
		return
	}
	n.log.InfoContext(ctx, "a member has cleared its disk of what the registry was before the MasterKey was replaced", slog.String("peer", id))
}

// cleared says in the registry that a member's disk has nothing from before that entry.
func (n *Node) cleared(ctx context.Context, x fsm.Exposed, id string, oldest uint64) error {
	cid, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx = corr.With(ctx, cid)
	return n.gate.DoNode(ctx, gate.NodeExposure, NodeName(id), func(tok gate.Token) error {
		_, err := n.cluster.ProposeOwn(ctx, tok, &fsmpb.Command{Body: &fsmpb.Command_MemberCleared{MemberCleared: &fsmpb.MemberCleared{
			CeremonyId: x.Exposure.GetCeremonyId(), NodeId: id, OldestIndex: oldest,
		}}})
		return err
	})
}

// askToClear returns the first entry of which a member has anything on disk.
func (n *Node) askToClear(ctx context.Context, id string, index uint64) (uint64, error) {
	task := binary.BigEndian.AppendUint64(nil, index)
	ask := func() ([]byte, error) { return n.clearDisk(ctx, task) }
	if id != n.id {
		ask = func() ([]byte, error) { return n.cluster.PrepareOn(ctx, id, slices.Concat([]byte(clearTask), task)) }
	}
	b, err := ask()
	switch {
	case err != nil:
		return 0, err
	case len(b) != 8:
		return 0, errs.New(errs.Unavailable, "the answer is no index", errs.Hint("upgrade that node"))
	}
	return binary.BigEndian.Uint64(b), nil
}

// clearDisk answers [clearTask]. It clears nothing for which its own registry has no
// reason.
func (n *Node) clearDisk(ctx context.Context, raw []byte) ([]byte, error) {
	if len(raw) != 8 {
		return nil, errs.New(errs.InvalidArgument, "the task names no index")
	}
	index := binary.BigEndian.Uint64(raw)
	if x, ok := toClear(n.machine.View()); !ok || x.ClearIndex != index {
		return nil, errs.New(errs.NotServing, "by its own registry this node has nothing to clear, or not yet", errs.Hint("retry"))
	}
	id, err := corr.New(n.rand)
	if err != nil {
		return nil, err
	}
	ctx = corr.With(ctx, id)
	var oldest uint64
	err = n.gate.DoNode(ctx, gate.NodeClear, NodeName(n.id), func(gate.Token) (err error) {
		oldest, err = n.cluster.Clear(ctx, index)
		return err
	})
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, oldest), nil
}
