package clienttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	pending  = kryptonv1.ApprovalState_APPROVAL_STATE_PENDING
	approved = kryptonv1.ApprovalState_APPROVAL_STATE_APPROVED
	executed = kryptonv1.ApprovalState_APPROVAL_STATE_EXECUTED
	rejected = kryptonv1.ApprovalState_APPROVAL_STATE_REJECTED
)

// approvalsServer waits for the approval of one more person. It verifies no
// signature, and does not do what was approved: it says that it did.
type approvalsServer struct {
	kryptonv1.UnimplementedApprovalsServer
	reg *registry
}

func (s approvalsServer) CreateApproval(ctx context.Context, r *kryptonv1.CreateApprovalRequest) (*kryptonv1.Approval, error) {
	if err := approves(ctx); err != nil {
		return nil, err
	}
	if _, err := r.GetRequest().UnmarshalNew(); err != nil {
		return nil, errs.New(errs.InvalidArgument, "request is none that this node knows", errs.Hint("send the request that you would make"))
	}
	if len(r.GetSignature().GetIntent()) == 0 {
		return nil, errs.New(errs.InvalidArgument, "signature is missing", errs.Hint("sign as the one who asks"))
	}
	role, name := roleOf(ctx)
	sum := sha256.Sum256(r.GetSignature().GetIntent())
	a := &kryptonv1.Approval{
		Name: "approvals/" + hex.EncodeToString(sum[:16]), Etag: s.reg.etag(), State: pending, CreateTime: now(), ExpireTime: later(24 * time.Hour),
		Requester: role + "/" + name, RequesterBinding: "roleBindings/" + name,
		Request: r.GetRequest(), Intent: r.GetSignature().GetIntent(), CanonicalRequest: r.GetCanonicalRequest(),
		RuleAtRequest: &kryptonv1.IntentRule{Governors: 1}, Rule: &kryptonv1.IntentRule{Governors: 1}, GovernorsMissing: 1,
	}
	a.Signatures = []*kryptonv1.ApprovalSignature{s.signature(ctx, r.GetSignature().GetKeyId(), r.GetSignature().GetSignature())}
	if s.reg.approvals[a.GetName()] != nil {
		return nil, errs.New(errs.AlreadyExists, "the intent was used before", errs.Hint("sign a new one"))
	}
	s.reg.approvals[a.GetName()] = a
	return clone(a), nil
}

func (s approvalsServer) signature(ctx context.Context, key, sig []byte) *kryptonv1.ApprovalSignature {
	role, name := roleOf(ctx)
	return &kryptonv1.ApprovalSignature{Person: role + "/" + name, RoleBinding: "roleBindings/" + name, KeyId: key, Signature: sig, Time: now()}
}

func (s approvalsServer) GetApproval(ctx context.Context, r *kryptonv1.GetApprovalRequest) (*kryptonv1.Approval, error) {
	if err := people(ctx); err != nil {
		return nil, err
	}
	if a := s.reg.approvals[r.GetName()]; a != nil {
		return clone(a), nil
	}
	return nil, errs.NoSuchObject()
}

func (s approvalsServer) ListApprovals(ctx context.Context, r *kryptonv1.ListApprovalsRequest) (*kryptonv1.ListApprovalsResponse, error) {
	if err := people(ctx); err != nil {
		return nil, err
	}
	state := strings.TrimPrefix(r.GetFilter(), "state=")
	var match []string
	for _, n := range sortedNames(s.reg.approvals, "") {
		is := s.reg.approvals[n].GetState()
		if state == "" && (is == pending || is == approved) || is.String() == "APPROVAL_STATE_"+state {
			match = append(match, n)
		}
	}
	names, next := page(match, r.GetPageSize(), r.GetPageToken())
	resp := &kryptonv1.ListApprovalsResponse{NextPageToken: next}
	for _, n := range names {
		resp.Approvals = append(resp.Approvals, clone(s.reg.approvals[n]))
	}
	return resp, nil
}

func (s approvalsServer) Approve(ctx context.Context, r *kryptonv1.ApproveRequest) (*kryptonv1.Approval, error) {
	return s.change(ctx, r.GetName(), false, func(a *kryptonv1.Approval) error {
		sig := s.signature(ctx, r.GetKeyId(), r.GetSignature())
		if sig.GetPerson() == a.GetRequester() {
			return errs.New(errs.IntentRefused, "the requester cannot be one of the signers", errs.Hint("ask another governor"))
		}
		sig.Counts = true
		a.Signatures, a.GovernorsMissing = append(a.GetSignatures(), sig), 0
		a.State, a.EndTime, a.ResultIndex = executed, now(), s.reg.index
		return nil
	})
}

func (s approvalsServer) Reject(ctx context.Context, r *kryptonv1.RejectRequest) (*kryptonv1.Approval, error) {
	return s.change(ctx, r.GetName(), r.GetValidateOnly(), func(a *kryptonv1.Approval) error {
		role, name := roleOf(ctx)
		a.State, a.EndTime, a.GovernorsMissing = rejected, now(), 0
		a.RejectedBy, a.RejectReason = role+"/"+name, r.GetReason()
		return nil
	})
}

func (s approvalsServer) change(ctx context.Context, name string, dry bool, f func(*kryptonv1.Approval) error) (*kryptonv1.Approval, error) {
	if err := approves(ctx); err != nil {
		return nil, err
	}
	a := s.reg.approvals[name]
	if a == nil {
		return nil, errs.NoSuchObject()
	}
	if a.GetState() != pending {
		return nil, errs.New(errs.FailedState, "the approval is not pending", errs.Hint("look at its state first"))
	}
	a = proto.CloneOf(a)
	if err := f(a); err != nil {
		return nil, err
	}
	if !dry {
		s.reg.approvals[name] = a
	}
	return clone(a), nil
}

// approves refuses everyone but those who sign.
func approves(ctx context.Context) error {
	if role, _ := roleOf(ctx); role != "governor" && role != "custodian" {
		return errs.New(errs.Denied, "a "+role+" may not do this", errs.Hint("ask a governor or a custodian"))
	}
	return nil
}
