package jwt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/coreos/go-oidc/v3/oidc"
)

// wellKnown is where a discovery document is, below the issuer's URL.
const wellKnown = "/.well-known/openid-configuration"

// fetchError is why keys could not be fetched. Its text is safe for everybody: it
// has nothing of what a provider sent, which is a stranger until its keys are in
// use. The cause is for logs and may quote addresses.
type fetchError struct {
	reason string
	cause  error
}

func (e *fetchError) Error() string { return e.reason }
func (e *fetchError) Unwrap() error { return e.cause }

// newClient returns what fetches from one issuer: certificates by its CAs, no
// proxy of the environment (which could be set for everything else that the
// process does, and would see and choose the keys of identities), no connection
// that is kept, no compression that makes a large document of a small one.
func newClient(cas *x509.CertPool) *http.Client {
	d := &net.Dialer{Timeout: FetchTimeout, Control: noLinkLocal}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            d.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: cas, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    FetchTimeout,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: sameHost,
	}
}

var (
	errLinkLocal = errors.New("address of this link only")
	errRedirect  = errors.New("redirect to another host, to http, or too many of them")
)

// noLinkLocal refuses connections to link-local addresses, where clouds keep the
// credentials of machines: who registers an issuer chooses what a node connects to.
func noLinkLocal(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if a := ap.Addr(); a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return errLinkLocal
	}
	return nil
}

func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || !httpsURL(req.URL) || req.URL.Host != via[0].URL.Host {
		return errRedirect
	}
	return nil
}

// get returns the document at address, of at most MaxDocument bytes.
func get(ctx context.Context, c *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, &fetchError{"its URL cannot be fetched", err}
	}
	req.Header.Set("Accept", "application/json")
	res, err := c.Do(req)
	switch {
	case errors.Is(err, errRedirect):
		return nil, &fetchError{"it redirects to another host, to http, or too often", err}
	case errors.Is(err, errLinkLocal):
		return nil, &fetchError{"it has an address of the node's own link", err}
	case err != nil && ctx.Err() != nil:
		return nil, &fetchError{fmt.Sprintf("it did not answer in %v", FetchTimeout), err}
	case isCertificate(err):
		return nil, &fetchError{"its certificate is not of a CA that the issuer is registered with", err}
	case err != nil:
		return nil, &fetchError{"it cannot be reached", err}
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, &fetchError{fmt.Sprintf("it answers with status %d", res.StatusCode), nil}
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxDocument+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, &fetchError{fmt.Sprintf("it did not answer in %v", FetchTimeout), err}
	case err != nil:
		return nil, &fetchError{"its answer broke off", err}
	case len(body) > MaxDocument:
		return nil, &fetchError{fmt.Sprintf("it answers with more than %d bytes", MaxDocument), nil}
	}
	return body, nil
}

func isCertificate(err error) bool {
	var invalid *tls.CertificateVerificationError
	return errors.As(err, &invalid)
}

// fetchKeys returns the keys that the issuer at address publishes: those of the
// jwks_uri of its discovery document, which must be the document of this issuer
// (OpenID Connect Discovery 1.0, 4.3). The keys may be on another host: that is
// how large providers do it, and an API server names its own address.
func fetchKeys(ctx context.Context, c *http.Client, address string) ([]*key, error) {
	document, err := get(ctx, c, strings.TrimSuffix(address, "/")+wellKnown)
	if err != nil {
		return nil, err
	}
	at, err := parseDiscovery(document, address)
	if err != nil {
		return nil, err
	}
	if document, err = get(ctx, c, at); err != nil {
		return nil, err
	}
	keys, err := parseKeys(document, skipUnusable)
	if err != nil {
		return nil, &fetchError{"its key set cannot be used: " + err.Error(), err}
	}
	return keys, nil
}

// parseDiscovery returns the jwks_uri of the discovery document of issuer.
func parseDiscovery(document []byte, issuer string) (string, error) {
	var d oidc.ProviderConfig
	if err := json.Unmarshal(document, &d); err != nil {
		return "", &fetchError{"its discovery document is not a discovery document", nil}
	}
	if d.IssuerURL != issuer {
		return "", &fetchError{"its discovery document is of another issuer", nil}
	}
	u, err := url.Parse(d.JWKSURL)
	if err != nil || len(d.JWKSURL) > maxJWKSURL || !httpsURL(u) {
		return "", &fetchError{"its discovery document names no https URL of its keys", nil}
	}
	return d.JWKSURL, nil
}
