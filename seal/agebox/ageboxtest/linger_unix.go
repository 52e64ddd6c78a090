//go:build unix

package ageboxtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// linger takes the lock, has a program keep it, and lets no polite signal end this one.
func linger() {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	f, err := os.OpenFile(os.Getenv(Lock), os.O_RDWR, 0)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	cmd := exec.Command("/bin/sleep", "600")
	cmd.Stdout, cmd.ExtraFiles = os.Stdout, []*os.File{f}
	if err = errors.Join(err, cmd.Start()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:forbidigo // Part of a main function.
	}
	go func() { _ = cmd.Wait() }() // and so not all goroutines wait for nothing
}
