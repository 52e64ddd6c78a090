package transit

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
	"os"
	"sync"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Bounds on one exchange with the server. The caller's context ends it earlier.
const (
	dialTimeout     = 5 * time.Second
	exchangeTimeout = 10 * time.Second
	importTimeout   = time.Minute // the server makes its wrapping key when it is first asked for it, RSA-4096
	idleTimeout     = 90 * time.Second
	maxConnections  = 32
	// maxAnswer is the longest answer that is read, in bytes. A key with ten
	// thousand versions is described in 200 KiB.
	maxAnswer = 1 << 20
	// maxSecretAnswer is the same for answers with a secret, whose buffer is
	// made before the answer comes.
	maxSecretAnswer = 16 << 10
)

// CorrelationHeader carries the correlation id of a call. The server's audit
// log has it where its administrator configured that.
const CorrelationHeader = "X-Krypton-Correlation"

// client speaks to one server.
type client struct {
	api       *api.Client
	transport *http.Transport
}

func newClient(s settings, id identity) (*client, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS13, GetClientCertificate: id.clientCertificate()}
	if s.caFile != "" {
		ca, err := os.ReadFile(s.caFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("%s has no certificate in PEM", s.caFile)
		}
	}
	// HTTP/1.1 alone: fewer buffers between us and the socket hold what passes.
	// No proxy, which the default transport would take from the environment (I3).
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: exchangeTimeout,
		IdleConnTimeout:     idleTimeout,
		MaxConnsPerHost:     maxConnections,
		MaxIdleConnsPerHost: maxConnections,
		DisableCompression:  true,
	}
	a, err := api.NewClient(&api.Config{
		Address:            s.address,
		HttpClient:         &http.Client{Transport: carrier{t}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		DisableRedirects:   true,
		DisableEnvironment: true,
		MaxRetries:         0,
		CheckRetry:         func(context.Context, *http.Response, error) (bool, error) { return false, nil },
	})
	if err != nil {
		return nil, err
	}
	if s.namespace != "" {
		a.SetNamespace(s.namespace)
	}
	return &client{api: a, transport: t}, nil
}

// request is one call of the server's API.
type request struct {
	method, path string // path without /v1/
	token        token
	correlation  corr.ID
	body         *outgoing // nil: none
	secret       bool      // the answer holds a secret
	imports      bool      // it brings material, or asks how
}

// reply is what all answers have in common.
type reply struct {
	RequestID keystore.RequestID `json:"request_id"`
	Errors    []string           `json:"errors"`

	understood bool // the answer was the API's JSON
}

func (r *reply) common() *reply { return r }

// item is the error of the one item of a batch.
func (r *reply) item() string { return "" }

type replier interface {
	common() *reply
	item() string
}

// result is how an exchange ended.
type result struct{ status int }

// send makes one exchange and decodes the answer into rep, whatever its status.
// An error is a *failure: there was no answer.
func (c *client) send(ctx context.Context, r request, rep replier) (result, error) {
	limit := exchangeTimeout
	if r.imports {
		limit = importTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req := c.api.NewRequest(r.method, "/v1/"+r.path)
	req.ClientToken = string(r.token)
	req.Headers.Set("User-Agent", "krypton")
	if r.correlation != "" {
		req.Headers.Set(CorrelationHeader, string(r.correlation))
	}
	if r.body != nil {
		req.Headers.Set("Content-Type", "application/json")
		req.BodyBytes = r.body.b
		ctx = context.WithValue(ctx, outgoingKey{}, r.body)
	}
	res, err := c.api.RawRequestWithContext(ctx, req)
	if res == nil || res.Response == nil {
		if err == nil {
			err = errors.New("no answer")
		}
		return result{}, fail(keystore.Unavailable, "", err)
	}
	most := maxAnswer
	if r.secret {
		most = maxSecretAnswer
	}
	b, err := readAll(res.Body, res.ContentLength, most)
	defer clear(b)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return result{}, fail(keystore.Unavailable, "", fmt.Errorf("read the answer: %w", err))
	}
	out := result{status: res.StatusCode}
	if len(b) == 0 {
		// 204, or an answer of something else on the way; only the former is the API's.
		rep.common().understood = res.StatusCode == http.StatusNoContent
		return out, nil
	}
	if err := json.Unmarshal(b, rep); err != nil {
		if out.status < http.StatusMultipleChoices {
			return result{}, fail(keystore.Unavailable, "", errors.New("the answer is not that of a transit engine"))
		}
		return out, nil
	}
	common := rep.common()
	common.understood = common.Errors != nil || common.RequestID != ""
	return out, nil
}

// readAll reads into one buffer: one that grows leaves copies behind.
func readAll(r io.Reader, length int64, limit int) ([]byte, error) {
	size := limit + 1
	if length >= 0 && length < int64(limit) {
		size = int(length) + 1
	}
	b := make([]byte, size)
	n, err := io.ReadFull(r, b)
	if err == nil {
		clear(b)
		return nil, fmt.Errorf("it is longer than %d bytes", size-1)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		clear(b)
		return nil, err
	}
	if length >= 0 && int64(n) < length {
		clear(b)
		return nil, io.ErrUnexpectedEOF
	}
	return b[:n], nil
}

// outgoing is a request body that is wiped when nothing reads it any more: the
// transport may still be sending it after the exchange has ended (I5).
type outgoing struct {
	b []byte

	mu   sync.Mutex
	open int
	done bool
}

// newOutgoing takes b over.
func newOutgoing(b []byte) *outgoing { return &outgoing{b: b} }

// finish says that no further exchange will send it.
func (o *outgoing) finish() { o.release(0) }

func (o *outgoing) release(readers int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if readers == 0 {
		o.done = true
	}
	o.open -= readers
	if o.done && o.open == 0 {
		clear(o.b)
	}
}

// reader returns a body for one attempt of the transport.
func (o *outgoing) reader() io.ReadCloser {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open++
	return &sending{o: o}
}

// sending is one pass over the bytes of an outgoing. The transport may read and
// close it from different goroutines.
type sending struct {
	o *outgoing

	mu     sync.Mutex
	at     int
	closed bool
}

// Read implements io.Reader.
func (s *sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	if s.at == len(s.o.b) {
		return 0, io.EOF
	}
	n := copy(p, s.o.b[s.at:])
	s.at += n
	return n, nil
}

// Close implements io.Closer.
func (s *sending) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.o.release(1)
	}
	return nil
}

type outgoingKey struct{}

// carrier puts the body that can be wiped in place of the client's own reader,
// and bounds answers, which the client would read to any length.
type carrier struct{ t *http.Transport }

// RoundTrip implements http.RoundTripper.
func (c carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	if o, ok := req.Context().Value(outgoingKey{}).(*outgoing); ok {
		req = req.Clone(req.Context())
		req.Body, req.ContentLength = o.reader(), int64(len(o.b))
		req.GetBody = func() (io.ReadCloser, error) { return o.reader(), nil }
	}
	res, err := c.t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = &bounded{ReadCloser: res.Body, left: maxAnswer + 1}
	return res, nil
}

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (c carrier) CloseIdleConnections() { c.t.CloseIdleConnections() }

type bounded struct {
	io.ReadCloser

	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}
