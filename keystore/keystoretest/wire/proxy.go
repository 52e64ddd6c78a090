package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// fault is what a proxy does to connections.
type fault int

const (
	none   fault = iota
	refuse       // nobody listens
	reset        // a connection is reset once the provider says something
	cut          // a connection is reset after some bytes of the keystore
	hang         // bytes are held back
	slow         // bytes of the keystore come late
)

// chunk is how much is copied at a time.
const chunk = 16 << 10

// Proxy carries TCP connections to a keystore and breaks them when told.
type Proxy struct {
	target, addr string
	ctx          context.Context //nolint:containedctx // The life of the proxy: ends in Close.
	cancel       context.CancelFunc
	wg           sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when fault changes
	fault    fault
	after    int           // for cut: bytes
	delay    time.Duration // for slow
	listener net.Listener  // nil while refusing
	links    map[*link]bool
	accepted int
}

// link is one connection of a provider and its continuation to the keystore.
type link struct {
	client, server net.Conn
	left           int // for cut: bytes of the keystore that still pass
}

// reset ends both sides at once, without the goodbye of TCP or TLS.
func (l *link) reset() {
	for _, c := range []net.Conn{l.client, l.server} {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // a connection that is gone already is what was wanted
		}
		_ = c.Close()
	}
}

// NewProxy listens on a port of loopback that the kernel chooses and carries
// every connection to target, host:port.
func NewProxy(target string) (*Proxy, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		target: target, addr: ln.Addr().String(), ctx: ctx, cancel: cancel,
		changed: make(chan struct{}), listener: ln, links: map[*link]bool{},
	}
	p.wg.Go(func() { p.accept(ln) })
	return p, nil
}

// Addr returns where to connect to, host:port. It stays the same over faults.
func (p *Proxy) Addr() string { return p.addr }

// Accepted returns how many connections came so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Refuse resets every connection and refuses new ones, as a machine does on
// which the service is not running.
func (p *Proxy) Refuse() (heal func() error) {
	p.set(refuse, 0, 0)
	return p.heal
}

// Reset resets every connection, and new ones as soon as the provider says
// something on them.
func (p *Proxy) Reset() (heal func() error) {
	p.set(reset, 0, 0)
	return p.heal
}

// Cut lets n more bytes of the keystore pass on each connection and then resets
// it: in the middle of an answer, or of a TLS handshake on a new connection.
func (p *Proxy) Cut(n int) (heal func() error) {
	p.set(cut, n, 0)
	return p.heal
}

// Hang holds back what either side says until it is healed; then it passes.
// Connections stay open.
func (p *Proxy) Hang() (heal func() error) {
	p.set(hang, 0, 0)
	return p.heal
}

// Slow lets what the keystore says pass d later, for each piece of up to 16 KiB.
func (p *Proxy) Slow(d time.Duration) (heal func() error) {
	p.set(slow, 0, d)
	return p.heal
}

func (p *Proxy) set(f fault, after int, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.after, p.delay = f, after, delay
	close(p.changed)
	p.changed = make(chan struct{})
	for l := range p.links {
		l.left = after
		if f == refuse || f == reset {
			l.reset()
		}
	}
	if f == refuse && p.listener != nil {
		_ = p.listener.Close() // it refuses from here on, whatever this says
		p.listener = nil
	}
}

// heal ends the fault. It fails when somebody else took the port meanwhile.
func (p *Proxy) heal() error {
	p.set(none, 0, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil || p.ctx.Err() != nil {
		return nil
	}
	ln, err := (&net.ListenConfig{}).Listen(p.ctx, "tcp", p.addr)
	if err != nil {
		return fmt.Errorf("listen on loopback again: %w", err)
	}
	p.listener = ln
	p.wg.Go(func() { p.accept(ln) })
	return nil
}

// Close ends every connection and waits for what carries them. It is idempotent.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.cancel()
	var err error
	if p.listener != nil {
		err = p.listener.Close()
		p.listener = nil
	}
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	p.wg.Wait()
	return err
}

func (p *Proxy) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.carry(c) })
	}
}

func (p *Proxy) carry(client net.Conn) {
	server, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.target)
	l := &link{client: client, server: server}
	if err != nil {
		l.server = client
		l.reset()
		return
	}
	p.mu.Lock()
	p.accepted++
	p.links[l] = true
	l.left = p.after
	dead := p.ctx.Err() != nil || p.fault == refuse
	p.mu.Unlock()
	if dead {
		l.reset()
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(l, client, server, false) })
	both.Go(func() { p.pump(l, server, client, true) })
	both.Wait()
	_, _ = client.Close(), server.Close()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// errCut ends a connection that has had its bytes.
var errCut = errors.New("cut")

// pump copies one direction until it ends, and then ends the direction for the
// other side: what the other one still says passes.
func (p *Proxy) pump(l *link, from, to net.Conn, answers bool) {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if perr := p.pass(l, to, buf[:n], answers); perr != nil {
				l.reset()
				return
			}
		}
		if err != nil {
			if t, ok := to.(*net.TCPConn); ok {
				_ = t.CloseWrite() // closed already when the connection was reset
			}
			return
		}
	}
}

// pass writes b to the other side as the fault of the moment allows.
func (p *Proxy) pass(l *link, to net.Conn, b []byte, answers bool) error {
	for {
		p.mu.Lock()
		f, changed, delay := p.fault, p.changed, p.delay
		n := len(b)
		if f == cut && answers {
			n = min(n, l.left)
			l.left -= n
		}
		p.mu.Unlock()
		switch {
		case f == refuse, f == reset:
			return errCut
		case f == hang:
			select {
			case <-changed:
				continue
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
		case f == slow && answers:
			if err := (clock.System{}).Sleep(p.ctx, delay); err != nil {
				return err
			}
		}
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		if n < len(b) {
			return errCut
		}
		return nil
	}
}
