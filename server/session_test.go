package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// contribute gives a share to a node as a custodian does: it checks the node's
// certificate, and the start key by the key in it.
func (w *world) contribute(t testing.TB, i int, share []byte) (*kryptonv1.SealStatus, error) {
	t.Helper()
	c := kryptonv1.NewSealClient(w.grpc(i, "custodian"))
	st, err := c.GetSeal(limited(t), &kryptonv1.GetSealRequest{})
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(st.GetNodeCertificate())
	if err != nil {
		return nil, fmt.Errorf("certificate of the node: %w", err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: w.tlsConfig().RootCAs}); err != nil {
		return nil, err
	}
	s, err := seal.ParseShare(bytes.Clone(share))
	if err != nil {
		return nil, err
	}
	defer s.Destroy()
	target := seal.Target{Node: st.GetNodeId()}
	if _, err := hex.Decode(target.Cluster[:], []byte(st.GetFingerprint())); err != nil {
		return nil, err
	}
	sealed, err := seal.SealShare(seal.Offer{Target: target, Public: st.GetStartKey(), Signature: st.GetStartKeySignature()}, leaf.PublicKey, s)
	if err != nil {
		return nil, err
	}
	return c.Contribute(limited(t), &kryptonv1.ContributeRequest{NodeId: st.GetNodeId(), SealedShare: sealed})
}

// TestAShamirNodeStartsWithoutAQuorumAndIsUnsealedByItsCustodians restarts a
// node: it must know its custodians from its own disk before it has a registry.
func TestAShamirNodeStartsWithoutAQuorumAndIsUnsealedByItsCustodians(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	init := w.init(kryptonv1.SealMode_SEAL_MODE_SHAMIR)
	if len(init.GetShares()) != 3 || init.GetPersonsNeeded() != 2 || init.GetUnsealsWithoutPeople() {
		t.Fatalf("init answered %d shares, %d persons", len(init.GetShares()), init.GetPersonsNeeded())
	}
	until(t, "the CA of callers is kept", func() error {
		_, err := tls.LoadX509KeyPair(w.members[0].dir.Path("tls/callers.pem"), w.members[0].dir.Path("tls/node.key"))
		if err == nil || strings.Contains(err.Error(), "no such file") {
			return err
		}
		return nil // it is there; it belongs to another key
	})
	w.members[0].close()
	w.members[0] = w.start("n1")
	w.hangUp()
	m := w.members[0]
	st, err := kryptonv1.NewSealClient(w.grpc(0, "custodian")).GetSeal(limited(t), &kryptonv1.GetSealRequest{}, grpc.WaitForReady(true))
	if err != nil || st.GetState() != kryptonv1.SealState_SEAL_STATE_SEALED || st.GetNeed() != 2 || st.GetShares() != 3 {
		t.Fatalf("a restarted node says %v, %v", st, err)
	}
	// It leads itself, and has its registry again; the keys it has not.
	until(t, "a sealed node refuses to issue certificates", func() error {
		if _, err := w.call(t, 0, "governor", "Access.IssueCertificate", &kryptonv1.IssueCertificateRequest{
			Role: kryptonv1.Role_ROLE_AUDITOR, Name: "x", PublicKey: spki(t),
		}); codeOf(err) != errs.Sealed {
			return err
		}
		return nil
	})
	if st, err = w.contribute(t, 0, init.GetShares()[0]); err != nil || st.GetHave() != 1 || st.GetState() != kryptonv1.SealState_SEAL_STATE_SEALED {
		t.Fatalf("after one share: %v, %v", st, err)
	}
	if h := st.GetHolders(); len(h) != 3 || h[0].GetState() != kryptonv1.HolderState_HOLDER_STATE_GAVE || h[1].GetState() != kryptonv1.HolderState_HOLDER_STATE_AWAITED ||
		st.GetEnough() != "1 more of: "+h[1].GetName()+" (person), "+h[2].GetName()+" (person)" || st.GetSharesExpireTime() == nil || st.GetGroups()[0].GetPersonsNeeded() != 2 {
		t.Errorf("after one share: %v", st)
	}
	if _, err = w.contribute(t, 0, init.GetShares()[0]); codeOf(err) != errs.ShareRefused {
		t.Fatalf("the same share twice: %v", err)
	}
	if st, err = kryptonv1.NewSealClient(w.grpc(0, "custodian")).Contribute(limited(t), &kryptonv1.ContributeRequest{NodeId: string(m.c.NodeID()), Reset_: true}); err != nil || st.GetHave() != 0 {
		t.Fatalf("after a reset: %v, %v", st, err)
	}
	for _, i := range []int{2, 1} {
		if st, err = w.contribute(t, 0, init.GetShares()[i]); err != nil {
			t.Fatal(err)
		}
	}
	if st.GetState() != kryptonv1.SealState_SEAL_STATE_UNSEALED {
		t.Fatalf("after two shares: %v", st)
	}
	m.waitServing()
}

func spki(t testing.TB) []byte {
	t.Helper()
	_, pub := newKey(t)
	return pub
}

// TestThreeNodesAnswerAsOne reads and changes on every node, and a certificate
// of each node carries its addresses.
func TestThreeNodesAnswerAsOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	svc := "tenants/acme/services/pay"
	for i := range w.members {
		// The client checks the name in the certificate of each node.
		until(t, "every node serves the tenant", func() error {
			_, err := w.call(t, i, "workload/acme", "Crypto.Encrypt", &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("x")})
			return err
		})
	}
	id := uuid.NewString()
	var first *kryptonv1.Service
	for i := range w.members { // the same request to each node acts once
		out, err := w.call(t, i, "governor", "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: svc, RequestId: id})
		if err != nil {
			t.Fatal(err)
		}
		s := out.(*kryptonv1.Service)
		if i == 0 {
			first = s
		}
		if diff := cmp.Diff(first, s, protocmp.Transform()); diff != "" || s.GetPrimaryVersion() != 2 {
			t.Fatalf("node %d answers another service:\n%s", i, diff)
		}
		op, err := w.call(t, i, "governor", "Cluster.WaitOperation", &kryptonv1.WaitOperationRequest{Name: "operations/" + id})
		if o, ok := op.(*kryptonv1.Operation); err != nil || !ok || !o.GetDone() || o.GetTarget() != svc {
			t.Fatalf("node %d finds the operation %v, %v", i, op, err)
		}
	}
	var nodes []*kryptonv1.Node
	until(t, "every node is said to serve", func() error { // it loses touch for a moment when the machine is busy
		list, err := w.call(t, 2, "auditor", "Cluster.ListNodes", &kryptonv1.ListNodesRequest{})
		if err != nil {
			return err
		}
		nodes = list.(*kryptonv1.ListNodesResponse).GetNodes()
		for _, n := range nodes {
			if !n.GetHealth().GetReachable() || !n.GetHealth().GetServing() || n.GetHealth().GetNotServingReason() != "" || n.GetRegion() != "eu" {
				return fmt.Errorf("node %s: %v", n.GetDisplayName(), n)
			}
		}
		return nil
	})
	if len(nodes) != 3 {
		t.Fatalf("%d nodes", len(nodes))
	}
	// Leadership is handed over by the leader alone, and another node says who it is.
	var leader, other int
	until(t, "a follower says who leads", func() error {
		leader = slices.IndexFunc(w.members, func(m *member) bool { return m.c.IsLeader() })
		if leader < 0 {
			return errs.New(errs.NoLeader, "nobody leads")
		}
		other = (leader + 1) % 3
		_, err := w.call(t, other, "operator", "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{})
		if codeOf(err) == errs.NoLeader && strings.Contains(refusalOf(err).Hint, w.members[leader].addrs.GRPC) {
			return nil
		}
		if w.members[leader].c.IsLeader() && !w.members[other].c.IsLeader() && w.members[other].c.LeaderID() == w.members[leader].c.NodeID() && codeOf(err) != errs.NoLeader {
			t.Fatalf("a follower hands leadership over: %v", err)
		}
		return fmt.Errorf("the answer is %w", err)
	})
	// What is wrong with a node that is gone is said, and does not hold up the list.
	w.members[other].close()
	list, err := w.call(t, leader, "auditor", "Cluster.ListNodes", &kryptonv1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list.(*kryptonv1.ListNodesResponse).GetNodes() {
		if gone := n.GetId() == string(w.members[other].c.NodeID()); gone == n.GetHealth().GetReachable() {
			t.Errorf("node %s: reachable %v", n.GetDisplayName(), n.GetHealth().GetReachable())
		}
	}
}

// TestAnOperationIsFoundByItsCaller and by nobody else, and a wait ends.
func TestAnOperationIsFoundByItsCaller(t *testing.T) {
	t.Parallel()
	w := served(t)
	id := uuid.NewString()
	name := "operations/" + id
	wait := make(chan error, 1)
	go func() {
		op, err := kryptonv1.NewClusterClient(w.grpc(0, "governor")).WaitOperation(limited(t), &kryptonv1.WaitOperationRequest{Name: name})
		if err == nil && (!op.GetDone() || op.GetTarget() != "tenants/acme") {
			err = fmt.Errorf("the wait ended with %v", op)
		}
		wait <- err
	}()
	if _, err := w.call(t, 0, "governor", "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", RequestId: id}); err != nil {
		t.Fatal(err)
	}
	if err := <-wait; err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"operator", "auditor", "custodian"} {
		if _, err := w.call(t, 0, who, "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: name}); codeOf(err) != errs.NotFound {
			t.Errorf("%s finds an operation of the governor: %v", who, err)
		}
	}
	if op := w.waitInVain(t, uuid.NewString()); op.GetDone() {
		t.Fatalf("a wait for nothing ended with %v", op)
	}
}

// TestAnInterruptedRotationIsNotDone until the same request id finishes it: the
// first of its two log entries is put in as a node would that dies then.
func TestAnInterruptedRotationIsNotDone(t *testing.T) {
	t.Parallel()
	w := served(t)
	m, id, svc := w.members[0], uuid.NewString(), "tenants/acme/services/pay"
	v := m.state.View()
	tn, _ := v.Tenant("acme")
	s, _ := v.ServiceOf(tn, "pay")
	fresh := uuid.New()
	cmd := &fsmpb.Command{RequestId: id, RequestDigest: make([]byte, 32), Body: &fsmpb.Command_AddVersion{AddVersion: &fsmpb.AddVersion{
		Object: &fsmpb.ObjectRef{Tenant: "acme", Service: "pay"}, ObjectUid: s.GetUid(),
		Version: &fsmpb.Version{Number: 2, Uid: fresh[:], Blob: []byte("x"), ParentUid: tn.GetVersions()[0].GetUid()},
	}}}
	if err := w.propose(gate.RotateService, svc, cmd); err != nil {
		t.Fatal(err)
	}
	c := kryptonv1.NewClusterClient(w.grpc(0, "governor"))
	if op, err := c.GetOperation(limited(t), &kryptonv1.GetOperationRequest{Name: "operations/" + id}); err != nil || op.GetDone() || op.GetReason() != "" {
		t.Fatalf("half of a rotation: %v, %v", op, err)
	}
	if op := w.waitInVain(t, id); op.GetDone() || op.GetIndex() == 0 {
		t.Fatalf("a wait for half of a rotation: %v", op)
	}
}

// propose commits a command of the governor on the first node, past the doors.
func (w *world) propose(act gate.Act, object string, cmd *fsmpb.Command) error {
	w.t.Helper()
	id, err := auth.ParseID(w.people["governor"].Leaf.URIs[0].String())
	if err != nil {
		return err
	}
	block, _ := pem.Decode(readFile(w.t, w.members[0].dir.Path("tls/callers.pem")))
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	gov, err := id.Principal(pki.IssuerOf(ca))
	if err != nil {
		return err
	}
	call, err := corr.New(rand.Reader)
	if err != nil {
		return err
	}
	return w.members[0].gate.Do(limited(w.t), gate.Request{Principal: gov, Act: act, Object: object, Correlation: call}, func(tok gate.Token) error {
		_, err := w.members[0].c.Propose(limited(w.t), tok, cmd, cluster.Complete)
		return err
	})
}

// waitInVain waits for an operation that does not get done, and returns the
// answer that comes before the deadline. On a machine that is busy with other
// tests it may come too late; then it waits longer.
func (w *world) waitInVain(t testing.TB, id string) *kryptonv1.Operation {
	t.Helper()
	for limit := time.Second; limit < patience; limit *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		op, err := kryptonv1.NewClusterClient(w.grpc(0, "governor")).WaitOperation(ctx, &kryptonv1.WaitOperationRequest{Name: "operations/" + id})
		cancel()
		if err == nil {
			return op
		}
		if codeOf(err) != errs.DeadlineExceeded {
			t.Fatal(err)
		}
	}
	t.Fatal("a wait does not answer before its deadline")
	return nil
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestARequestIdBelongsToOneBody: the id alone does not make two requests one.
func TestARequestIdBelongsToOneBody(t *testing.T) {
	t.Parallel()
	w := served(t)
	id := uuid.NewString()
	suspend := &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", RequestId: id}
	first, err := w.call(t, 0, "governor", "Tenants.SuspendTenant", suspend)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.call(t, 0, "governor", "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", RequestId: strings.ToUpper(id)})
	if err != nil || cmp.Diff(first, again, protocmp.Transform()) != "" {
		t.Fatalf("the same request in other letters: %v", err)
	}
	for name, call := range map[string]func() error{
		"another object": func() error {
			_, err := w.call(t, 0, "governor", "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/other", RequestId: id})
			return err
		},
		"another etag": func() error {
			_, err := w.call(t, 0, "governor", "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", RequestId: id, Etag: first.(*kryptonv1.Tenant).GetEtag()})
			return err
		},
		"another method": func() error {
			_, err := w.call(t, 0, "governor", "Tenants.ResumeTenant", &kryptonv1.ResumeTenantRequest{Name: "tenants/acme", RequestId: id})
			return err
		},
	} {
		if err := call(); codeOf(err) != errs.RequestReplayed {
			t.Errorf("%s with the same request id: %v", name, err)
		}
	}
	// Validating with an id does not use it up.
	fresh := uuid.NewString()
	for _, only := range []bool{true, true, false} {
		if _, err := w.call(t, 0, "governor", "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/other", RequestId: fresh, ValidateOnly: only}); err != nil {
			t.Fatalf("validate_only=%v: %v", only, err)
		}
	}
}

// TestAJoinTokenIsShownOnce and a retry does not show another secret.
func TestAJoinTokenIsShownOnce(t *testing.T) {
	t.Parallel()
	w := served(t)
	req := &kryptonv1.CreateJoinTokenRequest{RequestId: uuid.NewString()}
	out, err := w.call(t, 0, "operator", "Cluster.CreateJoinToken", req)
	if err != nil || !strings.HasPrefix(out.(*kryptonv1.CreateJoinTokenResponse).GetToken(), "kjoin2-") {
		t.Fatal(err)
	}
	if _, err := w.call(t, 0, "operator", "Cluster.CreateJoinToken", req); codeOf(err) != errs.FailedState {
		t.Fatalf("a retry: %v", err)
	}
}

// TestListsGoOnWhereTheyStopped walks tenants page by page.
func TestListsGoOnWhereTheyStopped(t *testing.T) {
	t.Parallel()
	w := served(t)
	ctx, c := limited(t), kryptonv1.NewServicesClient(w.grpc(0, "governor"))
	want := []string{"pay"}
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		want = append(want, name)
		if _, err := c.CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: "tenants/acme", ServiceId: name}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.SuspendService(ctx, &kryptonv1.SuspendServiceRequest{Name: "tenants/acme/services/s2"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DeleteService(ctx, &kryptonv1.DeleteServiceRequest{Name: "tenants/acme/services/s4", Now: true}); err != nil {
		t.Fatal(err)
	}
	walk := func(size uint32, filter string) (names []string) {
		token := ""
		for range 10 {
			l, err := c.ListServices(ctx, &kryptonv1.ListServicesRequest{Parent: "tenants/acme", PageSize: size, PageToken: token, Filter: filter})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range l.GetServices() {
				names = append(names, strings.TrimPrefix(s.GetName(), "tenants/acme/services/"))
			}
			if token = l.GetNextPageToken(); token == "" {
				return names
			}
		}
		t.Fatal("the list has no end")
		return nil
	}
	for _, size := range []uint32{0, 1, 2, 3, 5, 6} {
		if diff := cmp.Diff(want[:5], walk(size, "")); diff != "" {
			t.Errorf("pages of %d:\n%s", size, diff)
		}
	}
	for filter, want := range map[string][]string{"state=SUSPENDED": {"s2"}, "state=DESTROYED": {"s4"}, "state=ACTIVE": {"pay", "s0", "s1", "s3"}} {
		if diff := cmp.Diff(want, walk(1, filter)); diff != "" {
			t.Errorf("%s:\n%s", filter, diff)
		}
	}
}

// TestANodeBelongsToOneClusterOnly and Init checks before it changes.
func TestInitChecksBeforeItChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	m := w.members[0]
	ctx, c := limited(t), m.admin()
	st, err := c.GetStatus(ctx, &kryptonv1.GetStatusRequest{}, grpc.WaitForReady(true))
	if err != nil || st.GetSeal().GetState() != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED || st.GetCluster().GetFingerprint() != "" {
		t.Fatalf("a new node says %v, %v", st, err)
	}
	// A node without a cluster has no certificate, and so no public port.
	if conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", m.addrs.GRPC); err == nil {
		_ = conn.Close()
		t.Error("a node without a cluster does a handshake")
	}
	good, _, _ := w.plan(kryptonv1.SealMode_SEAL_MODE_AUTO)
	for name, change := range map[string]func(*kryptonv1.InitRequest){
		"name of the cluster": func(r *kryptonv1.InitRequest) { r.ClusterName = "Not A Name" },
		"voters":              func(r *kryptonv1.InitRequest) { r.Voters = 2 },
		"no governor":         func(r *kryptonv1.InitRequest) { r.Governors = nil },
		"no custodian":        func(r *kryptonv1.InitRequest) { r.Custodians = nil },
		"no mode":             func(r *kryptonv1.InitRequest) { r.SealMode = 0 },
		"contradiction":       func(r *kryptonv1.InitRequest) { r.DestroyWaitSeconds = 5 },
		"one share":           func(r *kryptonv1.InitRequest) { r.SealMode, r.Shares, r.Threshold = 2, 1, 1 },
		"two seals": func(r *kryptonv1.InitRequest) {
			r.SealPlan = plan.OneKey(seal.ProviderKey{Provider: r.GetKeystore(), Key: keystore.KeyRef(r.GetKey())}).Proto()
		},
		"every share needed": func(r *kryptonv1.InitRequest) { r.SealMode, r.Keystore, r.Key, r.Shares, r.Threshold = 2, "", "", 3, 3 },
		"a risk unheard of":  func(r *kryptonv1.InitRequest) { r.AcceptRisks = []string{"all"} },
		"a rule unheard of":  func(r *kryptonv1.InitRequest) { r.SealProfile = "six-eyes" },
		"one pair of eyes":   func(r *kryptonv1.InitRequest) { r.SealProfile = "four-eyes" },
		"the same key":       func(r *kryptonv1.InitRequest) { r.Custodians[0].PublicKey = r.GetGovernors()[0].GetPublicKey() },
		"no key":             func(r *kryptonv1.InitRequest) { r.Governors[0].PublicKey = []byte("x") },
	} {
		r, _, _ := w.plan(kryptonv1.SealMode_SEAL_MODE_AUTO)
		change(r)
		if _, err := c.Init(ctx, r); codeOf(err) != errs.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	asked := plan.Plan{Keys: []plan.Holder{{Name: "only", Key: seal.ProviderKey{Provider: good.GetKeystore(), Key: keystore.KeyRef(good.GetKey())}, Domain: seal.Domain{Region: "here"}}}}
	told, err := c.PlanSeal(ctx, &kryptonv1.PlanSealRequest{Plan: asked.Proto()})
	if k := told.GetPlan().GetKeys(); err != nil || len(k) != 1 || k[0].GetProtection() != "software" || k[0].GetDomain().GetProviderType() != "local" || k[0].GetDomain().GetRegion() != "here" {
		t.Errorf("a plan of a seal: %v, %v", told, err)
	}
	if _, err := c.PlanSeal(ctx, &kryptonv1.PlanSealRequest{}); codeOf(err) != errs.InvalidArgument {
		t.Errorf("no plan of a seal: %v", err)
	}
	good.ValidateOnly = true
	if out, err := c.Init(ctx, good); err != nil || out.GetFingerprint() != "" {
		t.Fatalf("validate_only: %v, %v", out, err)
	}
	if m.node.Initialized() {
		t.Fatal("a refused init changed something")
	}
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	good.ValidateOnly = false
	if _, err := c.Init(ctx, good); codeOf(err) != errs.FailedState {
		t.Fatalf("a second init: %v", err)
	}
	if st, err = c.GetStatus(ctx, &kryptonv1.GetStatusRequest{}); err != nil || st.GetSeal().GetState() != kryptonv1.SealState_SEAL_STATE_UNSEALED || st.GetVersion() != "v0" {
		t.Fatalf("after init: %v, %v", st, err)
	}
}

// TestTheCertificateFromFilesIsPresentedAndReadAgain while the node keeps one of
// its own, which is what custodians check its start key with.
func TestTheCertificateOfTheNodeIsTheOneOfItsMemberKey(t *testing.T) {
	t.Parallel()
	w := served(t)
	conn := w.rawDial(w.members[0].addrs.REST, w.tlsConfig(w.people["governor"]))
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	spki, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(spki) != w.members[0].c.KeyHash() {
		t.Fatal("the public port presents another key than the member's")
	}
	st, err := kryptonv1.NewSealClient(w.grpc(0, "custodian")).GetSeal(limited(t), &kryptonv1.GetSealRequest{})
	if err != nil || !bytes.Equal(st.GetNodeCertificate(), leaf.Raw) {
		t.Fatalf("the seal status has another certificate: %v", err)
	}
	if a := w.send(t, "governor", http.MethodGet, "/v1/seal", ""); a.status != http.StatusOK {
		t.Fatalf("status %d", a.status)
	}
}
