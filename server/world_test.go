package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/limit"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/server"
)

func TestMain(m *testing.M) {
	// Nodes wait for elections most of the time, not for a processor.
	flag.Parse()
	// A fuzzer's workers do not wait.
	if fuzz := flag.Lookup("test.fuzz"); fuzz == nil || fuzz.Value.String() == "" {
		if err := flag.Set("test.parallel", "8"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m, leaktest.Known()...)
}

// patience is longer than anything that a test waits for should take; it is
// reached only by a test that fails. A machine that runs several packages under
// the race detector needs half a minute for three elections.
const patience = 90 * time.Second

const (
	keystoreName = "ks"
	sealKey      = "masterkey"
)

// lockedBuffer collects what is written, for whoever looks into it later.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if os.Getenv("SERVER_TEST_LOG") != "" {
		_, _ = os.Stderr.Write(p)
	}
	return b.b.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

// shifted is the machine's clock with an offset that a test can move, or stopped.
type shifted struct {
	clock.System

	by atomic.Int64
	at atomic.Pointer[time.Time] // where it was stopped, if it was
}

func (c *shifted) Now() time.Time {
	if at := c.at.Load(); at != nil {
		return *at
	}
	return c.System.Now().Add(time.Duration(c.by.Load()))
}
func (c *shifted) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
func (c *shifted) advance(d time.Duration)         { c.by.Add(int64(d)) }

func (c *shifted) stop() {
	now := c.Now()
	c.at.Store(&now)
}

// member is one node, put together as the program does it.
type member struct {
	t     testing.TB
	name  string
	dir   *cluster.Dir
	node  *node.Node
	c     *cluster.Cluster
	gate  *gate.Gate
	state *fsm.Machine
	log   *lockedBuffer
	addrs cluster.Addresses
	srv   *server.Server

	door  *shifted // clock of the server only
	watch *shifted // clock of the gate only
	stop  func()
	once  sync.Once
	ended chan error
}

// world is a cluster, its people and its keystore.
type world struct {
	t       testing.TB
	dir     string
	ks      *local.Keystore
	members []*member
	ca      []byte
	people  map[string]tls.Certificate   // by role, or workload/<tenant>
	keys    map[string]*ecdsa.PrivateKey // of people whom issue made, by the same name
	conns   sync.Map                     // of grpc, by member and person
	format  uint32                       // highest format version that nodes support which are started from now on
	lease   time.Duration                // how long serving leases last, if the first node founds the cluster; 0: [fsm.DefaultLeaseMS]
	waits   bool                         // destroyed things stay for a while, and a rollback is possible for a second
}

// loose are limits that no test reaches which is about something else.
func loose() server.Limits {
	return server.Limits{
		CallerConnections: 256, TenantConnections: 256, CallerConcurrent: 1 << 20, TenantConcurrent: 1 << 20, CallerRate: limit.MaxRate, TenantRate: limit.MaxRate,
		CallerReads: limit.MaxRate, CallerChanges: limit.MaxRate, CallerProtects: limit.MaxRate,
	}
}

// option changes a server's configuration before it starts.
type option func(*server.Config)

// newWorld starts n nodes that belong to no cluster.
func newWorld(t testing.TB, n int, opts ...option) *world {
	t.Helper()
	return newWorldOf(t, founding{format: fsm.MaxFormatVersion}, n, opts...)
}

// founding is what the nodes of a world that is no usual one are started with.
type founding struct {
	format uint32 // the highest that they know
	lease  time.Duration
}

// longLease is for what is to be seen while the lease of a dead node runs: many calls,
// on a machine that is busy with other tests. What ends with that lease takes as long.
const longLease = 10 * time.Second

// newWorldOf is newWorld with nodes of that kind.
func newWorldOf(t testing.TB, f founding, n int, opts ...option) *world {
	t.Helper()
	// Paths of sockets are short, names of tests are not.
	dir, err := os.MkdirTemp("", "k") //nolint:usetesting // As said above.
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, format: f.format, lease: f.lease, people: map[string]tls.Certificate{}, keys: map[string]*ecdsa.PrivateKey{}}
	t.Cleanup(func() {
		w.hangUp()
		for _, m := range w.members {
			m.close()
		}
		_ = w.ks.Close()
		_ = os.RemoveAll(dir)
	})
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	if w.ks, err = local.Create(t.Context(), env, keystoreName, filepath.Join(dir, "ks")); err != nil {
		t.Fatal(err)
	}
	w.l1(sealKey)
	for i := range n {
		w.members = append(w.members, w.start(fmt.Sprintf("n%d", i+1), opts...))
	}
	return w
}

// hangUp ends every connection; the next call makes a new one.
func (w *world) hangUp() {
	w.conns.Range(func(k, v any) bool {
		switch c := v.(type) {
		case *grpc.ClientConn:
			_ = c.Close()
		case *http.Client:
			c.CloseIdleConnections()
		}
		w.conns.Delete(k)
		return true
	})
}

// l1 makes a customer's key.
func (w *world) l1(name string) {
	w.t.Helper()
	if err := w.ks.CreateKey(w.t.Context(), name); err != nil {
		w.t.Fatal(err)
	}
}

// hooks is what a node does for its peers, as in the program.
type hooks struct {
	node  *node.Node
	gate  *gate.Gate
	doors atomic.Pointer[server.Server]
}

func (h *hooks) Identify(ctx context.Context, shown auth.Credential) (cluster.Caller, error) {
	srv := h.doors.Load()
	if srv == nil {
		return cluster.Caller{}, errs.New(errs.NoLeader, "the leader has just started")
	}
	return srv.Identify(ctx, shown)
}

func (h *hooks) Forward(f gate.Forwarded, commit func() (auth.Principal, gate.Ours, error)) error {
	return h.gate.Forward(f, commit)
}

func (h *hooks) Prepare(ctx context.Context, _ cluster.NodeID, request []byte) ([]byte, error) {
	return h.node.Prepare(ctx, request)
}

func (h *hooks) Health() cluster.Health {
	return cluster.Health{SealState: h.node.State(), Serving: h.node.ServingErr() == nil, MemoryTier: string(memsec.Report().Tier)}
}

func (h *hooks) IssueCertificate(ctx context.Context, id cluster.NodeID, publicKey []byte) (cluster.Certificate, error) {
	leaf, ca, err := h.node.IssueNode(ctx, string(id), publicKey)
	if err != nil {
		return cluster.Certificate{}, err
	}
	return cluster.Certificate{Chain: [][]byte{leaf.Raw}, Authorities: [][]byte{ca.Raw}}, nil
}

// start starts one node, with the data directory of an earlier run if there is one.
func (w *world) start(name string, opts ...option) *member {
	w.t.Helper()
	m, err := w.tryStart(name, opts...)
	if err != nil {
		w.t.Fatalf("start %s: %v", name, err)
	}
	return m
}

func (w *world) tryStart(name string, opts ...option) (m *member, err error) {
	var open []io.Closer
	fail := func(err error) (*member, error) {
		for _, c := range slices.Backward(open) {
			err = errors.Join(err, c.Close())
		}
		return nil, err
	}
	m = &member{t: w.t, name: name, log: &lockedBuffer{}, door: &shifted{}, watch: &shifted{}, ended: make(chan error, 1)}
	log, clk := slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug})), clock.System{}
	if m.dir, err = cluster.OpenDir(filepath.Join(w.dir, name), rand.Reader); err != nil {
		return fail(err)
	}
	open = append(open, m.dir)
	stores, err := keystore.Open(context.Background(), keystore.Env{Logger: log, Rand: rand.Reader, Clock: clk},
		[]keystore.Config{{Name: keystoreName, Type: local.Type, Settings: map[string]string{"dir": filepath.Join(w.dir, "ks")}}},
		keystore.Constructors{local.Type: local.New})
	if err != nil {
		return fail(err)
	}
	open = append(open, stores)
	trail, err := audit.Open(audit.Config{Dir: m.dir.Path("audit"), Node: string(m.dir.NodeID()), ReserveBytes: audit.MinReserveBytes, Clock: clk})
	if err != nil {
		return fail(err)
	}
	open = append(open, trail)
	fingerprint, _ := m.dir.Fingerprint()
	machine := fsm.New(fsm.Options{Fingerprint: fingerprint})
	m.state = machine
	policies := node.NewPolicies("", log)
	policy := node.TenantPolicy{Machine: machine, Policies: policies, Next: gate.RolePolicy{}}
	if m.gate, err = gate.New(gate.Config{Node: string(m.dir.NodeID()), Sink: trail, Policy: policy, Clock: m.watch}); err != nil {
		return fail(err)
	}
	ports, err := server.Listen(context.Background(), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		return fail(err)
	}
	if m.node, err = node.New(node.Config{
		Policies:   policies,
		RecordPath: m.dir.Path("seal/record.pb"),
		Pinned: func() (seal.Fingerprint, bool) {
			f, ok := m.dir.Fingerprint()
			return f, ok
		},
		Machine: machine, Keystores: stores, Gate: m.gate, L2Hold: time.Minute, Lease: w.lease, Clock: clk, Rand: rand.Reader, Logger: log,
	}); err != nil {
		return fail(err)
	}
	m.addrs = cluster.Addresses{GRPC: ports.GRPC.Addr().String(), REST: ports.REST.Addr().String(), Ops: ports.Ops.Addr().String()}
	peers := &hooks{node: m.node, gate: m.gate}
	if m.c, err = cluster.Open(cluster.Config{
		Dir: m.dir, Machine: machine, Hooks: peers, Listen: "127.0.0.1:0",
		Self: cluster.Self{Name: name, Region: "eu", Version: "v0", MaxFormat: w.format, GRPCAddress: m.addrs.GRPC, RESTAddress: m.addrs.REST},
		MAC:  m.node.MAC, Believed: m.node.Believed, Clock: clk, Rand: rand.Reader, Log: log,
	}); err != nil {
		return fail(err)
	}
	open = append(open, m.c)
	m.addrs.Peer = m.c.PeerAddress()
	m.node.Attach(m.c)
	cfg := server.Config{
		Node: m.node, Machine: machine, Cluster: m.c, Gate: m.gate, Listeners: ports, TLSDir: m.dir.Path("tls"),
		AdminSocket: m.dir.Path("run/admin.sock"), DataDir: m.dir.Path("."), NodeName: name, Version: "v0",
		Connections: 256, Concurrent: 64, Budget: 10 * time.Second, Limits: loose(), Clock: m.door, Rand: rand.Reader, Logger: log,
	}
	for _, o := range opts {
		o(&cfg)
	}
	if m.srv, err = server.New(context.Background(), cfg); err != nil {
		ports.Close()
		return fail(err)
	}
	peers.doors.Store(m.srv)
	if err := m.dir.WriteAddresses(m.addrs); err != nil {
		return fail(err)
	}
	doors, shut := context.WithCancel(context.Background())
	work, end := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.ended <- m.srv.Run(doors) })
	wg.Go(func() { _ = m.node.Run(work) })
	wg.Go(func() { _ = m.c.Run(work) })
	m.stop = func() {
		shut()
		if err := <-m.ended; err != nil {
			m.t.Errorf("server of %s: %v", name, err)
		}
		end()
		wg.Wait()
		for _, c := range slices.Backward(open) {
			if err := c.Close(); err != nil {
				m.t.Errorf("close %s: %v", name, err)
			}
		}
	}
	return m, nil
}

func (m *member) close() { m.once.Do(m.stop) }

// newKey makes a key pair and returns its public half, SubjectPublicKeyInfo.
func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, spki
}

// spkiOf returns the public half of a key, SubjectPublicKeyInfo.
func spkiOf(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func certificate(t testing.TB, text []byte, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM in the answer")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key, Leaf: leaf}
}

func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// admin returns a client of the administration socket.
func (m *member) admin() kryptonv1.AdminClient {
	m.t.Helper()
	cc, err := grpc.NewClient("unix:"+m.dir.Path("run/admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = cc.Close() })
	return kryptonv1.NewAdminClient(cc)
}

// plan is a cluster that unseals by itself, or by two of three shares.
func (w *world) plan(mode kryptonv1.SealMode) (*kryptonv1.InitRequest, *ecdsa.PrivateKey, *ecdsa.PrivateKey) {
	w.t.Helper()
	gov, govPub := newKey(w.t)
	cust, custPub := newKey(w.t)
	r := &kryptonv1.InitRequest{
		ClusterName: "test", Voters: 1, SealMode: mode, NoDestroyWait: !w.waits,
		Governors:  []*kryptonv1.PersonKey{{Name: "alice", PublicKey: govPub}},
		Custodians: []*kryptonv1.PersonKey{{Name: "carol", PublicKey: custPub}},
	}
	if len(w.members) > 1 {
		r.Voters = 3
	}
	if w.waits {
		r.RollbackWindowSeconds = 1
	}
	if mode == kryptonv1.SealMode_SEAL_MODE_SHAMIR {
		r.Shares, r.Threshold = 3, 2
	} else {
		r.Keystore, r.Key = keystoreName, sealKey
	}
	return r, gov, cust
}

// init makes the cluster on the first node and joins the others.
func (w *world) init(mode kryptonv1.SealMode) *kryptonv1.InitResponse {
	w.t.Helper()
	ctx := limited(w.t)
	req, gov, cust := w.plan(mode)
	resp, err := w.members[0].admin().Init(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		w.t.Fatalf("init: %v", err)
	}
	w.ca = resp.GetCa()
	w.people["governor"] = certificate(w.t, resp.GetCertificates()[0].GetCertificate(), gov)
	w.people["custodian"] = certificate(w.t, resp.GetCertificates()[1].GetCertificate(), cust)
	w.issue("operator", "", 0)
	w.issue("auditor", "", 0)
	for _, m := range w.members[1:] {
		tok, err := kryptonv1.NewClusterClient(w.grpc(0, "operator")).CreateJoinToken(ctx, &kryptonv1.CreateJoinTokenRequest{Voter: true})
		if err != nil {
			w.t.Fatalf("join token: %v", err)
		}
		if _, err := m.admin().Join(ctx, &kryptonv1.JoinRequest{Token: tok.GetToken()}, grpc.WaitForReady(true)); err != nil {
			w.t.Fatalf("join %s: %v", m.name, err)
		}
	}
	for _, m := range w.members {
		m.waitServing()
	}
	return resp
}

// waitServing asks /readyz until it says yes.
func (m *member) waitServing() {
	m.t.Helper()
	until(m.t, m.name+" serves", func() error { return m.node.ServingErr() })
}

// until looks every few milliseconds until f returns nil. It is for what has no
// event to wait for.
func until(t testing.TB, what string, f func() error) {
	t.Helper()
	ctx := limited(t)
	for {
		err := f()
		if err == nil {
			return
		}
		if (clock.System{}).Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}

// issue has the governor make a certificate and keeps it under the role, or
// workload/<tenant>. The first binds the identity to a key, and later ones are for
// that key.
func (w *world) issue(role, tenant string, ttl time.Duration) tls.Certificate {
	w.t.Helper()
	r, err := auth.ParseRole(role)
	if err != nil {
		w.t.Fatal(err)
	}
	req := &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role(r), Name: "x", TtlSeconds: uint32(ttl / time.Second)}
	who := role
	if tenant != "" {
		req.Tenant, who = "tenants/"+tenant, who+"/"+tenant
	}
	key, ok := w.keys[who]
	if !ok {
		key, _ = newKey(w.t)
		w.keys[who] = key
	}
	req.PublicKey = spkiOf(w.t, key)
	resp, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).IssueCertificate(limited(w.t), req)
	if err != nil {
		w.t.Fatalf("issue a certificate for %s: %v", who, err)
	}
	cert := certificate(w.t, resp.GetCertificate(), key)
	w.people[who] = cert
	return cert
}

// tenant makes a tenant with one service and a workload.
func (w *world) tenant(name, service string) {
	w.t.Helper()
	w.l1(name + "-l1")
	ctx, cc := limited(w.t), w.grpc(0, "governor")
	if _, err := kryptonv1.NewTenantsClient(cc).CreateTenant(ctx, &kryptonv1.CreateTenantRequest{
		TenantId: name, Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: name + "-l1"},
	}); err != nil {
		w.t.Fatalf("create tenant: %v", err)
	}
	if _, err := kryptonv1.NewServicesClient(cc).CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: "tenants/" + name, ServiceId: service}); err != nil {
		w.t.Fatalf("create service: %v", err)
	}
	w.issue("workload", name, 0)
}

// leader returns the number of the member that leads.
func (w *world) leader() int {
	w.t.Helper()
	at := 0
	until(w.t, "a leader", func() error {
		for i, m := range w.members {
			if m.c.IsLeader() {
				at = i
				return nil
			}
		}
		return errs.New(errs.NoLeader, "nobody leads")
	})
	return at
}

// tlsConfig is a caller's; person "" has no certificate.
func (w *world) tlsConfig(certs ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.ca)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: certs}
}

func (w *world) certOf(person string) []tls.Certificate {
	w.t.Helper()
	if person == "" {
		return nil
	}
	cert, ok := w.people[person]
	if !ok {
		w.t.Fatalf("nobody is called %s", person)
	}
	return []tls.Certificate{cert}
}

// grpc returns a connection of a person to a node.
func (w *world) grpc(i int, person string) *grpc.ClientConn {
	w.t.Helper()
	key := fmt.Sprintf("grpc %d %s", i, person)
	if cc, ok := w.conns.Load(key); ok {
		return cc.(*grpc.ClientConn)
	}
	cc := w.dial(i, w.tlsConfig(w.certOf(person)...))
	if first, ok := w.conns.LoadOrStore(key, cc); ok { // another goroutine was quicker
		_ = cc.Close()
		return first.(*grpc.ClientConn)
	}
	return cc
}

// patient repeats a call while the node has lost touch with its leader, which a
// machine that is busy with other tests makes happen. Nothing was done then.
func patient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	for {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if codeOf(err) != errs.NotServing || (clock.System{}).Sleep(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

func (w *world) dial(i int, cfg *tls.Config) *grpc.ClientConn {
	w.t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+w.members[i].addrs.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithDisableRetry(), grpc.WithUnaryInterceptor(patient), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20), grpc.MaxCallSendMsgSize(8<<20)))
	if err != nil {
		w.t.Fatal(err)
	}
	return cc
}

// http returns an HTTP client of a person; proto is h2 or http/1.1.
func (w *world) http(person, proto string) *http.Client {
	w.t.Helper()
	key := "http " + proto + " " + person
	if c, ok := w.conns.Load(key); ok {
		return c.(*http.Client)
	}
	tr := &http.Transport{TLSClientConfig: w.tlsConfig(w.certOf(person)...), ForceAttemptHTTP2: proto == "h2"}
	c := &http.Client{Transport: tr}
	w.conns.Store(key, c)
	return c
}

// refusal is what both doors say of an error.
type refusal struct {
	Code errs.Code
	Msg  string
	Hint string
}

func refusalOf(err error) refusal {
	if err == nil {
		return refusal{}
	}
	e := errs.From(wire.FromStatus(err))
	return refusal{e.Code, e.Msg, e.Hint}
}

// codeOf returns the code of an error that came over gRPC.
func codeOf(err error) errs.Code { return refusalOf(err).Code }

// rawDial opens a TLS connection to a port of a node.
func (w *world) rawDial(addr string, cfg *tls.Config) net.Conn {
	w.t.Helper()
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(limited(w.t), "tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// records returns the audit trail of a node.
func (m *member) records() []byte {
	m.t.Helper()
	var all []byte
	entries, err := os.ReadDir(m.dir.Path("audit"))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".jsonl" {
			continue
		}
		b, err := os.ReadFile(m.dir.Path("audit/" + e.Name()))
		if err != nil {
			m.t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}
