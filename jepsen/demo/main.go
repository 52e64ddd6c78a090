//go:build unix

// Command demo shows what a Krypton cluster does, with real processes and a real
// file, and checks it: `make demo`.
//
// It builds bin/krypton, starts three nodes, encrypts a file of 8 MiB through a
// follower, kills the leader with SIGKILL while operations run, decrypts on a
// survivor and on the returned node, rotates, rolls back, tries what nobody may,
// destroys a key version, and looks for the traces that have to be there and for
// those that must not. Every step prints a line; the first that does not hold
// ends the run with the output of all nodes.
//
// # Invariants
//
//   - I1: it exits 0 only if every step held.
//   - I2: each check can fail, with a text of its own; the search for secrets is first shown one that it has to find.
//   - I3: it leaves no process and no file behind but bin/krypton, and checks that as its last step.
//
// # Concurrency
//
// The steps run one after the other; the load beside the kill is joined before
// its step ends.
//
// # Failure
//
// SIGINT and SIGTERM end the present step and clean up. After SIGKILL the nodes
// die on Linux, and the temporary directory stays.
//
// # Source
//
// docs/contract.md (make targets, result lines, exit statuses);
// docs/threat-model.md (G1, G4, G5, G6, G8, G10, each only as far as a step says).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// limit ends a run that hangs. After the build a run takes about 15 s.
const limit = 3 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	root, err := repository()
	if err != nil {
		return err
	}
	began := time.Now()
	d := &demo{out: out, root: root, bin: filepath.Join(root, "bin", "krypton"), found: findings{afterRotate: "untested", afterDestroy: "untested"}}
	done, err := d.walk(ctx, d.steps())
	fields := d.found.fields(done)
	if err != nil && done < len(d.steps()) {
		fields = append(fields, fmt.Sprintf("failed_step=%d", done+1))
	}
	return errors.Join(err, report(out, fields, err == nil, time.Since(began)))
}

// repository returns the root of the module that the demo is run in.
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

// step is one line of the demo. run returns what is worth knowing beside "it
// held".
type step struct {
	title string
	run   func(ctx context.Context) (detail string, err error)
}

// walk runs the steps until one fails, and cleans up in any case. It returns how
// many held.
func (d *demo) walk(ctx context.Context, steps []step) (done int, err error) {
	defer func() { //nolint:contextcheck // Cleans up although ctx may have ended.
		if err != nil && d.cluster != nil {
			fmt.Fprintln(d.out, "\nThe end of each node's output:")
			d.cluster.WriteLogs(d.out)
		}
		err = errors.Join(err, d.cleanUp())
	}()
	for i, s := range steps {
		began := time.Now()
		detail, err := s.run(ctx)
		tick := "✓"
		if err != nil {
			tick, detail = "✗", err.Error()
		}
		fmt.Fprintf(d.out, "%3d  %s  %-58s %6.2f s   %s\n", i+1, tick, s.title, time.Since(began).Seconds(), detail)
		if err != nil {
			return i, fmt.Errorf("step %d, %s: %w", i+1, s.title, err)
		}
	}
	return len(steps), nil
}

// findings are what the result line says.
type findings struct {
	fileMB       int
	opsAtKill    int
	failed       int
	afterRotate  string
	afterDestroy string

	staleAfterAck int
	withdrawn     bool // staleAfterAck was counted
}

func (f findings) servedAfterAck() string {
	if !f.withdrawn {
		return "unknown"
	}
	return strconv.Itoa(f.staleAfterAck)
}

func (f findings) fields(steps int) []string {
	return []string{
		fmt.Sprintf("steps=%d", steps),
		fmt.Sprintf("file_mb=%d", f.fileMB),
		fmt.Sprintf("ops_during_kill=%d", f.opsAtKill),
		fmt.Sprintf("sdk_failed=%d", f.failed),
		"served_after_ack=" + f.servedAfterAck(),
		"opens_after_rotate=" + f.afterRotate,
		"opens_after_destroy=" + f.afterDestroy,
	}
}

// report hands the fields to scripts/target, or prints the result itself when it
// was not started by that.
func report(out io.Writer, fields []string, held bool, took time.Duration) error {
	if path := os.Getenv("RESULT_FIELDS"); path != "" {
		return os.WriteFile(path, []byte(strings.Join(fields, "\n")+"\n"), 0o600) //nolint:gosec // The file that scripts/target named.
	}
	verdict := "fail"
	if held {
		verdict = "pass"
	}
	_, err := fmt.Fprintf(out, "RESULT demo %s %s seconds=%d\n", verdict, strings.Join(fields, " "), int(took.Seconds()))
	return err
}
