// Package steps runs the steps of a demonstration and prints a line for each.
//
// # Invariants
//
//   - I1: the first step that fails ends the run; what cleans up runs in any case, and its failure is one of the run.
//
// # Concurrency
//
// One goroutine.
//
// # Failure
//
// The error names the step.
//
// # Source
//
// docs/contract.md (make targets, result lines).
package steps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Step is one line of a demonstration. Run returns what is worth knowing beside
// "it held".
type Step struct {
	Title string
	Run   func(ctx context.Context) (detail string, err error)
}

// Of returns a step.
func Of(title string, run func(context.Context) (string, error)) Step {
	return Step{Title: title, Run: run}
}

// Walk runs the steps until one fails, prints each to out, and returns how many
// held. On a failure it calls failed before cleanUp, which it calls always.
func Walk(ctx context.Context, out io.Writer, all []Step, failed func(), cleanUp func() error) (done int, err error) {
	defer func() {
		if err != nil {
			failed()
		}
		err = errors.Join(err, cleanUp())
	}()
	for i, s := range all {
		began := time.Now()
		detail, err := s.Run(ctx)
		tick := "✓"
		if err != nil {
			tick, detail = "✗", err.Error()
		}
		fmt.Fprintf(out, "%3d  %s  %-58s %6.2f s   %s\n", i+1, tick, s.Title, time.Since(began).Seconds(), detail)
		if err != nil {
			return i, fmt.Errorf("step %d, %s: %w", i+1, s.Title, err)
		}
	}
	return len(all), nil
}

// Report hands the fields to scripts/target, or prints the result of target
// itself when it was not started by that.
func Report(out io.Writer, target string, fields []string, held bool, took time.Duration) error {
	if path := os.Getenv("RESULT_FIELDS"); path != "" {
		return os.WriteFile(path, []byte(strings.Join(fields, "\n")+"\n"), 0o600) //nolint:gosec // The file that scripts/target named.
	}
	verdict := "fail"
	if held {
		verdict = "pass"
	}
	_, err := fmt.Fprintf(out, "RESULT %s %s %s seconds=%d\n", target, verdict, strings.Join(fields, " "), int(took.Seconds()))
	return err
}

// Repository returns the root of the module that the caller is run in.
func Repository() (string, error) {
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

// Build makes the program bin of the module at root exactly as `make build` does,
// and returns its version.
func Build(ctx context.Context, root, bin string) (string, error) {
	version := "unknown"
	describe := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	describe.Dir = root
	if out, err := describe.Output(); err == nil {
		version = strings.TrimSpace(string(out))
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version="+version, "-o", bin, "./cmd/krypton") //nolint:gosec // The version is git's.
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return version, nil
}
