//go:build unix

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// heap makes the C library overwrite what it frees, also the small pieces that
// it would keep in a cache as they are: secrets and the PIN pass through it (I4).
const heap = "GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.perturb=90"

var (
	errGone   = errors.New("the helper program ended")
	errLate   = errors.New("the vendor's library did not come back; its process was ended")
	errClosed = errors.New("the keystore is closed")
	// errRetired: a call found that session, slot or token are not what they were.
	errRetired = errors.New("the session with the token was over")
)

// waiter is a call without an answer yet.
type waiter struct {
	answer    chan []byte // room for the one answer; closed without one when the helper ends
	free      func()
	since     time.Time
	abandoned bool // guarded by process.mu; the answer is wiped and goes to nobody
}

// process is one running helper.
type process struct {
	conn    net.Conn
	cmd     *exec.Cmd
	clock   clock.Clock
	workers chan struct{} // as many may be with the helper as it has workers
	done    chan struct{} // closed when the reader has ended and everyone who waited was told

	writing sync.Mutex // held over the write of one frame

	mu      sync.Mutex
	next    uint64
	pending map[uint64]*waiter // by call
	why     error              // why it ended, for those who waited
	token   wire.Token
}

// start runs the helper and begins to read what it answers.
func start(s settings, clk clock.Clock) (*process, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	syscall.CloseOnExec(fds[0])
	syscall.CloseOnExec(fds[1])
	ours, theirs := os.NewFile(uintptr(fds[0]), "helper"), os.NewFile(uintptr(fds[1]), "node")
	defer func() { _ = theirs.Close() }() // the child has its own
	conn, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	p := &process{conn: conn, clock: clk, workers: make(chan struct{}, s.hello.Workers), done: make(chan struct{}), pending: map[uint64]*waiter{}}
	// Neither argument nor environment has anything of the node's, and nothing
	// that a library prints goes into its log.
	p.cmd = &exec.Cmd{Path: s.helper, Args: []string{s.helper}, Env: append([]string{heap}, s.environment...), Dir: "/", ExtraFiles: []*os.File{theirs}, SysProcAttr: attributes()}
	started := make(chan error)
	exited := make(chan struct{})
	go func() {
		// The kernel ends the child with the thread that started it: that thread
		// is kept until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(exited)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", s.helper, err), conn.Close())
	}
	go p.read(exited)
	go p.watch(s.late)
	return p, nil
}

// read hands out answers until the helper is gone.
func (p *process) read(exited <-chan struct{}) {
	for {
		frame, err := wire.ReadFrame(p.conn)
		if err != nil || len(frame) < 8 {
			break
		}
		a, _, err := wire.DecodeAnswer(frame)
		if err != nil {
			clear(frame)
			break
		}
		p.mu.Lock()
		w := p.pending[a.Call]
		delete(p.pending, a.Call)
		if w == nil || w.abandoned {
			clear(frame)
		} else {
			w.answer <- frame // under mu, so that who gives up finds it or is found to have given up
		}
		p.mu.Unlock()
		if w != nil {
			w.free()
		}
	}
	p.kill(errGone)
	<-exited
	p.mu.Lock()
	if errors.Is(p.why, errGone) {
		p.why = fmt.Errorf("%w: %s", errGone, p.cmd.ProcessState)
	}
	pending := p.pending
	p.pending = nil
	for _, w := range pending {
		close(w.answer)
	}
	p.mu.Unlock()
	for _, w := range pending {
		w.free()
	}
	close(p.done)
}

// kill ends the helper for the reason that those who wait are told, if it was
// not ended before. It does not wait.
func (p *process) kill(why error) {
	p.mu.Lock()
	if p.why == nil {
		p.why = why
	}
	p.mu.Unlock()
	_ = p.cmd.Process.Kill() // it may have ended by itself
	_ = p.conn.Close()       // wakes the reader
}

// ended reports why the helper ended or was told to, or nil.
func (p *process) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// call asks the helper. fill writes the payload of n bytes into the frame. The
// answer's payload is given to use, and wiped when that returns. free is called
// once, when the helper's worker is free again: at the latest when the process
// ended. A context that ends first ends only the wait.
func (p *process) call(ctx context.Context, req wire.Request, n int, fill func([]byte) error, free func(), use func(wire.Answer, []byte) error) error {
	w := &waiter{answer: make(chan []byte, 1), free: free, since: p.clock.Now()}
	p.mu.Lock()
	if p.why != nil {
		err := p.why
		p.mu.Unlock()
		free()
		return err
	}
	p.next++
	req.Call = p.next
	p.pending[req.Call] = w
	p.mu.Unlock()
	frame, payload, err := req.Frame(n)
	if err == nil && n > 0 {
		err = fill(payload)
	}
	if err != nil {
		clear(frame)
		p.mu.Lock()
		waiting := p.pending[req.Call] == w // it is not, if the helper ended meanwhile
		delete(p.pending, req.Call)
		p.mu.Unlock()
		if waiting {
			free()
		}
		return err
	}
	p.writing.Lock()
	_, err = p.conn.Write(frame)
	p.writing.Unlock()
	clear(frame)
	if err != nil {
		p.kill(errGone)
	}
	select {
	case frame, ok := <-w.answer:
		if !ok {
			return p.ended()
		}
		defer clear(frame)
		a, payload, err := wire.DecodeAnswer(frame)
		if err != nil {
			return err
		}
		return use(a, payload)
	case <-ctx.Done():
		p.mu.Lock()
		w.abandoned = true
		p.mu.Unlock()
		select {
		case frame := <-w.answer: // it came at the same moment
			clear(frame)
		default:
		}
		return ctx.Err()
	}
}

// watch ends the helper when a call has had no answer for late (I3).
func (p *process) watch(late time.Duration) {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		<-p.done
		stop()
	}()
	for p.clock.Sleep(ctx, late/8+1) == nil {
		p.mu.Lock()
		hangs := false
		for _, w := range p.pending {
			hangs = hangs || p.clock.Since(w.since) >= late
		}
		p.mu.Unlock()
		if hangs {
			p.kill(errLate)
		}
	}
}
