package limit

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

const (
	// parts is into how many parts a table is cut, each with a lock.
	parts = 16
	// lookFor is how many accounts are looked at for one that can be forgotten.
	lookFor = 64
)

// Table holds the accounts of up to a fixed number of keys. Make one with [NewTable].
type Table[K comparable] struct {
	clk     clock.Clock
	began   time.Time
	allowed [Classes]allowance
	seed    maphash.Seed // of this table: nobody can choose keys that fall into one part
	parts   [parts]part[K]
}

type part[K comparable] struct {
	mu       sync.Mutex
	capacity int
	byKey    map[K]*Account
	keys     []K // of byKey, in no order
	hand     int // where the search for an account to forget goes on
	rest     *Account
}

// NewTable returns a table of up to keys keys, rounded up to a multiple of 16, whose
// accounts all have those budgets.
func NewTable[K comparable](clk clock.Clock, keys int, budgets Budgets) *Table[K] {
	t := &Table[K]{clk: clk, began: clk.Now(), seed: maphash.MakeSeed()}
	for c, b := range budgets {
		t.allowed[c] = allowanceOf(b)
	}
	for i := range t.parts {
		p := &t.parts[i]
		p.capacity = max((keys+parts-1)/parts, 1)
		p.byKey = map[K]*Account{}
		p.rest = &Account{allowed: &t.allowed, shared: true}
	}
	return t
}

func (t *Table[K]) since(now time.Time) int64 { return int64(now.Sub(t.began)) }

// of returns the account of a key, a new one if it has none. It may be kept; when it
// was forgotten meanwhile, [Slot.Enter] finds the present one.
func (t *Table[K]) of(key K, now int64) *Account {
	p := &t.parts[maphash.Comparable(t.seed, key)%parts]
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.byKey[key]; ok {
		return a
	}
	a := &Account{allowed: &t.allowed}
	switch {
	case len(p.keys) < p.capacity:
		p.keys = append(p.keys, key)
	case p.forget(now):
		p.keys[p.hand] = key
	default:
		return p.rest
	}
	p.byKey[key] = a
	return a
}

// forget makes room where the hand stands then, if an account can be forgotten.
func (p *part[K]) forget(now int64) bool {
	for range min(lookFor, len(p.keys)) {
		p.hand = (p.hand + 1) % len(p.keys)
		if key := p.keys[p.hand]; p.byKey[key].retire(now) {
			delete(p.byKey, key)
			return true
		}
	}
	return false
}

// Len returns how many keys have an account.
func (t *Table[K]) Len() int {
	n := 0
	for i := range t.parts {
		p := &t.parts[i]
		p.mu.Lock()
		n += len(p.byKey)
		p.mu.Unlock()
	}
	return n
}

// Slot is the place of one key in a table, for whoever calls under that key again and
// again, such as a connection. The zero value is not usable; make one with [Table.Slot].
type Slot[K comparable] struct {
	table *Table[K]
	key   K
	found atomic.Pointer[Account]
}

// Slot returns the place of key. It allocates no account yet.
func (t *Table[K]) Slot(key K) *Slot[K] { return &Slot[K]{table: t, key: key} }

// Pass is a call that was admitted. The zero value is of none. It is used once.
type Pass struct {
	account *Account
	class   Class
}

// Leave ends the call.
func (p Pass) Leave() {
	if p.account != nil {
		p.account.leave(p.class)
	}
}

// Enter asks for cost calls of a class at now. If it is admitted, the caller has to
// leave with the pass when the call has ended.
func (s *Slot[K]) Enter(c Class, cost int, now time.Time) (Pass, Refusal) {
	at := s.table.since(now)
	for {
		a := s.found.Load()
		if a == nil {
			if a = s.table.of(s.key, at); !a.shared { // the next call may find room
				s.found.Store(a)
			}
		}
		switch r := a.enter(c, cost, at); r.Reason { //nolint:exhaustive // The others are refusals.
		case Admitted:
			return Pass{a, c}, r
		case reasonGone:
			s.found.CompareAndSwap(a, nil)
		default:
			return Pass{}, r
		}
	}
}

// Refused is what was refused to one key.
type Refused[K comparable] struct {
	Key   K
	Class Class
	Calls uint64    // since the account is known
	Last  time.Time // when it was the last time
}

// Refused returns to whom calls were refused since then, the latest first, at most n.
// What keys without an account of their own were refused is not in it.
func (t *Table[K]) Refused(since time.Time, n int) []Refused[K] {
	from := t.since(since)
	var all []Refused[K]
	for i := range t.parts {
		p := &t.parts[i]
		p.mu.Lock()
		for key, a := range p.byKey {
			for c := range a.meters {
				m := &a.meters[c]
				if calls, last := m.refused.Load(), m.last.Load(); calls > 0 && last >= from {
					all = append(all, Refused[K]{key, Class(c), calls, t.began.Add(time.Duration(last))})
				}
			}
		}
		p.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Refused[K]) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(b.Calls, a.Calls))
	})
	return all[:min(n, len(all))]
}
