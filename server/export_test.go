package server

import "crypto/x509"

// Knows reports whether the holder of leaf is accepted as a caller.
func (s *Server) Knows(leaf *x509.Certificate) bool { return s.calls.identify(leaf).refused == nil }

// Limits for docs/limits.md.
const (
	HeaderBytes  = headerBytes
	MaxDeadline  = maxDeadline
	MaxTokenLife = maxTokenLife
)
