package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Self is what a node tells the cluster about itself. Name and Region are fixed
// when it joins; the rest is announced again when it changed.
type Self struct {
	Name        string
	Region      string // empty: none
	Zone        string // empty: none
	GRPCAddress string // host:port at which other nodes and clients reach it; empty: not served
	RESTAddress string // as GRPCAddress
	Version     string // release of the program
	MaxFormat   uint32 // highest format version that the program supports
}

// Health is what a node says about how it is.
type Health struct {
	NodeID       NodeID
	SealState    string // as package node names it
	Serving      bool   // it answers data operations now
	Version      string // release of the program
	MemoryTier   string // as package memsec names it
	Term         uint64 // Raft term it knows
	LastIndex    uint64 // last entry of its log
	AppliedIndex uint64 // last command in its view
	LeaderID     NodeID // empty: it knows none
	MaxFormat    uint32 // highest format that it supports

	// Contact is how long ago it asked for the newest lease that it could use, see
	// [Cluster.LastContact]; negative: it had none since it started.
	Contact time.Duration
	// Lease is what is left of its serving lease, 0: it has none; and LeaseRefusal
	// why the leader gave it none last, empty: it did or said nothing.
	Lease        time.Duration
	LeaseRefusal string
	// StateCorrupt is what is wrong with its state, if it serves nothing for that;
	// empty: it knows of nothing.
	StateCorrupt string
	// Uncompared is what it waits for if its state came from another member and was not
	// compared yet (I21), so that it cannot lead and helps to commit nothing; empty: it
	// waits for nothing.
	Uncompared string
	// Leases is what it knows of everybody's, if it is a leader that gives them.
	Leases *LeaseReport
	// Wall is its wall clock when it answered, and ClockOffset by how much that
	// was ahead of the asker's. The offset is wrong by at most half of the time
	// that the question took; one within this error is 0.
	Wall        time.Time
	ClockOffset time.Duration

	Space  Space
	Memory Memory
}

// Space is the free space of a node, in bytes. Zero is unknown.
type Space struct {
	DataFree, DataTotal uint64 // file system of the data directory
	AuditFree           uint64 // file system of the audit trail
}

// Memory is the protected memory of a node.
type Memory struct {
	Used     uint64 // bytes of locked memory taken by keys
	Limit    int64  // bytes that may be locked; -1: no limit, or an unknown one
	Hardened bool   // core dumps are off and debuggers are refused
}

// Certificate is the certificate of a node's API ports.
type Certificate struct {
	Chain       [][]byte // DER, leaf first
	Authorities [][]byte // DER, the issuers of nodes
}

// Hooks is what the node does for its peers. Methods run on goroutines of
// connections and must honour ctx.
type Hooks interface {
	// Prepare does a preparer's task and returns its answer, at most 1 MiB.
	Prepare(ctx context.Context, from NodeID, request []byte) ([]byte, error)
	// Identify returns who showed a credential to another member, as this node's own
	// registry, keys and clock say it at this moment. It refuses as the doors of this
	// node would; whoever may only renew an expired certificate is refused too.
	Identify(ctx context.Context, shown auth.Credential) (Caller, error)
	// Forward runs commit and records what a member forwarded; see [gate.Gate.Forward].
	Forward(f gate.Forwarded, commit func() (auth.Principal, gate.Ours, error)) error
	// Health fills SealState, Serving, MemoryTier, Space and Memory; the rest is
	// set here.
	Health() Health
	// IssueCertificate returns the API certificate of a member with the public
	// key (SubjectPublicKeyInfo, DER) of its member entry. The error has code
	// Sealed when this node cannot: another one is asked then.
	IssueCertificate(ctx context.Context, id NodeID, publicKey []byte) (Certificate, error)
}

// Config says what a [Cluster] is made of. Dir, Machine, Hooks, Listen, Clock,
// Rand and Log are needed; the zero value of everything else is the default.
type Config struct {
	Dir     *Dir // held by the caller, who closes it after the Cluster
	Machine *fsm.Machine
	Hooks   Hooks
	Self    Self
	Profile Profile // default lan

	// Listen is the address of the peer port. With port 0 the node takes the port
	// it had last, if that is free, and any free one otherwise.
	Listen string
	// Advertise is the address at which other nodes reach the peer port: a host,
	// or host:port. Default: the host of Listen, or this machine's first address.
	Advertise string

	// MAC authenticates snapshots and entries of the log under the MasterKey of a
	// generation; false means that the node has no key of it. One that has none of the
	// generation in force is sealed for this package, and writes no snapshot then: the log
	// grows until the node is unsealed. nil: neither has a MAC, which is for tests, since
	// no node serves from such.
	MAC fsm.MACFunc

	// Opened returns the generation of the MasterKey by whose seal record the node was
	// opened, 0 while it is sealed. No older state is believed than that in which it is
	// in force. nil: any.
	Opened func() hierarchy.Generation

	// Believed returns why the node must not vouch for its state, with code Sealed or
	// StateCorrupt. It asks [Cluster.Proved], and what else the node knows of where its
	// state came from. nil: only the former counts.
	Believed func() error

	// OnFatal is called once, on its own goroutine, with the reason for which the
	// node must end; Run returns the same. It is for a process that must not wait
	// for what hangs. nil: only Run tells.
	OnFatal func(error)

	// Snapshots: after how many entries (default 8192), looked at how often
	// (default 2 min), and how many entries stay behind one (default 10240).
	SnapshotThreshold uint64
	SnapshotInterval  time.Duration
	TrailingLogs      uint64

	// StuckAfter is the age of a leader's oldest unfinished step after which it
	// stops (default 3 s).
	StuckAfter time.Duration

	// TickInterval is how often the leader asks whether something is due
	// (default 1 s).
	TickInterval time.Duration

	Clock clock.Clock
	Rand  io.Reader
	Log   *slog.Logger
}

// Cluster is this node's part in its cluster. Make one with [Open], let
// [Cluster.Run] run, and [Cluster.Close] it.
type Cluster struct {
	cfg     Config
	id      NodeID
	timers  timers
	clk     clock.Clock
	log     *slog.Logger
	machine *fsm.Machine

	key       *MemberKey
	trust     *trust
	port      *port
	transport *raftTransport
	store     *store
	logs      raft.LogStore // store, as Raft sees it
	snaps     snapshots
	raft      *raft.Raft
	adapter   *adapter
	chains    chains
	proofs    *proofs
	end       *logEnd
	vouching  *vouching
	compared  *comparison
	peers     *peers
	leases    *leases
	leaders   *leaders
	advertise string

	peerServer *grpc.Server
	joinServer *grpc.Server

	proposals *inflight // raft.Apply and Barrier, for the watchdog
	stamp     atomic.Int64
	transfers *inflight     // transfers of leadership that refuse commands, for the watchdog
	suspect   chan struct{} // such a transfer was met
	caught    atomic.Uint64 // term in which this leader has applied all of the terms before
	nudge     chan struct{} // the reconciler has something to look at
	// membership is held while the Raft configuration is changed, and while a removal
	// that depends on it is committed.
	membership chan struct{} // one slot
	clearing   chan struct{} // one slot; held while this node clears its disk

	failed    chan struct{} // closed with cause
	failOnce  sync.Once
	failCause error

	base      context.Context //nolint:containedctx // The lifetime of goroutines that serve one call, from Open to Close.
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error

	mu      sync.Mutex
	closing bool
	run     chan struct{} // closed when Run ended; nil before it began
}

// Open opens the log and binds the peer port; members are answered once
// [Cluster.Run] runs. Errors have code InvalidConfig for what an operator must
// change and StateCorrupt for what is damaged on disk, with the next step.
func Open(cfg Config) (*Cluster, error) {
	if cfg.Dir == nil || cfg.Machine == nil || cfg.Hooks == nil || cfg.Listen == "" || cfg.Clock == nil || cfg.Rand == nil || cfg.Log == nil {
		return nil, errs.New(errs.InvalidConfig, "cluster needs a data directory, a state machine, hooks, an address, a clock, a random source and a log")
	}
	tm, err := cfg.Profile.timers()
	if err != nil {
		return nil, err
	}
	if cfg.TickInterval <= 0 {
		cfg.TickInterval = time.Second
	}
	if cfg.StuckAfter <= 0 {
		cfg.StuckAfter = stuckAfter
	}
	c := &Cluster{
		cfg: cfg, id: cfg.Dir.NodeID(), timers: tm, clk: cfg.Clock, machine: cfg.Machine,
		log:        cfg.Log.With(slog.String("node", string(cfg.Dir.NodeID()))),
		proposals:  newInflight(cfg.Clock),
		transfers:  newInflight(cfg.Clock),
		suspect:    make(chan struct{}, 1),
		nudge:      make(chan struct{}, 1),
		membership: make(chan struct{}, 1),
		clearing:   make(chan struct{}, 1),
		failed:     make(chan struct{}),
	}
	c.base, c.cancel = context.WithCancel(context.Background())
	if err := c.open(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) open() (err error) {
	if err := c.cfg.Dir.recoveryWhole(); err != nil {
		return err
	}
	if c.key, err = LoadMemberKey(c.cfg.Dir, c.clk, c.cfg.Rand); err != nil {
		return err
	}
	if c.trust, err = openTrust(c.machine, c.cfg.Dir); err != nil {
		return err
	}
	if err := c.trust.checkOwn(c.id, c.key.spki); err != nil {
		return err
	}
	ln, err := c.listen()
	if err != nil {
		return err
	}
	c.port = newPort(ln, c.key, c.trust, c.clk, c.log)
	c.port.incarnation = c.cfg.Dir.Incarnation
	if c.advertise, err = advertised(c.cfg.Advertise, c.cfg.Listen, ln.Addr()); err != nil {
		return err
	}
	c.proofs, c.vouching, c.end, c.compared = newProofs(c), newVouching(c), newLogEnd(c), newComparison(c)
	if err := c.end.load(); err != nil {
		return err
	}
	if err := c.compared.load(); err != nil {
		return err
	}
	c.leaders = newLeaders(c)
	c.peers = newPeers(c)
	c.leases = newLeases(c)
	c.newServers()
	if c.store, err = openStore(c.cfg.Dir.Path(raftDB), c.clk, c.fail); err != nil {
		return err
	}
	c.store.vouch = c.vouching.vouch
	if err := os.Chmod(c.cfg.Dir.Path(raftDB), fileMode); err != nil {
		return dirError("protect", c.cfg.Dir.Path(raftDB), err)
	}
	// The database syncs what is in it. Its name is another matter, without which
	// a member that lost its power has no log.
	if err := atomicfile.SyncDir(c.cfg.Dir.Path(raftDir)); err != nil {
		return dirError("sync", c.cfg.Dir.Path(raftDir), err)
	}
	if err := c.store.undoBootstrap(c.cfg.Dir.Membership()); err != nil {
		return storeError(c.cfg.Dir.Path(raftDB), err)
	}
	return c.startRaft()
}

func (c *Cluster) startRaft() error {
	logger := newRaftLog(c.log, c.clk)
	files, err := raft.NewFileSnapshotStoreWithLogger(c.cfg.Dir.Path(raftDir), 2, logger)
	if err != nil {
		return dirError("use", c.cfg.Dir.Path(snapDir), err)
	}
	c.snaps = snapshots{files, func(m lease.Mark) { c.store.kept.Store(&m) }, c.compared.arrive, &readers{}}
	if err := c.checkStored(c.snaps); err != nil {
		return err
	}
	if err := c.store.removeStale(); err != nil {
		return storeError(c.cfg.Dir.Path(raftDB), err)
	}
	cache, err := raft.NewLogCache(512, c.store)
	if err != nil {
		return fmt.Errorf("make log cache: %w", err)
	}
	c.logs = cache
	c.transport = newRaftTransport(c.id, c.port, c.clk, logger)
	c.transport.screen, c.transport.arrivals.refuses, c.transport.mayLead = c.screen, c.compared.refuses, c.compared.mayLead
	c.adapter = newAdapter(c)
	err = guarded(func() (err error) {
		c.raft, err = raft.NewRaft(c.raftConfig(logger), c.adapter, cache, c.store, c.snaps, c.transport)
		return err
	})
	if err != nil {
		c.raft = nil
		if e, ok := errors.AsType[*errs.Error](errors.Join(c.store.failed(), c.adapter.refused)); ok {
			return e
		}
		return errs.New(errs.StateCorrupt, fmt.Sprintf("the Raft state under %s cannot be loaded: %s", c.cfg.Dir.Path(raftDir), err),
			errs.Hint("%s", startAnew), errs.Cause(err))
	}
	c.store.running.Store(true)
	c.store.restored(snapshotOf(c.raft))
	c.transport.serve(c.raft)
	c.leaders.observe(c.raft)
	if err := c.checkAlone(); err != nil {
		return err
	}
	return c.checkPin()
}

// raftConfig is how Raft is set up.
func (c *Cluster) raftConfig(logger hclog.Logger) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.id)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = c.timers.heartbeat, c.timers.heartbeat, c.timers.heartbeat
	rc.Logger = logger
	rc.NoLegacyTelemetry = true
	// A removed node stops by itself, with a reason; see watchMembers.
	rc.ShutdownOnRemove = false
	if c.cfg.SnapshotThreshold > 0 {
		rc.SnapshotThreshold = c.cfg.SnapshotThreshold
	}
	if c.cfg.SnapshotInterval > 0 {
		rc.SnapshotInterval = c.cfg.SnapshotInterval
	}
	if c.cfg.TrailingLogs > 0 {
		rc.TrailingLogs = c.cfg.TrailingLogs
	}
	return rc
}

// snapshotOf returns the end of the snapshot that Raft started from, nil if there
// was none.
func snapshotOf(r *raft.Raft) *lease.Mark {
	stats := r.Stats()
	index, errIndex := strconv.ParseUint(stats["last_snapshot_index"], 10, 64)
	term, errTerm := strconv.ParseUint(stats["last_snapshot_term"], 10, 64)
	if errIndex != nil || errTerm != nil || index == 0 {
		return nil
	}
	return &lease.Mark{Term: term, Index: index}
}

// checkStored compares what lies in the data directory with itself: a log that
// lost the snapshot before it, one that was made anew, and one of another node
// all look whole to Raft.
func (c *Cluster) checkStored(snaps raft.SnapshotStore) error {
	list, err := snaps.List()
	if err != nil {
		return dirError("read", c.cfg.Dir.Path(snapDir), err)
	}
	f := c.store.found
	reach := uint64(0)
	for _, s := range list {
		f.name(s.Configuration)
		reach = max(reach, s.Index)
		c.store.reached(lease.Mark{Term: s.Term, Index: s.Index})
	}
	_, noRecord := os.Lstat(c.cfg.Dir.Path(sealRecord))
	corrupt := func(what string) error {
		return errs.New(errs.StateCorrupt, what, errs.Hint("%s", startAnew))
	}
	switch {
	case c.cfg.Dir.Membership() == MembershipMember && f.last == 0 && f.term == 0 && (len(list) > 0 || noRecord == nil):
		// I1: the same id with an empty log could vote twice in one term. Who has just
		// joined has an empty log too, and nothing that only a log brings.
		return corrupt("the Raft log of this member is empty")
	case f.first > reach+1:
		return corrupt(fmt.Sprintf("the Raft log begins at entry %d, and no snapshot in %s can be read that reaches so far", f.first, c.cfg.Dir.Path(snapDir)))
	case f.configured && !f.servers[raft.ServerID(c.id)] && !c.trust.joined(c.id, f.servers):
		// Who joins gets the log from its beginning, and is named at its end only.
		return corrupt("the Raft log is of another node: it never names node " + string(c.id))
	}
	return nil
}

// checkPin refuses a state of another cluster than node.json names.
func (c *Cluster) checkPin() error {
	want, ok := c.cfg.Dir.Fingerprint()
	cl := c.machine.View().Cluster()
	if !ok || cl == nil || string(want[:]) == string(cl.GetFingerprint()) {
		return nil
	}
	return errForeignLog(nil)
}

func errForeignLog(cause error) error {
	return errs.New(errs.StateCorrupt, "the Raft log holds another cluster than node.json names",
		errs.Hint("data directories were mixed up; %s", startAnew), errs.Cause(cause))
}

// listen binds the peer port.
func (c *Cluster) listen() (net.Listener, error) {
	host, portText, err := net.SplitHostPort(c.cfg.Listen)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "listen.peer is not host:port", errs.Hint("give a host or an IP address and a port, as in 10.0.0.1:8402"), errs.Cause(err))
	}
	var lc net.ListenConfig
	if portText == "0" {
		// Other members know this node by the port it had.
		if last, err := ReadAddresses(c.cfg.Dir.path); err == nil {
			if _, p, err := net.SplitHostPort(last.Peer); err == nil {
				if ln, err := lc.Listen(c.base, "tcp", net.JoinHostPort(host, p)); err == nil {
					return ln, nil
				}
			}
		}
	}
	ln, err := lc.Listen(c.base, "tcp", c.cfg.Listen)
	if err != nil {
		return nil, ListenError("listen.peer", c.cfg.Listen, err)
	}
	return ln, nil
}

// ListenError is the error of a port that cannot be bound: which setting, which
// address, why, and how to find who has it.
func ListenError(setting, address string, err error) error {
	_, port, _ := net.SplitHostPort(address) // an address that cannot be split is in the message whole
	hint := "change " + setting
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = fmt.Sprintf("find who has it with ss -ltnp 'sport = :%s', and stop that or change %s", port, setting)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "use an address that this machine has (ip addr), or change " + setting + " to :" + port
	case errors.Is(err, fs.ErrPermission):
		hint = "ports below 1024 need a right of their own; use a port from 1024 on in " + setting
	}
	return errs.New(errs.InvalidConfig, fmt.Sprintf("%s cannot listen on %s: %s", setting, address, systemSays(err)), errs.Hint("%s", hint), errs.Cause(err))
}

// advertised returns the address at which other nodes reach this one.
func advertised(advertise, listen string, bound net.Addr) (string, error) {
	tcp, ok := bound.(*net.TCPAddr)
	if !ok {
		return "", errs.New(errs.Internal, "the peer port is no TCP port")
	}
	port := strconv.Itoa(tcp.Port)
	host := advertise
	if h, p, err := net.SplitHostPort(advertise); err == nil {
		host = h
		if p != "0" {
			port = p
		}
	}
	if host == "" {
		host, _, _ = net.SplitHostPort(listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = firstAddress()
	}
	address := net.JoinHostPort(host, port)
	if err := checkAddress(address); err != nil {
		return "", errs.New(errs.InvalidConfig, "advertise.peer cannot be used: "+err.Error(), errs.Hint("give the host:port at which other nodes reach this one"), errs.Cause(err))
	}
	return address, nil
}

// firstAddress returns this machine's first address that others can use.
func firstAddress() string {
	all, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range all {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && !n.IP.IsLinkLocalUnicast() {
				return n.IP.String()
			}
		}
	}
	return "127.0.0.1"
}

// fail makes err the reason for which this node ends, once.
func (c *Cluster) fail(err error) {
	c.failOnce.Do(func() {
		c.failCause = err
		close(c.failed)
		if c.leases != nil {
			// Nobody finds out any more what is complete. A call that went on waiting
			// would keep the node from ending, and a leader that does not end from being replaced.
			c.leases.fences.end(errIndeterminate(err))
		}
		c.log.LogAttrs(c.base, slog.LevelError, "this node must stop", slog.Any("error", err))
		if c.cfg.OnFatal != nil {
			go c.cfg.OnFatal(err)
		}
	})
}

// Failed is closed once the node must end; Cause then says why.
func (c *Cluster) Failed() <-chan struct{} { return c.failed }

// Cause returns the reason for which the node must end, or nil.
func (c *Cluster) Cause() error {
	select {
	case <-c.failed:
		return c.failCause
	default:
		return nil
	}
}

// Run serves members and does the leader's work until ctx ends, which is no
// error, or until the node must stop, which is one. It runs once.
func (c *Cluster) Run(ctx context.Context) error {
	ended, err := c.beginRun()
	if err != nil {
		return err
	}
	defer close(ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(c.base, cancel) //nolint:contextcheck // Close ends Run too.
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-c.failed:
			return c.failCause
		}
	})
	g.Go(func() error { return c.port.serve(ctx) })
	g.Go(func() error { return c.watchMembers(ctx) })
	g.Go(func() error { return c.keepKnown(ctx) })
	for _, duty := range c.duties() {
		g.Go(func() error { return duty(ctx) })
	}
	if err = g.Wait(); err != nil {
		c.fail(err)
	}
	return err
}

// duties is what a member does all the time over Raft and over [peers], and with
// nothing else. Each ends with ctx, or with the reason for which the node must stop.
func (c *Cluster) duties() []func(context.Context) error {
	return []func(context.Context) error{
		c.leases.grant, c.leases.hold, c.leases.push, c.leaders.run, c.reconcile, c.tick, c.end.follow, c.yieldUnentitled, c.compared.follow,
		func(ctx context.Context) error {
			return probe(ctx, c.clk, c.suspect, c.transfers, func(ctx context.Context) error {
				return c.await(ctx, func() error { return c.raft.Barrier(enqueueTime).Error() })
			})
		},
		func(ctx context.Context) error {
			return watch(ctx, c.clk, c.cfg.StuckAfter, c.IsLeader,
				watched{"a command", c.proposals}, watched{"the log store", c.store.writes}, watched{"the state machine", c.adapter.calls},
				watched{"a transfer of leadership", c.transfers})
		},
	}
}

// beginRun notes that Run runs; Close waits for the channel.
func (c *Cluster) beginRun() (chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		return nil, errs.New(errs.Internal, "a cluster runs once, and not after it was closed")
	}
	c.run = make(chan struct{})
	return c.run, nil
}

// endRun keeps Run from beginning and returns what to wait for.
func (c *Cluster) endRun() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil {
		c.run = make(chan struct{})
		close(c.run)
	}
	return c.run
}

// closeTime bounds how long Close waits for what does not end.
const closeTime = 10 * time.Second

// Close ends this node's part: no member is answered any more when it returns.
// It is idempotent. It does not hand leadership over; see
// [Cluster.TransferLeadership].
func (c *Cluster) Close() error {
	c.closeOnce.Do(func() { c.closeErr = c.close() })
	return c.closeErr
}

func (c *Cluster) close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.cancel()
	var all []error
	if c.peers != nil {
		c.peers.close()
	}
	if c.peerServer != nil {
		c.peerServer.Stop()
		c.joinServer.Stop()
	}
	if c.port != nil {
		c.port.Close()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c.raft != nil {
			c.leaders.stop(c.raft)
			_ = c.raft.Shutdown().Error()
		}
		if c.transport != nil {
			_ = c.transport.Close()
		}
		c.wg.Wait()
		<-c.endRun()
		if c.end != nil {
			c.end.shut()
		}
	}()
	bound, cancel := context.WithCancel(context.Background())
	defer cancel()
	late := make(chan struct{})
	go func() {
		if c.clk.Sleep(bound, closeTime) == nil {
			close(late)
		}
	}()
	select {
	case <-done:
	case <-late:
		all = append(all, errs.New(errs.Unavailable, "the node did not stop in time: something hangs"))
	}
	if c.store != nil {
		all = append(all, c.store.Close())
	}
	return errors.Join(all...)
}
