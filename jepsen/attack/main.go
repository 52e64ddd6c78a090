//go:build unix

// Command attack tries to break into Krypton clusters, in every way that is known,
// and prints how each attempt ended: `make test-attacks`.
//
// The attackers have what the threat model gives them: the files of a node, the key
// of a member, the key of a CA, somebody else's token, a program that lies. They act
// on real processes, over the real ports and on the real files. An attempt that fails
// proves something only if it could have worked, so each attack has a control: the
// same attempt, by the same code, where the defence is left out (a build with the tag
// mutation), or where there is nothing to defend. A control that does not break in
// fails the run as an attack that does.
//
// # Invariants
//
//   - I1: it exits 0 only if every attack failed and every control worked.
//   - I2: the attacked nodes run the program as it is released; only nodes that play the liar, and those of controls, run another build.
//   - I3: it leaves no process and no file behind but bin/krypton and build/bin/krypton-mutation.
//   - I4: docs/attacks.md has every attack of this program, and no other.
//
// # Concurrency
//
// Stages have clusters of their own and run side by side; the attacks of one stage
// run one after the other.
//
// # Failure
//
// What could not be tried ends its stage, with the end of each node's output, and the
// run. SIGINT and SIGTERM end the present attacks and clean up.
//
// # Source
//
// docs/threat-model.md (S1, S2, S6, G10, G11), docs/authority.md, docs/identity.md.
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
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// limit ends a run that hangs.
const limit = 5 * time.Minute

func main() {
	only := flag.String("only", "", "attacks whose name matches this `expression`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, only string) (err error) {
	pick, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	b, err := build(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "built in %.0f s\n", time.Since(began).Seconds())
	began = time.Now()
	all := stages()
	outcomes := make([][]outcome, len(all))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(stagesAtOnce)
	for i, s := range all {
		g.Go(func() error {
			var err error
			outcomes[i], err = s.run(gctx, b, out, pick)
			return err
		})
	}
	err = g.Wait()
	var t tally
	for _, s := range outcomes {
		t.add(s)
	}
	t.print(out)
	fmt.Fprintf(out, "tried in %.0f s\n", time.Since(began).Seconds())
	return errors.Join(err, t.verdict(), report(out, t, time.Since(began)))
}

// report hands the fields to scripts/target, or prints the result itself when it was
// not started by that.
func report(out io.Writer, t tally, took time.Duration) error {
	fields := []string{
		fmt.Sprintf("attacks=%d", t.attacks), fmt.Sprintf("broke_in=%d", t.broke), fmt.Sprintf("controls=%d", t.controls), fmt.Sprintf("open=%d", t.open),
	}
	if path := os.Getenv("RESULT_FIELDS"); path != "" {
		return os.WriteFile(path, []byte(strings.Join(fields, "\n")+"\n"), 0o600) //nolint:gosec // The file that scripts/target named.
	}
	verdict := "pass"
	if t.verdict() != nil {
		verdict = "fail"
	}
	_, err := fmt.Fprintf(out, "RESULT test-attacks %s %s seconds=%d\n", verdict, strings.Join(fields, " "), int(took.Seconds()))
	return err
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
