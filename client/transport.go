package client

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Transport reaches nodes. gRPC is built in; client/rest has another one, for
// networks that gRPC cannot pass. An implementation is safe for concurrent use
// and has the duties that the methods of [Conn] name.
type Transport interface {
	// Check refuses an address that Dial could not use, with INVALID_CONFIG.
	// [New] calls it for every address.
	Check(addr string) error
	// Dial returns a connection to the node at addr. It does not connect yet. The
	// configuration is not changed and may be shared; it is TLS 1.3.
	Dial(addr string, cfg *tls.Config) (Conn, error)
}

// Conn is a connection to one node.
//
// Invoke makes one attempt and does not repeat it. It calls [MarkSent] before a
// byte of the request may leave, takes the trace context from the outgoing
// metadata, fills [grpc.Header], and sends what [grpc.PerRPCCredentials] give,
// over TLS only. An error that the node made arrives as the
// gRPC status that the node made, with its details; every other error says
// nothing about what the node did, and has no such details. A failed TLS
// handshake is in the chain of the error, or a method HandshakeError of the
// connection returns it.
//
// Close ends the calls that are still running.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// overGRPC is the transport that is built in.
type overGRPC struct{}

var _ Transport = overGRPC{}

// Check implements [Transport].
func (overGRPC) Check(addr string) error {
	scheme, _, found := strings.Cut(addr, "://")
	switch {
	case !found:
		// Else every call would go on dialing it until its deadline.
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return errs.New(errs.InvalidConfig, "an address has not the form host:port", errs.Hint("give host:port of a node's gRPC door, [::1]:8400 for IPv6; port 8400 unless configured"))
		}
		return nil
	case strings.EqualFold(scheme, "https"):
		return errs.New(errs.InvalidConfig, "an https:// address is the HTTP/JSON door of a node, and this client speaks gRPC",
			errs.Hint("call client.New(ctx, rest.Use()) with package client/rest, or give host:port of the gRPC door"))
	}
	return errs.New(errs.InvalidConfig, "an address has a scheme that is not known", errs.Hint("give host:port, without a scheme"))
}

// Dial implements [Transport].
func (overGRPC) Dial(addr string, cfg *tls.Config) (Conn, error) {
	if err := (overGRPC{}).Check(addr); err != nil {
		return nil, err
	}
	creds := watchHandshakes(cfg)
	cc, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds),
		// All retries are this package's: gRPC knows neither retry classes nor
		// request ids, and two layers of retries multiply.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			// The default maximum of 2 minutes would keep a healed node away.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithIdleTimeout(0), // the next call should not pay for a handshake
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxResponseBytes), grpc.MaxCallSendMsgSize(MaxRequestBytes)),
		grpc.WithUserAgent("krypton-go"),
		grpc.WithStatsHandler(sentTracker{}),
		experimental.WithBufferPool(wipingPool{mem.DefaultBufferPool()}),
	)
	if err != nil {
		return nil, err
	}
	return watchedConn{Conn: cc, failed: creds.failed}, nil
}

// wipingPool wipes the buffers that messages were sent from and received into
// before they go back to the pool (I6).
type wipingPool struct{ mem.BufferPool }

// Put implements [mem.BufferPool].
func (p wipingPool) Put(b *[]byte) {
	clear((*b)[:cap(*b)])
	p.BufferPool.Put(b)
}
