package node

import (
	"context"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// What Run does from its goroutines, for tests that say when.

// Sweep wipes what is no longer needed.
func (n *Node) Sweep() { n.sweep(n.machine.View()) }

// Observe looks at the present state of the registry.
func (n *Node) Observe(ctx context.Context) { n.observe(ctx, n.machine.View()) }

// AskKeystores asks the keystores of the seal once.
func (n *Node) AskKeystores(ctx context.Context) error { return n.askKeystores(ctx) }

// WatchSeal makes one round of questions to the keystores of the seal, as leader.
func (n *Node) WatchSeal(ctx context.Context) error { return n.watchOnce(ctx) }

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
