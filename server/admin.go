package server

import (
	"context"
	"encoding/hex"
	"log/slog"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// adminServer answers on the socket in the data directory. Whoever may open
// that is the local operator.
type adminServer struct {
	kryptonv1.UnimplementedAdminServer
	*calls
}

// Init implements kryptonv1.AdminServer.
func (s adminServer) Init(ctx context.Context, r *kryptonv1.InitRequest) (*kryptonv1.InitResponse, error) {
	plan, err := initPlan(r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.InitResponse{}
	err = s.do(ctx, gate.Init, node.ObjectCluster, func(tok gate.Token) error {
		made, err := s.node.Init(ctx, tok, plan)
		if err != nil || made == nil {
			return err
		}
		// The cluster exists. From here on nothing may fail: the shares are in this
		// answer and nowhere else.
		s.adopt(ctx, cluster.Certificate{Chain: [][]byte{made.OwnCert.Raw}, Authorities: [][]byte{made.NodeCA.Raw}})
		s.know(ctx)
		out.Fingerprint, out.KeyspaceId, out.ClusterId = hex.EncodeToString(made.Fingerprint[:]), made.Keyspace.String(), made.Cluster.String()
		out.Shares, out.Ca = made.ShareTexts, certPEM(made.NodeCA.Raw)
		out.AcceptedRisks = made.Risks
		out.UnsealsWithoutPeople, out.PersonsNeeded = made.Persons == 0, count(made.Persons)
		for _, c := range made.Certificates {
			out.Certificates = append(out.Certificates, &kryptonv1.IssuedCertificate{Name: c.Name, Role: c.Role.String(), Certificate: certPEM(c.Cert.Raw)})
		}
		return nil
	})
	if err != nil {
		wipe(out)
		return nil, err
	}
	return out, nil
}

// adopt takes over a certificate; what cannot be kept is asked for again.
func (c *calls) adopt(ctx context.Context, cert cluster.Certificate) {
	if err := c.certs.adopt(cert); err != nil {
		c.log.WarnContext(ctx, "the certificate of this node cannot be kept", slog.Any("error", err))
	}
}

// know takes over the CA of callers before the answer goes out that they may
// come. What cannot be kept on disk is tried again with the next change.
func (c *calls) know(ctx context.Context) {
	if err := c.dirs.keep(c.machine.View()); err != nil {
		c.log.WarnContext(ctx, "the CA of callers cannot be kept", slog.Any("error", err))
	}
}

func initPlan(r *kryptonv1.InitRequest) (node.InitPlan, error) {
	p := node.InitPlan{
		ClusterName: r.GetClusterName(), Voters: int(r.GetVoters()),
		DestroyWait:    time.Duration(r.GetDestroyWaitSeconds()) * time.Second,
		RollbackWindow: time.Duration(r.GetRollbackWindowSeconds()) * time.Second,
		ValidateOnly:   r.GetValidateOnly(),
		GovernorQuorum: int(min(r.GetGovernorQuorum(), 1<<16)), CustodianQuorum: int(min(r.GetCustodianQuorum(), 1<<16)),
	}
	if p.ClusterName == "" {
		p.ClusterName = "krypton"
	}
	if _, err := hierarchy.ParseName(p.ClusterName); err != nil {
		return p, errs.New(errs.InvalidArgument, "the cluster's "+errs.From(err).Msg, errs.Hint("%s", errs.From(err).Hint))
	}
	switch {
	case r.GetNoDestroyWait() && p.DestroyWait != 0:
		return p, errs.New(errs.InvalidArgument, "no_destroy_wait and destroy_wait_seconds contradict each other")
	case !r.GetNoDestroyWait() && p.DestroyWait == 0:
		p.DestroyWait = node.DefaultDestroyWait
	}
	if p.RollbackWindow == 0 {
		p.RollbackWindow = node.DefaultRollbackWindow
	}
	var err error
	if p.Seal, err = sealOf(r); err != nil {
		return p, err
	}
	if p.AcceptRisks, err = plan.ParseRisks(r.GetAcceptRisks()); err != nil {
		return p, err
	}
	if p.Profile, err = plan.ParseProfile(r.GetSealProfile()); err != nil {
		return p, err
	}
	for _, g := range r.GetGovernors() {
		p.Governors = append(p.Governors, node.Person{Name: g.GetName(), PublicKey: g.GetPublicKey()})
	}
	for _, c := range r.GetCustodians() {
		p.Custodians = append(p.Custodians, node.Person{Name: c.GetName(), PublicKey: c.GetPublicKey()})
	}
	return p, nil
}

// Join implements kryptonv1.AdminServer.
func (s adminServer) Join(ctx context.Context, r *kryptonv1.JoinRequest) (*kryptonv1.JoinResponse, error) {
	token, err := cluster.ParseJoinToken(r.GetToken())
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, err.Error(), errs.Hint("copy the whole line that krypton operator join-token prints"), errs.Cause(err))
	}
	return s.join(ctx, token)
}

// join makes this node a member and waits until its own registry says so.
func (c *calls) join(ctx context.Context, token cluster.JoinToken) (*kryptonv1.JoinResponse, error) {
	out := &kryptonv1.JoinResponse{NodeId: c.nodeID}
	err := c.do(ctx, gate.Join, node.ObjectCluster, func(gate.Token) error {
		cert, err := c.cluster.Join(ctx, token)
		if err != nil {
			return err
		}
		if len(cert.Chain) > 0 {
			c.adopt(ctx, cert)
		}
		v, err := c.member(ctx)
		if err != nil {
			return err
		}
		c.know(ctx)
		m, _ := v.Member(c.nodeID)
		out.Fingerprint, out.Voter = hex.EncodeToString(v.Cluster().GetFingerprint()), m.GetVoter()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetStatus implements kryptonv1.AdminServer.
func (s adminServer) GetStatus(ctx context.Context, _ *kryptonv1.GetStatusRequest) (*kryptonv1.GetStatusResponse, error) {
	out := &kryptonv1.GetStatusResponse{DataDir: s.dataDir, Version: s.version}
	err := s.do(ctx, gate.GetStatus, node.ObjectCluster, func(gate.Token) (err error) {
		out.Cluster = s.clusterInfo(s.machine.View())
		for _, f := range s.node.PolicyFaults() {
			out.PolicyFaults = append(out.PolicyFaults, &kryptonv1.PolicyFault{Tenant: hierarchy.TenantPath(f.Tenant).String(), Reason: f.Reason})
		}
		out.Seal, err = s.sealStatus()
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
