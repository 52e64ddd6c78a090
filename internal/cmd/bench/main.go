//go:build unix

// Command bench measures what Krypton costs beyond what cannot be avoided, as
// ratios: `make bench`.
//
// Every goal is a pair: a part of Krypton, and a baseline that moves the same
// bytes without it, on the same machine in the same run. Both are measured in
// turns, in several rounds, and the median of the rounds' ratios is compared with
// the goal. A ratio of 0.70 says that Krypton does 70 operations in the time in
// which the baseline does 100. Absolute figures are printed for information and
// prove nothing: the machine may have been doing something else.
//
// What happens once and not again and again, such as the death of a node, is a
// drill: it says what was found, and whether what the protocol promises was kept.
//
// The node is a real process with all that a node has switched on; the echo it
// is compared with is another process with the same certificates, messages and
// gRPC options; this process is the caller of both. docs/performance.md says how
// to read the table.
//
// # Invariants
//
//   - I1: an operation that fails, of a subject or of a baseline, fails the run: a refusal is fast and proves nothing.
//   - I2: the verdict is pass only if every goal was measured and met, of a drill too; a goal that was missed is "miss", anything else that goes wrong is "fail".
//   - I3: a subject and its baseline are measured equally often, equally long, and in alternating order.
//   - I4: it leaves no process and no file behind but bin/krypton and what it was asked to write.
//
// # Concurrency
//
// Pairs are measured one after the other, drills after them. A side may have many callers; all have
// ended when its slice ends.
//
// # Failure
//
// SIGINT and SIGTERM end the present slice and clean up. When this process dies,
// the echo and the attackers read the end of their standard input and end.
//
// # Source
//
// docs/contract.md (make targets, result lines).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// limit ends a run that hangs. A run takes about four minutes.
const limit = 8 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "echo":
		err = serveEcho(ctx, os.Stdin, os.Stdout)
	case len(os.Args) > 1 && os.Args[1] == "attack":
		err = serveAttack(ctx, os.Args[2:], os.Stdin, os.Stdout)
	default:
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed is the end of a run that measured everything and missed a goal.
var errMissed = errors.New("a goal was missed")

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "measure only the goals whose name matches this regular expression")
	rounds := flags.Int("rounds", 5, "rounds; the median counts")
	binary := flags.String("binary", "", "measure this krypton program; empty: build bin/krypton")
	markdown := flags.String("markdown", "", "also write the table to this file, as Markdown")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pick, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if *rounds < 1 {
		return errors.New("a median needs at least one round")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	e, err := newEnv(out, *binary)
	if err != nil {
		return err
	}
	began := time.Now()
	results, found, err := all(ctx, e, pick, *rounds)
	if err = errors.Join(err, e.close()); err != nil { //nolint:contextcheck // Cleans up although ctx may have ended.
		return err
	}
	table(out, results)
	statements(out, found)
	if *markdown != "" {
		if err := os.WriteFile(*markdown, []byte(markdownTable(results)+statementsMarkdown(found)), 0o600); err != nil {
			return err
		}
	}
	return report(out, results, found, time.Since(began))
}

// all measures what is picked. The clusters in this process come after what would
// count their processor time and their allocations as its own.
func all(ctx context.Context, e *env, pick *regexp.Regexp, rounds int) (results []result, found []finding, err error) {
	for _, group := range [][]pair{pairs(), fencePairs()} {
		some, err := measure(ctx, e, chosen(group, pick), rounds)
		if err != nil {
			return nil, nil, err
		}
		results = append(results, some...)
	}
	found, err = drilled(ctx, e, chosenDrills(pick))
	return results, found, err
}

// pairs are the goals that need no cluster in this process, in the order of the table.
func pairs() []pair {
	var all []pair
	for _, group := range [][]pair{envelopePairs(), machinePairs(), auditPairs(), unaryPairs(), policyPairs(), doorPairs(), changePairs(), siegePairs()} {
		all = append(all, group...)
	}
	return all
}

func chosen(all []pair, pick *regexp.Regexp) []pair {
	var some []pair
	for _, p := range all {
		if pick.MatchString(p.name) {
			some = append(some, p)
		}
	}
	return some
}

// repository returns the root of the module that the program is run in.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not inside the repository", dir)
		}
	}
}
