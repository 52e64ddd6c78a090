package gcpkms

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Scopes of access tokens. What only leads to another token gets the wide one,
// which the IAM credentials service asks for.
const (
	scopeKMS   = "https://www.googleapis.com/auth/cloudkms"
	scopeCloud = "https://www.googleapis.com/auth/cloud-platform"
)

// Limits of what comes from outside, in bytes.
const (
	maxSubjectToken = 64 << 10
	maxKeyFile      = 64 << 10
)

// assertionLifetime is how long a signed assertion may be used, and the longest
// that Google accepts: the clocks of both sides have to agree to within it.
const assertionLifetime = time.Hour

// token is an access token. It is a bearer credential: whoever has it is us
// until it expires.
type token struct {
	value   string
	expires time.Time
}

// source gets access tokens. Every fetch asks anew.
type source interface {
	fetch(ctx context.Context) (token, error)
}

// newSource makes the identity that the settings name, and nothing else: no
// default chain of Google's libraries runs, which would take what it finds in
// the environment, in files of the home directory or on the network.
func newSource(o options, w *web, clk clock.Clock) source {
	scope := scopeKMS
	if o.impersonate != "" {
		scope = scopeCloud
	}
	var s source
	switch o.auth {
	case authMetadata:
		s = &machine{web: w, clock: clk, url: o.metadataURL}
	case authFederation:
		s = &federation{web: w, clock: clk, url: o.stsURL, audience: o.audience, file: o.tokenFile, scope: scope}
	case authKeyFile:
		s = &keyFile{web: w, clock: clk, url: o.tokenURL, file: o.keyFile, scope: scope}
	}
	if o.impersonate != "" {
		s = &impersonation{web: w, by: s, url: o.iamURL, account: o.impersonate}
	}
	return s
}

// grant is an OAuth answer with a token.
type grant struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
}

// maxExpiresIn bounds a promise, in seconds, so that it cannot overflow.
const maxExpiresIn = 24 * 60 * 60

func (g grant) token(now time.Time) (token, error) {
	if g.AccessToken == "" || !strings.EqualFold(g.TokenType, "Bearer") || g.ExpiresIn < 1 || g.ExpiresIn > maxExpiresIn {
		return token{}, &tokenError{keystore.Unavailable, errors.New("the token service answered without a usable token")}
	}
	return token{value: g.AccessToken, expires: now.Add(time.Duration(g.ExpiresIn) * time.Second)}, nil
}

// machine is the service account of this machine or pod. The metadata server
// speaks plain HTTP on a link that leaves no host.
type machine struct {
	web   *web
	clock clock.Clock
	url   string
}

func (m *machine) fetch(ctx context.Context) (token, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/computeMetadata/v1/instance/service-accounts/default/token", http.NoBody)
	if err != nil {
		return token{}, err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	now := m.clock.Now()
	var g grant
	head, err := m.web.call(req, "the metadata server", &g)
	if err != nil {
		return token{}, err
	}
	// Another server on this address would not say this.
	if head.Get("Metadata-Flavor") != "Google" {
		return token{}, &tokenError{keystore.Misconfigured, errors.New("what answers is no metadata server")}
	}
	return g.token(now)
}

// federation exchanges a token of another identity provider (RFC 8693).
type federation struct {
	web                        *web
	clock                      clock.Clock
	url, audience, file, scope string
}

func (f *federation) fetch(ctx context.Context) (token, error) {
	// Read at every exchange: the file is replaced before its token expires.
	subject, err := readFile(f.file, maxSubjectToken, anyMode)
	if err != nil {
		return token{}, &tokenError{keystore.Misconfigured, err}
	}
	text := strings.TrimSpace(string(subject))
	if text == "" {
		return token{}, &tokenError{keystore.Misconfigured, fmt.Errorf("%s is empty", f.file)}
	}
	now := f.clock.Now()
	var g grant
	err = f.web.form(ctx, f.url, "the security token service", url.Values{
		"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
		"subject_token":        {text}, "audience": {f.audience}, "scope": {f.scope},
	}, text, &g)
	if err != nil {
		return token{}, err
	}
	return g.token(now)
}

// impersonation gets the token of a service account for another identity,
// which may have it by a role on that account.
type impersonation struct {
	web     *web
	by      source
	url     string
	account string
}

func (i *impersonation) fetch(ctx context.Context) (token, error) {
	by, err := i.by.fetch(ctx)
	if err != nil {
		return token{}, err
	}
	body, err := json.Marshal(map[string]any{"scope": []string{scopeKMS}, "lifetime": "3600s"})
	if err != nil {
		return token{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		i.url+"/v1/projects/-/serviceAccounts/"+url.PathEscape(i.account)+":generateAccessToken", strings.NewReader(string(body)))
	if err != nil {
		return token{}, err
	}
	req.Header.Set("Authorization", "Bearer "+by.value)
	req.Header.Set("Content-Type", "application/json")
	var out struct {
		AccessToken string    `json:"accessToken"`
		ExpireTime  time.Time `json:"expireTime"`
	}
	if _, err := i.web.call(req, "the IAM credentials service", &out, by.value); err != nil {
		return token{}, err
	}
	if out.AccessToken == "" || out.ExpireTime.IsZero() {
		return token{}, &tokenError{keystore.Unavailable, errors.New("the IAM credentials service answered without a usable token")}
	}
	return token{value: out.AccessToken, expires: out.ExpireTime}, nil
}

// keyFile signs assertions with the key of a service account (RFC 7523).
type keyFile struct {
	web              *web
	clock            clock.Clock
	url, file, scope string
}

func (k *keyFile) fetch(ctx context.Context) (token, error) {
	now := k.clock.Now()
	assertion, err := k.assertion(now)
	if err != nil {
		return token{}, &tokenError{keystore.Misconfigured, err}
	}
	var g grant
	err = k.web.form(ctx, k.url, "the token endpoint", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion},
	}, assertion, &g)
	if err != nil {
		return token{}, err
	}
	return g.token(now)
}

// assertion reads the file and signs. The key is not kept: it lives for one
// signature an hour, and a replaced file is seen.
func (k *keyFile) assertion(now time.Time) (string, error) {
	text, err := readFile(k.file, maxKeyFile, ownerOnly)
	if err != nil {
		return "", err
	}
	defer clear(text)
	account, err := parseKeyFile(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", k.file, err)
	}
	if account.tokenURI != k.url {
		return "", fmt.Errorf("%s is for the token endpoint %q, and %s is %q", k.file, account.tokenURI, settingToken, k.url)
	}
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": account.keyID})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]any{
		"iss": account.email, "scope": k.scope, "aud": k.url, "iat": now.Unix(), "exp": now.Add(assertionLifetime).Unix(),
	})
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, account.signer, crypto.SHA256, digest[:])
	if err != nil {
		return "", errors.New("the key in the file does not sign")
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

type account struct {
	email, keyID, tokenURI string
	signer                 *rsa.PrivateKey
}

// parseKeyFile reads a key file of a service account. What is wrong with it is
// said without its contents.
func parseKeyFile(text []byte) (account, error) {
	var f struct {
		Type     string          `json:"type"`
		Email    string          `json:"client_email"`
		KeyID    string          `json:"private_key_id"`
		Key      json.RawMessage `json:"private_key"`
		TokenURI string          `json:"token_uri"`
	}
	bad := errors.New("not a key file of a service account")
	if json.Unmarshal(text, &f) != nil {
		return account{}, bad
	}
	defer clear(f.Key)
	if f.Type != "service_account" || f.Email == "" {
		return account{}, bad
	}
	plain, ok := unquote(f.Key)
	defer clear(plain)
	block, _ := pem.Decode(plain)
	if !ok || block == nil {
		return account{}, bad
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return account{}, bad
	}
	signer, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return account{}, bad
	}
	return account{email: f.Email, keyID: f.KeyID, tokenURI: f.TokenURI, signer: signer}, nil
}

// unquote reads a JSON string of ASCII without making a Go string of it, which
// could not be wiped.
func unquote(raw []byte) ([]byte, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return nil, false
	}
	in := raw[1 : len(raw)-1]
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); i++ {
		c := in[i]
		if c != '\\' {
			out = append(out, c)
			continue
		}
		i++
		if i == len(in) {
			return out, false
		}
		switch in[i] {
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case '/', '\\', '"':
			out = append(out, in[i])
		case 'u': // some writers escape the sign at the end of base64
			if i+4 >= len(in) || string(in[i+1:i+4]) != "003" || (in[i+4] != 'd' && in[i+4] != 'D') {
				return out, false
			}
			out = append(out, '=')
			i += 4
		default:
			return out, false
		}
	}
	return out, true
}

// access is who else may read a file.
type access int

const (
	anyMode   access = iota // a projected token is short-lived and often readable for all
	ownerOnly               // not for others; a group may, as mounted secrets have it
)

// readFile reads a small file of the operator's.
func readFile(path string, limit int64, who access) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d", path, info.Size(), limit)
	case who == ownerOnly && info.Mode().Perm()&0o007 != 0:
		return nil, fmt.Errorf("%s has mode %04o, and others must not be able to use it; if nobody else can have read it: chmod o= %s", path, info.Mode().Perm(), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// One buffer of the right size: one that grows leaves copies behind.
	text := make([]byte, info.Size())
	if _, err := io.ReadFull(f, text); err != nil {
		clear(text)
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return text, nil
}
