package pkcs11

import "syscall"

// attributes: the helper ends with the node, also with one that is killed, and
// no signal of the node's terminal reaches it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
}
