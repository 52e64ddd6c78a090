package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of approvals.
const (
	// MaxApprovals bounds what is kept. The ones that ended first give way to new ones.
	MaxApprovals = 10_000
	// MaxOpenApprovals bounds those that have not ended, of everybody.
	MaxOpenApprovals = 1_000
	// MaxApprovalsPerRequester bounds those of one person, so that nobody uses up
	// what is for all.
	MaxApprovalsPerRequester = 20
	// MaxApprovalsBytes bounds intents and requests of all approvals together.
	MaxApprovalsBytes = 64 << 20

	MaxApprovalRequestBytes = 72 << 10  // of the request of the API: a policy of 64 KiB, and its envelope
	MaxApprovalOrderBytes   = 128 << 10 // of the canonical form that people sign
	MaxApprovalTypeURLBytes = 256       // of the name of the request's type
	MaxRejectReasonBytes    = 256       // of the reason of a rejection
)

const (
	approvalIDBytes = 16

	approvalName     = "approvals/"
	approvalOver     = "the approval has ended"
	approvalOverHint = "read it; request it again if it is still to be done"
)

// ApprovalMemoryMS is how long an approval is kept after its end, in milliseconds:
// 30 days.
const ApprovalMemoryMS = 30 * 86400 * 1000

// ApprovalID returns the id of the approval of an encoded intent.
func ApprovalID(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:approvalIDBytes])
}

// isOpen reports whether an approval has not come to its end.
func isOpen(a *fsmpb.Approval) bool {
	return a.GetState() == fsmpb.ApprovalState_APPROVAL_STATE_PENDING || a.GetState() == fsmpb.ApprovalState_APPROVAL_STATE_APPROVED
}

// approvalDue is when a tick has something to do with an approval.
func approvalDue(a *fsmpb.Approval) int64 {
	if isOpen(a) {
		return a.GetExpireTimeMs()
	}
	return a.GetEndTimeMs() + ApprovalMemoryMS
}

func approvalStateKey(s fsmpb.ApprovalState, id string) []byte {
	return append([]byte{byte(s)}, id...) //nolint:gosec // A small enum; an unknown number is not understood.
}

// approvalSize is what an approval counts in [MaxApprovalsBytes]. It never changes.
func approvalSize(a *fsmpb.Approval) int {
	return len(a.GetIntent()) + len(a.GetRequest()) + len(a.GetApiRequest())
}

// Approval returns the approval with that id.
func (v *View) Approval(id string) (*fsmpb.Approval, bool) {
	return lookup[*fsmpb.Approval](v.txn, tableApprovals, indexID, []byte(id))
}

// Approvals returns up to limit approvals in that state, or of every state for
// APPROVAL_STATE_UNSPECIFIED, in the order of their ids, beginning after the id after.
func (v *View) Approvals(state fsmpb.ApprovalState, after string, limit int) []*fsmpb.Approval {
	if state == fsmpb.ApprovalState_APPROVAL_STATE_UNSPECIFIED {
		return page[*fsmpb.Approval](v, tableApprovals, nil, []byte(after), limit, func(*fsmpb.Approval) bool { return true })
	}
	return pageOf[*fsmpb.Approval](v, tableApprovals, indexState, approvalStateKey(state, ""), []byte(after), limit,
		func(a *fsmpb.Approval) bool { return a.GetState() == state })
}

// OpenApprovals returns how many approvals are PENDING or APPROVED. It costs nothing.
func (v *View) OpenApprovals() int { return v.openApprovals }

// ApprovalRule returns what the approval needed when it was requested, and what it
// needs now: the larger of that and of the present rule.
func (v *View) ApprovalRule(a *fsmpb.Approval) (then, now intent.Rule) {
	then, _ = RuleFor(a.GetRules(), intent.Act(min(a.GetAct(), 1<<16-1)))
	return then, approvalRule(v.cluster, a)
}

// ApprovalMissing returns how many governors and custodians have to sign still,
// under the rule that counts now; 0 and 0 if enough have.
func (v *View) ApprovalMissing(a *fsmpb.Approval) (governors, custodians int) {
	rule := approvalRule(v.cluster, a)
	g, c := votesOf(a, rule)
	return max(rule.Governors-g, 0), max(rule.Custodians-c, 0)
}

// RuleOf returns what an order needs now; false: nobody signs for it. Of all acts
// but set-quorum it is [RuleFor] of the cluster's rules.
func (v *View) RuleOf(req *intent.Request) (intent.Rule, bool) {
	return ruleOf(v.cluster.GetRules(), req)
}

// checkApproval checks the parts of an approval that a command gives, in a command
// and in a snapshot, and returns what they say.
func checkApproval(a *fsmpb.Approval) (intent.Intent, *intent.Request, error) {
	switch {
	case len(a.GetRequest()) > MaxApprovalOrderBytes || len(a.GetApiRequest()) > MaxApprovalRequestBytes:
		return intent.Intent{}, nil, errs.New(errs.TooLarge, "the request is too large to be approved", errs.Hint("order less in one request, or collect the signatures yourself: --sign-only"))
	case a.GetTypeUrl() == "" || !printable(a.GetTypeUrl(), MaxApprovalTypeURLBytes):
		return intent.Intent{}, nil, invalid("the type of the request has no valid name")
	}
	in, err := intent.Decode(a.GetIntent())
	if err != nil {
		return intent.Intent{}, nil, errs.New(errs.IntentRefused, "intent is malformed", errs.Cause(err))
	}
	req, err := intent.ParseRequest(a.GetRequest())
	if err != nil {
		return intent.Intent{}, nil, errs.New(errs.InvalidArgument, "what is ordered is not the canonical form of a request", errs.Cause(err))
	}
	return in, req, nil
}

// requestApproval keeps a request for the people who have to sign it. Who asks is
// proved by a signature, and not by what a node says.
func (t *tx) requestApproval(in *fsmpb.Approval) (done, error) {
	ordered, req, err := checkApproval(in)
	if err != nil {
		return done{}, err
	}
	id := ApprovalID(in.GetIntent())
	if _, ok := lookup[*fsmpb.Approval](t.txn, tableApprovals, indexID, []byte(id)); ok {
		return done{}, errs.New(errs.AlreadyExists, "this approval was requested already", errs.Hint("read %s%s", approvalName, id))
	}
	o := orderOfRequest(req)
	rule, needed := ruleOf(t.cluster.GetRules(), req)
	switch {
	case len(o.roles) == 0:
		return done{}, errs.New(errs.InvalidArgument, "no command does what this orders", errs.Hint("request what the API can do"))
	case !needed:
		return done{}, errs.New(errs.FailedState, "nobody has to sign for this", errs.Hint("make the request itself"))
	}
	if err := t.mayAsk(o); err != nil {
		return done{}, err
	}
	requested, err := t.ownSignature(ordered, in.GetRequested())
	if err != nil {
		return done{}, err
	}
	a := &fsmpb.Approval{
		Id: id, Act: uint32(req.Act()), Intent: bytes.Clone(in.GetIntent()), Request: bytes.Clone(in.GetRequest()),
		TypeUrl: in.GetTypeUrl(), ApiRequest: bytes.Clone(in.GetApiRequest()), Requester: proto.CloneOf(t.cmd.GetPrincipal()), Requested: requested,
		Rules: rowsOf(req.Act(), rule), CreateTimeMs: t.timeMS, ExpireTimeMs: ordered.NotAfter,
		State: fsmpb.ApprovalState_APPROVAL_STATE_PENDING, ModIndex: t.index, RequestedWith: bytes.Clone(t.cmd.GetCallerSerial()),
	}
	c := t.check(req, rule)
	c.Key, c.NonceUsed = t.keyOf(a, o), t.nonceUsed
	if err := intent.Conditions(ordered, c); err != nil {
		return done{}, explained(err, req.Act(), rule)
	}
	enough, err := t.tally(a, o, rule)
	if err != nil {
		return done{}, err
	}
	if enough {
		a.State = fsmpb.ApprovalState_APPROVAL_STATE_APPROVED
	}
	if err := t.roomForApproval(a); err != nil {
		return done{}, err
	}
	if err := t.useNonce(ordered, intent.Person(t.cmd.GetPrincipal().GetName())); err != nil {
		return done{}, err
	}
	t.storeApproval(a)
	return done{object: approvalName + id}, nil
}

// mayAsk refuses who may not order what is to be approved.
func (t *tx) mayAsk(o order) error {
	role, b, err := t.caller()
	if err != nil {
		return err
	}
	if !slices.Contains(o.roles, role) || role == auth.RoleGovernor && !t.has(o, b) {
		return errs.New(errs.Denied, "the caller may not order this", errs.Hint("have a governor request it who could order it, if nobody had to sign"))
	}
	return nil
}

// ownSignature verifies a signature over in by a key of the command's principal,
// and returns what is stored of it.
func (t *tx) ownSignature(in intent.Intent, s *fsmpb.ApprovalSignature) (*fsmpb.ApprovalSignature, error) {
	_, b, err := t.caller()
	switch {
	case err != nil:
		return nil, err
	case b == nil || !isPower(b.GetRole()):
		return nil, errs.New(errs.Denied, "the caller has no key to sign with", errs.Hint("governors and custodians request and approve"))
	}
	out := &fsmpb.ApprovalSignature{
		KeyId: bytes.Clone(s.GetKeyId()), Signature: bytes.Clone(s.GetSignature()),
		Person: b.GetName(), Role: b.GetRole(), BindingUid: bytes.Clone(b.GetUid()), TimeMs: t.timeMS,
	}
	if t.forecast && len(s.GetSignature()) == 0 {
		return out, nil // see DryRun
	}
	if len(s.GetKeyId()) != len(intent.KeyID{}) {
		return nil, refuseIntent(intent.ReasonUnknownKey)
	}
	signer, ok := t.signer(order{any: true}, intent.KeyID(s.GetKeyId()))
	message, err := in.Message()
	owner, _ := bindingByKey(t.txn, intent.KeyID(s.GetKeyId()))
	switch {
	case err != nil:
		return nil, refuseIntent(intent.ReasonMalformed)
	case !ok:
		return nil, refuseIntent(intent.ReasonUnknownKey)
	case !bytes.Equal(owner.GetUid(), b.GetUid()):
		return nil, errs.New(errs.IntentRefused, "the signature is not the caller's own", errs.Hint("sign with a key of the role binding with which you call"))
	case !signer.Key.Verify(message, s.GetSignature()):
		return nil, errs.New(errs.IntentRefused, intent.ReasonBadSignature.String(), errs.Hint("sign the intent of the approval as it was read"))
	}
	return out, nil
}

// refuseIntent is a refusal as package intent makes it.
func refuseIntent(r intent.Reason) error { return &intent.RefusalError{Reason: r} }

// approve adds the signature of the caller.
func (t *tx) approve(c *fsmpb.Approve) (done, error) {
	a, err := t.approvalIn(c.GetId(), fsmpb.ApprovalState_APPROVAL_STATE_PENDING)
	if err != nil {
		return done{}, err
	}
	in, req, err := checkApproval(a)
	if err != nil {
		return done{}, err
	}
	if !t.requesterStays(a) {
		return done{}, errs.New(errs.FailedState, "who requested the approval is not bound any more", errs.Hint("reject it; somebody else may request it"))
	}
	own, err := t.ownSignature(in, &fsmpb.ApprovalSignature{KeyId: c.GetKeyId(), Signature: c.GetSignature()})
	if err != nil {
		return done{}, err
	}
	o, rule := orderOfRequest(req), approvalRule(t.cluster, a)
	is := proto.CloneOf(a)
	is.Signatures, is.ModIndex = append(t.standing(a, o, rule), own), t.index
	if len(is.GetSignatures()) > intent.MaxSignatures {
		return done{}, errs.Newf(errs.LimitReached, "%d persons have signed, which is the limit", intent.MaxSignatures).
			With(errs.Hint("reject it, and request it again; have those sign whom the rule asks for"))
	}
	enough, err := t.tally(is, o, rule)
	if err != nil {
		return done{}, err
	}
	if enough {
		is.State = fsmpb.ApprovalState_APPROVAL_STATE_APPROVED
	}
	put(t, tableApprovals, is)
	return done{object: approvalName + a.GetId()}, nil
}

// requesterStays reports whether who requested an approval is bound as then.
func (t *tx) requesterStays(a *fsmpb.Approval) bool {
	b, ok := bindingAt(t.txn, indexUID, a.GetRequested().GetBindingUid())
	return ok && !Expired(b, t.timeMS)
}

// approvalIn returns an approval that is in that state.
func (t *tx) approvalIn(id string, states ...fsmpb.ApprovalState) (*fsmpb.Approval, error) {
	a, ok := lookup[*fsmpb.Approval](t.txn, tableApprovals, indexID, []byte(id))
	if !ok {
		return nil, errs.NoSuchObject()
	}
	for _, s := range states {
		if a.GetState() == s {
			return a, nil
		}
	}
	switch a.GetState() {
	case fsmpb.ApprovalState_APPROVAL_STATE_PENDING:
		// Not a fact: others may sign, and then the same request is right.
		return nil, errs.New(errs.Aborted, "the approval needs more signatures", errs.Hint("have others approve it"))
	case fsmpb.ApprovalState_APPROVAL_STATE_APPROVED:
		return nil, errs.New(errs.FailedState, "the approval has all its signatures already", errs.Hint("nothing is left to sign; the cluster executes it"))
	case fsmpb.ApprovalState_APPROVAL_STATE_EXECUTED:
		return nil, errs.New(errs.FailedState, approvalOver+": it was executed", errs.Hint(approvalOverHint))
	case fsmpb.ApprovalState_APPROVAL_STATE_REJECTED:
		return nil, errs.New(errs.FailedState, approvalOver+": it was rejected", errs.Hint(approvalOverHint))
	case fsmpb.ApprovalState_APPROVAL_STATE_EXPIRED:
		return nil, errs.New(errs.FailedState, approvalOver+": it expired", errs.Hint(approvalOverHint))
	case fsmpb.ApprovalState_APPROVAL_STATE_FAILED, fsmpb.ApprovalState_APPROVAL_STATE_UNSPECIFIED:
	}
	return nil, errs.New(errs.FailedState, approvalOver+": it failed", errs.Hint(approvalOverHint))
}

// rejectApproval ends an approval that is not executed.
func (t *tx) rejectApproval(c *fsmpb.RejectApproval) (done, error) {
	a, err := t.approvalIn(c.GetId(), fsmpb.ApprovalState_APPROVAL_STATE_PENDING, fsmpb.ApprovalState_APPROVAL_STATE_APPROVED)
	if err != nil {
		return done{}, err
	}
	if c.GetReason() != "" && !textual(c.GetReason(), MaxRejectReasonBytes) {
		return done{}, wrong("the reason is longer than 256 bytes, or not one line of text", "say it shorter")
	}
	req, err := intent.ParseRequest(a.GetRequest())
	if err != nil {
		return done{}, invalid("the approval orders nothing")
	}
	role, b, err := t.caller()
	if err != nil {
		return done{}, err
	}
	could := asksFor(approvalRule(t.cluster, a), role.String()) && (role != auth.RoleGovernor || t.has(orderOfRequest(req), b))
	if !could && !bytes.Equal(b.GetUid(), a.GetRequested().GetBindingUid()) {
		return done{}, errs.New(errs.Denied, "the caller may not reject this", errs.Hint("who requested it may, and who could approve it"))
	}
	is := proto.CloneOf(a)
	is.RejectedBy, is.RejectReason = proto.CloneOf(t.cmd.GetPrincipal()), c.GetReason()
	t.endApproval(is, fsmpb.ApprovalState_APPROVAL_STATE_REJECTED, nil)
	return done{object: approvalName + a.GetId()}, nil
}

// roomForApproval refuses one approval too many, and lets those that ended first go
// for a new one.
func (t *tx) roomForApproval(a *fsmpb.Approval) error {
	own := 0
	scan(t.txn, tableApprovals, indexOpen, a.GetRequested().GetBindingUid(), nil, func(*fsmpb.Approval) bool {
		own++
		return own < MaxApprovalsPerRequester
	})
	switch {
	case own >= MaxApprovalsPerRequester:
		return errs.Newf(errs.LimitReached, "the caller has %d approvals that have not ended, which is the limit", MaxApprovalsPerRequester).
			With(errs.Hint("reject those that are not needed any more"))
	case t.openApprovals >= MaxOpenApprovals:
		return errs.Newf(errs.LimitReached, "%d approvals have not ended, which is the limit", MaxOpenApprovals).
			With(errs.Hint("reject those that are not needed any more"))
	}
	for t.approvals >= MaxApprovals || t.approvalBytes+approvalSize(a) > MaxApprovalsBytes {
		var oldest *fsmpb.Approval
		scan(t.txn, tableApprovals, indexEnded, nil, nil, func(e *fsmpb.Approval) bool {
			oldest = e
			return false
		})
		if oldest == nil {
			return errs.New(errs.LimitReached, "the approvals that have not ended are too large together", errs.Hint("reject those that are not needed any more"))
		}
		t.dropApproval(oldest)
	}
	return nil
}

func (t *tx) storeApproval(a *fsmpb.Approval) {
	put(t, tableApprovals, a)
	t.approvals++
	t.approvalBytes += approvalSize(a)
	if isOpen(a) {
		t.openApprovals++
	}
}

func (t *tx) dropApproval(a *fsmpb.Approval) {
	drop(t, tableApprovals, a)
	t.approvals--
	t.approvalBytes -= approvalSize(a)
	if isOpen(a) {
		t.openApprovals--
	}
}

// endApproval brings an open approval to its end; of nil there is nothing to end.
func (t *tx) endApproval(a *fsmpb.Approval, state fsmpb.ApprovalState, res *fsmpb.Result) {
	if a == nil {
		return
	}
	is := proto.CloneOf(a)
	is.State, is.EndTimeMs, is.ModIndex = state, t.timeMS, t.index
	if res != nil {
		is.Result = proto.CloneOf(res) // the caller of Apply owns the other one
	}
	put(t, tableApprovals, is)
	t.openApprovals--
}

// failRequestedWith fails the approvals that were requested with a certificate that
// is revoked now (I17). A revocation is forgotten when its certificate has expired,
// so it is done at once and not when they are executed.
func (t *tx) failRequestedWith(serial []byte) {
	var all []*fsmpb.Approval
	scan(t.txn, tableApprovals, indexOpen, nil, nil, func(a *fsmpb.Approval) bool {
		if bytes.Equal(a.GetRequestedWith(), serial) {
			all = append(all, a)
		}
		return true
	})
	for _, a := range all {
		t.endApproval(a, fsmpb.ApprovalState_APPROVAL_STATE_FAILED, refusal(t.index, errs.From(ErrCallerRevoked())))
	}
}
