package gcpserver

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

const flavor = "Metadata-Flavor"

// maxTokenLifetime bounds what an assertion may ask for, as at Google.
const maxTokenLifetime = time.Hour

type oauthAnswer struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int    `json:"expires_in"`
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func oauthError(w http.ResponseWriter, code int, name, text string) {
	answer(w, code, map[string]string{"error": name, "error_description": text})
}

// open reports whether a service gives tokens now, and answers if not.
// The caller holds mu.
func (s *Server) open(w http.ResponseWriter, service TokenService) bool {
	switch {
	case s.accounts.away[service]:
		http.Error(w, "The service is currently unavailable.", http.StatusServiceUnavailable)
		return false
	case s.accounts.refuse[service] && service == Impersonation:
		apiFailure(w, http.StatusForbidden, "PERMISSION_DENIED", reasonDenied, "Permission '"+permTokens+"' denied on resource (or it may not exist).")
		return false
	case s.accounts.refuse[service]:
		oauthError(w, http.StatusBadRequest, "invalid_grant", "The credentials are refused.")
		return false
	}
	return true
}

func apiFailure(w http.ResponseWriter, code int, status, reason, text string) {
	detail := map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domainIAM}
	answer(w, code, map[string]any{"error": map[string]any{"code": code, "message": text, "status": status, "details": []any{detail}}})
}

// metadata is the metadata server of a machine. It speaks plain HTTP, and the
// header that a page in a browser cannot set is its protection.
func (s *Server) metadata(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(flavor, "Google")
	if r.Header.Get(flavor) != "Google" || r.Header.Get("X-Forwarded-For") != "" {
		http.Error(w, "Missing required header \""+flavor+": Google\"", http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet || r.URL.Path != "/computeMetadata/v1/instance/service-accounts/default/token" {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts.refuse[Metadata] { // a machine without a service account
		http.NotFound(w, r)
		return
	}
	if !s.open(w, Metadata) {
		return
	}
	token := s.accounts.issue(Metadata, MachineAccount, []string{scopeCloud}, s.now().Add(s.lifetime))
	answer(w, http.StatusOK, oauthAnswer{AccessToken: token, TokenType: "Bearer", ExpiresIn: int(s.lifetime / time.Second)})
}

func (s *Server) tokenServices() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/token", s.exchange)
	mux.HandleFunc("POST /token", s.keyFileToken)
	mux.HandleFunc("POST /v1/projects/-/serviceAccounts/{call}", s.impersonate)
	return mux
}

// exchange is the security token service: a token of another identity provider
// for one of Google's (RFC 8693).
func (s *Server) exchange(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "The body is not a form.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open(w, SecurityTokens) {
		return
	}
	for name, want := range map[string]string{
		"grant_type":           "urn:ietf:params:oauth:grant-type:token-exchange",
		"requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
		"subject_token_type":   "urn:ietf:params:oauth:token-type:jwt",
		"audience":             Audience,
	} {
		if r.PostForm.Get(name) != want {
			oauthError(w, http.StatusBadRequest, "invalid_request", "Invalid value for \""+name+"\".")
			return
		}
	}
	claims, err := readJWT(r.PostForm.Get("subject_token"), &s.accounts.issuer)
	now := s.now()
	switch {
	case err != nil:
		oauthError(w, http.StatusBadRequest, "invalid_grant", "The subject token does not verify.")
		return
	case claims.Audience != "https:"+Audience || claims.Issuer != subjectIssuer:
		oauthError(w, http.StatusBadRequest, "invalid_grant", "The audience or issuer of the subject token is not accepted.")
		return
	case now.Unix() >= claims.Expires || now.Unix() < claims.Issued-allowedSkew:
		oauthError(w, http.StatusBadRequest, "invalid_grant", "The subject token is not valid at this time.")
		return
	}
	principal := "principal://" + pool + "/subject/" + claims.Subject
	token := s.accounts.issue(SecurityTokens, principal, strings.Fields(r.PostForm.Get("scope")), now.Add(s.lifetime))
	answer(w, http.StatusOK, oauthAnswer{
		AccessToken: token, TokenType: "Bearer", ExpiresIn: int(s.lifetime / time.Second),
		IssuedTokenType: "urn:ietf:params:oauth:token-type:access_token",
	})
}

// impersonate is the IAM credentials service: a token of a service account for
// whoever may have one.
func (s *Server) impersonate(w http.ResponseWriter, r *http.Request) {
	account, ok := strings.CutSuffix(r.PathValue("call"), ":generateAccessToken")
	if !ok {
		http.NotFound(w, r)
		return
	}
	var req struct {
		Scope    []string `json:"scope"`
		Lifetime string   `json:"lifetime"`
	}
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || len(req.Scope) == 0 {
		apiFailure(w, http.StatusBadRequest, "INVALID_ARGUMENT", "", "Request contains an invalid argument.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open(w, Impersonation) {
		return
	}
	now := s.now()
	principal, err := s.accounts.principal(r.Header.Get("Authorization"), now, scopeCloud)
	if err != nil {
		apiFailure(w, http.StatusUnauthorized, "UNAUTHENTICATED", reasonUnknown, "Request had invalid authentication credentials.")
		return
	}
	if !s.iam.allows(principal, permTokens, "serviceAccounts/"+account) {
		apiFailure(w, http.StatusForbidden, "PERMISSION_DENIED", reasonDenied, "Permission '"+permTokens+"' denied on resource (or it may not exist).")
		return
	}
	lifetime := s.lifetime
	if d, err := time.ParseDuration(req.Lifetime); err == nil && d > 0 && d < lifetime {
		lifetime = d
	}
	expires := now.Add(lifetime)
	token := s.accounts.issue(Impersonation, account, req.Scope, expires)
	answer(w, http.StatusOK, map[string]string{"accessToken": token, "expireTime": expires.UTC().Format(time.RFC3339)})
}

// GrantImpersonation lets principal have tokens of a service account.
func (s *Server) GrantImpersonation(account, principal string) {
	s.Grant("serviceAccounts/"+account, principal, RoleTokenCreator)
}

// keyFileToken is the token endpoint: a token for who signs with the key of a
// service account (RFC 7523).
func (s *Server) keyFileToken(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "Invalid grant_type.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open(w, KeyFileTokens) {
		return
	}
	claims, err := readJWT(r.PostForm.Get("assertion"), &s.accounts.keyFile)
	now := s.now()
	lifetime := time.Duration(claims.Expires-claims.Issued) * time.Second
	switch {
	case err != nil || claims.Issuer != KeyFileAccount || claims.Audience != s.TokenEndpoint():
		oauthError(w, http.StatusBadRequest, "invalid_grant", "Invalid JWT Signature.")
		return
	case claims.Issued > now.Unix()+allowedSkew || claims.Expires <= now.Unix() || lifetime > maxTokenLifetime:
		oauthError(w, http.StatusBadRequest, "invalid_grant",
			"Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
		return
	}
	scopes := strings.Fields(claims.Scope)
	if !slices.Contains(scopes, scopeKMS) && !slices.Contains(scopes, scopeCloud) {
		oauthError(w, http.StatusBadRequest, "invalid_scope", "Empty or missing scope not allowed.")
		return
	}
	token := s.accounts.issue(KeyFileTokens, KeyFileAccount, scopes, now.Add(s.lifetime))
	answer(w, http.StatusOK, oauthAnswer{AccessToken: token, TokenType: "Bearer", ExpiresIn: int(s.lifetime / time.Second)})
}
