// Package atomicfile replaces small files so that a crash, a power cut or a full disk leaves the old one or the new one.
//
// # Invariants
//
//   - I1: at every moment the file is the old one or the new one, whole; when [Write] has returned nil it is the new one, also after a power cut.
//   - I2: when [Write] has returned an error of the file system, there is no temporary file beside the old one.
//   - I3: the file has the mode that was asked for, from its first byte on; a file or link that somebody put in the place of the temporary file is not written to.
//
// # Concurrency
//
// One writer per path at a time, which the caller sees to: the temporary file has
// one name, so that what a crash leaves is replaced by the next write and does
// not pile up.
//
// # Failure
//
// Errors are those of the file system. After one of them the old file is in
// place, but for a failure to sync the directory: then it is the new one, and may
// be the old one after a power cut.
//
// # Source
//
// docs/formats.md, node.json; ext4(5), auto_da_alloc (why a rename alone is not enough).
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Suffix is what the name of the temporary file ends in.
const Suffix = ".tmp"

// Step is a point of [Write] at which a crash leaves another picture on disk.
type Step int

// The steps, in their order. Each is over when it is reported.
const (
	Created Step = iota + 1 // the temporary file is there, empty
	Written                 // it has the content
	Synced                  // and the content is on disk
	Renamed                 // it has the name of the file
)

// Write replaces the file at path, whose directory exists, by one with that
// content and mode.
func Write(path string, content []byte, mode fs.FileMode) error {
	return WriteWith(path, content, mode, nil)
}

// WriteWith is [Write] for tests: crash is called after each step. An error of
// crash ends the write as a crash of the process does, with nothing cleaned up.
func WriteWith(path string, content []byte, mode fs.FileMode, crash func(Step) error) (err error) {
	temp := path + Suffix
	// It may be of a crash. Unlinked and not truncated, since it may be open
	// elsewhere, be a link, or have another mode (I3).
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	crashed := false
	defer func() {
		if err != nil && !crashed {
			_ = os.Remove(temp) // I2; after the rename there is none
		}
	}()
	for _, s := range []struct {
		do   func() error
		then Step
	}{
		{func() error { return nil }, Created},
		{func() error { _, err := f.Write(content); return err }, Written},
		{f.Sync, Synced},
	} {
		err := s.do()
		if err == nil && crash != nil {
			err = crash(s.then)
			crashed = err != nil
		}
		if err != nil {
			_ = f.Close() // the first error is the one to report
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if crash != nil {
		if err := crash(Renamed); err != nil {
			crashed = true
			return err
		}
	}
	return SyncDir(filepath.Dir(path))
}
