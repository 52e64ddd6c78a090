package server

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// arrival is a connection from an address, whose other end a test holds.
type arrival struct {
	net.Conn

	from string
	once sync.Once
	shut chan struct{}
}

func (a *arrival) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a.from))
}

func (a *arrival) Close() error {
	a.once.Do(func() { close(a.shut) })
	return a.Conn.Close()
}

func (a *arrival) closed() bool {
	select {
	case <-a.shut:
		return true
	default:
		return false
	}
}

// queue is a listener of arrivals.
type queue chan *arrival

func (q queue) Accept() (net.Conn, error) {
	a, ok := <-q
	if !ok {
		return nil, net.ErrClosed
	}
	return a, nil
}

func (q queue) Close() error   { return nil }
func (q queue) Addr() net.Addr { return &net.TCPAddr{} }

// street is a door with connections that come to it.
type street struct {
	t    *testing.T
	door *door
	q    queue
	clk  *clock.Fake
}

func newStreet(t *testing.T, s seats) *street {
	t.Helper()
	clk := clock.NewFake(time.Unix(1e9, 0))
	q := make(queue, 1)
	return &street{t: t, q: q, clk: clk, door: newDoor(q, s, clk, newDoors(prometheus.NewRegistry()).of("x"))}
}

// come makes a connection. The second result is the caller's end.
func (s *street) come(from string) (*arrival, *visit, net.Conn) {
	s.t.Helper()
	here, there := net.Pipe()
	a := &arrival{Conn: here, from: from, shut: make(chan struct{})}
	s.q <- a
	conn, err := s.door.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	v := conn.(*visit)
	s.t.Cleanup(func() { _, _ = v.Close(), there.Close() })
	return a, v, there
}

func worker(tenant byte, name string) auth.Principal {
	return auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleWorkload, Tenant: "acme", TenantUID: hierarchy.UID{tenant}, Name: name}
}

func person(name string) auth.Principal {
	return auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleGovernor, Name: name}
}

// TestI9_AFloodPushesOutItself: strangers of one address come again and again, and one
// of another address stays.
func TestI9_AFloodPushesOutItself(t *testing.T) {
	s := newStreet(t, seatsOf(64, 0, 0)) // 8 strangers
	quiet, _, _ := s.come("192.0.2.1:1")
	var flood []*arrival
	for range 100 {
		a, _, _ := s.come("198.51.100.7:9")
		flood = append(flood, a)
	}
	if quiet.closed() {
		t.Error("the one from another address was pushed out")
	}
	open := 0
	for i, a := range flood {
		if !a.closed() {
			open++
			if i < 93 {
				t.Errorf("connection %d stayed, the oldest go first", i)
			}
		}
	}
	if n, _ := s.door.count(); open != 7 || n != 8 {
		t.Errorf("%d of the flood stay, %d strangers in all", open, n)
	}
}

// TestI9_AddressesOfOneNetworkAreOne of IPv6, where everybody has as many as he likes,
// and IPv4 within IPv6 is IPv4.
func TestI9_AddressesOfOneNetworkAreOne(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.1:7": "192.0.2.1/32", "[::ffff:192.0.2.1]:7": "192.0.2.1/32", "[2001:db8:1:2:3:4:5:6]:7": "2001:db8:1:2::/64", "[fe80::1%eth0]:7": "fe80::/64",
	} {
		if got := sourceOf(&arrival{from: from}); got.String() != want {
			t.Errorf("%s is %s, want %s", from, got, want)
		}
	}
}

func TestI9_AnAddressBeginsOnlySoMany(t *testing.T) {
	s := newStreet(t, seatsOf(64, 0, 0))
	for range sourceBurst {
		_, v, there := s.come("192.0.2.1:1")
		_, _ = v.Close(), there.Close()
	}
	here, there := net.Pipe()
	defer there.Close()
	late := &arrival{Conn: here, from: "192.0.2.1:1", shut: make(chan struct{})}
	s.q <- late
	// The door goes on to the next one, which is from another address.
	other, next := net.Pipe()
	defer next.Close()
	done := make(chan net.Conn)
	go func() {
		conn, _ := s.door.Accept()
		done <- conn
	}()
	s.q <- &arrival{Conn: other, from: "192.0.2.2:1", shut: make(chan struct{})}
	v := (<-done).(*visit)
	defer v.Close()
	if !late.closed() || v.source.String() != "192.0.2.2/32" {
		t.Errorf("one beyond the burst: closed %v, then came one from %s", late.closed(), v.source)
	}
	s.clk.Advance(time.Second / sourceRate)
	a, _, _ := s.come("192.0.2.1:1")
	if a.closed() {
		t.Error("refused although the rate admits it")
	}
}

// TestI9_CallersHavePlacesThatStrangersCannotTake and the other way round.
func TestI9_CallersHavePlacesThatStrangersCannotTake(t *testing.T) {
	s := newStreet(t, seatsOf(32, 0, 0)) // 4 strangers; 26 workloads, 28 with people
	taken := 0
	for range 40 {
		a, v, _ := s.come("192.0.2.1:1")
		if err := s.door.seat(v, worker(1, "a")); err == nil {
			taken++
		} else if situationtest.Error(t, "limits/connections", err); err.After <= 0 {
			t.Fatalf("no place: %v", err)
		}
		if a.closed() {
			t.Error("a connection without a place is closed before it hears why")
		}
	}
	if taken != 26 {
		t.Errorf("%d places for workloads", taken)
	}
	for i := range 3 {
		_, v, _ := s.come("192.0.2.1:1")
		if err := s.door.seat(v, person("alice")); (err == nil) != (i < 2) {
			t.Errorf("person %d: %v", i, err)
		}
	}
	if strangers, seated := s.door.count(); strangers != 4 || seated != 28 {
		t.Errorf("%d strangers and %d callers", strangers, seated)
	}
}

// TestI9_OneCallerAndOneTenantHaveTheirShare of the places, and get them back.
func TestI9_OneCallerAndOneTenantHaveTheirShare(t *testing.T) {
	s := newStreet(t, seatsOf(64, 3, 5))
	var last *visit
	sit := func(p auth.Principal) bool {
		_, v, _ := s.come("192.0.2.1:1")
		if s.door.seat(v, p) != nil {
			return false
		}
		last = v
		return true
	}
	for i, want := range []bool{true, true, true, false} {
		if got := sit(worker(1, "a")); got != want {
			t.Errorf("connection %d of one caller: %v", i+1, got)
		}
	}
	for i, want := range []bool{true, true, false} {
		if got := sit(worker(1, "b")); got != want {
			t.Errorf("connection %d of another workload of the tenant: %v", i+1, got)
		}
	}
	_, v, _ := s.come("192.0.2.1:1")
	situationtest.Error(t, "limits/tenant-connections", s.door.seat(v, worker(1, "c")))
	if !sit(worker(2, "a")) || !sit(person("a")) {
		t.Error("others have no place")
	}
	if !sit(worker(2, "a")) {
		t.Fatal("a second connection")
	}
	for range 2 { // a connection that ends twice gives back one place
		_ = last.Close()
	}
	for i, want := range []bool{true, true, false} {
		if got := sit(worker(2, "a")); got != want {
			t.Errorf("connection %d after one ended: %v", i+1, got)
		}
	}
}

// TestI8_AStrangersTimeEnds and that of who has shown an identity does not.
func TestI8_AStrangersTimeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreet(t, seatsOf(64, 0, 0))
		stranger, _, _ := s.come("192.0.2.1:1")
		caller, v, _ := s.come("192.0.2.1:1")
		if err := s.door.seat(v, person("alice")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(strangerTime - 1)
		synctest.Wait()
		if stranger.closed() {
			t.Error("a stranger had less than its time")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if !stranger.closed() || caller.closed() {
			t.Errorf("after an hour: stranger closed %v, caller closed %v", stranger.closed(), caller.closed())
		}
	})
}

// TestI8_AStrangersBytesEnd where they are counted.
func TestI8_AStrangersBytesEnd(t *testing.T) {
	places := seatsOf(64, 0, 0)
	places.bytes = 1000
	s := newStreet(t, places)
	_, stranger, there := s.come("192.0.2.1:1")
	_, caller, other := s.come("192.0.2.1:1")
	if err := s.door.seat(caller, person("alice")); err != nil {
		t.Fatal(err)
	}
	for _, end := range []net.Conn{there, other} {
		go func() { _, _ = end.Write(make([]byte, 4000)) }()
	}
	if n, err := io.Copy(io.Discard, stranger); !errors.Is(err, errStranger) || n > 1000 {
		t.Errorf("%d bytes of a stranger, then %v", n, err)
	}
	if n, err := io.ReadFull(caller, make([]byte, 4000)); err != nil {
		t.Errorf("%d bytes of a caller, then %v", n, err)
	}
}

// TestARefusedConnectionIsReadLater for each refusal, a while at most at once and the
// rest the next time; and its end ends the wait.
func TestARefusedConnectionIsReadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreet(t, seatsOf(64, 0, 0))
		_, v, there := s.come("192.0.2.1:1")
		s.door.clk = clock.System{} // that of the bubble
		if err := s.door.seat(v, person("alice")); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = there.Write([]byte("xyz")) }()
		const refusals = 1500
		for range refusals {
			v.waste()
		}
		for i, want := range []time.Duration{wasteMost, refusals*wastePause - wasteMost, 0} {
			begin := time.Now()
			if _, err := v.Read(make([]byte, 1)); err != nil || time.Since(begin) != want {
				t.Errorf("read %d after %v, want %v: %v", i, time.Since(begin), want, err)
			}
		}
		v.waste()
		read := make(chan error)
		go func() {
			_, err := v.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		_ = v.Close()
		if err := <-read; err == nil {
			t.Error("a connection that was closed is read")
		}
	})
}

// TestStreamsThatAreGivenUpAreWaste beyond those that may be open, and those whose calls
// begin are not.
func TestStreamsThatAreGivenUpAreWaste(t *testing.T) {
	v := &visit{}
	for range 10_000 {
		v.open(4)
		v.begin()
	}
	for range 4 {
		v.open(4)
	}
	if n := v.owed.Load(); n != 0 {
		t.Errorf("%v is owed for calls that began, or may arrive", time.Duration(n))
	}
	for range 7 {
		v.open(4)
	}
	if n := v.owed.Load(); n != int64(7*wastePause) {
		t.Errorf("%v is owed for 7 streams beyond", time.Duration(n))
	}
}
