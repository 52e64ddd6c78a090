package awsserver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxSkew is how far a signature's date may be from the server's clock.
const maxSkew = 5 * time.Minute

const timeFormat = "20060102T150405Z"

// refusal is an error as a service answers it.
type refusal struct {
	status  int
	code    string
	message string
}

func refuse(code, message string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: code, message: message}
}

// session is a pair of keys that this server issued.
type session struct {
	id, secret, token string
	principal         string // ARN of the session or user
	role              string // ARN of the role; empty for a user
	issued, expires   time.Time
	revoked           bool
	number            int // in order of issue
}

// authenticate verifies the signature of a request (I1) and returns whose it is.
func (s *Server) authenticate(r *http.Request, body []byte, service string) (*session, *refusal) {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return nil, refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	fields := make(map[string]string)
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse(timeFormat, date)
	if len(scope) != 5 || err != nil || scope[1] != date[:8] || scope[4] != "aws4_request" {
		return nil, refuse("IncompleteSignatureException", "The request signature does not conform to AWS standards.")
	}
	if scope[2] != s.region || scope[3] != service {
		return nil, refuse("InvalidSignatureException", "Credential should be scoped to a valid region and to the correct service.")
	}
	s.mu.Lock()
	who, known := s.sessions[scope[0]]
	var copied session
	if known {
		copied = *who
	}
	s.mu.Unlock()
	now := s.now()
	switch {
	case !known || copied.token != r.Header.Get("X-Amz-Security-Token"):
		return nil, refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	case !copied.expires.IsZero() && !now.Before(copied.expires):
		return &copied, refuse("ExpiredTokenException", "The security token included in the request is expired")
	case at.Before(now.Add(-maxSkew)):
		return &copied, refuse("InvalidSignatureException", "Signature expired: "+date+" is now earlier than "+now.Add(-maxSkew).UTC().Format(timeFormat)+" ("+now.UTC().Format(timeFormat)+" - 5 min.)")
	case at.After(now.Add(maxSkew)):
		return &copied, refuse("InvalidSignatureException", "Signature not yet current: "+date+" is still later than "+now.Add(maxSkew).UTC().Format(timeFormat)+" ("+now.UTC().Format(timeFormat)+" + 5 min.)")
	}
	signed := strings.Split(fields["SignedHeaders"], ";")
	if !coversAll(r, signed) || !hmac.Equal([]byte(signature(r, body, signed, copied.secret, scope)), []byte(fields["Signature"])) {
		return &copied, refuse("InvalidSignatureException", "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	if copied.revoked {
		return &copied, refuse("AccessDeniedException", "User: "+copied.principal+" is not authorized to perform: this action with an explicit deny in an identity-based policy")
	}
	return &copied, nil
}

// coversAll reports whether host and every x-amz header are signed.
func coversAll(r *http.Request, signed []string) bool {
	if !slices.Contains(signed, "host") || !slices.IsSorted(signed) {
		return false
	}
	for name := range r.Header {
		if low := strings.ToLower(name); strings.HasPrefix(low, "x-amz-") && !slices.Contains(signed, low) {
			return false
		}
	}
	return true
}

// signature computes what the client has to have computed.
func signature(r *http.Request, body []byte, signed []string, secret string, scope []string) string {
	var canonical strings.Builder
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	canonical.WriteString(r.Method + "\n" + path + "\n" + strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20") + "\n")
	for _, name := range signed {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = r.Header.Get("Content-Length")
			if value == "" {
				value = lengthOf(body)
			}
		}
		canonical.WriteString(name + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	sum := sha256.Sum256(body)
	canonical.WriteString("\n" + strings.Join(signed, ";") + "\n" + hex.EncodeToString(sum[:]))
	whole := sha256.Sum256([]byte(canonical.String()))
	toSign := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + strings.Join(scope[1:], "/") + "\n" + hex.EncodeToString(whole[:])
	key := []byte("AWS4" + secret)
	for _, part := range scope[1:] {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, toSign))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// newSession issues keys for a principal. Keys without a lifetime are those of a user.
func (s *Server) newSession(principal, role string, ttl time.Duration) *session {
	n := &session{id: "AKIA" + strings.ToUpper(random(8)), secret: random(20), principal: principal, role: role, issued: s.now()}
	if ttl > 0 {
		n.id = "ASIA" + n.id[4:]
		n.token = random(64)
		// STS tells seconds, and means what it tells.
		n.expires = s.now().Add(ttl).Truncate(time.Second)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
	n.number = s.issued
	s.sessions[n.id] = n
	return n
}

func lengthOf(body []byte) string { return strconv.Itoa(len(body)) }
