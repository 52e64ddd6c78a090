package cluster

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// Protocols on the peer port, chosen by ALPN.
const (
	protoRaft = "krypton-raft/1"
	protoPeer = "krypton-peer/1"
	protoJoin = "krypton-join/1"
)

// Limits of the peer port. Strangers share the small ones, members have their
// own, so that strangers cannot take a member's place.
const (
	handshakeTime  = 5 * time.Second
	maxHandshakes  = 128 // connections that have not proved who they are; one more ends the oldest
	maxJoins       = 16  // connections that ask to join; one more ends the oldest
	maxPerMember   = 64  // connections of one member
	joinConnection = time.Minute
	dialTime       = 3 * time.Second
)

// peerConn is a connection whose other end proved that it holds a key.
type peerConn struct {
	*tls.Conn

	peer    NodeID // empty: no member
	spki    []byte
	keyHash [32]byte
	counted bool // against the limit of its member
	release func()
	once    sync.Once
}

// Close closes the connection and gives its place back.
func (c *peerConn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

// port is the peer port: one listener, three protocols.
type port struct {
	ln    net.Listener
	key   *MemberKey
	trust *trust
	clk   clock.Clock
	log   *slog.Logger
	next  map[string]*connQueue // by protocol

	// incarnation is that of the cluster to which this node listens; nil: the first.
	incarnation func() []byte

	mu      sync.Mutex
	closed  bool
	pending []net.Conn // in handshake, oldest first
	conns   map[*peerConn]struct{}
	joins   []*peerConn    // that came in and ask to join, oldest first
	count   map[NodeID]int // that came in, by member
	alarms  map[NodeID]time.Time

	wg sync.WaitGroup
}

// named returns a protocol of members as it is called in the present incarnation (I23):
// nodes of another one have no protocol in common.
func (p *port) named(proto string) string {
	if p.incarnation == nil {
		return proto
	}
	if id := p.incarnation(); len(id) > 0 {
		return proto + "+" + hex.EncodeToString(id)
	}
	return proto
}

// protocol returns which protocol of this port a connection speaks, or "".
func (p *port) protocol(negotiated string) string {
	switch negotiated {
	case p.named(protoRaft):
		return protoRaft
	case p.named(protoPeer):
		return protoPeer
	case protoJoin:
		return protoJoin
	}
	return ""
}

func newPort(ln net.Listener, key *MemberKey, t *trust, clk clock.Clock, log *slog.Logger) *port {
	p := &port{
		ln: ln, key: key, trust: t, clk: clk, log: log,
		next:  map[string]*connQueue{},
		conns: map[*peerConn]struct{}{}, count: map[NodeID]int{}, alarms: map[NodeID]time.Time{},
	}
	for _, proto := range []string{protoRaft, protoPeer, protoJoin} {
		p.next[proto] = newConnQueue(ln.Addr())
	}
	return p
}

// config is the TLS configuration of both directions. Names, issuers and dates
// of certificates are not looked at: the key is the identity (I2).
func (p *port) config(check func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, //nolint:gosec // VerifyConnection compares the key with the member entry, which is stronger than any chain.
		SessionTicketsDisabled: true, // every connection proves its key anew
		VerifyConnection:       check,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.key.certificate() },
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.key.certificate() },
		Time:                   p.clk.Now,
	}
}

var (
	errNoMember = errors.New("the key is not that of a current member")
	errProtocol = errors.New("the protocol is none of this port")
)

// leaf returns the one certificate of a connection.
func leaf(cs tls.ConnectionState) (*x509.Certificate, error) {
	if len(cs.PeerCertificates) != 1 {
		return nil, errors.New("a peer shows exactly one certificate")
	}
	return cs.PeerCertificates[0], nil
}

// admit decides about an incoming connection inside its handshake.
func (p *port) admit(cs tls.ConnectionState) error {
	cert, err := leaf(cs)
	if err != nil {
		return err
	}
	switch p.protocol(cs.NegotiatedProtocol) {
	case protoJoin:
		return nil // the token decides
	case protoRaft, protoPeer:
	default:
		return errProtocol
	}
	id, ok := p.trust.peerOf(sha256.Sum256(cert.RawSubjectPublicKeyInfo))
	if !ok {
		return errNoMember
	}
	p.alarmIfExpired(id, cert)
	return nil
}

// alarmIfExpired reports, at most once an hour, that a member shows a
// certificate outside its dates. It is let in: a cluster that was off for longer
// than its certificates live must still start, and the key is the pinned one.
func (p *port) alarmIfExpired(id NodeID, cert *x509.Certificate) {
	now := p.clk.Now()
	if !now.After(cert.NotAfter) && !now.Before(cert.NotBefore) {
		return
	}
	p.mu.Lock()
	last, again := p.alarms[id]
	quiet := again && now.Sub(last) < time.Hour
	if !quiet {
		p.alarms[id] = now
	}
	p.mu.Unlock()
	if !quiet {
		p.log.LogAttrs(context.Background(), slog.LevelError, "alarm: a member shows a certificate outside its dates; accepted because its key is the pinned one",
			slog.String("peer", string(id)), slog.Time("not_after", cert.NotAfter))
	}
}

// serve accepts until ctx ends or the listener breaks. It returns after every
// handshake ended.
func (p *port) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.ln.Close() })
	defer stop()
	defer p.wg.Wait()
	for {
		raw, err := p.ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = raw.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return nil // by Close
		case err != nil:
			// Out of descriptors, most likely: wait, do not spin and do not give up.
			p.log.LogAttrs(ctx, slog.LevelWarn, "cannot accept on the peer port", slog.Any("error", err))
			if p.clk.Sleep(ctx, 100*time.Millisecond) != nil {
				return nil
			}
			continue
		}
		p.shake(raw)
		p.wg.Go(func() { p.handle(ctx, raw) })
	}
}

// shake notes a connection that proved nothing yet. When there are too many the
// oldest goes: an honest handshake takes milliseconds, so under a flood of
// silent connections members still get in.
func (p *port) shake(raw net.Conn) {
	var victim net.Conn
	p.mu.Lock()
	p.pending = append(p.pending, raw)
	if len(p.pending) > maxHandshakes {
		victim, p.pending = p.pending[0], p.pending[1:]
	}
	p.mu.Unlock()
	if victim != nil {
		_ = victim.Close()
	}
}

func (p *port) shaken(raw net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.pending, raw); i >= 0 {
		p.pending = slices.Delete(p.pending, i, i+1)
	}
}

func (p *port) handle(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = raw.SetDeadline(p.clk.Now().Add(handshakeTime))
	cfg := p.config(p.admit)
	cfg.NextProtos = []string{p.named(protoRaft), p.named(protoPeer), protoJoin}
	conn := tls.Server(raw, cfg)
	err := conn.HandshakeContext(ctx)
	p.shaken(raw)
	if err != nil {
		p.log.LogAttrs(ctx, slog.LevelDebug, "peer connection refused", slog.String("remote", raw.RemoteAddr().String()), slog.Any("error", err))
		_ = raw.Close()
		return
	}
	_ = raw.SetDeadline(time.Time{})
	pc, err := p.own(conn, incoming)
	if err != nil {
		p.log.LogAttrs(ctx, slog.LevelWarn, "peer connection refused", slog.String("remote", raw.RemoteAddr().String()), slog.Any("error", err))
		_ = conn.Close()
		return
	}
	if pc.peer == "" {
		_ = raw.SetDeadline(p.clk.Now().Add(joinConnection))
	}
	proto := p.protocol(conn.ConnectionState().NegotiatedProtocol)
	if proto == "" { // the incarnation is another one since the handshake
		_ = pc.Close()
		return
	}
	p.next[proto].put(pc)
}

// direction says who opened a connection.
type direction int

const (
	incoming direction = iota + 1
	outgoing
)

// own makes an authenticated connection one of this port's, within the limits.
func (p *port) own(conn *tls.Conn, dir direction) (*peerConn, error) {
	cs := conn.ConnectionState()
	cert, err := leaf(cs)
	if err != nil {
		return nil, err
	}
	pc := &peerConn{Conn: conn, spki: cert.RawSubjectPublicKeyInfo, keyHash: sha256.Sum256(cert.RawSubjectPublicKeyInfo)}
	if cs.NegotiatedProtocol != protoJoin {
		id, ok := p.trust.peerOf(pc.keyHash)
		if !ok {
			return nil, errNoMember
		}
		pc.peer = id
	}
	pc.release = func() { p.disown(pc) }
	p.mu.Lock()
	var victim *peerConn
	switch {
	case p.closed:
		err = net.ErrClosed
	case dir == outgoing:
	case pc.peer == "":
		// Whoever made up a key may ask to join. The oldest goes, as in [port.shake].
		p.joins = append(p.joins, pc)
		if len(p.joins) > maxJoins {
			victim, p.joins = p.joins[0], p.joins[1:]
		}
	case p.count[pc.peer] >= maxPerMember:
		err = errors.New("the member has too many connections")
	default:
		pc.counted = true
		p.count[pc.peer]++
	}
	if err == nil {
		p.conns[pc] = struct{}{}
	}
	p.mu.Unlock()
	if victim != nil {
		_ = victim.Close()
	}
	return pc, err
}

// disown gives the place of a connection back.
func (p *port) disown(pc *peerConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, pc)
	if pc.counted {
		if p.count[pc.peer]--; p.count[pc.peer] == 0 {
			delete(p.count, pc.peer)
		}
	}
	if i := slices.Index(p.joins, pc); i >= 0 {
		p.joins = slices.Delete(p.joins, i, i+1)
	}
}

// dial connects to a member by its id.
func (p *port) dial(ctx context.Context, id NodeID, proto string) (net.Conn, error) {
	address, keyHash, ok := p.trust.lookup(id)
	if !ok {
		return nil, fmt.Errorf("dial %s: %w", id, errNoMember)
	}
	return p.dialKey(ctx, address, keyHash, proto)
}

// dialKey connects to address and accepts only the holder of the key.
func (p *port) dialKey(ctx context.Context, address string, keyHash [32]byte, proto string) (net.Conn, error) {
	d := net.Dialer{Deadline: p.clk.Now().Add(dialTime)}
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(p.clk.Now().Add(handshakeTime))
	if proto != protoJoin {
		proto = p.named(proto)
	}
	cfg := p.config(func(cs tls.ConnectionState) error { //nolint:contextcheck // The alarm outlives the call that met it.
		cert, err := leaf(cs)
		switch {
		case err != nil:
			return err
		case sha256.Sum256(cert.RawSubjectPublicKeyInfo) != keyHash:
			return errors.New("another node answers at this address")
		case cs.NegotiatedProtocol != proto:
			return errProtocol
		}
		if id, ok := p.trust.peerOf(keyHash); ok {
			p.alarmIfExpired(id, cert)
		}
		return nil
	})
	cfg.NextProtos = []string{proto}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	_ = raw.SetDeadline(time.Time{})
	pc, err := p.own(conn, outgoing)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return pc, nil
}

// strangers reports whether nodes that are no members any more have connections.
func (p *port) strangers() bool { return len(p.strange()) > 0 }

// dropStrangers closes the connections of nodes that are no members any more (I8).
func (p *port) dropStrangers() {
	for _, c := range p.strange() {
		_ = c.Close()
	}
}

func (p *port) strange() []*peerConn {
	var out []*peerConn
	for _, c := range p.open() {
		if c.peer == "" {
			continue
		}
		if _, ok := p.trust.peerOf(c.keyHash); !ok {
			out = append(out, c)
		}
	}
	return out
}

func (p *port) open() []*peerConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*peerConn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	return all
}

// Close ends every connection.
func (p *port) Close() {
	p.mu.Lock()
	p.closed = true
	pending := p.pending
	p.pending = nil
	p.mu.Unlock()
	_ = p.ln.Close()
	for _, c := range pending {
		_ = c.Close()
	}
	for _, c := range p.open() {
		_ = c.Close()
	}
	for _, q := range p.next {
		_ = q.Close()
	}
	p.wg.Wait()
}

// connQueue hands connections of one protocol to its server as a net.Listener.
type connQueue struct {
	addr net.Addr
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newConnQueue(addr net.Addr) *connQueue {
	return &connQueue{addr: addr, ch: make(chan net.Conn), done: make(chan struct{})}
}

func (q *connQueue) put(c net.Conn) {
	select {
	case q.ch <- c:
	case <-q.done:
		_ = c.Close()
	}
}

// Accept implements [net.Listener].
func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.ch:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

// Addr implements [net.Listener].
func (q *connQueue) Addr() net.Addr { return q.addr }
