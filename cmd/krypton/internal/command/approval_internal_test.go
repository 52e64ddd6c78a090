package command

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

const testApproval = "approvals/0123456789abcdef0123456789abcdef"

// anApproval is one that waits for a governor and a custodian.
func anApproval(t *testing.T) *kryptonv1.Approval {
	t.Helper()
	r := intent.Destroy{Tenant: "acme"}.Request()
	encoded, err := intent.Intent{
		Keyspace: hierarchy.KeyspaceID{1}, Act: r.Act(), Request: r.Digest(), NotAfter: 1_700_003_600_000, Nonce: intent.Nonce{2},
		Preconditions: []intent.Precondition{{Object: "tenants/acme", ModIndex: 7}},
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return &kryptonv1.Approval{
		Name: orders.ApprovalName(encoded), Act: "bind-role", Description: "harmless", State: kryptonv1.ApprovalState_APPROVAL_STATE_PENDING,
		Requester: "governor/gabi", RequesterBinding: "roleBindings/gabi", ExpireTime: timestamppb.New(time.UnixMilli(1_700_003_600_000)),
		Intent: encoded, CanonicalRequest: r.Canonical(), Rule: &kryptonv1.IntentRule{Governors: 2, Custodians: 1}, GovernorsMissing: 1, CustodiansMissing: 1,
	}
}

func TestHowAnApprovalEndsIsTheEndOfTheCommand(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		a         *kryptonv1.Approval
		situation string // "": no error
		exit      int
	}{
		"pending":                               {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_PENDING, GovernorsMissing: 2, CustodiansMissing: 1, ExpireTime: timestamppb.New(time.Unix(1, 0))}, "cli/approval-waits", errs.ExitPending},
		"approved":                              {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_APPROVED}, "cli/approval-approved", errs.ExitPending},
		"in the way":                            {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_APPROVED, ErrorCode: "L1_UNAVAILABLE", ErrorMessage: "the keystore does not answer"}, "cli/approval-stuck", errs.ExitPending},
		"executed":                              {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_EXECUTED}, "", errs.ExitOK},
		"rejected":                              {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_REJECTED, RejectedBy: "governor/gerd"}, "cli/approval-rejected", errs.ExitDenied},
		"expired":                               {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_EXPIRED}, "cli/approval-expired", errs.ExitDenied},
		"failed":                                {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_FAILED, ErrorCode: "INTENT_REFUSED", ErrorMessage: "an object changed after the intent was signed: tenants/acme"}, "cli/approval-failed", errs.ExitDenied},
		"failed with a code of a later release": {&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_FAILED, ErrorCode: "NO_SUCH_CODE", ErrorMessage: "x"}, "-", errs.ExitInternal},
		"of a later release":                    {&kryptonv1.Approval{State: 77, GovernorsMissing: 1, ExpireTime: timestamppb.New(time.Unix(1, 0))}, "cli/approval-waits", errs.ExitPending},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.a.Name = testApproval
			err := approvalError(tc.a)
			if got := errs.Of(err).Row().Exit; err != nil && got != tc.exit || (err == nil) != (tc.situation == "") {
				t.Fatalf("%v, exit status %d, want %d", err, got, tc.exit)
			}
			if strings.Contains(tc.situation, "/") {
				situationtest.Error(t, tc.situation, err)
			}
			if final := err == nil || errs.Of(err) != errs.ApprovalPending; ended(tc.a) != final {
				t.Errorf("it has ended: %v", ended(tc.a))
			}
		})
	}
	done := approvalEnded(&kryptonv1.Approval{Name: testApproval, State: kryptonv1.ApprovalState_APPROVAL_STATE_EXECUTED})
	situationtest.Error(t, "cli/approval-done", done)
}

func TestWhatIsShownOfAnApprovalIsMadeOfItsBytes(t *testing.T) {
	t.Parallel()
	a := anApproval(t)
	read, err := orders.ReadApproval(a)
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1_700_000_000_000)
	text := approvalSheet(a, read) + "\n" + read.Describe() + votesText(read,
		&orders.Vote{Person: "governor/gabi", Binding: "roleBindings/gabi", Key: "aa", Time: at},
		[]orders.Vote{
			{Person: "governor/gerd", Binding: "roleBindings/gerd", Key: "bb", Time: at, Counts: true},
			{Person: "custodian/carl", Key: "cc", Time: at, Counts: true, Doubt: "the role binding of the key is gone"},
		})
	want := `approval:  ` + a.GetName() + `
state:     pending
act:       destroy
of:        tenants/acme
asked by:  governor/gabi
missing:   1 governor and 1 custodian
expires:   ` + when(a.GetExpireTime()) + `

destroy (act 8): destroy key material; what it protects cannot be read again
  tenant: "acme"
  service: "" (none)
  version: 0 (the whole tenant)
  now: 0 (after the waiting time of the cluster)
  request 60226bb1f2fbec512359822a96568fe8b41bdc175280c2e994f52d44120ad82f
intent, version 1
  keyspace 01000000000000000000000000000000
  act destroy (act 8)
  request 60226bb1f2fbec512359822a96568fe8b41bdc175280c2e994f52d44120ad82f
  not after 1700003600000 (2023-11-14T23:13:20.000Z)
  nonce 02000000000000000000000000000000
  precondition: "tenants/acme" (if unchanged since index 7)
asked by governor/gabi (roleBindings/gabi) on 2023-11-14T22:13:20Z
  proved by the signature of key aa, which is theirs on every node that answers
approved by governor/gerd (roleBindings/gerd) on 2023-11-14T22:13:20Z
  proved by the signature of key bb, which is theirs on every node that answers
approved by custodian/carl on 2023-11-14T22:13:20Z
  NOT PROVED: the role binding of the key is gone
missing, as the nodes say: 1 governor and 1 custodian
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatPeopleAndNodesWroteIsSafeOnATerminal(t *testing.T) {
	t.Parallel()
	const evil = "x\x1b[2K\rstate:  executed\n\u202e"
	a := anApproval(t)
	a.State, a.RejectedBy, a.RejectReason = kryptonv1.ApprovalState_APPROVAL_STATE_REJECTED, evil, "zu früh"+evil
	a.Requester, a.ErrorCode, a.ErrorMessage, a.Result = evil, evil, evil, evil
	for what, text := range map[string]string{
		"stuck": approvalSheet(&kryptonv1.Approval{State: kryptonv1.ApprovalState_APPROVAL_STATE_APPROVED, ErrorCode: evil, ErrorMessage: "zu früh" + evil}, nil),
		"sheet": approvalSheet(a, nil), "rejected": approvalError(a).Error(),
		"refused": approvalError(&kryptonv1.Approval{Name: testApproval, State: kryptonv1.ApprovalState_APPROVAL_STATE_FAILED, ErrorMessage: evil}).Error(),
	} {
		if strings.ContainsAny(text, "\x1b\r\u202e") || strings.Contains(text, "\nstate:  executed") {
			t.Errorf("%s: %q", what, text)
		}
		if what != "refused" && what != "stuck" && !strings.Contains(text, "zu früh") {
			t.Errorf("%s: letters of another language are not readable: %q", what, text)
		}
	}
}

func TestAnApprovalIsNamedByItsWholeID(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{testApproval, strings.TrimPrefix(testApproval, approvalPrefix)} {
		if got, err := approvalNameOf(ok); err != nil || got != testApproval {
			t.Errorf("%s: %s, %v", ok, got, err)
		}
	}
	for _, bad := range []string{"", "approvals/", testApproval[:20], testApproval + "0", strings.ToUpper(testApproval), "tenants/acme", "approvals/" + testApproval} {
		if _, err := approvalNameOf(bad); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestARequestOfALaterReleaseIsLeftOut(t *testing.T) {
	t.Parallel()
	a := anApproval(t)
	known, err := anypb.New(&kryptonv1.DeleteTenantRequest{Name: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		request *anypb.Any
		shown   bool
	}{"none": {nil, false}, "known": {known, true}, "unknown": {&anypb.Any{TypeUrl: "type.googleapis.com/krypton.v9.Fly"}, false}} {
		a.Request = tc.request
		raw, err := toJSON(readable(a))
		if err != nil || strings.Contains(string(raw), `"@type"`) != tc.shown {
			t.Errorf("%s: %v, %s", name, err, raw)
		}
		if a.GetRequest() != tc.request {
			t.Errorf("%s: the approval was changed", name)
		}
	}
}

func TestTheQuorumIsSaidInOneLine(t *testing.T) {
	t.Parallel()
	for want, rules := range map[string][]*kryptonv1.IntentRule{
		"1 governor and 1 custodian; who asks may be one":  {{Act: "destroy", Governors: 1}, {Act: "set-quorum", Governors: 1, Custodians: 1, RequesterCounts: true}},
		"2 governors and 1 custodian; other than who asks": {{Act: "set-quorum", Governors: 2, Custodians: 1}},
		"2 custodians; other than who asks":                {{Act: "set-quorum", Custodians: 2}},
		"nobody signs":                                     {},
	} {
		if got := quorumText(rules); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
