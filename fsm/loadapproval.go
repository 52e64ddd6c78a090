package fsm

import (
	"bytes"
	"crypto/sha256"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
)

// loadApproval checks an approval. That its signatures are good is verified when it
// is executed.
func (l *loader) loadApproval(a *fsmpb.Approval) error {
	in, req, err := checkApproval(a)
	switch {
	case l.cluster.GetFormatVersion() < FormatAuthority || err != nil || a.GetId() != ApprovalID(a.GetIntent()):
		return corrupt("an approval is not of what it says")
	case in.Act != req.Act() || uint32(in.Act) != a.GetAct() || in.Request != req.Digest() || in.NotAfter != a.GetExpireTimeMs() || len(orderOfRequest(req).roles) == 0 ||
		string(l.cluster.GetKeyspaceId()) != string(in.Keyspace[:]):
		return corrupt("an approval orders something else than was signed")
	case !l.timely(a.GetModIndex(), a.GetCreateTimeMs(), a.GetExpireTimeMs(), a.GetEndTimeMs()) || a.GetCreateTimeMs() == 0 || (a.GetEndTimeMs() == 0) != isOpen(a):
		return corrupt("an approval has a time or index that cannot be")
	case !l.approvalEnd(a):
		return corrupt("an approval has no state, or an end that is none")
	case !l.approvalRule(a) || !l.signers(a):
		return corrupt("an approval has signatures or a rule that cannot be")
	case len(a.GetRequestedWith()) > MaxSerialBytes || principalSize(a.GetRequester()) > MaxPrincipalBytes || principalSize(a.GetRequester()) == 0:
		return corrupt("an approval was requested by nobody")
	case l.approvals >= MaxApprovals || l.approvalBytes+approvalSize(a) > MaxApprovalsBytes:
		return corrupt("it has too many approvals")
	}
	if isOpen(a) {
		asks := &l.authority
		by := string(a.GetRequested().GetBindingUid())
		if asks.asks[by]++; asks.asks[by] > MaxApprovalsPerRequester || l.openApprovals >= MaxOpenApprovals {
			return corrupt("it has too many approvals that have not ended")
		}
		asks.reserved = append(asks.reserved, in)
	}
	l.storeApproval(a)
	return nil
}

func principalSize(p *fsmpb.Principal) int {
	return len(p.GetIssuer()) + len(p.GetKind()) + len(p.GetName())
}

// approvalEnd reports whether what is said of the end of an approval fits its state.
func (l *loader) approvalEnd(a *fsmpb.Approval) bool {
	res, rejected := a.GetResult(), a.GetRejectedBy() != nil
	if a.GetRejectReason() != "" && (!rejected || !textual(a.GetRejectReason(), MaxRejectReasonBytes)) || principalSize(a.GetRejectedBy()) > MaxPrincipalBytes {
		return false
	}
	if res != nil && (res.GetReplayed() || res.GetTerm() != 0 || res.GetIndex() == 0 || res.GetIndex() > l.index) {
		return false
	}
	switch a.GetState() {
	case fsmpb.ApprovalState_APPROVAL_STATE_PENDING, fsmpb.ApprovalState_APPROVAL_STATE_APPROVED, fsmpb.ApprovalState_APPROVAL_STATE_EXPIRED:
		return res == nil && !rejected
	case fsmpb.ApprovalState_APPROVAL_STATE_REJECTED:
		return res == nil && rejected
	case fsmpb.ApprovalState_APPROVAL_STATE_EXECUTED:
		return res != nil && res.GetReason() == "" && !rejected
	case fsmpb.ApprovalState_APPROVAL_STATE_FAILED:
		return res != nil && res.GetReason() != "" && !rejected
	case fsmpb.ApprovalState_APPROVAL_STATE_UNSPECIFIED:
	}
	return false
}

// approvalRule reports whether the rule of an approval is one, and whether as many as
// it asks for have signed what was approved.
func (l *loader) approvalRule(a *fsmpb.Approval) bool {
	act := intent.Act(min(a.GetAct(), 1<<16-1))
	rule, _ := RuleFor(a.GetRules(), act)
	if rule.Validate() != nil || checkRules(a.GetRules(), l.cluster.GetFormatVersion()) != nil || !sameRules(a.GetRules(), rowsOf(act, rule)) {
		return false
	}
	approved := a.GetState() == fsmpb.ApprovalState_APPROVAL_STATE_APPROVED || a.GetState() == fsmpb.ApprovalState_APPROVAL_STATE_EXECUTED
	g, c := votesOf(a, rule)
	return !approved || g >= rule.Governors && c >= rule.Custodians
}

// signers reports whether the signatures of an approval are of those who can sign,
// and the others than the requester's by different persons.
func (l *loader) signers(a *fsmpb.Approval) bool {
	if len(a.GetSignatures()) > intent.MaxSignatures || a.GetRequested() == nil {
		return false
	}
	seen := make(map[string]bool, len(a.GetSignatures())) // others than the requester
	for i, s := range append([]*fsmpb.ApprovalSignature{a.GetRequested()}, a.GetSignatures()...) {
		if len(s.GetKeyId()) != sha256.Size || len(s.GetSignature()) == 0 || len(s.GetSignature()) > intent.MaxSignature || !isPower(s.GetRole()) || i > 0 && seen[s.GetPerson()] ||
			s.GetPerson() == "" || !printable(s.GetPerson(), auth.MaxName) || len(s.GetBindingUid()) != hierarchy.UIDSize || !l.timely(1, s.GetTimeMs()) || s.GetTimeMs() < a.GetCreateTimeMs() {
			return false
		}
		if i > 0 && bytes.Equal(s.GetBindingUid(), a.GetRequested().GetBindingUid()) {
			return false
		}
		seen[s.GetPerson()] = i > 0
	}
	return true
}

// finishApprovals checks that no intent of an approval that has not ended could be
// used besides it (I24).
func (l *loader) finishApprovals() error {
	for _, in := range l.authority.reserved {
		n, ok := lookup[*fsmpb.UsedNonce](l.txn, tableNonces, indexID, in.Nonce[:])
		if in.NotAfter > l.timeMS && (!ok || n.GetExpireTimeMs() != in.NotAfter) {
			return corrupt("the intent of an approval could be used once more")
		}
	}
	return nil
}
