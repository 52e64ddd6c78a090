package command

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

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
		return nil, errs.New(errs.InvalidArgument, "write the output: "+err.Error(), errs.Cause(err))
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
		return nil, errors.Join(os.Remove(f.Name()), errs.New(errs.Canceled, "interrupted"))
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
		return errs.New(errs.Internal, "write the output: "+err.Error(), errs.Cause(err))
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
		return errs.New(errs.AlreadyExists, path+" exists already", errs.Hint("choose another directory or name"))
	}
	if err != nil {
		return errs.New(errs.InvalidArgument, "write a file: "+err.Error(), errs.Cause(err))
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path)
		return errs.New(errs.Internal, "write a file: "+err.Error(), errs.Cause(err))
	}
	return nil
}
