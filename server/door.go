package server

import (
	"container/list"
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/limit"
)

// What a connection may do before anybody has shown on it who he is. It lives long
// enough to hear why somebody is not accepted, in words and with a record, and then
// ends: gRPC reads a message before any interceptor is asked, so that without these
// bounds the memory of all connections would be open to everybody.
const (
	strangerBytes = 64 << 10 // over gRPC, handshake included; over HTTP the body of a stranger is not read
	strangerTime  = 10 * time.Second

	// sourceRate is how many connections a second one address may begin, and
	// sourceBurst how many at once: each costs a handshake, a third of a millisecond
	// of one core.
	sourceRate  = 500
	sourceBurst = 1000
	// sources is for how many addresses that is counted.
	sources = 8192

	// wastePause is for how long a connection is not read for each call on it that was
	// refused for a budget, and over gRPC for each stream that was given up before its
	// message had arrived, beyond as many as may be open: both cost this node work and
	// nobody's budget. wasteMost is the longest time at once.
	wastePause = time.Millisecond
	wasteMost  = time.Second
)

// The places of a port with n connections: strangers have n/strangerShare of them
// and callers the rest, of which workloads leave n/peopleShare to people, so that no
// number of programs keeps those out who can suspend them or seal.
const (
	strangerShare = 8
	peopleShare   = 16
	// minPlaces is the least number of connections that leaves a place for each.
	minPlaces = 16
)

// seats are the bounds of one port.
type seats struct {
	all, strangers, workloads int // connections; workloads of those that are no stranger's
	ofCaller, ofTenant        int // 0: as many as there are
	bytes                     int64
	time                      time.Duration // 0: strangers stay
}

func seatsOf(n, ofCaller, ofTenant int) seats {
	n = max(n, minPlaces)
	s := seats{all: n, strangers: n / strangerShare, ofCaller: ofCaller, ofTenant: ofTenant, time: strangerTime}
	s.workloads = n - s.strangers - n/peopleShare
	return s
}

// door is the listener of one port. It takes every connection at once and then
// decides which to keep: a listener that waits for a free place lets those who hoard
// places keep everybody else out.
//
// A connection is a stranger's until somebody has shown an identity on it. When
// strangers have more than their places, the oldest one goes of the address that has
// most of them, so that a flood from a few addresses pushes out itself.
type door struct {
	net.Listener
	seats

	clk      clock.Clock
	sources  *limit.Table[netip.Prefix]
	counters *doorMetrics

	mu        sync.Mutex
	waiting   list.List // strangers, *visit, the oldest first
	bySource  map[netip.Prefix]int
	callers   map[auth.Principal]int
	tenants   map[hierarchy.UID]int
	seated    int // connections of callers
	workloads int // of these, those of workloads
}

func newDoor(ln net.Listener, s seats, clk clock.Clock, m *doorMetrics) *door {
	d := &door{
		Listener: ln, seats: s, clk: clk, counters: m,
		bySource: map[netip.Prefix]int{}, callers: map[auth.Principal]int{}, tenants: map[hierarchy.UID]int{},
	}
	d.sources = limit.NewTable[netip.Prefix](clk, sources, limit.Budgets{limit.Use: {PerSecond: sourceRate, Burst: sourceBurst}})
	return d
}

// Accept implements net.Listener. What it returns is a *visit.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(conn)
		pass, r := d.sources.Slot(source).Enter(limit.Use, 1, d.clk.Now())
		if r.Reason != limit.Admitted {
			d.counters.refused(doorSource)
			hangUp(conn)
			continue
		}
		pass.Leave() // only the rate is counted
		return d.let(conn, source), nil
	}
}

// sourceOf returns the address that a connection comes from, and over IPv6 the
// network of it: everybody there has as many addresses as he likes.
func sourceOf(conn net.Conn) netip.Prefix {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	addr := at.Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // never too many bits
	return p
}

// hangUp closes a connection without a word and without anything left of it.
func hangUp(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// let takes a connection in as a stranger's.
func (d *door) let(conn net.Conn, source netip.Prefix) *visit {
	v := &visit{Conn: conn, door: d, source: source}
	v.left.Store(d.bytes)
	v.life, v.end = context.WithCancel(context.Background())
	if d.time > 0 {
		ctx, stop := context.WithTimeout(v.life, d.time)
		v.spare = context.AfterFunc(ctx, func() { hangUp(conn) })
		end := v.end
		v.end = func() {
			stop()
			end()
		}
	}
	d.mu.Lock()
	v.at = d.waiting.PushBack(v)
	d.bySource[source]++
	gone := d.crowded()
	d.mu.Unlock()
	if gone != nil {
		d.counters.refused(doorCrowd)
		hangUp(gone.Conn)
	}
	return v
}

// crowded returns the stranger that has to go, or nil. It is called with mu held. The
// visit itself ends when its owner notices.
func (d *door) crowded() *visit {
	if d.waiting.Len() <= d.strangers {
		return nil
	}
	most := 0
	for _, n := range d.bySource {
		most = max(most, n)
	}
	for e := d.waiting.Front(); e != nil; e = e.Next() {
		v, _ := e.Value.(*visit)
		if d.bySource[v.source] == most {
			d.notWaiting(v)
			return v
		}
	}
	return nil
}

// notWaiting takes a visit from the strangers. It is called with mu held.
func (d *door) notWaiting(v *visit) {
	if v.at == nil {
		return
	}
	d.waiting.Remove(v.at)
	v.at = nil
	if d.bySource[v.source]--; d.bySource[v.source] == 0 {
		delete(d.bySource, v.source)
	}
}

// seat gives the connection of a caller a place, or says why there is none: it stays
// a stranger's then, which is long enough to hear why.
func (d *door) seat(v *visit, p auth.Principal) *errs.Error {
	work := p.Role == auth.RoleWorkload
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case v.seated.Load():
		return nil
	case v.at == nil:
		return nil // it was pushed out or closed meanwhile; nobody hears what is said on it
	case d.ofCaller > 0 && d.callers[p] >= d.ofCaller:
		d.counters.refused(doorCaller)
		return errs.Newf(errs.Throttled, "this caller has %d connections to the node, which is the limit", d.ofCaller).
			With(errs.Hint("share connections, or have limits.caller_connections raised"), errs.RetryAfter(time.Second))
	case work && d.ofTenant > 0 && d.tenants[p.TenantUID] >= d.ofTenant:
		d.counters.refused(doorTenant)
		return errs.Newf(errs.Throttled, "the tenant's workloads have %d connections to the node, which is the limit", d.ofTenant).
			With(errs.Hint("share connections, or have limits.tenant_connections raised"), errs.RetryAfter(time.Second))
	case d.seated >= d.all-d.strangers || work && d.workloads >= d.seats.workloads:
		d.counters.refused(doorFull)
		return errs.New(errs.Throttled, "all connections of the node are taken",
			errs.Hint("ask another node, or have limits.connections raised"), errs.RetryAfter(time.Second))
	}
	if v.spare != nil && !v.spare() {
		return nil // its time was over this moment, and it is closed
	}
	d.notWaiting(v)
	v.holder = p
	v.seated.Store(true)
	d.seated++
	d.callers[p]++
	if work {
		d.workloads++
		d.tenants[p.TenantUID]++
	}
	return nil
}

// gone is called once when a visit ends.
func (d *door) gone(v *visit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notWaiting(v)
	if !v.seated.Load() {
		return
	}
	p := v.holder
	d.seated--
	if d.callers[p]--; d.callers[p] == 0 {
		delete(d.callers, p)
	}
	if p.Role == auth.RoleWorkload {
		d.workloads--
		if d.tenants[p.TenantUID]--; d.tenants[p.TenantUID] == 0 {
			delete(d.tenants, p.TenantUID)
		}
	}
}

// count returns how many connections there are.
func (d *door) count() (strangers, seated int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting.Len(), d.seated
}

// visit is one connection.
type visit struct {
	net.Conn

	door   *door
	source netip.Prefix
	life   context.Context //nolint:containedctx // That of the connection, for what waits on it.
	end    context.CancelFunc
	spare  func() bool // keeps the end of a stranger's time from closing the connection; nil: it has no end
	once   sync.Once

	at     *list.Element  // among the strangers; nil: no stranger. Guarded by the door's mu
	holder auth.Principal // who has the place; set before seated

	left   atomic.Int64 // bytes that a stranger may still send; from 0 on: none were counted
	seated atomic.Bool  // somebody has shown who he is
	owed   atomic.Int64 // for how many nanoseconds it is not read
	opened atomic.Int64 // streams over gRPC whose call has not begun

	// What is known of who calls here: of the certificate, and the accounts of who
	// called last. With the connection they go.
	verified atomic.Pointer[verified]
	standing atomic.Pointer[standing]
}

// Read implements net.Conn.
func (v *visit) Read(b []byte) (int, error) {
	if v.owed.Load() > 0 {
		owed := min(time.Duration(v.owed.Load()), wasteMost)
		if err := v.door.clk.Sleep(v.life, owed); err != nil {
			return 0, net.ErrClosed
		}
		v.owed.Add(-int64(owed))
	}
	n, err := v.Conn.Read(b)
	if v.door.bytes > 0 && !v.seated.Load() && v.left.Add(-int64(n)) < 0 {
		return 0, errStranger
	}
	return n, err
}

// waste says that something on the connection was work for nothing.
func (v *visit) waste() { v.owed.Add(int64(wastePause)) }

// open counts a stream, and begin the call of one. What is between is still arriving,
// or was given up.
func (v *visit) open(most int64) {
	if v.opened.Add(1) > most {
		v.opened.Add(-1)
		v.waste()
	}
}

func (v *visit) begin() { v.opened.Add(-1) }

// Close implements net.Conn.
func (v *visit) Close() error {
	v.once.Do(func() {
		v.end()
		v.door.gone(v)
	})
	return v.Conn.Close()
}
