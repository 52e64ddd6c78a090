package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/seal"
)

const (
	// prompt is how long an answer may take at most that the node knows without
	// asking anybody: on a machine that is busy with other tests, and far below the
	// deadline of the call. It is less than the ten heartbeats of half a second that
	// a change waits for a leader.
	prompt = 4500 * time.Millisecond
	// leaderless is more than the ten heartbeats of half a second for which a change
	// waits for a leader, and election what that may take on a busy machine.
	leaderless = 5500 * time.Millisecond
	election   = 13 * time.Second
)

func encryptRequest() *kryptonv1.EncryptRequest {
	return &kryptonv1.EncryptRequest{Service: pay, Plaintext: []byte("canary-plaintext")}
}

// ask is [world.call] without patience for a node that has lost touch.
func (w *world) ask(t *testing.T, i int, who, method string, req proto.Message) (proto.Message, error) {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+w.members[i].addrs.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(w.tlsConfig(w.certOf(who)...))), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	out := responseOf(t, method)
	return out, cc.Invoke(limited(t), "/krypton.v1."+strings.Replace(method, ".", "/", 1), req, out)
}

// is calls a method as somebody and compares the answer with a situation. It has
// to come within limit.
func (w *world) is(t *testing.T, id string, i int, who, method string, req proto.Message, limit time.Duration) {
	t.Helper()
	begin := time.Now()
	_, err := w.ask(t, i, who, method, req)
	situationtest.Error(t, id, wire.FromStatus(err), []byte("canary-plaintext"))
	if took := time.Since(begin); took > limit {
		t.Errorf("%s: it took %v to say", id, took)
	}
}

// says compares an error with a situation.
func says(t *testing.T, id string, err error) {
	t.Helper()
	situationtest.Error(t, id, wire.FromStatus(err))
}

// forgery makes three shares, two of which would open another MasterKey, that
// say what a real share says: of the same keyspace, and if it is given of the
// same ceremony.
func forgery(t *testing.T, given seal.Share, init *kryptonv1.InitResponse, ceremony hierarchy.UID) [][]byte {
	t.Helper()
	var f seal.Fingerprint
	if _, err := hex.Decode(f[:], []byte(init.GetFingerprint())); err != nil {
		t.Fatal(err)
	}
	c := seal.Ceremony{Keyspace: given.Keyspace(), ID: ceremony, Generation: given.Generation(), Time: time.Now()}
	if _, err := hex.Decode(c.Cluster[:], []byte(init.GetClusterId())); err != nil {
		t.Fatal(err)
	}
	_, mk, shares, err := seal.Create(t.Context(), rand.Reader, c, seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{{Name: "a"}, {Name: "b"}, {Name: "c"}}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mk.Destroy()
	var texts [][]byte
	for _, s := range shares {
		var b bytes.Buffer
		if err := s.ForCluster(f).Print(&b); err != nil {
			t.Fatal(err)
		}
		s.Destroy()
		texts = append(texts, b.Bytes())
	}
	return texts
}

// TestSealedNodesSaySo: what a sealed, a held and an unsealed node say to shares
// and to calls.
func TestSealedNodesSaySo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	init := w.init(kryptonv1.SealMode_SEAL_MODE_SHAMIR)
	w.tenant("acme", "pay")
	m := w.members[0]
	id := string(m.c.NodeID())
	share := func(situation string, text []byte) {
		t.Helper()
		_, err := w.contribute(t, 0, text)
		situationtest.Error(t, situation, wire.FromStatus(err), bytes.TrimSpace(text))
	}
	w.is(t, "cluster/unsealed-already", 0, "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{NodeId: id, SealedShare: []byte("x")}, prompt)
	w.is(t, "cluster/share-for-another-node", 0, "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{NodeId: "n2", SealedShare: []byte("x")}, prompt)
	w.is(t, "cluster/share-missing", 0, "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{NodeId: id}, prompt)
	if _, err := w.call(t, 0, "operator", "Seal.SealNode", &kryptonv1.SealNodeRequest{}); err != nil {
		t.Fatal(err)
	}
	w.is(t, "cluster/sealed", 0, "workload/acme", "Crypto.Encrypt", encryptRequest(), prompt)
	w.is(t, "cluster/sealed", 0, "governor", "Access.IssueCertificate", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_AUDITOR, Name: "x", PublicKey: spki(t)}, prompt)
	w.is(t, "cluster/sealed", 0, "governor", "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: pay}, prompt)
	if _, err := w.ask(t, 0, "governor", "Tenants.GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/acme"}); err != nil {
		t.Errorf("a sealed node does not show names and states: %v", err)
	}
	w.is(t, "cluster/share-for-another-start", 0, "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{NodeId: id, SealedShare: make([]byte, 1207)}, prompt)

	first, err := seal.ParseShare(bytes.Clone(init.GetShares()[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Destroy()
	share("cluster/share-of-another-ceremony", forgery(t, first, init, hierarchy.UID{1})[0])
	share("cluster/share-forged", forgery(t, first, init, first.Ceremony())[0])
	if _, err := w.contribute(t, 0, init.GetShares()[0]); err != nil {
		t.Fatal(err)
	}
	share("cluster/share-twice", init.GetShares()[0])
	share("cluster/share-forged", forgery(t, first, init, first.Ceremony())[1])

	// The hold: nobody unseals, also with the last share in hand.
	if _, err := w.call(t, 0, "governor", "Seal.SealNode", &kryptonv1.SealNodeRequest{Cluster: true, Reason: "canary-reason"}); err != nil {
		t.Fatal(err)
	}
	share("cluster/held", init.GetShares()[1])
	_, err = w.ask(t, 0, "workload/acme", "Crypto.Encrypt", encryptRequest())
	situationtest.Error(t, "cluster/held", wire.FromStatus(err), []byte("canary-reason"))
	if _, err := w.call(t, 0, "custodian", "Seal.ReleaseHold", &kryptonv1.ReleaseHoldRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range init.GetShares()[:2] {
		if _, err := w.contribute(t, 0, s); err != nil {
			t.Fatal(err)
		}
	}
	m.waitServing()
	share("cluster/unsealed-already", init.GetShares()[2])
	if _, err := w.call(t, 0, "workload/acme", "Crypto.Encrypt", encryptRequest()); err != nil {
		t.Errorf("after all that: %v", err)
	}
	if bytes.Contains(m.log.Bytes(), []byte("canary-plaintext")) || bytes.Contains(m.log.Bytes(), bytes.TrimSpace(init.GetShares()[0])) {
		t.Error("a plaintext or a share is in the log")
	}
}

// TestJoiningAndInitialising: every wrong token, and nodes that belong to
// something already.
func TestJoiningAndInitialising(t *testing.T) {
	t.Parallel()
	w, foreign := newWorld(t, 4), newWorld(t, 1)
	fresh := w.members[3]
	w.members = w.members[:3]
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	foreign.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.members = append(w.members, fresh)
	ctx := limited(t)
	join := func(id string, m *member, token string) {
		t.Helper()
		begin := time.Now()
		_, err := m.admin().Join(ctx, &kryptonv1.JoinRequest{Token: token}, grpc.WaitForReady(true))
		situationtest.Error(t, id, wire.FromStatus(err), []byte(token))
		if took := time.Since(begin); took > prompt {
			t.Errorf("%s: it took %v", id, took)
		}
	}
	token := func(of *world, ttl uint32) string {
		t.Helper()
		out, err := of.call(t, 0, "operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{TtlSeconds: ttl})
		if err != nil {
			t.Fatal(err)
		}
		return out.(*kryptonv1.CreateJoinTokenResponse).GetToken()
	}
	join("cluster/join-token-malformed", fresh, "kjoin2-nonsense")
	// It must not end before it is made, however slow that is.
	var short string
	for ttl := uint32(1); short == ""; ttl *= 2 {
		out, err := w.call(t, 0, "operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{TtlSeconds: ttl})
		if r, ok := out.(*kryptonv1.CreateJoinTokenResponse); ok && err == nil {
			short = r.GetToken()
		} else if codeOf(err) != errs.InvalidArgument || !strings.Contains(refusalOf(err).Msg, "ended before") {
			t.Fatal(err)
		}
	}
	used := token(w, 60)
	late := w.start("n5")
	w.members = append(w.members, late)
	if _, err := late.admin().Join(ctx, &kryptonv1.JoinRequest{Token: used}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	join("cluster/join-token-refused", fresh, used) // used
	until(t, "the short token has expired", func() error {
		return w.expired(short)
	})
	join("cluster/join-token-refused", fresh, short) // expired
	join("cluster/join-of-a-member", w.members[1], token(w, 60))
	join("cluster/join-of-a-member", late, token(foreign, 60))
	down := token(foreign, 60)
	foreign.members[0].close()
	join("cluster/join-nobody-answers", fresh, down)

	again, _, _ := w.plan(kryptonv1.SealMode_SEAL_MODE_AUTO)
	for _, m := range []*member{w.members[0], late} { // the founder, and one that joined
		_, err := m.admin().Init(ctx, again)
		says(t, "cluster/init-twice", err)
	}
	st, err := fresh.admin().GetStatus(ctx, &kryptonv1.GetStatusRequest{}, grpc.WaitForReady(true))
	if err != nil || st.GetSeal().GetState() != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED {
		t.Errorf("a node of no cluster says %v, %v", st, err)
	}
}

// expired returns nil once the token that was made last has expired. Its time
// stands in the registry.
func (w *world) expired(string) error {
	var last int64
	for _, k := range w.members[0].state.View().JoinTokens() {
		if k.GetUsedBy() == "" {
			last = max(last, k.GetExpireTimeMs())
		}
	}
	if time.Now().UnixMilli() <= last {
		return errs.New(errs.FailedState, "not yet")
	}
	return nil
}

// TestMembersAndOperationsThatAreNotThere, and members that cannot be spared.
func TestMembersAndOperationsThatAreNotThere(t *testing.T) {
	t.Parallel()
	w := served(t)
	self := "nodes/" + string(w.members[0].c.NodeID())
	nobody := "nodes/" + strings.Repeat("0", 32)
	w.is(t, "cluster/unknown-node", 0, "operator", "Cluster.GetNode", &kryptonv1.GetNodeRequest{Name: nobody}, prompt)
	w.is(t, "cluster/unknown-node", 0, "operator", "Cluster.PromoteNode", &kryptonv1.PromoteNodeRequest{Name: nobody}, prompt)
	w.is(t, "cluster/unknown-node", 0, "operator", "Cluster.DemoteNode", &kryptonv1.DemoteNodeRequest{Name: nobody}, prompt)
	w.is(t, "cluster/unknown-node", 0, "operator", "Cluster.RemoveNode", &kryptonv1.RemoveNodeRequest{Name: nobody}, prompt)
	w.is(t, "cluster/unknown-node", 0, "operator", "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{Target: nobody}, prompt)
	w.is(t, "cluster/node-name-malformed", 0, "operator", "Cluster.GetNode", &kryptonv1.GetNodeRequest{Name: "nodes/n1"}, prompt)
	w.is(t, "cluster/last-voter", 0, "operator", "Cluster.RemoveNode", &kryptonv1.RemoveNodeRequest{Name: self}, prompt)
	w.is(t, "cluster/last-voter", 0, "operator", "Cluster.DemoteNode", &kryptonv1.DemoteNodeRequest{Name: self}, prompt)
	w.is(t, "cluster/unknown-operation", 0, "governor", "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: "operations/" + uuid.NewString()}, prompt)
	w.is(t, "cluster/operation-name-malformed", 0, "governor", "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: "operations/last"}, prompt)
	w.is(t, "cluster/token-lives-too-long", 0, "operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{TtlSeconds: 24*3600 + 1}, prompt)
}

// TestAChangeThatWaitsForADeadNode: until its lease is over nobody shows the change,
// and whoever asks is told so; everything else is served.
func TestAChangeThatWaitsForADeadNode(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, founding{format: fsm.MaxFormatVersion, lease: longLease}, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	w.tenant("beta", "pay")
	leader := w.leader()
	until(t, "everybody serves", func() error {
		for i := range w.members {
			if _, err := w.ask(t, i, "workload/acme", "Crypto.Encrypt", encryptRequest()); err != nil {
				return err
			}
		}
		return nil
	})
	w.members[(leader+1)%3].close()
	done := make(chan error, 1)
	go func() {
		_, err := w.ask(t, leader, "governor", "Services.SuspendService", &kryptonv1.SuspendServiceRequest{Name: pay})
		done <- err
	}()
	until(t, "the change is on its way", func() error {
		if s, ok := w.members[leader].state.View().Service("acme", "pay"); !ok || s.GetState() != fsmpb.ObjectState_OBJECT_STATE_SUSPENDED {
			return errs.New(errs.NotFound, "not yet")
		}
		return nil
	})
	w.is(t, "cluster/change-in-progress", leader, "workload/acme", "Crypto.Encrypt", encryptRequest(), prompt)
	// Reads show no change that another node does not show; what is not being changed they do.
	w.is(t, "cluster/change-in-progress", leader, "governor", "Services.GetService", &kryptonv1.GetServiceRequest{Name: pay}, prompt)
	w.is(t, "cluster/change-in-progress", leader, "governor", "Services.ListServices", &kryptonv1.ListServicesRequest{Parent: "tenants/acme"}, prompt)
	w.is(t, "cluster/change-in-progress", leader, "governor", "Services.GetService", &kryptonv1.GetServiceRequest{Name: "tenants/acme/services/nothing"}, prompt)
	// A resource that is not pinned has no etag: its pin may have ended with that change.
	w.is(t, "cluster/change-in-progress", leader, "governor", "Services.GetResource", &kryptonv1.GetResourceRequest{Name: pay + "/resources/row"}, prompt)
	checked := &kryptonv1.ResumeServiceRequest{Name: pay, ValidateOnly: true}
	w.is(t, "cluster/change-in-progress", leader, "governor", "Services.ResumeService", checked, prompt)
	if _, err := w.ask(t, leader, "governor", "Services.ListServices", &kryptonv1.ListServicesRequest{Parent: "tenants/beta"}); err != nil {
		t.Errorf("a list of what is not being changed: %v", err)
	}
	other := &kryptonv1.EncryptRequest{Service: "tenants/beta/services/pay", Plaintext: []byte("x")}
	if _, err := w.ask(t, leader, "workload/beta", "Crypto.Encrypt", other); err != nil {
		t.Errorf("what is not being changed is not served: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_, err := w.ask(t, leader, "workload/acme", "Crypto.Encrypt", encryptRequest())
	if codeOf(err) != errs.FailedState {
		t.Errorf("once the change is acknowledged: %v", err)
	}
}

// TestAChangeThatNobodyWaitsFor: through both doors, it is answered at once, with the
// object and the name of the operation, which tells on every node who is pending and
// until when; and waiting for it ends when it is complete. A deadline before that
// gets an error that says that the change is committed.
func TestAChangeThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, founding{format: fsm.MaxFormatVersion, lease: longLease}, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	leader := w.leader()
	dead, other := (leader+1)%3, (leader+2)%3
	until(t, "everybody serves", func() error {
		for i := range w.members {
			if _, err := w.ask(t, i, "workload/acme", "Crypto.Encrypt", encryptRequest()); err != nil {
				return err
			}
		}
		return nil
	})
	w.members[dead].close()
	pending := "nodes/" + string(w.members[dead].c.NodeID())

	// Over gRPC, from a node that does not lead.
	ctx := metadata.AppendToOutgoingContext(limited(t), "krypton-async", "1")
	var header metadata.MD
	id := uuid.NewString()
	out, err := kryptonv1.NewServicesClient(w.grpc(other, "governor")).SuspendService(ctx, &kryptonv1.SuspendServiceRequest{Name: pay, RequestId: id}, grpc.Header(&header))
	if err != nil || out.GetState() != kryptonv1.ObjectState_OBJECT_STATE_SUSPENDED {
		t.Fatalf("%v, %v", out, err)
	}
	said, ok := answer.Parse(header.Get(answer.Header)[0])
	if !ok || said.Operation != id || !said.Pending {
		t.Errorf("the answer says %+v", said)
	}
	name := "operations/" + id
	for _, i := range []int{leader, other} {
		var op *kryptonv1.Operation
		until(t, "only the dead node is pending", func() error {
			got, err := w.ask(t, i, "governor", "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: name})
			if err != nil {
				return err
			}
			if op = got.(*kryptonv1.Operation); len(op.GetPendingNodes()) > 1 {
				return errs.New(errs.ChangeInProgress, "more are pending")
			}
			return nil
		})
		if op.GetDone() || op.GetComplete() || !slices.Equal(op.GetPendingNodes(), []string{pending}) || op.GetCompleteByTime() == nil || op.GetTarget() != pay {
			t.Errorf("node %d says %v", i, op)
		}
	}

	// A caller with too little time is told that it is committed, and for whom it waits.
	// A machine that is busy with other tests may not commit in that time, or not find out
	// for whom; who asks again asks for the same change.
	resume := &kryptonv1.ResumeServiceRequest{Name: pay, RequestId: uuid.NewString()}
	for limit := 500 * time.Millisecond; ; {
		header = nil
		short, cancel := context.WithTimeout(t.Context(), limit)
		_, err = kryptonv1.NewServicesClient(w.grpc(other, "governor")).ResumeService(short, resume, grpc.Header(&header))
		cancel()
		if err == nil || limit > longLease {
			t.Fatalf("no answer within the lease of the dead node says that the change is committed: %v", err)
		}
		if len(header.Get(answer.Header)) == 0 {
			limit *= 2
		} else if strings.Contains(errs.From(wire.FromStatus(err)).Msg, "until") {
			break
		}
	}
	situationtest.Error(t, "cluster/change-not-complete", wire.FromStatus(err))
	if said, _ := answer.Parse(header.Get(answer.Header)[0]); said.Operation != resume.GetRequestId() || !strings.Contains(errs.From(wire.FromStatus(err)).Hint, said.Operation) {
		t.Errorf("the header says %+v, the error %v", said, err)
	}

	// Over HTTP.
	hr, ok := w.request(t, other, httpTable(t)["krypton.v1.Services.SuspendService"], &kryptonv1.SuspendServiceRequest{Name: pay})
	if !ok {
		t.Fatal("no path")
	}
	hr.Header.Set("Prefer", "wait=1, Respond-Async")
	a := w.do(t, "governor", "h2", hr)
	if a.status != http.StatusAccepted { // else it waited
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if !strings.HasPrefix(a.header.Get("krypton-operation"), "operations/") || a.header.Get("Preference-Applied") != "respond-async" ||
		a.header.Get("Location") != "/v1/"+a.header.Get("krypton-operation") || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", a.header)
	}
	if err := conforms(operations(description(t))["SuspendService"], hr, a); err != nil {
		t.Error(err)
	}

	// Waiting ends with the lease of the dead node.
	got, err := w.ask(t, other, "governor", "Cluster.WaitOperation", &kryptonv1.WaitOperationRequest{Name: a.header.Get("krypton-operation")})
	if op, ok := got.(*kryptonv1.Operation); err != nil || !ok || !op.GetDone() || !op.GetComplete() || len(op.GetPendingNodes()) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := w.ask(t, other, "workload/acme", "Crypto.Encrypt", encryptRequest()); codeOf(err) != errs.FailedState {
		t.Errorf("after that: %v", err)
	}

	// What is waited for, what is complete when it is answered, and what is no change
	// are 200; the preference was nothing's reason.
	again, err := http.NewRequestWithContext(limited(t), http.MethodGet, "https://"+hr.URL.Host+"/v1/"+a.header.Get("krypton-operation"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	checked, ok := w.request(t, other, httpTable(t)["krypton.v1.Services.ResumeService"], &kryptonv1.ResumeServiceRequest{Name: pay, ValidateOnly: true})
	if !ok {
		t.Fatal("no path")
	}
	waited, ok := w.request(t, other, httpTable(t)["krypton.v1.Services.ResumeService"], &kryptonv1.ResumeServiceRequest{Name: pay})
	if !ok {
		t.Fatal("no path")
	}
	again.Header.Set("Prefer", "respond-async")
	checked.Header.Set("Prefer", "respond-async")
	for _, hr := range []*http.Request{again, checked, waited} {
		if a := w.do(t, "governor", "h2", hr); a.status != http.StatusOK || a.header.Get("Preference-Applied") != "" || a.header.Get("Location") != "" {
			t.Errorf("%s: %d, %v, %s", hr.URL.Path, a.status, a.header, a.body)
		}
	}
}

// TestWithoutAQuorum: changes are refused within a bound and by name, data is
// not served, names and states are; what was asked for is there or not, and its
// id finds out.
func TestWithoutAQuorum(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	leader := w.leader()
	left := (leader + 1) % 3
	until(t, "the workload is known on the node that is left", func() error {
		_, err := w.call(t, left, "workload/acme", "Crypto.Encrypt", encryptRequest())
		return err
	})
	id := uuid.NewString()
	suspend := &kryptonv1.SuspendServiceRequest{Name: pay, RequestId: id}
	w.members[leader].close()
	w.members[(leader+2)%3].close()
	until(t, "the node has no contact", func() error {
		if _, err := w.ask(t, left, "workload/acme", "Crypto.Encrypt", encryptRequest()); codeOf(err) != errs.NotServing {
			return errs.New(errs.FailedState, "it serves still")
		}
		return nil
	})
	w.is(t, "cluster/no-lease", left, "workload/acme", "Crypto.Encrypt", encryptRequest(), prompt)
	w.is(t, "cluster/no-leader", left, "governor", "Services.SuspendService", suspend, election)
	// It has waited once; the next caller is told at once.
	until(t, "nobody has led for ten heartbeats", func() error {
		if gone := w.members[left].c.LastContact(); gone < leaderless {
			return errs.New(errs.FailedState, gone.String())
		}
		return nil
	})
	w.is(t, "cluster/no-leader", left, "governor", "Services.SuspendService", suspend, prompt)
	if _, err := w.ask(t, left, "governor", "Tenants.GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/acme"}); err != nil {
		t.Errorf("a node without a quorum does not show names and states: %v", err)
	}
	hr, ok := w.request(t, left, httpTable(t)["krypton.v1.Tenants.GetTenant"], &kryptonv1.GetTenantRequest{Name: "tenants/acme"})
	if !ok {
		t.Fatal("no path")
	}
	if a := w.do(t, "governor", "h2", hr); a.status != http.StatusOK || a.header.Get("krypton-stale") != "1" {
		t.Errorf("it does not say that what it shows may be old: %d, %v", a.status, a.header)
	}
	w.is(t, "cluster/transfer-without-a-leader", left, "operator", "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{}, prompt)
	// What it did not find it cannot know: that a name is new, or that a change was not made.
	w.is(t, "cluster/no-lease", left, "governor", "Tenants.GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/nobody"}, prompt)
	w.is(t, "cluster/no-leader", left, "governor", "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: "operations/" + id}, prompt)
	for name, read := range map[string]proto.Message{
		"Cluster.GetCluster": &kryptonv1.GetClusterRequest{}, "Cluster.ListNodes": &kryptonv1.ListNodesRequest{},
		"Services.ListServices": &kryptonv1.ListServicesRequest{Parent: "tenants/acme"}, "Access.ListRevocations": &kryptonv1.ListRevocationsRequest{},
	} {
		if hr, ok = w.request(t, left, httpTable(t)["krypton.v1."+name], read); !ok {
			t.Fatal("no path")
		}
		if a := w.do(t, "governor", "h2", hr); a.status != http.StatusOK || a.header.Get("krypton-stale") != "1" {
			t.Errorf("%s does not say that what it shows may be old: %d, %v", name, a.status, a.header)
		}
	}

	// With the others back, the same request acts, once.
	name := w.members[leader].name
	w.members[leader] = w.start(name)
	w.hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	until(t, "the change is made", func() error {
		_, err := w.ask(t, left, "governor", "Services.SuspendService", suspend)
		return err
	})
	op, err := kryptonv1.NewClusterClient(w.grpc(left, "governor")).GetOperation(ctx, &kryptonv1.GetOperationRequest{Name: "operations/" + id})
	if err != nil || !op.GetDone() || op.GetReason() != "" {
		t.Errorf("the operation is %v, %v", op, err)
	}
	w.is(t, "cluster/unknown-operation", left, "governor", "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: "operations/" + uuid.NewString()}, prompt)
}

// TestWhatIsNotCompleteIsToldNowhere: neither in the list of revocations nor as the
// reason of a change that was refused, by whose state it was made.
func TestWhatIsNotCompleteIsToldNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	leader := w.leader()
	dead, other := (leader+1)%3, (leader+2)%3
	until(t, "everybody serves", func() error {
		for i := range w.members {
			if _, err := w.ask(t, i, "workload/acme", "Crypto.Encrypt", encryptRequest()); err != nil {
				return err
			}
		}
		return nil
	})
	id, revoke := uuid.NewString(), &kryptonv1.RevokeCertificateRequest{Serial: "0123456789abcdef", Reason: "lost", RequestId: uuid.NewString()}
	w.members[dead].close()
	ctx := metadata.AppendToOutgoingContext(limited(t), "krypton-async", "1")
	if _, err := kryptonv1.NewAccessClient(w.grpc(other, "governor")).RevokeCertificate(ctx, revoke); err != nil {
		t.Fatal(err)
	}
	w.is(t, "cluster/change-in-progress", other, "governor", "Access.ListRevocations", &kryptonv1.ListRevocationsRequest{}, prompt)
	// It is not suspended; and who does not wait for a change waits for its refusal.
	name, refused := "operations/"+id, make(chan error, 1)
	go func() {
		_, err := kryptonv1.NewServicesClient(w.grpc(other, "governor")).ResumeService(ctx, &kryptonv1.ResumeServiceRequest{Name: pay, RequestId: id})
		refused <- wire.FromStatus(err)
	}()
	until(t, "the refusal is known", func() error {
		got, err := w.ask(t, other, "governor", "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: name})
		if err != nil {
			return err
		}
		if op, ok := got.(*kryptonv1.Operation); !ok || op.GetDone() || op.GetComplete() || op.GetReason() != "" || op.GetMessage() != "" || op.GetHint() != "" {
			t.Errorf("before: %v", got)
		}
		return nil
	})
	if len(refused) != 0 {
		t.Errorf("the refusal is told: %v", <-refused)
	}
	if err := <-refused; codeOf(err) != errs.FailedState {
		t.Errorf("the refusal: %v", err)
	}
	got, err := w.ask(t, other, "governor", "Cluster.WaitOperation", &kryptonv1.WaitOperationRequest{Name: name})
	if op, ok := got.(*kryptonv1.Operation); err != nil || !ok || !op.GetDone() || op.GetReason() != "FAILED_STATE" {
		t.Errorf("after: %v, %v", got, err)
	}
	if got, err := w.ask(t, other, "governor", "Access.ListRevocations", &kryptonv1.ListRevocationsRequest{}); err != nil || len(got.(*kryptonv1.ListRevocationsResponse).GetRevocations()) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestARemovedNodeSaysSo to whoever still calls it.
func TestARemovedNodeSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	leader := 0
	for i, m := range w.members {
		if m.c.IsLeader() {
			leader = i
		}
	}
	gone := (leader + 1) % 3
	until(t, "the workload is known", func() error {
		_, err := w.call(t, gone, "workload/acme", "Crypto.Encrypt", encryptRequest())
		return err
	})
	name := "nodes/" + string(w.members[gone].c.NodeID())
	if _, err := w.call(t, leader, "operator", "Cluster.RemoveNode", &kryptonv1.RemoveNodeRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	until(t, "the removed node serves nothing", func() error {
		_, err := w.ask(t, gone, "workload/acme", "Crypto.Encrypt", encryptRequest())
		if err == nil {
			return errs.New(errs.FailedState, "it serves")
		}
		return nil
	})
	w.is(t, "cluster/removed", gone, "workload/acme", "Crypto.Encrypt", encryptRequest(), prompt)
}

// TestCustomersKeys that are withdrawn, unreachable, unknown, or not what they were.
func TestCustomersKeys(t *testing.T) {
	t.Parallel()
	w := served(t)
	create := func(tenant, keystoreName, key string) *kryptonv1.CreateTenantRequest {
		return &kryptonv1.CreateTenantRequest{TenantId: tenant, Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: key}}
	}
	w.is(t, "cluster/keystore-unknown", 0, "governor", "Tenants.CreateTenant", create("a1", "nowhere", "k"), prompt)
	w.is(t, "cluster/l1-misconfigured", 0, "governor", "Tenants.CreateTenant", create("a2", keystoreName, "never-made"), prompt)
	w.l1("off")
	if err := w.ks.Disable(t.Context(), keystore.KeyRef("off")); err != nil {
		t.Fatal(err)
	}
	w.is(t, "cluster/l1-denied", 0, "governor", "Tenants.CreateTenant", create("a3", keystoreName, "off"), prompt)

	// Below a tenant that exists: its key is asked for again when the node starts.
	restart := func() {
		w.members[0].close()
		w.members[0] = w.start("n1")
		w.hangUp()
		w.members[0].waitServing()
	}
	keys := filepath.Join(w.dir, "ks", "keys")
	whole, err := os.ReadFile(keys)
	if err != nil {
		t.Fatal(err)
	}
	restart()
	if err := w.ks.Disable(t.Context(), keystore.KeyRef("acme-l1")); err != nil {
		t.Fatal(err)
	}
	w.is(t, "cluster/l1-denied", 0, "workload/acme", "Crypto.Encrypt", encryptRequest(), prompt)
	a := w.send(t, "workload/acme", http.MethodPost, "/v1/"+pay+":encrypt", `{"plaintext":"eA=="}`)
	situationtest.HTTP(t, "cluster/l1-denied", a.status, a.body, []byte("acme-l1"))
	if err := w.ks.Enable(t.Context(), keystore.KeyRef("acme-l1")); err != nil {
		t.Fatal(err)
	}
	restart() // else the denial stands until the node asks again
	other, err := local.Create(t.Context(), keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}, keystoreName, filepath.Join(w.dir, "ks2"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.CreateKey(t.Context(), "acme-l1"); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(filepath.Join(w.dir, "ks2", "keys"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		id    string
		spoil func() error
	}{
		{"cluster/l1-not-its-key", func() error { return os.WriteFile(keys, foreign, 0o600) }},
		{"cluster/l1-unavailable", func() error { return os.Remove(keys) }},
		{"cluster/l1-misconfigured", func() error { return os.WriteFile(keys, []byte("junk"), 0o600) }},
		{"cluster/l1-misconfigured", func() error { return os.Chmod(keys, 0o644) }},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatal(err)
		}
		w.is(t, tt.id, 0, "workload/acme", "Crypto.Encrypt", encryptRequest(), prompt)
		if err := errors.Join(os.WriteFile(keys, whole, 0o600), os.Chmod(keys, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the customer's key works again", func() error {
		_, err := w.ask(t, 0, "workload/acme", "Crypto.Encrypt", encryptRequest())
		return err
	})
	if log := w.members[0].log.Bytes(); bytes.Contains(log, []byte("canary-plaintext")) {
		t.Error("a plaintext is in the log")
	}
}

// TestTheClientMovesOnFromNodesThatAreSealed, and says so at once when all are.
func TestTheClientMovesOnFromNodesThatAreSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	ca, cert, key := w.files(t, "workload/acme")
	var addrs []string
	for i, m := range w.members {
		addrs = append(addrs, m.addrs.GRPC)
		until(t, "the workload is known", func() error {
			_, err := w.call(t, i, "workload/acme", "Crypto.Encrypt", encryptRequest())
			return err
		})
	}
	c, err := client.New(t.Context(), client.With(client.Options{Addrs: addrs, CAFile: ca, CertFile: cert, KeyFile: key}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range w.members {
		if _, err := w.call(t, i, "operator", "Seal.SealNode", &kryptonv1.SealNodeRequest{}); err != nil {
			t.Fatal(err)
		}
		w.is(t, "cluster/sealed-by-a-person", i, "workload/acme", "Crypto.Encrypt", encryptRequest(), prompt)
		if i == len(w.members)-1 {
			break
		}
		situationtest.Outcome(t, "cluster/one-node-sealed")
		for range 20 {
			if _, err := c.Crypto().Encrypt(limited(t), encryptRequest()); err != nil {
				t.Fatalf("with %d of 3 nodes sealed: %v", i+1, err)
			}
		}
	}
	begin := time.Now()
	_, err = c.Crypto().Encrypt(limited(t), encryptRequest())
	situationtest.Error(t, "cluster/sealed-by-a-person", err)
	if took := time.Since(begin); took > prompt {
		t.Errorf("it took %v to say that every node is sealed", took)
	}
	for i, m := range w.members {
		if !m.c.IsLeader() {
			w.is(t, "cluster/transfer-by-a-follower", i, "operator", "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{}, prompt)
		}
	}
}
