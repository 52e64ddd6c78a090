package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Defaults and limits of [Config].
const (
	DefaultSegmentBytes = 64 << 20
	DefaultReserveBytes = 64 << 20
	MinSegmentBytes     = 2 * MaxLine
	MinReserveBytes     = 64 << 10 // room for the failure record and the file system's own blocks
	DefaultDeadline     = 10 * time.Second
	MinDeadline         = time.Second // a healthy disk may be busy with itself for some hundred milliseconds
	DefaultMaxWaiting   = 8192

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

	// Deadline is how long one call into the file system may take, up to a tenth
	// more, before the disk counts as hung and the log has failed (I7). It does
	// not hold for Open itself: a node that hangs there has not started, which
	// everybody sees. 0 = DefaultDeadline.
	Deadline time.Duration

	// MaxWaiting is how many callers may wait in Append before Err refuses new
	// operations (I8). 0 = DefaultMaxWaiting.
	MaxWaiting int
}

// Log is the audit log of one node. Make one with [Open]. Two processes must not
// open one directory; the lock on the data directory keeps them apart.
type Log struct {
	cfg Config

	mu      sync.Mutex
	changed sync.Cond // with mu: what callers wait for changed
	toWrite sync.Cond // with mu: what the writer waits for changed
	toSync  sync.Cond // with mu: what the syncer waits for changed
	toWatch sync.Cond // with mu: what the watcher waits for changed

	file    File
	size    int64  // of the current segment, counting whole written records only
	pending []byte // lines that are not written yet
	spare   []byte // the other buffer; taken by the writer

	prev     [32]byte // hash of the last encoded line
	encoded  uint64   // seq of the last encoded record
	written  uint64   // seq of the last record the operating system has
	prevDisk [32]byte // hash of the line of written
	wanted   uint64   // seq of the last written record that somebody wants on disk
	synced   uint64   // seq of the last record that is on disk
	waiting  int      // callers in Append

	writing call // what the writer asked of the file system
	syncing call // what the syncer asked of the file system
	alone   bool // the writer needs the file for itself: no fsync may begin

	closed    bool  // no more records are taken
	ending    bool  // the writer and the syncer have no more to do
	workers   int   // how many of the two run
	released  bool  // both have ended and the file is closed
	hung      bool  // a call did not return in time; whoever made it may never end
	unwatched bool  // the watcher has ended
	failure   error // not nil: I4

	stopWatching context.CancelFunc
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
	if cfg.Deadline == 0 {
		cfg.Deadline = DefaultDeadline
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = DefaultMaxWaiting
	}
	switch {
	case cfg.Dir == "" || cfg.Node == "" || cfg.Clock == nil:
		return nil, errs.New(errs.InvalidConfig, "audit log needs a directory, a node name and a clock")
	case cfg.SegmentBytes < MinSegmentBytes:
		return nil, errs.Newf(errs.InvalidConfig, "audit segment size is below %d bytes", MinSegmentBytes)
	case cfg.ReserveBytes < MinReserveBytes:
		return nil, errs.Newf(errs.InvalidConfig, "audit reserve is below %d bytes", MinReserveBytes)
	case cfg.Deadline < MinDeadline:
		return nil, errs.Newf(errs.InvalidConfig, "audit deadline is below %v", MinDeadline)
	case cfg.MaxWaiting < 1:
		return nil, errs.New(errs.InvalidConfig, "audit log lets no caller wait")
	}
	l := &Log{cfg: cfg}
	l.changed.L, l.toWrite.L, l.toSync.L, l.toWatch.L = &l.mu, &l.mu, &l.mu, &l.mu
	torn, err := l.open()
	if err != nil {
		if l.file != nil {
			_ = l.file.Close() // The first error is the one to report.
		}
		if _, broken := errors.AsType[*BrokenError](err); broken {
			return nil, err
		}
		return nil, notOpened(cfg.Dir, err)
	}
	l.start()
	if err := l.opened(torn); err != nil {
		_ = l.Close() // It returns the same error.
		return nil, err
	}
	return l, nil
}

// open makes the log ready for its first record and returns the length of what
// it cut off the last segment.
func (l *Log) open() (torn int64, err error) {
	fsys, dir := l.cfg.FS, l.cfg.Dir
	if err := fsys.MkdirAll(dir); err != nil {
		return 0, err
	}
	tail, err := readTail(fsys, dir)
	if err != nil {
		return 0, err
	}
	if tail.torn > 0 {
		if err := fsys.Truncate(filepath.Join(dir, tail.name), tail.size); err != nil {
			return 0, err
		}
	}
	if err := fsys.Reserve(filepath.Join(dir, reserveName), l.cfg.ReserveBytes); err != nil {
		return 0, err
	}
	if l.file, err = fsys.Append(filepath.Join(dir, tail.name)); err != nil {
		return 0, err
	}
	if l.size, err = l.file.Size(); err != nil {
		return 0, err
	}
	if err := fsys.SyncDir(dir); err != nil {
		return 0, err
	}
	l.prev, l.prevDisk = tail.head, tail.head
	l.encoded, l.written, l.synced = tail.seq, tail.seq, tail.seq
	return tail.torn, nil
}

// opened records that the log was opened, and what was cut off.
func (l *Log) opened(torn int64) error {
	if torn > 0 {
		err := l.Append(Record{
			Class: Control, Phase: Whole, Act: ActRecovered, Outcome: errs.OutcomeOK,
			BytesIn: uint64(torn),
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
	l.waiting++
	defer func() { l.waiting-- }()
	for l.usable() == nil && len(l.pending) >= maxPending {
		l.changed.Wait()
	}
	if err := l.usable(); err != nil {
		return err
	}
	seq := l.encode(&r)
	l.toWrite.Signal()
	for l.written < seq {
		if l.failure != nil {
			return l.failure
		}
		l.changed.Wait()
	}
	if r.Class == Data {
		return nil
	}
	if l.synced < seq {
		l.wanted = max(l.wanted, seq)
		l.toSync.Signal()
	}
	for l.synced < seq {
		if l.failure != nil {
			return l.failure
		}
		l.changed.Wait()
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

// Err implements [Sink]. A log that has not failed refuses new operations while
// MaxWaiting callers wait for the disk (I8); Append still takes the records of
// those that have begun, since an act must not go without the record of its end.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if l.waiting >= l.cfg.MaxWaiting {
		return errs.New(errs.AuditUnavailable, "too many calls wait for the disk of the audit log",
			errs.Hint("use another node; if it stays so, look at the disk under %s", l.cfg.Dir))
	}
	return nil
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
// It waits for the disk as long as everybody, and not for a call that hangs.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast() // those that wait for room in pending
	for l.failure == nil && l.written < l.encoded {
		l.changed.Wait()
	}
	l.wanted = l.written
	l.toSync.Signal()
	for l.failure == nil && l.synced < l.written {
		l.changed.Wait()
	}
	l.ending = true
	l.toWrite.Signal()
	l.toSync.Signal()
	for !l.released && !l.hung {
		l.changed.Wait()
	}
	l.stopWatching()
	l.toWatch.Signal()
	for !l.unwatched {
		l.changed.Wait()
	}
	return l.failure
}

// fail stops the log (I4). It is called with mu.
func (l *Log) fail(err error) {
	if l.failure == nil {
		l.failure = err
	}
	l.changed.Broadcast()
	l.toWrite.Signal()
	l.toSync.Signal()
}

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// notOpened is the error of a log that does not open for another reason than its
// content.
func notOpened(dir string, cause error) error {
	if diskFull(cause) {
		return errs.New(errs.AuditUnavailable, "the disk of the audit log is full",
			errs.Hint("free space under %s and start the node again; it needs room for its reserve too", dir), errs.Cause(cause))
	}
	said := cause.Error()
	if errno, ok := errors.AsType[syscall.Errno](cause); ok {
		said = errno.Error()
	}
	return errs.New(errs.AuditUnavailable, fmt.Sprintf("the audit log in %s cannot be opened: %s", dir, said),
		errs.Hint("look at the directory and at the disk under it, then start the node again"), errs.Cause(cause))
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
