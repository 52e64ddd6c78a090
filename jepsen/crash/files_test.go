//go:build linux && (amd64 || arm64)

package crash_test

import (
	"errors"
	"os"
	"path/filepath"
)

// emptied removes everything in a directory, as a person would.
func emptied(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
