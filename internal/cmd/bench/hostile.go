//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
)

const (
	evilTenant  = "evil"
	evilService = "tenants/" + evilTenant + "/services/" + serviceID

	// besiegers is how many goroutines attack; good is how many callers work meanwhile.
	besiegers = 8
	good      = 4
)

// siege is a good caller under an attack, compared with the same one alone. The
// attackers are a process with one core: in this one they would take the good caller's
// processor time and not the node's.
type siege struct {
	name string
	goal float64
	why  string
	once func(ctx context.Context, b *besieger) error
}

func sieges() []siege {
	const held = "what is held costs a place and some memory, and nearly no processor time"
	return []siege{
		{"connections that say nothing", 0.60, held, silent},
		{"streams whose messages never end", 0.60, held, endless},
		{"handshakes of strangers", 0.25, "the attackers have one core of those that the caller and the node share, and each handshake costs the node a key exchange and a signature, until its address has begun more than it may", handshakes},
		{"streams that are opened and reset", 0.25, "each costs the node a goroutine until it is given up; a connection is read more slowly for those beyond what may be open", resets},
		{"calls of another tenant, 32 at a time", 0.15, "nobody is beyond his budget: 4 callers share the processors with 32 others", flood},
	}
}

func siegePairs() []pair {
	var all []pair
	for _, s := range sieges() {
		all = append(all, pair{
			name: "under attack: " + s.name, baseline: fmt.Sprintf("the same %d callers alone", good), goal: s.goal, why: s.why, slice: 300 * time.Millisecond,
			open: func(ctx context.Context, e *env) (match, error) { return besieged(ctx, e, s) },
		})
	}
	return all
}

func besieged(ctx context.Context, e *env, s siege) (match, error) {
	nd, err := e.node(ctx)
	if err != nil {
		return match{}, err
	}
	if err := e.evil(ctx); err != nil {
		return match{}, err
	}
	var conns pool
	work, _, err := conns.to(ctx, e, nd.Addresses().GRPC, encrypt(doorSize), nil)
	if err != nil {
		return match{}, errors.Join(err, conns.close())
	}
	host, err := startHost(ctx, s.name, nd.Addresses().GRPC, e.cluster.CAFile(), filepath.Join(e.dir, evilFile))
	if err != nil {
		return match{}, errors.Join(err, conns.close())
	}
	alone := crowd(good, work)
	return match{
		subject: side{loop: func(ctx context.Context, d time.Duration) (t tally, err error) {
			if err := host.say("on"); err != nil {
				return tally{}, err
			}
			defer func() { err = errors.Join(err, host.say("off")) }()
			return alone(ctx, d)
		}},
		baseline: side{loop: alone},
		close:    func() error { return errors.Join(conns.close(), host.close()) },
	}, nil
}

// host is the process of the attackers.
type host struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startHost(ctx context.Context, name, addr, ca, pair string) (*host, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Without the context: it ends with its standard input, in order.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, "attack", name, addr, ca, pair) //nolint:gosec // This program.
	cmd.Env, cmd.Stderr = append(os.Environ(), "GOMAXPROCS=1"), os.Stderr
	h := &host{cmd: cmd}
	if h.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(out)
	return h, cmd.Start()
}

// say switches the attack on or off, and returns when it is so.
func (h *host) say(word string) error {
	if _, err := io.WriteString(h.in, word+"\n"); err != nil {
		return err
	}
	line, err := h.out.ReadString('\n')
	if err == nil && line != word+"\n" {
		err = fmt.Errorf("the attackers say %q", line)
	}
	return err
}

func (h *host) close() error { return errors.Join(h.in.Close(), h.cmd.Wait()) }

// serveAttack is the attackers' process: it does what the lines of its input say.
func serveAttack(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) != 4 {
		return errors.New("want the name of the attack, the address, and the files of CA and caller")
	}
	all := sieges()
	i := slices.IndexFunc(all, func(s siege) bool { return s.name == args[0] })
	if i < 0 {
		return errors.New("no such attack")
	}
	cfg, err := evilTLS(args[2], args[3])
	if err != nil {
		return err
	}
	off := func() {}
	defer func() { off() }()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		off()
		off = func() {}
		if lines.Text() == "on" {
			off = all[i].begin(ctx, &besieger{addr: args[1], evil: cfg})
		}
		if _, err := fmt.Fprintln(out, lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}

// begin attacks until the function that it returns is called. It returns when every
// attacker has done something.
func (s siege) begin(ctx context.Context, b *besieger) (off func()) {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range besiegers {
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = s.once(ctx, b) // what becomes of an attack is not measured
			}
		})
	}
	for b.rounds.Load() < besiegers && ctx.Err() == nil {
		runtime.Gosched()
	}
	return func() {
		stop()
		wg.Wait()
	}
}

// evilFile holds the certificate and key of the workload of another tenant.
const evilFile = "mallory.pem"

// evil makes the workload of another tenant.
func (e *env) evil(ctx context.Context) error {
	if e.hasEvil {
		return nil
	}
	if err := e.cluster.CreateTenant(ctx, evilTenant); err != nil {
		return err
	}
	if err := e.cluster.CreateService(ctx, evilTenant, serviceID); err != nil {
		return err
	}
	// Not a person of the cluster's: it has one workload.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	governor, err := e.cluster.Client(ctx, auth.RoleGovernor)
	if err != nil {
		return err
	}
	resp, err := governor.Access().IssueCertificate(ctx, &kryptonv1.IssueCertificateRequest{
		Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: "tenants/" + evilTenant, Name: "mallory", PublicKey: spki,
	})
	if err = errors.Join(err, governor.Close()); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	both := append(resp.GetCertificate(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	if err := os.WriteFile(filepath.Join(e.dir, evilFile), both, 0o600); err != nil {
		return err
	}
	e.hasEvil = true
	return nil
}

func evilTLS(caFile, pairFile string) (*tls.Config, error) {
	ca, err := os.ReadFile(caFile) //nolint:gosec // Of the arguments that this program gives itself.
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("no certificate in the CA file")
	}
	cert, err := tls.LoadX509KeyPair(pairFile, pairFile)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, ServerName: "127.0.0.1"}, err
}

// besieger is who attacks.
type besieger struct {
	addr   string
	evil   *tls.Config
	rounds atomic.Int64
}

// dial connects from an address that is not the good caller's, where there is one.
func (b *besieger) dial(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{Timeout: deadline}
	if runtime.GOOS == "linux" {
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}
	}
	conn, err := d.DialContext(ctx, "tcp", b.addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return conn, nil
}

func (b *besieger) handshake(ctx context.Context, cfg *tls.Config) (*tls.Conn, error) {
	conn, err := b.dial(ctx)
	if err != nil {
		return nil, err
	}
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return t, nil
}

func (b *besieger) speak(ctx context.Context) (*http2.Framer, net.Conn, error) {
	conn, err := b.handshake(ctx, b.evil)
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	f := http2.NewFramer(conn, conn)
	return f, conn, f.WriteSettings()
}

// hold keeps a connection until the node ends it.
func (b *besieger) hold(conn net.Conn) error {
	b.rounds.Add(1)
	_, err := io.Copy(io.Discard, conn)
	return errors.Join(err, conn.Close())
}

// encryption is the headers of a call.
func encryption() ([]byte, error) {
	var out bytes.Buffer
	e := hpack.NewEncoder(&out)
	var all []error
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "https"},
		{":authority", "127.0.0.1"},
		{":path", kryptonv1.Crypto_Encrypt_FullMethodName},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		all = append(all, e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	return out.Bytes(), errors.Join(all...)
}

func silent(ctx context.Context, b *besieger) error {
	conn, err := b.dial(ctx)
	if err != nil {
		return err
	}
	return b.hold(conn)
}

// endless holds as many streams on one connection as it can.
func endless(ctx context.Context, b *besieger) error {
	f, conn, err := b.speak(ctx)
	if err != nil {
		return err
	}
	head, err := encryption()
	if err != nil {
		return err
	}
	for i := range uint32(256) {
		if err := errors.Join(
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head, EndHeaders: true}),
			f.WriteData(2*i+1, false, []byte{0, 0, 16, 0, 0, 10, 1}),
		); err != nil {
			return err
		}
	}
	return b.hold(conn)
}

func handshakes(ctx context.Context, b *besieger) error {
	cfg := b.evil.Clone()
	cfg.Certificates = nil
	conn, err := b.handshake(ctx, cfg)
	b.rounds.Add(1)
	if err != nil {
		return err
	}
	return conn.Close()
}

func resets(ctx context.Context, b *besieger) error {
	f, conn, err := b.speak(ctx)
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	head, err := encryption()
	if err != nil {
		return err
	}
	b.rounds.Add(1)
	for i := uint32(1); i < 1<<30 && ctx.Err() == nil; i += 2 {
		if err := errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: head, EndHeaders: true}), f.WriteRSTStream(i, http2.ErrCodeCancel)); err != nil {
			return errors.Join(err, conn.Close())
		}
	}
	return conn.Close()
}

// flood calls as often as it can, with four calls at a time.
func flood(ctx context.Context, b *besieger) error {
	cc, err := dialTLS(b.evil, b.addr)
	if err != nil {
		return err
	}
	defer cc.Close() //nolint:errcheck // Of an attacker.
	c := kryptonv1.NewCryptoClient(cc)
	var wg sync.WaitGroup
	for range many / besiegers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := c.Encrypt(ctx, &kryptonv1.EncryptRequest{Service: evilService, Plaintext: make([]byte, doorSize)}); err == nil {
					b.rounds.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return nil
}
