package cluster_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
)

func TestMain(m *testing.M) {
	// These tests wait for elections far more than they compute.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, leaktest.Known()...)
}

// patience is longer than anything that a test waits for should take; it is
// reached only by a test that fails. A machine that runs several packages under
// the race detector needs half a minute for three elections.
const patience = 90 * time.Second

// member is one node of a test.
type member struct {
	t       *testing.T
	name    string
	path    string
	change  []func(*cluster.Config)
	dir     *cluster.Dir
	machine *fsm.Machine
	c       *cluster.Cluster
	gate    *gate.Gate
	trail   *audittest.Memory
	hooks   *hooks
	lease   time.Duration                                 // of the cluster that it founds; 0: the default
	wrap    func(cluster.LeaseStream) cluster.LeaseStream // before Run, if any
	watch   func(*clusterpb.ProposeRequest)               // what it forwards, from before Run, if any
	cancel  context.CancelFunc
	done    chan error
	stopped bool
}

// allow lets everything through that the duties let: policy is not the subject here.
type allow struct{}

func (allow) Decide(gate.Query) (gate.Verdict, error) {
	return gate.Verdict{Decision: gate.Allow, Reason: "test"}, nil
}

// hooks are a node that does next to nothing.
type hooks struct {
	gate    *gate.Gate
	mu      sync.Mutex
	sealed  bool
	lies    bool // its MACs are under a key of its own
	prepare func(from cluster.NodeID, req []byte) ([]byte, error)
	issuing func(context.Context) // before a certificate is made, if any

	identify func() // before a forwarded caller is found out, if any
}

func (h *hooks) Prepare(_ context.Context, from cluster.NodeID, req []byte) ([]byte, error) {
	if h.prepare == nil {
		return nil, errs.New(errs.Sealed, "sealed")
	}
	return h.prepare(from, req)
}

func (h *hooks) Health() cluster.Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sealed {
		return cluster.Health{SealState: "sealed", MemoryTier: "test"}
	}
	return cluster.Health{SealState: cluster.StateUnsealed, Serving: true, MemoryTier: "test"}
}

func (h *hooks) IssueCertificate(ctx context.Context, id cluster.NodeID, key []byte) (cluster.Certificate, error) {
	if h.issuing != nil {
		h.issuing(ctx)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sealed {
		return cluster.Certificate{}, errs.New(errs.Sealed, "sealed")
	}
	sum := sha256.Sum256(key)
	return cluster.Certificate{Chain: [][]byte{[]byte(id), sum[:]}, Authorities: [][]byte{[]byte("ca")}}, nil
}

func (h *hooks) Identify(_ context.Context, shown auth.Credential) (cluster.Caller, error) {
	if h.identify != nil {
		h.identify()
	}
	return cluster.WhoShowed(shown)
}

func (h *hooks) Forward(f gate.Forwarded, commit func() (auth.Principal, gate.Ours, error)) error {
	return h.gate.Forward(f, commit)
}

func (h *hooks) seal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sealed = true
}

func (h *hooks) unseal() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sealed = false
}

// newMember starts a node with an empty directory.
func newMember(t *testing.T, name string, change ...func(*cluster.Config)) *member {
	t.Helper()
	m := &member{t: t, name: name, path: t.TempDir() + "/data", change: change}
	m.start()
	t.Cleanup(m.stop)
	return m
}

func (m *member) start() {
	m.t.Helper()
	if err := m.tryStart(); err != nil {
		m.t.Fatalf("start %s: %v", m.name, err)
	}
}

// mac is what an unsealed node has from its MasterKey.
func (h *hooks) mac(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := "a key"
	if h.lies {
		key = "another key"
	}
	sum := hmac.New(sha256.New, []byte(key))
	for _, p := range parts {
		sum.Write(p)
	}
	return [32]byte(sum.Sum(nil)), !h.sealed
}

func testLog(name string) *slog.Logger {
	h := slog.DiscardHandler
	if os.Getenv("CLUSTER_TEST_LOG") != "" {
		h = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})
	}
	return slog.New(h).With(slog.String("name", name))
}

func (m *member) tryStart() error {
	dir, err := cluster.OpenDir(m.path, rand.Reader)
	if err != nil {
		return err
	}
	pin, _ := dir.Fingerprint()
	m.trail = &audittest.Memory{}
	if m.gate, err = gate.New(gate.Config{Node: m.name, Sink: m.trail, Policy: allow{}, Clock: clock.System{}}); err != nil {
		return errors.Join(err, dir.Close())
	}
	m.dir, m.machine, m.hooks = dir, fsm.New(fsm.Options{Fingerprint: pin}), &hooks{gate: m.gate}
	cfg := cluster.Config{
		Dir: dir, Machine: m.machine, Hooks: m.hooks, Listen: "127.0.0.1:0",
		Self: cluster.Self{Name: m.name, Region: "eu", Zone: "a", GRPCAddress: "127.0.0.1:1", RESTAddress: "127.0.0.1:2", Version: "v0", MaxFormat: fsm.MaxFormatVersion},
		MAC:  m.hooks.mac, Clock: clock.System{}, Rand: rand.Reader, Log: testLog(m.name),
		// Tests hold steps of a leader for as long as a busy machine takes.
		StuckAfter: time.Minute,
	}
	for _, f := range m.change {
		f(&cfg)
	}
	m.machine = cfg.Machine
	if m.c, err = cluster.Open(cfg); err != nil {
		return fmt.Errorf("%w (close: %w)", err, dir.Close())
	}
	if err := dir.WriteAddresses(cluster.Addresses{Peer: m.c.PeerAddress()}); err != nil {
		return err
	}
	if m.wrap != nil {
		m.c.WrapLeases(m.wrap)
	}
	if m.watch != nil {
		m.c.OnForward(m.watch)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel, m.done, m.stopped = cancel, make(chan error, 1), false
	run, done := m.c, m.done
	go func() { done <- run.Run(ctx) }()
	return nil
}

// stop ends the node as a crash of the process would: nothing is handed over.
func (m *member) stop() {
	m.t.Helper()
	if m.stopped || m.c == nil {
		return
	}
	m.stopped = true
	m.cancel()
	<-m.done
	if err := m.c.Close(); err != nil {
		m.t.Errorf("close %s: %v", m.name, err)
	}
	if err := m.dir.Close(); err != nil {
		m.t.Errorf("close directory of %s: %v", m.name, err)
	}
}

func (m *member) restart() {
	m.t.Helper()
	m.stop()
	m.start()
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func uid() []byte {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic(err)
	}
	return b
}

// as runs f with a token of p.
func (m *member) as(ctx context.Context, p auth.Principal, act gate.Act, f func(gate.Token) error) error {
	id, err := corr.New(rand.Reader)
	if err != nil {
		return err
	}
	return m.gate.Do(ctx, gate.Request{Principal: p, Shown: cluster.Shown(p, ""), Act: act, Object: "cluster", Correlation: id}, f)
}

func (m *member) genesis() *fsmpb.Command {
	first := m.c.Member()
	return &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: cluster.Found(&fsmpb.Genesis{
		KeyspaceId: uid(), ClusterId: uid(), Name: "prod", FormatVersion: first.GetMaxFormat(), LeaseMs: uint32(m.lease.Milliseconds()), FirstMember: first, SealRecord: []byte("record"),
		Settings:    &fsmpb.Settings{RollbackWindowMs: 86400000, DestroyWaitMs: 86400000, Voters: 3},
		InternalKey: &fsmpb.Version{Number: 1, Uid: uid(), Blob: []byte("wrapped")},
	})}}
}

func (m *member) bootstrap() {
	m.t.Helper()
	ctx := limited(m.t)
	if err := m.as(ctx, auth.LocalOperator(), gate.Init, func(tok gate.Token) error {
		_, err := m.c.Bootstrap(ctx, tok, m.genesis())
		return err
	}); err != nil {
		m.t.Fatalf("bootstrap: %v", err)
	}
	if m.machine.View().Cluster().GetFormatVersion() < fsm.FormatAuthority {
		return // its callers have the roles that their certificates say
	}
	if _, err := m.insist(gate.CreateRoleBinding, request("bind-operator", cluster.BindOperator())); err != nil {
		m.t.Fatalf("bind the operator: %v", err)
	}
}

func (m *member) propose(ctx context.Context, act gate.Act, cmd *fsmpb.Command) (res *fsmpb.Result, err error) {
	err = m.as(ctx, cluster.WhoMay(cmd), act, func(tok gate.Token) error {
		res, err = m.c.Propose(ctx, tok, cmd, cluster.Complete)
		return err
	})
	return res, err
}

// request gives cmd a request id.
func request(id string, cmd *fsmpb.Command) *fsmpb.Command {
	sum := sha256.Sum256([]byte(id))
	cmd.RequestId, cmd.RequestDigest = id, sum[:]
	return cmd
}

// write is a change that every test can make: it toggles the hold.
func write(id string, n int) *fsmpb.Command {
	return request(fmt.Sprintf("%s-%d", id, n), &fsmpb.Command{Body: &fsmpb.Command_SetHold{
		SetHold: &fsmpb.SetHold{Held: n%2 == 0, Reason: fmt.Sprintf("%s-%d", id, n)},
	}})
}

// insist proposes as a client does: on a busy machine leaders lose their office
// in the middle of a test, and the request id lets the same request be sent until
// it is done, once.
func (m *member) insist(act gate.Act, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	ctx := limited(m.t)
	for {
		res, err := m.propose(ctx, act, cmd)
		if err == nil {
			return res, nil
		}
		switch errs.Of(err).Row().Retry {
		case errs.RetryOtherNode, errs.RetryAfterDelay:
		case errs.RetryUnspecified, errs.RetryNever, errs.RetrySameNode:
			return nil, err
		}
		if (clock.System{}).Sleep(ctx, 20*time.Millisecond) != nil {
			return nil, err
		}
	}
}

func (m *member) write(id string, n int) *fsmpb.Result {
	m.t.Helper()
	res, err := m.insist(gate.SealCluster, write(id, n))
	if err != nil {
		m.t.Fatalf("write %s-%d at %s: %v", id, n, m.name, err)
	}
	return res
}

type wanted struct {
	voter  bool
	region string
	life   time.Duration
}

// invite makes a join token.
func (m *member) invite(w wanted) cluster.JoinToken {
	m.t.Helper()
	tok, err := m.c.JoinToken()
	if err != nil {
		m.t.Fatalf("make token: %v", err)
	}
	if w.life == 0 {
		w.life = time.Hour
	}
	hash := tok.Hash()
	if _, err := m.insist(gate.CreateJoinToken, request(fmt.Sprintf("token-%x", hash[:8]), &fsmpb.Command{
		Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{Token: &fsmpb.JoinToken{
			Hash: hash[:], ExpireTimeMs: max(time.Now().UnixMilli(), m.machine.View().TimeMS()) + w.life.Milliseconds(), Voter: w.voter, Region: w.region,
		}}},
	})); err != nil {
		m.t.Fatalf("register token: %v", err)
	}
	return tok
}

func (m *member) join(tok cluster.JoinToken) cluster.Certificate {
	m.t.Helper()
	cert, err := m.c.Join(limited(m.t), tok)
	if err != nil {
		m.t.Fatalf("join %s: %v", m.name, err)
	}
	return cert
}

func (m *member) remove(other *member) {
	m.t.Helper()
	if _, err := m.insist(gate.RemoveNode, request("remove", &fsmpb.Command{
		Body: &fsmpb.Command_RemoveMember{RemoveMember: &fsmpb.RemoveMember{Id: string(other.c.NodeID())}},
	})); err != nil {
		m.t.Fatalf("remove %s: %v", other.name, err)
	}
}

func (m *member) stopsBecause(code errs.Code) {
	m.t.Helper()
	select {
	case <-m.c.Failed():
	case <-limited(m.t).Done():
		m.t.Fatalf("%s goes on", m.name)
	}
	if !errs.Is(m.c.Cause(), code) {
		m.t.Fatalf("%s stopped because of %v, want %s", m.name, m.c.Cause(), code)
	}
}

// eventually waits for a fact that changes with the view, the leader, or within
// a heartbeat of them.
func (m *member) eventually(what string, ok func() bool) {
	m.t.Helper()
	ctx := limited(m.t)
	changes, stop := m.c.SubscribeLeadership()
	defer stop()
	for !ok() {
		look, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		select {
		case <-m.machine.View().Superseded():
		case <-changes:
		case <-look.Done():
		}
		cancel()
		if ctx.Err() != nil {
			m.t.Fatalf("%s: not after %s: %s", m.name, patience, what)
		}
	}
}

func (m *member) voters(n int) {
	m.t.Helper()
	m.eventually(fmt.Sprintf("%d voters", n), func() bool { return m.c.Stats().Voters == n })
}

// applied waits until the node has the command at index.
func (m *member) applied(index uint64) {
	m.t.Helper()
	if err := m.machine.Wait(limited(m.t), index); err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
}

// three starts a cluster of three voters.
func three(t *testing.T, change ...func(*cluster.Config)) []*member {
	t.Helper()
	return threeWithLease(t, 0, change...)
}

// threeWithLease makes a cluster whose leases last that long; 0: the default.
func threeWithLease(t *testing.T, lease time.Duration, change ...func(*cluster.Config)) []*member {
	t.Helper()
	all := make([]*member, 3)
	for i := range all {
		all[i] = newMember(t, fmt.Sprintf("node-%d", i), change...)
	}
	all[0].lease = lease
	all[0].bootstrap()
	for _, m := range all[1:] {
		m.join(all[0].invite(wanted{voter: true}))
	}
	all[0].voters(3)
	for _, m := range all {
		m.eventually("leader and members known", func() bool { return m.c.LeaderID() != "" && len(m.machine.View().Members()) == len(all) })
	}
	return all
}

func leaderOf(t *testing.T, all []*member) (leader *member, others []*member) {
	t.Helper()
	ctx := limited(t)
	for ctx.Err() == nil {
		leader, others = nil, nil
		for _, m := range all {
			if m.c.IsLeader() {
				leader = m
			} else {
				others = append(others, m)
			}
		}
		if leader != nil {
			return leader, others
		}
		changes, stop := all[0].c.SubscribeLeadership()
		<-changes
		look, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		select {
		case <-changes:
		case <-look.Done():
		}
		cancel()
		stop()
	}
	t.Fatal("no leader")
	return nil, nil
}
