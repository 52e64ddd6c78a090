package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	// rewriteLimit is how many bytes of entries are copied at most while every other call of
	// the log store waits: a disk on which that takes a second is too slow for a leader.
	rewriteLimit = 8 << 20
	// rewriteBatch is how many bytes one transaction of the copy has.
	rewriteBatch = 1 << 20
)

// rewrite copies what the database has into a new file, which takes the place of the old
// one. The database reuses the pages of what it deleted and never wipes them, so removed
// entries can be read from its file for as long as it lives.
//
// All other calls wait meanwhile. A copy that fails, because the disk is full, say, leaves
// the database as it was and is no failure of the store; that the old file cannot be opened
// again is. A death leaves the one or the other.
//
// The content of the old file is overwritten when nobody can use it any more. That is for disks
// that write in place; one that does not keeps it for as long as it likes.
func (s *store) rewrite() error {
	old, err := os.OpenFile(s.path, os.O_WRONLY, 0)
	if err != nil {
		return storeError(s.path, writeError{err})
	}
	defer func() { _ = old.Close() }() // what had to be written was synced
	var failed error
	if err := s.callUnder(&s.swap, opRewrite, func() (err error) {
		failed, err = s.replace()
		return err
	}); err != nil {
		return err
	}
	if failed != nil {
		return storeError(s.path, writeError{failed})
	}
	_ = overwrite(old) // as above: it is not what the removal rests on
	return nil
}

// replace is rewrite under the lock. An error in failed is one of the copy, err is one after
// which there is no database.
func (s *store) replace() (failed, err error) {
	tmp := s.path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err, nil
	}
	// The library has one handle per file, and the copy is made of all buckets and keys, those
	// included that a later release may add.
	if err := s.below.Close(); err != nil {
		return nil, fmt.Errorf("close: %w", err)
	}
	if failed = guarded(func() error { return copyDatabase(s.path, tmp) }); failed == nil {
		failed = os.Rename(tmp, s.path)
	}
	if failed == nil {
		failed = atomicfile.SyncDir(filepath.Dir(s.path))
	} else {
		_ = os.Remove(tmp) // else the next start does
	}
	below, err := openBackend(s.path)
	if err != nil {
		return failed, fmt.Errorf("open again: %w", err)
	}
	s.below = below
	return failed, nil
}

// copyDatabase copies the database at from to a new file, and compares the copy with it.
func copyDatabase(from, to string) (err error) {
	src, err := bbolt.Open(from, fileMode, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := bbolt.Open(to, fileMode, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := bbolt.Compact(dst, src, rewriteBatch); err != nil {
		return err
	}
	return sameDatabase(src, dst)
}

var errCopy = errors.New("the copy of the database is another one")

// sameDatabase returns nil if both have the same keys and values.
func sameDatabase(a, b *bbolt.DB) error {
	return a.View(func(x *bbolt.Tx) error {
		return b.View(func(y *bbolt.Tx) error {
			return sameBuckets(x.Cursor(), y.Cursor(), x.Bucket, y.Bucket)
		})
	})
}

func sameBuckets(x, y *bbolt.Cursor, inX, inY func([]byte) *bbolt.Bucket) error {
	kx, vx := x.First()
	ky, vy := y.First()
	for ; kx != nil && ky != nil; kx, vx, ky, vy = next(x, y) {
		if string(kx) != string(ky) || (vx == nil) != (vy == nil) || string(vx) != string(vy) {
			return errCopy
		}
		if vx == nil { // a bucket
			bx, by := inX(kx), inY(ky)
			if err := sameBuckets(bx.Cursor(), by.Cursor(), bx.Bucket, by.Bucket); err != nil {
				return err
			}
		}
	}
	if kx != nil || ky != nil {
		return errCopy
	}
	return nil
}

func next(x, y *bbolt.Cursor) (kx, vx, ky, vy []byte) {
	kx, vx = x.Next()
	ky, vy = y.Next()
	return kx, vx, ky, vy
}

// bytesAfter returns how many bytes the entries behind index have, counted up to limit.
func (s *store) bytesAfter(index uint64, limit int) (n int, err error) {
	first, err := s.FirstIndex()
	if err != nil {
		return 0, err
	}
	last, err := s.LastIndex()
	// The log begins later, where the leader sent a snapshot.
	for i := max(index+1, first); err == nil && i <= last && n <= limit; i++ {
		var l raft.Log
		if err = s.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			return n, errs.New(errs.Unavailable, "the log changed while it was read", errs.Hint("retry"))
		}
		n += len(l.Data) + len(l.Extensions)
	}
	return n, err
}

// zeros is what is written over what was removed.
//
//nolint:gochecknoglobals // A constant; Go has no constant slices.
var zeros = make([]byte, 1<<20)

// overwrite writes zeros over a file.
func overwrite(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	w := io.NewOffsetWriter(f, 0)
	for left := st.Size(); left > 0; {
		n, err := w.Write(zeros[:min(left, int64(len(zeros)))])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return f.Sync()
}
