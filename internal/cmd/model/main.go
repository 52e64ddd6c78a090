// Command model checks the Promela models of serving leases with Spin: it runs
// every configuration of a tier, exhaustive searches in which nothing may be
// found and seeded bugs that must be found, and judges what the verifier prints.
//
// usage: model [-full] [-only REGEXP] [-workers N] [-timeout 5m] [-dir cluster/lease/model] [-out build/model]
//
// Each run has a directory of its own below -out with the model, the verifier
// and, where an error was found, its trail: `spin -t -p FILE.pml` shows it.
//
// # Invariants
//
//   - I1: an exhaustive search passes only if the verifier says that it searched the full state space with assertions on, ended it, and found no error.
//   - I2: a seeded bug or a goal counts only if the verifier names the assertion that it must break.
//   - I3: the verifier's exit status decides nothing: it is 0 also when an error was found or the search was not complete.
//   - I4: a search with a bit per state never counts as complete.
//   - I5: every seeded bug that a model names is in the full tier.
//
// # Concurrency
//
// As many runs at a time as -workers; each is three processes, one after the other.
//
// # Failure
//
// A tool that is missing, a model that does not translate, a verifier that is
// killed, runs out of memory, depth or time: each fails the command with its reason.
// All runs are done before it ends.
//
// # Source
//
// Spin 6.5.2, https://spinroot.com/spin/Man/Pan.html; docs/leases.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

func main() {
	full := flag.Bool("full", false, "every configuration, which takes long and much memory")
	only := flag.String("only", "", "run only the cases whose name matches")
	dir := flag.String("dir", "cluster/lease/model", "where the models are")
	out := flag.String("out", "build/model", "where runs are kept")
	workers := flag.Int("workers", runtime.NumCPU(), "runs at a time")
	timeout := flag.Duration("timeout", 5*time.Minute, "for each run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := check(ctx, options{full: *full, only: *only, dir: *dir, out: *out, workers: max(1, *workers), timeout: *timeout}); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		stop()
		os.Exit(1)
	}
}

type options struct {
	full     bool
	only     string
	dir, out string
	workers  int
	timeout  time.Duration
}

func check(ctx context.Context, o options) error {
	for _, tool := range []string{"spin", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed; scripts/setup-debian installs it", tool)
		}
	}
	match, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(o.out); err != nil {
		return err
	}
	var todo []testCase
	for _, c := range cases {
		if (o.full || !c.slow) && match.MatchString(c.name()) {
			todo = append(todo, c)
		}
	}
	results := runAll(ctx, o, todo)
	s := sum(results)
	fmt.Println(s.line())
	if err := addFields(os.Getenv("RESULT_FIELDS"), s.fields()); err != nil {
		return err
	}
	return s.verdict()
}

// addFields appends text to file. An empty name means that nobody asked for it.
func addFields(file, text string) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // G703: scripts/target names the file.
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
