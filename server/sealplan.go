package server

import (
	"context"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// PlanSeal implements kryptonv1.AdminServer.
func (s adminServer) PlanSeal(ctx context.Context, r *kryptonv1.PlanSealRequest) (*kryptonv1.PlanSealResponse, error) {
	out := &kryptonv1.PlanSealResponse{}
	err := s.do(ctx, gate.PlanSeal, node.ObjectCluster, func(tok gate.Token) error {
		filled, notes, err := s.node.PlanSeal(ctx, tok, plan.FromProto(r.GetPlan()))
		if err != nil {
			return err
		}
		out.Plan, out.Notes = filled.Proto(), notes
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// sealOf returns the seal that a request for a new cluster asks for: its plan, or
// what the fields before there were plans say.
func sealOf(r *kryptonv1.InitRequest) (plan.Plan, error) {
	short := r.GetSealMode() != kryptonv1.SealMode_SEAL_MODE_UNSPECIFIED || r.GetKeystore() != "" || r.GetKey() != "" || r.GetShares() != 0 || r.GetThreshold() != 0
	if r.GetSealPlan() != nil {
		if short {
			return plan.Plan{}, errs.New(errs.InvalidArgument, "the request has a plan of the seal, and says in other fields what the seal is", errs.Hint("leave seal_mode, keystore, key, shares and threshold out"))
		}
		return plan.FromProto(r.GetSealPlan()), nil
	}
	switch r.GetSealMode() {
	case kryptonv1.SealMode_SEAL_MODE_AUTO:
		return plan.OneKey(seal.ProviderKey{Provider: r.GetKeystore(), Key: keystore.KeyRef(r.GetKey())}), nil
	case kryptonv1.SealMode_SEAL_MODE_SHAMIR:
		return plan.Printed(int(min(r.GetShares(), 1<<16)), int(min(r.GetThreshold(), 1<<16))), nil
	case kryptonv1.SealMode_SEAL_MODE_UNSPECIFIED:
	}
	return plan.Plan{}, errs.New(errs.InvalidArgument, "nothing says who opens the MasterKey", errs.Hint("give a plan of the seal, or seal_mode"))
}
