package server

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// maxCertificateBytes bounds a certificate that is to be revoked.
const maxCertificateBytes = 16 << 10

// RevokeCertificate implements kryptonv1.AccessServer.
func (s accessServer) RevokeCertificate(ctx context.Context, r *kryptonv1.RevokeCertificateRequest) (*kryptonv1.Revocation, error) {
	target := node.Revocation{Reason: r.GetReason()}
	switch {
	case (len(r.GetCertificate()) == 0) == (r.GetSerial() == ""):
		return nil, errs.New(errs.InvalidArgument, "a revocation names one certificate: by itself, or by its serial number",
			errs.Hint("give the certificate or the serial number, not both"))
	case r.GetSerial() != "":
		serial, err := parseSerial(r.GetSerial())
		if err != nil {
			return nil, err
		}
		target.Serial = serial
	default:
		leaf, err := parseLeaf(r.GetCertificate())
		if err != nil {
			return nil, err
		}
		dir := s.dirs.of(s.machine.View())
		v, err := dir.callers.Verify(leaf, leaf.NotBefore)
		if i, ok := dir.IssuerByUID(v.Issuer[:]); err == nil && (!ok || !identity.IsBuiltin(i) || v.ID == (auth.ID{})) {
			err = errs.New(errs.InvalidArgument, "its issuer is not the cluster's own CA, or it names no caller")
		}
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "the certificate is not one that this cluster gave to a caller",
				errs.Hint("give the certificate of a caller of this cluster; those of nodes end with the membership: krypton operator remove"), errs.Cause(err))
		}
		target.Serial, target.NotAfter, target.Name, target.Role = []byte(v.Serial), v.NotAfter, v.ID.String(), v.ID.Role
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.Revocation{}
	err = s.do(ctx, gate.RevokeCertificate, fsm.CertificateName(target.Serial), func(tok gate.Token) error {
		rev, err := s.node.RevokeCertificate(ctx, tok, req, target)
		if err != nil {
			return err
		}
		out = revocationToAPI(rev)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListRevocations implements kryptonv1.AccessServer.
func (s accessServer) ListRevocations(ctx context.Context, r *kryptonv1.ListRevocationsRequest) (*kryptonv1.ListRevocationsResponse, error) {
	pg, err := page(r, "revocations", "")
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListRevocationsResponse{}
	err = s.do(ctx, gate.ListRevocations, node.ObjectCluster, func(gate.Token) error {
		l, last := s.look(ctx), uint64(0)
		out.Revocations, out.NextPageToken = collect(pg,
			func(after string, limit int) []*fsmpb.Revocation {
				return l.View.Revocations(serialAfter(after), limit)
			},
			func(r *fsmpb.Revocation) (string, kryptonv1.ObjectState) {
				return hex.EncodeToString(r.GetSerial()), kryptonv1.ObjectState_OBJECT_STATE_ACTIVE
			},
			func(r *fsmpb.Revocation) *kryptonv1.Revocation {
				last = max(last, r.GetModIndex())
				return revocationToAPI(r)
			})
		return s.shown(ctx, l, last, nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// serialAfter returns the serial number of a page token. A token that was made
// up is as good as the last number below it.
func serialAfter(after string) []byte {
	b, _ := hex.DecodeString(after) // what could be read counts
	return b
}

func revocationToAPI(r *fsmpb.Revocation) *kryptonv1.Revocation {
	return &kryptonv1.Revocation{
		Name: fsm.CertificateName(r.GetSerial()), Serial: hex.EncodeToString(r.GetSerial()), Identity: r.GetName(), Reason: r.GetReason(),
		RevokedBy: r.GetRevokedBy(), RevokeTime: stamp(r.GetRevokeTimeMs()), ExpireTime: stamp(r.GetExpireTimeMs()),
	}
}

// parseSerial reads a serial number in the one form that the API gives out.
func parseSerial(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) == 0 || len(b) > fsm.MaxSerialBytes || b[0] == 0 || hex.EncodeToString(b) != s {
		return nil, errs.New(errs.InvalidArgument, "the serial number is not one",
			errs.Hint("lower-case hexadecimal as krypton operator cert issue and krypton whoami show it, 1 to 20 bytes"))
	}
	return b, nil
}

// parseLeaf reads one certificate, PEM or DER.
func parseLeaf(b []byte) (*x509.Certificate, error) {
	hint := errs.Hint("give the certificate that krypton operator cert issue wrote, PEM or DER, alone")
	if len(b) > maxCertificateBytes {
		return nil, errs.Newf(errs.TooLarge, "the certificate is larger than %d bytes", maxCertificateBytes).With(hint)
	}
	if block, _ := pem.Decode(b); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, errs.New(errs.InvalidArgument, "the PEM block is not a certificate", hint)
		}
		b = block.Bytes
	}
	leaf, err := x509.ParseCertificate(b)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "the certificate does not parse", hint, errs.Cause(err))
	}
	return leaf, nil
}
