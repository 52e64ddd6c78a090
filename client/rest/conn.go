package rest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// conn is the connections to one node.
type conn struct {
	host string
	http *http.Transport

	mu      sync.Mutex
	closed  bool
	sockets map[net.Conn]struct{} // open ones
}

var _ client.Conn = (*conn)(nil)

// Invoke implements [grpc.ClientConnInterface].
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	in, ok1 := args.(proto.Message)
	out, ok2 := reply.(proto.Message)
	if !ok1 || !ok2 {
		return errs.Newf(errs.InvalidArgument, "request or answer of %s is not a message", method)
	}
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { client.MarkSent(ctx) }, // I2: nothing is written before
	})
	hr, err := c.request(traced, method, in)
	if err != nil {
		return err
	}
	if err := authorize(ctx, hr, opts); err != nil {
		_ = hr.Body.Close()
		return err
	}
	resp, err := c.http.RoundTrip(hr) // and not a http.Client: no redirects, no cookies (I3)
	if err != nil {
		return lost(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // Only read from.
	headers(resp.StatusCode, resp.Header, opts)
	raw, err := read(resp.Body, resp.ContentLength)
	defer func() { clear(raw) }()
	if err != nil {
		return lost(ctx, err)
	}
	return decode(resp.StatusCode, resp.Header, raw, out)
}

// authorize sets the headers of the caller's token. The last option counts, as it
// does over gRPC. The URL is always https (hostPort), so they are sent over TLS only.
func authorize(ctx context.Context, hr *http.Request, opts []grpc.CallOption) error {
	for _, o := range opts {
		o, ok := o.(grpc.PerRPCCredsCallOption)
		if !ok {
			continue
		}
		hr.Header.Del(headerAuthorization)
		md, err := o.Creds.GetRequestMetadata(ctx, hr.URL.Scheme+"://"+hr.URL.Host)
		if err != nil {
			return errs.New(errs.Unauthenticated, "there are no credentials for the call", errs.Hint("check the token"), errs.Cause(err))
		}
		for name, value := range md {
			if http.CanonicalHeaderKey(name) == headerAuthorization {
				hr.Header.Set(headerAuthorization, value)
			}
		}
	}
	return nil
}

// NewStream implements [grpc.ClientConnInterface].
func (c *conn) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errs.New(errs.Unimplemented, "this client makes no streaming calls")
}

// Close implements [io.Closer]. Calls that run fail, because their sockets do.
func (c *conn) Close() error {
	c.mu.Lock()
	c.closed = true
	all := make([]net.Conn, 0, len(c.sockets))
	for s := range c.sockets {
		all = append(all, s)
	}
	c.mu.Unlock()
	var bad []error
	for _, s := range all {
		if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			bad = append(bad, err)
		}
	}
	c.http.CloseIdleConnections()
	return errors.Join(bad...)
}

// lost is the error of a call that has no answer.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	return errs.New(errs.Unavailable, err.Error(), errs.Cause(err))
}

// headers hands over what a node says beside its answer, as gRPC does.
func headers(code int, h http.Header, opts []grpc.CallOption) {
	md := metadata.MD{}
	if h.Get(headerNode) != "" && h.Get(headerCorrelation) != "" {
		index, _ := strconv.ParseUint(h.Get(headerIndex), 10, 64) // 0 is "not said"
		md.Set(answer.Header, answer.Format(answer.Info{
			Correlation: h.Get(headerCorrelation), Node: h.Get(headerNode), Index: index,
			Operation: strings.TrimPrefix(h.Get(headerOperation), "operations/"), Pending: code == http.StatusAccepted,
			Stale: h.Get(headerStale) == "1",
		}))
	}
	for _, o := range opts {
		if o, ok := o.(grpc.HeaderCallOption); ok {
			*o.HeaderAddr = md
		}
	}
}
