//go:build unix

package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Names in the directory. Changing one breaks existing keystores.
const (
	keysName = "keys"
	lockName = "lock"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// checkAccess refuses a path that anyone but its owner, the user of this
// process, can use (I1). Exactly one mode is accepted: a file that is more
// open may have been read already, and one that is less open was changed by
// someone for a reason that this package does not know.
func checkAccess(path string, info fs.FileInfo, want fs.FileMode) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: this file system does not tell who owns a file", path)
	}
	return checkOwnerAndMode(path, info.Mode(), want, int(st.Uid), os.Geteuid())
}

func checkOwnerAndMode(path string, mode, want fs.FileMode, owner, user int) error {
	switch {
	case want == dirMode && !mode.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case want == fileMode && !mode.IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case owner != user:
		return fmt.Errorf("%s belongs to user %d, and this process runs as user %d; run as the owner, or as root: chown %d %s", path, owner, user, user, path)
	case mode.Perm() != want || mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0:
		return fmt.Errorf("%s has mode %04o, which is not %04o; if nobody else can have read it: chmod %04o %s", path, mode.Perm(), want, want, path)
	}
	return nil
}

// openChecked opens a file of the directory and checks what was opened, not
// what stood at the path a moment before. A symbolic link is refused.
func openChecked(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, syscall.ELOOP) {
			return nil, nil, fmt.Errorf("%s is a symbolic link", path)
		}
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkAccess(path, info, fileMode)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}
