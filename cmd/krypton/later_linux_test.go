//go:build linux && (amd64 || arm64)

package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/openkcm/krypton-cluster/jepsen/shift"
)

// programs are those that transcripts have beside krypton:
//
//	later DURATION PROGRAM ARG...   run a program on a machine whose date is so far ahead
func programs() map[string]func() {
	shift.Shim()
	return map[string]func(){"later": func() { os.Exit(later(os.Args[1:])) }}
}

func later(args []string) int {
	by, err := time.ParseDuration(args[0])
	if err == nil {
		args[1], err = exec.LookPath(args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "later:", err)
		return 125
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	p, err := shift.Start(shift.Options{Path: args[1], Args: args[2:], Env: os.Environ(), By: by, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, "later:", err)
		return 125
	}
	go func() {
		for s := range signals {
			p.Signal(s)
		}
	}()
	status, err := p.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, "later:", err)
		return 125
	}
	return status
}
