package node

import (
	"context"
	"slices"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// makeKey makes another MasterKey, protected as the plan says, and what a rekey stages with
// its record. The MasterKey is wiped here before this returns; what is left of it is for
// its holders, and for nodes that are unsealed.
func (n *Node) makeKey(ctx context.Context, of seal.Ceremony, p seal.Plan) (seal.Record, *fsmpb.StagedRekey, error) {
	u := n.open.Load()
	if u == nil {
		return seal.Record{}, nil, n.whySealed()
	}
	v := n.machine.View()
	of.Generation = v.Generation() + 1
	r, masterKey, printed, err := seal.Create(ctx, n.rand, of, p, n.stores)
	if err != nil {
		return seal.Record{}, nil, err
	}
	defer masterKey.Destroy()
	for _, s := range printed { // a plan that was begun has none
		s.Destroy()
	}
	return n.stageRekey(ctx, u, v, r, masterKey)
}

// stageRekey makes what a rekey needs besides holders for the MasterKey of r: every
// internal key under it, and in the record the keys with which a node proves what its disk
// holds from before, and the MasterKey for the nodes that are unsealed. The caller keeps the
// MasterKey.
func (n *Node) stageRekey(ctx context.Context, u *unsealed, v *fsm.View, r seal.Record, masterKey memsec.Secret) (seal.Record, *fsmpb.StagedRekey, error) {
	if r.Generation() != v.Generation()+1 {
		return seal.Record{}, nil, errs.New(errs.FailedState, "the new MasterKey does not follow the one in force", errs.Hint("cancel the ceremony and begin it anew"))
	}
	next, err := deriveGeneration(r, masterKey)
	if err != nil {
		return seal.Record{}, nil, err
	}
	defer next.destroy()
	keys, err := u.ring.rewrapInternalKeys(n.rand, v.Cluster(), next)
	if err != nil {
		return seal.Record{}, nil, err
	}
	was, err := seal.ParseRecord(v.Cluster().GetSealRecord())
	if err != nil {
		return seal.Record{}, nil, err
	}
	// A key that the record carries no more, after an exposure, this node may still have.
	carried := slices.DeleteFunc(u.keys.carried(r.Generation()), func(k seal.CarriedKey) bool {
		return k.Generation != was.Generation() && !slices.Contains(was.CarriedGenerations(), k.Generation)
	})
	if r, err = r.WithCarriedKeys(n.rand, masterKey, carried); err != nil {
		return seal.Record{}, nil, err
	}
	staged := &fsmpb.StagedRekey{InternalKeys: keys}
	if replacesExposed(r) {
		if err := n.addReplaced(u, v, next, staged); err != nil { //nolint:contextcheck // The old CAs are opened with keys in memory; nobody is asked.
			return seal.Record{}, nil, err
		}
	}
	if staged.Handovers, err = n.handovers(ctx, v, r, masterKey); err != nil {
		return seal.Record{}, nil, err
	}
	return r, staged, nil
}

// takeNext takes over the MasterKey of a staged record, so that this node serves on when
// it comes into force. It looks first whether the internal keys that were staged with it
// are the cluster's: with others every node would lose all tenants at once. The caller
// keeps the MasterKey, which was compared with the commitment in the record.
func (n *Node) takeNext(u *unsealed, v *fsm.View, r seal.Record, staged *fsmpb.StagedRekey, masterKey memsec.Secret) error {
	next, err := deriveGeneration(r, masterKey)
	if err != nil {
		return err
	}
	if err := u.ring.verifyRewrapped(v.Cluster(), staged.GetInternalKeys(), next); err != nil {
		next.destroy()
		return err
	}
	if err := u.ring.verifyReplaced(v.Cluster(), staged, next); err != nil {
		next.destroy()
		return err
	}
	return u.keys.add(next)
}
