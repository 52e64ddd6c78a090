package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/server"
)

// Bounds of the node that is attacked: small, so that an attack reaches them at once.
const (
	hostilePlaces  = 64 // of which strangers have 8
	hostileCaller  = 16
	hostileTenant  = 24
	hostileStreams = 16
	attackers      = 8
)

// attack is what one hostile caller does again and again. The good caller works
// meanwhile, from another address and for another tenant.
type attack struct {
	name string
	port string // grpc, rest
	who  string // whose certificate; "": none
	once func(a *assault) error
}

// assault is an attack that goes on.
type assault struct {
	attack
	t    testing.TB
	w    *world
	ctx  context.Context //nolint:containedctx // Until the attack ends.
	addr string

	rounds atomic.Int64
}

// dial connects from an address of the attackers.
func (a *assault) dial() (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: patience}
	conn, err := d.DialContext(a.ctx, "tcp", a.addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(a.ctx, func() { _ = conn.Close() })
	return conn, nil
}

// handshake connects and does the TLS handshake.
func (a *assault) handshake(protos ...string) (*tls.Conn, error) {
	conn, err := a.dial()
	if err != nil {
		return nil, err
	}
	cfg := a.w.tlsConfig(a.w.certOf(a.who)...)
	cfg.NextProtos, cfg.ServerName = protos, "127.0.0.1"
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(a.ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return t, nil
}

// hold keeps a connection until the node has ended it.
func (a *assault) hold(conn net.Conn) error {
	a.rounds.Add(1)
	_, err := io.Copy(io.Discard, conn)
	_ = conn.Close()
	return err
}

// speak makes an HTTP/2 connection, of which everything that arrives is read.
func (a *assault) speak(settings ...http2.Setting) (*http2.Framer, net.Conn, error) {
	conn, err := a.handshake("h2")
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, conn, err
	}
	f := http2.NewFramer(conn, conn)
	return f, conn, f.WriteSettings(settings...)
}

// drain reads what the node says to the end.
func drain(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// head is the headers of a call of the port.
func (a *assault) head(method, path string, more ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	fields := []string{":method", method, ":scheme", "https", ":authority", "127.0.0.1", ":path", path}
	if a.port == "grpc" {
		fields = append(fields, "content-type", "application/grpc", "te", "trailers")
	} else {
		fields = append(fields, "content-type", "application/json")
	}
	fields = append(fields, more...)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}) // into a buffer
	}
	return b.Bytes()
}

// call is the headers of an encryption.
func (a *assault) call() []byte {
	if a.port == "grpc" {
		return a.head("POST", kryptonv1.Crypto_Encrypt_FullMethodName)
	}
	return a.head("POST", "/v1/tenants/other/services/pay:encrypt")
}

func both(name, who string, once func(*assault) error) []attack {
	return []attack{{name, "grpc", who, once}, {name, "rest", who, once}}
}

func onGRPC(name, who string, once func(*assault) error) []attack {
	return []attack{{name, "grpc", who, once}}
}

func onREST(name, who string, once func(*assault) error) []attack {
	return []attack{{name, "rest", who, once}}
}

const evil = "workload/other"

func attacks() (all []attack) {
	for _, some := range [][]attack{
		both("connections that say nothing", "", func(a *assault) error {
			conn, err := a.dial()
			if err != nil {
				return err
			}
			return a.hold(conn)
		}),
		both("half a handshake", "", func(a *assault) error {
			conn, err := a.dial()
			if err != nil {
				return err
			}
			if _, err := conn.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}); err != nil {
				return err
			}
			return a.hold(conn)
		}),
		both("strangers who only did the handshake", "", func(a *assault) error {
			conn, err := a.handshake("h2")
			if err != nil {
				return err
			}
			return a.hold(conn)
		}),
		both("handshakes and nothing else", evil, func(a *assault) error {
			conn, err := a.handshake("h2")
			if err != nil {
				return err
			}
			a.rounds.Add(1)
			return conn.Close()
		}),
		both("connections that are hoarded", evil, func(a *assault) error {
			var held []net.Conn
			for range 2 * hostileCaller {
				_, conn, err := a.speak()
				if err != nil {
					break
				}
				held = append(held, conn)
			}
			a.rounds.Add(1)
			for _, conn := range held {
				go drain(conn)
			}
			if len(held) > 0 {
				_ = a.hold(held[0])
			}
			for _, conn := range held {
				_ = conn.Close()
			}
			return nil
		}),
		onREST("headers that never end", evil, func(a *assault) error {
			conn, err := a.handshake("http/1.1")
			if err != nil {
				return err
			}
			if _, err := io.WriteString(conn, "POST /v1/tenants/other/services/pay:encrypt HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
				return err
			}
			return a.hold(conn)
		}),
		onREST("bodies that never end", evil, func(a *assault) error {
			conn, err := a.handshake("http/1.1")
			if err != nil {
				return err
			}
			if _, err := io.WriteString(conn, "POST /v1/tenants/other/services/pay:encrypt HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{\"plain"); err != nil {
				return err
			}
			return a.hold(conn)
		}),
		both("streams whose messages never end", evil, func(a *assault) error {
			f, conn, err := a.speak()
			if err != nil {
				return err
			}
			for i := range uint32(2 * hostileStreams) {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: a.call(), EndHeaders: true}); err != nil {
					return err
				}
				if err := f.WriteData(2*i+1, false, []byte{0, 0, 16, 0, 0, 10, 1}); err != nil {
					return err
				}
			}
			return a.hold(conn)
		}),
		both("streams that are opened and reset", evil, func(a *assault) error {
			f, conn, err := a.speak()
			if err != nil {
				return err
			}
			go drain(conn)
			head := a.call()
			for i := uint32(1); i < 1000; i += 2 {
				if err := errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: head, EndHeaders: true}), f.WriteRSTStream(i, http2.ErrCodeCancel)); err != nil {
					break
				}
			}
			a.rounds.Add(1)
			return conn.Close()
		}),
		both("pings", evil, func(a *assault) error {
			f, conn, err := a.speak()
			if err != nil {
				return err
			}
			go drain(conn)
			for range 1000 {
				if err := f.WritePing(false, [8]byte{1}); err != nil {
					break
				}
			}
			a.rounds.Add(1)
			return conn.Close()
		}),
		both("pings whose answers nobody reads", evil, func(a *assault) error {
			f, conn, err := a.speak()
			if err != nil {
				return err
			}
			for range 1000 {
				_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
				if err := f.WritePing(false, [8]byte{1}); err != nil {
					break
				}
			}
			a.rounds.Add(1)
			return conn.Close()
		}),
		both("settings", evil, func(a *assault) error {
			f, conn, err := a.speak()
			if err != nil {
				return err
			}
			go drain(conn)
			for i := range uint32(1000) {
				if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: i}); err != nil {
					break
				}
			}
			a.rounds.Add(1)
			return conn.Close()
		}),
		both("headers in pieces without an end", evil, func(a *assault) error {
			f, conn, err := a.speak()
			if err != nil {
				return err
			}
			go drain(conn)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: a.call()}); err != nil {
				return err
			}
			piece := a.head("POST", "/", "x-long", strings.Repeat("x", 8<<10))
			for range 100 {
				if err := f.WriteContinuation(1, false, piece); err != nil {
					break
				}
			}
			a.rounds.Add(1)
			return conn.Close()
		}),
		both("frames that are too large", evil, func(a *assault) error {
			_, conn, err := a.speak()
			if err != nil {
				return err
			}
			go drain(conn)
			if _, err := conn.Write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}); err == nil {
				for range 64 {
					if _, err := conn.Write(make([]byte, 64<<10)); err != nil {
						break
					}
				}
			}
			a.rounds.Add(1)
			return conn.Close()
		}),
		onGRPC("messages that claim to be huge", evil, func(a *assault) error {
			f, conn, err := a.speak()
			if err != nil {
				return err
			}
			for i := range uint32(hostileStreams) {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: a.call(), EndHeaders: true}); err != nil {
					return err
				}
				if err := f.WriteData(2*i+1, false, []byte{0, 0xff, 0xff, 0xff, 0xff, 1}); err != nil {
					return err
				}
			}
			a.rounds.Add(1)
			go drain(conn)
			return conn.Close()
		}),
		both("answers that nobody takes", evil, func(a *assault) error {
			f, conn, err := a.speak(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			if err != nil {
				return err
			}
			body := []byte{0, 0, 0, 0, 0}
			if a.port == "rest" {
				body = []byte(`{"plaintext":"eA=="}`)
			}
			for i := range uint32(2 * hostileStreams) {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: a.call(), EndHeaders: true}); err != nil {
					return err
				}
				if err := f.WriteData(2*i+1, true, body); err != nil {
					return err
				}
			}
			return a.hold(conn)
		}),
		onGRPC("tokens that nobody issued", "", func(a *assault) error { return a.calling(nil, a.tokens) }),
		onGRPC("certificates that nobody issued", "", func(a *assault) error {
			cert, err := selfMade()
			if err != nil {
				return err
			}
			return a.calling(cert, a.whoAmI)
		}),
		onGRPC("names, ciphertexts and sessions at random", evil, func(a *assault) error { return a.calling(nil, a.random) }),
		onGRPC("encryption contexts that are too large", evil, func(a *assault) error { return a.calling(nil, a.contexts) }),
		onGRPC("more calls than the budget", evil, func(a *assault) error { return a.calling(nil, a.encrypt) }),
	} {
		all = append(all, some...)
	}
	return all
}

// selfMade is a certificate that says it is the good workload's.
func selfMade() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// calling makes a gRPC connection as the attacker, or with that certificate, and some
// calls on it.
func (a *assault) calling(cert *tls.Certificate, do func(context.Context, *grpc.ClientConn) error) error {
	certs := a.w.certOf(a.who)
	if cert != nil {
		certs = []tls.Certificate{*cert}
	}
	cfg := a.w.tlsConfig(certs...)
	cfg.ServerName = "127.0.0.1"
	cc, err := grpc.NewClient("passthrough:///"+a.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return a.dial() }))
	if err != nil {
		return err
	}
	defer cc.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				err := do(a.ctx, cc)
				if a.ctx.Err() != nil {
					return
				}
				// It must not get what it wants, unless that is its right.
				if code := codeOf(err); err == nil && cert == nil && a.who != evil || code == errs.Internal {
					a.t.Errorf("%s: %v", a.name, err)
				}
				a.rounds.Add(1)
			}
		})
	}
	wg.Wait()
	return nil
}

func (a *assault) whoAmI(ctx context.Context, cc *grpc.ClientConn) error {
	_, err := kryptonv1.NewAccessClient(cc).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
	return err
}

func (a *assault) tokens(ctx context.Context, cc *grpc.ClientConn) error {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	token := part(`{"alg":"ES256","typ":"JWT","kid":"`+rand.Text()+`"}`) + "." +
		part(fmt.Sprintf(`{"iss":"https://%s.example","sub":"app","aud":"krypton","iat":%d,"exp":%d}`, rand.Text(), time.Now().Unix(), time.Now().Add(time.Hour).Unix())) + "." + part(strings.Repeat("s", 64))
	return a.whoAmI(bearer(ctx, token), cc)
}

func (a *assault) random(ctx context.Context, cc *grpc.ClientConn) error {
	c := kryptonv1.NewCryptoClient(cc)
	_, err1 := c.Encrypt(ctx, &kryptonv1.EncryptRequest{Service: "tenants/other/services/s" + strings.ToLower(rand.Text()), Plaintext: []byte("x")})
	out, err2 := c.Encrypt(ctx, &kryptonv1.EncryptRequest{Service: "tenants/other/services/pay", Resource: rand.Text(), Plaintext: []byte("x")})
	var err3 error
	if sealed := out.GetCiphertext(); len(sealed) > 0 {
		_, _ = rand.Read(sealed[2+16 : 2+32]) // the session
		_, err3 = c.Decrypt(ctx, &kryptonv1.DecryptRequest{Service: "tenants/other/services/pay", Ciphertext: sealed})
	}
	return errors.Join(err1, err2, err3)
}

func (a *assault) contexts(ctx context.Context, cc *grpc.ClientConn) error {
	r := &kryptonv1.EncryptRequest{Service: "tenants/other/services/pay", Plaintext: []byte("x")}
	for range 100 {
		r.EncryptionContext = append(r.EncryptionContext, &kryptonv1.ContextPair{Key: rand.Text(), Value: strings.Repeat("v", 100)})
	}
	_, err := kryptonv1.NewCryptoClient(cc).Encrypt(ctx, r)
	return err
}

func (a *assault) encrypt(ctx context.Context, cc *grpc.ClientConn) error {
	_, err := kryptonv1.NewCryptoClient(cc).Encrypt(ctx, &kryptonv1.EncryptRequest{Service: "tenants/other/services/pay", Plaintext: []byte("x")})
	return err
}

// TestI9_HostileCallersStopNobody runs each attack while a good caller works: every
// call of his succeeds, over old connections and new ones, through both doors; and the
// node keeps within its bounds. What counts is that calls complete, not how long they
// take.
func TestI9_HostileCallersStopNobody(t *testing.T) {
	w := newWorld(t, 1, func(c *server.Config) {
		c.Connections, c.Concurrent, c.Budget = hostilePlaces, hostileStreams, 10*time.Second
		c.Limits = server.Limits{CallerConnections: hostileCaller, TenantConnections: hostileTenant, CallerConcurrent: 64, TenantConcurrent: 64, CallerRate: 2000, TenantRate: 2000}
	})
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	w.tenant("other", "pay")
	for _, at := range attacks() {
		t.Run(at.port+" "+at.name, func(t *testing.T) { w.withstand(t, at) })
	}
}

func (w *world) withstand(t *testing.T, at attack) {
	t.Helper()
	ctx, stop := context.WithCancel(limited(t))
	defer stop()
	m := w.members[0]
	a := &assault{attack: at, t: t, w: w, ctx: ctx, addr: m.addrs.GRPC}
	if at.port == "rest" {
		a.addr = m.addrs.REST
	}
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range attackers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if at.once(a) != nil && a.rounds.Load() == 0 {
					runtime.Gosched() // refused before it began
				}
			}
		})
	}
	until(t, "the attack", func() error {
		if n := a.rounds.Load(); n < attackers {
			return fmt.Errorf("%d rounds", n)
		}
		return nil
	})
	old := w.dial(0, w.tlsConfig(w.certOf("workload/acme")...))
	defer old.Close()
	for i := range 8 {
		w.work(t, old)
		fresh := w.dial(0, w.tlsConfig(w.certOf("workload/acme")...))
		w.work(t, fresh)
		_ = fresh.Close()
		if i%4 > 0 {
			continue
		}
		for _, proto := range []string{"h2", "http/1.1"} {
			w.workHTTP(t, proto)
		}
		people := w.dial(0, w.tlsConfig(w.certOf("governor")...))
		if _, err := kryptonv1.NewServicesClient(people).DisableVersion(limited(t), &kryptonv1.DisableVersionRequest{Name: pay + "/versions/1", ValidateOnly: true}); err != nil && codeOf(err) != errs.FailedState {
			t.Errorf("a governor who takes power away: %v", err)
		}
		_ = people.Close()
		w.within(t, m)
	}
	if n := runtime.NumGoroutine() - before; n > 4000 {
		t.Errorf("%d goroutines more than before", n)
	}
	rounds := a.rounds.Load()
	stop()
	wg.Wait()
	// What the attack held is given back.
	_ = old.Close()
	w.hangUp()
	until(t, "the end of the attack", func() error {
		s := w.gauges(t, m)
		if n := s[`krypton_server_connections{of="caller",port="`+at.port+`"}`] + s[`krypton_server_connections{of="stranger",port="`+at.port+`"}`]; n > 0 {
			return fmt.Errorf("%v connections", n)
		}
		return nil
	})
	t.Logf("%d rounds of the attack", rounds)
}

// work is what the good caller does.
func (w *world) work(t *testing.T, cc *grpc.ClientConn) {
	t.Helper()
	c, ctx := kryptonv1.NewCryptoClient(cc), limited(t)
	sealed, err := c.Encrypt(ctx, &kryptonv1.EncryptRequest{Service: pay, Plaintext: []byte("good")})
	if err != nil {
		t.Fatalf("the good caller: %v", err)
	}
	if out, err := c.Decrypt(ctx, &kryptonv1.DecryptRequest{Service: pay, Ciphertext: sealed.GetCiphertext()}); err != nil || string(out.GetPlaintext()) != "good" {
		t.Fatalf("the good caller: %q, %v", out.GetPlaintext(), err)
	}
}

func (w *world) workHTTP(t *testing.T, proto string) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: w.tlsConfig(w.certOf("workload/acme")...), ForceAttemptHTTP2: proto == "h2"}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(limited(t), http.MethodPost, "https://"+w.members[0].addrs.REST+"/v1/"+pay+":encrypt", strings.NewReader(`{"plaintext":"eA=="}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatalf("the good caller over %s: %v", proto, err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the good caller over %s: %d %s, %v", proto, resp.StatusCode, body, err)
	}
}

// within holds a node to its bounds. It asks over the operations port, which has to
// answer meanwhile.
func (w *world) within(t *testing.T, m *member) {
	t.Helper()
	s := w.gauges(t, m)
	for _, port := range []string{"grpc", "rest"} {
		strangers, seated := s[`krypton_server_connections{of="stranger",port="`+port+`"}`], s[`krypton_server_connections{of="caller",port="`+port+`"}`]
		// Of the good one a few, of the attacker as many as a caller may have.
		if strangers > hostilePlaces/8 || seated > hostileCaller+8 {
			t.Errorf("%s: %v connections of strangers, %v of callers", port, strangers, seated)
		}
	}
	if n := s[`krypton_limit_accounts{of="caller"}`]; n > 4 {
		t.Errorf("%v callers are counted", n)
	}
	if ivk, l2, l21, l3 := m.node.Loaded(); ivk+l2+l21+l3 > 8 {
		t.Errorf("keys in memory: %d, %d, %d, %d", ivk, l2, l21, l3)
	}
}

// gauges returns the metrics of a node that have one value.
func (w *world) gauges(t *testing.T, m *member) map[string]float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(limited(t), http.MethodGet, "http://"+m.addrs.Ops+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatalf("the operations port: %v", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out
}

// TestAMessageThatNeverEndsHasADeadline from its headers on, also if its caller gave
// none, or one that is too long.
func TestAMessageThatNeverEndsHasADeadline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(c *server.Config) { c.Budget = 200 * time.Millisecond })
	m := w.members[0]
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	a := &assault{attack: attack{port: "grpc", who: "workload/acme"}, t: t, w: w, ctx: limited(t), addr: m.addrs.GRPC}
	f, conn, err := a.speak()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for id := range uint32(3) {
		if err := errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*id + 1, BlockFragment: a.call(), EndHeaders: true}),
			f.WriteData(2*id+1, false, []byte{0, 0, 16, 0, 0, 10, 1})); err != nil {
			t.Fatal(err)
		}
	}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for ended := 0; ended < 3; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("after %d streams: %v", ended, err)
		}
		h, ok := frame.(*http2.MetaHeadersFrame)
		if !ok || !h.StreamEnded() {
			continue
		}
		ended++
		for _, field := range h.RegularFields() {
			if field.Name == "grpc-status" && field.Value != "4" { // DEADLINE_EXCEEDED
				t.Errorf("a message that did not come to its end is answered with %s", field.Value)
			}
		}
	}
}

// TestI9_TheOperationsPortAnswersWhoeverHoardsIt: a prober is never kept out.
func TestI9_TheOperationsPortAnswersWhoeverHoardsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	a := &assault{t: t, w: w, ctx: t.Context(), addr: w.members[0].addrs.Ops}
	for range 2 * server.OpsConnections {
		if _, err := a.dial(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.gauges(t, w.members[0])); n == 0 {
		t.Error("no metrics")
	}
}
