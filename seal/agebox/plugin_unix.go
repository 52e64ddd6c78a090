//go:build unix

package agebox

import (
	"os"
	"os/exec"
	"syscall"
)

// alone makes the program begin a process group of its own, so that what it starts ends
// with it.
func alone(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func kill(p *os.Process) error { return syscall.Kill(-p.Pid, syscall.SIGKILL) }
