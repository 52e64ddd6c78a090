package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// MaxEntry is the largest encoded command, in bytes, that is proposed or
// stored. An entry of this size is written and sent within the time in which a
// leader must be heard, on any disk and network that is fit for use.
const MaxEntry = 1 << 20

// storeDeadline is how long one call of the log store may take. A disk that
// needs longer is broken for a system that promises answers in seconds, and
// Raft by itself would wait for ever while its heartbeats keep followers calm.
const storeDeadline = 10 * time.Second

// storeOp names a call of the store.
type storeOp string

const (
	opFirst  storeOp = "first index"
	opLast   storeOp = "last index"
	opGet    storeOp = "get entry"
	opStore  storeOp = "store entries"
	opDelete storeOp = "delete entries"
	opSet    storeOp = "set value"
	opGetKey storeOp = "get value"

	opRewrite storeOp = "rewrite the log"
)

// storeFaults stands in for broken hardware in tests: it runs where the call
// would reach the disk, may wait, and its error replaces the call.
type storeFaults interface{ before(op storeOp) error }

// backend is what the decorator needs below it.
type backend interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// Keys that Raft uses in its stable store, and the one that replaces two of them.
var (
	keyLastVoteTerm = []byte("LastVoteTerm") //nolint:gochecknoglobals // A constant; Go has no constant slices.
	keyLastVoteCand = []byte("LastVoteCand") //nolint:gochecknoglobals // A constant; Go has no constant slices.
	keyCurrentTerm  = []byte("CurrentTerm")  //nolint:gochecknoglobals // A constant; Go has no constant slices.
	keyVote         = []byte("KryptonVote")  //nolint:gochecknoglobals // A constant; Go has no constant slices.
)

// store decorates the Raft log store:
//
//   - every call has a deadline, because a hung disk under a leader otherwise
//     stops the cluster without anybody noticing (hashicorp/raft issues 503, 612, 614, 666);
//   - the first error is the last call (I3): after a failed fsync the kernel may
//     drop the pages and report success next time, so that going on would
//     acknowledge what is not on the disk;
//   - term and candidate of a vote are one value (I4, issue 661);
//   - an entry carries a checksum over all of it, because the pages of the
//     database have none.
type store struct {
	swap   sync.RWMutex // held for writing while below is replaced; taken before mu
	below  backend      // nil only under swap
	clk    clock.Clock
	faults storeFaults
	onFail func(error)
	path   string    // for errors
	busy   *inflight // all calls, for the deadline
	writes *inflight // calls that store entries, for the watchdog

	found found // by verify

	vouch func(*raft.Log) // gives an entry of this leader its proof; nil: nobody does

	kept atomic.Pointer[lease.Mark] // end of the newest snapshot on disk
	base atomic.Pointer[lease.Mark] // end of the snapshot that the state came from

	end atomic.Pointer[lease.Mark] // the highest entry that this log ever had, as far as this process knows

	running atomic.Bool   // Raft has its own goroutines now, see SetUint64
	stop    chan struct{} // closed by fail

	mu      sync.Mutex
	failure error
	votes   uint64 // term of a vote whose candidate is not known yet

	closeOnce sync.Once
	cancel    context.CancelFunc
	monitor   chan struct{}
}

// openBackend opens the database at path, or makes it.
func openBackend(path string) (below *raftboltdb.BoltStore, err error) {
	err = guarded(func() (err error) {
		below, err = raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{Timeout: time.Second}})
		return err
	})
	return below, err
}

// openStore opens the database at path and reads all of it once.
func openStore(path string, clk clock.Clock, onFail func(error)) (*store, error) {
	below, err := openBackend(path)
	if err != nil {
		return nil, storeError(path, err)
	}
	s := newStore(below, clk, nil, onFail)
	s.path = path
	if err := guarded(s.verify); err != nil {
		_ = s.Close()
		return nil, storeError(path, err)
	}
	return s, nil
}

func newStore(below backend, clk clock.Clock, faults storeFaults, onFail func(error)) *store {
	ctx, cancel := context.WithCancel(context.Background())
	s := &store{
		below: below, clk: clk, faults: faults, onFail: onFail,
		busy: newInflight(clk), writes: newInflight(clk),
		stop: make(chan struct{}), cancel: cancel, monitor: make(chan struct{}),
	}
	go func() {
		defer close(s.monitor)
		for pause(ctx, s.clk, storeDeadline/10) {
			if age := s.busy.oldest(); age > storeDeadline {
				s.fail(fmt.Errorf("%w for %s", errHung, age.Round(time.Second)))
			}
		}
	}()
	return s
}

// storeError says what is wrong with the database at path, and whether that is
// the disk or what lies on it.
func storeError(path string, err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	broken := func(code errs.Code, what, hint string) error {
		return errs.New(code, fmt.Sprintf("the Raft log %s %s", path, what), errs.Hint("%s", hint), errs.Cause(err))
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return errs.New(errs.FailedState, "another process holds "+path, errs.Hint("stop that process"), errs.Cause(err))
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return broken(errs.Unavailable, "cannot be written: the disk is full",
			"free space on that file system, then start this node again; what was acknowledged is on a majority of disks")
	case errors.Is(err, syscall.EROFS):
		return broken(errs.Unavailable, "cannot be written: the file system is read-only",
			"look for disk errors in the kernel's log, mount it writable, then start this node again")
	case errors.Is(err, errHung):
		return broken(errs.Unavailable, "hangs: "+err.Error(),
			"look at the disk, the volume and the hypervisor under it, then start this node again")
	case errors.Is(err, fs.ErrPermission):
		return broken(errs.InvalidConfig, "cannot be opened: "+systemSays(err),
			fmt.Sprintf("give the file to the user that runs the node (uid %d)", os.Geteuid()))
	case errors.Is(err, syscall.EIO), errors.Is(err, errWrite):
		return broken(errs.Unavailable, "cannot be read or written: "+systemSays(err),
			"look at the disk: if it fails, replace it and then this node; docs/runbooks/node-died.md")
	}
	return broken(errs.StateCorrupt, "cannot be used: "+err.Error(), startAnew)
}

// errWrite is a cause of every failure to write. The database hides some errors
// of the system behind its own words; what it reads may be damaged, but what it
// cannot write is the disk's doing.
var errWrite = errors.New("write")

// errDamaged is the cause when the database found itself damaged.
var errDamaged = errors.New("the database is damaged")

// errHung is the cause when a call into the disk did not return in time.
var errHung = errors.New("a call has not returned")

// writeError adds [errWrite] to the causes of an error.
type writeError struct{ error }

// Unwrap returns both.
func (e writeError) Unwrap() []error { return []error{e.error, errWrite} }

// guarded runs f and turns the ways in which a damaged database shows itself, a
// panic or a fault in the mapped file, into an error.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return f()
}

// found is what a start learns of a log by reading it.
type found struct {
	first, last uint64 // indexes; 0: there is no entry. Between them nothing is missing
	stale       uint64 // index of the first entry before a gap before first; 0: there is no gap
	term        uint64 // that this node is in; 0: it never heard of one
	configured  bool   // there is an entry that says who the servers are
	servers     map[raft.ServerID]bool
}

// name notes the servers of a configuration.
func (f *found) name(c raft.Configuration) {
	f.configured = f.configured || len(c.Servers) > 0
	for _, s := range c.Servers {
		f.servers[s.ID] = true
	}
}

// verify reads every entry, so that damage is found before the node has a say.
func (s *store) verify() error {
	s.found = found{servers: map[raft.ServerID]bool{}}
	term, err := s.GetUint64(keyCurrentTerm)
	if err != nil && !notFound(err) {
		return err
	}
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	s.found.term, s.found.first, s.found.last = term, first, last
	if last == 0 {
		return nil
	}
	for i := first; i <= last; i++ {
		var l raft.Log
		err := s.GetLog(i, &l)
		if errors.Is(err, raft.ErrLogNotFound) {
			// Either the log goes on behind a snapshot that the leader sent, or it is
			// damaged: checkStored looks whether a snapshot reaches so far.
			s.found.stale, s.found.first = first, i+1
			continue
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		if l.Index != i {
			return fmt.Errorf("entry %d says it is entry %d", i, l.Index)
		}
		s.reached(lease.Mark{Term: l.Term, Index: l.Index})
		if l.Type == raft.LogConfiguration {
			s.found.name(raft.DecodeConfiguration(l.Data)) // it panics on what it cannot read; see guarded
		}
	}
	return nil
}

// undoBootstrap takes back the first half of a bootstrap that died: Raft stores
// term 1, then the first entry of the log, and calls a log with a term and
// without an entry "existing state", which it never bootstraps. Nobody else knew
// of that term: a node that is being bootstrapped has no peers.
func (s *store) undoBootstrap(m Membership) error {
	if m != MembershipBootstrapping {
		return nil
	}
	if last, err := s.LastIndex(); err != nil || last != 0 {
		return err
	}
	if term, err := s.GetUint64(keyCurrentTerm); notFound(err) || err == nil && term == 0 {
		return nil
	} else if err != nil {
		return err
	}
	return s.SetUint64(keyCurrentTerm, 0)
}

// fail makes err the state of the store, once (I3).
func (s *store) fail(err error) {
	s.mu.Lock()
	first := s.failure == nil
	if first {
		s.failure = storeError(s.path, err)
		err = s.failure
		close(s.stop)
	}
	s.mu.Unlock()
	if first {
		s.onFail(err)
	}
}

func (s *store) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// notFound reports the two answers that look like errors and are none.
func notFound(err error) bool {
	return errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, raftboltdb.ErrKeyNotFound) || err != nil && err.Error() == "not found"
}

// call runs one call of the store on a goroutine of its own, so that the caller
// gets an answer when the call does not return. Such a goroutine stays until
// the call does; the node is ending by then.
func (s *store) call(op storeOp, f func() error) error {
	return s.callUnder(s.swap.RLocker(), op, f)
}

// callUnder is call with the lock that the call needs.
func (s *store) callUnder(lock sync.Locker, op storeOp, f func() error) error {
	if err := s.failed(); err != nil {
		return err
	}
	end := s.busy.begin()
	done := make(chan error, 1)
	go func() {
		lock.Lock()
		err := guarded(func() error {
			if s.faults != nil {
				if err := s.faults.before(op); err != nil {
					return err
				}
			}
			return f()
		})
		lock.Unlock()
		end() // before the answer, so that a store without callers has no open call
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil && !notFound(err) {
			err = fmt.Errorf("%s: %w", op, err)
			if !errors.Is(err, errDamaged) && (op == opStore || op == opDelete || op == opSet) {
				err = writeError{err}
			}
			s.fail(err)
			return s.failed()
		}
		return err
	case <-s.stop:
		return s.failed()
	}
}

// FirstIndex implements [raft.LogStore].
func (s *store) FirstIndex() (n uint64, err error) {
	return s.index(opFirst, func() (uint64, error) { return s.below.FirstIndex() })
}

// LastIndex implements [raft.LogStore].
func (s *store) LastIndex() (n uint64, err error) {
	return s.index(opLast, func() (uint64, error) { return s.below.LastIndex() })
}

// index never returns a value of a call that it no longer waits for.
func (s *store) index(op storeOp, f func() (uint64, error)) (uint64, error) {
	var got atomic.Uint64
	err := s.call(op, func() error {
		n, err := f()
		got.Store(n)
		return err
	})
	if err != nil {
		return 0, err
	}
	return got.Load(), nil
}

// GetLog implements [raft.LogStore].
func (s *store) GetLog(index uint64, log *raft.Log) error {
	got := new(raft.Log)
	err := s.call(opGet, func() error {
		if err := s.below.GetLog(index, got); err != nil {
			return err
		}
		return unsealEntry(got)
	})
	if base := s.base.Load(); errors.Is(err, raft.ErrLogNotFound) && base != nil && base.Index == index {
		*log = raft.Log{Index: base.Index, Term: base.Term, Type: raft.LogNoop}
		return nil
	}
	if err != nil {
		return err
	}
	*log = *got
	return nil
}

// restored says that the state comes from the newest snapshot on disk, or, at the
// start, from the one that ends with m.
//
// The entry at its end is answered for from then on, although it is not in the log.
// Raft compares the entry before those that it is sent with the end of its
// snapshot only while no later entry is there. Else it asks the log, and an answer
// "not found" makes the leader send its snapshot again; the installation empties
// the log and keeps the number of its last entry, so that nothing fits any more:
// such a member never follows again. It happens when a member stops just after the
// first entries behind a snapshot, before the leader heard that it has them.
func (s *store) restored(m *lease.Mark) {
	if m == nil {
		m = s.kept.Load()
	}
	if m != nil {
		s.base.Store(m)
	}
}

// StoreLog implements [raft.LogStore].
func (s *store) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements [raft.LogStore].
func (s *store) StoreLogs(logs []*raft.Log) error {
	defer s.writes.begin()()
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		if len(l.Data) > MaxEntry {
			// Only a leader that breaks its own limit gets here. Refusing without
			// stopping would leave this replica behind for ever, quietly.
			s.fail(fmt.Errorf("entry %d has %d bytes, the limit is %d", l.Index, len(l.Data), MaxEntry))
			return s.failed()
		}
		if s.vouch != nil {
			s.vouch(l)
		}
		sealed[i] = sealEntry(l)
	}
	if err := s.call(opStore, func() error { return s.below.StoreLogs(sealed) }); err != nil {
		return err
	}
	for _, l := range logs {
		s.reached(lease.Mark{Term: l.Term, Index: l.Index})
	}
	return nil
}

// reached notes an entry, or the end of a snapshot, that this node has on disk.
// Raft stores entries one call after the other.
func (s *store) reached(m lease.Mark) {
	if m.Compare(s.mark()) > 0 {
		s.end.Store(&m)
	}
}

// mark returns the highest entry that this node's log ever had. Entries that were
// replaced by those of a later leader do not make it lower: that one's are higher.
func (s *store) mark() lease.Mark {
	if m := s.end.Load(); m != nil {
		return *m
	}
	return lease.Mark{}
}

// IsMonotonic implements [raft.MonotonicLogStore]: when the leader sends a
// snapshot, Raft removes the whole log before it goes on behind the snapshot.
// Otherwise it keeps the entries from before, of which the last ones may never
// have been committed: as a leader this node would send them to others.
func (s *store) IsMonotonic() bool { return true }

// removeStale removes what lies before a gap. A snapshot covers it; see
// [Cluster.checkStored]. It is left by a death between a snapshot that the leader
// sent and the removal of the log before it.
func (s *store) removeStale() error {
	if s.found.stale == 0 {
		return nil
	}
	return s.DeleteRange(s.found.stale, s.found.first-1)
}

// DeleteRange implements [raft.LogStore].
func (s *store) DeleteRange(from, to uint64) error {
	return s.call(opDelete, func() error { return s.below.DeleteRange(from, to) })
}

// Set implements [raft.StableStore]. The candidate of a vote is stored together
// with the term that Raft named just before, in one transaction (I4).
func (s *store) Set(key, val []byte) error {
	if bytes.Equal(key, keyLastVoteCand) {
		s.mu.Lock()
		term := s.votes
		s.mu.Unlock()
		key, val = keyVote, append(binary.BigEndian.AppendUint64(nil, term), val...)
	}
	return s.call(opSet, func() error { return s.below.Set(key, val) })
}

// Get implements [raft.StableStore].
func (s *store) Get(key []byte) ([]byte, error) {
	if bytes.Equal(key, keyLastVoteCand) {
		_, cand, err := s.vote()
		return cand, err
	}
	return s.get(key)
}

func (s *store) get(key []byte) ([]byte, error) {
	got := make(chan []byte, 1)
	if err := s.call(opGetKey, func() error {
		v, err := s.below.Get(key)
		got <- v
		return err
	}); err != nil {
		return nil, err
	}
	return <-got, nil
}

// SetUint64 implements [raft.StableStore]. The term of a vote only waits here
// for its candidate: a crash between the two leaves the earlier vote as it was.
func (s *store) SetUint64(key []byte, val uint64) error {
	if bytes.Equal(key, keyLastVoteTerm) {
		if err := s.failed(); err != nil {
			return err
		}
		s.mu.Lock()
		s.votes = val
		s.mu.Unlock()
		return nil
	}
	err := s.call(opSet, func() error { return s.below.SetUint64(key, val) })
	if err != nil && s.running.Load() && bytes.Equal(key, keyCurrentTerm) {
		// Raft answers this error with a panic. The node is stopping already, in
		// order and with the cause; so this goroutine of Raft ends here instead.
		runtime.Goexit()
	}
	return err
}

// GetUint64 implements [raft.StableStore].
func (s *store) GetUint64(key []byte) (uint64, error) {
	if bytes.Equal(key, keyLastVoteTerm) {
		term, _, err := s.vote()
		return term, err
	}
	return s.index(opGetKey, func() (uint64, error) { return s.below.GetUint64(key) })
}

// vote reads the last vote:
//
//	term u64 | candidate
func (s *store) vote() (term uint64, candidate []byte, err error) {
	v, err := s.get(keyVote)
	if err != nil {
		return 0, nil, err
	}
	if len(v) < 8 {
		s.fail(errors.New("the stored vote is malformed"))
		return 0, nil, s.failed()
	}
	return binary.BigEndian.Uint64(v), v[8:], nil
}

// Close ends the decorator and closes the database. A call that still runs is
// waited for: a store that is given up keeps its file open and locked. One that
// is older than storeDeadline hangs, and closing below it would wait for ever.
func (s *store) Close() error {
	var err error
	s.closeOnce.Do(func() {
		s.cancel()
		<-s.monitor
		for age := s.busy.oldest(); age > 0 && age <= storeDeadline; age = s.busy.oldest() {
			pause(context.Background(), s.clk, storeDeadline/1000)
		}
		if s.busy.oldest() > 0 {
			err = errors.New("raft log store: closed while a call hangs")
			return
		}
		err = guarded(func() error { return s.below.Close() })
	})
	return err
}

// Layout of the data of a stored entry:
//
//	version u8 = 1 | crc32c u32 | data
//
// The sum is over index, term, type, length of extensions, extensions and data.
const (
	entryVersion = 1
	entryHeader  = 5
)

//nolint:gochecknoglobals // Immutable; a table is made once.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func entrySum(l *raft.Log, data []byte) uint32 {
	head := make([]byte, 0, 25)
	head = binary.BigEndian.AppendUint64(head, l.Index)
	head = binary.BigEndian.AppendUint64(head, l.Term)
	head = append(head, byte(l.Type))
	head = binary.BigEndian.AppendUint64(head, uint64(len(l.Extensions)))
	sum := crc32.Update(0, castagnoli, head)
	sum = crc32.Update(sum, castagnoli, l.Extensions)
	return crc32.Update(sum, castagnoli, data)
}

func sealEntry(l *raft.Log) *raft.Log {
	c := *l
	c.Data = make([]byte, 0, entryHeader+len(l.Data))
	c.Data = append(c.Data, entryVersion)
	c.Data = binary.BigEndian.AppendUint32(c.Data, entrySum(l, l.Data))
	c.Data = append(c.Data, l.Data...)
	return &c
}

func unsealEntry(l *raft.Log) error {
	if len(l.Data) < entryHeader || l.Data[0] != entryVersion {
		return fmt.Errorf("entry %d has an unknown layout", l.Index)
	}
	data := l.Data[entryHeader:]
	if entrySum(l, data) != binary.BigEndian.Uint32(l.Data[1:]) {
		return fmt.Errorf("entry %d does not have its checksum", l.Index)
	}
	l.Data = data
	return nil
}
