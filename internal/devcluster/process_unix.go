//go:build unix && !linux

package devcluster

import "syscall"

// processAttributes has no death signal here: a SIGKILL of the starting process
// leaves the nodes running, which the package comment says.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
