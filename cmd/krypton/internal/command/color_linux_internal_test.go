//go:build linux

package command

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// newTerminal returns the program's side of a pseudo-terminal.
func newTerminal(t *testing.T) *os.File {
	t.Helper()
	_, tty := newTerminalPair(t)
	return tty
}

// newTerminalPair returns both sides of a pseudo-terminal.
func newTerminalPair(t *testing.T) (master, slave *os.File) {
	t.Helper()
	var err error
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

func TestColoursOnATerminalOnly(t *testing.T) {
	t.Parallel()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tty := newTerminal(t)
	for _, tt := range []struct {
		name string
		out  *os.File
		env  map[string]string
		want string
	}{
		{"terminal", tty, nil, "\x1b[32mhealthy\x1b[0m"},
		{"file", file, nil, "healthy"},
		{"NO_COLOR", tty, map[string]string{"NO_COLOR": "1"}, "healthy"},
		{"dumb", tty, map[string]string{"TERM": "dumb"}, "healthy"},
	} {
		in := &Invocation{env: &Env{Stdout: tt.out, Getenv: func(k string) string { return tt.env[k] }}}
		if got := in.paint("healthy", green); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
