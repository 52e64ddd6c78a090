// Package limit says how often, and how many at a time, whoever it is may call.
//
// Each key (a caller, a tenant, an address) has an [Account] with a budget for each
// [Class] of calls: a rate with a burst, and a number at a time. Budgets of classes
// have nothing to do with each other, so that no amount of data operations can keep
// its caller from a change, and none of either from taking power away.
//
// The rate is a token bucket, kept as one number: the time at which the bucket is
// full again (GCRA, the generic cell rate algorithm). golang.org/x/time/rate keeps
// the same behind a mutex for each limiter and with an allocation for what it
// promises; here a call is a few atomic operations, and a bucket can be retired
// while others look at it, which is what bounds the memory.
//
// # Invariants
//
//   - I1: in any span of time a class of an account admits no more than its burst and what its rate gives in that span.
//   - I2: no more than AtOnce calls of a class of an account run at a time.
//   - I3: a table holds no more keys than it was made for.
//   - I4: no key gets a larger budget because another one came or went, and forgetting a key changes nothing for it: only an account with full buckets and no running call is forgotten.
//   - I5: what one account or class spends is not missing in another one.
//   - I6: who is refused is told a time after which the rate admits the call, and it is never longer than the burst takes to come back.
//
// # Concurrency
//
// Everything is safe for concurrent use. Enter and Leave take no lock; finding an
// account takes one of 16, for the time of a map lookup. Callers keep what they found.
//
// # Failure
//
// When a table is full of keys that are all in use, further keys share one account
// in each of its 16 parts: strangers to the table get less, those in it nothing less.
// A clock that goes back makes a bucket full at most one burst later.
//
// # Source
//
// ITU-T I.371 (GCRA); docs/limits.md; docs/adr/0032-budgets-for-callers-and-tenants.md.
package limit

import (
	"sync/atomic"
	"time"
)

// Class is what a call counts as. Zero is [Use].
type Class int

// The classes.
const (
	Use     Class = iota // operations on data with a key
	Read                 // reading the registry, waiting for an operation
	Change               // changes of the registry
	Protect              // what only takes power away, and what unsealing needs

	Classes // how many there are; no class
)

// String returns the name of the class, as metrics have it.
func (c Class) String() string {
	switch c {
	case Use:
		return "use"
	case Read:
		return "read"
	case Change:
		return "change"
	case Protect:
		return "protect"
	case Classes:
	}
	return "unknown"
}

// MaxRate is the highest rate that can be kept: 100 ns a call.
const MaxRate = 10_000_000

// Budget bounds the calls of one class of one account. A field that is 0 bounds nothing.
type Budget struct {
	PerSecond int // rate; at most MaxRate
	Burst     int // calls at once after a pause, at least 1. 0: as many as a second gives
	AtOnce    int // calls that run at a time
}

// Budgets are those of an account, by class.
type Budgets [Classes]Budget

// allowance is a budget as it is counted: nanoseconds.
type allowance struct {
	each   int64 // that one call costs; 0: no rate
	burst  int64 // that may be spent ahead
	atOnce int64 // 0: any number
}

func allowanceOf(b Budget) allowance {
	a := allowance{atOnce: int64(max(b.AtOnce, 0))}
	if b.PerSecond <= 0 {
		return a
	}
	a.each = int64(time.Second) / int64(min(b.PerSecond, MaxRate))
	burst := int64(b.Burst)
	if burst <= 0 {
		burst = int64(b.PerSecond)
	}
	a.burst = a.each * burst
	return a
}

// Reason says which part of a budget refused. Zero is none.
type Reason int

// The reasons.
const (
	Admitted   Reason = iota
	TooOften          // the rate
	TooMany           // the number at a time
	reasonGone        // the account was forgotten: its holder looks it up again
)

// Refusal is why a call was not admitted; the zero value says that it was.
type Refusal struct {
	Reason Reason
	// Wait is how long until the rate admits the call. For [TooMany] it is 0: nobody
	// knows when another call ends.
	Wait time.Duration
}

// retired stands in a bucket of an account that is forgotten.
const retired = int64(-1) << 63

// meter is one class of an account, in a cache line of its own: calls of one class
// do not slow down those of another.
type meter struct {
	full    atomic.Int64 // when the bucket is full again, since the table was made; retired: the account is gone
	running atomic.Int64

	refused atomic.Uint64 // calls
	last    atomic.Int64  // when one was refused last
	_       [32]byte
}

// Account is what one key has spent. Accounts come from a [Table].
type Account struct {
	allowed *[Classes]allowance
	meters  [Classes]meter
	shared  bool // by all keys that the table has no room for
}

// enter takes one call of a class, or cost of them, at now since the table was made.
func (a *Account) enter(c Class, cost int, now int64) Refusal {
	m, b := &a.meters[c], &a.allowed[c]
	if n := m.running.Add(1); b.atOnce > 0 && n > b.atOnce {
		m.running.Add(-1)
		return m.refuse(Refusal{Reason: TooMany}, now)
	}
	// From here on the account is not forgotten, unless it was before.
	spend := min(b.each*int64(max(cost, 1)), b.burst) // a call that costs more than a burst would never be admitted
	for {
		full := m.full.Load()
		switch {
		case full == retired:
			m.running.Add(-1)
			return Refusal{Reason: reasonGone}
		case b.each == 0:
			return Refusal{}
		}
		if full > now+b.burst {
			// No bucket is empty for longer: this one was used under a clock that went
			// back since. It is as if it had been emptied now.
			m.full.CompareAndSwap(full, now+b.burst)
			continue
		}
		next := max(full, now) + spend
		if next > now+b.burst {
			m.running.Add(-1)
			return m.refuse(Refusal{Reason: TooOften, Wait: time.Duration(next - now - b.burst)}, now)
		}
		if m.full.CompareAndSwap(full, next) {
			return Refusal{}
		}
	}
}

func (m *meter) refuse(r Refusal, now int64) Refusal {
	m.refused.Add(1)
	m.last.Store(now)
	return r
}

// leave ends a call that enter admitted.
func (a *Account) leave(c Class) { a.meters[c].running.Add(-1) }

// retire forgets the account if nobody can tell it from a new one (I4), so that
// whoever still holds it looks it up again.
func (a *Account) retire(now int64) bool {
	if a.shared {
		return false
	}
	var was [Classes]int64
	for c := range a.meters {
		m := &a.meters[c]
		was[c] = m.full.Load()
		// First the bucket, then the calls: enter counts its call before it looks at
		// the bucket, so one of the two sees the other.
		if was[c] > now || !m.full.CompareAndSwap(was[c], retired) {
			a.revive(was[:c])
			return false
		}
		if m.running.Load() != 0 {
			a.revive(was[:c+1])
			return false
		}
	}
	return true
}

func (a *Account) revive(was []int64) {
	for c, full := range was {
		a.meters[c].full.Store(full)
	}
}
