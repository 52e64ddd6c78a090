//go:build linux && (amd64 || arm64)

package steps

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// shadow knows what of a directory would outlive a power cut.
type shadow struct {
	dir  string
	keep string // contents, one file per identity
	root identity

	names    map[identity]map[string]identity // names that a directory has on disk
	contents map[identity]bool                // files that were synced
	modes    map[identity]fs.FileMode
	next     int
	files    map[identity]string
}

// identity is a file or directory, whatever its name. The time of its birth
// tells it from an earlier one with the same number.
type identity struct {
	ino  uint64
	born int64
}

func newShadow(dir string) (*shadow, error) {
	keep, err := os.MkdirTemp("", "steps-")
	if err != nil {
		return nil, err
	}
	s := &shadow{
		dir: dir, keep: keep, names: map[identity]map[string]identity{}, contents: map[identity]bool{},
		modes: map[identity]fs.FileMode{}, files: map[identity]string{},
	}
	if s.root, err = identify(dir); err != nil {
		return nil, err
	}
	// What is there at the beginning is on disk.
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return s.synced(path)
	})
	return s, err
}

func identify(path string) (identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return identity{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return identity{st.Ino, st.Btime.Sec*1e9 + int64(st.Btime.Nsec)}, nil
}

// synced notes that the file or directory at path is about to be on disk.
func (s *shadow) synced(path string) error {
	id, err := identify(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed while it was open: no name will lead to it
	}
	if err != nil {
		return err
	}
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	s.modes[id] = st.Mode()
	if !st.IsDir() {
		s.contents[id] = true
		return s.copyIn(path, id)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	now := map[string]identity{}
	for _, e := range entries {
		if !e.IsDir() && !e.Type().IsRegular() {
			continue // a socket
		}
		child := filepath.Join(path, e.Name())
		id, err := identify(child)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s.modes[id] = info.Mode()
		now[e.Name()] = id
	}
	s.names[id] = now
	return nil
}

func (s *shadow) copyIn(path string, id identity) error {
	to, ok := s.files[id]
	if !ok {
		s.next++
		to = filepath.Join(s.keep, fmt.Sprint(s.next))
		s.files[id] = to
	}
	return copyFile(path, to, 0o600)
}

// copyFile copies a file; holes stay holes.
func copyFile(from, to string, mode fs.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(st.Size()); err != nil {
		return err
	}
	for off := int64(0); off < st.Size(); {
		data, err := unix.Seek(int(in.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, data), io.NewSectionReader(in, data, hole-data)); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

// restore makes the directory what it knows.
func (s *shadow) restore() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			return err
		}
	}
	return s.fill(s.dir, s.root)
}

func (s *shadow) fill(dir string, id identity) error {
	for name, child := range s.names[id] {
		path := filepath.Join(dir, name)
		mode := s.modes[child]
		switch {
		case mode.IsDir():
			if err := os.Mkdir(path, mode.Perm()); err != nil {
				return err
			}
			if err := s.fill(path, child); err != nil {
				return err
			}
		case s.contents[child]:
			if err := copyFile(s.files[child], path, mode.Perm()); err != nil {
				return err
			}
		default: // its name was synced, its content never
			if err := os.WriteFile(path, nil, mode.Perm()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *shadow) close() error { return os.RemoveAll(s.keep) }
