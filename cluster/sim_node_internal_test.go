package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// simGate is open, or lets nobody through for a while.
type simGate struct {
	mu   sync.Mutex
	shut int
	open chan struct{} // nil: it is open
}

// close closes the gate and returns what opens it.
func (g *simGate) close() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut++
	if g.open == nil {
		g.open = make(chan struct{})
	}
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.shut--; g.shut == 0 {
			close(g.open)
			g.open = nil
		}
	})
}

// pass waits until the gate is open, and reports false once ended is closed.
func (g *simGate) pass(ended <-chan struct{}) bool {
	for {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		if open == nil {
			select {
			case <-ended:
				return false
			default:
				return true
			}
		}
		select {
		case <-open:
		case <-ended:
			return false
		}
	}
}

// simNode is a machine with a disk. Processes live on it one after the other.
type simNode struct {
	w       *simWorld
	n       int
	id      NodeID
	log     simLog
	snaps   *simSnaps
	end     simFile
	compare simFile
	boots   uint64
	rate    float64 // of its clocks against real time

	now  atomic.Pointer[simLife] // nil: no process runs
	gone atomic.Bool             // it is no member, for good; its process may go on
	was  *simNode                // what this machine was before, as another member; nil: nothing
}

// simLife is one process.
//
// It can be paused in every place where it reads a clock or sends or receives a
// message. That is where a pause of a real process, which may come anywhere,
// shows: nothing else connects it with the world.
type simLife struct {
	node  *simNode
	c     *Cluster
	trans *simTransport
	pause simGate // the whole process stands still
	nap   simGate // who gives grants and asks for them gets no time once it waits
	lag   simGate // no command after upTo becomes visible
	upTo  atomic.Uint64
	ended chan struct{}

	die sync.Once
	out chan struct{} // closed when nothing of it runs any more
}

// pass waits while the process is paused; false: it is gone.
func (l *simLife) pass() bool { return l.pause.pass(l.ended) }

// simFile is a file on a disk, which is replaced in one step.
type simFile struct {
	mu sync.Mutex
	b  []byte
}

func (f *simFile) read() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.b == nil {
		return nil, os.ErrNotExist
	}
	return f.b, nil
}

func (f *simFile) write(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.b = b
	return nil
}

// simLog is a log on a disk.
type simLog struct{ *raft.InmemStore }

func (simLog) Close() error { return nil }

// DeleteRange deletes what is there: the store of the library counts below 0 when
// more is asked of it.
func (l simLog) DeleteRange(from, to uint64) error {
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	from, to = max(from, first), min(to, last)
	if err != nil || last == 0 || from > to {
		return err
	}
	return l.InmemStore.DeleteRange(from, to)
}

// simSnaps are the snapshots on a disk: the newest counts, as in the store of files.
// That of the library which keeps them in memory counts the last that was begun.
type simSnaps struct {
	mu     sync.Mutex
	newest *simSnap
}

type simSnap struct {
	of   *simSnaps
	meta raft.SnapshotMeta
	data bytes.Buffer
}

func (s *simSnaps) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &simSnap{of: s, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term, Configuration: conf, ConfigurationIndex: confIndex,
	}}, nil
}

func (s *simSnaps) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		return nil, nil
	}
	meta := s.newest.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

func (s *simSnaps) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil || s.newest.meta.ID != id {
		return nil, nil, errSimLost
	}
	meta := s.newest.meta
	return &meta, io.NopCloser(bytes.NewReader(s.newest.data.Bytes())), nil
}

func (s *simSnap) Write(p []byte) (int, error) { return s.data.Write(p) }

func (s *simSnap) ID() string { return s.meta.ID }

func (s *simSnap) Cancel() error { return nil }

func (s *simSnap) Close() error {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.meta.Size = int64(s.data.Len())
	if was := s.of.newest; was == nil || s.meta.Index >= was.meta.Index {
		s.of.newest = s
	}
	return nil
}

// simClock is the clock of a machine: it runs at its own rate, and is read only by
// a process that runs.
type simClock struct {
	life *simLife
	nap  *simGate // nobody who sleeps wakes up; nil: none
}

func (k *simClock) passed() time.Duration {
	k.life.pass()
	return time.Duration(float64(time.Since(k.life.node.w.began)) * k.life.node.rate)
}

func (k *simClock) Now() time.Time { return k.life.node.w.began.Add(k.passed()) }

func (k *simClock) Since(t time.Time) time.Duration { return k.Now().Sub(t) }

func (k *simClock) Read() clock.Reading {
	d := k.passed()
	return clock.Reading{Raw: d, Boot: d, Wall: time.Duration(k.life.node.w.began.UnixNano()) + d}
}

func (k *simClock) Sleep(ctx context.Context, d time.Duration) error {
	err := clock.System{}.Sleep(ctx, d)
	if k.nap != nil {
		k.nap.pass(k.life.ended)
	}
	k.life.pass()
	return err
}

// simMAC is a MAC that cannot be forged by accident: nobody lies here.
func simMAC(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
	return sha256.Sum256(bytes.Join(parts, nil)), true
}

type simHooks struct{ Hooks }

func (simHooks) Identify(_ context.Context, shown auth.Credential) (Caller, error) {
	return WhoShowed(shown)
}

func (simHooks) Forward(_ gate.Forwarded, commit func() (auth.Principal, gate.Ours, error)) error {
	_, _, _ = commit()
	return nil
}

func (simHooks) Health() Health { return Health{SealState: "unsealed", Serving: true} }

// simRandom is a source of random numbers for many goroutines.
type simRandom struct {
	mu sync.Mutex
	of *rand.ChaCha8
}

func newSimRandom(seed uint64) *simRandom {
	return &simRandom{of: rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "simulation %d", seed)))}
}

func (r *simRandom) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of.Read(b)
}

func simID(seed uint64, n int) NodeID {
	sum := sha256.Sum256(fmt.Appendf(nil, "node %d of simulation %d", n, seed))
	return NodeID(hex.EncodeToString(sum[:16]))
}

// simRates are by how much clocks are off. Two of them are up to 1.98 % apart; a
// holder and a leader each allow for 1 %.
var simRates = [...]float64{-0.0099, -0.0099, -0.003, 0, 0.005, 0.0099, 0.0099}

func (w *simWorld) addNode() *simNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := &simNode{
		w: w, n: len(w.nodes), id: simID(w.seed, len(w.nodes)), log: simLog{raft.NewInmemStore()}, snaps: &simSnaps{},
		rate: 1 + simRates[w.rnd.IntN(len(simRates))],
	}
	w.nodes = append(w.nodes, n)
	return n
}

// must is for what fails only if the simulation is wrong.
func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// simKey is the hash of a node's key.
func simKey(id NodeID) [32]byte { return sha256.Sum256(simUID("spki " + string(id))) }

// simLogger is where a process logs.
func simLogger() *slog.Logger {
	if os.Getenv("CLUSTER_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// start starts a process: the real one, but for its disk and its network.
func (n *simNode) start() {
	tm := must(n.w.plan.profile.timers())
	n.boots++
	l := &simLife{node: n, ended: make(chan struct{}), out: make(chan struct{})}
	clk := &simClock{life: l}
	machine := fsm.New(fsm.Options{Publish: func(p fsm.Published, swap func()) {
		if p.View.Index() > l.upTo.Load() {
			l.lag.pass(l.ended)
		}
		swap()
	}})
	c := &Cluster{
		cfg: Config{
			Dir:     &Dir{node: nodeRecord{NodeID: n.id, Boots: n.boots, Membership: MembershipMember}},
			Profile: n.w.plan.profile, Machine: machine, Hooks: simHooks{}, Self: Self{Name: fmt.Sprintf("node-%d", n.n), MaxFormat: fsm.MaxFormatVersion, Version: "v0"},
			MAC: simMAC, Clock: clk, Rand: n.w.random, Log: simLogger(), StuckAfter: stuckAfter, TickInterval: time.Second,
			// Few, so that a node that was away for some seconds needs a snapshot.
			SnapshotThreshold: 16, SnapshotInterval: 2 * time.Second, TrailingLogs: 8,
		},
		id: n.id, timers: tm, clk: clk, machine: machine, log: simLogger().With(slog.String("node", string(n.id[:4]))),
		proposals: newInflight(clk), transfers: newInflight(clk),
		suspect: make(chan struct{}, 1), nudge: make(chan struct{}, 1), membership: make(chan struct{}, 1), failed: make(chan struct{}),
	}
	l.c = c
	l.trans = &simTransport{life: l, consume: make(chan raft.RPC), arrivals: newArrivals()}
	c.base, c.cancel = context.WithCancel(context.Background())
	c.proofs, c.vouching, c.end, c.compared = newProofs(c), newVouching(c), newLogEnd(c), newComparison(c)
	c.compared.read, c.compared.write = n.compare.read, n.compare.write
	c.compared.remove = func() error { return n.compare.write(nil) }
	c.compared.key = func(id NodeID) ([32]byte, bool) { return simKey(id), true }
	c.compared.find = func([32]byte) (NodeID, bool) { return "", false } // nobody joins by a token here
	c.compared.others = func() (all []witness) {
		for _, p := range n.w.processes() {
			if sum := simKey(p.c.id); p.c.id != n.id {
				all = append(all, witness{ID: p.c.id, KeyHash: hex.EncodeToString(sum[:])})
			}
		}
		return all
	}
	if err := c.compared.load(); err != nil {
		panic(err)
	}
	l.trans.arrivals.refuses = c.compared.refuses
	c.end.read, c.end.write = n.end.read, n.end.write
	if err := c.end.load(); err != nil {
		panic(err)
	}
	c.leaders, c.peers = newLeaders(c), newPeers(c)
	c.peers.ready = l.ready
	c.peers.stream = func(ctx context.Context, id NodeID) (clusterpb.PeerClient, func(), error) {
		p, err := l.ready(ctx, id)
		return p, func() {}, err
	}
	c.leases = newLeases(c)
	c.leases.clk = &simClock{life: l, nap: &l.nap}
	c.store = newStore(n.log, clk, nil, c.fail)
	c.store.vouch = c.vouching.vouch
	if err := c.store.verify(); err != nil {
		panic(err)
	}
	for _, s := range must(n.snaps.List()) {
		c.store.reached(lease.Mark{Term: s.Term, Index: s.Index})
	}
	c.adapter = newAdapter(c)
	c.raft = must(raft.NewRaft(c.raftConfig(newRaftLog(c.log, clk)), &simFSM{c.adapter, l}, c.store, c.store, snapshots{n.snaps, func(lease.Mark) {}, c.compared.arrive, &readers{}}, l.trans))
	c.store.running.Store(true)
	c.leaders.observe(c.raft)
	ctx := c.base
	for _, duty := range c.duties() {
		c.spawn(func() {
			if err := duty(ctx); err != nil {
				c.fail(err)
			}
		})
	}
	n.now.Store(l)
	n.w.spawn(func() { // a process that must stop ends, and is started again
		select {
		case <-c.failed:
			n.w.count(func(s *simStats) { s.Exits++ })
			n.w.note("node %d ends: %v", n.n, c.failCause)
			if !errs.Is(c.failCause, errs.Unavailable) { // a stuck leader, or a pause that is as long
				n.w.violation("node %d ends: %v", n.n, c.failCause)
			}
			l.kill()
		case <-l.ended:
		}
	})
}

// kill ends the process at once: nothing leaves it any more.
func (l *simLife) kill() {
	l.die.Do(func() {
		l.node.now.CompareAndSwap(l, nil)
		close(l.ended)
		// Raft answers nobody whose call waits when it shuts down, and a bubble must not
		// be left with anybody waiting: it first loses its leadership.
		l.c.cancel()
		l.node.w.until(3*time.Second, func() bool { return !l.c.IsLeader() && l.c.proposals.oldest() == 0 })
		if err := l.c.Close(); err != nil {
			l.node.w.violation("close of node %d: %v", l.node.n, err)
		}
		close(l.out)
	})
	<-l.out
}

// life returns the process with that id, nil if none runs.
func (w *simWorld) life(id NodeID) *simLife {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if n.id == id {
			return n.now.Load()
		}
	}
	return nil
}

// processes returns the processes that run, by node, those of removed members too.
func (w *simWorld) processes() []*simLife {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*simLife
	for _, n := range w.nodes {
		if l := n.now.Load(); l != nil {
			out = append(out, l)
		}
	}
	return out
}

// lives returns the processes that run, by node, of those that are to be members.
func (w *simWorld) lives() []*simLife {
	return slices.DeleteFunc(w.processes(), func(l *simLife) bool { return l.node.gone.Load() })
}

// leader returns the leader of the highest term, nil if nobody leads.
func (w *simWorld) leader() (leader *simLife) {
	for _, l := range w.processes() {
		if l.c.IsLeader() && (leader == nil || l.c.Term() > leader.c.Term()) {
			leader = l
		}
	}
	return leader
}
