package fsm

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// What executes an approval is an ordinary command that names it. The approval has
// the signatures and says who asked; the command says the rest, and must order
// exactly what was signed. Whatever becomes of it stands in the approval with the
// same entry of the log, so that it is done once (I24).

// openApproval finds the approval that the command names, and refuses the command if
// it is not what that approval orders. A refusal here says nothing of the approval:
// anybody can name one.
func (t *tx) openApproval() error {
	id := t.cmd.GetApproval()
	if id == "" {
		return nil
	}
	if t.cluster.GetFormatVersion() < FormatAuthority {
		return errNoAuthority()
	}
	if len(t.cmd.GetIntents()) != 0 {
		return invalid("a command brings signatures of its own, or names an approval that has them")
	}
	a, err := t.approvalIn(id, fsmpb.ApprovalState_APPROVAL_STATE_APPROVED)
	if err != nil {
		return err
	}
	_, req, err := checkApproval(a)
	switch {
	case err != nil:
		return err
	case !proto.Equal(t.cmd.GetPrincipal(), a.GetRequester()):
		return errs.New(errs.Denied, "an approval is executed in the name of who requested it")
	case !orders(t.cmd, req):
		return refuseIntent(intent.ReasonOtherRequest)
	}
	t.approval = a
	return nil
}

// orders reports whether a command says what was signed. Of commands of which people
// sign more than they say it is what they say; the rest is verified with the object.
func orders(cmd *fsmpb.Command, req *intent.Request) bool {
	if act, r, ok := SovereignRequest(cmd); ok {
		return act == req.Act() && r.Digest() == req.Digest()
	}
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_UnbindRole:
		return (req.Act() == intent.ActBindRole || req.Act() == intent.ActSetAuthorityKeys) && textOf(req, "op") == "unbind" &&
			textOf(req, "tenant") == b.UnbindRole.GetTenant() && textOf(req, "id") == b.UnbindRole.GetId()
	case *fsmpb.Command_UpdateMember:
		c := b.UpdateMember
		if id, op := withdrawn(cmd); op != "" {
			return isWithdrawal(req, id, op)
		}
		return req.Act() == intent.ActAddMember && textOf(req, "op") == "" && c.GetMember().GetVoter() && len(c.GetFields()) == 1 && c.GetFields()[0] == "voter" &&
			textOf(req, "node") != "" && textOf(req, "node") == c.GetMember().GetId()
	case *fsmpb.Command_RemoveMember:
		return isWithdrawal(req, b.RemoveMember.GetId(), withdrawRemove)
	}
	return false
}

func isWithdrawal(req *intent.Request, id, op string) bool {
	return req.Act() == intent.ActAddMember && textOf(req, "op") == op && textOf(req, "node") != "" && textOf(req, "node") == id
}

// sameRequester refuses to execute for somebody who was bound anew under the
// requester's name: what that one asks for is asked anew.
func (t *tx) sameRequester() error {
	if t.approval == nil {
		return nil
	}
	if _, b, err := t.caller(); err != nil || !bytes.Equal(b.GetUid(), t.approval.GetRequested().GetBindingUid()) {
		return errs.New(errs.FailedState, "who requested the approval is not bound any more as then", errs.Hint(approvalOverHint))
	}
	return nil
}

// verifyApproved verifies everything about the approval anew, by the state of this
// moment: the rule is the larger of then and now, every signer is still bound as
// then and has the power, and the objects are as they were signed.
func (t *tx) verifyApproved(req *intent.Request) ([]*fsmpb.SignedIntent, error) {
	a := t.approval
	in, signed, err := checkApproval(a)
	if err != nil {
		return nil, err
	}
	o, rule := orderOfRequest(signed), approvalRule(t.cluster, a)
	c := t.check(req, rule)
	c.Requester, c.Key = intent.Person(a.GetRequested().GetPerson()), t.keyOf(a, o)
	c.NonceUsed = func(intent.Nonce) bool { return false } // this approval has it, and nothing else can
	if _, err := t.ownSignature(in, a.GetRequested()); err != nil {
		return nil, err
	}
	all := votes(a, rule)
	if _, err := intent.Verify(signedOf(in, all), c); err != nil {
		return nil, explained(err, req.Act(), rule)
	}
	t.approved = true
	by := make([]*fsmpb.SignedIntent, len(all))
	for i, s := range all {
		by[i] = &fsmpb.SignedIntent{Intent: a.GetIntent(), KeyId: s.GetKeyId(), Signature: s.GetSignature()}
	}
	return kept(by), nil
}

// endsApproval reports whether a refusal of the command that executes an approval is
// the end of it: trying again could only be refused again. What may pass (a limit, a
// preparation that was overtaken) leaves it APPROVED.
func endsApproval(c errs.Code) bool {
	return isFact(c) || c == errs.IntentRefused || c == errs.StaleEtag || c == errs.Denied || c == errs.Unauthenticated
}
