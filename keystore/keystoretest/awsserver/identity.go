package awsserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// Role is an IAM role: who may assume it, and what its identity policy allows.
type Role struct {
	Name    string
	Account string // empty: the server's
	// WebIdentity is the subject whose tokens may assume it; empty: none.
	WebIdentity string
	// Audience is the audience that these tokens must have.
	Audience string
	// TrustedPrincipal is the role (its ARN) whose sessions may assume it; empty: none.
	TrustedPrincipal string
	// ExternalID is what they must say; empty: what they like, as AWS has it.
	ExternalID string
	// Policy is the identity policy, JSON; empty: every action of KMS.
	Policy string

	identity *policy
}

// AddRole adds or replaces a role and returns its ARN.
func (s *Server) AddRole(r Role) (string, error) {
	if r.Account == "" {
		r.Account = s.account
	}
	r.identity = everything
	if r.Policy != "" {
		p, err := parsePolicy([]byte(r.Policy))
		if err != nil {
			return "", err
		}
		r.identity = p
	}
	arn := "arn:aws:iam::" + r.Account + ":role/" + r.Name
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[arn] = &r
	return arn, nil
}

// RemoveRole deletes a role: it cannot be assumed any more, and its sessions,
// which IAM does not end, may do nothing.
func (s *Server) RemoveRole(arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.roles, arn)
	for _, one := range s.sessions {
		if one.role == arn {
			one.revoked = true
		}
	}
}

// RevokeSessions denies everything to the sessions that were issued so far, as
// AWSRevokeOlderSessions does: a new login works.
func (s *Server) RevokeSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.sessions {
		one.revoked = true
	}
}

// RevokeOldest denies everything to the session that was issued first, and lets
// it live as long as it may.
func (s *Server) RevokeOldest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *session
	for _, one := range s.sessions {
		if oldest == nil || one.number < oldest.number {
			oldest = one
		}
	}
	if oldest != nil {
		oldest.revoked, oldest.expires = true, oldest.expires.Add(s.ttl)
	}
}

// ExpireSessions ends every temporary credential that was issued so far.
func (s *Server) ExpireSessions() {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.sessions {
		if !one.expires.IsZero() {
			one.expires = now
		}
	}
}

// ForgetSessions makes every credential that was issued so far unknown.
func (s *Server) ForgetSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

// Sessions is how many credentials were issued and are still known.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// UserCredentials makes a user with long-lived keys and returns them as a
// shared credentials file with one profile, "default".
func (s *Server) UserCredentials(name string) string {
	n := s.newSession("arn:aws:iam::"+s.account+":user/"+name, "", 0)
	return "[default]\naws_access_key_id = " + n.id + "\naws_secret_access_key = " + n.secret + "\n"
}

// issuer is the identity provider whose tokens STS trusts.
type issuer struct {
	key *ecdsa.PrivateKey
	url string
}

func newIssuer() (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &issuer{key: key, url: "https://oidc.example"}, err
}

// WebIdentityToken makes a token of the trusted identity provider, as a
// platform projects it into a file.
func (s *Server) WebIdentityToken(subject, audience string, ttl time.Duration) (string, error) {
	now := s.now()
	claims, err := json.Marshal(map[string]any{"iss": s.issuer.url, "sub": subject, "aud": []string{audience}, "iat": now.Unix(), "exp": now.Add(ttl).Unix()})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	a, b, err := ecdsa.Sign(rand.Reader, s.issuer.key, sum[:])
	if err != nil {
		return "", err
	}
	sig := make([]byte, 64)
	a.FillBytes(sig[:32])
	b.FillBytes(sig[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

var errExpired = errors.New("the token is expired")

// verify checks a web identity token and returns its subject and audiences.
func (i *issuer) verify(token string, now time.Time) (subject string, audiences []string, err error) {
	text, last, ok := cutLast(token)
	if !ok {
		return "", nil, errors.New("not a token")
	}
	sig, err := base64.RawURLEncoding.DecodeString(last)
	if err != nil || len(sig) != 64 {
		return "", nil, errors.New("no signature")
	}
	sum := sha256.Sum256([]byte(text))
	if !ecdsa.Verify(&i.key.PublicKey, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return "", nil, errors.New("the signature does not verify")
	}
	_, middle, _ := strings.Cut(text, ".")
	raw, err := base64.RawURLEncoding.DecodeString(middle)
	if err != nil {
		return "", nil, err
	}
	var claims struct {
		Iss, Sub string
		Aud      []string
		Exp      int64
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return "", nil, err
	}
	if claims.Iss != i.url {
		return "", nil, fmt.Errorf("issuer %q", claims.Iss)
	}
	if now.Unix() >= claims.Exp {
		return "", nil, errExpired
	}
	return claims.Sub, claims.Aud, nil
}

func cutLast(token string) (before, after string, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return "", "", false
	}
	return token[:i], token[i+1:], true
}

// SessionOf returns access key, secret key and session token of a new session of
// a role, whatever its trust policy says.
func (s *Server) SessionOf(role string) (keys [3]string, err error) {
	s.mu.Lock()
	r, ok := s.roles[role]
	s.mu.Unlock()
	if !ok {
		return keys, errors.New("no such role")
	}
	n := s.newSession("arn:aws:sts::"+r.Account+":assumed-role/"+r.Name+"/test", role, s.ttl)
	return [3]string{n.id, n.secret, n.token}, nil
}
