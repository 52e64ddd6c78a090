//go:build unix

package audit

import (
	"os"
	"path/filepath"
)

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		_ = d.Close() // The sync error is the one that matters.
		return err
	}
	return d.Close()
}
