package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// outgoing remembers when this node last accepted who shows a certificate of a CA that was
// replaced, by the CA's key. It has no more than the registry has such CAs, and a few that
// it had.
type outgoing struct {
	mu   sync.Mutex
	used map[auth.Issuer]time.Time
}

// maxOutgoing bounds it: more than retire at a time, over the life of a process.
const maxOutgoing = 4 * fsm.MaxRetiring

func (o *outgoing) note(ca auth.Issuer, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.used[ca]; !known && len(o.used) >= maxOutgoing {
		o.used = nil // all that count are noted again when they are used
	}
	if o.used == nil {
		o.used = map[auth.Issuer]time.Time{}
	}
	o.used[ca] = now
}

// last returns when that was; zero: not since the node started.
func (o *outgoing) last(ca auth.Issuer) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.used[ca]
}

// authorityName takes the name of the CA out of authorities/{ca}.
func authorityName(name string) (string, error) {
	ca, ok := strings.CutPrefix(name, "authorities/")
	if !ok || !fsm.IsAuthority(ca) {
		return "", errs.New(errs.InvalidArgument, "the cluster has no CA of this name", errs.Hint("authorities/%s or authorities/%s", node.SecretCallerCA, node.SecretNodeCA))
	}
	return ca, nil
}

// baseOf reads base_sha256.
func baseOf(text string) ([]byte, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != sha256.Size {
		return nil, errs.New(errs.InvalidArgument, "base_sha256 is not the SHA-256 of a certificate in hex", errs.Hint("krypton operator ca show shows it"))
	}
	return b, nil
}

// GetAuthorities implements kryptonv1.AccessServer.
func (s accessServer) GetAuthorities(ctx context.Context, _ *kryptonv1.GetAuthoritiesRequest) (*kryptonv1.GetAuthoritiesResponse, error) {
	out := &kryptonv1.GetAuthoritiesResponse{}
	err := s.do(ctx, gate.GetAuthorities, node.ObjectCluster, func(gate.Token) error {
		l := s.look(ctx)
		out.Node = node.NodeName(s.nodeID)
		for _, name := range []string{node.SecretCallerCA, node.SecretNodeCA} {
			if a := s.authorityToAPI(l.View, name); a != nil {
				out.Authorities = append(out.Authorities, a)
			}
		}
		if leaf := s.certs.current(); leaf != nil {
			out.NodeCertificateExpireTime = timestamppb.New(leaf.NotAfter)
			if ca := signerOf(l.View, leaf); ca != nil {
				out.NodeCertificateCa = sumText(ca)
			}
		}
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// signerOf returns the certificate of the CA of nodes, present or replaced, that signed
// leaf; nil: none that is trusted.
func signerOf(v *fsm.View, leaf *x509.Certificate) []byte {
	s, _ := v.Secret(node.SecretNodeCA)
	all := [][]byte{s.GetPublic()}
	for _, p := range s.GetPrevious() {
		all = append(all, p.GetCertificate())
	}
	for _, der := range all {
		if ca, err := x509.ParseCertificate(der); err == nil && leaf.CheckSignatureFrom(ca) == nil {
			return der
		}
	}
	return nil
}

func sumText(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// authorityToAPI shows a CA; nil: there is none.
func (s accessServer) authorityToAPI(v *fsm.View, name string) *kryptonv1.Authority {
	secret, ok := v.Secret(name)
	if !ok {
		return nil
	}
	out := &kryptonv1.Authority{
		Name: fsm.AuthorityName(name), Certificate: certPEM(secret.GetPublic()), Sha256: sumText(secret.GetPublic()),
		Replacements: count(len(secret.GetLineage())), Etag: etag(secret.GetModIndex()),
	}
	if ca, err := x509.ParseCertificate(secret.GetPublic()); err == nil {
		out.ExpireTime = timestamppb.New(ca.NotAfter)
	}
	now := s.clock.Now().UnixMilli()
	for _, p := range secret.GetPrevious() {
		if p.GetRetireTimeMs() > now {
			out.Previous = append(out.Previous, s.retiringToAPI(name, p))
		}
	}
	return out
}

func (s accessServer) retiringToAPI(name string, p *fsmpb.RetiringAuthority) *kryptonv1.RetiringAuthority {
	out := &kryptonv1.RetiringAuthority{
		Certificate: certPEM(p.GetCertificate()), Sha256: sumText(p.GetCertificate()), RetireTime: timestamppb.New(time.UnixMilli(p.GetRetireTimeMs())),
	}
	if ca, err := x509.ParseCertificate(p.GetCertificate()); err == nil && name == node.SecretCallerCA {
		if at := s.outgoing.last(pki.IssuerOf(ca)); !at.IsZero() {
			out.LastUsedTime = timestamppb.New(at)
		}
	}
	return out
}

// ReplaceAuthority implements kryptonv1.AccessServer.
func (s accessServer) ReplaceAuthority(ctx context.Context, r *kryptonv1.ReplaceAuthorityRequest) (*kryptonv1.Authority, error) {
	name, err := authorityName(r.GetName())
	if err != nil {
		return nil, err
	}
	base, err := baseOf(r.GetBaseSha256())
	if err != nil {
		return nil, err
	}
	overlap := time.Duration(r.GetOverlapSeconds()) * time.Second
	switch {
	case r.GetNoOverlap() && overlap != 0:
		return nil, errs.New(errs.InvalidArgument, "no_overlap and overlap_seconds contradict each other", errs.Hint("give one of them"))
	case overlap > fsm.MaxOverlapMS*time.Millisecond:
		return nil, errs.New(errs.InvalidArgument, "overlap_seconds is more than 30 days", errs.Hint("what a CA signed lives no longer"))
	case !r.GetNoOverlap() && overlap == 0:
		overlap = intent.DefaultOverlapMs * time.Millisecond
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Authority
	err = s.do(ctx, gate.ReplaceAuthority, fsm.AuthorityName(name), func(tok gate.Token) error {
		if err := s.node.ReplaceAuthority(ctx, tok, req, name, base, overlap); err != nil {
			return err
		}
		out = s.authorityToAPI(s.machine.View(), name)
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// RetireAuthority implements kryptonv1.AccessServer.
func (s accessServer) RetireAuthority(ctx context.Context, r *kryptonv1.RetireAuthorityRequest) (*kryptonv1.Authority, error) {
	name, err := authorityName(r.GetName())
	if err != nil {
		return nil, err
	}
	base, err := baseOf(r.GetBaseSha256())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Authority
	err = s.do(ctx, gate.RetireAuthority, fsm.AuthorityName(name), func(tok gate.Token) error {
		if err := s.node.RetireAuthority(ctx, tok, req, name, base); err != nil {
			return err
		}
		out = s.authorityToAPI(s.machine.View(), name)
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}
