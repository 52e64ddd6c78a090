//go:build linux

package serve

import "syscall"

// childAttributes makes the kernel end a child when the test's process dies, of
// a timeout for example.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
