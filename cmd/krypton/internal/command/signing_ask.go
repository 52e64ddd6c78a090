package command

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// What the user's signature alone can never be enough for becomes a request for
// approval: others look at it when they have time, and the cluster does it with the
// last signature.

// pollApproval is how often it is asked what became of an approval.
const pollApproval = time.Second

// who returns what the cluster says of the user.
func (in *Invocation) who(ctx context.Context, c *client.Client) (*kryptonv1.WhoAmIResponse, error) {
	if in.self == nil {
		who, err := c.Access().WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
		if err != nil {
			return nil, err
		}
		in.self = who
	}
	return in.self, nil
}

// needsOthers reports whether a command can only be done when others sign it, so
// that it is asked for. Who has no key to sign with asks with a file, as before: the
// approval begins with the signature of who asks.
func (in *Invocation) needsOthers(ctx context.Context, c *client.Client, rule *kryptonv1.IntentRule) (bool, error) {
	if rule.GetRequesterCounts() && rule.GetGovernors()+rule.GetCustodians() == 1 {
		return false, nil
	}
	who, err := in.who(ctx, c)
	if err != nil {
		return false, err
	}
	r := who.GetRole()
	return r == kryptonv1.Role_ROLE_GOVERNOR || r == kryptonv1.Role_ROLE_CUSTODIAN, nil
}

// askOthers makes the request for approval of what o orders, and ends the command. It
// returns nil if the command is to go on, because what it waited for was done.
func (in *Invocation) askOthers(ctx context.Context, c *client.Client, o *orders.Order, req proto.Message) error {
	_, certificate := req.(*kryptonv1.IssueCertificateRequest)
	_, token := req.(*kryptonv1.CreateJoinTokenRequest)
	switch {
	case in.c.Bool("async"):
		return noAsync("others have to approve this first")
	case certificate && in.c.String("public-key") == "":
		return usagef("have the caller make one with krypton operator cert new-key, and give its public half with --public-key",
			"others have to approve this, and a key that is made now would be gone by then")
	}
	key, err := in.signKey(ctx)
	if err != nil {
		return err
	}
	now, life := in.env.Clock.Now(), in.c.Duration("sign-for")
	in.showOrder(o, sign.File{Intent: intent.Intent{NotAfter: now.Add(life).UnixMilli(), Preconditions: o.Preconditions}})
	in.meter.step("waiting for the signature")
	create, err := o.Ask(ctx, req, key, now, life, rand.Reader)
	if err != nil {
		return err
	}
	want := orders.ApprovalName(create.GetSignature().GetIntent())
	if token {
		if err := in.keepSecret(want); err != nil {
			return err
		}
	}
	in.rule = nil // what is refused now is not refused for want of signatures
	a, err := call(ctx, in, c.Approvals().CreateApproval, create)
	if err != nil {
		return err
	}
	if a.GetName() != want {
		return errs.New(errs.Integrity, "the approval that the node made is not of what was signed",
			errs.Hint("look for %s on another node, and into this one", want))
	}
	if !in.jsonOutput() {
		if err := in.write([]byte(a.GetName() + "\n")); err != nil {
			return err
		}
	}
	if d := in.c.Duration("wait"); d > 0 {
		if !in.jsonOutput() {
			in.note("%s", waitingFor(a))
		}
		if a, err = in.awaitApproval(ctx, c, a, d); err != nil {
			return err
		}
	}
	in.approval = a
	done := a.GetState() == kryptonv1.ApprovalState_APPROVAL_STATE_EXECUTED
	if done && certificate {
		return nil // the identity is bound now, so the certificate needs nobody
	}
	if in.jsonOutput() && (!done || !token) {
		if err := in.show(readable(a), nil); err != nil {
			return err
		}
	}
	if err := approvalError(a); err != nil {
		return err
	}
	return errDetached
}

// awaitApproval asks what became of a until it has ended, for as long as d. Nodes
// that do not answer for a while are asked again.
func (in *Invocation) awaitApproval(ctx context.Context, c *client.Client, a *kryptonv1.Approval, d time.Duration) (*kryptonv1.Approval, error) {
	until := in.env.Clock.Now().Add(d)
	in.waits = "waiting for the others to approve"
	defer func() { in.waits = "" }()
	for !ended(a) && in.env.Clock.Now().Before(until) {
		in.meter.step("%s", in.waits)
		err := in.env.Clock.Sleep(ctx, min(pollApproval, until.Sub(in.env.Clock.Now())))
		in.meter.watch(nil)
		if err != nil {
			return a, err
		}
		again, err := call(ctx, in, c.Approvals().GetApproval, &kryptonv1.GetApprovalRequest{Name: a.GetName()})
		switch {
		case err == nil:
			a = again
		case errs.Of(err).Row().Retry == errs.RetryNever:
			return a, err
		}
	}
	return a, nil
}

func ended(a *kryptonv1.Approval) bool {
	switch a.GetState() {
	case kryptonv1.ApprovalState_APPROVAL_STATE_EXECUTED, kryptonv1.ApprovalState_APPROVAL_STATE_REJECTED,
		kryptonv1.ApprovalState_APPROVAL_STATE_EXPIRED, kryptonv1.ApprovalState_APPROVAL_STATE_FAILED:
		return true
	case kryptonv1.ApprovalState_APPROVAL_STATE_UNSPECIFIED, kryptonv1.ApprovalState_APPROVAL_STATE_PENDING, kryptonv1.ApprovalState_APPROVAL_STATE_APPROVED:
	}
	return false
}

// waitingFor says for whom a waits, and until when.
func waitingFor(a *kryptonv1.Approval) string {
	if a.GetState() == kryptonv1.ApprovalState_APPROVAL_STATE_APPROVED {
		if why := refusalOf(a); why != "" {
			return a.GetName() + " has all signatures, and waits until the cluster can do it: " + why
		}
		return a.GetName() + " has all signatures, and waits until the cluster can do it"
	}
	return fmt.Sprintf("%s waits until %s approved, at the latest %s", a.GetName(), persons(a.GetGovernorsMissing(), a.GetCustodiansMissing()), when(a.GetExpireTime()))
}

// persons says how many of each role have to: "2 governors and 1 custodian have".
func persons(governors, custodians uint32) string {
	var who []string
	if governors > 0 {
		who = append(who, plural(int(governors), "governor", "governors"))
	}
	if custodians > 0 {
		who = append(who, plural(int(custodians), "custodian", "custodians"))
	}
	switch {
	case len(who) == 0:
		return "nobody has"
	case governors+custodians == 1:
		return who[0] + " has"
	}
	return strings.Join(who, " and ") + " have"
}

// approvalError is the error that what was asked for ended with, or that it has not
// ended. It is nil once it was done.
func approvalError(a *kryptonv1.Approval) error {
	id := strings.TrimPrefix(a.GetName(), approvalPrefix)
	switch a.GetState() {
	case kryptonv1.ApprovalState_APPROVAL_STATE_EXECUTED:
		return nil
	case kryptonv1.ApprovalState_APPROVAL_STATE_REJECTED:
		why := ""
		if r := a.GetRejectReason(); r != "" {
			why = ": " + quoted(r)
		}
		return errs.New(errs.Denied, fmt.Sprintf("%s was rejected by %s%s", a.GetName(), orders.Printable(a.GetRejectedBy()), why),
			errs.Hint("nothing was changed; talk to them, and give the command again"))
	case kryptonv1.ApprovalState_APPROVAL_STATE_EXPIRED:
		return errs.New(errs.IntentRefused, a.GetName()+" expired before it could be done",
			errs.Hint("nothing was changed; give the command again, with a longer --sign-for if that was too short"))
	case kryptonv1.ApprovalState_APPROVAL_STATE_FAILED:
		code, _ := errs.ByName(a.GetErrorCode())
		return errs.New(code, fmt.Sprintf("%s was approved and then refused: %s", a.GetName(), orders.Printable(a.GetErrorMessage())),
			errs.Hint("nothing was changed; look at what it is about, and give the command again"))
	case kryptonv1.ApprovalState_APPROVAL_STATE_APPROVED:
		return errs.New(errs.ApprovalPending, waitingFor(a), errs.Hint("what became of it: krypton approval get %s --wait 1m", id))
	case kryptonv1.ApprovalState_APPROVAL_STATE_UNSPECIFIED, kryptonv1.ApprovalState_APPROVAL_STATE_PENDING:
	}
	return errs.New(errs.ApprovalPending, waitingFor(a),
		errs.Hint("they look at it and sign with krypton approval approve %s; what became of it: krypton approval get %s", id, id))
}
