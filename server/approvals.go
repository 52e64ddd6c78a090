package server

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

type approvalsServer struct {
	kryptonv1.UnimplementedApprovalsServer
	*calls
}

const approvalPrefix = "approvals/"

func approvalName(id string) string { return node.ApprovalName(id) }

// approvalID takes the id out of approvals/{a}.
func approvalID(name string) (string, error) {
	id, ok := strings.CutPrefix(name, approvalPrefix)
	if !ok || len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", errs.New(errs.InvalidArgument, "the name of an approval is approvals/ and 32 hex digits", errs.Hint("krypton approval list shows them"))
	}
	return id, nil
}

// ownSignature checks the form of one signature; what it proves every replica decides.
func ownSignature(field string, key, signature []byte) error {
	bad := func(what string) error {
		return errs.New(errs.InvalidArgument, field+what, errs.Hint("krypton makes them: sign the request again"))
	}
	switch {
	case len(key) != len(intent.KeyID{}):
		return bad("key_id is not 32 bytes")
	case len(signature) == 0 || len(signature) > intent.MaxSignature:
		return bad("signature is missing or too long")
	}
	return nil
}

// CreateApproval implements kryptonv1.ApprovalsServer.
func (s approvalsServer) CreateApproval(ctx context.Context, r *kryptonv1.CreateApprovalRequest) (*kryptonv1.Approval, error) {
	asked, err := sovereignFrom(r.GetRequest())
	if err != nil {
		return nil, err
	}
	signed := r.GetSignature()
	if err := ownSignature("signature.", signed.GetKeyId(), signed.GetSignature()); err != nil {
		return nil, err
	}
	in, err := intent.Decode(signed.GetIntent())
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "signature.intent is none that this node can read", errs.Hint("krypton makes them: sign the request again"))
	}
	given, err := canonicalGiven(r.GetCanonicalRequest())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	id := fsm.ApprovalID(signed.GetIntent())
	var out *kryptonv1.Approval
	err = s.do(ctx, gate.CreateApproval, approvalName(id), func(tok gate.Token) error {
		a := &fsmpb.Approval{
			Id: id, Intent: signed.GetIntent(), TypeUrl: asked.typeURL(), ApiRequest: asked.raw,
			Requested: &fsmpb.ApprovalSignature{KeyId: signed.GetKeyId(), Signature: signed.GetSignature()},
		}
		// A retry is answered from memory: what was asked may be done by now, and could
		// not be asked again.
		if s.changedAt(tok, req.ID) == 0 {
			order, err := s.order(ctx, asked, id)
			if err != nil {
				return err
			}
			if err := agree(order, given, in); err != nil {
				return err
			}
			a.Request = order.Canonical()
		}
		made, err := s.node.RequestApproval(ctx, tok, req, a)
		if err != nil {
			return err
		}
		out = s.finish(ctx, made)
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// canonicalGiven reads the canonical request that a caller says to have signed; nil:
// they did not say.
func canonicalGiven(b []byte) (*intent.Request, error) {
	if len(b) == 0 {
		return nil, nil //nolint:nilnil // Nothing is an answer.
	}
	r, err := intent.ParseRequest(b)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "canonical_request is none that this node can read", errs.Hint("leave it out, or send what was signed"), errs.Cause(err))
	}
	return r, nil
}

// agree reports why a request of the API is not what was signed. Every replica
// compares the digest again; here is what can say which field differs.
func agree(order, given *intent.Request, in intent.Intent) error {
	if in.Request == order.Digest() {
		return nil
	}
	hint := "sign exactly the intent that the cluster printed for this request"
	if given != nil && given.Digest() == in.Request {
		hint = "these lines differ, - of the request and + of what was signed:\n" + strings.TrimRight(intent.Differences(order, given), "\n")
	}
	return errs.New(errs.IntentRefused, intent.ReasonOtherRequest.String(), errs.Hint("%s", hint))
}

// order returns what people sign of a request, after a check of everything but the
// signatures, as if the caller made it now.
func (s approvalsServer) order(ctx context.Context, asked sovereignRequest, id string) (*intent.Request, error) {
	var cmd *fsmpb.Command
	by := byApproval{id: id, stage: gate.Asked, drafted: func(c *fsmpb.Command) { cmd = c }}
	if err := s.make(ctx, asked, callerOf(ctx), by); err != nil {
		return nil, err
	}
	v := s.machine.View()
	if cmd != nil {
		if order, ok := node.Ordered(v, cmd); ok {
			if _, needed := v.RuleOf(order); needed {
				return order, nil
			}
		}
	}
	return nil, errs.New(errs.FailedState, "nobody has to sign for this", errs.Hint("make the request itself"))
}

// finish executes an approval that has all its signatures, and shows how it stands
// then. That it could not be executed is no error of the call that added the last
// signature, which counts: the leader tries again.
func (s approvalsServer) finish(ctx context.Context, a *fsmpb.Approval) *kryptonv1.Approval {
	if a.GetState() == fsmpb.ApprovalState_APPROVAL_STATE_APPROVED {
		_ = s.execute(ctx, a) // the approval says why not
	}
	v := s.machine.View()
	if now, ok := v.Approval(a.GetId()); ok {
		a = now
	}
	return s.approvalToAPI(v, a)
}

// GetApproval implements kryptonv1.ApprovalsServer.
func (s approvalsServer) GetApproval(ctx context.Context, r *kryptonv1.GetApprovalRequest) (*kryptonv1.Approval, error) {
	id, err := approvalID(r.GetName())
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Approval
	err = s.do(ctx, gate.GetApproval, approvalName(id), func(gate.Token) error {
		l := s.look(ctx)
		a, ok := l.View.Approval(id)
		if !ok || !maySee(l.View, callerOf(ctx), a) {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out = s.approvalToAPI(l.View, a)
		return s.shown(ctx, l, newest(out), nil)
	})
	return out, err
}

// maySee reports whether an approval is for the eyes of a caller who may see approvals
// at all. Governors of tenants see what they asked for and what is about their own.
func maySee(v *fsm.View, who caller, a *fsmpb.Approval) bool {
	if who.Principal.Role != auth.RoleGovernor {
		return true
	}
	b, ok := v.BindingByUID(who.Binding[:])
	switch {
	case !ok:
		return false
	case b.GetPlatform(), string(a.GetRequested().GetBindingUid()) == string(b.GetUid()):
		return true
	}
	r, err := intent.ParseRequest(a.GetRequest())
	if err != nil {
		return false
	}
	for _, f := range r.Fields() {
		if f.Name == "tenant" && f.Kind == intent.KindText {
			t, ok := v.Tenant(f.Text)
			return ok && v.Governs(b, t)
		}
	}
	return false
}

// ListApprovals implements kryptonv1.ApprovalsServer.
func (s approvalsServer) ListApprovals(ctx context.Context, r *kryptonv1.ListApprovalsRequest) (*kryptonv1.ListApprovalsResponse, error) {
	pg, err := page(r, "approvals?"+r.GetFilter(), "")
	if err != nil {
		return nil, err
	}
	states, err := approvalStates(r.GetFilter())
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListApprovalsResponse{}
	err = s.do(ctx, gate.ListApprovals, "approvals", func(gate.Token) error {
		l, who := s.look(ctx), callerOf(ctx)
		read := func(after string, limit int) (all []*fsmpb.Approval) {
			for _, state := range states {
				all = append(all, l.View.Approvals(state, after, limit)...)
			}
			slices.SortFunc(all, func(a, b *fsmpb.Approval) int { return strings.Compare(a.GetId(), b.GetId()) })
			return all[:min(len(all), limit)]
		}
		out.Approvals, out.NextPageToken = collect(pg, read,
			func(a *fsmpb.Approval) (string, kryptonv1.ObjectState) {
				if !maySee(l.View, who, a) {
					return a.GetId(), kryptonv1.ObjectState_OBJECT_STATE_DESTROYED // which no page has
				}
				return a.GetId(), kryptonv1.ObjectState_OBJECT_STATE_ACTIVE
			},
			func(a *fsmpb.Approval) *kryptonv1.Approval { return s.approvalToAPI(l.View, a) })
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// approvalStates reads a filter.
func approvalStates(filter string) ([]fsmpb.ApprovalState, error) {
	if filter == "" {
		return []fsmpb.ApprovalState{fsmpb.ApprovalState_APPROVAL_STATE_PENDING, fsmpb.ApprovalState_APPROVAL_STATE_APPROVED}, nil
	}
	value, ok := strings.CutPrefix(filter, "state=")
	state, known := fsmpb.ApprovalState_value["APPROVAL_STATE_"+value]
	if !ok || !known || state == 0 {
		return nil, errs.New(errs.InvalidArgument, "the filter is not one that approvals know",
			errs.Hint("state=PENDING, state=APPROVED, state=EXECUTED, state=REJECTED, state=EXPIRED or state=FAILED"))
	}
	return []fsmpb.ApprovalState{fsmpb.ApprovalState(state)}, nil
}

// Approve implements kryptonv1.ApprovalsServer.
func (s approvalsServer) Approve(ctx context.Context, r *kryptonv1.ApproveRequest) (*kryptonv1.Approval, error) {
	if err := ownSignature("", r.GetKeyId(), r.GetSignature()); err != nil {
		return nil, err
	}
	return s.change(ctx, gate.Approve, r, func(tok gate.Token, req node.Request, id string) (*fsmpb.Approval, error) {
		return s.node.Approve(ctx, tok, req, id, intent.KeyID(r.GetKeyId()), r.GetSignature())
	})
}

// Reject implements kryptonv1.ApprovalsServer.
func (s approvalsServer) Reject(ctx context.Context, r *kryptonv1.RejectRequest) (*kryptonv1.Approval, error) {
	return s.change(ctx, gate.Reject, r, func(tok gate.Token, req node.Request, id string) (*fsmpb.Approval, error) {
		return s.node.Reject(ctx, tok, req, id, r.GetReason())
	})
}

// change runs a change of an approval and answers with it.
func (s approvalsServer) change(ctx context.Context, act gate.Act, m interface {
	proto.Message
	GetName() string
}, fn func(tok gate.Token, req node.Request, id string) (*fsmpb.Approval, error),
) (*kryptonv1.Approval, error) {
	id, err := approvalID(m.GetName())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, m)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Approval
	err = s.do(ctx, act, approvalName(id), func(tok gate.Token) error {
		a, err := fn(tok, req, id)
		if err != nil {
			return err
		}
		if req.ValidateOnly {
			out = s.approvalToAPI(s.machine.View(), a)
		} else {
			out = s.finish(ctx, a)
		}
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}
