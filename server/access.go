package server

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
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
		if until := identityOf(ctx).notAfter; !until.IsZero() {
			out.CertificateExpireTime = timestamppb.New(until)
			out.CertificateSerial = hex.EncodeToString([]byte(identityOf(ctx).serial))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
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
	var tenant hierarchy.Name
	if (role == auth.RoleWorkload) != (r.GetTenant() != "") {
		return nil, errs.New(errs.InvalidArgument, "a workload's certificate names its tenant, any other names none",
			errs.Hint("give tenant for the role workload and only for it"))
	}
	if r.GetTenant() != "" {
		p, err := path(r.GetTenant(), "tenant", hierarchy.KindTenant)
		if err != nil {
			return nil, err
		}
		tenant = p.Tenant
	}
	if !auth.ValidName(r.GetName()) {
		return nil, errs.New(errs.InvalidArgument, "name is missing, or none that a certificate can have",
			errs.Hint("1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"))
	}
	pub, err := pki.ParsePublicKey(r.GetPublicKey())
	if err != nil {
		return nil, err
	}
	// A retry signs once more, which does no harm; the id is looked at so that a
	// mistake in it is not overlooked here alone.
	if _, err := s.request(r); err != nil {
		return nil, err
	}
	out := &kryptonv1.IssueCertificateResponse{}
	err = s.do(ctx, gate.IssueCertificate, node.ObjectCluster, func(tok gate.Token) error {
		leaf, ca, err := s.node.IssueCaller(ctx, tok, role, tenant, r.GetName(), pub, time.Duration(r.GetTtlSeconds())*time.Second)
		if err != nil {
			return err
		}
		out.Certificate, out.Ca, out.ExpireTime = certPEM(leaf.Raw), certPEM(ca.Raw), timestamppb.New(leaf.NotAfter)
		out.Serial = hex.EncodeToString(leaf.SerialNumber.Bytes())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
