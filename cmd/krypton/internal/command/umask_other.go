//go:build !unix

package command

import (
	"errors"
	"os"
)

// umask returns 0: there are no such bits.
func umask() os.FileMode { return 0 }

// writable tries.
func writable(dir string) error {
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
