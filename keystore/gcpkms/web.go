package gcpkms

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
)

// maxAnswer is the longest answer of a token service, in bytes; tokens of
// federated identities have a few kilobytes.
const maxAnswer = 64 << 10

// maxText is how much of a text of the other side goes into an error, in bytes.
const maxText = 200

// tokenError is a failure on the way to a token. It is never Denied: what a
// token service refuses says something about our identity, and nothing about a
// key (I3).
type tokenError struct {
	class keystore.Class
	cause error
}

func (e *tokenError) Error() string { return "get an access token: " + e.cause.Error() }
func (e *tokenError) Unwrap() error { return e.cause }

// web is the HTTP client for token services.
type web struct {
	client *http.Client
}

func newWeb(conf *tls.Config) *web {
	dial := net.Dialer{Timeout: 5 * time.Second}
	return &web{client: &http.Client{
		// Proxies of the environment are not asked: they are no configuration
		// of ours and would see tokens on plain HTTP.
		Transport: &http.Transport{
			DialContext: dial.DialContext, TLSClientConfig: conf.Clone(), TLSHandshakeTimeout: 5 * time.Second,
			// A token an hour: a connection that was kept would be one that may
			// have died since.
			DisableKeepAlives: true,
		},
		// A redirect would carry a token to whom the configuration does not name.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// form posts a form; secret is what it holds that no error may show.
func (w *web) form(ctx context.Context, to, whom string, values url.Values, secret string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(values.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	_, err = w.call(req, whom, out, secret)
	return err
}

// call makes a request and reads its JSON answer into out.
func (w *web) call(req *http.Request, whom string, out any, secrets ...string) (http.Header, error) {
	resp, err := w.client.Do(req)
	if err != nil {
		// The URL in the error of package http is the configured one, without a secret.
		return nil, &tokenError{keystore.Unavailable, fmt.Errorf("%s does not answer: %w", whom, err)}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := readBounded(resp.Body, maxAnswer)
	if err != nil {
		return nil, &tokenError{keystore.Unavailable, fmt.Errorf("read the answer of %s: %w", whom, err)}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refused(resp.StatusCode, body, whom, secrets)
	}
	if err := json.Unmarshal(body, out); err != nil {
		// Not wrapped: it could quote the answer, which may hold a token.
		return nil, &tokenError{keystore.Unavailable, fmt.Errorf("%s answered with what is no token", whom)}
	}
	return resp.Header, nil
}

func refused(code int, body []byte, whom string, secrets []string) error {
	e := &tokenError{class: keystore.Misconfigured}
	switch {
	case code == http.StatusTooManyRequests:
		e.class = keystore.Throttled
	case code >= http.StatusInternalServerError, code == http.StatusRequestTimeout:
		e.class = keystore.Unavailable
	}
	e.cause = fmt.Errorf("%s answers %d%s", whom, code, reason(body, secrets))
	return e
}

// reason is what an error answer says, in either of Google's two forms.
func reason(body []byte, secrets []string) string {
	var oauth struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	var api struct {
		Error struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	}
	var text string
	switch {
	case json.Unmarshal(body, &oauth) == nil && oauth.Error != "":
		text = oauth.Error + ": " + oauth.Description
	case json.Unmarshal(body, &api) == nil && api.Error.Message != "":
		text = api.Error.Status + ": " + api.Error.Message
	default:
		return ""
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "[removed]")
		}
	}
	return fmt.Sprintf(": %q", clip(text))
}

func clip(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "..."
	}
	return s
}

var errTooLong = errors.New("it is longer than the limit")

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, err
	case n > limit:
		return nil, errTooLong
	}
	return b.Bytes(), nil
}
