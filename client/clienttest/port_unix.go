//go:build unix

package clienttest

import (
	"net"
	"syscall"
)

// keepPort keeps the port of a killed node from being given to somebody else, who
// would answer in its place: it is taken, and nobody listens.
func keepPort(addr string) (release func()) {
	none := func() {}
	tcp, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return none
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return none
	}
	syscall.CloseOnExec(fd)
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}); err != nil {
		_ = syscall.Close(fd)
		return none
	}
	return func() { _ = syscall.Close(fd) }
}
