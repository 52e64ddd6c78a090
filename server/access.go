package server

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

type accessServer struct {
	kryptonv1.UnimplementedAccessServer
	*calls
}

//nolint:gochecknoglobals // Immutable table.
var apiRoles = map[auth.Role]kryptonv1.Role{
	auth.RoleGovernor:  kryptonv1.Role_ROLE_GOVERNOR,
	auth.RoleCustodian: kryptonv1.Role_ROLE_CUSTODIAN,
	auth.RoleOperator:  kryptonv1.Role_ROLE_OPERATOR,
	auth.RoleAuditor:   kryptonv1.Role_ROLE_AUDITOR,
	auth.RoleWorkload:  kryptonv1.Role_ROLE_WORKLOAD,
}

// WhoAmI implements kryptonv1.AccessServer.
func (s accessServer) WhoAmI(ctx context.Context, _ *kryptonv1.WhoAmIRequest) (*kryptonv1.WhoAmIResponse, error) {
	out := &kryptonv1.WhoAmIResponse{}
	err := s.do(ctx, gate.WhoAmI, node.ObjectCluster, func(tok gate.Token) error {
		p := tok.Principal()
		out.Issuer, out.Role, out.Name = p.Issuer.String(), apiRoles[p.Role], p.Name
		if p.Tenant != "" {
			out.Tenant = hierarchy.TenantPath(p.Tenant).String()
		}
		s.standing(out, callerOf(ctx))
		who := callerOf(ctx)
		if !who.NotAfter.IsZero() {
			out.CertificateExpireTime = timestamppb.New(who.NotAfter)
			out.CertificateSerial = hex.EncodeToString([]byte(who.Serial))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// maxGoverns bounds the tenants that WhoAmI names.
const maxGoverns = 100

// standing adds what the registry says about the caller.
func (s accessServer) standing(out *kryptonv1.WhoAmIResponse, who caller) {
	out.IssuerName, out.Expired = who.Issuer, who.Expired
	v := s.machine.View()
	b, ok := v.BindingByUID(who.Binding[:])
	if !ok {
		return
	}
	out.RoleBinding, out.Platform = bindingName(b), b.GetPlatform()
	if b.GetRole() != auth.RoleGovernor.String() {
		return
	}
	for after := ""; len(out.GetGoverns()) < maxGoverns; {
		some := v.Tenants(after, MaxPage)
		for _, t := range some {
			after = t.GetName()
			if v.Governs(b, t) && t.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED && len(out.GetGoverns()) < maxGoverns {
				out.Governs = append(out.Governs, hierarchy.TenantPath(hierarchy.Name(t.GetName())).String())
			}
		}
		if len(some) < MaxPage {
			return
		}
	}
}

// IssueCertificate implements kryptonv1.AccessServer.
func (s accessServer) IssueCertificate(ctx context.Context, r *kryptonv1.IssueCertificateRequest) (*kryptonv1.IssueCertificateResponse, error) {
	var role auth.Role
	for a, b := range apiRoles {
		if b == r.GetRole() {
			role = a
		}
	}
	if !role.Valid() {
		return nil, errs.New(errs.InvalidArgument, "role is missing, or none that this node knows", errs.Hint("governor, custodian, operator, auditor or workload"))
	}
	c := node.Caller{Role: role, Name: r.GetName(), PublicKey: r.GetPublicKey()}
	object := node.ObjectCluster
	if (role == auth.RoleWorkload) != (r.GetTenant() != "") {
		return nil, errs.New(errs.InvalidArgument, "a workload's certificate names its tenant, any other names none",
			errs.Hint("give tenant for the role workload and only for it"))
	}
	if r.GetTenant() != "" {
		p, err := path(r.GetTenant(), "tenant", hierarchy.KindTenant)
		if err != nil {
			return nil, err
		}
		c.Tenant, object = p.Tenant, p.String()
	}
	if !auth.ValidName(r.GetName()) {
		return nil, errs.New(errs.InvalidArgument, "name is missing, or none that a certificate can have",
			errs.Hint("1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"))
	}
	if _, err := pki.ParsePublicKey(r.GetPublicKey()); err != nil {
		return nil, err
	}
	req, err := s.request(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.IssueCertificateResponse{}
	err = s.do(ctx, gate.IssueCertificate, object, func(tok gate.Token) error {
		leaf, _, err := s.node.IssueCaller(ctx, tok, req, c, time.Duration(r.GetTtlSeconds())*time.Second)
		if err != nil {
			return err
		}
		s.issuedToAPI(out, leaf)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// RenewCertificate implements kryptonv1.AccessServer.
func (s accessServer) RenewCertificate(ctx context.Context, r *kryptonv1.RenewCertificateRequest) (*kryptonv1.IssueCertificateResponse, error) {
	out := &kryptonv1.IssueCertificateResponse{}
	err := s.do(ctx, gate.RenewCertificate, node.ObjectCluster, func(tok gate.Token) error {
		who := callerOf(ctx)
		if who.key == nil {
			return errs.New(errs.FailedState, "there is no certificate to renew: the caller showed a token", errs.Hint("get a new token where this one is from"))
		}
		leaf, _, err := s.node.RenewCaller(ctx, tok, who.Binding, who.key, time.Duration(r.GetTtlSeconds())*time.Second)
		if err != nil {
			return err
		}
		s.issuedToAPI(out, leaf)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// issuedToAPI shows a certificate, with every CA by which its holder may meet nodes: one
// that has not renewed its own yet shows none of the new CA.
func (s accessServer) issuedToAPI(out *kryptonv1.IssueCertificateResponse, leaf *x509.Certificate) {
	out.Certificate, out.Ca, out.ExpireTime = certPEM(leaf.Raw), caPEM(s.machine.View(), s.clock.Now()), timestamppb.New(leaf.NotAfter)
	out.Serial = hex.EncodeToString(leaf.SerialNumber.Bytes())
}

// caPEM is what callers verify nodes with.
func caPEM(v *fsm.View, now time.Time) (out []byte) {
	for _, der := range node.Trusted(v, node.SecretNodeCA, now) {
		out = append(out, certPEM(der)...)
	}
	return out
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
