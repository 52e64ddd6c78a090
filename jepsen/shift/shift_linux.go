//go:build linux && (amd64 || arm64)

package shift

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options say what to run.
type Options struct {
	Path string   // the program
	Args []string // without its name
	Env  []string
	// By is how far its wall clock is ahead of the machine's; negative: behind.
	By                    time.Duration
	Stdin, Stdout, Stderr *os.File // nil: /dev/null
}

// Process is a running program.
type Process struct {
	proc  *os.Process
	clock *os.File // hands over reads of the clock
	by    time.Duration

	done  chan struct{}
	state *os.ProcessState
	err   error
}

// Start runs the program.
func Start(o Options) (*Process, error) {
	p := &Process{by: o.By, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The thread is the parent that the kernel means: it is kept until the program
		// ends (I3), and ends with this goroutine, as it is never unlocked.
		runtime.LockOSThread()
		err := p.start(o)
		started <- err
		if err != nil {
			return
		}
		answered := make(chan error, 1)
		go func() { answered <- p.answer() }()
		p.state, p.err = p.proc.Wait()
		p.err = errors.Join(p.err, <-answered, p.clock.Close())
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("shift the clock of %s: %w", o.Path, err)
	}
	return p, nil
}

// start forks the shim, takes its listener, and lets it go as the program.
func (p *Process) start(o Options) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer func() { _ = ours.Close() }()
	files := []*os.File{o.Stdin, o.Stdout, o.Stderr, theirs}
	for i := range files {
		if files[i] == nil {
			files[i] = null
		}
	}
	p.proc, err = os.StartProcess(self, append([]string{o.Path}, o.Args...), &os.ProcAttr{
		Env: append(append([]string(nil), o.Env...), shimVar+"="+o.Path), Files: files,
		Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	_ = theirs.Close()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = p.proc.Kill()
			_, _ = p.proc.Wait()
		}
	}()
	if err := p.untilExec(); err != nil {
		return err
	}
	if p.clock, err = receive(ours); err != nil {
		return err
	}
	if err := hideVDSO(p.proc.Pid); err != nil {
		return errors.Join(err, p.clock.Close())
	}
	return unix.PtraceDetach(p.proc.Pid)
}

// untilExec lets the shim run until it has become the program.
func (p *Process) untilExec() error {
	pid := p.proc.Pid
	known := map[int]bool{pid: true}
	for first := true; ; first = false {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case ws.Exited() || ws.Signaled():
			if tid == pid {
				return errors.New("the shim ended before it became the program")
			}
			continue
		case !ws.Stopped():
			continue
		}
		deliver := 0
		switch event := int(ws) >> 16; {
		case first:
			const opts = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL
			if err := unix.PtraceSetOptions(pid, opts); err != nil {
				return err
			}
		case event == unix.PTRACE_EVENT_EXEC:
			return nil
		case event != 0:
		case ws.StopSignal() == unix.SIGSTOP && !known[tid]: // a new thread begins with this
			known[tid] = true
		case ws.StopSignal() == unix.SIGTRAP:
		default:
			deliver = int(ws.StopSignal())
		}
		if err := unix.PtraceCont(tid, deliver); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("continue: %w", err)
		}
	}
}

// receive takes the descriptor that the shim sends.
func receive(from *os.File) (*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(from.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("the shim sent no listener: %w", errors.Join(err, errors.ErrUnsupported))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("the shim sent no listener: %w", errors.Join(err, errors.ErrUnsupported))
	}
	return os.NewFile(uintptr(fds[0]), "clock"), nil
}

// The entries of the auxiliary vector that matter.
const (
	atNull        = 0
	atIgnore      = 1
	atSysinfoEHDR = 33
)

// hideVDSO makes a program at its exec not find the vDSO, so that it asks the kernel
// for the time.
func hideVDSO(pid int) error {
	// struct ptrace_syscall_info, as far as it is needed: the same on every processor.
	var info struct {
		op   uint8
		_    [3]uint8
		arch uint32
		ip   uint64
		sp   uint64
		_    [64]byte
	}
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(pid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); e != 0 { //nolint:gosec // The kernel's interface.
		return fmt.Errorf("look at the stack: %w", e)
	}
	at := uintptr(info.sp)
	word := func() (uint64, error) {
		var b [8]byte
		if _, err := unix.PtracePeekData(pid, at, b[:]); err != nil {
			return 0, fmt.Errorf("read the stack: %w", err)
		}
		at += 8
		return binary.NativeEndian.Uint64(b[:]), nil
	}
	argc, err := word()
	if err != nil {
		return err
	}
	at += uintptr(argc+1) * 8
	for { // the environment
		w, err := word()
		if err != nil {
			return err
		}
		if w == 0 {
			break
		}
	}
	for {
		tag := at
		key, err := word()
		if err != nil {
			return err
		}
		switch key {
		case atNull:
			return nil // there is none
		case atSysinfoEHDR:
			var b [8]byte
			binary.NativeEndian.PutUint64(b[:], atIgnore)
			_, err := unix.PtracePokeData(pid, tag, b[:])
			return err
		}
		at += 8
	}
}

// The kernel's interface, see seccomp_unotify(2).
type (
	notification struct {
		id    uint64
		pid   uint32
		flags uint32
		nr    int32
		arch  uint32
		ip    uint64
		args  [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
)

const (
	ioctlReceive = 0xc0502100
	ioctlSend    = 0xc0182101
)

// answer answers reads of the clock until nobody can ask any more.
func (p *Process) answer() error {
	fd := int(p.clock.Fd())
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // A descriptor.
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a read of the clock: %w", err)
		}
		switch {
		case ready[0].Revents&unix.POLLIN != 0:
		case ready[0].Revents != 0:
			return nil // the program is gone
		default:
			continue
		}
		var ask notification
		if e := control(fd, ioctlReceive, unsafe.Pointer(&ask)); e != 0 { //nolint:gosec // The kernel's interface.
			continue // whoever asked is gone, or a signal came
		}
		say := response{id: ask.id}
		now := time.Now().Add(p.by)
		var ts [16]byte
		binary.NativeEndian.PutUint64(ts[:], uint64(now.Unix()))        //nolint:gosec // Of this century.
		binary.NativeEndian.PutUint64(ts[8:], uint64(now.Nanosecond())) //nolint:gosec // Below a billion.
		local := []unix.Iovec{{Base: &ts[0]}}
		local[0].SetLen(len(ts))
		remote := []unix.RemoteIovec{{Base: uintptr(ask.args[1]), Len: len(ts)}}
		if _, err := unix.ProcessVMWritev(int(ask.pid), local, remote, 0); err != nil {
			say.err = -int32(unix.EFAULT)
		}
		_ = control(fd, ioctlSend, unsafe.Pointer(&say)) //nolint:gosec // The kernel's interface. ENOENT: whoever asked is gone.
	}
}

func control(fd int, request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return e
}

// Signal sends a signal to the program; it may be gone, which Wait tells.
func (p *Process) Signal(s os.Signal) { _ = p.proc.Signal(s) }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the program and returns its exit status, -1 after a
// signal.
func (p *Process) Wait() (int, error) {
	<-p.done
	if p.state == nil {
		return -1, p.err
	}
	return p.state.ExitCode(), p.err
}
