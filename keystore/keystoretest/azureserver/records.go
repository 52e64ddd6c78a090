package azureserver

import (
	"slices"
	"time"
)

// Record is one call as the vault's diagnostic log has it. The fields carry the
// names of the columns of the table AzureDiagnostics, category AuditEvent.
type Record struct {
	TimeGenerated   time.Time
	OperationName   string // KeyWrap, KeyUnwrap, KeyGet, ...; "Authentication" for a challenge
	CorrelationID   string // x-ms-client-request-id of the call
	RequestID       string // x-ms-request-id of the answer
	HTTPStatusCode  int
	ResultSignature string // "OK", or error code and inner code
	KeyID           string // id_s
	CallerObjectID  string // identity_claim_oid_g
	CallerAppID     string // identity_claim_appid_g
	ClientInfo      string // user agent
}

// Records returns the log so far, oldest first.
func (s *Server) Records() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.records)
}

func (s *Server) record(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, r)
}
