package gcpserver

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// Scopes that tokens are given for.
const (
	scopeKMS   = "https://www.googleapis.com/auth/cloudkms"
	scopeCloud = "https://www.googleapis.com/auth/cloud-platform"
)

// Who calls. The metadata server's and the impersonated account are service
// accounts; the workload is a subject of another identity provider.
const (
	MachineAccount  = "node@" + Project + ".iam.gserviceaccount.com"
	TargetAccount   = "krypton@" + Project + ".iam.gserviceaccount.com"
	KeyFileAccount  = "keyfile@" + Project + ".iam.gserviceaccount.com"
	WorkloadSubject = "system:serviceaccount:krypton:node"

	pool = "iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/krypton"
	// Audience is what a workload names when it exchanges its token.
	Audience = "//" + pool + "/providers/cluster"
	// WorkloadPrincipal is how roles name the workload.
	WorkloadPrincipal = "principal://" + pool + "/subject/" + WorkloadSubject
)

// rsaBits is the size of the keys that sign tokens here.
const rsaBits = 2048

// accounts know who has which token.
type accounts struct {
	tokens  map[string]grant // by token
	refuse  map[TokenService]bool
	away    map[TokenService]bool
	issued  map[TokenService]int
	issuer  signer // of the workload's own identity provider
	keyFile signer // of KeyFileAccount
}

type grant struct {
	principal string
	scopes    []string
	expires   time.Time
}

// TokenService is one of the services that give tokens.
type TokenService string

// The services.
const (
	Metadata       TokenService = "metadata"
	SecurityTokens TokenService = "sts"
	Impersonation  TokenService = "iamcredentials"
	KeyFileTokens  TokenService = "oauth2"
)

func newAccounts() accounts {
	return accounts{
		tokens: map[string]grant{}, issued: map[TokenService]int{},
		refuse: map[TokenService]bool{}, away: map[TokenService]bool{},
	}
}

// signer is an RSA key that is made when it is first asked for: that takes a
// while, and most servers never need one.
type signer struct{ made *rsa.PrivateKey }

func (s *signer) get() (key *rsa.PrivateKey, err error) {
	if s.made == nil {
		s.made, err = rsa.GenerateKey(rand.Reader, rsaBits)
	}
	return s.made, err
}

// issue makes a token.
func (a *accounts) issue(from TokenService, principal string, scopes []string, expires time.Time) string {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // never fails
	token := "ya29." + base64.RawURLEncoding.EncodeToString(b)
	a.tokens[token] = grant{principal: principal, scopes: scopes, expires: expires}
	a.issued[from]++
	return token
}

// principal judges a header `Bearer token`.
func (a *accounts) principal(authorization string, now time.Time, scope string) (string, error) {
	token, ok := strings.CutPrefix(authorization, "Bearer ")
	if !ok {
		return "", apiError(codes.Unauthenticated, reasonMissing, "Request is missing required authentication credential.")
	}
	g, ok := a.tokens[token]
	switch {
	case !ok:
		return "", apiError(codes.Unauthenticated, reasonUnknown, "Request had invalid authentication credentials.")
	case !now.Before(g.expires):
		return "", apiError(codes.Unauthenticated, reasonExpired, "Request had expired authentication credentials.")
	case !slices.Contains(g.scopes, scope) && !slices.Contains(g.scopes, scopeCloud):
		return "", apiError(codes.PermissionDenied, reasonScope, "Request had insufficient authentication scopes.")
	}
	return g.principal, nil
}

// RevokeTokens makes every token given so far invalid.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.accounts.tokens)
}

// Refuse makes a service refuse to give tokens until it is called with false.
func (s *Server) Refuse(service TokenService, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts.refuse[service] = on
}

// Away makes a service answer 503 until it is called with false.
func (s *Server) Away(service TokenService, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts.away[service] = on
}

// Issued is how many tokens a service gave so far.
func (s *Server) Issued(service TokenService) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accounts.issued[service]
}

type principalKey struct{}

func principalOf(ctx context.Context) string {
	p, _ := ctx.Value(principalKey{}).(string)
	return p
}
