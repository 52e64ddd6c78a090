package server_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// via calls a method at one of both doors of a node.
func (a *signing) via(t testing.TB, door string, i int, who, method string, m proto.Message) (proto.Message, error) {
	t.Helper()
	if door == "grpc" {
		return a.call(t, i, who, method, m)
	}
	hr, ok := a.request(t, i, a.table["krypton.v1."+method], m)
	if !ok {
		t.Fatalf("%s cannot be said in HTTP", method)
	}
	sent, _ := a.request(t, i, a.table["krypton.v1."+method], m) // a body is read once
	got := a.do(t, who, "h2", hr)
	if a.ops == nil {
		a.ops = operations(description(t))
	}
	_, name, _ := strings.Cut(method, ".")
	if err := conforms(a.ops[name], sent, got); err != nil {
		t.Errorf("%s is answered otherwise than the OpenAPI file says: %v", method, err)
	}
	if got.status != http.StatusOK {
		return nil, wire.ToStatus(errOf(got.refusal(t))).Err()
	}
	out := responseOf(t, method)
	if err := protojson.Unmarshal(got.body, out); err != nil {
		t.Fatalf("%s: %v in %s", method, err, got.body)
	}
	return out, nil
}

func errOf(r refusal) error { return errs.New(r.Code, r.Msg, errs.Hint("%s", r.Hint)) }

func anyOf(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	out, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// asks is the request for others to sign m, which r is what they sign of, by who.
func (a *signing) asks(m proto.Message, in intent.Intent, who string) *kryptonv1.CreateApprovalRequest {
	a.t.Helper()
	return withRequestID(&kryptonv1.CreateApprovalRequest{Request: anyOf(a.t, m), Signature: a.makes(in, who)[0]}).(*kryptonv1.CreateApprovalRequest)
}

func (a *signing) ask(t testing.TB, door string, i int, who string, m proto.Message, r *intent.Request) *kryptonv1.Approval {
	t.Helper()
	out, err := a.via(t, door, i, who, "Approvals.CreateApproval", a.asks(m, a.over(r), who))
	if err != nil {
		t.Fatalf("%s asks for %T: %v", who, m, err)
	}
	return out.(*kryptonv1.Approval)
}

// approves is the approval of one person.
func (a *signing) approves(ap *kryptonv1.Approval, who string) *kryptonv1.ApproveRequest {
	a.t.Helper()
	in, err := intent.Decode(ap.GetIntent())
	if err != nil {
		a.t.Fatal(err)
	}
	s := a.makes(in, who)[0]
	return withRequestID(&kryptonv1.ApproveRequest{Name: ap.GetName(), KeyId: s.GetKeyId(), Signature: s.GetSignature()}).(*kryptonv1.ApproveRequest)
}

func (a *signing) approve(t testing.TB, door string, i int, who string, ap *kryptonv1.Approval) (*kryptonv1.Approval, error) {
	t.Helper()
	out, err := a.via(t, door, i, who, "Approvals.Approve", a.approves(ap, who))
	if err != nil {
		return nil, err
	}
	return out.(*kryptonv1.Approval), nil
}

func (a *signing) approval(t testing.TB, i int, name string) *kryptonv1.Approval {
	t.Helper()
	out, err := a.call(t, i, "alice", "Approvals.GetApproval", &kryptonv1.GetApprovalRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return out.(*kryptonv1.Approval)
}

// newFour makes a cluster of n nodes in which two governors sign who did not ask.
func newFour(t testing.TB, n int) *signing {
	t.Helper()
	a := newSigning(t, n, quorums{2, 1})
	key, pub := newKey(t)
	a.certify("operator", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_OPERATOR, Name: "otis", PublicKey: pub}, key, a.signed(intent.BindRole{
		ID: "operator-otis", IssuerUID: a.issuerUID("", "builtin"), Role: "operator", Name: "otis",
		Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(t, key), TLS: true}},
	}.Request(), "bob", "dave"))
	for i, m := range a.members[1:] {
		secret := [32]byte{byte(i), 1}
		hash, expires := cluster.JoinKeyHash(secret), time.Now().Add(time.Hour).Truncate(time.Millisecond)
		token := a.done(t, "grpc", "operator", "Cluster.CreateJoinToken", with(
			&kryptonv1.CreateJoinTokenRequest{Voter: true, KeyHash: hash[:], ExpireTime: timestamppb.New(expires)},
			a.signed(intent.VoterToken{Hash: hash[:], ExpireTimeMs: expires.UnixMilli()}.Request(), "alice", "bob"))).(*kryptonv1.CreateJoinTokenResponse)
		whole, err := cluster.FillJoinToken(token.GetToken(), secret)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.admin().Join(limited(t), &kryptonv1.JoinRequest{Token: whole.Text()}, grpc.WaitForReady(true)); err != nil {
			t.Fatalf("join %s: %v", m.name, err)
		}
	}
	for _, m := range a.members {
		m.waitServing()
	}
	if n > 1 {
		until(t, "all vote", func() error {
			for _, m := range a.members {
				if !a.members[a.leader()].c.IsVoter(m.c.NodeID()) {
					return errs.New(errs.NoLeader, m.name+" does not vote")
				}
			}
			return nil
		})
	}
	return a
}

// binds is a request to bind an operator of that name, and what people sign of it.
func (a *signing) binds(name string) (*kryptonv1.CreateRoleBindingRequest, *intent.Request) {
	a.t.Helper()
	key, pub := newKey(a.t)
	m := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: name, RoleBinding: &kryptonv1.RoleBinding{
		Role: kryptonv1.Role_ROLE_OPERATOR, Member: name, Keys: []*kryptonv1.AuthorityKey{{PublicKey: pub, Tls: true}},
	}}
	return m, intent.BindRole{
		ID: name, IssuerUID: a.issuerUID("", "builtin"), Role: "operator", Name: name,
		Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(a.t, key), TLS: true}},
	}.Request()
}

// creates is a request to create a tenant that alice, bob and dave govern, and what
// people sign of it.
func (a *signing) creates(name string) (*kryptonv1.CreateTenantRequest, *intent.Request) {
	a.t.Helper()
	a.l1(name + "-l1")
	m := &kryptonv1.CreateTenantRequest{
		TenantId: name, Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: name + "-l1", Archetype: "local"},
		Governors: []string{"roleBindings/alice", "roleBindings/bob", "roleBindings/dave"},
	}
	return m, intent.BindL1{
		Tenant: name, Keystore: keystoreName, Key: name + "-l1", Archetype: "local",
		Governors: ascending(a.bindingUID("alice"), a.bindingUID("bob"), a.bindingUID("dave")),
	}.Request()
}

func stateOf(ap *kryptonv1.Approval) string {
	return strings.TrimPrefix(ap.GetState().String(), "APPROVAL_STATE_")
}

// TestTwoApproveAndItIsDone at both doors, with who may not in between.
func TestTwoApproveAndItIsDone(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	no := func(id, door string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s is not refused at %s", id, door)
			return
		}
		situationtest.Error(t, id, wire.FromStatus(err))
	}
	for _, door := range []string{"grpc", "http"} {
		name := "o-" + door
		m, r := a.binds(name)
		// The hint of what a direct call is refused with names the way.
		_, err := a.via(t, door, 0, "alice", "Access.CreateRoleBinding", with(m, a.signed(r, "bob")))
		no("intent/too-few", door, err)

		ap := a.ask(t, door, 0, "alice", m, r)
		if stateOf(ap) != "PENDING" || ap.GetGovernorsMissing() != 2 || ap.GetCustodiansMissing() != 0 || ap.GetAct() != "bind-role" || ap.GetRequester() != "governor/alice" ||
			ap.GetRequesterBinding() != "roleBindings/alice" || ap.GetRule().GetGovernors() != 2 || ap.GetRule().GetRequesterCounts() ||
			!proto.Equal(ap.GetRule(), ap.GetRuleAtRequest()) || ap.GetEtag() == "" || ap.GetEndTime() != nil || string(ap.GetCanonicalRequest()) != string(r.Canonical()) {
			t.Errorf("asked at %s: %v", door, ap)
		}
		for _, line := range []string{r.Describe(), "is issuers/builtin\n"} {
			if !strings.Contains(ap.GetDescription(), line) {
				t.Errorf("the description has no %q:\n%s", line, ap.GetDescription())
			}
		}
		if back, err := ap.GetRequest().UnmarshalNew(); err != nil || !proto.Equal(back, m) {
			t.Errorf("the request is %v, %v", back, err)
		}
		if got := ap.GetSignatures(); len(got) != 1 || got[0].GetPerson() != "governor/alice" || got[0].GetCounts() || len(got[0].GetSignature()) == 0 {
			t.Errorf("signatures %v", got)
		}

		_, err = a.approve(t, door, 0, "alice", ap)
		no("intent/requester-signed", door, err)
		_, err = a.approve(t, door, 0, "carol", ap)
		no("intent/wrong-role", door, err)
		forged := a.approves(ap, "bob")
		_, err = a.via(t, door, 0, "dave", "Approvals.Approve", forged)
		no("approval/not-your-signature", door, err)
		forged.Signature = a.makes(a.over(r), "bob")[0].GetSignature()
		_, err = a.via(t, door, 0, "bob", "Approvals.Approve", withRequestID(&kryptonv1.ApproveRequest{Name: ap.GetName(), KeyId: forged.GetKeyId(), Signature: forged.GetSignature()}))
		no("approval/bad-signature", door, err)

		first := a.approves(ap, "bob")
		for range 2 { // a retry changes nothing
			out, err := a.via(t, door, 0, "bob", "Approvals.Approve", first)
			if err != nil || stateOf(out.(*kryptonv1.Approval)) != "PENDING" || out.(*kryptonv1.Approval).GetGovernorsMissing() != 1 {
				t.Fatalf("bob approves: %v, %v", out, err)
			}
		}
		_, err = a.approve(t, door, 0, "bob", ap)
		no("intent/one-person-twice", door, err)
		if _, ok := a.members[0].state.View().Binding("", name); ok {
			t.Error("it is done with one signature")
		}

		done, err := a.approve(t, door, 0, "dave", ap)
		if err != nil || stateOf(done) != "EXECUTED" || done.GetResultIndex() == 0 || done.GetResult() != "roleBindings/"+name || done.GetEndTime() == nil {
			t.Fatalf("dave approves: %v, %v", done, err)
		}
		b := a.done(t, "grpc", "alice", "Access.GetRoleBinding", &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/" + name}).(*kryptonv1.RoleBinding)
		if got := b.GetAuthorizedBy(); !slices.Equal(got, []string{"governor/bob", "governor/dave"}) {
			t.Errorf("the role binding says that %q signed", got)
		}
		_, err = a.approve(t, door, 0, "dave", ap)
		no("approval/over", door, err)
		// The same signatures do nothing else.
		_, err = a.via(t, door, 0, "alice", "Approvals.CreateApproval", withRequestID(&kryptonv1.CreateApprovalRequest{Request: anyOf(t, m), Signature: ownOf(ap)}))
		if err == nil {
			t.Error("the intent of an approval makes another one")
		}
	}
	trail := string(a.members[0].records())
	for _, want := range []string{
		`"act":"approvals.create"`, `"act":"approvals.approve"`,
		`"approval":"approvals/`, `"approved_by":"governor/bob governor/dave"`,
	} {
		if !strings.Contains(trail, want) {
			t.Errorf("the audit trail has no %s", want)
		}
	}
	for line := range strings.Lines(trail) {
		if strings.Contains(line, `"approved_by"`) && (!strings.Contains(line, `/governor/alice"`) || !strings.Contains(line, `"act":"role_bindings.create"`)) {
			t.Errorf("a record of what was approved does not say who asked: %s", line)
		}
	}
}

// ownOf is the requester's own signature of an approval, to be used again.
func ownOf(ap *kryptonv1.Approval) *kryptonv1.SignedIntent {
	s := ap.GetSignatures()[0]
	return &kryptonv1.SignedIntent{Intent: ap.GetIntent(), KeyId: s.GetKeyId(), Signature: s.GetSignature()}
}

// TestEverySovereignRequestCanBeApproved: each is asked for and done, with one
// signature, or with a custodian's.
func TestEverySovereignRequestCanBeApproved(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 2, quorums{1, 1})
	a.settle()
	token := a.done(t, "grpc", "operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{}).(*kryptonv1.CreateJoinTokenResponse)
	if _, err := a.members[1].admin().Join(limited(t), &kryptonv1.JoinRequest{Token: token.GetToken()}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	acts := a.acts()
	id := string(a.members[1].c.NodeID())
	member, _ := a.members[0].state.View().Member(id)
	acts["promote a member"] = act{"Cluster.PromoteNode", "operator", &kryptonv1.PromoteNodeRequest{Name: "nodes/" + id}, intent.VoterPromotion{Node: id, PublicKey: member.GetPublicKey()}.Request(), nil, "tess"}
	acts["set the quorum"] = act{"Cluster.SetQuorum", "alice", &kryptonv1.SetQuorumRequest{Governors: 1, Custodians: 2}, intent.SetQuorum{Governors: 1, Custodians: 2}.Request(), nil, "tess"}
	acts["withdraw the vote"] = act{"Cluster.DemoteNode", "operator", &kryptonv1.DemoteNodeRequest{Name: "nodes/" + id}, intent.VoterWithdrawal{Op: "demote", Node: id, Voters: 1}.Request(), nil, "tess"}
	acts["withdraw the vote by removal"] = act{"Cluster.RemoveNode", "operator", &kryptonv1.RemoveNodeRequest{Name: "nodes/" + id}, intent.VoterWithdrawal{Op: "remove", Node: id, Voters: 1}.Request(), nil, "tess"}
	acts["replace a CA"] = act{
		"Access.ReplaceAuthority", "alice", &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: a.authoritySum("node-ca"), OverlapSeconds: 3600},
		intent.ReplaceAuthority{Name: "node-ca", Base: a.authorityBase("node-ca"), OverlapMs: 3600_000}.Request(), nil, "tess",
	}
	acts["promote once more"] = acts["promote a member"]
	// These in this order: the quorum changes who has to sign, and whom a removed node keeps waiting is not asked.
	last := []string{"withdraw the vote", "promote once more", "set the quorum", "withdraw the vote by removal"}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(acts)), func(n string) bool { return slices.Contains(last, n) })
	covered := map[string]bool{}
	for i, name := range append(names, last...) {
		c := acts[name]
		covered[c.method] = true
		door := []string{"grpc", "http"}[i%2]
		t.Run(name, func(t *testing.T) {
			who := c.who
			if who == "operator" { // who signs nothing
				who = "alice"
				_, err := a.via(t, door, 0, c.who, "Approvals.CreateApproval", a.asks(c.m, a.over(c.r), who))
				if codeOf(err) != errs.Denied {
					t.Errorf("an operator asks for signatures: %v", err)
				}
			}
			// Nobody asks for what is not theirs.
			before := a.members[0].state.View().OpenApprovals()
			if _, err := a.via(t, door, 0, c.wrong, "Approvals.CreateApproval", a.asks(c.m, a.over(c.r), c.wrong)); codeOf(err) != errs.Denied && codeOf(err) != errs.NotFound {
				t.Errorf("%s asks: %v", c.wrong, err)
			}
			for at := range c.r.Fields() {
				_, err := a.via(t, door, 0, who, "Approvals.CreateApproval", a.asks(c.m, a.over(altered(c.r, at)), who))
				if err == nil || codeOf(err) != errs.IntentRefused {
					t.Errorf("field %d is another: %v", at, err)
				}
			}
			if now := a.members[0].state.View().OpenApprovals(); now != before {
				t.Errorf("what was refused is kept: %d and %d", before, now)
			}
			ap := a.ask(t, door, 0, who, c.m, c.r)
			for _, custodian := range []string{"carol", "erin"} {
				if stateOf(ap) == "PENDING" && ap.GetCustodiansMissing() > 0 {
					var err error
					if ap, err = a.approve(t, door, 0, custodian, ap); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, governor := range []string{"bob", "dave"} {
				if stateOf(ap) == "PENDING" && ap.GetGovernorsMissing() > 0 {
					var err error
					if ap, err = a.approve(t, door, 0, governor, ap); err != nil {
						t.Fatal(err)
					}
				}
			}
			if stateOf(ap) != "EXECUTED" || ap.GetResultIndex() == 0 || ap.GetErrorCode() != "" {
				t.Fatalf("it ends as %v", ap)
			}
			if m, ok := c.m.(*kryptonv1.CreateJoinTokenRequest); ok {
				whole, err := cluster.FillJoinToken(ap.GetJoinToken(), sha256.Sum256([]byte("any"))) // the secret is the caller's
				if err != nil || whole.Text() == ap.GetJoinToken() {
					t.Errorf("the token is %q, %v", ap.GetJoinToken(), err)
				}
				if _, ok := a.members[0].state.View().JoinToken(m.GetKeyHash()); !ok {
					t.Error("the token is not there")
				}
			}
			if m, ok := c.m.(*kryptonv1.IssueCertificateRequest); ok {
				// The key is bound now, and nobody has to sign for the certificate.
				a.done(t, door, who, "Access.IssueCertificate", proto.CloneOf(m))
			}
		})
	}
	for method := range sovereign(t) {
		if !covered[method] && method != "Access.DeleteRoleBinding" && method != "Access.UpdateIssuer" && method != "Access.RetireAuthority" { // the last in authorities_test.go
			t.Errorf("%s takes intents and cannot be approved", method)
		}
	}
}

// TestWhoRejects: who asked, and who could approve.
func TestWhoRejects(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	for i, who := range []string{"alice", "bob"} {
		door := []string{"grpc", "http"}[i]
		m, r := a.binds("r" + door)
		ap := a.ask(t, door, 0, "alice", m, r)
		if _, err := a.approve(t, door, 0, "dave", ap); err != nil {
			t.Fatal(err)
		}
		_, err := a.via(t, door, 0, "carol", "Approvals.Reject", withRequestID(&kryptonv1.RejectRequest{Name: ap.GetName()}))
		situationtest.Error(t, "approval/not-to-reject", wire.FromStatus(err))
		if _, err := a.via(t, door, 0, "operator", "Approvals.Reject", withRequestID(&kryptonv1.RejectRequest{Name: ap.GetName()})); codeOf(err) != errs.Denied {
			t.Errorf("an operator rejects: %v", err)
		}
		checked, err := a.via(t, door, 0, who, "Approvals.Reject", withRequestID(&kryptonv1.RejectRequest{Name: ap.GetName(), ValidateOnly: true}))
		if err != nil || stateOf(checked.(*kryptonv1.Approval)) != "PENDING" {
			t.Errorf("only checked: %v, %v", checked, err)
		}
		out, err := a.via(t, door, 0, who, "Approvals.Reject", withRequestID(&kryptonv1.RejectRequest{Name: ap.GetName(), Reason: "not today"}))
		if err != nil {
			t.Fatal(err)
		}
		got := out.(*kryptonv1.Approval)
		if stateOf(got) != "REJECTED" || got.GetRejectedBy() != "governor/"+who || got.GetRejectReason() != "not today" || got.GetEndTime() == nil {
			t.Errorf("rejected by %s: %v", who, got)
		}
		_, err = a.approve(t, door, 0, "bob", ap)
		situationtest.Error(t, "approval/over", wire.FromStatus(err))
		if _, ok := a.members[0].state.View().Binding("", "r"+door); ok {
			t.Error("it was done")
		}
	}
	m, r := a.binds("long")
	ap := a.ask(t, "grpc", 0, "alice", m, r)
	for _, reason := range []string{strings.Repeat("x", 257), "two\nlines"} {
		if _, err := a.call(t, 0, "bob", "Approvals.Reject", withRequestID(&kryptonv1.RejectRequest{Name: ap.GetName(), Reason: reason})); codeOf(err) != errs.InvalidArgument {
			t.Errorf("%q: %v", reason, err)
		}
	}
}

// TestAnApprovalExpires with its intent, by the time of the cluster.
func TestAnApprovalExpires(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	m, r := a.binds("late")
	in := a.over(r)
	in.NotAfter = time.Now().Add(2 * time.Second).UnixMilli()
	out, err := a.call(t, 0, "alice", "Approvals.CreateApproval", a.asks(m, in, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	ap := out.(*kryptonv1.Approval)
	if _, err := a.approve(t, "grpc", 0, "bob", ap); err != nil {
		t.Fatal(err)
	}
	until(t, "it has expired", func() error {
		if ap = a.approval(t, 0, ap.GetName()); stateOf(ap) != "EXPIRED" {
			return errs.New(errs.FailedState, stateOf(ap))
		}
		return nil
	})
	_, err = a.approve(t, "grpc", 0, "dave", ap)
	situationtest.Error(t, "approval/over", wire.FromStatus(err))
	if _, ok := a.members[0].state.View().Binding("", "late"); ok {
		t.Error("it was done")
	}
}

// TestWhatChangedIsNotApproved: an object is not as the signers saw it.
func TestWhatChangedIsNotApproved(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	m, r := a.binds("otto")
	in := a.over(r)
	in.Preconditions = []intent.Precondition{{Object: "roleBindings/otto", ModIndex: 0}}
	out, err := a.call(t, 0, "alice", "Approvals.CreateApproval", a.asks(m, in, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	ap := out.(*kryptonv1.Approval)
	if !strings.Contains(ap.GetDescription(), "only if roleBindings/otto does not exist\n") {
		t.Errorf("the description is\n%s", ap.GetDescription())
	}
	if _, err := a.approve(t, "grpc", 0, "bob", ap); err != nil {
		t.Fatal(err)
	}
	other, or := a.binds("otto")
	a.done(t, "grpc", "alice", "Access.CreateRoleBinding", with(other, a.signed(or, "bob", "dave")))
	for _, door := range []string{"grpc", "http"} {
		_, err = a.approve(t, door, 0, "dave", ap)
		situationtest.Error(t, "intent/changed-state", wire.FromStatus(err))
	}
	// And nobody is asked to sign what could not be done.
	_, err = a.call(t, 0, "alice", "Approvals.CreateApproval", a.asks(m, a.over(r), "alice"))
	if codeOf(err) != errs.AlreadyExists {
		t.Errorf("asked for what is there: %v", err)
	}
}

// withoutKeystore takes the customers' keys away, and returns how they come back.
func (a *signing) withoutKeystore() (back func()) {
	a.t.Helper()
	keys := filepath.Join(a.dir, "ks", "keys")
	whole, err := os.ReadFile(keys)
	if err != nil {
		a.t.Fatal(err)
	}
	if err := os.Remove(keys); err != nil {
		a.t.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(keys, whole, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// ends waits until an approval is not APPROVED any more, while the clock of the
// doors, by which the leader waits between attempts, goes fast.
func (a *signing) ends(t *testing.T, i int, name string) *kryptonv1.Approval {
	t.Helper()
	var ap *kryptonv1.Approval
	until(t, "it has ended", func() error {
		for _, m := range a.members {
			m.door.advance(time.Second)
		}
		out, err := a.call(t, i, "alice", "Approvals.GetApproval", &kryptonv1.GetApprovalRequest{Name: name})
		if err != nil {
			return err
		}
		if ap = out.(*kryptonv1.Approval); stateOf(ap) == "APPROVED" {
			return errs.New(errs.FailedState, "it is approved still: "+ap.GetErrorMessage())
		}
		return nil
	})
	return ap
}

// TestTheKeystoreComesBack: the node that takes the last signature cannot execute,
// and says why; the leader does once it can.
func TestTheKeystoreComesBack(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	m, r := a.creates("acme")
	stale, sr := a.creates("bare")
	ap := a.ask(t, "grpc", 0, "alice", m, r)
	in := a.over(sr)
	in.Preconditions = []intent.Precondition{{Object: "roleBindings/witness", ModIndex: 0}}
	out, err := a.call(t, 0, "alice", "Approvals.CreateApproval", a.asks(stale, in, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	moved := out.(*kryptonv1.Approval)
	back := a.withoutKeystore()
	for _, one := range []*kryptonv1.Approval{ap, moved} {
		for _, who := range []string{"bob", "dave"} {
			if one, err = a.approve(t, "http", 0, who, one); err != nil {
				t.Fatal(err)
			}
		}
		if stateOf(one) != "APPROVED" || one.GetErrorCode() == "" || one.GetErrorMessage() == "" {
			t.Errorf("without a keystore it is %v", one)
		}
		_, err = a.approve(t, "grpc", 0, "bob", one)
		situationtest.Error(t, "approval/all-signed", wire.FromStatus(err))
	}
	// What was approved and not done is told, and none of it is done.
	info := a.done(t, "grpc", "alice", "Cluster.GetCluster", &kryptonv1.GetClusterRequest{}).(*kryptonv1.ClusterInfo)
	if info.GetApprovalsPending() != 0 || info.GetApprovalsApproved() != 2 || info.GetApprovalsStuck() != 0 {
		t.Errorf("the cluster says %d pending, %d approved, %d stuck", info.GetApprovalsPending(), info.GetApprovalsApproved(), info.GetApprovalsStuck())
	}
	a.members[0].door.advance(2 * time.Minute)
	info = a.done(t, "grpc", "alice", "Cluster.GetCluster", &kryptonv1.GetClusterRequest{}).(*kryptonv1.ClusterInfo)
	if info.GetApprovalsStuck() != 2 {
		t.Errorf("two minutes later the cluster says %d stuck", info.GetApprovalsStuck())
	}
	metrics := a.metrics(t)
	for _, want := range []string{`krypton_approvals{state="approved"} 2`, `krypton_approvals{state="stuck"} 2`, `krypton_approvals{state="pending"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
	if _, ok := a.members[0].state.View().Tenant("acme"); ok {
		t.Fatal("there is a tenant without its key")
	}
	// Meanwhile something changes on which the second depends.
	w, wr := a.binds("witness")
	a.done(t, "grpc", "alice", "Access.CreateRoleBinding", with(w, a.signed(wr, "bob", "dave")))
	back()
	if got := a.ends(t, 0, ap.GetName()); stateOf(got) != "EXECUTED" || got.GetResult() != "tenants/acme" || got.GetErrorCode() != "" {
		t.Errorf("with the keystore it is %v", got)
	}
	if got := a.ends(t, 0, moved.GetName()); stateOf(got) != "FAILED" || got.GetErrorCode() != "INTENT_REFUSED" || !strings.Contains(got.GetErrorMessage(), "roleBindings/witness") {
		t.Errorf("what depends on what changed is %v", got)
	}
	if _, ok := a.members[0].state.View().Tenant("bare"); ok {
		t.Error("it was done although something changed")
	}
	situationtest.Outcome(t, "approval/keystore-down")
}

// TestWhatTakesPowerAwayNeverWaits: what suspends, disables, seals, demotes, revokes or
// ends a request for more power needs nobody but who does it, whatever the quorum.
func TestWhatTakesPowerAwayNeverWaits(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	m, r := a.creates("acme")
	a.done(t, "grpc", "alice", "Tenants.CreateTenant", with(m, a.signed(r, "bob", "dave")))
	a.done(t, "grpc", "alice", "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: acme, ServiceId: "pay"})
	for range 3 {
		a.done(t, "grpc", "alice", "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: pay})
	}
	other, or := a.binds("other")
	ap := a.ask(t, "grpc", 0, "alice", other, or)
	v := pay + "/versions/"
	for _, c := range []struct {
		who, method string
		act         gate.Act
		m           proto.Message
	}{
		{"alice", "Services.DeprecateVersion", gate.DeprecateVersion, &kryptonv1.DeprecateVersionRequest{Name: v + "1"}},
		{"alice", "Services.DisableVersion", gate.DisableVersion, &kryptonv1.DisableVersionRequest{Name: v + "2"}},
		{"alice", "Services.CompromiseVersion", gate.CompromiseVersion, &kryptonv1.CompromiseVersionRequest{Name: v + "3"}},
		{"alice", "Services.SuspendService", gate.SuspendService, &kryptonv1.SuspendServiceRequest{Name: pay}},
		{"alice", "Tenants.SuspendTenant", gate.SuspendTenant, &kryptonv1.SuspendTenantRequest{Name: acme}},
		{"alice", "Access.RevokeCertificate", gate.RevokeCertificate, &kryptonv1.RevokeCertificateRequest{Serial: "5f2a"}},
		{"operator", "Cluster.DemoteNode", gate.DemoteNode, &kryptonv1.DemoteNodeRequest{Name: "nodes/" + string(a.members[0].c.NodeID()), ValidateOnly: true}},
		{"operator", "Cluster.RemoveNode", gate.RemoveNode, &kryptonv1.RemoveNodeRequest{Name: "nodes/" + string(a.members[0].c.NodeID()), ValidateOnly: true}},
		{"bob", "Approvals.Reject", gate.Reject, &kryptonv1.RejectRequest{Name: ap.GetName()}},
		{"alice", "Seal.SealNode", gate.SealCluster, &kryptonv1.SealNodeRequest{Cluster: true}},
		{"alice", "Seal.SealNode", gate.SealNode, &kryptonv1.SealNodeRequest{}},
	} {
		votes := c.act == gate.DemoteNode || c.act == gate.RemoveNode // people sign where too few are left
		if !votes && (c.act.Sovereign() || sovereign(t)[c.method]) {
			t.Errorf("people sign for %s", c.act)
		}
		_, err := a.call(t, 0, c.who, c.method, withRequestID(c.m))
		if err != nil && codeOf(err) != errs.FailedState { // the only node cannot leave
			t.Errorf("%s by one person: %v", c.method, err)
		}
	}
	for _, act := range gate.Acts() {
		if act.Sovereign() && act.Duty() == gate.DutyProtect {
			t.Errorf("%s only takes power away, and people sign for it", act)
		}
	}
}

// metrics returns the page of metrics of the first node.
func (a *signing) metrics(t testing.TB) string {
	t.Helper()
	resp, err := http.Get("http://" + a.members[0].addrs.Ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestAnotherLeaderExecutes what the one before could not, after a restart of that one.
func TestAnotherLeaderExecutes(t *testing.T) {
	t.Parallel()
	a := newFour(t, 3)
	leader := a.leader()
	m, r := a.creates("acme")
	ap := a.ask(t, "grpc", leader, "alice", m, r)
	back := a.withoutKeystore()
	for _, who := range []string{"bob", "dave"} {
		var err error
		if ap, err = a.approve(t, "grpc", leader, who, ap); err != nil {
			t.Fatal(err)
		}
	}
	if stateOf(ap) != "APPROVED" {
		t.Fatalf("without a keystore it is %v", ap)
	}
	a.hangUp()
	name := a.members[leader].name
	a.members[leader].close()
	back()
	rest := (leader + 1) % 3
	until(t, "another leads", func() error {
		for i, m := range a.members {
			if i != leader && m.c.IsLeader() {
				return nil
			}
		}
		return errs.New(errs.NoLeader, "nobody leads")
	})
	got := a.ends(t, rest, ap.GetName())
	if stateOf(got) != "EXECUTED" || got.GetResult() != "tenants/acme" {
		t.Errorf("the next leader made it %v", got)
	}
	a.members[leader] = a.start(name)
	a.members[leader].waitServing()
	if again := a.approval(t, leader, ap.GetName()); again.GetEtag() != got.GetEtag() || stateOf(again) != "EXECUTED" {
		t.Errorf("the first one came back to %v", again)
	}
}

// TestANodeThatFollowsExecutes in the call that brings the last signature. Who asked is
// not there and shows the leader nothing: the approval says who that was, and nobody
// does another thing by it, or in another name.
func TestANodeThatFollowsExecutes(t *testing.T) {
	t.Parallel()
	a := newFour(t, 3)
	leader := a.leader()
	follower := (leader + 1) % 3
	m, r := a.creates("acme")
	ap := a.ask(t, "grpc", follower, "alice", m, r)
	if _, err := a.approve(t, "grpc", leader, "bob", ap); err != nil {
		t.Fatal(err)
	}
	l := &liar{a.world, leader, string(a.members[follower].c.NodeID()), clusterpb.NewPeerClient(a.peerPort(t, leader, follower, "krypton-peer/1"))}
	id := strings.TrimPrefix(ap.GetName(), "approvals/")
	for what, c := range map[string]struct {
		as   string
		want errs.Code
	}{
		"in the name of who signed": {"bob", errs.Denied},
		"for something else":        {"alice", errs.Aborted}, // not all have signed; then it is another request
	} {
		cmd := command(l.principal("governor", c.as))
		cmd.Approval = id
		if err := l.forward(t, &clusterpb.ProposeRequest{Command: cmd}); codeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
	ap, err := a.approve(t, "grpc", follower, "dave", ap)
	if err != nil {
		t.Fatal(err)
	}
	if stateOf(ap) != "EXECUTED" {
		t.Fatalf("the answer to the last signature is %v", ap)
	}
	// It has ended: nothing more of it gets into the log, or the requester's memory of requests.
	cmd := command(l.principal("governor", "alice"))
	cmd.Approval = id
	if err := l.forward(t, &clusterpb.ProposeRequest{Command: cmd}); codeOf(err) != errs.Aborted {
		t.Errorf("by what has ended: %v", err)
	}
	if _, ok := a.members[leader].state.View().Request(cmd.GetPrincipal(), cmd.GetRequestId(), 0); ok {
		t.Error("what was refused is remembered")
	}
	seen := false
	for line := range bytes.Lines(a.members[leader].records()) {
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			t.Fatal(err)
		}
		if rec.Act == "node.forward" && rec.Cause == "create_tenant" {
			seen = true
			if rec.Approval != ap.GetName() || !strings.HasSuffix(rec.Principal, "governor/alice") || rec.Via != l.id || rec.Outcome != "ok" {
				t.Errorf("recorded as %+v", rec)
			}
		}
	}
	if !seen {
		t.Error("the leader has no record of what was forwarded")
	}
}

// TestTheLastTwoApproveAtOnce at different nodes: it is done once.
func TestTheLastTwoApproveAtOnce(t *testing.T) {
	t.Parallel()
	a := newFour(t, 3)
	key, pub := newKey(t)
	a.keys["gina"] = key
	gina := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "gina", RoleBinding: &kryptonv1.RoleBinding{
		Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gina", Platform: true, Keys: []*kryptonv1.AuthorityKey{{PublicKey: pub, Sign: true, Tls: true}},
	}}
	a.done(t, "grpc", "alice", "Access.CreateRoleBinding", with(gina, a.signed(intent.BindRole{
		ID: "gina", IssuerUID: a.issuerUID("", "builtin"), Role: "governor", Name: "gina", Platform: true,
		Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(t, key), Sign: true, TLS: true}},
	}.Request(), "bob", "dave", "carol")))
	a.certify("gina", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: "gina", PublicKey: pub}, key, nil)
	for round := range 5 {
		name := fmt.Sprintf("t%d", round)
		m, r := a.creates(name)
		ap := a.ask(t, "grpc", 0, "alice", m, r)
		if _, err := a.approve(t, "grpc", 0, "bob", ap); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var failed [2]error
		for i, who := range []string{"dave", "gina"} {
			req := a.approves(ap, who)
			wg.Go(func() { _, failed[i] = a.call(t, i+1, who, "Approvals.Approve", req) })
		}
		wg.Wait()
		if failed[0] != nil && failed[1] != nil {
			t.Fatalf("nobody approved: %v, %v", failed[0], failed[1])
		}
		for _, err := range failed {
			if err != nil && codeOf(err) != errs.FailedState {
				t.Errorf("the later one hears %v", err)
			}
		}
		got := a.ends(t, 0, ap.GetName())
		tn, ok := a.members[0].state.View().Tenant(name)
		if stateOf(got) != "EXECUTED" || !ok || tn.GetModIndex() != got.GetResultIndex() || len(got.GetSignatures()) != 3 {
			t.Errorf("round %d: %v, and the tenant is of index %d", round, got, tn.GetModIndex())
		}
	}
}

// TestListsOfApprovals: pages, states, and who may see what.
func TestListsOfApprovals(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 1, quorums{1, 1})
	a.settle()
	list := func(who, filter string, size uint32) (names []string) {
		t.Helper()
		for token := ""; ; {
			out, err := a.call(t, 0, who, "Approvals.ListApprovals", &kryptonv1.ListApprovalsRequest{PageSize: size, PageToken: token, Filter: filter})
			if err != nil {
				t.Fatalf("%s lists: %v", who, err)
			}
			resp := out.(*kryptonv1.ListApprovalsResponse)
			if len(resp.GetApprovals()) > int(size) {
				t.Errorf("a page of %d has %d", size, len(resp.GetApprovals()))
			}
			for _, ap := range resp.GetApprovals() {
				names = append(names, ap.GetName())
			}
			if token = resp.GetNextPageToken(); token == "" {
				return names
			}
		}
	}
	// Five of the platform wait for a custodian; one of them is rejected, one executed.
	var all []string
	for i := range 5 {
		name := fmt.Sprintf("g%d", i)
		key, pub := newKey(t)
		m := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: name, RoleBinding: &kryptonv1.RoleBinding{
			Role: kryptonv1.Role_ROLE_GOVERNOR, Member: name, Keys: []*kryptonv1.AuthorityKey{{PublicKey: pub, Sign: true}},
		}}
		r := intent.BindRole{
			ID: name, IssuerUID: a.issuerUID("", "builtin"), Role: "governor", Name: name,
			Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(t, key), Sign: true}},
		}.Request()
		ap := a.ask(t, "grpc", 0, "alice", m, r)
		switch i {
		case 0:
			a.done(t, "grpc", "alice", "Approvals.Reject", &kryptonv1.RejectRequest{Name: ap.GetName()})
			if got := list("erin", "state=REJECTED", 10); !slices.Equal(got, []string{ap.GetName()}) {
				t.Errorf("rejected are %q", got)
			}
		case 1:
			if _, err := a.approve(t, "grpc", 0, "carol", ap); err != nil {
				t.Fatal(err)
			}
			if got := list("carol", "state=EXECUTED", 10); !slices.Equal(got, []string{ap.GetName()}) {
				t.Errorf("executed are %q", got)
			}
		default:
			all = append(all, ap.GetName())
		}
	}
	slices.Sort(all)
	for _, who := range []string{"alice", "bob", "carol", "operator"} {
		for _, size := range []uint32{1, 2, 3, 100} {
			for _, filter := range []string{"", "state=PENDING"} {
				if got := list(who, filter, size); !slices.Equal(got, all) {
					t.Errorf("%s sees %q in pages of %d with %q, want %q", who, got, size, filter, all)
				}
			}
		}
	}
	if got := list("tess", "", 1); len(got) != 0 {
		t.Errorf("a governor of a tenant sees %q of the platform", got)
	}
	_, err := a.call(t, 0, "tess", "Approvals.GetApproval", &kryptonv1.GetApprovalRequest{Name: all[0]})
	if codeOf(err) != errs.NotFound {
		t.Errorf("a governor of a tenant reads one of the platform: %v", err)
	}
	// Of their own tenant they see it, and those of another do not.
	a.governor("vera", time.Time{}, "alice", "carol")
	a.certify("vera", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: "vera", PublicKey: spkiOfKey(t, a.keys["vera"])}, a.keys["vera"], nil)
	set := &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/tess", "roleBindings/vera"}}
	ap := a.ask(t, "http", 0, "tess", set, intent.SetTenantGovernors{
		Tenant: "acme", TenantUID: a.tenantUID("acme"), Governors: ascending(a.bindingUID("tess"), a.bindingUID("vera")),
	}.Request())
	for who, sees := range map[string]bool{"tess": true, "vera": true, "uma": false, "bob": true, "erin": true} {
		_, err := a.call(t, 0, who, "Approvals.GetApproval", &kryptonv1.GetApprovalRequest{Name: ap.GetName()})
		if (err == nil) != sees || err != nil && codeOf(err) != errs.NotFound {
			t.Errorf("%s reads an approval of acme: %v", who, err)
		}
		if got := slices.Contains(list(who, "state=EXECUTED", 100), ap.GetName()); got != sees {
			t.Errorf("%s lists an approval of acme: %v", who, got)
		}
	}
	for _, m := range []*kryptonv1.ListApprovalsRequest{{PageSize: 1001}, {PageToken: "x"}, {Filter: "state=NONE"}, {Filter: "state=UNSPECIFIED"}, {Filter: "x"}} {
		_, err := a.call(t, 0, "alice", "Approvals.ListApprovals", m)
		if m.GetFilter() != "" {
			situationtest.Error(t, "approval/filter", wire.FromStatus(err))
		} else if codeOf(err) != errs.InvalidArgument {
			t.Errorf("%v: %v", m, err)
		}
	}
	for _, name := range []string{"", "approvals/", "approvals/x", strings.ToUpper(all[0]), all[0] + "0", "operations/" + all[0]} {
		_, err := a.call(t, 0, "alice", "Approvals.GetApproval", &kryptonv1.GetApprovalRequest{Name: name})
		situationtest.Error(t, "approval/name", wire.FromStatus(err))
	}
	if _, err := a.call(t, 0, "alice", "Approvals.GetApproval", &kryptonv1.GetApprovalRequest{Name: "approvals/" + strings.Repeat("0", 32)}); codeOf(err) != errs.NotFound {
		t.Errorf("one that is not there: %v", err)
	}
}

// TestWhatCannotBeAsked is refused by name, at both doors, and nothing is kept.
func TestWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	m, r := a.binds("otto")
	base := func() *kryptonv1.CreateApprovalRequest { return a.asks(m, a.over(r), "alice") }
	set := func(field string, v protoreflect.Value) func(*kryptonv1.CreateApprovalRequest) {
		return func(c *kryptonv1.CreateApprovalRequest) {
			x := proto.Clone(m)
			x.ProtoReflect().Set(x.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field)), v)
			c.Request = anyOf(t, x)
		}
	}
	intents := m.ProtoReflect().NewField(m.ProtoReflect().Descriptor().Fields().ByName("intents")).List()
	intents.Append(protoreflect.ValueOfMessage(a.signed(r, "bob")[0].ProtoReflect()))
	other, _ := a.binds("other")
	for name, tc := range map[string]struct {
		id     string
		who    string
		grpc   bool // it cannot be said in JSON
		change func(*kryptonv1.CreateApprovalRequest)
	}{
		"no request": {id: "approval/no-request", change: func(c *kryptonv1.CreateApprovalRequest) { c.Request = nil }},
		"a read":     {id: "approval/not-sovereign", change: func(c *kryptonv1.CreateApprovalRequest) { c.Request = anyOf(t, &kryptonv1.GetTenantRequest{}) }},
		"what waits for nobody": {id: "approval/not-sovereign", change: func(c *kryptonv1.CreateApprovalRequest) {
			c.Request = anyOf(t, &kryptonv1.SuspendTenantRequest{Name: acme})
		}},
		"an approval": {id: "approval/not-sovereign", change: func(c *kryptonv1.CreateApprovalRequest) { c.Request = anyOf(t, &kryptonv1.ApproveRequest{}) }},
		"no type":     {id: "approval/not-sovereign", grpc: true, change: func(c *kryptonv1.CreateApprovalRequest) { c.Request.TypeUrl = "" }},
		"a type of elsewhere": {id: "approval/not-sovereign", grpc: true, change: func(c *kryptonv1.CreateApprovalRequest) {
			c.Request.TypeUrl = "example.com/krypton.v1.CreateRoleBindingRequest"
		}},
		"junk":           {id: "approval/does-not-decode", grpc: true, change: func(c *kryptonv1.CreateApprovalRequest) { c.Request.Value = []byte{0xff} }},
		"unknown fields": {id: "request/field-unknown", grpc: true, change: func(c *kryptonv1.CreateApprovalRequest) { c.Request.Value = append(c.Request.Value, 0xf8, 0x7f, 1) }},
		"too large": {id: "approval/too-large", change: func(c *kryptonv1.CreateApprovalRequest) {
			x := proto.CloneOf(m)
			x.RoleBinding.Subject = strings.Repeat("x", fsm.MaxApprovalRequestBytes)
			c.Request = anyOf(t, x)
		}},
		"signatures inside":      {id: "approval/field-set", change: set("intents", protoreflect.ValueOfList(intents))},
		"a request id inside":    {id: "approval/field-set", change: set("request_id", protoreflect.ValueOfString("x"))},
		"only checked inside":    {id: "approval/field-set", change: set("validate_only", protoreflect.ValueOfBool(true))},
		"no signature":           {id: "approval/signature", change: func(c *kryptonv1.CreateApprovalRequest) { c.Signature = nil }},
		"a short key id":         {id: "approval/signature", change: func(c *kryptonv1.CreateApprovalRequest) { c.Signature.KeyId = c.GetSignature().GetKeyId()[1:] }},
		"a long signature":       {id: "approval/signature", change: func(c *kryptonv1.CreateApprovalRequest) { c.Signature.Signature = make([]byte, intent.MaxSignature+1) }},
		"no intent":              {id: "approval/intent", change: func(c *kryptonv1.CreateApprovalRequest) { c.Signature.Intent = []byte("x") }},
		"junk as canonical form": {id: "approval/canonical", change: func(c *kryptonv1.CreateApprovalRequest) { c.CanonicalRequest = []byte("x") }},
		"another request":        {id: "intent/other-request", change: func(c *kryptonv1.CreateApprovalRequest) { c.Request = anyOf(t, other) }},
		"somebody else's":        {id: "approval/not-your-signature", change: func(c *kryptonv1.CreateApprovalRequest) { c.Signature = a.signed(r, "bob")[0] }},
		"a custodian asks":       {who: "carol", id: "approval/custodian-asks", change: func(c *kryptonv1.CreateApprovalRequest) { c.Signature = a.signed(r, "carol")[0] }},
		"expired": {id: "intent/expired", change: func(c *kryptonv1.CreateApprovalRequest) {
			in := a.over(r)
			in.NotAfter = time.Now().Add(-time.Second).UnixMilli()
			c.Signature = a.makes(in, "alice")[0]
		}},
		"another keyspace": {id: "intent/other-keyspace", change: func(c *kryptonv1.CreateApprovalRequest) {
			in := a.over(r)
			in.Keyspace[0] ^= 1
			c.Signature = a.makes(in, "alice")[0]
		}},
	} {
		t.Run(name, func(t *testing.T) {
			who := tc.who
			if who == "" {
				who = "alice"
			}
			for _, door := range []string{"grpc", "http"} {
				if tc.grpc && door == "http" {
					continue
				}
				c := base()
				tc.change(c)
				_, err := a.via(t, door, 0, who, "Approvals.CreateApproval", c)
				if err == nil {
					t.Fatalf("%s takes it", door)
				}
				situationtest.Error(t, tc.id, wire.FromStatus(err))
			}
			if n := a.members[0].state.View().OpenApprovals(); n != 0 {
				t.Errorf("%d approvals are kept", n)
			}
		})
	}
	// What differs is said field by field when the caller says what was signed.
	c := base()
	c.Request, c.CanonicalRequest = anyOf(t, other), r.Canonical()
	_, err := a.call(t, 0, "alice", "Approvals.CreateApproval", c)
	if hint := refusalOf(err).Hint; !strings.Contains(hint, "- ") || !strings.Contains(hint, `"otto"`) {
		t.Errorf("the hint is %q", hint)
	}
	// Where nobody has to sign, nobody is asked.
	free := newSigning(t, 1, quorums{0, 0})
	m2, r2 := free.binds("otto")
	_, err = free.call(t, 0, "alice", "Approvals.CreateApproval", free.asks(m2, free.over(r2), "alice"))
	situationtest.Error(t, "approval/not-needed", wire.FromStatus(err))
}

// TestARetryOfAskingIsAnsweredAlike, also once it is done and could not be asked again.
func TestARetryOfAskingIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	a := newFour(t, 1)
	m, r := a.binds("otto")
	c := a.asks(m, a.over(r), "alice")
	first, err := a.call(t, 0, "alice", "Approvals.CreateApproval", c)
	if err != nil {
		t.Fatal(err)
	}
	ap := first.(*kryptonv1.Approval)
	for _, who := range []string{"bob", "dave"} {
		if ap, err = a.approve(t, "grpc", 0, who, ap); err != nil {
			t.Fatal(err)
		}
	}
	again, err := a.via(t, "http", 0, "alice", "Approvals.CreateApproval", c)
	if err != nil || stateOf(again.(*kryptonv1.Approval)) != "EXECUTED" || again.(*kryptonv1.Approval).GetName() != ap.GetName() {
		t.Errorf("asked again: %v, %v", again, err)
	}
	_, err = a.call(t, 0, "alice", "Approvals.CreateApproval", withRequestID(&kryptonv1.CreateApprovalRequest{Request: c.GetRequest(), Signature: c.GetSignature()}))
	if codeOf(err) != errs.AlreadyExists {
		t.Errorf("the same with another request id: %v", err)
	}
}

// TestAChangedQuorumCountsForWhatWaits: the larger of the rule then and now.
func TestAChangedQuorumCountsForWhatWaits(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 1, quorums{1, 1})
	key, pub := newKey(t)
	a.keys["gina"] = key
	m := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "gina", RoleBinding: &kryptonv1.RoleBinding{
		Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gina", Keys: []*kryptonv1.AuthorityKey{{PublicKey: pub, Sign: true, Tls: true}},
	}}
	ap := a.ask(t, "grpc", 0, "alice", m, intent.BindRole{
		ID: "gina", IssuerUID: a.issuerUID("", "builtin"), Role: "governor", Name: "gina",
		Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(t, key), Sign: true, TLS: true}},
	}.Request())
	if stateOf(ap) != "PENDING" || ap.GetGovernorsMissing() != 0 || ap.GetCustodiansMissing() != 1 {
		t.Fatalf("asked: %v", ap)
	}
	quorum := &kryptonv1.SetQuorumRequest{Governors: 2, Custodians: 1}
	r := intent.SetQuorum{Governors: 2, Custodians: 1}.Request()
	a.refusedBoth(t, "intent/too-few", "alice", "Cluster.SetQuorum", with(quorum, a.signed(r, "bob", "carol")))
	a.refusedBoth(t, "intent/requester-signed", "alice", "Cluster.SetQuorum", with(quorum, a.signed(r, "alice", "bob", "carol")))
	if _, err := a.call(t, 0, "alice", "Cluster.SetQuorum", &kryptonv1.SetQuorumRequest{Governors: 3, Custodians: 1, ValidateOnly: true}); codeOf(err) != errs.FailedState {
		t.Errorf("a quorum that nobody could reach: %v", err)
	}
	info := a.done(t, "grpc", "alice", "Cluster.GetCluster", &kryptonv1.GetClusterRequest{}).(*kryptonv1.ClusterInfo)
	stale := proto.CloneOf(quorum)
	stale.Etag = `"1"`
	if _, err := a.call(t, 0, "alice", "Cluster.SetQuorum", with(stale, a.signed(r, "bob", "dave", "carol"))); codeOf(err) != errs.StaleEtag {
		t.Errorf("an old etag: %v", err)
	}
	quorum.Etag = info.GetEtag()
	out := a.done(t, "grpc", "alice", "Cluster.SetQuorum", with(quorum, a.signed(r, "bob", "dave", "carol"))).(*kryptonv1.ClusterInfo)
	for _, rule := range out.GetRules() {
		if rule.GetAct() == "destroy" && (rule.GetGovernors() != 2 || rule.GetRequesterCounts()) {
			t.Errorf("the rule is %v", rule)
		}
	}
	if out.GetEtag() == info.GetEtag() {
		t.Error("the etag did not move")
	}
	ap = a.approval(t, 0, ap.GetName())
	if ap.GetRuleAtRequest().GetGovernors() != 1 || ap.GetRule().GetGovernors() != 2 || ap.GetGovernorsMissing() != 2 || ap.GetSignatures()[0].GetCounts() {
		t.Errorf("after the change: %v", ap)
	}
	for _, who := range []string{"carol", "bob"} {
		var err error
		if ap, err = a.approve(t, "grpc", 0, who, ap); err != nil || stateOf(ap) != "PENDING" {
			t.Fatalf("%s approves: %v, %v", who, ap, err)
		}
	}
	ap, err := a.approve(t, "grpc", 0, "dave", ap)
	if err != nil || stateOf(ap) != "EXECUTED" {
		t.Errorf("dave approves: %v, %v", ap, err)
	}
}
