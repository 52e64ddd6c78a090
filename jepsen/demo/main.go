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
	"syscall"
	"time"

	"github.com/openkcm/krypton-cluster/jepsen/steps"
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
	root, err := steps.Repository()
	if err != nil {
		return err
	}
	began := time.Now()
	d := &demo{out: out, root: root, bin: filepath.Join(root, "bin", "krypton"), found: findings{afterRotate: "untested", afterDestroy: "untested"}}
	done, err := steps.Walk(ctx, out, d.steps(), d.showLogs, d.cleanUp)
	fields := d.found.fields(done)
	if err != nil && done < len(d.steps()) {
		fields = append(fields, fmt.Sprintf("failed_step=%d", done+1))
	}
	return errors.Join(err, steps.Report(out, "demo", fields, err == nil, time.Since(began)))
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
