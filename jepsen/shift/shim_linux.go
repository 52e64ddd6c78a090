//go:build linux && (amd64 || arm64)

package shift

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shimVar makes a program play the shim: it names the file to execute.
const shimVar = "SHIFT_SHIM"

// Shim makes this process the shifted program if it was started for that, and does
// not return then. Programs that call [Start] call it first in main or TestMain:
// nothing but code in the new process can put its filter in place.
func Shim() {
	path, ok := os.LookupEnv(shimVar)
	if !ok {
		return
	}
	_ = os.Unsetenv(shimVar)
	runtime.LockOSThread() // a filter is of the thread, and exec keeps that of the calling one
	err := handOver()
	if err == nil {
		err = syscall.Exec(path, os.Args, os.Environ()) //nolint:gosec // The program under test.
	}
	fmt.Fprintln(os.Stderr, "shift:", err)
	os.Exit(125)
}

// Offsets in struct seccomp_data.
const (
	offNr   = 0
	offArgs = 16
)

// parent is the descriptor of the socket to whoever started the shim.
const parent = 3

// filter returns a program that hands reads of the wall clock to the listener, lets
// prctl(PR_SET_DUMPABLE) succeed without doing it, so that the answer can be written
// without being root, and allows everything else.
func filter() []unix.SockFilter {
	unless := func(k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: k}
	}
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	ret := func(v uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v} }
	return []unix.SockFilter{
		load(offNr),
		unless(unix.SYS_PRCTL, 4),
		load(offArgs),
		unless(unix.PR_SET_DUMPABLE, 1),
		ret(unix.SECCOMP_RET_ERRNO), // 0
		ret(unix.SECCOMP_RET_ALLOW),
		unless(unix.SYS_CLOCK_GETTIME, 5),
		load(offArgs),
		unless(unix.CLOCK_REALTIME, 1),
		ret(unix.SECCOMP_RET_USER_NOTIF),
		unless(unix.CLOCK_REALTIME_COARSE, 1),
		ret(unix.SECCOMP_RET_USER_NOTIF),
		ret(unix.SECCOMP_RET_ALLOW),
	}
}

// handOver puts the filter in place and sends its listener to the parent. Both
// descriptors end at the exec.
func handOver() error {
	p := filter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]} //nolint:gosec // A dozen.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	fd, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog))) //nolint:gosec // The kernel's interface.
	if e != 0 {
		return fmt.Errorf("seccomp filter: %w", e)
	}
	if err := unix.Sendmsg(parent, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return fmt.Errorf("hand the clock over: %w", err)
	}
	unix.CloseOnExec(parent)
	return nil
}
