//go:build !noazurekv

package azurekv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Timeouts of connections. The caller's deadline, which package keystore/guard
// sets per attempt, is the one that counts; these bound what has none.
const (
	dialTimeout   = 5 * time.Second
	tlsTimeout    = 5 * time.Second
	headerTimeout = 30 * time.Second
	idleTimeout   = 90 * time.Second
	maxIdle       = 16
	// callTimeout bounds a whole call with all its requests.
	callTimeout = time.Minute
	// loginTimeout bounds a login, for which other calls may be waiting.
	loginTimeout = 10 * time.Second
)

// newHTTP makes a client that connects where u says, whatever the environment
// says of proxies, and follows no redirect (I1): a bearer token and a one-time
// key are for the host that the operator named.
func newHTTP(u *url.URL, roots *x509.CertPool) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &pinned{to: u, Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    tlsTimeout,
			ResponseHeaderTimeout:  headerTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    maxIdle,
			IdleConnTimeout:        idleTimeout,
			ForceAttemptHTTP2:      true,
		}},
	}
}

// pinned refuses requests to any host but one. MSAL takes the token endpoint
// from a document that it fetches.
type pinned struct {
	*http.Transport

	to *url.URL
}

// RoundTrip implements http.RoundTripper.
func (p *pinned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != p.to.Scheme || r.URL.Host != p.to.Host {
		return nil, &identityError{misconfigured, fmt.Errorf("a request to %s was refused: the configured host is %s", r.URL.Host, p.to.Host)}
	}
	return p.Transport.RoundTrip(r)
}

// maxAnswer bounds what a vault may answer, in bytes: a key's public part and
// its tags are a few KiB.
const maxAnswer = 1 << 20

// traced is the vault's transport for Microsoft's client. It leaves the last
// answer of a call in the call, also where the client makes an error of it.
type traced struct{ http *http.Client }

// last is the last request of a call.
type last struct {
	resp *http.Response
	err  error
}

// lastKey carries a *last.
type lastKey struct{}

// Do implements policy.Transporter.
func (t traced) Do(r *http.Request) (*http.Response, error) {
	resp, err := t.http.Do(r) //nolint:gosec // pinned allows one host.
	if resp != nil {
		if resp.ContentLength > maxAnswer {
			return nil, errors.Join(errors.New("the vault's answer is too long"), resp.Body.Close())
		}
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	if l, ok := r.Context().Value(lastKey{}).(*last); ok {
		l.resp, l.err = resp, err
	}
	return resp, err
}

// with returns a context under which l follows the requests.
func (l *last) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, lastKey{}, l)
}
