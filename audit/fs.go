package audit

import (
	"io"
	"os"
	"path/filepath"
)

// FS is the part of a file system that a log uses. Tests put faults between
// the log and the disk here; [OS] is the real one.
type FS interface {
	MkdirAll(dir string) error                   // with mode 0700
	List(dir string) ([]string, error)           // names in dir, in any order
	Open(name string) (io.ReadCloser, error)     // for reading
	Append(name string) (File, error)            // for appending, created with mode 0600
	Truncate(name string, size int64) error      // and make that durable
	Reserve(name string, size int64) (err error) // make name a file of size bytes whose blocks are allocated
	Remove(name string) error
	SyncDir(dir string) error
}

// File is an open segment.
type File interface {
	io.Writer
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// OS is the machine's file system. The zero value is ready to use.
type OS struct{}

// MkdirAll implements [FS].
func (OS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

// List implements [FS].
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Open implements [FS].
func (OS) Open(name string) (io.ReadCloser, error) { return os.Open(filepath.Clean(name)) }

// Append implements [FS].
func (OS) Append(name string) (File, error) {
	f, err := os.OpenFile(filepath.Clean(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Truncate implements [FS].
func (OS) Truncate(name string, size int64) (err error) {
	f, err := os.OpenFile(filepath.Clean(name), os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// Reserve implements [FS].
func (OS) Reserve(name string, size int64) (err error) {
	f, err := os.OpenFile(filepath.Clean(name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != size {
		if err := f.Truncate(0); err != nil {
			return err
		}
		if err := allocate(f, size); err != nil {
			return err
		}
	}
	return f.Sync()
}

// Remove implements [FS]. A file that is not there is removed already.
func (OS) Remove(name string) error {
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// SyncDir implements [FS].
func (OS) SyncDir(dir string) error { return syncDir(dir) }

type osFile struct{ *os.File }

// Size implements [File].
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// writeZeros allocates by writing. A file system that compresses or
// deduplicates makes such a reserve worthless; put the log on another one.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	for size > 0 {
		n := min(size, int64(len(zeros)))
		if _, err := f.Write(zeros[:n]); err != nil {
			return err
		}
		size -= n
	}
	return nil
}
