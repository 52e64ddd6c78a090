//go:build !noazurekv

package azurekv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
	msalerrors "github.com/AzureAD/microsoft-authentication-library-for-go/apps/errors"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
)

// misconfigured is short for the class of most failures here.
const misconfigured = keystore.Misconfigured

// maxIdentityFile bounds a token or certificate file, maxTokenAnswer what the
// metadata service answers, in bytes.
const (
	maxIdentityFile = 64 << 10
	maxTokenAnswer  = 64 << 10
)

// noRegion makes MSAL ignore MSAL_FORCE_REGION (I1).
const noRegion = "DisableMsalForceRegion"

// identityError is a login that failed, with what it means for the call.
type identityError struct {
	class keystore.Class
	err   error
}

func (e *identityError) Error() string { return e.err.Error() }

func (e *identityError) Unwrap() error { return e.err }

// NonRetriable tells azcore not to try again.
func (*identityError) NonRetriable() {}

// credential is who the provider is towards the vault, as its settings say and
// nothing else. A token is kept by the client that asked for it, which asks
// again before it expires and when the vault refuses it.
type credential struct {
	settings

	http  *http.Client // to authority or metadata service
	clock clock.Clock
}

// newCredential returns the identity of the settings.
func newCredential(s settings, clk clock.Clock) *credential {
	if s.auth == authManaged {
		return &credential{settings: s, http: newHTTP(s.imds, nil), clock: clk}
	}
	return &credential{settings: s, http: newHTTP(s.authority, s.roots), clock: clk}
}

// GetToken implements azcore.TokenCredential.
func (c *credential) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(o.Scopes) != 1 {
		return azcore.AccessToken{}, &identityError{misconfigured, errors.New("the vault asks for a token without a resource")}
	}
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	var token azcore.AccessToken
	var err error
	if c.auth == authManaged {
		token, err = c.fromMachine(ctx, o.Scopes[0])
	} else {
		token, err = c.fromEntra(ctx, o)
	}
	if err != nil {
		return azcore.AccessToken{}, c.classify(ctx, err)
	}
	return token, nil
}

// fromEntra logs an application in. The client lives for this login only, so
// that a token file or certificate that was renewed is used at once and no
// private key outlives the login.
func (c *credential) fromEntra(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if o.TenantID != "" && !strings.EqualFold(o.TenantID, c.tenant) {
		return azcore.AccessToken{}, &identityError{misconfigured, fmt.Errorf("the vault belongs to the tenant %q, and %s is %q", o.TenantID, settingTenant, c.tenant)}
	}
	cred, err := c.assertion()
	if err != nil {
		return azcore.AccessToken{}, &identityError{misconfigured, err}
	}
	app, err := confidential.New(c.authority.String()+"/"+c.tenant, c.client, cred,
		confidential.WithHTTPClient(c.http),
		confidential.WithAzureRegion(noRegion),
		// The authority is the operator's word; asking login.microsoft.com for
		// its opinion would be a call to a host that nobody configured.
		confidential.WithInstanceDiscovery(false))
	if err != nil {
		return azcore.AccessToken{}, &identityError{misconfigured, err}
	}
	var opts []confidential.AcquireByCredentialOption
	if o.Claims != "" {
		opts = append(opts, confidential.WithClaims(o.Claims))
	}
	res, err := app.AcquireTokenByCredential(ctx, o.Scopes, opts...)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return azcore.AccessToken{Token: res.AccessToken, ExpiresOn: res.ExpiresOn.UTC(), RefreshOn: res.Metadata.RefreshOn.UTC()}, nil
}

// assertion reads what proves the application's identity.
func (c *credential) assertion() (confidential.Credential, error) {
	if c.auth == authWorkload {
		raw, err := readBounded(c.tokenFile)
		if err != nil {
			return confidential.Credential{}, fmt.Errorf("read %s: %w", settingToken, err)
		}
		token := strings.TrimSpace(string(raw))
		if token == "" {
			return confidential.Credential{}, errors.New(settingToken + " is empty")
		}
		return confidential.NewCredFromAssertionCallback(func(context.Context, confidential.AssertionRequestOptions) (string, error) {
			return token, nil
		}), nil
	}
	raw, err := readBounded(c.certFile)
	if err != nil {
		return confidential.Credential{}, fmt.Errorf("read %s: %w", settingCertificate, err)
	}
	defer clear(raw)
	certs, private, err := confidential.CertFromPEM(raw, "")
	if err != nil {
		// The text of the parser could quote the file.
		return confidential.Credential{}, errors.New(settingCertificate + " does not have a certificate and its private key in PEM, unencrypted")
	}
	cred, err := confidential.NewCredFromCert(certs, private)
	if err != nil {
		return confidential.Credential{}, fmt.Errorf("use %s: %w", settingCertificate, err)
	}
	return cred, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	raw := make([]byte, maxIdentityFile+1)
	n, err := io.ReadFull(f, raw)
	switch {
	case err == nil:
		clear(raw)
		return nil, fmt.Errorf("it is longer than %d bytes", maxIdentityFile)
	case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		clear(raw)
		return nil, err
	}
	return raw[:n], nil
}

// imdsError is an answer of the metadata service that is no success.
type imdsError struct {
	status int
	text   string
}

func (e *imdsError) Error() string {
	return fmt.Sprintf("the metadata service answered %d: %s", e.status, e.text)
}

// fromMachine asks the instance metadata service, as its documents have it.
func (c *credential) fromMachine(ctx context.Context, scope string) (azcore.AccessToken, error) {
	q := url.Values{"api-version": {"2018-02-01"}, "resource": {strings.TrimSuffix(scope, "/.default")}}
	if c.client != "" {
		q.Set("client_id", c.client)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.imds.String()+"/metadata/identity/oauth2/token?"+q.Encode(), nil)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	r.Header.Set("Metadata", "true")
	asked := c.clock.Now()
	resp, err := c.http.Do(r)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	defer func() { _ = resp.Body.Close() }() // read or not, it is done with
	var body struct {
		Token     string `json:"access_token"`
		ExpiresIn string `json:"expires_in"` // seconds, as a string
		Error     string `json:"error"`
		Text      string `json:"error_description"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxTokenAnswer)).Decode(&body)
	if resp.StatusCode != http.StatusOK {
		return azcore.AccessToken{}, &imdsError{resp.StatusCode, clip(strconv.Quote(body.Error + ": " + body.Text))}
	}
	seconds, nerr := strconv.ParseUint(body.ExpiresIn, 10, 31)
	if err != nil || nerr != nil || body.Token == "" {
		return azcore.AccessToken{}, errors.New("the metadata service answered without a token")
	}
	return azcore.AccessToken{Token: body.Token, ExpiresOn: asked.Add(time.Duration(seconds) * time.Second)}, nil
}

// classify says what a failed login means: an answer that refuses is a
// matter of configuration, everything else of reachability.
func (c *credential) classify(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*identityError](err); ok {
		return e
	}
	status := 0
	if e, ok := errors.AsType[msalerrors.CallErr](err); ok && e.Resp != nil {
		status = e.Resp.StatusCode
	}
	if e, ok := errors.AsType[*imdsError](err); ok {
		status = e.status
		// Documented as passing: the identity is being set up, or the service is updated.
		if status == http.StatusNotFound || status == http.StatusGone {
			status = http.StatusServiceUnavailable
		}
	}
	class := keystore.Unavailable
	switch {
	case status == http.StatusTooManyRequests:
		class = keystore.Throttled
	case status >= 400 && status < 500:
		class = misconfigured
	case ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded):
		// Of the login or of the call; the call knows which.
		return &identityError{class, errors.New("the login got no answer in time")}
	}
	return &identityError{class, fmt.Errorf("log in as %s: %s", c.auth, clip(err.Error()))}
}

// clip bounds what a service or a library says in an error, and makes it one line.
func clip(s string) string {
	const most = 512
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
