package command

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// examineDir checks the data directory of this machine. It reads names and
// modes only, never a file, and asks the node over its socket.
func (in *Invocation) examineDir(ctx context.Context, dir string) []finding {
	return []finding{checkDataDir(dir), in.checkSocket(ctx, dir)}
}

func checkDataDir(dir string) finding {
	out := func() finding {
		st, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return brokenf(errs.InvalidConfig, "give --data-dir of a node, or start krypton server once", "%s does not exist", dir)
		case err != nil:
			return brokenf(errs.InvalidConfig, "run it as the user that runs the node", "%s cannot be looked at: %v", dir, errors.Unwrap(err))
		case !st.IsDir():
			return brokenf(errs.InvalidConfig, "give the directory", "%s is not a directory", dir)
		}
		count := 0
		var open string
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			count++
			if open == "" && !checkable(info.Mode()) {
				open = path
			}
			return nil
		})
		switch {
		case err != nil:
			return brokenf(errs.InvalidConfig, "run it as the user that runs the node", "%s cannot be read: %v", dir, errors.Unwrap(err))
		case open != "":
			return brokenf(errs.InvalidConfig, "take it from them: chmod go-rwx "+open, "%s can be read or written by other users", open)
		}
		return fine("%d files, for their owner only", count)
	}()
	out.name = "data-dir"
	return out
}

// checkable reports whether a mode keeps others out. Files behind a closed
// directory would be safe with any mode; the node makes them closed all the
// same, so another mode is the sign of a copy or a restore that lost them.
func checkable(m fs.FileMode) bool {
	return m&fs.ModeSymlink != 0 || m.Perm()&0o007 == 0
}

func (in *Invocation) checkSocket(ctx context.Context, dir string) finding {
	out := func() finding {
		admin, done, err := in.admin(dir)
		if err != nil {
			return broken(err)
		}
		defer done()
		st, err := call(ctx, in, admin.GetStatus, &kryptonv1.GetStatusRequest{})
		if err != nil {
			return broken(err)
		}
		if err := sealedError(st.GetSeal()); err != nil {
			return broken(err)
		}
		return fine("node %s answers, release %s", nodeLabel(st.GetSeal()), st.GetVersion())
	}()
	out.name = "socket"
	return out
}
