package clienttest

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

// Ail lets every node say of node i, from 0, that it is as change makes it. nil
// makes it well again.
func (c *Cluster) Ail(i int, change func(*kryptonv1.NodeHealth)) { c.nodes[i].ail.Store(&change) }

// health is what the nodes say of n: that it is as well as a node can be, unless
// the test has it ail.
func (c *Cluster) health(n *node) *kryptonv1.NodeHealth {
	if !n.alive() {
		return &kryptonv1.NodeHealth{NotServingReason: "it does not answer this node"}
	}
	h := &kryptonv1.NodeHealth{
		Reachable: true, Seal: kryptonv1.SealState_SEAL_STATE_UNSEALED, Serving: true, AppliedIndex: c.reg.index, Version: "test",
		MemoryTier: "secretmem", ContactAge: durationpb.New(100 * time.Millisecond),
		DiskFreeBytes: 60 << 30, DiskTotalBytes: 100 << 30, AuditFreeBytes: 60 << 30,
		WallTime: timestamppb.Now(), ClockOffset: durationpb.New(0),
		MemoryUsedBytes: 1 << 20, MemoryLimitBytes: 8 << 20, Hardened: true, MaxFormat: 4,
		LeaseRemaining: durationpb.New(2800 * time.Millisecond), LeaseHolding: &kryptonv1.LeaseHolding{Held: durationpb.New(3 * time.Second)},
	}
	if n.i == 0 {
		h.LeaderLeases = &kryptonv1.LeaderLeases{Term: 2, CompleteIndex: c.reg.index}
	}
	if change := n.ail.Load(); change != nil && *change != nil {
		(*change)(h)
	}
	return h
}
