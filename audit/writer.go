package audit

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// start starts the goroutines of the log. Callers do no I/O themselves: one that
// did would be stuck in the call when the disk hangs, and nobody could give it
// its error. Two of them, so that records are written while others are synced.
func (l *Log) start() {
	ctx, stop := context.WithCancel(context.Background())
	l.stopWatching = stop
	l.workers = 2
	go l.runWriter()
	go l.runSyncer()
	go l.watch(ctx)
}

// runWriter writes what is pending until the log ends or fails.
func (l *Log) runWriter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.failure == nil && !l.ending {
		if l.written == l.encoded {
			l.toWrite.Wait()
			continue
		}
		l.write()
	}
	l.leave()
}

// runSyncer makes durable what is wanted until the log ends or fails.
func (l *Log) runSyncer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.failure == nil && !l.ending {
		if l.alone || l.wanted <= l.synced {
			l.toSync.Wait()
			continue
		}
		l.sync()
	}
	l.leave()
}

// leave ends the writer or the syncer; the last of them closes the file. It is
// called with mu.
func (l *Log) leave() {
	l.workers--
	if l.workers > 0 {
		return
	}
	file := l.file
	l.begin(&l.writing, "close")
	l.mu.Unlock()
	err := file.Close()
	l.mu.Lock()
	l.end(&l.writing)
	if err != nil {
		l.fail(unavailable("close", l.cfg.Dir, err))
	}
	l.released = true
	l.changed.Broadcast()
}

// write hands all pending lines to the operating system in one write. It is
// called with mu, releases it over the I/O, and leaves either written advanced
// or failure set. When the log failed meanwhile, what came of the I/O changes
// nothing any more (I7).
func (l *Log) write() {
	batch, last, head := l.pending, l.encoded, l.prev
	l.pending, l.spare = l.spare[:0], nil
	rotate := l.size > 0 && l.size+int64(len(batch)) > l.cfg.SegmentBytes
	if rotate && !l.takeAlone() {
		return
	}
	file, first := l.file, l.written+1
	l.begin(&l.writing, "write")
	l.mu.Unlock()

	var err error
	if rotate {
		file, err = l.rotate(file, first)
	}
	rotated := rotate && err == nil
	if err == nil {
		err = writeAll(file, batch)
	}

	l.mu.Lock()
	l.end(&l.writing)
	if file != l.file {
		l.file, l.size = file, 0
	}
	if l.failure != nil {
		return
	}
	if rotated {
		l.synced = first - 1
	}
	if err != nil {
		if diskFull(err) {
			l.lastWords(err)
		}
		l.fail(unavailable("write", l.cfg.Dir, err))
		return
	}
	l.size += int64(len(batch))
	l.written, l.prevDisk = last, head
	l.spare = batch[:0]
	l.alone = false // The syncer need not know: the change of segments made durable all that was wanted.
	l.changed.Broadcast()
}

// takeAlone waits until no fsync runs and lets none begin. It reports false if
// the log failed meanwhile. It is called with mu, by the writer.
func (l *Log) takeAlone() bool {
	l.alone = true
	for l.syncing.what != "" && l.failure == nil {
		l.toWrite.Wait()
	}
	return l.failure == nil
}

// rotate makes the current segment durable, closes it and begins the next one,
// whose first record will be first. It returns the file to go on with, also
// with an error.
func (l *Log) rotate(old File, first uint64) (File, error) {
	if err := l.next("fsync"); err != nil {
		return old, err
	}
	if err := old.Sync(); err != nil {
		return old, err
	}
	if err := l.next("create"); err != nil {
		return old, err
	}
	next, err := l.cfg.FS.Append(filepath.Join(l.cfg.Dir, segmentName(first)))
	if err != nil {
		return old, err
	}
	if err = l.next("fsync of the directory"); err == nil {
		err = l.cfg.FS.SyncDir(l.cfg.Dir)
	}
	if err == nil {
		err = l.next("close")
	}
	if err != nil {
		_ = next.Close() // The log stops; the empty segment is used when it opens again.
		return old, err
	}
	if err := old.Close(); err != nil {
		return next, err
	}
	return next, l.next("write")
}

// sync makes everything written so far durable. It is called with mu and
// releases it over the I/O: records that come meanwhile are written, and share
// the next fsync.
func (l *Log) sync() {
	file, target := l.file, l.written
	l.begin(&l.syncing, "fsync")
	l.mu.Unlock()
	err := file.Sync()
	l.mu.Lock()
	l.end(&l.syncing)
	switch {
	case l.failure != nil:
		return // Too late to say that anything is safe.
	case err != nil:
		// Never again on this file: the kernel may have marked the lost pages clean.
		l.fail(unavailable("fsync", l.cfg.Dir, err))
		return
	}
	l.synced = max(l.synced, target)
	l.changed.Broadcast()
	if l.alone {
		l.toWrite.Signal()
	}
}

// lastWords frees the reserve and records why the log stops. The writer calls it
// with mu after a write found the disk full, before anybody is told; not after a
// failed fsync, when nothing more is written. Its own errors change nothing.
func (l *Log) lastWords(cause error) {
	if !l.takeAlone() {
		return
	}
	r := Record{
		Seq: l.written + 1, Prev: l.prevDisk, TimeMs: l.cfg.Clock.Now().UnixMilli(), Node: l.cfg.Node,
		Class: Control, Phase: Whole, Act: ActFailed, Outcome: errs.OutcomeFailed, Code: errs.AuditUnavailable, Cause: cause.Error(),
	}
	line := append(AppendLine(nil, &r), '\n')
	file, size := l.file, l.size
	l.begin(&l.writing, "truncate")
	l.mu.Unlock()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"truncate", func() error { return file.Truncate(size) }}, // nobody was told that what is cut off is safe
		{"remove", func() error { return l.cfg.FS.Remove(filepath.Join(l.cfg.Dir, reserveName)) }},
		{"write", func() error { return writeAll(file, line) }},
		{"fsync", file.Sync},
	} {
		if l.next(step.what) != nil || step.do() != nil {
			break
		}
	}
	l.mu.Lock()
	l.end(&l.writing)
}

func writeAll(f File, b []byte) error {
	n, err := f.Write(b)
	if err == nil && n < len(b) {
		return errShortWrite
	}
	return err
}

var errShortWrite = errors.New("the file took fewer bytes than it was given")
