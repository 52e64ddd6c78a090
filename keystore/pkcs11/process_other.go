//go:build unix && !linux

package pkcs11

import "syscall"

// attributes: the helper ends when it reads the end of its descriptor; this
// system has no signal for the death of a parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
