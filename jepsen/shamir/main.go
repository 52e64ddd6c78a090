//go:build unix

// Command shamir shows how a cluster's MasterKey lives on shares that are held by
// keystores and by a person: `make demo-shamir`.
//
// It starts a PKCS#11 token (SoftHSM), a Transit server (Vault), AWS KMS and Azure
// Key Vault (both vendors' fakes) and three nodes, whose MasterKey is split 3 of 5:
// one share for each keystore, one for a person with an age key. Then keystores are
// cut off and brought back, nodes started and killed, and holders replaced, and
// every step checks what the nodes make of it.
//
// # Invariants
//
//   - I1: it exits 0 only if every step held.
//   - I2: each check can fail, with a text of its own.
//   - I3: it leaves no process and no file behind but bin/krypton.
//
// # Concurrency
//
// The steps run one after the other.
//
// # Failure
//
// SIGINT and SIGTERM end the present step and clean up. After SIGKILL the nodes
// die on Linux, and the temporary directory stays.
//
// # Source
//
// MasterKey management (Shamir & Seal); docs/contract.md (result lines);
// docs/runbooks/unseal.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/openkcm/krypton-cluster/jepsen/steps"
)

// limit ends a run that hangs.
const limit = 5 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo-shamir:", err)
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
	d := &demo{out: out, root: root, bin: filepath.Join(root, "bin", "krypton")}
	all := d.steps()
	done, err := steps.Walk(ctx, out, all, d.showLogs, d.cleanUp)
	fields := append([]string{fmt.Sprintf("steps=%d", done)}, d.found...)
	if err != nil && done < len(all) {
		fields = append(fields, fmt.Sprintf("failed_step=%d", done+1))
	}
	return errors.Join(err, steps.Report(out, "demo-shamir", fields, err == nil, time.Since(began)))
}
