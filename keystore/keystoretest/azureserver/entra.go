package azureserver

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// federationAudience is what a federated token must be for.
const federationAudience = "api://AzureADTokenExchange"

// kubernetesIssuer is the name of the cluster whose service accounts may log in.
const kubernetesIssuer = "https://kubernetes.loopback.test"

// Identity is somebody who can get tokens: an application that trusts a
// Kubernetes service account or has a certificate, or a managed identity.
type Identity struct {
	ClientID string // appid of its tokens
	ObjectID string // oid of its tokens, to which roles are assigned

	subject     string            // of federated tokens; empty for none
	certificate *rsa.PublicKey    // nil for none
	thumbprint  [sha256.Size]byte // of the certificate
	managed     bool
}

// issuer signs tokens.
type issuer struct {
	key *ecdsa.PrivateKey
}

func newIssuer() (*issuer, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &issuer{k}, nil
}

func (i *issuer) sign(claims ...any) (string, error) {
	sig, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	b := jwt.Signed(sig)
	for _, c := range claims {
		b = b.Claims(c)
	}
	return b.Serialize()
}

// accessClaims are the claims of an access token that the vault looks at.
type accessClaims struct {
	ObjectID   string `json:"oid"`
	AppID      string `json:"appid"`
	Tenant     string `json:"tid"`
	Generation int    `json:"loopback_generation"` // ours, for RevokeTokens
}

func (s *Server) identity() *Identity {
	return &Identity{ClientID: uuid.NewString(), ObjectID: uuid.NewString()}
}

func (s *Server) enrol(id *Identity) *Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identities[id.ClientID] = id
	return id
}

// AddWorkload makes an application that trusts the service account of that
// subject, "system:serviceaccount:NAMESPACE:NAME".
func (s *Server) AddWorkload(subject string) *Identity {
	id := s.identity()
	id.subject = subject
	return s.enrol(id)
}

// AddManaged makes a managed identity of the machine that asks the metadata
// service.
func (s *Server) AddManaged() *Identity {
	id := s.identity()
	id.managed = true
	return s.enrol(id)
}

// AddApplication makes an application with a certificate, and returns
// certificate and private key in PEM.
func (s *Server) AddApplication() (*Identity, []byte, error) {
	id := s.identity()
	file, err := s.RenewCertificate(id)
	if err != nil {
		return nil, nil, err
	}
	return s.enrol(id), file, nil
}

// RenewCertificate gives an application another certificate in place of the
// one it has, and returns it with its private key in PEM.
func (s *Server) RenewCertificate(id *Identity) ([]byte, error) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	now := s.clock.Now()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id.ClientID}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	id.certificate, id.thumbprint = &k.PublicKey, sha256.Sum256(der)
	s.mu.Unlock()
	var file bytes.Buffer
	for _, b := range []*pem.Block{{Type: "CERTIFICATE", Bytes: der}, {Type: "PRIVATE KEY", Bytes: private}} {
		if err := pem.Encode(&file, b); err != nil {
			return nil, err
		}
	}
	return file.Bytes(), nil
}

// FederatedToken returns a token of the Kubernetes cluster for the service
// account that id trusts, valid for so long from now.
func (s *Server) FederatedToken(id *Identity, valid time.Duration) (string, error) {
	now := s.now()
	return s.kubernetes.sign(jwt.Claims{
		Issuer: kubernetesIssuer, Subject: id.subject, Audience: jwt.Audience{federationAudience},
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(valid)),
	})
}

// entraError is an answer of the token endpoint that is no success.
type entraError struct {
	status int
	code   string // of RFC 6749
	aadsts string
}

// RefuseLogins answers every request for a token, of Entra ID and of the
// metadata service, with this status and error until it is called with status 0.
func (s *Server) RefuseLogins(status int, code, aadsts string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = nil
	if status != 0 {
		s.refuse = &entraError{status, code, aadsts}
	}
}

// Logins returns how many access tokens were given out.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

func (s *Server) serveEntra(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	base := s.AuthorityURL() + "/" + s.tenant
	switch r.Method + " " + r.URL.Path {
	case "GET /" + s.tenant + "/v2.0/.well-known/openid-configuration":
		writeJSON(w, http.StatusOK, map[string]any{
			"issuer": base + "/v2.0", "token_endpoint": base + "/oauth2/v2.0/token", "authorization_endpoint": base + "/oauth2/v2.0/authorize",
		})
	case "POST /" + s.tenant + "/oauth2/v2.0/token":
		token, e := s.exchange(r, base)
		if e != nil {
			e.write(w)
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": int(s.lifetime.Seconds()), "access_token": token})
	default:
		(&entraError{http.StatusBadRequest, "invalid_tenant", "AADSTS90002: Tenant not found."}).write(w)
	}
}

func (e *entraError) write(w http.ResponseWriter) {
	writeJSON(w, e.status, map[string]any{"error": e.code, "error_description": e.aadsts})
}

// exchange is the client credentials grant with a client assertion, RFC 7523.
func (s *Server) exchange(r *http.Request, base string) (string, *entraError) {
	if e := s.refused(); e != nil {
		return "", e
	}
	if err := r.ParseForm(); err != nil {
		return "", &entraError{http.StatusBadRequest, "invalid_request", "AADSTS900144: The request body is malformed."}
	}
	if r.PostForm.Get("grant_type") != "client_credentials" || r.PostForm.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		return "", &entraError{http.StatusBadRequest, "unsupported_grant_type", "AADSTS70003: The grant is not supported."}
	}
	resource, ok := strings.CutSuffix(firstScope(r.PostForm.Get("scope")), "/.default")
	if !ok || resource != s.flavour.resource() {
		return "", &entraError{http.StatusBadRequest, "invalid_scope", "AADSTS500011: The resource principal was not found in the tenant."}
	}
	s.mu.Lock()
	var id *Identity
	if known, ok := s.identities[r.PostForm.Get("client_id")]; ok {
		copied := *known
		id = &copied
	}
	s.mu.Unlock()
	if id == nil {
		return "", &entraError{http.StatusBadRequest, "unauthorized_client", "AADSTS700016: Application was not found in the directory."}
	}
	if e := s.checkAssertion(id, r.PostForm.Get("client_assertion"), base); e != nil {
		return "", e
	}
	return s.issue(id, resource)
}

// firstScope returns the resource scope among the standard ones that Microsoft's library adds.
func firstScope(scopes string) string {
	for f := range strings.FieldsSeq(scopes) {
		if strings.HasSuffix(f, "/.default") {
			return f
		}
	}
	return ""
}

func (s *Server) refused() *entraError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refuse
}

// checkAssertion verifies a federated token, or what an application signed
// with the key of its certificate.
func (s *Server) checkAssertion(id *Identity, assertion, base string) *entraError {
	invalid := func(aadsts string) *entraError { return &entraError{http.StatusUnauthorized, "invalid_client", aadsts} }
	token, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.ES256, jose.PS256, jose.RS256})
	if err != nil || len(token.Headers) != 1 {
		return invalid("AADSTS50027: The client assertion is no signed JWT.")
	}
	expect := jwt.Expected{Time: s.now()}
	var public crypto.PublicKey
	switch {
	case id.subject != "":
		expect.Issuer, expect.Subject, expect.AnyAudience = kubernetesIssuer, id.subject, jwt.Audience{federationAudience}
		public = s.kubernetes.key.Public()
	case id.certificate != nil:
		expect.Issuer, expect.Subject, expect.AnyAudience = id.ClientID, id.ClientID, jwt.Audience{base + "/oauth2/v2.0/token"}
		public = id.certificate
		// RFC 7515 has base64url; Microsoft's library sends base64, which Entra ID takes.
		got, _ := token.Headers[0].ExtraHeaders["x5t#S256"].(string)
		if got != base64.RawURLEncoding.EncodeToString(id.thumbprint[:]) && got != base64.StdEncoding.EncodeToString(id.thumbprint[:]) {
			return invalid("AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application.")
		}
	default:
		return invalid("AADSTS700213: No matching federated identity record found.")
	}
	var c jwt.Claims
	if err := token.Claims(public, &c); err != nil {
		return invalid("AADSTS700027: The client assertion's signature does not verify.")
	}
	if c.Expiry == nil {
		return invalid("AADSTS50027: The client assertion never expires.")
	}
	if err := c.ValidateWithLeeway(expect, 0); err != nil {
		return invalid("AADSTS700024: Client assertion is not within its valid time range, or for another audience or subject: " + err.Error())
	}
	return nil
}

// AccessToken returns an access token of an identity and when it expires, for
// a client that does not log in by itself.
func (s *Server) AccessToken(id *Identity) (token string, expires time.Time, err error) {
	expires = s.now().Add(s.lifetime)
	token, e := s.issue(id, s.flavour.resource())
	if e != nil {
		return "", time.Time{}, errors.New(e.aadsts)
	}
	return token, expires, nil
}

// issue makes an access token.
func (s *Server) issue(id *Identity, resource string) (string, *entraError) {
	s.mu.Lock()
	generation := s.generation
	s.mu.Unlock()
	now := s.now()
	token, err := s.issuer.sign(jwt.Claims{
		Issuer: s.AuthorityURL() + "/" + s.tenant, Subject: id.ObjectID, Audience: jwt.Audience{resource},
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(s.lifetime)), ID: uuid.NewString(),
	}, accessClaims{ObjectID: id.ObjectID, AppID: id.ClientID, Tenant: s.tenant, Generation: generation})
	if err != nil {
		return "", &entraError{http.StatusInternalServerError, "server_error", err.Error()}
	}
	s.mu.Lock()
	s.logins++
	s.mu.Unlock()
	return token, nil
}

// authenticate verifies the bearer token of a call to the vault.
func (s *Server) authenticate(r *http.Request) (accessClaims, *serviceError) {
	raw, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return accessClaims{}, unauthorized("AKV10000: Request is missing a Bearer or PoP token.")
	}
	token, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return accessClaims{}, unauthorized("AKV10001: The token is malformed.")
	}
	var std jwt.Claims
	var own accessClaims
	if err := token.Claims(s.issuer.key.Public(), &std, &own); err != nil {
		return accessClaims{}, unauthorized("AKV10046: Unable to resolve the key used for signature validation.")
	}
	err = std.ValidateWithLeeway(jwt.Expected{Issuer: s.AuthorityURL() + "/" + s.tenant, AnyAudience: jwt.Audience{s.flavour.resource()}, Time: s.now()}, 0)
	if err != nil {
		return accessClaims{}, unauthorized("AKV10022: Invalid audience, issuer or time: " + err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if own.Generation != s.generation {
		return accessClaims{}, unauthorized("AKV10144: The token was revoked.")
	}
	return own, nil
}
