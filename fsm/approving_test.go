package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Approvals: commands that request, approve, reject and execute them.

const (
	pending  = fsmpb.ApprovalState_APPROVAL_STATE_PENDING
	approved = fsmpb.ApprovalState_APPROVAL_STATE_APPROVED
	executed = fsmpb.ApprovalState_APPROVAL_STATE_EXECUTED
	rejected = fsmpb.ApprovalState_APPROVAL_STATE_REJECTED
	expired  = fsmpb.ApprovalState_APPROVAL_STATE_EXPIRED
	failing  = fsmpb.ApprovalState_APPROVAL_STATE_FAILED
)

// quorate is a world in which every sovereign act needs two governors other than
// who asks, and one custodian besides where custodians sign. Of alice, bob, carol
// and gov all govern the platform, and the tenant acme with its service pay; of
// beta gov, carol and g1, who does not govern the platform.
func quorate(t tb) *world {
	t.Helper()
	w := newWorld(t, func(g *fsmpb.Genesis) {
		for _, n := range []string{"alice", "bob", "carol"} {
			p, _ := person(n, "governor")
			g.Persons = append(g.Persons, p)
		}
		dave, _ := person("dave", "custodian")
		g.Persons = append(g.Persons, dave)
		g.Rules = fsm.RulesOf(2, 1)
	})
	w.governedBy("alice", "bob", "carol", "gov")
	w.signed(w.createTenant("acme"), "alice", "bob")
	w.ok(w.createService("acme", "pay"))
	g1 := bindingFor("governor", "g1")
	g1.Platform = false
	w.signed(bind(g1), "alice", "bob", "cust")
	w.governors = [][]byte{w.personUID("governor", "carol"), w.personUID("governor", "gov"), w.bindingOf("", "g1").GetUid()}
	slices.SortFunc(w.governors, bytes.Compare)
	w.signed(w.createTenant("beta"), "alice", "bob")
	w.ok(w.createService("beta", "pay"))
	return w
}

func keyFor(name string) ed25519.PrivateKey {
	_, k := person(name, "")
	return k
}

// roleOf returns in which role somebody of these tests is bound.
func roleOf(name string) string {
	if name == "cust" || name == "dave" || name == "erin" {
		return "custodian"
	}
	return "governor"
}

func as(name string) *fsmpb.Principal { return caller(roleOf(name), name) }

// signed does a command with signatures of its own.
func (w *world) signed(cmd *fsmpb.Command, who ...string) *fsmpb.Result {
	w.tb.Helper()
	var keys []ed25519.PrivateKey
	for _, n := range who {
		keys = append(keys, keyFor(n))
	}
	req := w.orderOf(cmd)
	return w.ok(w.signedBy(cmd, w.intentOf(req.Act(), req), keys...))
}

// orderOf returns the canonical form of any command that people sign.
func (w *world) orderOf(cmd *fsmpb.Command) *intent.Request {
	w.tb.Helper()
	if u := cmd.GetUnbindRole(); u != nil {
		return fsm.UnbindRequest(w.bindingOf(u.GetTenant(), u.GetId()))
	}
	if r, ok := w.view().Withdrawal(cmd); ok {
		return r
	}
	if u := cmd.GetUpdateMember(); u != nil {
		m, _ := w.view().Member(u.GetMember().GetId())
		return fsm.PromotionRequest(m)
	}
	_, req, ok := fsm.SovereignRequest(cmd)
	if !ok {
		w.tb.Fatalf("%T is no sovereign act", cmd.GetBody())
	}
	return req
}

// request returns the command with which somebody asks for cmd to be approved, and
// the id of the approval. change changes the intent before it is signed.
func (w *world) request(who string, cmd *fsmpb.Command, change ...func(*intent.Intent)) (*fsmpb.Command, string) {
	w.tb.Helper()
	req := w.orderOf(cmd)
	in := w.intentOf(req.Act(), req)
	for _, f := range change {
		f(&in)
	}
	raw, err := in.Encode()
	if err != nil {
		w.tb.Fatalf("encode intent: %v", err)
	}
	s := signature(w.tb, who, raw)
	return &fsmpb.Command{Principal: as(who), Body: &fsmpb.Command_RequestApproval{RequestApproval: &fsmpb.RequestApproval{Approval: &fsmpb.Approval{
		Intent: raw, Request: req.Canonical(), TypeUrl: "type.googleapis.com/krypton.v1.SomeRequest", ApiRequest: []byte("a request of the API"),
		Requested: &fsmpb.ApprovalSignature{KeyId: s.GetKeyId(), Signature: s.GetSignature()},
	}}}}, fsm.ApprovalID(raw)
}

func signature(t tb, who string, raw []byte) *fsmpb.SignedIntent {
	t.Helper()
	in, err := intent.Decode(raw)
	if err != nil {
		t.Fatalf("decode intent: %v", err)
	}
	s, err := sign.Sign(nil, keyFor(who), in)
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	return &fsmpb.SignedIntent{Intent: raw, KeyId: s.Key[:], Signature: s.Sig}
}

// requested requests an approval of cmd and returns its id.
func (w *world) requested(who string, cmd *fsmpb.Command, change ...func(*intent.Intent)) string {
	w.tb.Helper()
	c, id := w.request(who, cmd, change...)
	if res := w.ok(c); res.GetObject() != "approvals/"+id {
		w.tb.Fatalf("requested %s, got %s", id, res.GetObject())
	}
	return id
}

// approve returns the command with which somebody approves.
func (w *world) approve(id, who string) *fsmpb.Command {
	w.tb.Helper()
	s := signature(w.tb, who, w.approval(id).GetIntent())
	return &fsmpb.Command{Principal: as(who), Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: id, KeyId: s.GetKeyId(), Signature: s.GetSignature()}}}
}

func (w *world) approvedBy(id string, who ...string) string {
	w.tb.Helper()
	for _, n := range who {
		w.ok(w.approve(id, n))
	}
	return id
}

func reject(id string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_RejectApproval{RejectApproval: &fsmpb.RejectApproval{Id: id, Reason: "not today"}}}
}

func setQuorum(governors, custodians uint32) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_SetQuorum{SetQuorum: &fsmpb.SetQuorum{Governors: governors, Custodians: custodians}}}
}

// execute returns cmd as the one that executes an approval.
func (w *world) execute(id string, cmd *fsmpb.Command) *fsmpb.Command {
	w.tb.Helper()
	cmd = proto.CloneOf(cmd)
	cmd.Principal, cmd.Approval = w.approval(id).GetRequester(), id
	return cmd
}

func (w *world) approval(id string) *fsmpb.Approval {
	w.tb.Helper()
	a, ok := w.view().Approval(id)
	if !ok {
		w.tb.Fatalf("no approval %s", id)
	}
	return a
}

// isIn checks the state of an approval, and that the lists have it in no other.
func (w *world) isIn(id string, want fsmpb.ApprovalState) *fsmpb.Approval {
	w.tb.Helper()
	a := w.approval(id)
	if a.GetState() != want {
		w.tb.Fatalf("approval %s is %v (%v), want %v", id, a.GetState(), a.GetResult(), want)
	}
	for s := range fsmpb.ApprovalState_name {
		in := false
		for _, b := range w.view().Approvals(fsmpb.ApprovalState(s), "", fsm.MaxApprovals) {
			in = in || b.GetId() == id
		}
		if in != (s == 0 || fsmpb.ApprovalState(s) == want) {
			w.tb.Fatalf("approval %s is %v and in the list of %v: %v", id, want, fsmpb.ApprovalState(s), in)
		}
	}
	return a
}

// refusedFor checks that a refusal says its reason.
func (w *world) refusedFor(code errs.Code, says string, cmd *fsmpb.Command) *fsmpb.Result {
	w.tb.Helper()
	res := w.refused(code, cmd)
	if !strings.Contains(res.GetMessage(), says) {
		w.tb.Fatalf("refused with %q, want %q", res.GetMessage(), says)
	}
	return res
}

// restart goes on with a machine that is restored from the snapshot of this one.
func (w *world) restart() {
	w.tb.Helper()
	before := w.view().Digest()
	raw := snapshot(w.tb, w.m, testMAC)
	w.m = fsm.New(fsm.Options{})
	if err := w.m.Restore(strings.NewReader(string(raw))); err != nil {
		w.tb.Fatalf("restore: %v", err)
	}
	if w.view().Digest() != before {
		w.tb.Fatalf("the state is another one after a restore")
	}
}
