// Package ports chooses the ports of nodes for development and tests.
//
// A node that starts again has to find the ports that it had: others know it by
// them. A port that the kernel chose (port 0) is of the range that it lends to
// every outgoing connection, so it may be taken while the node is down, and stay
// so. Those that are chosen here lie below that range.
//
// # Invariants
//
//   - I1: a chosen address is on loopback, below the range that the kernel lends from, and could be listened on.
//   - I2: a process gets no address twice before it has got all others.
//
// # Concurrency
//
// Safe for concurrent use, and by several processes at once: each begins
// somewhere else.
//
// # Failure
//
// Between the choice and the node's start another process may take the port; the
// node then says so and does not start.
//
// # Source
//
// RFC 6335 section 6 (the ranges); Linux, ip-sysctl, ip_local_port_range.
package ports

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	first = 10_000 // below are those of servers that somebody installed
	// usual is where the range that kernels lend from begins, if they do not say.
	usual = 32_000

	rangeFile = "/proc/sys/net/ipv4/ip_local_port_range"
)

// taken counts the addresses that this process got.
var taken atomic.Int64

// Loopback returns an address at which a node can listen now, and again when it
// has been down. It fails when every port is in use.
func Loopback() (string, error) {
	begin := lentFrom(os.ReadFile(rangeFile))
	n := begin - first
	for range n {
		// Processes that start one after the other begin far from each other.
		port := first + (os.Getpid()*97+int(taken.Add(1)))%n
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp", addr) //nolint:noctx // It asks the kernel only, and does not wait.
		if err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("every port below those that the kernel lends is in use")
}

// lentFrom returns where the lent range begins, as the kernel's file says, or the
// usual place if it says nothing or leaves no room below.
func lentFrom(raw []byte, err error) int {
	if err != nil {
		return usual
	}
	begin, _, _ := strings.Cut(strings.TrimSpace(string(raw)), "\t")
	n, err := strconv.Atoi(begin)
	if err != nil || n < first+1000 || n > 1<<16 {
		return usual
	}
	return n
}
