package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// ceremony makes a MasterKey of three shares, two of which open it, for the
// cluster with that fingerprint, and returns the shares in their text form.
func ceremony(fingerprint string) (seal.Record, seal.Fingerprint, [][]byte, error) {
	var f seal.Fingerprint
	if _, err := hex.Decode(f[:], []byte(fingerprint)); err != nil {
		return seal.Record{}, f, nil, err
	}
	c := seal.Ceremony{Generation: 1, Time: time.Now()}
	c.Keyspace[0], c.Cluster[0], c.ID[0] = 1, 2, 3
	rec, master, shares, err := seal.Create(context.Background(), rand.Reader, c, seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{{Name: "a"}, {Name: "b"}, {Name: "c"}}}}}, nil)
	if err != nil {
		return rec, f, nil, err
	}
	master.Destroy()
	var texts [][]byte
	for _, s := range shares {
		var b bytes.Buffer
		if err := s.ForCluster(f).Print(&b); err != nil {
			return rec, f, nil, err
		}
		texts = append(texts, b.Bytes())
	}
	return rec, f, texts, nil
}

// sealedNode is the seal of a node that opens with shares, with the real key
// exchange and the real shares.
type sealedNode struct {
	kryptonv1.UnimplementedSealServer

	id     clienttest.Identity
	fp     seal.Fingerprint
	shards shardKeeper
	start  *seal.StartKey
	offer  seal.Offer

	shares int

	mu      sync.Mutex
	opening *seal.Opening
	open    bool
	held    *atomic.Value // the reason; of all nodes
}

// trust says in which way a node deserves none.
type trust int

const (
	honest         trust = iota
	falseSignature       // its start key was not signed by its member key
	foreignCA            // its certificate is of another cluster
	otherNode            // its certificate is that of another node
	swappedShard         // it gives the share of another ceremony, with its own manifest
	foreignSeal          // it gives share and manifest of another cluster
	forgedManifest       // it gives a share of its own making, and a manifest that has it
)

// distrust returns what the name of a script asks for.
func distrust(script string) trust {
	for word, how := range map[string]trust{"false-signature": falseSignature, "foreign-ca": foreignCA, "other-node": otherNode, "swapped": swappedShard, "foreign-seal": foreignSeal, "forged-manifest": forgedManifest} {
		if strings.Contains(script, word) {
			return how
		}
	}
	return honest
}

func newSealedNode(id clienttest.Identity, rec seal.Record, fp seal.Fingerprint, held *atomic.Value, how trust) (*sealedNode, error) {
	n := &sealedNode{id: id, fp: fp, held: held}
	target := seal.Target{Cluster: fp, Node: id.ID}
	key := id.Certificate.PrivateKey
	switch how {
	case otherNode:
		target.Node = "n9"
	case foreignCA:
		ca := newTestCA()
		der, _ := pem.Decode(ca.issueNode(id.ID))
		n.id.Certificate.Certificate, key = [][]byte{der.Bytes}, ca.key
	case honest, falseSignature, swappedShard, foreignSeal, forgedManifest:
	}
	n.id.ID = target.Node
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("no signer")
	}
	var err error
	if n.start, err = seal.NewStartKey(target); err != nil {
		return nil, err
	}
	if n.offer, err = n.start.Offer(rand.Reader, signer); err != nil {
		return nil, err
	}
	if how == falseSignature {
		other, err := seal.NewStartKey(target)
		if err != nil {
			return nil, err
		}
		stolen, err := other.Offer(rand.Reader, signer)
		if err != nil {
			return nil, err
		}
		n.offer.Signature = stolen.Signature
	}
	n.shares = rec.Shares()
	n.opening, err = seal.NewOpening(rec, fp, clock.System{}, time.Minute)
	return n, err
}

func (n *sealedNode) reason() string {
	r, _ := n.held.Load().(string)
	return r
}

func (n *sealedNode) status() *kryptonv1.SealStatus {
	st := &kryptonv1.SealStatus{
		NodeId: n.id.ID, NodeName: n.id.ID, State: kryptonv1.SealState_SEAL_STATE_SEALED, Mode: kryptonv1.SealMode_SEAL_MODE_SHAMIR,
		Have: uint32(n.opening.Progress().Have), Need: 2, Shares: uint32(n.shares), Generation: 1, Fingerprint: hex.EncodeToString(n.fp[:]),
		StartKey: n.offer.Public, StartKeySignature: n.offer.Signature, NodeCertificate: n.id.Certificate.Certificate[0],
		PersonsNeeded: 2, Held: n.reason() != "", HoldReason: n.reason(),
	}
	if !n.open {
		st.Enough = n.opening.Progress().Enough()
	} else {
		st.State = kryptonv1.SealState_SEAL_STATE_UNSEALED
	}
	return st
}

func (n *sealedNode) GetSeal(context.Context, *kryptonv1.GetSealRequest) (*kryptonv1.SealStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status(), nil
}

func (n *sealedNode) Contribute(_ context.Context, r *kryptonv1.ContributeRequest) (*kryptonv1.SealStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.GetNodeId() != n.id.ID {
		return nil, errs.New(errs.ShareRefused, "the share is for another node")
	}
	if r.GetReset_() {
		n.opening.Reset()
	}
	s, err := n.start.Open(r.GetSealedShare())
	if err != nil {
		return nil, err
	}
	p, err := n.opening.Contribute(s)
	if err != nil {
		return nil, err
	}
	if p.Complete() {
		if master, ok := n.opening.Take(); ok {
			master.Destroy()
			n.open = true
		}
	}
	return n.status(), nil
}

func (n *sealedNode) SealNode(_ context.Context, r *kryptonv1.SealNodeRequest) (*kryptonv1.SealStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open = false
	if r.GetCluster() {
		n.held.Store(r.GetReason())
	}
	return n.status(), nil
}

func (n *sealedNode) ReleaseHold(context.Context, *kryptonv1.ReleaseHoldRequest) (*kryptonv1.SealStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.reason() == "" {
		return nil, errs.New(errs.FailedState, "the cluster is not held")
	}
	n.held.Store("")
	return n.status(), nil
}

// adminNode is the administration socket of a node that belongs to no cluster.
type adminNode struct {
	kryptonv1.UnimplementedAdminServer

	mu   sync.Mutex
	done bool
	// forge makes the certificates be for another key.
	forge bool
	// forgePlan makes the plan of a seal be another than was asked about.
	forgePlan bool
}

func (a *adminNode) GetStatus(context.Context, *kryptonv1.GetStatusRequest) (*kryptonv1.GetStatusResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := &kryptonv1.SealStatus{NodeId: "n1", NodeName: "n1", State: kryptonv1.SealState_SEAL_STATE_UNINITIALIZED}
	if a.done {
		st.State, st.Mode, st.UnsealsWithoutPeople = kryptonv1.SealState_SEAL_STATE_UNSEALED, kryptonv1.SealMode_SEAL_MODE_AUTO, true
		st.Fingerprint = clienttest.Fingerprint
	}
	return &kryptonv1.GetStatusResponse{Seal: st, Cluster: &kryptonv1.ClusterInfo{}, DataDir: "/data", Version: "test"}, nil
}

func (a *adminNode) Init(_ context.Context, r *kryptonv1.InitRequest) (*kryptonv1.InitResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return nil, errs.New(errs.FailedState, "the node belongs to a cluster already", errs.Hint("use an empty data directory"))
	}
	if r.GetVoters()%2 == 0 {
		return nil, errs.New(errs.InvalidArgument, "voters is not 1, 3, 5 or 7")
	}
	if r.GetValidateOnly() {
		return &kryptonv1.InitResponse{}, nil
	}
	wanted := plan.FromProto(r.GetSealPlan())
	seen := plan.Analyze(wanted)
	resp := &kryptonv1.InitResponse{
		Fingerprint: clienttest.Fingerprint, KeyspaceId: clienttest.KeyspaceID, ClusterId: clienttest.ClusterID,
		PersonsNeeded: uint32(seen.PersonsNeeded), UnsealsWithoutPeople: seen.UnsealsWithoutPeople,
	}
	for i := range wanted.Prints() {
		resp.Shares = append(resp.Shares, fmt.Appendf(nil, "kshare1-test-%d\n", i+1))
	}
	ca := newTestCA()
	resp.Ca = ca.pem
	for role, people := range map[string][]*kryptonv1.PersonKey{"governor": r.GetGovernors()} {
		for _, p := range people {
			resp.Certificates = append(resp.Certificates, &kryptonv1.IssuedCertificate{Name: p.GetName(), Role: role, Certificate: ca.issue(p.GetPublicKey(), a.forge)})
		}
	}
	for _, p := range r.GetCustodians() {
		resp.Certificates = append(resp.Certificates, &kryptonv1.IssuedCertificate{Name: p.GetName(), Role: "custodian", Certificate: ca.issue(p.GetPublicKey(), a.forge)})
	}
	a.done = true
	return resp, nil
}

func (a *adminNode) PlanSeal(_ context.Context, r *kryptonv1.PlanSealRequest) (*kryptonv1.PlanSealResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := plan.FromProto(r.GetPlan())
	if err := p.Check(); err != nil {
		return nil, err
	}
	if a.forgePlan { // somebody else is to hold a share
		p.Groups[0].Holders[0].Recipient = "age1mallory"
	}
	return &kryptonv1.PlanSealResponse{Plan: p.Proto()}, nil
}

func (a *adminNode) Join(_ context.Context, r *kryptonv1.JoinRequest) (*kryptonv1.JoinResponse, error) {
	if r.GetToken() != clienttest.JoinToken {
		return nil, errs.New(errs.Denied, "the token is not valid", errs.Hint("make a new one with krypton operator join-token"))
	}
	return &kryptonv1.JoinResponse{NodeId: "n4", Fingerprint: clienttest.Fingerprint}, nil
}

// serveAdmin listens on the administration socket of dir.
func serveAdmin(dir string, a *adminNode) (stop func(), err error) {
	if err := os.MkdirAll(filepath.Join(dir, "run"), 0o700); err != nil {
		return nil, err
	}
	lis, err := net.Listen("unix", filepath.Join(dir, "run", "admin.sock"))
	if err != nil {
		return nil, err
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		resp, err := h(ctx, req)
		if err != nil {
			return nil, wire.ToStatus(err).Err()
		}
		return resp, nil
	}))
	kryptonv1.RegisterAdminServer(srv, a)
	go func() { _ = srv.Serve(lis) }()
	return srv.Stop, nil
}

// faultCode returns the code of a fault that a script asks for.
func faultCode(name string) (errs.Code, error) {
	c, ok := errs.ByName(strings.ToUpper(name))
	if !ok {
		return c, fmt.Errorf("no code %q", name)
	}
	return c, nil
}

func encodePEM(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

func parsePublic(der []byte) any {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		panic(err)
	}
	return pub
}
