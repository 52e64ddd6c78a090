package rest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	handshakeTimeout = 10 * time.Second
	dialTimeout      = 10 * time.Second
	idleTimeout      = 5 * time.Minute
	// pingAfter and pingTimeout find a connection whose other end is gone.
	pingAfter   = 20 * time.Second
	pingTimeout = 5 * time.Second
	// idleConnections are kept open to a node that speaks only HTTP/1.1.
	idleConnections = 16
	// headerBytes bounds the headers of one answer.
	headerBytes = 64 << 10
)

// Transport reaches nodes over HTTP/JSON. The zero value is ready to use.
type Transport struct {
	// Proxy returns the proxy for a request, as [http.Transport] has it; a proxy
	// is asked for a tunnel (CONNECT), through which TLS goes to the node. Nil:
	// none, whatever the environment says.
	Proxy func(*http.Request) (*url.URL, error)
}

var _ client.Transport = Transport{}

// Use makes a client speak HTTP/JSON. Its addresses are https://host:port, or
// host:port, of the HTTP/JSON doors of several nodes.
func Use() func(*client.Options) {
	return func(o *client.Options) { o.Transport = Transport{} }
}

// UseProxy is [Use] through a proxy. [http.ProxyFromEnvironment] is the one that
// HTTPS_PROXY and NO_PROXY name.
func UseProxy(proxy func(*http.Request) (*url.URL, error)) func(*client.Options) {
	return func(o *client.Options) { o.Transport = Transport{Proxy: proxy} }
}

// Check implements [client.Transport].
func (Transport) Check(addr string) error {
	_, err := hostPort(addr)
	return err
}

// hostPort returns the host:port of an address.
func hostPort(addr string) (string, error) {
	const hint = "give https://host:port of a node's HTTP/JSON door, port 8401 unless configured"
	if !strings.Contains(addr, "://") {
		addr = "https://" + addr
	}
	u, err := url.Parse(addr)
	switch {
	case err != nil || u.Hostname() == "" || u.Port() == "":
		return "", errs.New(errs.InvalidConfig, "an address has not the form https://host:port", errs.Hint(hint))
	case u.Scheme != "https":
		return "", errs.New(errs.InvalidConfig, "an address is not https: nodes answer nothing else", errs.Hint(hint))
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errs.New(errs.InvalidConfig, "an address has more than host and port", errs.Hint(hint))
	case strings.Contains(u.Host, "%"):
		// A certificate cannot name a zone, so no node could prove that it is this one.
		return "", errs.New(errs.InvalidConfig, "an address has an IPv6 zone", errs.Hint(hint))
	}
	return u.Host, nil
}

// Dial implements [client.Transport].
func (t Transport) Dial(addr string, cfg *tls.Config) (client.Conn, error) {
	host, err := hostPort(addr)
	if err != nil {
		return nil, err
	}
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13 // I6
	cfg.NextProtos = []string{"h2", "http/1.1"}
	var protocols http.Protocols
	protocols.SetHTTP1(true) // where something in between speaks nothing newer
	protocols.SetHTTP2(true)
	c := &conn{host: host, sockets: map[net.Conn]struct{}{}}
	c.http = &http.Transport{
		Proxy: t.Proxy, DialContext: c.dial, TLSClientConfig: cfg, TLSHandshakeTimeout: handshakeTimeout, Protocols: &protocols,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression: true, // the length of an answer must not tell what is in it
		IdleConnTimeout:    idleTimeout, MaxIdleConnsPerHost: idleConnections, MaxResponseHeaderBytes: headerBytes,
	}
	return c, nil
}

// dial opens a socket that Close closes.
func (c *conn) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	s, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s = &socket{Conn: s, c: c}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.sockets[s] = struct{}{}
	}
	c.mu.Unlock()
	if closed {
		_ = s.Close()
		return nil, net.ErrClosed
	}
	return s, nil
}

// socket leaves its connection's list when it is closed.
type socket struct {
	net.Conn

	c *conn
}

// Close implements [net.Conn].
func (s *socket) Close() error {
	s.c.mu.Lock()
	delete(s.c.sockets, s)
	s.c.mu.Unlock()
	return s.Conn.Close()
}
