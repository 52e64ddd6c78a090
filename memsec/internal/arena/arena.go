// Package arena hands out small slots of memory that is locked, kept out of core dumps and not inherited by child processes.
//
// Memory is reserved in extents between two guard pages and made accessible and
// locked piece by piece. A piece is cut into blocks of 4 KiB, a block into slots
// of one size class. Key bytes that stay (Resident) and copies that live for one
// operation (Scratch) never share a block, so that a slice which escaped from a
// scope can never come to alias a resident key.
//
// # Invariants
//
//   - I1: a free slot holds no byte of what it held; it is wiped before it can be handed out again.
//   - I2: a slot has at most one owner; two live slots never overlap, and freeing twice stops the process.
//   - I3: no more than the limit is ever committed, and [Reserve] bytes stay lockable for the enclaves; running out is [ErrExhausted], never a panic.
//   - I4: resident and scratch slots never share a block, and residents never take the last blocks: a process full of keys can still use them.
//
// # Concurrency
//
// An Arena is safe for concurrent use. Lock order: 1. Arena.mu, 2. locking, the
// process-wide lock under which pages are locked. Whoever holds locking, through
// [WithHeadroom] or [Exclusive], must not use an arena.
//
// # Failure
//
// Where pages cannot be locked at all, [Arena.Locked] is false and slots come from ordinary pages.
// Where the limit is met, allocation fails and everything already handed out stays valid.
//
// # Source
//
// mlock(2), madvise(2), setrlimit(2).
package arena

import (
	"errors"
	"math/bits"
	"os"
	"sync"

	"github.com/openkcm/krypton-cluster/internal/invariants"
)

const (
	// MaxSlot is the largest slot, in bytes.
	MaxSlot = blockSize

	blockSize  = 4096
	minSlot    = 32
	classes    = 8  // 32, 64, ... 4096
	extentSize = 64 // pieces per extent

	// headroomPages is what memguard may lock at once on top of what it
	// holds: three pages of its key, one view of it and one opened buffer,
	// with some to spare.
	headroomPages = 8
)

// ErrExhausted means that no more memory may be locked.
var ErrExhausted = errors.New("locked memory is exhausted")

// scratchFloor is how many blocks residents leave to scratch slots: enough for
// four operations on the longest secrets, or for hundreds on keys. An arena of
// less than 32 blocks leaves fewer, one of less than 8 none.
const scratchFloor = 4

// Use says what a slot is for.
type Use int

// The uses.
const (
	Resident Use = iota // a key that stays until it is destroyed
	Scratch             // a copy for one operation
	uses
)

// Slot is a piece of protected memory with one owner.
type Slot struct {
	b    *block
	idx  int
	size int
}

// Bytes returns the slot's memory. Its capacity ends with the slot.
func (s Slot) Bytes() []byte {
	if s.b == nil {
		return nil
	}
	off := s.idx << s.b.shift
	return s.b.mem[off : off+s.size : off+s.size]
}

// block is 4 KiB of committed memory, cut into slots of 1<<shift bytes.
// All fields are guarded by Arena.mu, except that mem, shift and use do not
// change while a slot of the block is out.
type block struct {
	mem   []byte
	shift uint
	use   Use
	free  [blockSize / minSlot / 64]uint64 // one bit per free slot
	nfree int
	pos   int // index in its list of blocks with room, -1 when full
}

// locking serialises everything that makes the process lock more memory, so
// that a check of what is left stays true until it was used. It is one for the
// process because the limit is one for the process.
var locking sync.Mutex

// Arena is a bounded set of protected pages. Make one with [New].
type Arena struct {
	mu     sync.Mutex
	room   [uses][classes][]*block // blocks with at least one free slot
	spare  []*block                // committed, of no class
	used   int                     // bytes of slots handed out
	passes int                     // blocks of scratch slots
	blocks []*block                // every block, for audits

	// Guarded by mu as well; changed while locking is held.
	limit     int
	committed int
	extent    region
	next      int // first piece of extent that is not committed
	decided   bool
	locked    bool
}

// New returns an empty arena that will commit at most limit bytes.
func New(limit int) *Arena { return &Arena{limit: limit} }

// Piece is the unit in which memory is committed, in bytes.
func Piece() int { return max(os.Getpagesize(), blockSize) }

// Reserve returns how many bytes must stay lockable for enclaves.
func Reserve() int { return headroomPages * os.Getpagesize() }

// Alloc returns a zeroed slot of n bytes, 1 to [MaxSlot].
func (a *Arena) Alloc(n int, use Use) (Slot, error) {
	if n < 1 || n > MaxSlot {
		invariants.Violated("memsec", "slot of %d bytes", n)
	}
	class := classOf(n)
	a.mu.Lock()
	defer a.mu.Unlock()
	list := &a.room[use][class]
	if len(*list) == 0 {
		if err := a.addBlock(use, class); err != nil {
			return Slot{}, err
		}
	}
	b := (*list)[len(*list)-1]
	idx := b.take()
	if b.nfree == 0 {
		a.unlist(b)
	}
	a.used += 1 << b.shift
	full := b.mem[idx<<b.shift : (idx+1)<<b.shift]
	checkUntouched(full)
	clear(full) // also of what a slice that outlived its scope wrote here
	return Slot{b: b, idx: idx, size: n}, nil
}

// Free wipes the slot and takes it back (I1).
func (a *Arena) Free(s Slot) {
	if s.b == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b := s.b
	word, bit := s.idx/64, uint64(1)<<(s.idx%64)
	if b.free[word]&bit != 0 {
		invariants.Violated("memsec", "slot freed twice")
	}
	full := b.mem[s.idx<<b.shift : (s.idx+1)<<b.shift]
	clear(full)
	invariants.Mangle(full)
	b.free[word] |= bit
	b.nfree++
	a.used -= 1 << b.shift
	if b.nfree == 1 {
		a.list(b)
	}
	// An empty block goes back to every class, unless it is the only one
	// with room: giving that one away would thrash.
	if b.nfree == blockSize>>b.shift && len(a.room[b.use][b.shift-minShift]) > 1 {
		a.unlist(b)
		b.free = [len(b.free)]uint64{}
		b.nfree = 0
		if b.use == Scratch {
			a.passes--
		}
		// Slots that were never handed out are still zero, others mangled: a
		// larger slot that spans both must not look as if it was written to.
		invariants.Mangle(b.mem)
		a.spare = append(a.spare, b)
	}
}

const minShift = 5

func classOf(n int) int {
	if n <= minSlot {
		return 0
	}
	return bits.Len(uint(n-1)) - minShift
}

// checkUntouched makes sure that nobody wrote to a slot while it was free: in
// builds with checks such a write is a slice that outlived its scope.
func checkUntouched(full []byte) {
	if !invariants.Enabled {
		return
	}
	first := full[0]
	for _, c := range full {
		if c != first || (c != 0 && c != 0xDB) {
			invariants.Violated("memsec", "protected memory was written after its scope")
		}
	}
}

func (b *block) take() int {
	for w := range b.free {
		if b.free[w] != 0 {
			i := bits.TrailingZeros64(b.free[w])
			b.free[w] &^= 1 << i
			b.nfree--
			return w*64 + i
		}
	}
	invariants.Violated("memsec", "block without a free slot in the list")
	return 0
}

func (a *Arena) list(b *block) {
	l := &a.room[b.use][b.shift-minShift]
	b.pos = len(*l)
	*l = append(*l, b)
}

func (a *Arena) unlist(b *block) {
	l := &a.room[b.use][b.shift-minShift]
	last := (*l)[len(*l)-1]
	(*l)[b.pos] = last
	last.pos = b.pos
	(*l)[len(*l)-1] = nil
	*l = (*l)[:len(*l)-1]
	b.pos = -1
}

// addBlock gives the class one more block. a.mu is held.
func (a *Arena) addBlock(use Use, class int) error {
	if use == Resident && !a.leavesScratch() {
		return ErrExhausted
	}
	if len(a.spare) == 0 {
		if err := a.grow(); err != nil {
			return err
		}
	}
	b := a.spare[len(a.spare)-1]
	a.spare = a.spare[:len(a.spare)-1]
	b.use, b.shift = use, uint(class)+minShift
	if use == Scratch {
		a.passes++
	}
	n := blockSize >> b.shift
	b.nfree = n
	for w := range b.free {
		switch {
		case n >= 64:
			b.free[w] = ^uint64(0)
			n -= 64
		default:
			b.free[w] = 1<<n - 1
			n = 0
		}
	}
	a.list(b)
	return nil
}

// leavesScratch reports whether residents may take one more block (I4).
func (a *Arena) leavesScratch() bool {
	floor := min(scratchFloor, a.limit/blockSize/8)
	open := len(a.spare) + (a.limit-a.committed)/blockSize
	return open+a.passes > floor
}

// grow commits one more piece. a.mu is held.
func (a *Arena) grow() error {
	locking.Lock()
	defer locking.Unlock()
	return a.growLocked()
}

func (a *Arena) growLocked() error {
	size := Piece()
	if a.committed+size > a.limit {
		return ErrExhausted
	}
	if !a.extent.valid() || a.next == extentSize {
		r, err := reserve(extentSize * size)
		if err != nil {
			return errors.Join(ErrExhausted, err)
		}
		a.extent, a.next = r, 0
	}
	mem, err := a.commit(a.next*size, size)
	if err != nil {
		return err
	}
	a.next++
	a.committed += size
	for off := 0; off < size; off += blockSize {
		b := &block{mem: mem[off : off+blockSize : off+blockSize], pos: -1}
		a.blocks = append(a.blocks, b)
		a.spare = append(a.spare, b)
	}
	return nil
}

// commit makes a piece usable and locks it. The first piece decides whether
// this process can lock memory at all: a process that cannot runs on ordinary
// pages and says so, one that can never falls back silently later.
func (a *Arena) commit(off, size int) ([]byte, error) {
	mem, err := a.extent.open(off, size)
	if err != nil {
		return nil, errors.Join(ErrExhausted, err)
	}
	if !a.decided {
		a.decided = true
		a.locked = lock(mem) == nil
		return mem, nil
	}
	if !a.locked {
		return mem, nil
	}
	if err := lock(mem); err != nil {
		return nil, errors.Join(ErrExhausted, err)
	}
	if err := probe(Reserve()); err != nil {
		unlock(mem)
		return nil, errors.Join(ErrExhausted, err)
	}
	return mem, nil
}

// WithHeadroom runs fn while it is certain that the enclaves' reserve can be
// locked and while nothing else of ours locks memory. fn must not use an arena.
//
// memguard panics when it cannot lock a page, and hangs in one place; both are
// prevented by looking first.
func WithHeadroom(fn func()) error {
	locking.Lock()
	defer locking.Unlock()
	if err := probe(Reserve()); err != nil {
		return errors.Join(ErrExhausted, err)
	}
	fn()
	return nil
}

// Exclusive runs fn while nothing else of ours locks memory, whatever is left.
// fn must not use an arena and must not lock memory.
func Exclusive(fn func()) {
	locking.Lock()
	defer locking.Unlock()
	fn()
}

// SetLimit changes how many bytes may be committed. It never takes back what
// is committed already.
func (a *Arena) SetLimit(limit int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit = limit
}

// Commit commits and locks pieces until n bytes are, so that later growth
// cannot fail because something else took the memory.
func (a *Arena) Commit(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	locking.Lock()
	defer locking.Unlock()
	for a.committed < n {
		if err := a.growLocked(); err != nil {
			return err
		}
	}
	return nil
}

// Stats is what an arena holds, in bytes.
type Stats struct {
	Committed int  // pages in use or ready for use
	Used      int  // slots handed out, rounded up to their class
	Limit     int  // bound on Committed
	Locked    bool // the pages are locked
}

// Stats returns what the arena holds now.
func (a *Arena) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Stats{Committed: a.committed, Used: a.used, Limit: a.limit, Locked: a.locked}
}
