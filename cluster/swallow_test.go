package cluster_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
)

// middlebox stands before the peer port of a member, as a firewall or a balancer
// does, and can stop to carry what it still takes: both ends of the connection go on
// as if nothing had happened.
type middlebox struct {
	ln net.Listener
	wg sync.WaitGroup

	mu       sync.Mutex
	to       string
	open     []*carried
	accepted int
	lossy    bool // new connections are swallowed from the first byte
}

// carried is a connection. What is swallowed is read and gone.
type carried struct {
	a, b     net.Conn
	peer     atomic.Bool // it speaks the protocol of calls and leases
	up, down atomic.Bool // swallowed
}

func newMiddlebox(t *testing.T) *middlebox {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &middlebox{ln: ln}
	m.wg.Go(m.serve)
	t.Cleanup(func() {
		_ = ln.Close()
		m.mu.Lock()
		for _, c := range m.open {
			_ = c.a.Close()
			_ = c.b.Close()
		}
		m.mu.Unlock()
		m.wg.Wait()
	})
	return m
}

func (m *middlebox) address() string { return m.ln.Addr().String() }

func (m *middlebox) before(address string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.to = address
}

func (m *middlebox) serve() {
	for {
		a, err := m.ln.Accept()
		if err != nil {
			return
		}
		m.mu.Lock()
		b, err := net.Dial("tcp", m.to)
		if err != nil {
			_ = a.Close()
			m.mu.Unlock()
			continue
		}
		c := &carried{a: a, b: b}
		c.up.Store(m.lossy)
		c.down.Store(m.lossy)
		m.open = append(m.open, c)
		m.accepted++
		m.mu.Unlock()
		m.wg.Go(func() { c.carry(c.b, c.a, &c.up) })
		m.wg.Go(func() { c.carry(c.a, c.b, &c.down) })
	}
}

func (c *carried) carry(to io.Writer, from io.Reader, swallow *atomic.Bool) {
	defer func() { _, _ = c.a.Close(), c.b.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if bytes.Contains(buf[:n], []byte(cluster.ProtoPeer)) { // in the first message, in clear
			c.peer.Store(true)
		}
		if n > 0 && !swallow.Load() {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// swallow makes what is open lose what is sent to the member, and from it.
func (m *middlebox) swallow(up, down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.open {
		if c.peer.Load() {
			c.up.Store(up)
			c.down.Store(down)
		}
	}
	m.accepted = 0
}

// loseNew says whether new connections are swallowed, too.
func (m *middlebox) loseNew(lossy bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lossy = lossy
}

func (m *middlebox) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.accepted
}

// TestAConnectionThatSwallowsEverythingCostsNoLease: the ends of it notice nothing,
// and the keepalives of the transport would after 13 s, which is four leases.
func TestAConnectionThatSwallowsEverythingCostsNoLease(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		up, down bool
	}{{"both ways", true, true}, {"to the leader", true, false}, {"from the leader", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			box := newMiddlebox(t)
			a := newMember(t, "a", func(c *cluster.Config) { c.Advertise = box.address() })
			box.before(a.c.ListenAddress())
			a.bootstrap()
			b := newMember(t, "b")
			b.join(a.invite(wanted{}))
			b.applied(b.write("forwarded", 0).GetIndex()) // calls have a connection, too
			leased(a, b)

			box.swallow(tt.up, tt.down)
			start := time.Now()
			b.eventually("a lease that was asked for since", func() bool { return b.c.LastContact() < time.Since(start) })
			took := time.Since(start)
			t.Logf("after %s", took)
			if most := 2 * a.machine.View().LeaseDuration(); took > most { // a second, and what a busy machine takes
				t.Errorf("a lease that was asked for since came after %s", took)
			}
			<-time.After(3 * time.Second)
			if n := box.count(); n < 1 || n > 3 {
				t.Errorf("%d connections were made", n)
			}
			if err := b.c.LeaseErr(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestALeaderThatCannotBeReachedIsNotStormed: as long as the network swallows every
// connection, few are tried; and when it does no more, the lease is back soon.
func TestALeaderThatCannotBeReachedIsNotStormed(t *testing.T) {
	t.Parallel()
	box := newMiddlebox(t)
	a := newMember(t, "a", func(c *cluster.Config) { c.Advertise = box.address() })
	box.before(a.c.ListenAddress())
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	leased(a, b)
	box.loseNew(true)
	box.swallow(true, true)
	<-time.After(8 * time.Second)
	if n := box.count(); n < 1 || n > 8 {
		t.Errorf("%d connections in 8 s", n)
	}
	if b.c.LeaseErr() == nil {
		t.Fatal("it has a lease, so the test shows nothing")
	}
	box.loseNew(false)
	leased(b)
}
