package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Identify returns who showed a credential to another node of the cluster, for this
// one, which leads and is to commit what they ask. It implements a part of
// [cluster.Hooks], before [Server.Run] and after it too.
//
// It is what this node's own doors find, by the present registry: a refusal here is no
// guess, because the leader has applied all that was acknowledged. That the caller holds
// the key of the certificate is what the other node saw, and cannot be proved to this one.
func (s *Server) Identify(ctx context.Context, shown auth.Credential) (cluster.Caller, error) {
	return s.calls.identifyShown(ctx, shown)
}

func (c *calls) identifyShown(ctx context.Context, shown auth.Credential) (cluster.Caller, error) {
	who, err := c.callerOfShown(ctx, shown)
	switch {
	case err != nil:
		return cluster.Caller{}, err
	case who.refused != nil:
		return cluster.Caller{}, who.refused
	case who.Expired: // nothing that its holder may do is a change
		return cluster.Caller{}, pki.ErrExpired(who.NotAfter, c.clock.Now())
	}
	return cluster.Caller{Principal: who.Principal, Serial: who.Serial}, nil
}

func (c *calls) callerOfShown(ctx context.Context, shown auth.Credential) (caller, error) {
	if token := shown.Token(); token != "" {
		return c.identifyTokenNow(ctx, token), nil
	}
	der := shown.Certificate()
	sum := sha256.Sum256(der)
	if h, ok := c.handed.get(sum); ok {
		return c.identifyNow(&h.verified, h.leaf), nil
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return caller{}, errs.New(errs.Unauthenticated, "what the caller showed is no certificate", errs.Hint("find out why the node that forwards it says so"), errs.Cause(err))
	}
	h := &handed{leaf: leaf}
	who := c.identifyNow(&h.verified, leaf)
	if who.refused == nil {
		c.handed.put(sum, h)
	}
	return who, nil
}

// handed is a certificate that another node handed over, and who holds it, for as long
// as the registry does not change.
type handed struct {
	leaf     *x509.Certificate
	verified atomic.Pointer[verified]
}

// maxHanded bounds the certificates of callers of other nodes that are kept parsed, a
// few KiB each; with more, all are parsed anew. Only who is accepted is kept, and a
// caller has as many certificates as somebody issued.
const maxHanded = 16384

// shownCertificates keeps parsed certificates that were accepted once, by SHA-256 of
// their bytes.
type shownCertificates struct {
	mu    sync.RWMutex
	byDER map[[sha256.Size]byte]*handed
}

func (s *shownCertificates) get(sum [sha256.Size]byte) (*handed, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	h, ok := s.byDER[sum]
	return h, ok
}

func (s *shownCertificates) put(sum [sha256.Size]byte, h *handed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byDER == nil || len(s.byDER) >= maxHanded {
		s.byDER = map[[sha256.Size]byte]*handed{}
	}
	s.byDER[sum] = h
}
