//go:build unix

package devcluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Names in the directory of a cluster.
const (
	stateFile   = "cluster.json"
	peopleDir   = "people"
	keystoreDir = "keystore"
)

// DefaultPatience is how long one step may take. A cluster of three starts in a
// few seconds; a machine that also compiles needs more.
const DefaultPatience = 30 * time.Second

// logLines is how much of each node's output is shown when something fails.
const logLines = 25

// Options says which cluster to make. Binary is needed.
type Options struct {
	// Binary is the path of the krypton program.
	Binary string
	// Nodes is 1, 3 or 5; 0 means 3. All are voters.
	Nodes int
	// Dir keeps the cluster: a directory that is empty or not there yet, or one of
	// an earlier Start with the same number of nodes, which is then started
	// again. Empty: a temporary directory that Close removes (I3).
	Dir string
	// Tenant and Service are ids to create, with a workload of that tenant. Empty:
	// none.
	Tenant, Service string
	// SegmentMiB is the size of the nodes' audit segments. 0: a small one. A
	// benchmark wants the one of a server, because every end of a segment is an fsync.
	SegmentMiB int
	// Keystores are sections of the nodes' configuration besides the local keystore's.
	Keystores []map[string]any
	// Seal, if set, changes how the MasterKey of a new cluster is sealed. Nil: by the
	// local keystore alone. A seal that needs people leaves Start waiting for them.
	Seal func(*kryptonv1.InitRequest)
	// Progress is told what was just done. Nil: nobody is.
	Progress func(step string)
	// Output gets the end of each node's output when Start fails. Nil: nobody does.
	Output io.Writer
	// Patience bounds the wait for one step. 0: [DefaultPatience].
	Patience time.Duration
	// Program, if set, is asked at each start of a node what it runs. Nil: Binary.
	Program func(node string) Program
	// Clock and Rand. Nil: the system's.
	Clock clock.Clock
	Rand  io.Reader
}

// Program is what one node runs.
type Program struct {
	Binary string   // path
	Env    []string // besides that of the caller
}

func (o Options) withDefaults() (Options, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	switch {
	case o.Nodes != 1 && o.Nodes != 3 && o.Nodes != 5:
		return o, errs.Newf(errs.InvalidArgument, "%d nodes are not possible", o.Nodes).With(errs.Hint("1, 3 or 5"))
	case o.Service != "" && o.Tenant == "":
		return o, errs.New(errs.InvalidArgument, "a service needs a tenant")
	case o.SegmentMiB < 0:
		return o, errs.New(errs.InvalidArgument, "the size of a segment is negative")
	case o.Patience < 0:
		return o, errs.New(errs.InvalidArgument, "patience is negative")
	}
	if o.SegmentMiB == 0 {
		o.SegmentMiB = segmentMiB
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	var err error
	o.Binary, err = filepath.Abs(o.Binary)
	return o, err
}

// Cluster is a running cluster. Make one with [Start] and close it.
type Cluster struct {
	opts  Options
	clk   clock.Clock
	dir   string
	temp  bool // Close removes dir
	nodes []*Node
	http  *http.Client

	closed atomic.Bool

	mu     sync.Mutex
	people map[auth.Role]Person
}

// state is cluster.json: what cannot be seen from the files beside it.
type state struct {
	Format  int    `json:"format"` // 1
	Nodes   int    `json:"nodes"`
	Tenant  string `json:"tenant,omitempty"` // of the workload
	Warning string `json:"warning"`
}

// Start makes and starts a cluster, or starts the one that is in Options.Dir
// again, and returns when every node is a voter and serves. ctx bounds the start
// and not the life of the cluster.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	c := newCluster(opts)
	old, err := c.openDir()
	if err != nil {
		return nil, err
	}
	if err := c.begin(ctx, old); err != nil {
		c.WriteLogs(opts.Output)
		return nil, errors.Join(err, c.Close()) //nolint:contextcheck // Cleans up although ctx may have ended.
	}
	return c, nil
}

// Open returns the cluster that an earlier Start left in Options.Dir, with no node
// running: for who wants to start them one by one, or to change files before.
func Open(opts Options) (*Cluster, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	c := newCluster(opts)
	old, err := c.openDir()
	switch {
	case err != nil:
		return nil, err
	case old == nil:
		return nil, errs.New(errs.InvalidArgument, c.dir+" holds no development cluster")
	}
	for _, n := range c.nodes {
		if err := n.readConfig(); err != nil {
			return nil, err
		}
	}
	for _, r := range auth.Roles() {
		if p := c.person(r, ""); exists(p.CertFile) {
			if r == auth.RoleWorkload {
				p.Tenant = old.Tenant
			}
			c.setPerson(p)
		}
	}
	return c, nil
}

func newCluster(opts Options) *Cluster {
	c := &Cluster{
		opts: opts, clk: opts.Clock, dir: opts.Dir, people: map[auth.Role]Person{},
		// Of its own, so that Close leaves no idle connection.
		http: &http.Client{Transport: &http.Transport{}},
	}
	for i := range opts.Nodes {
		c.nodes = append(c.nodes, &Node{c: c, name: "n" + strconv.Itoa(i+1)})
	}
	return c
}

func (c *Cluster) begin(ctx context.Context, old *state) error {
	if longest := socketPath(c.path("n9")); len(longest) > maxSocketPath {
		return errs.Newf(errs.InvalidArgument, "the directory's path is too long for a unix socket in it: %d bytes, %d are possible", len(longest), maxSocketPath).
			With(errs.Hint("choose a directory with a shorter path"))
	}
	if old != nil {
		return c.resume(ctx, *old)
	}
	return c.form(ctx)
}

// openDir makes the directory, or returns the state of the cluster in it.
func (c *Cluster) openDir() (*state, error) {
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "krypton-dev-")
		if err != nil {
			return nil, err
		}
		c.dir, c.temp = dir, true
		return nil, nil //nolint:nilnil // No error, no state: a new cluster.
	}
	var err error
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.dir, dirMode); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, os.Chmod(c.dir, dirMode)
	}
	raw, err := os.ReadFile(c.path(stateFile))
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, c.dir+" is not empty and holds no development cluster",
			errs.Hint("remove it, or choose another directory"), errs.Cause(err))
	}
	var s state
	if err := json.Unmarshal(raw, &s); err != nil || s.Format != 1 {
		return nil, errs.New(errs.InvalidArgument, c.path(stateFile)+" cannot be used",
			errs.Hint("remove the directory, or start the release that made it"), errs.Cause(err))
	}
	if s.Nodes != c.opts.Nodes {
		return nil, errs.Newf(errs.InvalidArgument, "the cluster in %s has %d nodes, not %d", c.dir, s.Nodes, c.opts.Nodes).
			With(errs.Hint("ask for %d nodes, or choose another directory", s.Nodes))
	}
	return &s, nil
}

func (c *Cluster) keystoreEnv() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: c.opts.Rand, Clock: c.clk}
}

// Nodes returns the nodes, in the order of their names.
func (c *Cluster) Nodes() []*Node { return append([]*Node(nil), c.nodes...) }

// Dir returns the directory of the cluster.
func (c *Cluster) Dir() string { return c.dir }

// LeaderIndex returns which of the nodes leads, as those that run say it. It
// waits for one.
func (c *Cluster) LeaderIndex(ctx context.Context) (int, error) {
	leader := -1
	err := until(ctx, c.clk, c.opts.Patience, "there is a leader", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		var term uint64
		var last error
		name := ""
		for _, n := range c.nodes {
			if !n.Running() {
				continue
			}
			st, err := n.status(ctx)
			if err != nil {
				last = err
				continue
			}
			// Of two answers the one of the later term: the other node has not
			// heard of the election yet.
			if info := st.GetCluster(); info.GetLeader() != "" && info.GetTerm() >= term {
				term, name = info.GetTerm(), strings.TrimPrefix(info.GetLeader(), "nodes/")
			}
		}
		for i, n := range c.nodes {
			if name != "" && n.ID() == name && n.Running() {
				leader = i
				return nil
			}
		}
		return errors.Join(errors.New("no node that runs is said to lead"), last)
	})
	return leader, err
}

// WaitServing returns when every node serves data operations.
func (c *Cluster) WaitServing(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		g.Go(func() error { return n.WaitServing(ctx) })
	}
	return g.Wait()
}

// WriteLogs writes the end of each node's output to w.
func (c *Cluster) WriteLogs(w io.Writer) {
	for _, n := range c.nodes {
		if exists(n.LogFile()) {
			_ = tail(w, n.LogFile(), n.name+"| ", logLines) // it is about another failure
		}
	}
}

// Close ends every node and removes a temporary directory. With a given
// directory nodes are asked to stop; without one nothing is worth the time, and
// they are killed. It is idempotent and safe to call at any time.
func (c *Cluster) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	var mu sync.Mutex
	var all []error
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(func() {
			if !c.temp && n.Running() {
				if err := n.Stop(context.Background()); err != nil {
					mu.Lock()
					all = append(all, err)
					mu.Unlock()
				}
			}
			n.Kill()
		})
	}
	wg.Wait()
	c.http.CloseIdleConnections()
	if c.temp {
		all = append(all, os.RemoveAll(c.dir))
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("close the development cluster: %w", err)
	}
	return nil
}
