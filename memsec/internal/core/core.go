// Package core is the implementation that memsec and memsec/reveal share; nothing else can import it, so nothing else can reach key bytes.
//
// A [Ref] is a number: an index into a table and a generation. It holds no
// pointer, so no printer, encoder or reflection walk can follow it to a key.
//
// # Invariants
//
//   - I1: an entry is wiped exactly once: by the last operation that leaves it after it was destroyed, never under a running one.
//   - I2: a Ref is valid for one generation of one entry; after Destroy it is refused for ever, whatever the entry holds next.
//   - I3: a purge ends at one instant whatever is in the table, and what running operations are about to put there: everything belongs to the epoch in which its making began.
//   - I4: memguard is entered by one goroutine at a time, with enough lockable memory for all it may lock.
//   - I5: no slice of a resident slot leaves this package; callbacks see copies that are wiped when they return.
//
// # Concurrency
//
// A Store is safe for concurrent use. Looking up a Ref takes no lock: one
// atomic load and one compare-and-swap on the entry. Lock order: 1. Store.mu
// 2. the arena's locks. No lock is held while a callback runs.
//
// # Failure
//
// When memguard panics it has wiped its key first, and no enclave of this
// process opens again. The process is then crashed from a fresh goroutine, where
// no recover of a server framework can catch it: a node that cannot read its
// keys must stop and unseal again.
//
// # Source
//
// Reference counts with a generation: hazard of wiping under a running
// operation, which would seal under an all-zero key. RFC 5869, RFC 2104, SP 800-38D.
package core

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/awnumar/memguard"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
	"github.com/openkcm/krypton-cluster/memsec/internal/arena"
	"github.com/openkcm/krypton-cluster/memsec/internal/scope"
)

// MaxLen is the longest secret, in bytes.
const MaxLen = arena.MaxSlot

// DefaultLimit bounds locked memory for secrets until Setup says otherwise.
const DefaultLimit = 64 << 20

// Sentinels. What callers get wraps them and carries a code.
var (
	ErrDestroyed = errors.New("secret is destroyed")
	ErrNoSecret  = errors.New("no secret given")
	ErrBudget    = errors.New("no memory left for another secret")
)

// The errors behind the sentinels are made once: refusing must not allocate.
var (
	errDestroyed = errs.New(errs.NotServing, "the key is no longer in memory", errs.Hint("try another node"), errs.Cause(ErrDestroyed))
	errNoSecret  = errs.New(errs.Internal, "internal error", errs.Hint("look for the correlation id in the node's log"), errs.Cause(ErrNoSecret))
)

func budget(cause error) error {
	return errs.New(errs.Unavailable, "no locked memory is left for another key",
		errs.Hint("raise the locked-memory limit (systemd LimitMEMLOCK=, shell ulimit -l) or hold fewer keys"),
		errs.Cause(errors.Join(ErrBudget, cause)))
}

// Class says how a secret is kept.
type Class int

// The classes.
const (
	Cold Class = iota + 1
	Hot
)

// Ref names one secret or one AEAD of a [Store]. The zero Ref names nothing.
//
// Layout: generation (40 bits) || index (24 bits). Generations start at 1.
type Ref uint64

const (
	genShift  = 24
	indexMask = 1<<genShift - 1

	deadBit = 1 << 23     // no new operation may begin
	refMask = deadBit - 1 // operations running now

	maxGen = 1<<40 - 1

	chunkBits  = 8
	chunkSize  = 1 << chunkBits
	maxEntries = 1 << 20
)

// entry is one place of the table. Its fields other than state are written only
// by the goroutine that publishes it and by the one that reclaims it, and read
// only between acquire and release.
type entry struct {
	// state: generation (40 bits) || dead (1 bit) || running operations (23 bits).
	state atomic.Uint64

	class   Class
	n       int
	slot    arena.Slot        // Hot
	enclave *memguard.Enclave // Cold
	epoch   uint64            // the store's when it was made; a later one ends it
	aead    cipher.AEAD       // an AEAD; class and n are zero

	_ [48]byte // fills two cache lines: neighbours do not share a counter
}

type chunk [chunkSize]entry

// Store is a table of secrets with its own bound on memory. Make one with [New].
type Store struct {
	arena  *arena.Arena
	chunks [maxEntries / chunkSize]atomic.Pointer[chunk]
	epoch  atomic.Uint64 // counts purges; changes together with memguard's key

	secrets atomic.Int64 // entries that are not reclaimed yet
	aeads   atomic.Int64

	mu   sync.Mutex
	next uint32 // first index never used
	free []uint32
}

// New returns an empty store that locks at most limit bytes for secrets.
func New(limit int) *Store { return &Store{arena: arena.New(limit)} }

// process is global because keys are a resource of the process: Purge and the
// memory limits are process-wide.
var process = New(DefaultLimit)

// Process returns the store of this process.
func Process() *Store { return process }

// at returns the entry of an index, or nil when there never was one.
func (st *Store) at(i uint32) *entry {
	if i >= maxEntries {
		return nil
	}
	c := st.chunks[i>>chunkBits].Load()
	if c == nil {
		return nil
	}
	return &c[i&(chunkSize-1)]
}

// acquire begins an operation on ref. Each success is paired with release.
func (st *Store) acquire(ref Ref) (*entry, error) {
	if ref == 0 {
		return nil, errNoSecret
	}
	gen := uint64(ref) >> genShift
	e := st.at(uint32(ref & indexMask))
	if e == nil {
		return nil, errDestroyed
	}
	for {
		s := e.state.Load()
		if s>>genShift != gen || s&deadBit != 0 {
			return nil, errDestroyed
		}
		if s&refMask == refMask {
			return nil, budget(errors.New("too many operations on one key"))
		}
		if e.state.CompareAndSwap(s, s+1) {
			if e.epoch != st.epoch.Load() { // I3: dead, if not wiped yet
				st.release(ref, e)
				return nil, errDestroyed
			}
			return e, nil
		}
	}
}

// release ends an operation. The last one out of a dead entry wipes it (I1).
func (st *Store) release(ref Ref, e *entry) {
	if s := e.state.Add(^uint64(0)); s&(deadBit|refMask) == deadBit {
		st.reclaim(uint32(ref&indexMask), e)
	}
}

// Destroy ends ref. It is idempotent and does not wait: bytes in use are wiped
// by the operation that leaves last.
func (st *Store) Destroy(ref Ref) {
	if ref == 0 {
		return
	}
	e := st.at(uint32(ref & indexMask))
	if e == nil {
		return
	}
	for {
		s := e.state.Load()
		if s>>genShift != uint64(ref)>>genShift || s&deadBit != 0 {
			return
		}
		if e.state.CompareAndSwap(s, s|deadBit) {
			if s&refMask == 0 {
				st.reclaim(uint32(ref&indexMask), e)
			}
			return
		}
	}
}

// reclaim wipes a dead entry that nobody uses and makes its place free. The
// state stays dead, under the next generation, until the place is taken again.
func (st *Store) reclaim(i uint32, e *entry) {
	st.arena.Free(e.slot)
	if e.aead != nil {
		st.aeads.Add(-1)
	} else {
		st.secrets.Add(-1)
	}
	e.slot, e.enclave, e.aead, e.class, e.n = arena.Slot{}, nil, nil, 0, 0
	gen := e.state.Load()>>genShift + 1
	if gen > maxGen {
		return // I2: a place that used up its generations is never taken again
	}
	e.state.Store(gen<<genShift | deadBit)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.free = append(st.free, i)
}

// payload is what becomes an entry.
type payload struct {
	class   Class
	n       int
	slot    arena.Slot
	enclave *memguard.Enclave
	aead    cipher.AEAD
}

// publish gives p a Ref. epoch is the store's when the operation began: when a
// purge began since, the payload is destroyed instead (I3).
func (st *Store) publish(p payload, epoch uint64) (Ref, error) {
	i, e, err := st.place()
	if err != nil {
		st.arena.Free(p.slot)
		return 0, err
	}
	e.class, e.n, e.slot, e.enclave, e.epoch, e.aead = p.class, p.n, p.slot, p.enclave, epoch, p.aead
	if p.aead != nil {
		st.aeads.Add(1)
	} else {
		st.secrets.Add(1)
	}
	gen := e.state.Load() >> genShift
	e.state.Store(gen << genShift)
	ref := Ref(gen<<genShift | uint64(i))
	if st.epoch.Load() != epoch {
		st.Destroy(ref)
		return 0, errDestroyed
	}
	return ref, nil
}

func (st *Store) place() (uint32, *entry, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n := len(st.free); n > 0 {
		i := st.free[n-1]
		st.free = st.free[:n-1]
		return i, st.at(i), nil
	}
	if st.next == maxEntries {
		return 0, nil, budget(errors.New("table of keys is full"))
	}
	i := st.next
	c := &st.chunks[i>>chunkBits]
	if c.Load() == nil {
		fresh := new(chunk)
		for k := range fresh {
			fresh[k].state.Store(1<<genShift | deadBit)
		}
		c.Store(fresh)
	}
	st.next++
	return i, st.at(i), nil
}

// Purge destroys everything. Operations that are running end normally and wipe
// what they used.
//
// Walking the table alone would miss what is derived behind the walk from
// something ahead of it. So the epoch moves first, at one instant, and the walk
// only wipes what is dead by then (I3).
func (st *Store) Purge() {
	st.purgeEnclaves()
	st.destroyAll()
}

func (st *Store) destroyAll() {
	st.mu.Lock()
	n := st.next
	st.mu.Unlock()
	for i := range n {
		gen := st.at(i).state.Load() >> genShift
		st.Destroy(Ref(gen<<genShift | uint64(i)))
	}
}

func checkLen(n int) error {
	if n < 1 || n > MaxLen {
		return errs.Newf(errs.InvalidArgument, "a secret of %d bytes; 1 to %d are possible", n, MaxLen)
	}
	return nil
}

func checkClass(c Class) {
	if c != Cold && c != Hot {
		invariants.Violated("memsec", "class %d", int(c))
	}
}

// copyIn makes a secret from src for an operation that began at epoch.
func (st *Store) copyIn(epoch uint64, src []byte, c Class) (Ref, error) {
	checkClass(c)
	n := len(src)
	if err := checkLen(n); err != nil {
		return 0, err
	}
	s, err := st.alloc(n, useFor(c))
	if err != nil {
		return 0, err
	}
	copy(s.Bytes(), src)
	return st.keep(s, c, epoch)
}

// useFor says where bytes of class c are put together: a cold secret only
// passes through a slot on its way into the enclave.
func useFor(c Class) arena.Use {
	if c == Hot {
		return arena.Resident
	}
	return arena.Scratch
}

// keep turns the filled slot s, made for c with useFor, into a secret. It owns
// s from here on, also when it fails.
func (st *Store) keep(s arena.Slot, c Class, epoch uint64) (Ref, error) {
	n := len(s.Bytes())
	if c == Hot {
		return st.publish(payload{class: Hot, n: n, slot: s}, epoch)
	}
	enc, err := sealEnclave(s.Bytes())
	st.arena.Free(s)
	if err != nil {
		return 0, err
	}
	return st.publish(payload{class: Cold, n: n, enclave: enc}, epoch)
}

func (st *Store) alloc(n int, use arena.Use) (arena.Slot, error) {
	s, err := st.arena.Alloc(n, use)
	if err != nil {
		return arena.Slot{}, budget(err)
	}
	return s, nil
}

// Fill makes a secret of n bytes that fill writes. It writes into scratch
// memory: what fill keeps by mistake is not the secret's own slot (I5).
func (st *Store) Fill(n int, c Class, fill func(b []byte) error) (Ref, error) {
	checkClass(c)
	if err := checkLen(n); err != nil {
		return 0, err
	}
	epoch := st.epoch.Load()
	s, err := st.alloc(n, arena.Scratch)
	if err != nil {
		return 0, err
	}
	defer st.arena.Free(s)
	scope.Do(func() { err = fill(s.Bytes()) })
	if err != nil {
		return 0, err
	}
	return st.copyIn(epoch, s.Bytes(), c)
}

// Random makes a secret of n bytes read from rand.
func (st *Store) Random(rand io.Reader, n int, c Class) (Ref, error) {
	return st.Fill(n, c, func(b []byte) error {
		if _, err := io.ReadFull(rand, b); err != nil {
			return fmt.Errorf("read randomness: %w", err)
		}
		return nil
	})
}

// Take moves b into a new secret and wipes b in every case.
func (st *Store) Take(b []byte, c Class) (Ref, error) {
	defer clear(b)
	return st.copyIn(st.epoch.Load(), b, c)
}

// view is the plaintext of a secret for one operation.
type view struct {
	ref     Ref
	e       *entry
	b       []byte
	scratch arena.Slot
}

// view begins an operation that needs the bytes of ref.
func (st *Store) view(ref Ref) (view, error) {
	e, err := st.acquire(ref)
	if err != nil {
		return view{}, err
	}
	if e.aead != nil {
		st.release(ref, e)
		invariants.Violated("memsec", "an AEAD handle used as a secret")
	}
	if e.class == Hot {
		return view{ref: ref, e: e, b: e.slot.Bytes()}, nil
	}
	s, err := st.alloc(e.n, arena.Scratch)
	if err == nil {
		err = st.openEnclave(e, s.Bytes())
		if err == nil {
			return view{ref: ref, e: e, b: s.Bytes(), scratch: s}, nil
		}
		st.arena.Free(s)
	}
	st.release(ref, e)
	return view{}, err
}

// end ends the operation and wipes the copy of a cold secret.
func (st *Store) end(v view) {
	st.arena.Free(v.scratch)
	st.release(v.ref, v.e)
}

// Len returns the length of the secret, or 0 when it is destroyed.
func (st *Store) Len(ref Ref) int {
	e, err := st.acquire(ref)
	if err != nil {
		return 0
	}
	defer st.release(ref, e)
	return e.n
}

// ClassOf returns the class of the secret, or 0 when it is destroyed.
func (st *Store) ClassOf(ref Ref) Class {
	e, err := st.acquire(ref)
	if err != nil {
		return 0
	}
	defer st.release(ref, e)
	return e.class
}
