package devcluster

import "syscall"

// processAttributes makes the kernel kill the process when the one that started
// it dies, even of SIGKILL (I1).
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
