package server

import (
	"crypto/x509"

	"github.com/openkcm/krypton-cluster/node"
)

// Knows reports whether the holder of leaf is accepted as a caller.
func (s *Server) Knows(leaf *x509.Certificate) bool { return s.calls.identify(leaf).refused == nil }

// Limits for docs/limits.md.
const (
	HeaderBytes  = headerBytes
	MaxDeadline  = maxDeadline
	MaxTokenLife = maxTokenLife
)

// Accept makes another CA the one whose callers are accepted, for good, so that
// a test can make certificates that the cluster's own CA never signs.
func (s *Server) Accept(der []byte, domain string) error {
	c := s.calls.certs
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.accept(der, domain); err != nil {
		return err
	}
	secret, _ := s.calls.machine.View().Secret(node.SecretCallerCA)
	c.caSeen, c.caKept = secret.GetPublic(), true
	return nil
}
