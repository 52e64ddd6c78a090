//go:build linux || darwin || freebsd || netbsd || openbsd

package arena

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// region is a reserved range of addresses: nothing in it is accessible until
// it is opened, and the pages before and behind it never are.
type region struct{ all []byte }

func (r region) valid() bool { return r.all != nil }

// reserve takes addresses for n bytes and a guard page at both ends.
func reserve(n int) (region, error) {
	all, err := unix.Mmap(-1, 0, n+2*os.Getpagesize(), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return region{}, err
	}
	if err := exclude(all); err != nil {
		return region{}, errors.Join(err, unix.Munmap(all))
	}
	return region{all: all}, nil
}

// open makes n bytes at off readable and writable.
func (r region) open(off, n int) ([]byte, error) {
	start := os.Getpagesize() + off
	mem := r.all[start : start+n : start+n]
	if err := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, err
	}
	return mem, nil
}

func lock(mem []byte) error { return unix.Mlock(mem) }

func unlock(mem []byte) { _ = unix.Munlock(mem) } // best effort: the page stays closed to new use anyway

// probe reports whether n more bytes could be locked now.
func probe(n int) error {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	lockErr := unix.Mlock(mem)
	if err := unix.Munmap(mem); err != nil {
		return err
	}
	return lockErr
}
