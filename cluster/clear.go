package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Clear takes off the disk of this node what the registry was before that entry of the
// log, and returns the first entry of which anything is left: that one or a later one. The
// entry itself may stay.
//
// It writes a snapshot of the state at that entry or later, unless there is one, removes all
// snapshots from before it, cuts the log off, rewrites its file, because a database never
// wipes what it deleted, and removes what else of that time lies in the data directory. It is
// done again as often as somebody asks: a death leaves what the next call does.
//
// What was removed is overwritten where that can be done, which wipes it on a disk that
// writes in place. A file system that copies on write, a snapshot of the volume, a solid state
// disk and a backup keep what they keep: nothing in a process reaches it.
//
// Error codes: NotServing: the node has not applied the entry yet; Sealed: only an unsealed
// node writes snapshots; Unavailable: the disk, or a snapshot that is being sent, is in the
// way. Who asks tries again after these.
func (c *Cluster) Clear(ctx context.Context, index uint64) (oldest uint64, _ error) {
	if index == 0 {
		return 0, errs.New(errs.InvalidArgument, "there is no entry 0 of the log")
	}
	select {
	case c.clearing <- struct{}{}:
	case <-ctx.Done():
		return 0, errs.From(ctx.Err())
	}
	// The disk decides how long this takes: who asks may stop waiting, the node may not.
	type answer struct {
		oldest uint64
		err    error
	}
	done := make(chan answer, 1)
	if !c.spawn(func() {
		oldest, err := c.clear(index)
		<-c.clearing
		done <- answer{oldest, err}
	}) {
		<-c.clearing
		return 0, errClosing
	}
	select {
	case a := <-done:
		return a.oldest, a.err
	case <-ctx.Done():
		return 0, errs.From(ctx.Err())
	}
}

func (c *Cluster) clear(index uint64) (oldest uint64, err error) {
	if applied := c.machine.View().Index(); applied < index {
		return 0, errs.Newf(errs.NotServing, "this node has applied entry %d, and not yet entry %d", applied, index).With(errs.Hint("retry"))
	}
	end, err := c.snapshotFrom(index)
	if err != nil {
		return 0, err
	}
	if err := c.cutLog(index, end); err != nil {
		return 0, err
	}
	if err := c.store.rewrite(); err != nil {
		return 0, err
	}
	if err := c.removeSnapshots(index); err != nil {
		return 0, err
	}
	if err := c.removeLeftovers(); err != nil {
		return 0, err
	}
	return c.oldest()
}

// snapshotFrom returns the end of the newest snapshot, which is whole and not from before
// that entry.
func (c *Cluster) snapshotFrom(index uint64) (uint64, error) {
	newest := func() (uint64, error) {
		list, err := c.snaps.List()
		if err != nil {
			return 0, dirError("read", c.cfg.Dir.Path(snapDir), err)
		}
		// It is about to be the only one: opening it compares all of it with its checksum.
		if len(list) == 0 || list[0].Index < index || !c.snaps.whole(list[0].ID) {
			return 0, nil // one is written
		}
		return list[0].Index, nil
	}
	if end, err := newest(); end != 0 || err != nil {
		return end, err
	}
	if err := c.raft.Snapshot().Error(); err != nil {
		if strings.Contains(err.Error(), errSealedSnapshot.Error()) { // the library passes on the text only
			return 0, errs.New(errs.Sealed, "a sealed node writes no snapshot, and clears nothing", errs.Hint("unseal it: krypton unseal"))
		}
		return 0, errs.New(errs.Unavailable, "no snapshot of the registry could be written: "+err.Error(), errs.Hint("retry"), errs.Cause(err))
	}
	end, err := newest()
	if err == nil && end == 0 {
		err = errs.New(errs.Unavailable, "the snapshot that was written cannot be read", errs.Hint("look at the disk"))
	}
	return end, err
}

// cutLog removes the entries before index. It goes further, to the end of the snapshot, only
// if else more would be left than is rewritten at once. The entry at the end of the snapshot
// always stays: a leader that has nothing newer asks for it, and one that does not get it
// sends its snapshot; see [store.restored].
func (c *Cluster) cutLog(index, end uint64) error {
	cut := min(index, end) - 1
	n, err := c.store.bytesAfter(cut, rewriteLimit)
	if err == nil && n > rewriteLimit {
		cut = end - 1
		n, err = c.store.bytesAfter(cut, rewriteLimit)
	}
	if err != nil {
		return err
	}
	if n > rewriteLimit {
		return errs.New(errs.Unavailable, "too much is being written to rewrite the log now", errs.Hint("retry"))
	}
	first, err := c.store.FirstIndex()
	if err != nil || first == 0 || first > cut {
		return err
	}
	// Raft removes entries as well, on another goroutine, and always up to a snapshot.
	return c.logs.DeleteRange(first, cut)
}

// removeSnapshots removes the snapshots from before index, and directories that are none
// any more, whatever they were.
func (c *Cluster) removeSnapshots(index uint64) error {
	dir := c.cfg.Dir.Path(snapDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return dirError("read", dir, err)
	}
	list, err := c.snaps.List()
	if err != nil {
		return dirError("read", dir, err)
	}
	keep := map[string]bool{}
	for _, m := range list {
		keep[m.ID] = m.Index >= index
	}
	for _, e := range entries {
		// A snapshot that is being received has no name yet. It is from before index only if
		// the leader believes that this node has not got so far, and then it is the leader's
		// that is cleared later.
		if keep[e.Name()] || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		// Nobody finds it by the other name, and a start removes what has such a name.
		at, gone := filepath.Join(dir, e.Name()), filepath.Join(dir, e.Name()+".tmp")
		read, err := c.snaps.readers.unlessRead(e.Name(), func() error { return os.Rename(at, gone) })
		if read {
			return errs.New(errs.Unavailable, "a snapshot from before is being sent to a member", errs.Hint("retry"))
		}
		if err == nil {
			err = removeOverwritten(gone)
		}
		if err != nil {
			return dirError("remove", at, err)
		}
	}
	return atomicfile.SyncDir(dir)
}

// leftovers matches what people and earlier releases leave in the data directory: other seal
// records, and logs that were put aside.
//
//nolint:gochecknoglobals // A constant; Go has no constant slices.
var leftovers = []string{sealRecord + ".*", sealRecord + "~", raftDB + ".*", raftDB + "~"}

func (c *Cluster) removeLeftovers() error {
	for _, pattern := range leftovers {
		found, err := c.cfg.Dir.glob(pattern)
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := removeOverwritten(c.cfg.Dir.Path(f)); err != nil {
				return dirError("remove", c.cfg.Dir.Path(f), err)
			}
			c.log.LogAttrs(c.base, slog.LevelWarn, "a file from before was removed", slog.String("file", f))
			if err := atomicfile.SyncDir(c.cfg.Dir.Path(path.Dir(f))); err != nil {
				return dirError("sync", c.cfg.Dir.Path(path.Dir(f)), err)
			}
		}
	}
	return nil
}

// removeOverwritten overwrites all files at or below a path, then removes it.
func removeOverwritten(at string) error {
	_ = overwriteBelow(at) // what cannot be overwritten can be removed
	return os.RemoveAll(at)
}

func overwriteBelow(at string) (err error) {
	root, err := os.OpenRoot(filepath.Dir(at))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return fs.WalkDir(root.FS(), filepath.Base(at), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(overwrite(f), f.Close())
	})
}

// oldest returns the first entry of which anything is on disk.
func (c *Cluster) oldest() (uint64, error) {
	first, err := c.store.FirstIndex()
	if err != nil {
		return 0, err
	}
	list, err := c.snaps.List()
	if err != nil {
		return 0, dirError("read", c.cfg.Dir.Path(snapDir), err)
	}
	if len(list) == 0 {
		return 0, errs.New(errs.Internal, fmt.Sprintf("there is no snapshot in %s", c.cfg.Dir.Path(snapDir)))
	}
	for _, m := range list {
		if first == 0 || m.Index < first {
			first = m.Index
		}
	}
	return first, nil
}
