package lease

import (
	"math"
	"slices"
	"time"
)

// forever is the time of what does not happen by itself.
const forever = time.Duration(math.MaxInt64)

// all is the watermark of a holder for whom no change waits.
const all = uint64(math.MaxUint64)

// standing is what a member may have.
type standing uint8

const (
	purged  standing = iota // not in the registry; here until its grants have run out
	removed                 // reports count, no grants
	current
)

// table knows, for every member, which grants may be out. Times are those of the
// leader's meter.
//
// A change i waits for a holder exactly if it has an unexpired grant with an index
// below i and has not reported i. Grants are given with growing indexes, so that
// the oldest one decides: one number per holder, the watermark, says which
// changes wait for it. The simpler way, a snapshot of all grants for each change,
// costs 40 times the time and 55 KB per change with 1,000 holders.
//
// low and wake repeat what slots say, in two dense arrays: the only thing that is
// done for all holders is to look for the least of each.
type table struct {
	span time.Duration // how long a grant counts
	self NodeID
	of   map[NodeID]int

	open, ready int // how many requests are in a round, and how many can be in the next one

	slots []slot
	low   []uint64        // watermark
	wake  []time.Duration // when time alone may raise it
}

type slot struct {
	node     NodeID
	standing standing

	// Whatever leases earlier leaders gave it, in any incarnation.
	before         bool
	beforeEnd      time.Duration
	beforeReported uint64 // by any incarnation, in this term

	// Its newest incarnation in this term.
	inc      Incarnation
	reported uint64
	grants   []granted // by index and by time

	open    request // in a round
	next    request // to be in the next one
	differs bool    // its state is not the leader's
}

// granted is the last grant with index, or, in a full ring, with index and above.
type granted struct {
	index uint64
	at    time.Duration
}

func (t *table) setMembers(members []Member) {
	if t.of == nil {
		t.of = make(map[NodeID]int, len(members))
	}
	for i := range t.slots {
		t.slots[i].standing = purged
	}
	for _, m := range members {
		i, ok := t.of[m.ID]
		if !ok {
			i = len(t.slots)
			t.of[m.ID] = i
			t.slots = append(t.slots, slot{node: m.ID})
			t.low, t.wake = append(t.low, all), append(t.wake, forever)
		}
		t.slots[i].standing = current
		if m.Removed {
			t.slots[i].standing = removed
			t.cancel(i)
		}
	}
	for i := range slices.Backward(t.slots) {
		t.forget(i)
	}
}

// forget drops a member that is purged and whose grants have run out.
func (t *table) forget(i int) {
	s := &t.slots[i]
	if s.standing != purged {
		return
	}
	t.cancel(i)
	if s.before || len(s.grants) != 0 {
		return
	}
	last := len(t.slots) - 1
	delete(t.of, s.node)
	if i != last {
		t.slots[i], t.low[i], t.wake[i] = t.slots[last], t.low[last], t.wake[last]
		t.of[t.slots[i].node] = i
	}
	t.slots[last] = slot{}
	t.slots, t.low, t.wake = t.slots[:last], t.low[:last], t.wake[:last]
}

// star gives a member the entry for whatever earlier leaders granted (I4).
func (t *table) star(i int, at time.Duration) {
	s := &t.slots[i]
	s.before, s.beforeEnd = true, at+t.span
	t.note(i)
}

// report notes what a member has applied. A newer incarnation ends what the older
// one was granted in this term: its process or its view is gone. What earlier
// leaders granted stays, since they may have granted it to the newer one.
func (t *table) report(i int, inc Incarnation, applied uint64) {
	s := &t.slots[i]
	if inc.Compare(s.inc) > 0 {
		s.inc, s.reported, s.grants = inc, 0, s.grants[:0]
		t.cancel(i)
	}
	// Right for any incarnation: whoever has applied a change of this epoch lived
	// after the epoch began, and what was asked for since then no earlier leader
	// grants any more (I2).
	s.beforeReported = max(s.beforeReported, applied)
	s.reported = max(s.reported, applied)
	t.note(i)
}

// ask keeps a request for the next round, in place of one that waits for it.
func (t *table) ask(i int, r request) {
	s := &t.slots[i]
	if s.next.nonce == 0 && s.open.nonce == 0 {
		t.ready++
	}
	s.next = r
}

// cancel forgets a member's requests.
func (t *table) cancel(i int) {
	s := &t.slots[i]
	switch {
	case s.open.nonce != 0:
		t.open--
	case s.next.nonce != 0:
		t.ready--
	}
	s.open, s.next = request{}, request{}
}

// admit puts what waits into a round, one request of each member: an earlier one
// that is not answered yet stays, or a member that asks faster than the voters
// answer would never be served.
func (t *table) admit(round uint64) {
	for i := range t.slots {
		s := &t.slots[i]
		if s.next.nonce == 0 || s.open.nonce != 0 {
			continue
		}
		s.open, s.next = s.next, request{}
		s.open.round = round
		t.open, t.ready = t.open+1, t.ready-1
	}
}

// take takes a request out of its round.
func (t *table) take(i int) request {
	s := &t.slots[i]
	r := s.open
	s.open = request{}
	t.open--
	if s.next.nonce != 0 {
		t.ready++
	}
	return r
}

// grant notes that a member is given a grant now (I5).
func (t *table) grant(i int, index uint64, at time.Duration) {
	s := &t.slots[i]
	switch n := len(s.grants); {
	case n > 0 && s.grants[n-1].index == index, n == MaxGrants:
		s.grants[n-1].at = at // I11: at the limit under the lower index, until the later end
	default:
		s.grants = append(s.grants, granted{index, at})
	}
	t.note(i)
}

// note brings low and wake up to date with a slot.
func (t *table) note(i int) {
	s := &t.slots[i]
	low, wake := all, forever
	if s.before {
		low, wake = s.beforeReported, s.beforeEnd
	}
	if len(s.grants) > 0 {
		low = min(low, max(s.reported, s.grants[0].index))
		wake = min(wake, s.grants[0].at+t.span)
	}
	if s.node == t.self {
		low = all // its own view has what it completes
	}
	t.low[i], t.wake[i] = low, wake
}

// expire forgets what has run out.
func (t *table) expire(now time.Duration) {
	for i := len(t.wake) - 1; i >= 0; i-- {
		if t.wake[i] > now {
			continue
		}
		s := &t.slots[i]
		if s.before && s.beforeEnd <= now {
			s.before = false
		}
		over := 0
		for over < len(s.grants) && s.grants[over].at+t.span <= now {
			over++
		}
		s.grants = slices.Delete(s.grants, 0, over)
		t.note(i)
		t.forget(i)
	}
}

// lowest returns the least watermark, and the first time that may raise one that
// is below index.
func (t *table) lowest(index uint64) (low uint64, wake time.Duration) {
	low, wake = all, forever
	wakes := t.wake[:len(t.low)]
	for i, v := range t.low {
		low = min(low, v)
		if v < index {
			wake = min(wake, wakes[i])
		}
	}
	return low, wake
}

// until returns the time after which the slot keeps index waiting no more,
// whatever it does, and whether it does so now.
func (t *table) until(i int, index uint64) (time.Duration, bool) {
	s := &t.slots[i]
	end, waits := time.Duration(0), false
	if s.node == t.self {
		return 0, false
	}
	if s.before && s.beforeReported < index {
		end, waits = s.beforeEnd, true
	}
	if s.reported < index {
		for _, g := range s.grants {
			if g.index < index {
				end, waits = max(end, g.at+t.span), true
			}
		}
	}
	return end, waits
}
