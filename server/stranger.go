package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

var (
	errStranger = errors.New("a connection without a valid identity has used up what it may")
	errNoDoor   = errors.New("the connection came through no door of this node")
)

// publicCreds is TLS that knows strangers from callers.
type publicCreds struct {
	credentials.TransportCredentials

	identify func(*visit, *x509.Certificate) caller
}

// publicInfo is what is known of a connection to the public gRPC port.
type publicInfo struct {
	credentials.TLSInfo

	visit *visit
}

// ServerHandshake implements credentials.TransportCredentials.
func (p publicCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	v, ok := raw.(*visit)
	if !ok {
		return nil, nil, errNoDoor
	}
	conn, info, err := p.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errNoDoor
	}
	p.identify(v, leafOf(info)) // who is accepted has a place from now on
	return conn, publicInfo{TLSInfo: t, visit: v}, nil
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

// visitOf returns the connection of a call over gRPC, and the certificate that it
// proved, each or nil.
func visitOf(ctx context.Context) (*visit, *x509.Certificate) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, nil
	}
	if i, ok := p.AuthInfo.(publicInfo); ok {
		return i.visit, leafOf(i)
	}
	return nil, leafOf(p.AuthInfo)
}

type visitKey struct{}

// withVisit puts the connection of a request into its context, for net/http.
func withVisit(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	v, _ := conn.(*visit)
	return context.WithValue(ctx, visitKey{}, v)
}

// visitFrom returns what withVisit put into ctx.
func visitFrom(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}
