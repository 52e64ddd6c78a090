package node

import (
	"context"
	"log/slog"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// watchL1 makes what proves customers' keys again for that keyring.
func (n *Node) watchL1(k *keyring) *validity.Watch {
	terms := n.cfg.L1
	if terms == (validity.Terms{}) {
		terms = validity.Terms{Check: validity.DefaultCheck, Grace: validity.DefaultGrace}
	}
	return validity.New(validity.Config{
		Clock: n.clock, Rand: n.rand, Terms: func(hierarchy.UID) validity.Terms { return terms },
		Prove: func(ctx context.Context, tenant hierarchy.UID) error { return n.proveL1(ctx, k, tenant) },
		Held:  k.heldTenants, Purge: k.purgeTenant, Tell: n.tellL1,
	})
}

// watchTenants has the customer's key of every tenant of which keys are in memory prove
// again that they may be used.
func (n *Node) watchTenants(ctx context.Context) error {
	for {
		if err := n.clock.Sleep(ctx, validity.Look); err != nil {
			return err
		}
		if u := n.open.Load(); u != nil {
			u.ring.valid.Once(ctx)
		}
	}
}

// heldTenants returns the tenants of which keys are in memory.
func (k *keyring) heldTenants() map[hierarchy.UID]bool {
	held := map[hierarchy.UID]bool{}
	k.l3.tenants(held)
	k.l21.tenants(held)
	k.l2.tenants(held)
	return held
}

// purgeTenant wipes every key of a tenant, from the bottom up: nothing is loaded from what
// goes next.
func (k *keyring) purgeTenant(tenant hierarchy.UID) {
	k.l2.purge(tenant)
	k.l21.purge(tenant)
	k.l3.purge(tenant)
}

// proveL1 unwraps the tenant key for real, as the newest state has it, and wipes it.
func (n *Node) proveL1(ctx context.Context, k *keyring, tenant hierarchy.UID) error {
	v := n.machine.View()
	t, ok := v.TenantByUID(tenant[:])
	if !ok || t.GetState() != fsmpb.ObjectState_OBJECT_STATE_ACTIVE || len(t.GetL2Blob()) == 0 {
		return validity.ErrGone
	}
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	nest, err := k.nest(t.GetUid(), t.GetL2Uid(), t.GetL2IvkUid())
	if err != nil {
		return err
	}
	l2, err := k.openTenantKey(corr.With(ctx, id), v.Cluster(), t, nest)
	l2.Destroy()
	return err
}

// tellL1 records what became of the keys of a tenant, after it was done. That a key is
// proved as ever is not told: its owner has the log of the keystore.
func (n *Node) tellL1(ctx context.Context, c validity.Change) {
	if c.Is == validity.Proved && c.Was == validity.Unproved {
		return // somebody used it for the first time
	}
	t, ok := n.machine.View().TenantByUID(c.Tenant[:])
	if !ok {
		return
	}
	what := []any{slog.String("tenant", t.GetName()), slog.String("keystore", t.GetBinding().GetKeystore()), slog.String("was", c.Was.String())}
	if c.Err != nil {
		what = append(what, slog.Any("error", c.Err))
	}
	switch c.Is {
	case validity.Denied:
		n.log.ErrorContext(ctx, "the customer's key is withdrawn: every key of the tenant left memory, and nothing of it is served", what...)
	case validity.Unproved:
		n.log.ErrorContext(ctx, "the customer's key was not proved within its grace period: every key of the tenant left memory", what...)
	case validity.Failing:
		n.log.WarnContext(ctx, "the customer's key cannot be proved; its tenant is served until the grace period ends", what...)
	case validity.Proved:
		n.log.InfoContext(ctx, "the customer's key is proved again", what...)
	}
	if correlation(ctx) == "" {
		id, err := corr.New(n.rand)
		if err != nil {
			n.log.ErrorContext(ctx, "what became of a customer's key is not recorded", slog.Any("error", err))
			return
		}
		ctx = corr.With(ctx, id)
	}
	err := n.gate.DoNode(ctx, gate.NodeCheckL1, hierarchy.TenantPath(hierarchy.Name(t.GetName())).String(), func(gate.Token) error {
		if c.Err == nil {
			return nil
		}
		return keystore.Visible(c.Err)
	})
	if err != nil && c.Err == nil {
		n.log.ErrorContext(ctx, "what became of a customer's key is not recorded", slog.Any("error", err))
	}
}

// L1 says how many tenants are in each state on this node, and how many proofs there were
// since it was unsealed, by class; zero maps while it is sealed. For metrics.
func (n *Node) L1() (tenants map[validity.State]int, proofs map[keystore.Class]uint64) {
	if u := n.open.Load(); u != nil {
		return u.ring.valid.Counts()
	}
	return nil, nil
}
