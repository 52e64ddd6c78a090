package node_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/keystore/transit"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

func TestMain(m *testing.M) {
	// The first secret begins goroutines of protected memory: not in a bubble of synctest.
	if s, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Cold); err == nil {
		s.Destroy()
	}
	goleak.VerifyTestMain(m, leaktest.Known()...)
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// tb is what tests, benchmarks and rapid have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// world is a cluster without Raft: one log, and machines that apply it.
type world struct {
	tb    tb
	dir   string
	clock clock.Clock
	fake  *clock.Fake // clock, if that is a fake
	rand  *recorder

	more     []keystore.Config // further keystores of every node
	faults   faults            // of every keystore but "customer"
	customer *local.Keystore   // the owner's side of keystore "customer"
	sealing  *local.Keystore   // the same of keystore "sealing"
	calls    *calls

	mu       sync.Mutex
	term     uint64
	commands [][]byte
	lastMS   int64
	members  []*member

	leaderless atomic.Bool
	leads      atomic.Int64 // which of members
	requests   atomic.Int64
	vouch      func(at int, raw []byte)                 // told of each command before it is applied; under mu
	judge      func(m *member, at int, raw []byte) bool // whether somebody vouched for it; under mu; nil: for all
	callers    auth.Issuer                              // the caller CA; until there is one, nobody's
	format     uint32                                   // of a new cluster; 0: the newest
	region     string                                   // of members that are added
}

// calls counts and hinders what is asked of the customer's keystore.
type calls struct {
	wraps, unwraps atomic.Int64

	mu     sync.Mutex
	before func(context.Context) error // runs in every Unwrap
}

func (c *calls) hook(f func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = f
}

// counted is a keystore that counts.
type counted struct {
	keystore.Provider
	*calls
}

func (p counted) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	p.wraps.Add(1)
	return p.Provider.Wrap(ctx, req)
}

func (p counted) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	p.unwraps.Add(1)
	p.mu.Lock()
	f := p.before
	p.mu.Unlock()
	if f != nil {
		if err := f(ctx); err != nil {
			return keystore.UnwrapResult{}, keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: "customer", Op: keystore.OpUnwrap}, err)
		}
	}
	return p.Provider.Unwrap(ctx, req)
}

// recorder remembers what could be a key, every 32 random bytes that were
// drawn, and runs a hook where bytes of a certain length are drawn: a nonce has 12.
type recorder struct {
	mu   sync.Mutex
	on   bool
	keys [][]byte

	size int
	hook func()
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := rand.Read(b)
	r.mu.Lock()
	if r.on && n == memsec.KeySize {
		r.keys = append(r.keys, bytes.Clone(b))
	}
	var hook func()
	if r.size == len(b) && r.hook != nil {
		hook, r.size, r.hook = r.hook, 0, nil
	}
	r.mu.Unlock()
	if hook != nil {
		hook()
	}
	return n, err
}

// at runs hook once, when size bytes are drawn.
func (r *recorder) at(size int, hook func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size, r.hook = size, hook
}

func (r *recorder) armed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hook != nil
}

const (
	customerKey = "root"
	sealKey     = "unseal"
)

type option func(*options)

type options struct {
	clock  clock.Clock
	l2Hold time.Duration
	format uint32
}

func withClock(c clock.Clock) option  { return func(o *options) { o.clock = c } }
func withHold(d time.Duration) option { return func(o *options) { o.l2Hold = d } }
func ofFormat(v uint32) option        { return func(o *options) { o.format = v } }
func discard() *slog.Logger           { return slog.New(slog.DiscardHandler) }
func (w *world) env() keystore.Env {
	return keystore.Env{Logger: discard(), Rand: rand.Reader, Clock: w.clock}
}
func (w *world) advance(d time.Duration) { w.fake.Advance(d) }

func must[T any](t tb) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%v (%v)", err, errs.From(err).Code)
		}
		return v
	}
}

func check(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%v)", err, errs.From(err).Code)
	}
}

// newWorld has two keystores and no node.
func newWorld(t testing.TB, opts ...option) (*world, options) {
	t.Helper()
	o := options{l2Hold: time.Minute}
	for _, f := range opts {
		f(&o)
	}
	w := &world{tb: t, dir: t.TempDir(), clock: o.clock, term: 1, rand: &recorder{}, calls: &calls{}, format: o.format, callers: auth.Issuer{1}}
	if w.clock == nil {
		w.fake = clock.NewFake(start)
		w.clock = w.fake
	}
	ctx := context.Background()
	for name, key := range map[string]string{"customer": customerKey, "sealing": sealKey} {
		k := must[*local.Keystore](t)(local.Create(ctx, w.env(), name, filepath.Join(w.dir, name)))
		check(t, k.CreateKey(ctx, key))
		t.Cleanup(func() { _ = k.Close() })
		if name == "customer" {
			w.customer = k
		} else {
			w.sealing = k
		}
	}
	return w, o
}

// member is one node of a world, with what it stands on.
type member struct {
	*node.Node

	w       *world
	id      cluster.NodeID
	number  int
	key     ed25519.PrivateKey
	machine *fsm.Machine
	gate    *gate.Gate
	sink    *audittest.Memory
	hooked  *hookedSink
	stores  *keystore.Registry
	dir     string
	hold    time.Duration
	region  string
	more    []keystore.Config // of this one

	contact atomic.Int64 // what LastContact says
	losesAt atomic.Int64 // at which call of Standing the lease is lost; 0: never

	standing   atomic.Pointer[cluster.Standing] // the last one
	incomplete atomic.Uint64                    // first change that is not complete; 0: all are
	finish     func()                           // called by who waits for it
	behind     atomic.Bool                      // does not apply
	applied    int                              // commands; under w.mu
	differs    error                            // what LeaseErr says
	unproved   error                            // what Proved says
	proved     func() error                     // in its place

	mu      sync.Mutex
	pinned  *seal.Fingerprint
	before  func(*fsmpb.Command) error // before a proposal is committed
	after   func(*fsmpb.Command) error // after; an error hides the result
	prepare func(id string, raw []byte) ([]byte, error)
	clear   func(index uint64) (uint64, error) // in place of clearing its disk
}

// add starts another node, in its own directory.
func (w *world) add(t testing.TB, o options) *member {
	t.Helper()
	m := &member{w: w, number: len(w.members) + 1, hold: o.l2Hold, region: w.region, more: w.more}
	m.id = cluster.NodeID(fmt.Sprintf("%032x", 0xa0+m.number))
	_, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	m.key, m.sink = key, &audittest.Memory{}
	m.hooked = &hookedSink{Memory: m.sink}
	m.dir = filepath.Join(w.dir, fmt.Sprintf("node%d", m.number))
	check(t, os.MkdirAll(m.dir, 0o700))
	m.boot(t)
	w.members = append(w.members, m)
	return m
}

// boot makes the node anew, as a start of its process does. What is on disk, the
// record of the seal, stays.
func (m *member) boot(t testing.TB) {
	t.Helper()
	w := m.w
	m.machine = fsm.New(fsm.Options{})
	m.applied = 0
	policies := node.NewPolicies("eu-1", discard())
	m.gate = must[*gate.Gate](t)(gate.New(gate.Config{Node: string(m.id), Sink: m.hooked, Policy: node.TenantPolicy{Machine: m.machine, Policies: policies, Next: gate.RolePolicy{}}, Clock: w.clock}))
	types := keystore.Constructors{local.Type: func(ctx context.Context, env keystore.Env, c keystore.Config) (keystore.Provider, error) {
		p, err := local.New(ctx, env, c)
		if err != nil {
			return nil, err
		}
		if c.Name != "customer" {
			return faulty{p, c.Name, &w.faults}, nil
		}
		return counted{p, w.calls}, nil
	}}
	types[transit.Type] = transit.New
	m.stores = must[*keystore.Registry](t)(keystore.Open(t.Context(), w.env(), append([]keystore.Config{
		{Name: "customer", Type: local.Type, Settings: map[string]string{local.SettingDir: filepath.Join(w.dir, "customer")}},
		{Name: "sealing", Type: local.Type, Settings: map[string]string{local.SettingDir: filepath.Join(w.dir, "sealing")}},
	}, m.more...), types))
	t.Cleanup(func() { _ = m.stores.Close() })
	m.Node = must[*node.Node](t)(node.New(node.Config{
		RecordPath: filepath.Join(m.dir, "record.pb"), Pinned: m.pin, Machine: m.machine, Keystores: m.stores, Gate: m.gate, Policies: policies,
		Place:  func(k seal.ProviderKey) keystore.Place { _, at, _ := m.where(k); return at },
		L2Hold: m.hold, Lease: cluster.ProfileWAN.Lease(), Clock: w.clock, Rand: w.rand, Logger: discard(),
	}))
	m.Attach(m.link())
	n := m.Node
	t.Cleanup(func() { stop(n) })
}

// where is what a program would say of where a key is.
func (m *member) where(k seal.ProviderKey) (string, keystore.Place, bool) {
	return m.stores.Type(k.Provider), keystore.Place{Account: filepath.Join(m.w.dir, k.Provider)}, m.stores.Type(k.Provider) != ""
}

// hookedSink runs a function at the next append.
type hookedSink struct {
	*audittest.Memory
	drop atomic.Bool // keeps no record, for benchmarks

	mu   sync.Mutex
	hook func()
}

func (s *hookedSink) Append(r audit.Record) error {
	if s.drop.Load() {
		return nil
	}
	s.mu.Lock()
	f := s.hook
	s.mu.Unlock()
	if f != nil {
		f()
	}
	return s.Memory.Append(r)
}

func (m *member) sinkHook(f func()) {
	m.hooked.mu.Lock()
	defer m.hooked.mu.Unlock()
	m.hooked.hook = f
}

// stop ends a node as its process would: Run returns at once and wipes.
func stop(n *node.Node) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.Run(ctx)
}

func (m *member) pin() (seal.Fingerprint, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pinned == nil {
		return seal.Fingerprint{}, false
	}
	return *m.pinned, true
}

func (m *member) hooks(before, after func(*fsmpb.Command) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before, m.after = before, after
}

// link is the Cluster of a member.
type link struct{ m *member }

func (m *member) link() node.Cluster { return link{m} }

func (link) Recovering() bool { return false }

func (link) Recover(context.Context) error { return nil }

func (l link) NodeID() cluster.NodeID { return l.m.id }
func (l link) Signer() crypto.Signer  { return l.m.key }
func (l link) LeaderID() cluster.NodeID {
	if l.m.w.leaderless.Load() {
		return ""
	}
	return l.m.w.members[l.m.w.leads.Load()].id
}

// leaseSpan is how long ago a member may have heard from the leader and still have
// a lease.
const leaseSpan = time.Second

// Standing allocates only when something changed, like the real one.
func (l link) Standing() *cluster.Standing {
	m := l.m
	if m.losesAt.Load() > 0 && m.losesAt.Add(-1) == 0 {
		m.contact.Store(1 << 62)
	}
	v, complete := m.machine.View(), m.machine.View().Index()
	if at := m.incomplete.Load(); at != 0 {
		complete = at - 1
	}
	leased := time.Duration(m.contact.Load()) <= leaseSpan
	if s := m.standing.Load(); s != nil && s.View == v && s.Complete == complete && leased == (s.Remaining(m.w.clock.Read()) > 0) {
		return s
	}
	var span time.Duration
	if leased {
		span = math.MaxInt64
	}
	s := cluster.NewStanding(v, complete, clock.Reading{}, span)
	m.standing.Store(s)
	return s
}

func (l link) Proved() error {
	if l.m.proved != nil {
		return l.m.proved()
	}
	return l.m.unproved
}

func (l link) LeaseErr() error {
	if time.Duration(l.m.contact.Load()) <= leaseSpan {
		return nil
	}
	if l.m.differs != nil {
		return l.m.differs
	}
	return errs.New(errs.NotServing, "no lease")
}

// AwaitComplete waits for news that never come, unless finish makes them come.
func (l link) AwaitComplete(ctx context.Context, index uint64) error {
	for l.m.incomplete.Load() != 0 && l.m.incomplete.Load() <= index {
		if f := l.m.finish; f != nil {
			f()
			continue
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// Clear does what the test says; without a word the disk is clear.
func (l link) Clear(_ context.Context, index uint64) (uint64, error) {
	l.m.mu.Lock()
	does := l.m.clear
	l.m.mu.Unlock()
	if does == nil {
		return index, nil
	}
	return does(index)
}

func (l link) LastContact() time.Duration { return time.Duration(l.m.contact.Load()) }

func (l link) Member() *fsmpb.Member {
	spki, err := x509.MarshalPKIXPublicKey(l.m.key.Public())
	if err != nil {
		panic(err)
	}
	return &fsmpb.Member{
		Id: string(l.m.id), Name: fmt.Sprintf("node-%d", l.m.number), PublicKey: spki, Voter: true, Region: l.m.region, MaxFormat: cmp.Or(l.m.w.format, fsm.MaxFormatVersion),
		PeerAddress: "127.0.0.1:8402", GrpcAddress: "127.0.0.1:8400", RestAddress: "krypton.example:8401",
	}
}

func (l link) Propose(_ context.Context, tok gate.Token, cmd *fsmpb.Command, _ cluster.Until) (*fsmpb.Result, error) {
	cmd = proto.CloneOf(cmd)
	cmd.Principal, cmd.CorrelationId, cmd.CallerSerial = cluster.PrincipalOf(tok, l.m.id), string(tok.Correlation()), []byte(tok.Serial())
	l.m.mu.Lock()
	before, after := l.m.before, l.m.after
	l.m.mu.Unlock()
	if before != nil {
		if err := before(cmd); err != nil {
			return nil, err
		}
	}
	res := l.m.w.commit(cmd)
	if after != nil {
		if err := after(cmd); err != nil {
			return nil, err
		}
	}
	return res, fsm.Err(res)
}

func (l link) ProposeOwn(_ context.Context, tok gate.Token, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	l.m.mu.Lock()
	before := l.m.before
	l.m.mu.Unlock()
	if before != nil {
		if err := before(cmd); err != nil {
			return nil, err
		}
	}
	if l.LeaderID() != l.m.id {
		return nil, errs.New(errs.NoLeader, "no leader")
	}
	cmd = proto.CloneOf(cmd)
	cmd.Format, cmd.CorrelationId = fsm.CommandFormat, string(tok.Correlation())
	res := l.m.w.commit(cmd)
	return res, fsm.Err(res)
}

func (l link) Bootstrap(_ context.Context, tok gate.Token, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	cmd = proto.CloneOf(cmd)
	if f := l.m.w.format; f != 0 && f < fsm.FormatAuthority { // founded by an older release, which was upgraded since; later keys depend on all of it
		cmd.GetGenesis().GetFirstMember().MaxFormat = fsm.MaxFormatVersion
	}
	cmd.Format, cmd.Principal, cmd.CorrelationId = fsm.CommandFormat, cluster.PrincipalOf(tok, l.m.id), string(tok.Correlation())
	res := l.m.w.commit(cmd)
	if err := fsm.Err(res); err != nil {
		return nil, err
	}
	l.m.setPin()
	return res, nil
}

func (m *member) setPin() {
	f := seal.Fingerprint(m.w.members[0].machine.View().Cluster().GetFingerprint())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pinned = &f
}

func (l link) Peers() (out []string) {
	for _, m := range l.m.w.members {
		if m != l.m {
			out = append(out, string(m.id))
		}
	}
	return out
}

func (l link) PrepareOn(ctx context.Context, id string, raw []byte) ([]byte, error) {
	l.m.mu.Lock()
	lie := l.m.prepare
	l.m.mu.Unlock()
	if lie != nil {
		return lie(id, raw)
	}
	l.m.w.mu.Lock() // one may start again meanwhile
	var nd *node.Node
	for _, m := range l.m.w.members {
		if string(m.id) == id {
			nd = m.Node
		}
	}
	l.m.w.mu.Unlock()
	if nd == nil {
		return nil, errs.New(errs.Unavailable, "no such peer")
	}
	return nd.Prepare(context.WithoutCancel(ctx), raw)
}

// commit appends a command to the log, and every member that is not behind
// applies it.
func (w *world) commit(cmd *fsmpb.Command) *fsmpb.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastMS = max(w.lastMS, w.clock.Now().UnixMilli())
	cmd.TimeUnixMs = w.lastMS
	raw, err := fsm.EncodeCommand(cmd)
	if err != nil {
		panic(err)
	}
	w.commands = append(w.commands, raw)
	if w.vouch != nil {
		w.vouch(len(w.commands)-1, raw)
	}
	var res *fsmpb.Result
	for _, m := range w.members {
		if r := m.catchUp(); r != nil && res == nil {
			res = r
		}
	}
	return res
}

// catchUp applies what the member has not; w.mu is held.
func (m *member) catchUp() (res *fsmpb.Result) {
	if m.behind.Load() {
		return nil
	}
	return m.catchUpTo(len(m.w.commands))
}

// catchUpTo applies the first n commands, as far as the member has not; w.mu is held.
func (m *member) catchUpTo(n int) (res *fsmpb.Result) {
	for ; m.applied < n; m.applied++ {
		raw, apply := m.w.commands[m.applied], m.machine.Apply
		if m.w.judge != nil && !m.w.judge(m, m.applied, raw) {
			apply = m.machine.ApplyUnproved
		}
		var err error
		if res, err = apply(uint64(m.applied)+1, m.w.term, raw); err != nil {
			panic(err)
		}
	}
	return res
}

// follow makes the member apply everything.
func (m *member) follow() {
	m.behind.Store(false)
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	m.catchUp()
}

// tick lets time do what is due.
func (w *world) tick() {
	w.tb.Helper()
	res := w.commit(&fsmpb.Command{Format: fsm.CommandFormat, Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}})
	check(w.tb, fsm.Err(res))
}

// localOperator is who opened the administration socket of a member.
func localOperator() *fsmpb.Principal {
	p := auth.LocalOperator()
	return &fsmpb.Principal{Issuer: p.Issuer.String(), Kind: p.Role.String(), Name: p.Name}
}

// join makes m a member of the cluster of the others.
func (w *world) join(m *member) {
	w.tb.Helper()
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(m.number)}, 32))
	public := key[ed25519.SeedSize:]
	sum := sha256.Sum256(public)
	hash, self := sum[:], link{m}.Member()
	add := &fsmpb.AddMember{TokenHash: hash, Member: self}
	if cl := w.members[0].machine.View().Cluster(); cl.GetFormatVersion() >= fsm.FormatProofs {
		add.TokenKey, add.Signature = public, ed25519.Sign(key, fsm.AdmissionMessage([32]byte(cl.GetFingerprint()), self))
	}
	for _, body := range []*fsmpb.Command{
		{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{Token: &fsmpb.JoinToken{
			Hash: hash, ExpireTimeMs: w.clock.Now().Add(time.Hour).UnixMilli(), Voter: true,
		}}}},
		{Body: &fsmpb.Command_AddMember{AddMember: add}},
	} {
		body.Format = fsm.CommandFormat
		if body.GetAddMember() == nil {
			body.Principal = localOperator()
		}
		check(w.tb, fsm.Err(w.commit(body)))
	}
	m.setPin()
	m.Observe(context.Background())
}
