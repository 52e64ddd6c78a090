package command

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// cannotRead is the error of a file that was named and cannot be read.
func cannotRead(file string, err error) error {
	return errs.Newf(errs.InvalidArgument, "%s cannot be read: %s", file, reason(err)).
		With(errs.Hint("check the path and its permissions"), errs.Cause(err))
}

// cannotMake is the error of a file or directory that cannot be made.
func cannotMake(file string, err error) error {
	return errs.Newf(errs.InvalidArgument, "%s cannot be written: %s", file, reason(err)).
		With(errs.Hint("check the path and its permissions"), errs.Cause(err))
}

// cannotWrite is the error of output that was begun and not finished: the disk is
// full, or who reads it has gone.
func cannotWrite(what string, err error) error {
	return errs.Newf(errs.Internal, "%s was not written: %s", what, reason(err)).
		With(errs.Hint("nothing that came out is complete; make room where it goes, and run it again"), errs.Cause(err))
}

// reason is the last part of a chain of errors: without the paths and the names
// of calls, which are said already, or are those of unfinished files.
func reason(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// isOutput reports whether err is of writing a result, and not of what is in it.
func isOutput(err error) bool {
	pe, ok := errors.AsType[*fs.PathError](err)
	return ok && pe.Op == "write"
}

// exists is the error of a file that is not overwritten.
func exists(file, hint string) error {
	return errs.New(errs.AlreadyExists, file+" exists already", errs.Hint("%s", hint))
}

// outFile is a file that appears under its name only when it is complete (I3).
type outFile struct {
	*os.File

	to      string // "" when the name is a device or a pipe, which is written directly
	mode    os.FileMode
	release func()
	over    bool
}

// create opens the file to. Its mode is mode without what the umask takes away.
func (e *Env) create(to string, mode os.FileMode) (*outFile, error) {
	fail := func(err error) (*outFile, error) {
		return nil, cannotMake(to, err)
	}
	if target, err := filepath.EvalSymlinks(to); err == nil {
		to = target // replace what the link points to, not the link
	}
	if st, err := os.Stat(to); err == nil && !st.Mode().IsRegular() {
		if st.IsDir() {
			return fail(&fs.PathError{Op: "open", Path: to, Err: errors.New("is a directory")})
		}
		f, err := os.OpenFile(to, os.O_WRONLY, 0)
		if err != nil {
			return fail(err)
		}
		return &outFile{File: f, release: func() {}}, nil
	}
	f, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+".*.tmp") // mode 0600
	if err != nil {
		return fail(err)
	}
	release, ok := e.own(func() { _ = os.Remove(f.Name()) })
	if !ok {
		_ = f.Close()
		return nil, errors.Join(os.Remove(f.Name()), interrupted())
	}
	return &outFile{File: f, to: to, mode: mode, release: release}, nil
}

// commit makes the file appear.
func (o *outFile) commit() error {
	o.over = true
	defer o.release()
	if o.to == "" {
		return o.Close()
	}
	err := o.Sync()
	if err == nil && runtime.GOOS != "windows" {
		err = o.Chmod(o.mode &^ umask())
	}
	if err = errors.Join(err, o.Close()); err == nil {
		err = os.Rename(o.Name(), o.to)
	}
	if err != nil {
		_ = os.Remove(o.Name())
		return cannotWrite(o.to, err)
	}
	return nil
}

// abort removes the file, unless it was committed.
func (o *outFile) abort() error {
	if o.over {
		return nil
	}
	defer o.release()
	err := o.Close()
	if o.to != "" {
		err = errors.Join(err, os.Remove(o.Name()))
	}
	return err
}

// save writes a small file that does not exist yet. A key that is overwritten
// may be the only one that opens something.
func save(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return exists(path, "choose another directory or name")
	}
	if err != nil {
		return cannotMake(path, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path)
		return cannotWrite(path, err)
	}
	return nil
}
