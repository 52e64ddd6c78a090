package server

import "crypto/x509"

// Knows reports whether the holder of leaf is accepted as a caller.
func (s *Server) Knows(leaf *x509.Certificate) bool {
	return s.calls.identify(nil, leaf).refused == nil
}

// Limits for docs/limits.md.
const (
	HeaderBytes  = headerBytes
	MaxDeadline  = maxDeadline
	MaxTokenLife = maxTokenLife

	StrangerBytes  = strangerBytes
	StrangerTime   = strangerTime
	StrangerShare  = strangerShare
	PeopleShare    = peopleShare
	SourceRate     = sourceRate
	SourceBurst    = sourceBurst
	Sources        = sources
	CallerAccounts = callerAccounts
	TenantAccounts = tenantAccounts
	ProtectAtOnce  = protectAtOnce
	CostBytes      = costBytes
	OpsConnections = opsConnections
	HeaderTimeout  = headerTimeout
	IdleTimeout    = idleTimeout
	ConnectionAge  = connectionAge
)

// Handed returns how many certificates of callers of other nodes s keeps.
func (s *Server) Handed() int {
	s.calls.handed.mu.RLock()
	defer s.calls.handed.mu.RUnlock()
	return len(s.calls.handed.byDER)
}

// Forget makes s verify every certificate that another node hands over anew.
func (s *Server) Forget() {
	s.calls.handed.mu.Lock()
	s.calls.handed.byDER = nil
	s.calls.handed.mu.Unlock()
}

// ClassesOfMethods returns what calls of each method count as.
func ClassesOfMethods() map[string]string {
	out := map[string]string{}
	for m, c := range classes {
		out[m] = c.String()
	}
	return out
}
