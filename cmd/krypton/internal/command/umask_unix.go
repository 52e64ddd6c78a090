//go:build unix

package command

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// umask returns the file mode bits that the process takes away. They can be read
// only by setting them; a command line does it once, before anything else could
// make a file.
func umask() os.FileMode {
	m := syscall.Umask(0o077)
	syscall.Umask(m)
	return os.FileMode(m) //nolint:gosec // Nine bits.
}

// writable asks without trying: a file that is made to see whether it can be
// stays when this process dies.
func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "write", Path: dir, Err: err}
	}
	return nil
}
