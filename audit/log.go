package audit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Defaults and limits of [Config].
const (
	DefaultSegmentBytes = 64 << 20
	DefaultReserveBytes = 64 << 20
	MinSegmentBytes     = 2 * MaxLine
	MinReserveBytes     = 64 << 10 // room for the failure record and the file system's own blocks

	// maxPending bounds the memory of records that wait for a slow disk; whoever
	// comes later waits before being encoded.
	maxPending = 1 << 20
)

// Config says where and how a log is kept.
type Config struct {
	Dir          string      // made with mode 0700 if it is not there
	Node         string      // name of the node, in every record; must not be empty
	SegmentBytes int64       // a new segment begins before this size; 0 = DefaultSegmentBytes
	ReserveBytes int64       // disk space kept back for the log's last words; 0 = DefaultReserveBytes
	Clock        clock.Clock // must not be nil
	FS           FS          // nil = OS{}
}

// Log is the audit log of one node. Make one with [Open]. Two processes must not
// open one directory; the lock on the data directory keeps them apart.
type Log struct {
	cfg Config

	mu      sync.Mutex
	changed sync.Cond // with mu: any field below changed

	file    File
	size    int64  // of the current segment, counting whole written records only
	pending []byte // lines that are not written yet
	spare   []byte // the other buffer; taken by whoever writes

	prev     [32]byte // hash of the last encoded line
	encoded  uint64   // seq of the last encoded record
	written  uint64   // seq of the last record the operating system has
	prevDisk [32]byte // hash of the line of written
	synced   uint64   // seq of the last record that is on disk

	writing  bool // somebody writes, with mu released
	syncing  bool // somebody fsyncs, with mu released
	rotating bool // the writer is changing file; nobody may begin an fsync
	closed   bool
	failure  error // not nil: I4
}

// Open opens the log in cfg.Dir, or begins one. It verifies the last segment and
// its link to the one before, cuts off a torn last line, and records that it did
// so and that the log was opened; a log that cannot be written does not open.
func Open(cfg Config) (*Log, error) {
	if cfg.FS == nil {
		cfg.FS = OS{}
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	if cfg.ReserveBytes == 0 {
		cfg.ReserveBytes = DefaultReserveBytes
	}
	switch {
	case cfg.Dir == "" || cfg.Node == "" || cfg.Clock == nil:
		return nil, errs.New(errs.InvalidConfig, "audit log needs a directory, a node name and a clock")
	case cfg.SegmentBytes < MinSegmentBytes:
		return nil, errs.Newf(errs.InvalidConfig, "audit segment size is below %d bytes", MinSegmentBytes)
	case cfg.ReserveBytes < MinReserveBytes:
		return nil, errs.Newf(errs.InvalidConfig, "audit reserve is below %d bytes", MinReserveBytes)
	}
	l := &Log{cfg: cfg}
	l.changed.L = &l.mu
	if err := l.open(); err != nil {
		if l.file != nil {
			_ = l.file.Close() // The first error is the one to report.
		}
		if _, broken := errors.AsType[*BrokenError](err); broken {
			return nil, err
		}
		return nil, unavailable("open", cfg.Dir, err)
	}
	return l, nil
}

func (l *Log) open() error {
	fsys, dir := l.cfg.FS, l.cfg.Dir
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	tail, err := readTail(fsys, dir)
	if err != nil {
		return err
	}
	if tail.torn > 0 {
		if err := fsys.Truncate(filepath.Join(dir, tail.name), tail.size); err != nil {
			return err
		}
	}
	if err := fsys.Reserve(filepath.Join(dir, reserveName), l.cfg.ReserveBytes); err != nil {
		return err
	}
	if l.file, err = fsys.Append(filepath.Join(dir, tail.name)); err != nil {
		return err
	}
	if l.size, err = l.file.Size(); err != nil {
		return err
	}
	if err := fsys.SyncDir(dir); err != nil {
		return err
	}
	l.prev, l.prevDisk = tail.head, tail.head
	l.encoded, l.written, l.synced = tail.seq, tail.seq, tail.seq
	if tail.torn > 0 {
		err := l.Append(Record{
			Class: Control, Phase: Whole, Act: ActRecovered, Outcome: errs.OutcomeOK,
			BytesIn: uint64(tail.torn),
			Cause:   "a line was not ended; it was never acknowledged",
		})
		if err != nil {
			return err
		}
	}
	return l.Append(Record{Class: Control, Phase: Whole, Act: ActOpened, Outcome: errs.OutcomeOK})
}

// Append implements [Sink].
func (l *Log) Append(r Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.usable() == nil && len(l.pending) >= maxPending {
		l.changed.Wait()
	}
	if err := l.usable(); err != nil {
		return err
	}
	seq := l.encode(&r)
	for l.written < seq {
		switch {
		case l.failure != nil:
			return l.failure
		case l.writing:
			l.changed.Wait()
		default:
			l.write()
		}
	}
	if r.Class == Data {
		return nil
	}
	for l.synced < seq {
		switch {
		case l.failure != nil:
			return l.failure
		case l.syncing || l.rotating:
			l.changed.Wait()
		default:
			l.sync()
		}
	}
	return nil
}

// encode gives r its place in the chain and its line to pending. It is called
// with mu, so records have the order of their seq and of their time.
func (l *Log) encode(r *Record) uint64 {
	r.Seq = l.encoded + 1
	r.Prev = l.prev
	r.TimeMs = l.cfg.Clock.Now().UnixMilli()
	r.Node = l.cfg.Node
	start := len(l.pending)
	l.pending = AppendLine(l.pending, r)
	l.prev = sha256.Sum256(l.pending[start:])
	l.pending = append(l.pending, '\n')
	l.encoded = r.Seq
	return r.Seq
}

// write hands all pending lines to the operating system in one write. It is
// called with mu and with nobody writing, releases mu over the I/O, and leaves
// either written advanced or failure set.
func (l *Log) write() {
	l.writing = true
	batch, last, head := l.pending, l.encoded, l.prev
	l.pending, l.spare = l.spare[:0], nil
	rotate := l.size > 0 && l.size+int64(len(batch)) > l.cfg.SegmentBytes
	if rotate {
		for l.syncing {
			l.changed.Wait()
		}
		l.rotating = true
	}
	failed := l.failure != nil // an fsync failed while we waited for it
	file, first := l.file, l.written+1
	l.mu.Unlock()

	var err error
	if rotate && !failed {
		file, err = l.rotate(file, first)
	}
	if err == nil && !failed {
		err = writeAll(file, batch)
	}

	l.mu.Lock()
	if rotate && err == nil && !failed {
		l.synced, l.size = first-1, 0
	}
	if file != l.file {
		l.file, l.size = file, 0
	}
	switch {
	case err != nil:
		l.fail("write", err)
		if diskFull(err) {
			l.lastWords(err)
		}
	case !failed:
		l.size += int64(len(batch))
		l.written, l.prevDisk = last, head
	}
	l.spare = batch[:0]
	l.writing, l.rotating = false, false
	l.changed.Broadcast()
}

// rotate makes the current segment durable, closes it and begins the next one,
// whose first record will be first. It returns the file to go on with, also
// with an error.
func (l *Log) rotate(old File, first uint64) (File, error) {
	if err := old.Sync(); err != nil {
		return old, err
	}
	next, err := l.cfg.FS.Append(filepath.Join(l.cfg.Dir, segmentName(first)))
	if err != nil {
		return old, err
	}
	if err := l.cfg.FS.SyncDir(l.cfg.Dir); err != nil {
		_ = next.Close() // The log stops; the empty segment is used when it opens again.
		return old, err
	}
	if err := old.Close(); err != nil {
		return next, err
	}
	return next, nil
}

// sync makes everything written so far durable. It is called with mu and with
// nobody syncing or rotating, and releases mu over the I/O: records that come
// meanwhile are written, and share the next fsync.
func (l *Log) sync() {
	l.syncing = true
	file, target := l.file, l.written
	l.mu.Unlock()
	err := file.Sync()
	l.mu.Lock()
	l.syncing = false
	if err != nil {
		// Never again on this file: the kernel may have marked the lost pages clean.
		l.fail("fsync", err)
	} else {
		l.synced = max(l.synced, target)
	}
	l.changed.Broadcast()
}

// fail stops the log (I4). It is called with mu.
func (l *Log) fail(what string, err error) {
	if l.failure != nil {
		return
	}
	l.failure = unavailable(what, l.cfg.Dir, err)
	l.changed.Broadcast()
}

// lastWords frees the reserve and records why the log stopped. The writer calls
// it after a write found the disk full; after a failed fsync nothing more is
// written. It does I/O with mu held, which is right exactly here: the log has
// failed and nobody can make progress. Its own errors change nothing any more.
func (l *Log) lastWords(cause error) {
	if l.file.Truncate(l.size) != nil || l.cfg.FS.Remove(filepath.Join(l.cfg.Dir, reserveName)) != nil {
		return
	}
	r := Record{Class: Control, Phase: Whole, Act: ActFailed, Outcome: errs.OutcomeFailed, Code: errs.AuditUnavailable, Cause: cause.Error()}
	l.pending = l.pending[:0] // nobody was told that these are safe
	l.encoded, l.prev = l.written, l.prevDisk
	l.encode(&r)
	if writeAll(l.file, l.pending) == nil && l.file.Sync() == nil {
		l.size += int64(len(l.pending))
	}
	l.pending = l.pending[:0]
}

// usable returns why nothing can be appended. It is called with mu.
func (l *Log) usable() error {
	if l.failure != nil {
		return l.failure
	}
	if l.closed {
		return errs.New(errs.AuditUnavailable, "audit log is closed", errs.Hint("the node is shutting down; use another"))
	}
	return nil
}

// Err implements [Sink].
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usable()
}

// Head returns seq and hash of the last record that is on disk or with the
// operating system.
func (l *Log) Head() (seq uint64, head [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written, l.prevDisk
}

// Close makes everything durable and closes the log. Records that wait are
// written first. It is idempotent; it returns the error that stopped the log.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.failure
	}
	l.closed = true
	for l.writing || l.syncing || l.failure == nil && l.written < l.encoded {
		l.changed.Wait()
	}
	if l.failure == nil && l.synced < l.written {
		l.sync()
	}
	if err := l.file.Close(); err != nil {
		l.fail("close", err)
	}
	return l.failure
}

func writeAll(f File, b []byte) error {
	n, err := f.Write(b)
	if err == nil && n < len(b) {
		return errShortWrite
	}
	return err
}

var errShortWrite = errors.New("the file took fewer bytes than it was given")

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// unavailable is the error of every operation once the log has stopped.
func unavailable(what, dir string, cause error) error {
	if diskFull(cause) {
		return errs.New(errs.AuditUnavailable, "the disk of the audit log is full",
			errs.Hint("free space under %s and restart the node", dir), errs.Cause(cause))
	}
	return errs.New(errs.AuditUnavailable, fmt.Sprintf("the audit log cannot be written: %s", what),
		errs.Hint("look at the disk under %s, then restart the node", dir), errs.Cause(cause))
}
