package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// memory is what one verifier may use, in MiB, unless its case says otherwise. Beyond it
// the verifier ends and says so, and the run fails.
const memory = 3000

// depth bounds the path of a search. A path of any configuration is far shorter;
// one that is not is an incomplete search and fails.
const depth = 20000

// result is a case and what came of it.
type result struct {
	c    testCase
	o    outcome
	err  error
	took time.Duration
}

// runAll runs cases in their order, -workers at a time, and prints each when it ends.
func runAll(ctx context.Context, o options, todo []testCase) []result {
	results := make([]result, len(todo))
	next := make(chan int)
	var mu sync.Mutex // for the output
	var wg sync.WaitGroup
	for range o.workers {
		wg.Go(func() {
			for i := range next {
				start := time.Now()
				r := run(ctx, o, todo[i])
				r.took = time.Since(start)
				results[i] = r
				mu.Lock()
				fmt.Println(r.line())
				mu.Unlock()
			}
		})
	}
	for i := range todo {
		next <- i
	}
	close(next)
	wg.Wait()
	return results
}

func (r result) line() string {
	verdict := "ok  "
	if r.err != nil {
		verdict = "FAIL"
	}
	text := fmt.Sprintf("%s %-10s %-34s %10d states  depth %3d  %6.1f s", verdict, r.c.kind, r.c.name(), r.o.states, r.o.depth, r.took.Seconds())
	if r.err != nil {
		text += "  " + r.err.Error()
	}
	return text
}

// run translates, compiles and searches one case in a directory of its own.
func run(ctx context.Context, o options, c testCase) result {
	r := result{c: c}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	text, err := search(ctx, o, c)
	r.o = parse(text)
	switch {
	case ctx.Err() != nil:
		r.o.cut = "stopped"
		r.err = fmt.Errorf("stopped: %w", context.Cause(ctx))
	case err != nil:
		r.err = err
	default:
		r.err = judge(c, r.o)
	}
	return r
}

// search returns what the verifier printed. Its exit status is not looked at (I3).
func search(ctx context.Context, o options, c testCase) (string, error) {
	dir := filepath.Join(o.out, c.name())
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	models, err := filepath.Glob(filepath.Join(o.dir, "*.pml"))
	if err != nil || len(models) == 0 {
		return "", fmt.Errorf("no models in %s", o.dir)
	}
	for _, m := range models { // beside the trail, which is read with them
		text, err := os.ReadFile(m)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(m)), text, 0o600); err != nil { //nolint:gosec // G703: below the directory that the caller named.
			return "", err
		}
	}
	args := []string{"-a"}
	for _, d := range c.defines {
		args = append(args, "-D"+d)
	}
	if text, err := command(ctx, dir, "spin", append(args, c.model+".pml")...); err != nil {
		return "", fmt.Errorf("spin: %w: %s", err, firstLine(text))
	}
	if _, err := os.Stat(filepath.Join(dir, "pan.c")); err != nil {
		return "", errors.New("spin made no verifier")
	}
	mem := c.memory
	if mem == 0 {
		mem = memory
	}
	// One process has nothing to reduce by partial order. A seeded bug is found
	// before an optimised verifier of it would be compiled.
	flags := []string{"-w", "-DSAFETY", "-DNOREDUCE", fmt.Sprintf("-DMEMLIM=%d", mem), "-o", "pan", "pan.c"}
	switch c.kind {
	case exhaustive:
		flags = append([]string{"-O2"}, flags...)
	case bug, goal:
		flags = append([]string{c.optimise()}, flags...)
	}
	if text, err := command(ctx, dir, "gcc", flags...); err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, firstLine(text))
	}
	text, err := command(ctx, dir, "./pan", fmt.Sprintf("-m%d", depth), "-n", "-w22")
	if err != nil {
		text += "\npan: " + err.Error()
	}
	return text, nil
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // G204: spin, gcc and the verifier that they made.
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
