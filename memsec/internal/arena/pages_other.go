//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package arena

import "errors"

var errNoLock = errors.New("this system has no supported way to lock memory")

// region is ordinary memory on systems where this package cannot lock pages.
type region struct{ all []byte }

func (r region) valid() bool { return r.all != nil }

func reserve(n int) (region, error) { return region{all: make([]byte, n)}, nil }

func (r region) open(off, n int) ([]byte, error) { return r.all[off : off+n : off+n], nil }

func lock([]byte) error { return errNoLock }

func unlock([]byte) {}

// probe always agrees: what memguard may lock is not visible from here.
func probe(int) error { return nil }
