package clienttest

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Fingerprint, KeyspaceID and ClusterID of every fake cluster.
const (
	Fingerprint = "6b72797074202d2074686520636f6e73637261746564206f6e6573203030303a"
	KeyspaceID  = "000102030405060708090a0b0c0d0e0f"
	ClusterID   = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
)

type clusterServer struct {
	kryptonv1.UnimplementedClusterServer
	n *node
}

// people refuses the workloads, as real nodes do.
func people(ctx context.Context) error {
	if role, _ := roleOf(ctx); role == "workload" {
		return errs.New(errs.Denied, "a workload may not do this", errs.Hint("ask an operator"))
	}
	return nil
}

func (s clusterServer) GetCluster(ctx context.Context, _ *kryptonv1.GetClusterRequest) (*kryptonv1.ClusterInfo, error) {
	if err := people(ctx); err != nil {
		return nil, err
	}
	return s.info(), nil
}

func (s clusterServer) info() *kryptonv1.ClusterInfo {
	return &kryptonv1.ClusterInfo{
		Name: "test", KeyspaceId: KeyspaceID, ClusterId: ClusterID, Fingerprint: Fingerprint,
		Leader: "nodes/n1", Term: 2, AppliedIndex: s.n.c.reg.index, FormatVersion: 4, LeaseDuration: durationpb.New(3 * time.Second), VotersWanted: 3, InternalKeyVersion: 1,
		RollbackWindow: durationpb.New(24 * time.Hour), DestroyWait: durationpb.New(week),
		Rules: s.n.c.rules, Etag: s.n.c.reg.etag(),
	}
}

func (s clusterServer) node(n *node) *kryptonv1.Node {
	out := &kryptonv1.Node{
		Name: "nodes/" + n.id.ID, Id: n.id.ID, DisplayName: n.id.ID, Etag: `"1"`, Region: "eu", Zone: "a", GrpcAddress: n.addr,
		Role: kryptonv1.NodeRole_NODE_ROLE_NON_VOTER, Leader: n.i == 0, Self: n == s.n, Removed: s.n.c.reg.removed[n.id.ID],
		Health: s.n.c.health(n),
	}
	if s.n.c.reg.voters[n.id.ID] {
		out.Role = kryptonv1.NodeRole_NODE_ROLE_VOTER
	}
	return out
}

func (s clusterServer) ListNodes(ctx context.Context, _ *kryptonv1.ListNodesRequest) (*kryptonv1.ListNodesResponse, error) {
	if err := people(ctx); err != nil {
		return nil, err
	}
	resp := &kryptonv1.ListNodesResponse{}
	for _, n := range s.n.c.nodes {
		if !s.n.c.reg.removed[n.id.ID] {
			resp.Nodes = append(resp.Nodes, s.node(n))
		}
	}
	return resp, nil
}

func (s clusterServer) find(name string) (*node, error) {
	for _, n := range s.n.c.nodes {
		if "nodes/"+n.id.ID == name && !s.n.c.reg.removed[n.id.ID] {
			return n, nil
		}
	}
	return nil, errs.New(errs.NotFound, "no such node", errs.Hint("list them with: krypton operator members"))
}

func (s clusterServer) GetNode(ctx context.Context, r *kryptonv1.GetNodeRequest) (*kryptonv1.Node, error) {
	if err := people(ctx); err != nil {
		return nil, err
	}
	n, err := s.find(r.GetName())
	if err != nil {
		return nil, err
	}
	return s.node(n), nil
}

func operate(ctx context.Context) error {
	if role, _ := roleOf(ctx); role != "operator" && role != "governor" {
		return errs.New(errs.Denied, "a "+role+" may not do this", errs.Hint("ask an operator"))
	}
	return nil
}

func (s clusterServer) CreateJoinToken(ctx context.Context, r *kryptonv1.CreateJoinTokenRequest) (*kryptonv1.CreateJoinTokenResponse, error) {
	if err := operate(ctx); err != nil {
		return nil, err
	}
	ttl := time.Duration(r.GetTtlSeconds()) * time.Second
	if ttl == 0 {
		ttl = time.Hour
	}
	return &kryptonv1.CreateJoinTokenResponse{Token: JoinToken, ExpireTime: later(ttl)}, nil
}

// JoinToken is the token that every fake cluster gives out.
const JoinToken = "kjoin2-test"

func (s clusterServer) change(ctx context.Context, name string, dry bool, f func(id string)) (*kryptonv1.Node, error) {
	if err := operate(ctx); err != nil {
		return nil, err
	}
	n, err := s.find(name)
	if err != nil {
		return nil, err
	}
	if !dry {
		f(n.id.ID)
	}
	return s.node(n), nil
}

func (s clusterServer) PromoteNode(ctx context.Context, r *kryptonv1.PromoteNodeRequest) (*kryptonv1.Node, error) {
	return s.change(ctx, r.GetName(), r.GetValidateOnly(), func(id string) { s.n.c.reg.voters[id] = true })
}

func (s clusterServer) DemoteNode(ctx context.Context, r *kryptonv1.DemoteNodeRequest) (*kryptonv1.Node, error) {
	return s.change(ctx, r.GetName(), r.GetValidateOnly(), func(id string) { s.n.c.reg.voters[id] = false })
}

func (s clusterServer) RemoveNode(ctx context.Context, r *kryptonv1.RemoveNodeRequest) (*kryptonv1.Node, error) {
	return s.change(ctx, r.GetName(), r.GetValidateOnly(), func(id string) { s.n.c.reg.removed[id] = true })
}

func (s clusterServer) SaveSnapshot(ctx context.Context, r *kryptonv1.SaveSnapshotRequest) (*kryptonv1.SaveSnapshotResponse, error) {
	if err := operate(ctx); err != nil {
		return nil, err
	}
	raw := []byte("a snapshot file")
	at := min(r.GetOffset(), uint64(len(raw)))
	return &kryptonv1.SaveSnapshotResponse{Session: "one", Data: raw[at:], Last: true, Index: 1, Leased: true}, nil
}

func (s clusterServer) TransferLeadership(ctx context.Context, r *kryptonv1.TransferLeadershipRequest) (*kryptonv1.ClusterInfo, error) {
	if err := operate(ctx); err != nil {
		return nil, err
	}
	info := s.info()
	if r.GetTarget() != "" {
		if _, err := s.find(r.GetTarget()); err != nil {
			return nil, err
		}
		info.Leader = r.GetTarget()
	}
	return info, nil
}

func (s clusterServer) GetOperation(_ context.Context, r *kryptonv1.GetOperationRequest) (*kryptonv1.Operation, error) {
	if op := s.n.c.reg.ops[r.GetName()]; op != nil {
		return clone(op), nil
	}
	return nil, errs.New(errs.NotFound, "no such operation", errs.Hint("operations are remembered for 24 h"))
}

func (s clusterServer) WaitOperation(ctx context.Context, r *kryptonv1.WaitOperationRequest) (*kryptonv1.Operation, error) {
	s.n.c.reg.mu.Lock()
	defer s.n.c.reg.mu.Unlock()
	return s.GetOperation(ctx, &kryptonv1.GetOperationRequest{Name: r.GetName()})
}

type accessServer struct {
	kryptonv1.UnimplementedAccessServer
	n *node
}

func roleNumber(name string) kryptonv1.Role {
	return kryptonv1.Role(kryptonv1.Role_value["ROLE_"+strings.ToUpper(name)])
}

func (s accessServer) WhoAmI(ctx context.Context, _ *kryptonv1.WhoAmIRequest) (*kryptonv1.WhoAmIResponse, error) {
	role, rest := roleOf(ctx)
	c, _ := ctx.Value(callerKey{}).(caller)
	resp := &kryptonv1.WhoAmIResponse{
		Issuer: "00112233445566778899aabbccddeeff", Role: roleNumber(role), Name: rest,
		CertificateExpireTime: timestamppb.New(c.expire),
	}
	if tenant, name, ok := strings.Cut(rest, "/"); ok {
		resp.Tenant, resp.Name = "tenants/"+tenant, name
	}
	if b := s.n.c.reg.bindings["roleBindings/"+rest]; b != nil {
		resp.RoleBinding = b.GetName()
	}
	return resp, nil
}

func (s accessServer) GetRoleBinding(ctx context.Context, r *kryptonv1.GetRoleBindingRequest) (*kryptonv1.RoleBinding, error) {
	if err := people(ctx); err != nil {
		return nil, err
	}
	if b := s.n.c.reg.bindings[r.GetName()]; b != nil {
		return clone(b), nil
	}
	return nil, errs.NoSuchObject()
}

func (s accessServer) ListRoleBindings(ctx context.Context, r *kryptonv1.ListRoleBindingsRequest) (*kryptonv1.ListRoleBindingsResponse, error) {
	if err := people(ctx); err != nil {
		return nil, err
	}
	resp := &kryptonv1.ListRoleBindingsResponse{}
	if r.GetParent() != "" {
		return resp, nil // workloads have none
	}
	names, next := page(sortedNames(s.n.c.reg.bindings, ""), r.GetPageSize(), r.GetPageToken())
	for _, n := range names {
		resp.RoleBindings = append(resp.RoleBindings, clone(s.n.c.reg.bindings[n]))
	}
	resp.NextPageToken = next
	return resp, nil
}

func (s accessServer) IssueCertificate(ctx context.Context, r *kryptonv1.IssueCertificateRequest) (*kryptonv1.IssueCertificateResponse, error) {
	if err := govern(ctx); err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(r.GetPublicKey())
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "public key is not one")
	}
	name := strings.ToLower(strings.TrimPrefix(r.GetRole().String(), "ROLE_")) + "/"
	if r.GetTenant() != "" {
		name += strings.TrimPrefix(r.GetTenant(), "tenants/") + "/"
	}
	cert, expire, err := s.n.c.ca.issue(name+r.GetName(), pub)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &kryptonv1.IssueCertificateResponse{
		Certificate: cert, Ca: s.n.c.ca.pem, ExpireTime: timestamppb.New(expire), Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()),
	}, nil
}

func (s accessServer) RevokeCertificate(ctx context.Context, r *kryptonv1.RevokeCertificateRequest) (*kryptonv1.Revocation, error) {
	if err := operate(ctx); err != nil {
		return nil, err
	}
	serial, identity := r.GetSerial(), ""
	if len(r.GetCertificate()) > 0 {
		leaf, err := x509.ParseCertificate(r.GetCertificate())
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "the certificate does not parse")
		}
		serial, identity = hex.EncodeToString(leaf.SerialNumber.Bytes()), leaf.Subject.CommonName
	}
	if s.n.c.reg.revoked[serial] != nil {
		return nil, errs.New(errs.AlreadyExists, "the certificate is revoked already",
			errs.Hint("nothing is left to do; krypton operator cert revocations shows it"))
	}
	role, name := roleOf(ctx)
	rev := &kryptonv1.Revocation{
		Name: "certificates/" + serial, Serial: serial, Identity: identity, Reason: r.GetReason(), RevokedBy: role + "/" + name,
		RevokeTime: later(0), ExpireTime: later(certLife),
	}
	if !r.GetValidateOnly() {
		s.n.c.reg.revoked[serial] = rev
	}
	return rev, nil
}

func (s accessServer) ListRevocations(context.Context, *kryptonv1.ListRevocationsRequest) (*kryptonv1.ListRevocationsResponse, error) {
	out := &kryptonv1.ListRevocationsResponse{}
	for _, serial := range slices.Sorted(maps.Keys(s.n.c.reg.revoked)) {
		out.Revocations = append(out.Revocations, s.n.c.reg.revoked[serial])
	}
	return out, nil
}

// unsealed is the seal of a node that needs none.
type unsealed struct {
	kryptonv1.UnimplementedSealServer
	id string
}

func (s unsealed) GetSeal(context.Context, *kryptonv1.GetSealRequest) (*kryptonv1.SealStatus, error) {
	return &kryptonv1.SealStatus{
		NodeId: s.id, NodeName: s.id, State: kryptonv1.SealState_SEAL_STATE_UNSEALED, Mode: kryptonv1.SealMode_SEAL_MODE_AUTO,
		Generation: 1, Fingerprint: Fingerprint, UnsealsWithoutPeople: true,
	}, nil
}

func (s unsealed) Contribute(context.Context, *kryptonv1.ContributeRequest) (*kryptonv1.SealStatus, error) {
	return nil, errs.New(errs.NotSealed, "the node is unsealed already")
}
