//go:build unix

package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// takeLock makes this process the only one on a data directory. The kernel
// gives the lock back when the process ends, however it ends, so there is no
// stale lock to clean up; the pid in the file is for the reader of the error.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, dirError("open", path, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		if err = writePID(f); err == nil {
			return f, nil
		}
		_ = f.Close()
		return nil, dirError("write", path, err)
	}
	defer func() { _ = f.Close() }()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errs.New(errs.InvalidConfig, fmt.Sprintf("cannot lock %s: %v", path, err),
			errs.Hint("the data directory must be on a local disk"), errs.Cause(err))
	}
	raw, _ := io.ReadAll(io.LimitReader(f, 32))
	holder := strings.TrimSpace(string(raw))
	if holder == "" {
		holder = "unknown"
	}
	return nil, errs.New(errs.FailedState, "another process holds the data directory: pid "+holder,
		errs.Hint("stop that process, or give this node a directory of its own"))
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

// checkOwner refuses a directory of another user: that user could exchange what
// is in it, and files that root makes in it keep the service from starting later.
func checkOwner(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return dirError("look at", path, err)
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || int(sys.Uid) == os.Geteuid() {
		return nil
	}
	return errs.New(errs.InvalidConfig, fmt.Sprintf("%s belongs to uid %d, and this process runs as uid %d", path, sys.Uid, os.Geteuid()),
		errs.Hint("run the node as the owner of its data directory (sudo -u), or give it the directory: chown -R"))
}
