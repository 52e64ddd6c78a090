package awsserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// imdsState is what the metadata service knows.
type imdsState struct {
	tokens  map[string]time.Time // token -> its end
	current *session
	far     bool // behind one hop too many
}

// SetInstanceRole makes a role the instance's, so that the metadata service
// gives out its credentials; an empty ARN takes it away.
func (s *Server) SetInstanceRole(arn string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.roles[arn]; !ok && arn != "" {
		return errors.New("no such role")
	}
	s.instance, s.metadata.current = arn, nil
	return nil
}

// SetHops puts the client behind so many hops. IMDSv2 sends its token with a
// hop limit of one, so that from two hops away (a container with a network of
// its own) the answer never arrives.
func (s *Server) SetHops(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metadata.far = n > 1
}

// serveIMDS is the metadata service, version 2 only.
func (s *Server) serveIMDS(w http.ResponseWriter, r *http.Request) {
	const tokenPath, rolesPath = "/latest/api/token", "/latest/meta-data/iam/security-credentials/"
	rec := Record{Source: "imds", Event: r.Method + " " + r.URL.Path, RequestID: requestID(), UserAgent: r.UserAgent()}
	end := func(status int, body string) {
		if status != http.StatusOK {
			rec.ErrorCode = strconv.Itoa(status)
		}
		s.record(rec) // I2
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
	now := s.now()
	s.mu.Lock()
	far, until := s.metadata.far, s.metadata.tokens[r.Header.Get("X-Aws-Ec2-Metadata-Token")]
	instance := s.instance
	s.mu.Unlock()
	switch {
	case r.Header.Get("X-Forwarded-For") != "":
		end(http.StatusForbidden, "")
	case r.Method == http.MethodPut && r.URL.Path == tokenPath:
		ttl, err := strconv.Atoi(r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
		if err != nil || ttl < 1 || ttl > 21600 {
			end(http.StatusBadRequest, "")
			return
		}
		if far {
			rec.ErrorCode = "hop limit"
			s.record(rec)
			<-r.Context().Done() // the packets of the answer do not arrive
			return
		}
		token := random(28)
		s.mu.Lock()
		s.metadata.tokens[token] = now.Add(time.Duration(ttl) * time.Second)
		s.mu.Unlock()
		end(http.StatusOK, token)
	case !now.Before(until):
		end(http.StatusUnauthorized, "")
	case r.Method != http.MethodGet || instance == "":
		end(http.StatusNotFound, "")
	case r.URL.Path == rolesPath:
		end(http.StatusOK, instance[strings.LastIndexByte(instance, '/')+1:])
	case r.URL.Path == rolesPath+instance[strings.LastIndexByte(instance, '/')+1:]:
		n := s.instanceSession(instance, now)
		text, err := json.Marshal(map[string]string{
			"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": n.issued.UTC().Format(time.RFC3339),
			"AccessKeyId": n.id, "SecretAccessKey": n.secret, "Token": n.token, "Expiration": n.expires.UTC().Format(time.RFC3339),
		})
		if err != nil {
			end(http.StatusInternalServerError, "")
			return
		}
		end(http.StatusOK, string(text))
	default:
		end(http.StatusNotFound, "")
	}
}

// instanceSession is the instance's credentials: the same until a tenth of
// their life is left, as EC2 renews them early.
func (s *Server) instanceSession(role string, now time.Time) *session {
	s.mu.Lock()
	current := s.metadata.current
	if current != nil {
		_, known := s.sessions[current.id]
		if known && !current.revoked && now.Before(current.expires.Add(-s.ttl/10)) {
			s.mu.Unlock()
			return current
		}
	}
	s.mu.Unlock()
	n := s.newSession("arn:aws:sts::"+accountOf(role)+":assumed-role/"+role[strings.LastIndexByte(role, '/')+1:]+"/i-0123456789abcdef0", role, s.ttl)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metadata.current = n
	return n
}

// ForgetTokens makes every token of the metadata service unknown.
func (s *Server) ForgetTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.metadata.tokens)
}
