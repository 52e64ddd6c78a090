//go:build linux && (amd64 || arm64)

package steps

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fate is what happens at a step.
type Fate int

// The fates.
const (
	Kill Fate = iota + 1
	PowerCut
	Term
)

// String returns the fate as a word.
func (f Fate) String() string {
	return map[Fate]string{Kill: "kill", PowerCut: "power-cut", Term: "term"}[f]
}

// Step is one call of the program.
type Step struct {
	N    int    // 1 is the first after Arm
	Call string // name of the system call
	Path string // below the watched directory, "." for itself; "socket" or "output"
	To   string // of a rename
}

// String returns "3 fsync node.json.tmp".
func (s Step) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s %s", s.N, s.Call, s.Path, s.To))
}

// Kind is the step without its number: what two runs have in common.
func (s Step) Kind() string { return strings.TrimSpace(s.Call + " " + s.Path + " " + s.To) }

// argument says where a call names what it changes.
type argument int

const (
	descriptor argument = iota + 1 // the first argument
	name                           // directory descriptor and path
	names                          // two of them
)

// call is a system call that may be a step.
type call struct {
	name string
	arg  argument
}

var calls = map[uintptr]call{ //nolint:gochecknoglobals // Immutable table.
	unix.SYS_WRITE:     {"write", descriptor},
	unix.SYS_PWRITE64:  {"pwrite", descriptor},
	unix.SYS_WRITEV:    {"writev", descriptor},
	unix.SYS_FSYNC:     {"fsync", descriptor},
	unix.SYS_FDATASYNC: {"fdatasync", descriptor},
	unix.SYS_FTRUNCATE: {"ftruncate", descriptor},
	unix.SYS_FALLOCATE: {"fallocate", descriptor},
	unix.SYS_FCHMOD:    {"fchmod", descriptor},
	unix.SYS_RENAMEAT:  {"rename", names},
	unix.SYS_RENAMEAT2: {"rename", names},
	unix.SYS_LINKAT:    {"link", names},
	unix.SYS_UNLINKAT:  {"unlink", name},
	unix.SYS_MKDIRAT:   {"mkdir", name},
	unix.SYS_FCHMODAT:  {"chmod", name},
}

// Options say what to run and what to watch.
type Options struct {
	Path string   // the program
	Args []string // without its name
	Env  []string
	// Dir is the watched directory; it exists.
	Dir string
	// Answers makes writes to sockets and pipes steps.
	Answers bool
	// Shadow keeps what is synced, for PowerCut.
	Shadow bool
	// Stdout and Stderr of the program. nil: discarded.
	Stdout, Stderr *os.File
	// First, if not 0, is the first step at which First happens; as Arm before the
	// program begins.
	First Fate
	At    int
}

// Process is a running program.
type Process struct {
	opts   Options
	pid    int
	proc   *os.Process
	shadow *shadow

	done  chan struct{} // closed when it has ended
	state unix.WaitStatus
	err   error // of the tracer

	hitCh chan struct{} // closed when hit is set

	mu    sync.Mutex
	armed bool
	at    int
	fate  Fate
	hit   *Step
	steps []Step
}

// Start runs the program.
func Start(o Options) (*Process, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	p := &Process{opts: o, done: make(chan struct{}), hitCh: make(chan struct{})}
	if o.Shadow {
		if p.shadow, err = newShadow(o.Dir); err != nil {
			return nil, err
		}
	}
	if o.First != 0 {
		p.armed, p.fate, p.at = true, o.First, o.At
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := p.start()
		started <- err
		if err != nil {
			return
		}
		p.err = p.trace()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("trace %s: %w", o.Path, err)
	}
	return p, nil
}

// start forks the shim and stops it at its exec. It runs on the thread that traces.
func (p *Process) start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	files := []*os.File{null, p.opts.Stdout, p.opts.Stderr}
	for i := range files {
		if files[i] == nil {
			files[i] = null
		}
	}
	proc, err := os.StartProcess(self, append([]string{p.opts.Path}, p.opts.Args...), &os.ProcAttr{
		Env: append(append([]string(nil), p.opts.Env...), shimVar+"="+p.opts.Path), Files: files,
		Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return err
	}
	p.pid, p.proc = proc.Pid, proc
	var ws unix.WaitStatus
	if _, err := wait(p.pid, &ws); err != nil || !ws.Stopped() {
		p.Signal(unix.SIGKILL)
		return fmt.Errorf("it did not stop at its start: %w", err)
	}
	const opts = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(p.pid, opts); err != nil {
		p.Signal(unix.SIGKILL)
		return err
	}
	return unix.PtraceCont(p.pid, 0)
}

// wait is wait4 for children and tracees of this thread alone (I4). pid is that of
// the program, or minus that: of all in its process group, which are its threads.
// The thread may have other children: those that ran on it before forked them.
func wait(pid int, ws *unix.WaitStatus) (int, error) {
	for {
		got, err := unix.Wait4(pid, ws, unix.WALL|unix.WNOTHREAD, nil)
		if !errors.Is(err, unix.EINTR) {
			return got, err
		}
	}
}

// trace lets the program run until it ends.
func (p *Process) trace() error {
	known := map[int]bool{p.pid: true}
	var failure error
	for {
		var ws unix.WaitStatus
		tid, err := wait(-p.pid, &ws)
		switch {
		case err != nil:
			return errors.Join(failure, fmt.Errorf("wait: %w", err))
		case ws.Exited() || ws.Signaled():
			if tid == p.pid {
				p.state = ws
				return failure
			}
			continue
		case !ws.Stopped():
			continue
		}
		deliver := 0
		switch event := int(ws) >> 16; {
		case event == unix.PTRACE_EVENT_SECCOMP:
			if err := p.step(tid); err != nil {
				failure = errors.Join(failure, err)
				p.Signal(unix.SIGKILL)
			}
		case event != 0:
		case ws.StopSignal() == unix.SIGSTOP && !known[tid]:
			known[tid] = true // a new thread begins with this
		case ws.StopSignal() == unix.SIGTRAP:
		default:
			deliver = int(ws.StopSignal())
		}
		if err := unix.PtraceCont(tid, deliver); err != nil && !errors.Is(err, unix.ESRCH) {
			failure = errors.Join(failure, fmt.Errorf("continue: %w", err))
			p.Signal(unix.SIGKILL)
		}
	}
}

// syscallInfo is struct ptrace_syscall_info, as far as it is needed.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	nr   uint64
	args [6]uint64
	_    [2]uint64
}

// step looks at one call that is about to be made.
func (p *Process) step(tid int) error {
	var info syscallInfo
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); e != 0 { //nolint:gosec // The kernel's interface.
		if errors.Is(e, unix.ESRCH) {
			return nil // killed meanwhile
		}
		return fmt.Errorf("look at a call: %w", e)
	}
	c, ok := calls[uintptr(info.nr)]
	if !ok {
		c = call{"create", name} // openat, which the filter reports only then
	}
	s := Step{Call: c.name}
	var err error
	switch c.arg {
	case descriptor:
		s.Path = p.descriptor(tid, info.args[0])
	case name:
		s.Path, err = p.named(tid, info.args[0], info.args[1])
	case names:
		if s.Path, err = p.named(tid, info.args[0], info.args[1]); err == nil {
			s.To, err = p.named(tid, info.args[2], info.args[3])
		}
	}
	if err != nil {
		return err
	}
	if s.Path == "" {
		return nil
	}
	if p.met(s) {
		return nil
	}
	if p.shadow != nil && (c.name == "fsync" || c.name == "fdatasync") {
		return p.shadow.synced(filepath.Join(p.opts.Dir, s.Path))
	}
	return nil
}

// met counts a step and does what was asked for there. It reports whether the
// program is dead.
func (p *Process) met(s Step) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hit != nil && p.fate != Term {
		return true // the kill is on its way
	}
	if !p.armed {
		return false
	}
	s.N = len(p.steps) + 1
	p.steps = append(p.steps, s)
	if s.N != p.at || p.hit != nil {
		return false
	}
	p.hit = &s
	close(p.hitCh)
	if p.fate == Term {
		p.Signal(unix.SIGTERM)
		return false
	}
	p.Signal(unix.SIGKILL)
	return true
}

// descriptor returns what is behind a descriptor, empty if nobody watches it.
func (p *Process) descriptor(tid int, fd uint64) string {
	to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd))) //nolint:gosec // A descriptor is an int.
	if err != nil {
		return ""
	}
	if strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "pipe:") {
		switch {
		case !p.opts.Answers:
			return ""
		case int32(fd) == 1: //nolint:gosec // A descriptor is an int.
			return "output"
		case int32(fd) == 2 || strings.HasPrefix(to, "pipe:"): //nolint:gosec // A descriptor is an int.
			return ""
		}
		return "socket"
	}
	return p.below(strings.TrimSuffix(to, " (deleted)"))
}

// below returns path as it is below the watched directory, empty if it is not.
func (p *Process) below(path string) string {
	if rel, err := filepath.Rel(p.opts.Dir, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return rel
	}
	return ""
}

// named returns the path that a call names.
func (p *Process) named(tid int, dirfd, addr uint64) (string, error) {
	path, err := text(tid, addr)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(path) {
		at := fmt.Sprintf("/proc/%d/cwd", tid)
		if int32(dirfd) != unix.AT_FDCWD { //nolint:gosec // A descriptor is an int.
			at = fmt.Sprintf("/proc/%d/fd/%d", tid, int32(dirfd)) //nolint:gosec // A descriptor is an int.
		}
		base, err := os.Readlink(at)
		if err != nil {
			return "", nil //nolint:nilerr // The call will fail, too.
		}
		path = filepath.Join(base, path)
	}
	return p.below(filepath.Clean(path)), nil
}

// text reads a string that ends with a zero byte.
func text(tid int, addr uint64) (string, error) {
	var out []byte
	for len(out) < unix.PathMax {
		chunk := make([]byte, 64)
		n, err := unix.PtracePeekData(tid, uintptr(addr)+uintptr(len(out)), chunk)
		if n == 0 && err != nil {
			if errors.Is(err, unix.ESRCH) {
				return "", nil
			}
			return "", fmt.Errorf("read a path: %w", err)
		}
		if i := bytes.IndexByte(chunk[:n], 0); i >= 0 {
			return string(append(out, chunk[:i]...)), nil
		}
		out = append(out, chunk[:n]...)
	}
	return string(out), nil
}

// Arm counts steps from now; at step n, 1 being the next one, fate happens. With
// n 0 it only counts.
func (p *Process) Arm(n int, fate Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed, p.at, p.fate, p.steps = true, n, fate, nil
}

// Disarm stops counting and returns the steps since Arm.
func (p *Process) Disarm() []Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	return p.steps
}

// Now lets fate happen at once.
func (p *Process) Now(fate Fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hit == nil && fate != Term {
		p.fate, p.hit = fate, &Step{Call: "now"} // nothing is synced any more
		close(p.hitCh)
	}
	sig := unix.SIGKILL
	if fate == Term {
		sig = unix.SIGTERM
	}
	p.Signal(sig)
}

// Hit is closed when the step was reached.
func (p *Process) Hit() <-chan struct{} { return p.hitCh }

// At returns the step that was reached; false if it was not.
func (p *Process) At() (Step, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hit == nil {
		return Step{}, false
	}
	return *p.hit, true
}

// PID returns the process id.
func (p *Process) PID() int { return p.pid }

// Signal sends a signal to the program; it may be gone, which Wait tells. The
// process is named by its descriptor: its number may be somebody else's by now.
func (p *Process) Signal(s syscall.Signal) { _ = p.proc.Signal(s) }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the program and returns its exit status, -1 after a
// signal.
func (p *Process) Wait() (int, error) {
	<-p.done
	if p.state.Exited() {
		return p.state.ExitStatus(), p.err
	}
	return -1, p.err
}

// Restore makes the watched directory what a power cut at the step would have
// left of it. The program has ended.
func (p *Process) Restore() error {
	<-p.done
	if p.shadow == nil {
		return errors.New("what was synced was not kept")
	}
	return p.shadow.restore()
}

// Close ends the program and removes what was kept. It is idempotent.
func (p *Process) Close() error {
	p.Signal(syscall.SIGKILL)
	<-p.done
	_ = p.proc.Release() // it has no status any more that anybody could ask for
	if p.shadow != nil {
		return p.shadow.close()
	}
	return nil
}
