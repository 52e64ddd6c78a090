//go:build linux && (amd64 || arm64)

package steps

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shimVar makes a program play the shim: it names the file to execute.
const shimVar = "STEPS_SHIM"

// Shim makes this process the traced program if it was started for that, and
// does not return then. Programs that call [Start] call it first in main or
// TestMain: the filter has to be in place before the program begins, and nothing
// but code in the new process can put it there.
func Shim() {
	path, ok := os.LookupEnv(shimVar)
	if !ok {
		return
	}
	_ = os.Unsetenv(shimVar)
	runtime.LockOSThread() // a filter is of the thread, and exec keeps that of the calling one
	err := setFilter()
	if err == nil {
		err = syscall.Exec(path, os.Args, os.Environ()) //nolint:gosec // The program under test.
	}
	fmt.Fprintln(os.Stderr, "steps:", err)
	os.Exit(125)
}

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArgs = 16
)

// filter returns a program that reports the calls that may be steps, lets
// prctl(PR_SET_DUMPABLE) succeed without doing it, and allows everything else
// without a stop: a Go program makes thousands of calls that nobody looks at.
func filter() []unix.SockFilter {
	// unless skips so many instructions unless the comparison holds.
	unless := func(op uint16, k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jf: skip, K: k}
	}
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	ret := func(v uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v} }
	p := []unix.SockFilter{
		load(offNr),
		// prctl: PR_SET_DUMPABLE is answered with 0.
		unless(unix.BPF_JEQ, unix.SYS_PRCTL, 4),
		load(offArgs),
		unless(unix.BPF_JEQ, unix.PR_SET_DUMPABLE, 1),
		ret(unix.SECCOMP_RET_ERRNO),
		ret(unix.SECCOMP_RET_ALLOW),
		// openat: only where it may create or cut.
		unless(unix.BPF_JEQ, unix.SYS_OPENAT, 4),
		load(offArgs + 2*8),
		unless(unix.BPF_JSET, unix.O_CREAT|unix.O_TRUNC, 1),
		ret(unix.SECCOMP_RET_TRACE),
		ret(unix.SECCOMP_RET_ALLOW),
	}
	for nr := range calls {
		p = append(p, unless(unix.BPF_JEQ, uint32(nr), 1), ret(unix.SECCOMP_RET_TRACE)) //nolint:gosec // Numbers of system calls.
	}
	return append(p, ret(unix.SECCOMP_RET_ALLOW))
}

func setFilter() error {
	p := filter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]} //nolint:gosec // A few dozen.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 { //nolint:gosec // The kernel's interface.
		return fmt.Errorf("seccomp filter: %w", e)
	}
	return nil
}
