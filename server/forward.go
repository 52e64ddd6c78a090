package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"sync"

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
	if leaf, ok := c.handed.get(sum); ok {
		return c.identifyNow(leaf), nil
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return caller{}, errs.New(errs.Unauthenticated, "what the caller showed is no certificate", errs.Hint("find out why the node that forwards it says so"), errs.Cause(err))
	}
	who := c.identifyNow(leaf)
	if who.refused == nil {
		c.handed.put(sum, leaf)
	}
	return who, nil
}

// shownCertificates keeps parsed certificates that were accepted once, by SHA-256 of
// their bytes. Who holds one is not kept here: the parsed certificate is the key under
// which [verifiedCache] does that, for as long as the registry does not change.
type shownCertificates struct {
	mu    sync.RWMutex
	byDER map[[sha256.Size]byte]*x509.Certificate
}

func (s *shownCertificates) get(sum [sha256.Size]byte) (*x509.Certificate, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	leaf, ok := s.byDER[sum]
	return leaf, ok
}

func (s *shownCertificates) put(sum [sha256.Size]byte, leaf *x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byDER == nil || len(s.byDER) >= maxVerified {
		s.byDER = map[[sha256.Size]byte]*x509.Certificate{}
	}
	s.byDER[sum] = leaf
}
