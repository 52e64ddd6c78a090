package server

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// What a connection may do whose certificate nobody accepts. It lives long
// enough to hear why, in words and with a record, and then ends: gRPC reads a
// message before any interceptor is asked, so that without these bounds the
// memory of all connections would be open to everybody.
const (
	strangerBytes = 64 << 10
	strangerTime  = 10 * time.Second
)

var errStranger = errors.New("a connection without a valid identity has used up what it may")

// publicCreds is TLS that knows strangers from callers.
type publicCreds struct {
	credentials.TransportCredentials

	identify func(*x509.Certificate) caller
}

// publicInfo is what is known of a connection to the public gRPC port.
type publicInfo struct {
	credentials.TLSInfo

	stranger *strangerConn // nil: its certificate is accepted
}

// ServerHandshake implements credentials.TransportCredentials.
func (p publicCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := p.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if p.identify(leafOf(info)).refused == nil {
		return conn, info, nil
	}
	s := newStrangerConn(conn)
	if t, ok := info.(credentials.TLSInfo); ok {
		info = publicInfo{TLSInfo: t, stranger: s}
	}
	return s, info, nil
}

// Clone implements credentials.TransportCredentials.
func (p publicCreds) Clone() credentials.TransportCredentials {
	p.TransportCredentials = p.TransportCredentials.Clone()
	return p
}

// leafOf returns the certificate that a connection proved, or nil.
func leafOf(info credentials.AuthInfo) *x509.Certificate {
	if p, ok := info.(publicInfo); ok {
		info = p.TLSInfo
	}
	if t, ok := info.(credentials.TLSInfo); ok && len(t.State.PeerCertificates) > 0 {
		return t.State.PeerCertificates[0]
	}
	return nil
}

// strangerOf returns the connection behind ctx if its certificate is not accepted,
// and nobody has shown a token on it yet.
func strangerOf(ctx context.Context) *strangerConn {
	if p, ok := peer.FromContext(ctx); ok {
		if i, ok := p.AuthInfo.(publicInfo); ok && !i.stranger.vouched.Load() {
			return i.stranger
		}
	}
	return nil
}

// strangerConn ends after strangerBytes or strangerTime, unless somebody shows a
// valid token on it meanwhile.
type strangerConn struct {
	net.Conn

	left    atomic.Int64
	vouched atomic.Bool
	stop    func()      // ends the time
	spare   func() bool // keeps the end of the time from closing the connection
}

// vouch lifts the bounds: a caller has shown a valid token.
func (s *strangerConn) vouch() {
	if s.spare() {
		s.vouched.Store(true)
		s.stop()
	}
}

func newStrangerConn(conn net.Conn) *strangerConn {
	s := &strangerConn{Conn: conn}
	s.left.Store(strangerBytes)
	ctx, cancel := context.WithTimeout(context.Background(), strangerTime)
	// Whether the time is over or Close was called: both end the connection.
	s.spare = context.AfterFunc(ctx, func() { _ = conn.Close() })
	s.stop = cancel
	return s
}

// Read implements net.Conn.
func (s *strangerConn) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if s.left.Add(-int64(n)) < 0 && !s.vouched.Load() {
		return 0, errStranger
	}
	return n, err
}

// Close implements net.Conn.
func (s *strangerConn) Close() error {
	s.stop()
	return s.Conn.Close()
}
