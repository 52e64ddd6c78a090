package node

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// What Run does from its goroutines, for tests that say when.

// Sweep wipes what is no longer needed.
func (n *Node) Sweep() { n.sweep(n.machine.View()) }

// Observe looks at the present state of the registry.
func (n *Node) Observe(ctx context.Context) { n.observe(ctx, n.machine.View()) }

// ObserveAt looks at a state of the registry that may be an older one by now.
func (n *Node) ObserveAt(ctx context.Context, v *fsm.View) { n.observe(ctx, v) }

// AskKeystores asks the keystores of the seal once.
func (n *Node) AskKeystores(ctx context.Context) error { return n.askKeystores(ctx) }

// WatchSeal makes one round of questions to the keystores of the seal, as leader.
func (n *Node) WatchSeal(ctx context.Context) error { return n.watchOnce(ctx) }

// ProveL1 makes the proofs of customers' keys that are due, and returns when they are made.
func (n *Node) ProveL1(ctx context.Context) {
	u := n.open.Load()
	u.ring.valid.Once(ctx)
	u.ring.valid.Wait()
}

// Waiting returns how many callers wait for tenant keys that are being unwrapped.
func (n *Node) Waiting() (total int) {
	u := n.open.Load()
	if u == nil {
		return 0
	}
	u.ring.l3.mu.Lock()
	defer u.ring.l3.mu.Unlock()
	for _, p := range u.ring.l3.pendings {
		total += p.waiting
	}
	return total
}

// Quotas returns for how many tenants there is a quota of sessions.
func (n *Node) Quotas() int {
	u := n.open.Load()
	u.ring.mu.Lock()
	defer u.ring.mu.Unlock()
	return len(u.ring.quotas)
}

// StageRekey makes what a rekey stages.
func (n *Node) StageRekey(ctx context.Context, r seal.Record, masterKey memsec.Secret) (seal.Record, *fsmpb.StagedRekey, error) {
	return n.stageRekey(ctx, n.open.Load(), n.machine.View(), r, masterKey)
}

// TakeStaged takes over the MasterKey that a ceremony has for this node.
func (n *Node) TakeStaged(ctx context.Context, c *fsmpb.Ceremony) error {
	return n.takeStaged(ctx, n.open.Load(), n.machine.View(), c)
}

// TakeNext takes over the MasterKey of a staged record.
func (n *Node) TakeNext(r seal.Record, staged *fsmpb.StagedRekey, masterKey memsec.Secret) error {
	return n.takeNext(n.open.Load(), n.machine.View(), r, staged, masterKey)
}

// Exchanged returns another key where the version of the internal key has to be.
func (n *Node) Exchanged(r seal.Record, masterKey memsec.Secret, uid hierarchy.UID) ([]byte, error) {
	next, err := deriveGeneration(r, masterKey)
	if err != nil {
		return nil, err
	}
	defer next.destroy()
	parent, err := next.founded(n.machine.View().Cluster())
	if err != nil {
		return nil, err
	}
	defer parent.Destroy()
	other, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Cold)
	if err != nil {
		return nil, err
	}
	defer other.Destroy()
	return envelope.Wrap(rand.Reader, parent, ivkBinding(r.Keyspace(), r.Generation(), uid), other)
}

// NewInternalKey returns a new internal key as the cluster has them.
func (n *Node) NewInternalKey(uid hierarchy.UID) ([]byte, error) {
	u, c := n.open.Load(), n.machine.View().Cluster()
	parent, err := u.ring.foundedParent(c)
	if err != nil {
		return nil, err
	}
	defer parent.Destroy()
	key, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Cold)
	if err != nil {
		return nil, err
	}
	defer key.Destroy()
	return envelope.Wrap(rand.Reader, parent, ivkBinding(u.ring.keyspace, fsm.GenerationOf(c), uid), key)
}

// RetireAfter is how long what wrapped internal keys stays after a rekey.
const RetireAfter = retireAfter

// Parents returns of which MasterKeys the node has what wraps internal keys.
func (n *Node) Parents() (gs []hierarchy.Generation) {
	for _, g := range *n.open.Load().keys.all.Load() {
		if !g.parent.IsZero() {
			gs = append(gs, g.number)
		}
	}
	return gs
}

// RawMAC computes a MAC under a key that the node has, in force or not.
func (n *Node) RawMAC(number hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
	g, ok := n.open.Load().keys.of(number)
	if !ok {
		return sum, false
	}
	sum, err := memsec.MAC(g.mac, parts...)
	return sum, err == nil
}

// Bound reports why a caller has no role any more in that state.
func Bound(v *fsm.View, p auth.Principal, by hierarchy.UID, now time.Time) error {
	return bound(v, p, by, now.UnixMilli())
}

// Compiled returns how many tenants the node keeps compiled policies of.
func (n *Node) Compiled() int {
	n.policy.mu.RLock()
	defer n.policy.mu.RUnlock()
	return len(n.policy.byTenant)
}

// TakeUnseen takes over a MasterKey without looking at what it wraps, as who makes a state
// by himself does.
func (n *Node) TakeUnseen(r seal.Record, masterKey memsec.Secret) error {
	next, err := deriveGeneration(r, masterKey)
	if err != nil {
		return err
	}
	return n.open.Load().keys.add(next)
}

// WitnessTask begins what the leader asks of a witness.
const WitnessTask = witnessTask

// EndGathering gives up what was gathered, as a change of the seal does.
func (n *Node) EndGathering() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endGathering()
}

// StepExposure does what can be done now of what is left of an exposure, as leader.
func (n *Node) StepExposure(ctx context.Context) error { return n.stepExposure(ctx) }

// UnderMasterKey unwraps an internal key of a cluster as whoever has that MasterKey and a
// copy of the registry can.
func UnderMasterKey(masterKey memsec.Secret, g hierarchy.Generation, c *fsmpb.Cluster, v *fsmpb.Version) (memsec.Secret, error) {
	parent, err := envelope.IVKParent(masterKey)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer parent.Destroy()
	founded, err := generation{number: g, parent: parent}.founded(c)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer founded.Destroy()
	return envelope.Unwrap(founded, ivkBinding(hierarchy.KeyspaceID(c.GetKeyspaceId()), g, hierarchy.UID(v.GetUid())), v.GetBlob(), memsec.Cold)
}

// UnderInternalKey reports whether an internal key with the uid ivk opens the outer envelope
// of a tenant key, or an internal secret.
func UnderInternalKey(key memsec.Secret, keyspace hierarchy.KeyspaceID, ivk hierarchy.UID, t *fsmpb.Tenant, s *fsmpb.Secret) bool {
	if s != nil {
		secret, err := envelope.Unwrap(key, secretBinding(keyspace, ivk, secretUID(s.GetName())), s.GetBlob(), memsec.Cold)
		secret.Destroy()
		return err == nil
	}
	b, err := bind(hierarchy.PurposeL2Outer, keyspace, t.GetUid(), nil, ivk[:], t.GetL2Uid())
	if err != nil {
		return false
	}
	_, err = envelope.RewrapOuter(rand.Reader, key, b, key, b, t.GetL2Blob())
	return err == nil
}

// ProveConfirmed reports why people did not confirm the MasterKeys of a cluster.
func ProveConfirmed(c *fsmpb.Cluster) error { return proveConfirmed(c) }

// Gathering returns what gathers shares for a ceremony on this node.
func (n *Node) Gathering() *seal.Opening {
	n.consent.mu.Lock()
	defer n.consent.mu.Unlock()
	return n.consent.opening
}

// StepIsMine reports whether this node takes a step of a ceremony without anybody.
func (n *Node) StepIsMine(c *fsmpb.Ceremony) bool { return n.stepIsMine(c, false) }

// StepCeremony takes it.
func (n *Node) StepCeremony(ctx context.Context, c *fsmpb.Ceremony) error {
	return n.stepCeremony(ctx, c)
}

// ClearDue has the members clear their disks that are to be asked now, as leader.
func (n *Node) ClearDue(ctx context.Context) error { return n.clearDue(ctx) }
