package command

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/load"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of bench: what one process can sensibly do.
const (
	maxBenchWorkers     = 4096
	maxBenchConnections = 64
	maxBenchRate        = 1e6
)

func benchCommand() *Command {
	return &Command{
		Name: "bench", Usage: "put load on a cluster and measure how it answers", Reach: Uses, Args: "[TENANT/SERVICE]", NArgs: [2]int{0, 1},
		About: "Workers call all nodes of --addr as fast as they are answered, or --rate calls a second together. With a rate, times\n" +
			"are counted from when a call was due, so a cluster that stalls cannot hide it by being asked less.\n\n" +
			"It is a real load: every call passes the gate and stands in the audit trail, and others that use the cluster feel\n" +
			"it. Nothing is changed. Measure with the certificate of a workload, from a machine that does nothing else.",
		Examples: []string{
			"krypton bench demo/payments", "krypton bench demo/payments --op decrypt --payload 4096 --workers 64 --duration 30s",
			"krypton bench demo/payments --op unwrap --rate 2000 --output json | jq .p99Ns",
		},
		Flags: append(scopeFlags(),
			&cli.StringFlag{Name: "op", Usage: "`OPERATION`: " + strings.Join(benchOps(), ", "), Value: "encrypt"},
			&cli.IntFlag{Name: "payload", Usage: "`BYTES` of plaintext, or of the data key (16 to 64)", DefaultText: "256, or 32 for data keys"},
			&cli.IntFlag{Name: "workers", Usage: "`N` calls at once", Value: 32},
			&cli.IntFlag{Name: "connections", Usage: "`N` connections to each node", Value: 1},
			&cli.DurationFlag{Name: "duration", Usage: "`DURATION` of the measurement", Value: 10 * time.Second},
			&cli.DurationFlag{Name: "warmup", Usage: "`DURATION` of calls before it, which are not measured", Value: time.Second},
			&cli.Float64Flag{Name: "rate", Usage: "`N` calls a second, for all workers together; 0: as fast as they are answered"},
		),
		Run: bench,
	}
}

func benchOps() []string {
	return []string{"encrypt", "decrypt", "generate", "unwrap", "rewrap", "mix"}
}

// benchPlan is what the flags say.
type benchPlan struct {
	op                            string
	payload, workers, connections int
	opts                          load.Options
}

func (in *Invocation) benchPlan() (benchPlan, error) {
	p := benchPlan{
		op: in.c.String("op"), payload: in.c.Int("payload"), workers: in.c.Int("workers"), connections: in.c.Int("connections"),
		opts: load.Options{Duration: in.c.Duration("duration"), Warmup: in.c.Duration("warmup"), Rate: in.c.Float64("rate")},
	}
	keys := slices.Contains([]string{"generate", "unwrap", "rewrap"}, p.op)
	if !in.c.IsSet("payload") {
		p.payload = 256
		if keys {
			p.payload = 32
		}
	}
	switch {
	case in.c.Bool("dry-run"):
		return p, in.noDryRun()
	case !slices.Contains(benchOps(), p.op):
		return p, usagef("use one of: "+strings.Join(benchOps(), ", "), "there is no operation %q", p.op)
	case keys && (p.payload < 16 || p.payload > 64):
		return p, usagef("give --payload 16 to 64, or leave it out", "a data key of %d bytes is not possible", p.payload)
	case p.payload < 0 || p.payload > client.MaxPlaintextBytes:
		return p, usagef(fmt.Sprintf("give --payload 0 to %d", client.MaxPlaintextBytes), "--payload is %d", p.payload)
	case p.workers < 1 || p.workers > maxBenchWorkers:
		return p, usagef(fmt.Sprintf("give --workers 1 to %d", maxBenchWorkers), "--workers is %d", p.workers)
	case p.connections < 1 || p.connections > maxBenchConnections:
		return p, usagef(fmt.Sprintf("give --connections 1 to %d", maxBenchConnections), "--connections is %d", p.connections)
	case p.opts.Duration <= 0 || p.opts.Duration > 24*time.Hour || p.opts.Warmup < 0 || p.opts.Warmup > time.Hour:
		return p, usagef("give --duration up to 24h and --warmup up to 1h", "--duration is %s and --warmup %s", p.opts.Duration, p.opts.Warmup)
	case !(p.opts.Rate >= 0 && p.opts.Rate <= maxBenchRate): // also refuses NaN
		return p, usagef(fmt.Sprintf("give --rate 0 to %d", int(maxBenchRate)), "--rate is %v", p.opts.Rate)
	}
	p.opts.Workers = p.workers
	return p, nil
}

func bench(ctx context.Context, in *Invocation) error {
	p, err := in.benchPlan()
	if err != nil {
		return err
	}
	scope, err := in.benchScope()
	if err != nil {
		return err
	}
	var retries atomic.Int64
	var clients []*client.Client
	defer func() {
		for _, c := range clients {
			_ = c.Close() // all calls have ended
		}
	}()
	for range p.connections {
		c, err := in.connect(ctx, func(o *client.Options) { o.OnRetry = func(client.Retry) { retries.Add(1) } })
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	in.remindToRenew()
	w, err := newBenchWork(ctx, in, clients, scope, p)
	if err != nil {
		return err
	}
	p.opts.Do = w.call
	var sofar atomic.Pointer[load.Result]
	p.opts.Tick = func(r load.Result) { sofar.Store(&r) }
	in.meter.watch(func() string {
		r := sofar.Load()
		if r == nil {
			return "warming up"
		}
		return fmt.Sprintf("%.0f s, %.0f/s, p99 %s, %d failed", r.Elapsed.Seconds(), r.PerSecond(), r.P99, r.Failed)
	})
	r, err := load.Run(ctx, p.opts)
	in.meter.watch(nil)
	if err != nil {
		return err
	}
	if err := in.showBench(p, r, len(clients[0].Addrs()), retries.Load()); err != nil {
		return err
	}
	if r.Failed > 0 {
		e := errs.From(r.FirstErr)
		return errs.Newf(e.Code, "%d of %d calls failed, one of them with: %s", r.Failed, r.Failed+r.Calls, e.Msg).With(errs.Hint("%s", e.Hint))
	}
	return nil
}

// benchScope is the scope of the flags; an argument names the service, too.
func (in *Invocation) benchScope() (client.Scope, error) {
	if in.arg(0) == "" {
		return in.scope()
	}
	if in.c.IsSet("service") {
		return client.Scope{}, usagef("give one of them", "the service is named twice")
	}
	if err := in.c.Set("service", in.arg(0)); err != nil {
		return client.Scope{}, err
	}
	return in.scope()
}

// benchWork makes the calls.
type benchWork struct {
	clients                    []*client.Client
	scope                      client.Scope
	plan                       benchPlan
	timeout                    time.Duration
	payload, ciphertext, wraps []byte
	mixed                      atomic.Uint64
}

// newBenchWork makes what decrypt, unwrap and rewrap need.
func newBenchWork(ctx context.Context, in *Invocation, clients []*client.Client, scope client.Scope, p benchPlan) (*benchWork, error) {
	w := &benchWork{clients: clients, scope: scope, plan: p, timeout: in.c.Duration("timeout"), payload: make([]byte, p.payload)}
	if w.timeout == 0 {
		w.timeout = defaultTimeout
	}
	if _, err := rand.Read(w.payload); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	switch p.op {
	case "decrypt", "mix":
		var err error
		if w.ciphertext, err = clients[0].Encrypt(ctx, scope, w.payload); err != nil {
			return nil, err
		}
	}
	switch p.op {
	case "unwrap", "rewrap", "mix":
		key, err := clients[0].GenerateDataKey(ctx, scope, w.keyLength())
		if err != nil {
			return nil, err
		}
		key.Plaintext.Wipe()
		w.wraps = key.Wrapped
	}
	return w, nil
}

// keyLength is the payload of operations on data keys, and 32 in a mix.
func (w *benchWork) keyLength() int {
	if w.plan.op == "mix" {
		return 32
	}
	return w.plan.payload
}

// benchMix is what ten calls of a mix are: mostly small payloads, some keys.
//
//nolint:gochecknoglobals // Immutable table.
var benchMix = [...]string{"encrypt", "decrypt", "decrypt", "encrypt", "unwrap", "decrypt", "encrypt", "unwrap", "decrypt", "generate"}

func (w *benchWork) call(ctx context.Context, worker int) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	c := w.clients[worker%len(w.clients)]
	op := w.plan.op
	if op == "mix" {
		op = benchMix[w.mixed.Add(1)%uint64(len(benchMix))]
	}
	switch op {
	case "encrypt":
		_, err := c.Encrypt(ctx, w.scope, w.payload)
		return err
	case "decrypt":
		s, err := c.Decrypt(ctx, w.scope, w.ciphertext)
		s.Wipe()
		return err
	case "generate":
		k, err := c.GenerateDataKey(ctx, w.scope, w.keyLength())
		k.Plaintext.Wipe()
		return err
	case "unwrap":
		k, err := c.UnwrapDataKey(ctx, w.scope, w.wraps)
		k.Plaintext.Wipe()
		return err
	default:
		_, _, err := c.RewrapDataKey(ctx, w.scope, w.wraps)
		return err
	}
}

func (in *Invocation) showBench(p benchPlan, r load.Result, nodes int, retries int64) error {
	if in.jsonOutput() {
		return in.showJSON(struct {
			Operation    string           `json:"operation"`
			PayloadBytes int              `json:"payloadBytes"`
			Workers      int              `json:"workers"`
			Connections  int              `json:"connections"`
			Nodes        int              `json:"nodes"`
			Rate         float64          `json:"rate"`
			Seconds      float64          `json:"seconds"`
			Operations   int64            `json:"operations"`
			PerSecond    float64          `json:"opsPerSecond"`
			P50          int64            `json:"p50Ns"`
			P90          int64            `json:"p90Ns"`
			P99          int64            `json:"p99Ns"`
			P999         int64            `json:"p999Ns"`
			Max          int64            `json:"maxNs"`
			Failed       int64            `json:"failed"`
			ByCode       map[string]int64 `json:"failedByCode"`
			Retries      int64            `json:"retries"`
		}{
			p.op, p.payload, p.workers, p.connections, nodes, p.opts.Rate, r.Elapsed.Seconds(), r.Calls, r.PerSecond(),
			r.P50.Nanoseconds(), r.P90.Nanoseconds(), r.P99.Nanoseconds(), r.P999.Nanoseconds(), r.Max.Nanoseconds(), r.Failed, r.ByCode, retries,
		})
	}
	var s sheet
	s.add("operation", fmt.Sprintf("%s of %d bytes", p.op, p.payload))
	s.add("load", fmt.Sprintf("%s on %s", plural(p.workers, "worker", "workers"), plural(nodes, "node", "nodes")))
	if p.opts.Rate > 0 {
		s.add("due", fmt.Sprintf("%.0f a second", p.opts.Rate))
	}
	s.add("measured", fmt.Sprintf("%.1f s", r.Elapsed.Seconds()))
	s.add("operations", fmt.Sprintf("%d", r.Calls))
	s.add("a second", fmt.Sprintf("%.1f", r.PerSecond()))
	for _, q := range []struct {
		name string
		d    time.Duration
	}{{"p50", r.P50}, {"p90", r.P90}, {"p99", r.P99}, {"p99.9", r.P999}, {"slowest", r.Max}} {
		s.add(q.name, digits3(q.d).String())
	}
	s.add("failed", fmt.Sprintf("%d", r.Failed))
	for _, code := range slices.Sorted(maps.Keys(r.ByCode)) {
		s.add("  "+code, fmt.Sprintf("%d", r.ByCode[code]))
	}
	s.add("retries", fmt.Sprintf("%d", retries))
	return in.write([]byte(s.text()))
}

// digits3 rounds a duration to three digits: the histogram knows no more.
func digits3(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
