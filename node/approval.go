package node

import (
	"context"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/intent"
)

// RequestApproval keeps a request until those who have to have signed it, and returns
// it as it stands.
func (n *Node) RequestApproval(ctx context.Context, tok gate.Token, r Request, a *fsmpb.Approval) (*fsmpb.Approval, error) {
	if err := tok.Require(gate.CreateApproval, ApprovalName(a.GetId())); err != nil {
		return nil, err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RequestApproval{RequestApproval: &fsmpb.RequestApproval{Approval: a}}
	return n.approval(ctx, tok, r, cmd, a.GetId())
}

// Approve adds the caller's signature over the intent of an approval, and returns the
// approval as it stands.
func (n *Node) Approve(ctx context.Context, tok gate.Token, r Request, id string, key intent.KeyID, signature []byte) (*fsmpb.Approval, error) {
	if err := tok.Require(gate.Approve, ApprovalName(id)); err != nil {
		return nil, err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: id, KeyId: key[:], Signature: signature}}
	return n.approval(ctx, tok, r, cmd, id)
}

// Reject ends an approval that is not executed, and returns it.
func (n *Node) Reject(ctx context.Context, tok gate.Token, r Request, id, reason string) (*fsmpb.Approval, error) {
	if err := tok.Require(gate.Reject, ApprovalName(id)); err != nil {
		return nil, err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RejectApproval{RejectApproval: &fsmpb.RejectApproval{Id: id, Reason: reason}}
	return n.approval(ctx, tok, r, cmd, id)
}

func (n *Node) approval(ctx context.Context, tok gate.Token, r Request, cmd *fsmpb.Command, id string) (*fsmpb.Approval, error) {
	if _, err := n.commit(ctx, tok, r, cmd); err != nil {
		return nil, err
	}
	if a, ok := n.machine.View().Approval(id); ok {
		return a, nil
	}
	return nil, gate.NoSuchObject()
}

// SetQuorum changes how many persons sign.
func (n *Node) SetQuorum(ctx context.Context, tok gate.Token, r Request, governors, custodians uint32) error {
	if err := tok.Require(gate.SetQuorum, ObjectCluster); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_SetQuorum{SetQuorum: &fsmpb.SetQuorum{Governors: governors, Custodians: custodians, Etag: r.ETag}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// Ordered returns what people sign of a command, or false if nobody signs it.
func Ordered(v *fsm.View, cmd *fsmpb.Command) (*intent.Request, bool) {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_UnbindRole:
		if is, ok := v.Binding(b.UnbindRole.GetTenant(), b.UnbindRole.GetId()); ok {
			return fsm.UnbindRequest(is), true
		}
		return nil, false
	case *fsmpb.Command_UpdateMember:
		if m, ok := v.Member(b.UpdateMember.GetMember().GetId()); ok && b.UpdateMember.GetMember().GetVoter() {
			return fsm.PromotionRequest(m), true
		}
		return v.Withdrawal(cmd)
	case *fsmpb.Command_RemoveMember:
		return v.Withdrawal(cmd)
	}
	_, req, ok := fsm.SovereignRequest(cmd)
	return req, ok
}
