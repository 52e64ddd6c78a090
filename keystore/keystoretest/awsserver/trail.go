package awsserver

import (
	"maps"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/corr"
)

// Record is what the trail keeps of one call: the fields of CloudTrail that
// concern Krypton. Like CloudTrail it has no plaintext and no ciphertext.
type Record struct {
	Source            string // eventSource: "kms.amazonaws.com" or "sts.amazonaws.com"
	Event             string // eventName: "Decrypt"
	RequestID         string
	UserAgent         string
	Principal         string // ARN; empty where the caller was not recognised
	Key               string // ARN of the key, if it exists; else what the caller named
	EncryptionContext map[string]string
	ErrorCode         string // empty when it succeeded
}

// userAgentKey is the key that keystore/awskms puts before the correlation id.
const userAgentKey = "krypton-corr/"

// Correlation returns the correlation id in the user agent, or "".
func (r Record) Correlation() corr.ID {
	for part := range strings.FieldsSeq(r.UserAgent) {
		if id, ok := strings.CutPrefix(part, userAgentKey); ok {
			return corr.ID(id)
		}
	}
	return ""
}

// Trail returns what was called so far, in order of arrival.
func (s *Server) Trail() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.trail)
	for i := range out {
		out[i].EncryptionContext = maps.Clone(out[i].EncryptionContext)
	}
	return out
}

func (s *Server) record(r Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trail = append(s.trail, r)
}
