package gcpkms

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
)

// maxMessage is the longest answer that is read, in bytes; those of this
// service have a few kilobytes. Google's own limit is 2 GiB.
const maxMessage = 1 << 20

// userAgent stands in the records of the key service.
const userAgent = "krypton"

// link is one connection with Google's client on it.
type link struct {
	conn   *grpc.ClientConn
	client *kms.KeyManagementClient

	users   int  // calls that are using it
	retired bool // nobody gets it any more; the last user closes it
}

// links hands out the present connection and replaces one that is broken.
//
// A gRPC connection that failed waits, longer after each failure, before it
// tries again, and calls fail meanwhile without anything having been tried: a
// keystore that is back would look away for minutes. One whose machine went
// away without a word stays until the system gives up, after a quarter of an
// hour. So a connection that failed, or on which a call got no answer in its
// time, is replaced by the next call, which then makes one real attempt.
type links struct {
	endpoint string
	tls      *tls.Config

	mu      sync.Mutex // never held over I/O: making a connection starts none
	present *link      // nil before the first call and after close
	closed  bool
}

// take returns a connection and what gives it back.
func (l *links) take(ctx context.Context) (*link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	if l.present != nil && l.present.conn.GetState() == connectivity.TransientFailure {
		l.retire(l.present)
	}
	if l.present == nil {
		next, err := l.dial(ctx)
		if err != nil {
			return nil, err
		}
		l.present = next
	}
	l.present.users++
	return l.present, nil
}

// back gives a connection back after a call that ended with code. One that
// stands and got no answer in time is not used again; one that is still being
// made is left to it, or calls whose time is shorter than a handshake would
// never get one. Neither is one that failed: its state may tell so only a moment
// after the call did.
func (l *links) back(k *link, code codes.Code) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.users--
	stands := k.conn.GetState() == connectivity.Ready
	if code == codes.DeadlineExceeded && stands || code == codes.Unavailable && !stands {
		l.retire(k)
	}
	if k.retired && k.users == 0 {
		k.end()
	}
}

// retire takes a connection out of use. Calls that are on it go on.
func (l *links) retire(k *link) {
	if l.present == k {
		l.present = nil
	}
	if !k.retired {
		k.retired = true
		if k.users == 0 {
			k.end()
		}
	}
}

// close ends all use; calls on the present connection fail.
func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if k := l.present; k != nil {
		l.present = nil
		k.retired = true
		k.end()
	}
}

// end closes the connection; a second time does nothing.
func (k *link) end() { _ = k.client.Close() }

// dial makes a connection, which connects with its first call. Everything that
// Google's client would otherwise find out by itself is given here: endpoint,
// certificates, no proxy of the environment, no credentials (each call carries
// its own token), no retries and no configuration from DNS.
func (l *links) dial(ctx context.Context) (*link, error) {
	conn, err := grpc.NewClient("passthrough:///"+l.endpoint,
		grpc.WithTransportCredentials(credentials.NewTLS(l.tls.Clone())),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithUserAgent(userAgent),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.ForceCodecV2(wipingCodec{})))
	if err != nil {
		return nil, err
	}
	// No request is made, and ctx is not kept: with a connection given the client
	// looks for nothing.
	// Its logger is one that says nothing: the default one writes requests, with
	// the plaintext, to standard error when an environment variable asks for it.
	client, err := kms.NewKeyManagementClient(ctx, option.WithGRPCConn(conn), option.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &link{conn: conn, client: client}, nil
}
