package arena

import "golang.org/x/sys/unix"

// exclude keeps the range out of core dumps and out of forked children. Go
// itself forks only to exec, but a C library in the process may not.
func exclude(mem []byte) error {
	if err := unix.Madvise(mem, unix.MADV_DONTDUMP); err != nil {
		return err
	}
	return unix.Madvise(mem, unix.MADV_DONTFORK)
}
