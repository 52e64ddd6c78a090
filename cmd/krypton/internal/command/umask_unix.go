//go:build unix

package command

import (
	"os"
	"syscall"
)

// umask returns the file mode bits that the process takes away. They can be read
// only by setting them; a command line does it once, before anything else could
// make a file.
func umask() os.FileMode {
	m := syscall.Umask(0o077)
	syscall.Umask(m)
	return os.FileMode(m) //nolint:gosec // Nine bits.
}
