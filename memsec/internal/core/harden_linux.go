package core

import (
	"math"

	"golang.org/x/sys/unix"
)

const hardens = true

// harden turns core dumps off and closes the process to debuggers and to
// /proc/PID/mem of the same user.
func harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// raiseLimit raises the soft limit to the hard one. When that is refused, the
// limit that is there is measured and named as it is.
func raiseLimit() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &l) // see above
	}
}

// lockLimit returns RLIMIT_MEMLOCK in bytes, or -1 when there is none.
func lockLimit() int64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil || l.Cur > math.MaxInt64 {
		return -1
	}
	return int64(l.Cur)
}
