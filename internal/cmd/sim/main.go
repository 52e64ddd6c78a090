// Command sim simulates clusters with serving leases: `make sim`.
//
// It builds the tests of package cluster twice. One program is the code as it is:
// its histories must show no violation. The other one is built from mutated
// sources and loses one protection at a time, as an environment variable says; each
// must be found out by the same checks within a given number of histories.
// docs/leases.md says what a history is and what is checked.
//
// # Invariants
//
//   - I1: the verdict is pass only if enough happened, nothing was violated, and every mutation was found out by a violation: a program that ends in any other way is an error.
//   - I2: nothing of a mutation is in the sources of the project. The go command takes mutated files in their place (-overlay), and an edit whose place is not there exactly once is an error.
//
// # Concurrency
//
// The two programs are built side by side. Their runs come one after the other; each
// uses all processors.
//
// # Failure
//
// SIGINT and SIGTERM end the programs. What was built stays in build/sim.
//
// # Source
//
// docs/contract.md (make targets, result lines); docs/leases.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// scale is how much is simulated.
type scale struct {
	lan, wan quantity
	until    int // histories within which a mutation must be found out

	failovers, ops int // that must have happened
}

// quantity is how much is simulated with one profile of timers and distances.
type quantity struct {
	histories int // with every kind of fault
	calm      int // in which leaders are lost one by one and gaps are measured
	losses    int // of a leader, that must have been measured
}

// full is what `make sim` does, short what `make ci` does.
var (
	full  = scale{quantity{60, 82, 1000}, quantity{15, 40, 400}, 200, 1000, 100_000} //nolint:gochecknoglobals // A constant.
	short = scale{quantity{8, 6, 50}, quantity{2, 2, 10}, 200, 80, 20_000}           //nolint:gochecknoglobals // A constant.
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	seed := flag.Uint64("seed", 1, "seed of the first history")
	brief := flag.Bool("short", false, "what every commit is checked with")
	fault := flag.String("fault", "", "let only this fault happen, and look for no mutation")
	flag.Parse()
	err := run(ctx, os.Stdout, *seed, *brief, *fault)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, seed uint64, brief bool, fault string) error {
	size := full
	if brief {
		size = short
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "build", "sim")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	b := bench{root: root, dir: dir, seed: seed, out: out}
	if err := b.build(ctx); err != nil {
		return err
	}
	args := []string{
		"-sim.histories=" + strconv.Itoa(size.lan.histories), "-sim.calm=" + strconv.Itoa(size.lan.calm),
		"-sim.wan=" + strconv.Itoa(size.wan.histories), "-sim.wancalm=" + strconv.Itoa(size.wan.calm),
	}
	if fault != "" {
		args = append(args, "-sim.fault="+fault)
	}
	clean, err := b.simulate(ctx, "sound.test", "", args...)
	if err != nil {
		return err
	}
	clean.print(out, seed)
	var problems []error
	if len(clean.Violations) > 0 {
		problems = append(problems, fmt.Errorf("%d violations, in the histories %v: make sim SIMFLAGS=-seed=%d", len(clean.Violations), clean.Caught, clean.Caught[0]))
	}
	lan, wan := clean.Reads["lan"], clean.Reads["wan"]
	caught, all := 0, 0
	if fault == "" {
		if clean.Failovers < size.failovers || clean.Ops < size.ops || lan.Losses < size.lan.losses || wan.Losses < size.wan.losses {
			problems = append(problems, fmt.Errorf("too little happened: %d failovers of %d, %d operations of %d, %d and %d losses of a leader of %d and %d",
				clean.Failovers, size.failovers, clean.Ops, size.ops, lan.Losses, wan.Losses, size.lan.losses, size.wan.losses))
		}
		for _, m := range mutations() {
			all++
			s, err := b.simulate(ctx, "mutated.test", m.name, "-sim.first", "-sim.likely="+m.fault, "-sim.calm=0", "-sim.wan=0", "-sim.histories="+strconv.Itoa(size.until))
			switch {
			case err != nil:
				problems = append(problems, fmt.Errorf("mutation %s: %w", m.name, err))
			case len(s.Caught) == 0:
				problems = append(problems, fmt.Errorf("mutation %s is not found out within %d histories: %s", m.name, size.until, m.what))
			default:
				caught++
				fmt.Fprintf(out, "mutation %-22s found out after %2d histories, seed %d\n", m.name, s.Histories, s.Caught[0])
			}
		}
	}
	return errors.Join(append(problems, fields(os.Getenv("RESULT_FIELDS"), [][2]any{
		{"failovers", clean.Failovers},
		{"ops_checked", clean.Ops},
		{"stale", clean.Stale},
		{"mutations_caught", fmt.Sprintf("%d/%d", caught, all)},
		{"read_gap_max_ms", lan.gap(1).Milliseconds()},
		{"leader_losses", lan.Losses},
		{"losses_with_gap", lan.Gapped},
		{"wan_read_gap_max_ms", wan.gap(1).Milliseconds()},
		{"wan_leader_losses", wan.Losses},
		{"wan_losses_with_gap", wan.Gapped},
		{"histories", clean.Histories},
		{"seed", seed},
	}))...)
}

// bench is where programs are built and run.
type bench struct {
	root, dir string
	seed      uint64
	out       io.Writer
}

func (b *bench) build(ctx context.Context) error {
	instead, err := overlay(b.root, filepath.Join(b.dir, "mutated"), mutations())
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	for name, args := range map[string][]string{
		// The invariants of the code would end a mutated program before it is found out.
		"mutated.test": {"-overlay", instead},
		"sound.test":   {"-tags", "invariants"},
	} {
		go func() {
			cmd := b.command(ctx, "go", append(append([]string{"test", "-c", "-o", filepath.Join(b.dir, name)}, args...), "./cluster")...)
			cmd.Dir, cmd.Stdout, cmd.Stderr = b.root, os.Stderr, os.Stderr
			failed <- cmd.Run()
		}()
	}
	return errors.Join(<-failed, <-failed)
}

// command ends with the program that runs it.
func (b *bench) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // The programs are those that were built here.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// summary is what a program reports; see simSummary in package cluster.
type summary struct {
	Failovers  int              `json:"failovers"`
	Ops        int              `json:"ops"`
	Unknown    int              `json:"unknown"`
	Refused    int              `json:"refused"`
	Stale      int              `json:"stale"`
	Rotations  int              `json:"rotations"`
	Crashes    int              `json:"crashes"`
	Exits      int              `json:"exits"`
	Snapshots  int              `json:"snapshots"`
	Overtaken  int              `json:"overtaken"`
	Joined     int              `json:"joined"`
	Removed    int              `json:"removed"`
	Purged     int              `json:"purged"`
	Demoted    int              `json:"demoted"`
	Histories  int              `json:"histories"`
	Simulated  time.Duration    `json:"simulated_ns"`
	Caught     []uint64         `json:"caught"`
	Violations []string         `json:"violations"`
	Reads      map[string]reads `json:"reads"` // by profile
	Faults     map[string]int   `json:"faults"`
}

// simulate runs a program. That it finds violations is no error of it.
func (b *bench) simulate(ctx context.Context, program, mutation string, args ...string) (s summary, err error) {
	report := filepath.Join(b.dir, "report-"+mutation+".json")
	cmd := b.command(ctx, filepath.Join(b.dir, program), append([]string{
		"-test.run=^TestSimulation$", "-test.timeout=10m", "-sim.report=" + report, "-sim.seed=" + strconv.FormatUint(b.seed, 10),
	}, args...)...)
	cmd.Dir = filepath.Join(b.root, "cluster")
	cmd.Env = append(os.Environ(), environment+"="+mutation, "GOGC=400") // histories are short-lived and small
	said, ran := cmd.CombinedOutput()
	raw, err := os.ReadFile(report)
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil || ran != nil && len(s.Violations) == 0 {
		tail := strings.TrimSpace(string(said[:min(len(said), 4000)]))
		return s, fmt.Errorf("the program ended in another way (%w, %w):\n%s", ran, err, tail)
	}
	return s, nil
}

// reads is for how long nodes that were not hit could not serve after the loss of a
// leader; see simReads in package cluster.
type reads struct {
	Heartbeat time.Duration `json:"heartbeat_ns"`
	Renew     time.Duration `json:"renew_ns"`
	Lease     time.Duration `json:"lease_ns"`

	Losses int             `json:"losses"`
	Gapped int             `json:"gapped"`
	Gaps   []time.Duration `json:"gaps_ns"` // in order
}

// gap returns the gap that this share of the losses of a leader did not exceed.
func (r reads) gap(share float64) time.Duration {
	if len(r.Gaps) == 0 {
		return 0
	}
	return r.Gaps[min(int(share*float64(len(r.Gaps))), len(r.Gaps)-1)]
}

func (r reads) print(out io.Writer, profile string) {
	fmt.Fprintf(out, "timers of %s: heartbeat %s, renewal %s, lease %s\n", profile, r.Heartbeat, r.Renew, r.Lease)
	fmt.Fprintf(out, "  %d losses of a leader, %d of them with a gap in reads on a node that was not hit; gap per loss and node: p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n",
		r.Losses, r.Gapped, r.gap(0.5), r.gap(0.9), r.gap(0.99), r.gap(0.999), r.gap(1))
}

func (s *summary) print(out io.Writer, seed uint64) {
	fmt.Fprintf(out, "%d histories from seed %d, %s of simulated time: %d failovers, %d answers checked, %d that told nothing, %d changes with unknown outcome, %d rotations\n",
		s.Histories, seed, s.Simulated.Round(time.Second), s.Failovers, s.Ops, s.Refused, s.Unknown, s.Rotations)
	fmt.Fprintf(out, "%d crashes, %d processes that ended by themselves, %d snapshots sent, %d of them overtaken, %d members that joined, %d removed, of which %d had the only vote, %d purged\n",
		s.Crashes, s.Exits, s.Snapshots, s.Overtaken, s.Joined, s.Removed, s.Demoted, s.Purged)
	names := make([]string, 0, len(s.Faults))
	for name := range s.Faults {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(out, "  %4d  %s\n", s.Faults[name], name)
	}
	s.Reads["lan"].print(out, "lan")
	s.Reads["wan"].print(out, "wan")
	slices.Sort(s.Violations)
	for _, v := range s.Violations[:min(len(s.Violations), 60)] {
		fmt.Fprintln(out, v)
	}
}

// fields appends to the file of a result, if there is one.
func fields(path string, all [][2]any) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // scripts/target names it.
	if err != nil {
		return err
	}
	for _, kv := range all {
		if _, err := fmt.Fprintf(f, "%s=%v\n", kv[0], kv[1]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
