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

// Verified returns how many certificates s remembers to have verified, and how many of
// callers of other nodes it keeps parsed.
func (s *Server) Verified() (verified, handed int) {
	s.calls.verified.mu.RLock()
	defer s.calls.verified.mu.RUnlock()
	s.calls.handed.mu.RLock()
	defer s.calls.handed.mu.RUnlock()
	return len(s.calls.verified.byCert), len(s.calls.handed.byDER)
}

// Forget makes s verify every certificate anew.
func (s *Server) Forget() {
	s.calls.verified.mu.Lock()
	s.calls.verified.byCert = nil
	s.calls.verified.mu.Unlock()
	s.calls.handed.mu.Lock()
	s.calls.handed.byDER = nil
	s.calls.handed.mu.Unlock()
}
