//go:build !unix

package command

import "os"

// umask returns 0: there are no such bits.
func umask() os.FileMode { return 0 }
