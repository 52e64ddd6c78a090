package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// ported is a peer port by itself.
type ported struct {
	*port

	dir *Dir
	log *lines
}

type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) count(s string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, s) {
			n++
		}
	}
	return n
}

func newPorted(t *testing.T) *ported {
	t.Helper()
	d, err := OpenDir(t.TempDir()+"/d", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := LoadMemberKey(d, clock.System{}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := openTrust(fsm.New(fsm.Options{}), d)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	p := &ported{dir: d, log: log, port: newPort(ln, key, tr, clock.System{}, slog.New(slog.NewTextHandler(log, nil)))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		p.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = d.Close()
	})
	return p
}

func (p *ported) knows(t *testing.T, others ...*ported) {
	t.Helper()
	for _, o := range others {
		if err := p.trust.learn([]trusted{{ID: o.dir.NodeID(), PublicKey: o.key.spki, Address: o.ln.Addr().String()}}); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *ported) id() NodeID { return p.dir.NodeID() }

// refusedConn reports whether the other end refuses: in the handshake, or, as
// TLS 1.3 has it for the client's certificate, with the first read.
func refusedConn(c net.Conn, err error) bool {
	if err != nil {
		return true
	}
	defer func() { _ = c.Close() }()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestI2_OnlyTheKeyOfAMemberGetsIn(t *testing.T) {
	a, b, stranger := newPorted(t), newPorted(t), newPorted(t)
	a.knows(t, a, b)
	b.knows(t, a, b)
	stranger.knows(t, a, stranger)
	for _, proto := range []string{protoRaft, protoPeer} {
		c, err := b.dial(t.Context(), a.id(), proto)
		if err != nil {
			t.Fatalf("a member is refused %s: %v", proto, err)
		}
		in, err := a.next[proto].Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := in.(*peerConn).peer; got != b.id() {
			t.Errorf("the peer is %s, want %s", got, b.id())
		}
		_ = in.Close()
		_ = c.Close()
		if c, err := stranger.dial(t.Context(), a.id(), proto); !refusedConn(c, err) {
			t.Errorf("a stranger gets %s", proto)
		}
	}
	// The other direction: another key answers at the address of a member.
	if err := b.trust.learn([]trusted{{ID: a.id(), PublicKey: a.key.spki, Address: stranger.ln.Addr().String()}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.dial(t.Context(), a.id(), protoPeer); err == nil || !strings.Contains(err.Error(), "another node answers") {
		t.Errorf("an impostor was believed: %v", err)
	}
}

// client dials with full control over what it shows.
func client(t *testing.T, address string, change func(*tls.Config), key *MemberKey) (*tls.Conn, error) {
	t.Helper()
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	cert, err := key.certificate()
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{*cert}, NextProtos: []string{protoPeer}}
	change(cfg)
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, cfg)
	return c, c.HandshakeContext(t.Context())
}

func TestI2_TheKeyDecidesAndNothingElseOfACertificate(t *testing.T) {
	a, b := newPorted(t), newPorted(t)
	a.knows(t, a, b)
	issue := func(tmpl *x509.Certificate) func(*tls.Config) {
		return func(c *tls.Config) {
			tmpl.SerialNumber = big.NewInt(1)
			der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, b.key.signer.Public(), b.key.signer)
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: b.key.signer}}
		}
	}
	other := newPorted(t)
	for _, tc := range []struct {
		name   string
		change func(*tls.Config)
		key    *MemberKey
		in     bool
	}{
		{"as it should be", func(*tls.Config) {}, b.key, true},
		{"an expired certificate of the pinned key", issue(&x509.Certificate{NotBefore: time.Unix(1, 0), NotAfter: time.Unix(2, 0)}), b.key, true},
		{"a member's name on another key", func(c *tls.Config) {
			tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(b.id())}, NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, other.key.signer.Public(), other.key.signer)
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: other.key.signer}}
		}, other.key, false},
		{"two certificates", func(c *tls.Config) {
			c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, c.Certificates[0].Certificate[0])
		}, b.key, false},
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, b.key, false},
		{"no ALPN", func(c *tls.Config) { c.NextProtos = nil }, b.key, false},
		{"foreign ALPN", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, b.key, false},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, b.key, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := client(t, a.ln.Addr().String(), tc.change, tc.key)
			if !tc.in {
				if !refusedConn(c, err) {
					t.Fatal("let in")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			in, err := a.next[protoPeer].Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = in.Close()
		})
	}
	if n := a.log.count("alarm"); n != 1 {
		t.Errorf("%d alarms about the expired certificate, want 1", n)
	}
}

func TestStrangersCannotKeepMembersOut(t *testing.T) {
	a, b := newPorted(t), newPorted(t)
	a.knows(t, a, b)
	b.knows(t, a, b)
	// More silent connections than there are places, some of them with garbage.
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			_ = c.Close()
		}
	}()
	for i := range maxHandshakes + 20 {
		c, err := net.Dial("tcp", a.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			_, _ = c.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 16))
		}
		silent = append(silent, c)
	}
	// And more joins than there are places.
	var joins []net.Conn
	for range maxJoins + 3 {
		stranger, err := client(t, a.ln.Addr().String(), func(c *tls.Config) { c.NextProtos = []string{protoJoin} }, b.key)
		if err != nil {
			t.Fatal(err)
		}
		in, err := a.next[protoJoin].Accept()
		if err != nil {
			t.Fatal(err)
		}
		joins = append(joins, in)
		silent = append(silent, stranger)
	}
	if _, err := joins[0].Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the oldest join was not ended: %v", err)
	}
	c, err := b.dial(t.Context(), a.id(), protoRaft)
	if err != nil {
		t.Fatalf("a member cannot get in: %v", err)
	}
	in, err := a.next[protoRaft].Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = in.Write([]byte{7})
	got := make([]byte, 1)
	if _, err := io.ReadFull(c, got); err != nil || got[0] != 7 {
		t.Fatalf("the connection does not carry: %v", err)
	}
}

func TestOneMemberHasABoundedNumberOfConnections(t *testing.T) {
	a, b := newPorted(t), newPorted(t)
	a.knows(t, a, b)
	b.knows(t, a, b)
	var in []net.Conn
	for range maxPerMember {
		if _, err := b.dial(t.Context(), a.id(), protoPeer); err != nil {
			t.Fatal(err)
		}
		c, err := a.next[protoPeer].Accept()
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, c)
	}
	if c, err := b.dial(t.Context(), a.id(), protoPeer); !refusedConn(c, err) {
		t.Fatal("one more than the limit")
	}
	_ = in[0].Close()
	_ = in[0].Close() // gives one place back, not two
	if _, err := b.dial(t.Context(), a.id(), protoPeer); err != nil {
		t.Fatal(err)
	}
	if _, err := a.next[protoPeer].Accept(); err != nil {
		t.Fatal(err)
	}
	if c, err := b.dial(t.Context(), a.id(), protoPeer); !refusedConn(c, err) {
		t.Fatal("a place was given back twice")
	}
}

// request sends one vote request over a connection that b really has.
func TestI2_ARaftMessageThatNamesAnotherSenderIsRefused(t *testing.T) {
	a, b := newPorted(t), newPorted(t)
	a.knows(t, a, b)
	b.knows(t, a, b)
	quiet := hclog.NewNullLogger()
	server := newRaftTransport(a.id(), a.port, clock.System{}, quiet)
	defer func() { _ = server.Close() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = a.next[protoRaft].Close() }()
	wg.Go(func() {
		for {
			c, err := a.next[protoRaft].Accept()
			if err != nil {
				return
			}
			server.take(c)
		}
	})
	var mu sync.Mutex
	var seen []string
	answer := func(rpc raft.RPC) {
		h, _ := rpc.Command.(interface{ GetRPCHeader() raft.RPCHeader })
		mu.Lock()
		seen = append(seen, string(h.GetRPCHeader().ID))
		mu.Unlock()
		switch rpc.Command.(type) {
		case *raft.RequestVoteRequest:
			rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
		default:
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		}
	}
	server.SetHeartbeatHandler(answer)
	stop := make(chan struct{})
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case rpc := <-server.Consumer():
				answer(rpc)
			case <-stop:
				return
			}
		}
	})
	out := newRaftTransport(b.id(), b.port, clock.System{}, quiet)
	defer func() { _ = out.Close() }()
	ask := func(id, addr NodeID) (vote, heartbeat error) {
		h := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(id), Addr: []byte(addr)}
		vote = out.RequestVote(raft.ServerID(a.id()), "", &raft.RequestVoteRequest{RPCHeader: h, Term: 9}, &raft.RequestVoteResponse{})
		heartbeat = out.AppendEntries(raft.ServerID(a.id()), "", &raft.AppendEntriesRequest{RPCHeader: h, Term: 9}, &raft.AppendEntriesResponse{})
		return vote, heartbeat
	}
	if vote, hb := ask(b.id(), b.id()); vote != nil || hb != nil {
		t.Fatalf("the true sender: %v, %v", vote, hb)
	}
	for _, lie := range [][2]NodeID{{a.id(), a.id()}, {b.id(), a.id()}, {a.id(), b.id()}, {"", ""}} {
		vote, hb := ask(lie[0], lie[1])
		for _, err := range []error{vote, hb} {
			if err == nil || !strings.Contains(err.Error(), errSender.Error()) {
				t.Errorf("as %q at %q: %v", lie[0], lie[1], err)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, id := range seen {
		if id != string(b.id()) {
			t.Errorf("Raft saw a message of %q", id)
		}
	}
}

func TestTheTrustListOutlivesARestartAndLosesToTheView(t *testing.T) {
	a, b := newPorted(t), newPorted(t)
	a.knows(t, a, b)
	again, err := openTrust(fsm.New(fsm.Options{}), a.dir)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := again.peerOf(b.key.hash); !ok || id != b.id() {
		t.Fatalf("after a restart the key is of %q, %v", id, ok)
	}
	address, hash, ok := again.lookup(b.id())
	if !ok || address != b.ln.Addr().String() || hash != sha256.Sum256(b.key.spki) {
		t.Fatalf("lookup = %q %x %v", address, hash, ok)
	}
	if err := writeFileAtomic(a.dir.Path(peersFile), []byte(`{"format":1,"peers":[{"id":"x"}]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := openTrust(fsm.New(fsm.Options{}), a.dir); err == nil {
		t.Error("a damaged list is used")
	}
}
