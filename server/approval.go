package server

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/anypb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// approvalToAPI shows an approval as it is in that view.
func (c *calls) approvalToAPI(v *fsm.View, a *fsmpb.Approval) *kryptonv1.Approval {
	act := intent.Act(min(a.GetAct(), 1<<16-1))
	then, now := v.ApprovalRule(a)
	out := &kryptonv1.Approval{
		Name: approvalName(a.GetId()), Etag: etag(a.GetModIndex()), Act: act.String(), State: kryptonv1.ApprovalState(a.GetState()),
		CreateTime: stamp(a.GetCreateTimeMs()), ExpireTime: stamp(a.GetExpireTimeMs()), EndTime: stamp(a.GetEndTimeMs()),
		Requester: personName(a.GetRequested()), RequesterBinding: bindingNameOf(v, a.GetRequested()),
		Intent: a.GetIntent(), CanonicalRequest: a.GetRequest(), Description: described(v, a),
		RuleAtRequest: ruleToAPI(act, then), Rule: ruleToAPI(act, now), RejectReason: a.GetRejectReason(),
		ErrorCode: a.GetResult().GetReason(), ErrorMessage: a.GetResult().GetMessage(),
	}
	asked := &anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetApiRequest()}
	if _, err := sovereignFrom(asked); err == nil {
		out.Request = asked // JSON has no form for one of a later release
	}
	own := now.Requester == intent.RequesterCounts && asksFor(now, a.GetRequested())
	out.Signatures = append(out.Signatures, signatureToAPI(v, a.GetRequested(), own))
	for _, s := range a.GetSignatures() {
		out.Signatures = append(out.Signatures, signatureToAPI(v, s, asksFor(now, s)))
	}
	switch a.GetState() { //nolint:exhaustive // The others have nothing more to say.
	case fsmpb.ApprovalState_APPROVAL_STATE_PENDING:
		governors, custodians := v.ApprovalMissing(a)
		out.GovernorsMissing, out.CustodiansMissing = count(governors), count(custodians)
	case fsmpb.ApprovalState_APPROVAL_STATE_APPROVED:
		if err := c.attempts.why(a.GetId()); err != nil {
			out.ErrorCode, out.ErrorMessage = errs.Of(err).String(), errs.From(err).Msg
		}
	case fsmpb.ApprovalState_APPROVAL_STATE_REJECTED:
		out.RejectedBy = a.GetRejectedBy().GetKind() + "/" + a.GetRejectedBy().GetName()
	case fsmpb.ApprovalState_APPROVAL_STATE_EXECUTED:
		out.Result, out.ResultIndex = a.GetResult().GetObject(), a.GetResult().GetIndex()
		if len(a.GetResult().GetUid()) > 0 {
			out.ResultUid = hex.EncodeToString(a.GetResult().GetUid())
		}
		out.JoinToken = c.blankToken(a)
	}
	return out
}

// blankToken is the token that a call would have answered, without the secret, which
// only its caller has.
func (c *calls) blankToken(a *fsmpb.Approval) string {
	if r, err := sovereignFrom(&anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetApiRequest()}); err == nil {
		if _, ok := r.message.(*kryptonv1.CreateJoinTokenRequest); ok {
			if t, err := c.cluster.JoinToken(); err == nil {
				return t.Blank()
			}
		}
	}
	return ""
}

func personName(s *fsmpb.ApprovalSignature) string { return s.GetRole() + "/" + s.GetPerson() }

// asksFor reports whether a rule asks for signatures of that role.
func asksFor(r intent.Rule, s *fsmpb.ApprovalSignature) bool {
	switch s.GetRole() {
	case governorRole:
		return r.Governors > 0
	case custodianRole:
		return r.Custodians > 0
	}
	return false
}

const (
	governorRole  = "governor"
	custodianRole = "custodian"
)

func bindingNameOf(v *fsm.View, s *fsmpb.ApprovalSignature) string {
	if b, ok := v.BindingByUID(s.GetBindingUid()); ok {
		return bindingName(b)
	}
	return ""
}

func signatureToAPI(v *fsm.View, s *fsmpb.ApprovalSignature, counts bool) *kryptonv1.ApprovalSignature {
	return &kryptonv1.ApprovalSignature{
		Person: personName(s), RoleBinding: bindingNameOf(v, s), KeyId: s.GetKeyId(), Signature: s.GetSignature(), Time: stamp(s.GetTimeMs()), Counts: counts,
	}
}

func ruleToAPI(act intent.Act, r intent.Rule) *kryptonv1.IntentRule {
	return &kryptonv1.IntentRule{
		Act: act.String(), Governors: count(r.Governors), Custodians: count(r.Custodians), RequesterCounts: r.Requester == intent.RequesterCounts,
	}
}

// described says in words what an approval orders, and what the registry has under
// the uids in it.
func described(v *fsm.View, a *fsmpb.Approval) string {
	r, err := intent.ParseRequest(a.GetRequest())
	if err != nil {
		return "" // and the bytes say it
	}
	var b strings.Builder
	b.WriteString(r.Describe())
	said := map[string]bool{}
	for _, f := range r.Fields() {
		if f.Kind != intent.KindBytes || len(f.Bytes) != hierarchy.UIDSize || said[string(f.Bytes)] {
			continue
		}
		said[string(f.Bytes)] = true
		if name := nameOf(v, f.Bytes); name != "" {
			fmt.Fprintf(&b, "  uid %x is %s\n", f.Bytes, name)
		}
	}
	in, err := intent.Decode(a.GetIntent())
	if err != nil {
		return b.String()
	}
	for _, p := range in.Preconditions {
		if p.ModIndex == 0 {
			fmt.Fprintf(&b, "  only if %s does not exist\n", p.Object)
		} else {
			fmt.Fprintf(&b, "  only if %s has not changed since index %d\n", p.Object, p.ModIndex)
		}
	}
	return b.String()
}

// nameOf returns what has the uid; empty: nothing has.
func nameOf(v *fsm.View, uid []byte) string {
	if b, ok := v.BindingByUID(uid); ok {
		return bindingName(b) + " of " + b.GetRole() + " " + b.GetName()
	}
	if i, ok := v.IssuerByUID(uid); ok {
		return hierarchy.IssuerPath(hierarchy.Name(i.GetTenant()), hierarchy.Name(i.GetId())).String()
	}
	if t, ok := v.TenantByUID(uid); ok {
		return hierarchy.TenantPath(hierarchy.Name(t.GetName())).String()
	}
	return ""
}

// approvalsOpen counts the approvals that have not ended, and of those that have all
// their signatures the ones that nobody could execute for a while.
func approvalsOpen(v *fsm.View, now time.Time) (pending, approved, stuck int) {
	waiting := v.Approvals(fsmpb.ApprovalState_APPROVAL_STATE_APPROVED, "", fsm.MaxOpenApprovals)
	for _, a := range waiting {
		if now.Sub(approvedAt(a)) > stuckAfter {
			stuck++
		}
	}
	return v.OpenApprovals() - len(waiting), len(waiting), stuck
}

// approvedAt is when an approval got its last signature.
func approvedAt(a *fsmpb.Approval) time.Time {
	at := a.GetRequested().GetTimeMs()
	for _, s := range a.GetSignatures() {
		at = max(at, s.GetTimeMs())
	}
	return time.UnixMilli(at)
}

// approvals registers what is counted of approvals when somebody asks.
func (m *metrics) approvals(c *calls) {
	for state, pick := range map[string]func() int{
		"pending":  func() int { n, _, _ := approvalsOpen(c.machine.View(), c.clock.Now()); return n },
		"approved": func() int { _, n, _ := approvalsOpen(c.machine.View(), c.clock.Now()); return n },
		"stuck":    func() int { _, _, n := approvalsOpen(c.machine.View(), c.clock.Now()); return n },
		"executed": func() int { return inState(c, fsmpb.ApprovalState_APPROVAL_STATE_EXECUTED) },
		"rejected": func() int { return inState(c, fsmpb.ApprovalState_APPROVAL_STATE_REJECTED) },
		"expired":  func() int { return inState(c, fsmpb.ApprovalState_APPROVAL_STATE_EXPIRED) },
		"failed":   func() int { return inState(c, fsmpb.ApprovalState_APPROVAL_STATE_FAILED) },
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "krypton_approvals", Help: "Approvals by state, also those that ended within 30 days; stuck: approved for more than a minute and not executed, which approved counts too.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(pick()) }))
	}
}

func inState(c *calls, s fsmpb.ApprovalState) int {
	return len(c.machine.View().Approvals(s, "", fsm.MaxApprovals))
}
