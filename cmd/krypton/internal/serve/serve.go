//go:build unix

// Package serve runs one node: it puts together what the configuration names and
// takes it apart again in the reverse order.
//
// # Invariants
//
//   - I1: nothing listens and nothing is written before the whole configuration was checked.
//   - I2: keys are wiped before the process ends, whatever ends it but a kill.
//   - I3: one process at a time works on a data directory.
//   - I4: a stop is orderly: running calls end first, then leadership goes to another node, then keys are wiped, and the audit trail is closed last.
//
// # Concurrency
//
// Run is called once per process: memory limits and hardening belong to the process.
//
// # Failure
//
// The first part that fails ends the others and becomes the error of Run. A node
// that cannot write its log or its state, or whose protected memory fails, stops:
// one that stopped serves nothing.
//
// # Source
//
// docs/contract.md (CONFIG, DATA).
package serve

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/keystores"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/guard"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/node/validity"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/server"
)

// Options are what a node needs besides its configuration.
type Options struct {
	Version string    // release of the program
	Log     io.Writer // where the log goes
	// Exit ends the process at once; for when something hangs that cannot be
	// stopped. nil: nothing is done beyond returning the error.
	Exit func(error)
}

// fatalTime is how long the parts of a node have to end after the cluster said
// that it cannot go on. What hangs then is left hanging.
const fatalTime = 10 * time.Second

// handOverTime bounds how long a leader that is stopped looks for a successor.
const handOverTime = 2 * time.Second

// Run runs a node until ctx ends, which is no error.
func Run(ctx context.Context, cfg config.Config, opts Options) (err error) {
	log := logger(cfg.Log, opts.Log)
	if cfg.Node.Name, err = names(cfg.Node); err != nil {
		return err
	}
	mem, err := memsec.Setup(memsec.Options{Require: memsec.Tier(cfg.Memory.Require), LockBytes: cfg.Memory.LockMiB << 20})
	if err != nil {
		return err
	}
	defer memsec.Purge() // I2
	log.InfoContext(ctx, "protected memory", slog.String("tier", string(mem.Tier)), slog.Int("locked_bytes", mem.LockedBytes), slog.Bool("hardened", mem.Hardened))

	dir, err := cluster.OpenDir(cfg.Node.DataDir, rand.Reader)
	if err != nil {
		return err
	}
	defer closing(dir, &err)
	return runIn(ctx, dir, cfg, opts, log)
}

// runIn runs a node in a data directory that is held.
func runIn(ctx context.Context, dir *cluster.Dir, cfg config.Config, opts Options, log *slog.Logger) (err error) {
	clk := clock.System{}
	counted := guard.NewMetrics()
	stores, err := openKeystores(ctx, cfg, log, clk, counted)
	if err != nil {
		return err
	}
	defer closing(stores, &err)

	trail, err := openAudit(cfg, dir, clk) //nolint:contextcheck // It lives until Close, whatever ends first.
	if err != nil {
		return err
	}
	defer closing(trail, &err)
	if seq, _ := trail.Head(); seq <= 1 && dir.Boots() > 1 && dir.Membership() == cluster.MembershipMember {
		log.WarnContext(ctx, "the audit trail of this node begins anew: earlier records are gone, or were moved away", slog.Uint64("starts", dir.Boots()))
	}
	fingerprint, _ := dir.Fingerprint()
	machine := fsm.New(fsm.Options{Fingerprint: fingerprint})
	policies := node.NewPolicies(cfg.Node.Region, log)
	door, err := gate.New(gate.Config{Node: string(dir.NodeID()), Sink: trail, Policy: node.TenantPolicy{Machine: machine, Policies: policies, Next: gate.RolePolicy{}}, Clock: clk})
	if err != nil {
		return err
	}
	defer door.Flush()

	// Public ports are bound first: their real addresses are part of what the
	// node tells the cluster about itself.
	ports, err := server.Listen(ctx, cfg.Listen.GRPC, off(cfg.Listen.REST), off(cfg.Listen.Ops))
	if err != nil {
		return err
	}
	defer ports.Close()

	p := parts{cfg: cfg, opts: opts, dir: dir, machine: machine, stores: stores, counted: counted, gate: door, policies: policies, ports: ports, clock: clk, log: log}
	return p.run(ctx)
}

// parts is what has to be open before the cluster can be.
type parts struct {
	cfg      config.Config
	opts     Options
	dir      *cluster.Dir
	machine  *fsm.Machine
	stores   *keystore.Registry
	counted  *guard.Metrics
	gate     *gate.Gate
	policies *node.Policies
	ports    server.Listeners
	clock    clock.Clock
	log      *slog.Logger
}

func (p parts) run(ctx context.Context) (err error) {
	// alive ends when everything here is closed.
	alive, gone := context.WithCancel(context.WithoutCancel(ctx))
	defer gone()

	n, err := node.New(node.Config{
		Policies:   p.policies,
		RecordPath: p.dir.Path("seal/record.pb"),
		Pinned: func() (seal.Fingerprint, bool) {
			f, ok := p.dir.Fingerprint()
			return f, ok
		},
		Machine: p.machine, Keystores: p.stores, Place: places(p.cfg), Gate: p.gate, L2Hold: p.cfg.Limits.L2Hold, SealWatch: p.cfg.Seal.Watch,
		L1:    validity.Terms{Check: p.cfg.Limits.L1Check, Grace: p.cfg.Limits.L1Grace},
		Lease: cluster.Profile(p.cfg.Cluster.Profile).Lease(), Clock: p.clock, Rand: rand.Reader, Logger: p.log,
	})
	if err != nil {
		return err
	}
	peers := &hooks{node: n, gate: p.gate, dataDir: p.dir.Path("."), audits: auditDir(p.cfg, p.dir)}
	c, err := cluster.Open(cluster.Config{ //nolint:contextcheck // It lives until Close, whatever ends first.
		Dir: p.dir, Machine: p.machine, Hooks: peers, Profile: cluster.Profile(p.cfg.Cluster.Profile),
		Self: cluster.Self{
			Name: p.cfg.Node.Name, Region: p.cfg.Node.Region, Zone: p.cfg.Node.Zone, Version: p.opts.Version, MaxFormat: fsm.MaxFormatVersion,
			GRPCAddress: reachable(p.cfg.Advertise.GRPC, p.ports.GRPC), RESTAddress: reachable(p.cfg.Advertise.REST, p.ports.REST),
		},
		Listen: p.cfg.Listen.Peer, Advertise: p.cfg.Advertise.Peer, MAC: n.MAC, Opened: n.Opened, Believed: n.Believed, OnFatal: func(cause error) { p.fatal(alive, cause) },
		Clock: p.clock, Rand: rand.Reader, Log: p.log,
	})
	if err != nil {
		return err
	}
	defer closing(c, &err)
	n.Attach(c)

	srv, err := server.New(ctx, server.Config{
		Node: n, Machine: p.machine, Cluster: c, Gate: p.gate, Listeners: p.ports, TLSDir: p.dir.Path("tls"),
		CertFile: p.cfg.TLS.Cert, KeyFile: p.cfg.TLS.Key,
		AdminSocket: p.dir.Path("run/admin.sock"), DataDir: p.cfg.Node.DataDir, NodeName: p.cfg.Node.Name, Version: p.opts.Version,
		Connections: p.cfg.Limits.Connections, Concurrent: uint32(p.cfg.Limits.Concurrent), //nolint:gosec // Checked: 1 to 65535.
		Limits: limitsOf(p.cfg.Limits), Budget: p.cfg.Limits.RequestBudget, Clock: p.clock, Rand: rand.Reader, Logger: p.log,
		Metrics: []prometheus.Collector{p.counted},
	})
	if err != nil {
		return err
	}
	peers.doors.Store(srv)
	if err := p.dir.WriteAddresses(cluster.Addresses{
		GRPC: address(p.ports.GRPC), REST: address(p.ports.REST), Peer: c.PeerAddress(), Ops: address(p.ports.Ops),
	}); err != nil {
		return err
	}
	p.log.InfoContext(ctx, "node starts", slog.String("node", string(p.dir.NodeID())), slog.String("name", p.cfg.Node.Name),
		slog.String("grpc", address(p.ports.GRPC)), slog.String("rest", address(p.ports.REST)), slog.String("peer", c.PeerAddress()),
		slog.String("state", n.State()))

	// What works for the doors outlives them: calls that are running when the
	// node is stopped end as if it were not (I4).
	inner, stop := context.WithCancel(alive)
	defer stop()
	g, work := errgroup.WithContext(inner)
	doors, shut := context.WithCancel(ctx)
	defer context.AfterFunc(work, shut)()
	defer shut()
	g.Go(func() error { return c.Run(work) })
	g.Go(func() error { return n.Run(work) })
	g.Go(func() error { return p.joinByItself(doors, srv) })
	g.Go(func() error {
		defer stop()
		// Before anybody can ask: how an init that died has ended.
		if err := c.FinishBootstrap(doors); err != nil && doors.Err() == nil {
			return err
		}
		err := srv.Run(doors)
		c.KeepEnd(work)
		p.handOver(work, c)
		return err
	})
	err = g.Wait()
	p.log.InfoContext(ctx, "node stopped", slog.Any("error", err))
	return err
}

// fatal ends the process when the rest of the node does not end by itself after
// a failure. Run returns the same error otherwise.
func (p parts) fatal(alive context.Context, cause error) {
	if p.opts.Exit == nil || p.clock.Sleep(alive, fatalTime) != nil {
		return
	}
	memsec.Purge() // I2
	p.opts.Exit(cause)
}

// handOver gives leadership to another voter, so that a planned stop of the
// leader costs no election.
func (p parts) handOver(ctx context.Context, c *cluster.Cluster) {
	if ctx.Err() != nil || !c.IsLeader() || c.Stats().Voters < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	if err := c.TransferLeadership(ctx, ""); err != nil {
		p.log.WarnContext(ctx, "leadership was not handed over; the others elect a leader", slog.Any("error", err))
	}
}

// Pauses between two attempts to join.
const (
	minJoinPause = time.Second
	maxJoinPause = 30 * time.Second
)

// joinByItself joins through the token file of the configuration, for nodes that
// nobody logs in to. Members that are not there yet are waited for.
func (p parts) joinByItself(ctx context.Context, srv *server.Server) error {
	path := p.cfg.Cluster.JoinTokenFile
	if path == "" || p.dir.Membership() != cluster.MembershipNone {
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return errs.New(errs.InvalidConfig, "the join token cannot be read: "+err.Error(), errs.Hint("cluster.join_token_file names a file with one join token; make one with krypton operator join-token"), errs.Cause(err))
	}
	token, err := cluster.ParseJoinToken(string(raw))
	clear(raw)
	if err != nil {
		return errs.New(errs.InvalidConfig, "the file "+path+" holds no join token", errs.Hint("cluster.join_token_file names a file with one join token; make one with krypton operator join-token"), errs.Cause(err))
	}
	token.Seeds = seeds(token.Seeds, p.cfg.Cluster.Join)
	for pause := minJoinPause; ; pause = min(2*pause, maxJoinPause) {
		err := srv.Join(ctx, token)
		switch {
		case err == nil:
			p.log.InfoContext(ctx, "joined the cluster")
			return nil
		case ctx.Err() != nil:
			return nil //nolint:nilerr // The end of ctx is how this ends.
		case errs.Of(err).Row().Retry == errs.RetryNever:
			return err
		}
		p.log.WarnContext(ctx, "not joined yet; the node tries again by itself", slog.Any("error", err), slog.Duration("next_try", pause))
		if p.clock.Sleep(ctx, pause) != nil {
			return nil //nolint:nilerr // The end of ctx is how this ends.
		}
	}
}

// seeds returns the members to ask: those of the token, or any of them at the
// addresses of the configuration. Their keys come from the token in either case.
func seeds(token []cluster.Seed, addrs []string) []cluster.Seed {
	if len(addrs) == 0 {
		return token
	}
	var out []cluster.Seed
	for _, s := range token {
		for _, a := range addrs {
			if len(out) < cluster.MaxTokenSeeds {
				out = append(out, cluster.Seed{Address: a, KeyHash: s.KeyHash})
			}
		}
	}
	return out
}

// names checks what the cluster will call this node and where it says it is,
// before anything exists that a wrong name would be in. The host's name serves
// up to its first dot.
func names(n config.Node) (string, error) {
	name, key := n.Name, "node.name"
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", errs.New(errs.InvalidConfig, "this machine has no host name", errs.Hint("set node.name"), errs.Cause(err))
		}
		name, _, _ = strings.Cut(strings.ToLower(host), ".")
		key = "the host name, which stands for node.name,"
	}
	for _, v := range []struct{ key, value string }{{key, name}, {"node.region", n.Region}, {"node.zone", n.Zone}} {
		if _, err := hierarchy.ParseName(v.value); err != nil && v.value != "" {
			e := errs.From(err)
			return "", errs.New(errs.InvalidConfig, fmt.Sprintf("%s %q cannot be used: %s", v.key, v.value, e.Msg), errs.Hint("%s", e.Hint))
		}
	}
	return name, nil
}

// places returns where the keys of the configured keystores are.
func places(cfg config.Config) func(seal.ProviderKey) keystore.Place {
	list := cfg.KeystoreConfigs()
	return func(k seal.ProviderKey) keystore.Place {
		_, at, _ := keystores.Types(nil).PlaceOf(list, k.Provider, k.Key)
		return at
	}
}

func openKeystores(ctx context.Context, cfg config.Config, log *slog.Logger, clk clock.Clock, m *guard.Metrics) (*keystore.Registry, error) {
	r, err := keystore.Open(ctx, keystore.Env{Logger: log, Rand: rand.Reader, Clock: clk}, cfg.KeystoreConfigs(), keystores.Types(m).Constructors())
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "a keystore cannot be opened: "+err.Error(), errs.Hint("check keystores in the configuration"), errs.Cause(err))
	}
	return r, nil
}

func auditDir(cfg config.Config, dir *cluster.Dir) string {
	return cmp.Or(cfg.Audit.Dir, dir.Path("audit"))
}

func openAudit(cfg config.Config, dir *cluster.Dir, clk clock.Clock) (*audit.Log, error) {
	return audit.Open(audit.Config{
		Dir: auditDir(cfg, dir), Node: string(dir.NodeID()), Clock: clk, SegmentBytes: int64(cfg.Audit.SegmentMiB) << 20,
		// 0 is as little as possible here, and the default there.
		ReserveBytes: max(int64(cfg.Audit.ReserveMiB)<<20, audit.MinReserveBytes),
	})
}

// closing closes c and keeps its error if there is none yet.
func closing(c io.Closer, err *error) {
	*err = errors.Join(*err, c.Close())
}

func off(addr string) string {
	if addr == config.Off {
		return ""
	}
	return addr
}

func address(ln net.Listener) string {
	if ln == nil {
		return ""
	}
	return ln.Addr().String()
}

// reachable returns the address that others use for a port: what the
// configuration says, else the host name with the real port, or the IP that is
// listened on if it is a certain one.
func reachable(advertise string, ln net.Listener) string {
	if ln == nil {
		return ""
	}
	host, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return ""
	}
	if advertise != "" {
		h, p, err := net.SplitHostPort(advertise)
		if err != nil {
			return ""
		}
		if p == "0" || p == "" {
			p = port
		}
		return net.JoinHostPort(h, p)
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}

func logger(c config.Log, w io.Writer) *slog.Logger {
	level := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[c.Level]
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func limitsOf(l config.Limits) server.Limits {
	return server.Limits{
		CallerConnections: l.CallerConnections, TenantConnections: l.TenantConnections,
		CallerConcurrent: l.CallerConcurrent, TenantConcurrent: l.TenantConcurrent,
		CallerRate: l.CallerRate, TenantRate: l.TenantRate, CallerReads: l.CallerReads, CallerChanges: l.CallerChanges,
	}
}
