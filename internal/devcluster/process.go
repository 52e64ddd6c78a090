//go:build unix

package devcluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// process is one started program in a process group of its own, so that Ctrl-C
// in a terminal reaches only the program that started it, which then ends the
// others in order.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done
}

// startProcess starts a program whose output is appended to the file at log.
func startProcess(binary string, args, env []string, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, fileMode) //nolint:gosec // A path in the directory that the developer named.
	if err != nil {
		return nil, err
	}
	p := &process{
		// Not CommandContext: a process lives longer than the call that started it.
		cmd: &exec.Cmd{
			Path: binary, Args: append([]string{binary}, args...), Env: env,
			Stdout: out, Stderr: out, SysProcAttr: processAttributes(),
		},
		done: make(chan struct{}),
	}
	started := make(chan error)
	go func() {
		// Linux sends the death signal when the *thread* that started the child
		// ends (I1), so that thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		_ = out.Close() // the child has its own descriptor
		started <- err
		if err != nil {
			return
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill ends the process and its group without asking, and waits for it.
func (p *process) kill() {
	if !p.ended() {
		// The group, not the process: a node may have a helper program.
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended just now
	}
	<-p.done
}

// terminate asks the process to end.
func (p *process) terminate() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// environment is that of the nodes: the caller's without what would change
// their configuration (I5).
func environment(own []string) []string {
	env := make([]string, 0, len(own))
	for _, kv := range own {
		if !strings.HasPrefix(kv, "KRYPTON_") {
			env = append(env, kv)
		}
	}
	return env
}

// tailBytes bounds how much of the end of a log is looked at.
const tailBytes = 64 << 10

// tail writes the last lines of the file at path to w, each behind prefix.
func tail(w io.Writer, path, prefix string, lines int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if _, err := f.Seek(max(0, end-tailBytes), io.SeekStart); err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return err
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	for _, l := range all[max(0, len(all)-lines):] {
		if _, err := fmt.Fprintf(w, "%s%s\n", prefix, l); err != nil {
			return err
		}
	}
	return nil
}
