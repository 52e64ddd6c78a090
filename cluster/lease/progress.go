package lease

import (
	"cmp"
	"slices"
	"time"
)

// Progress is what a batch of events came to.
type Progress struct {
	// Complete is the last change that is complete.
	Complete uint64
	// Next is after how much time on this machine's clocks to call [Leader.Advance]
	// again at the latest, if nothing else happens. Zero: no change is waiting, or no time decides it.
	Next time.Duration
}

// Advance forgets grants that have run out and finds what is complete (I5). It is
// the only thing that costs time for every holder: it is called once for a batch
// of events, after which the caller tells the holders, and whoever waits.
func (l *Leader) Advance(now Reading) Progress {
	at := l.clock.tick(now)
	if l.term == 0 {
		return Progress{}
	}
	l.tab.expire(at)
	low, wake := l.tab.lowest(l.applied.Index)
	// What is below the epoch is complete with the epoch: earlier leaders' grants
	// are one entry, without indexes.
	if i := min(l.applied.Index, low); i >= l.epoch {
		l.complete = max(l.complete, i)
	}
	p := Progress{Complete: l.complete}
	if wake != forever {
		p.Next = max(wake-at, 1)
	}
	return p
}

// Waiting is a holder that keeps a change waiting.
type Waiting struct {
	Node NodeID
	// Remaining is how long it can do so at most, by this machine's clocks.
	Remaining time.Duration
}

// Pending returns for whom the change index still waits, by node. Empty: it is
// complete, or will be with the next [Leader.Advance], or there is no epoch.
func (l *Leader) Pending(now Reading, index uint64) []Waiting {
	at := l.clock.tick(now)
	if l.term == 0 || index <= l.complete {
		return nil
	}
	index = max(index, l.epoch)
	var out []Waiting
	for i := range l.tab.slots {
		if end, waits := l.tab.until(i, index); waits && end > at {
			out = append(out, Waiting{l.tab.slots[i].node, end - at})
		}
	}
	slices.SortFunc(out, func(a, b Waiting) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// HolderStatus is what the leader knows of one member.
type HolderStatus struct {
	Node     NodeID
	Removed  bool
	Inc      Incarnation   // zero: it has not said anything in this epoch
	Reported uint64        // last command that it said to have applied
	Leased   time.Duration // how long it may hold a lease, at most; zero: it holds none
	Earlier  time.Duration // how long it may hold a lease of an earlier leader, at most
	Differs  bool          // its state is not the leader's
	Drift    Drift
}

// Holders returns what the leader knows of every member, by node.
func (l *Leader) Holders(now Reading) []HolderStatus {
	at := l.clock.tick(now)
	out := make([]HolderStatus, 0, len(l.tab.slots))
	for i := range l.tab.slots {
		s := &l.tab.slots[i]
		h := HolderStatus{Node: s.node, Removed: s.standing != current, Inc: s.inc, Reported: s.reported, Differs: s.differs}
		if n := l.seen[s.node]; n != nil {
			h.Drift = n.audit.at(now.Boot)
		}
		if n := len(s.grants); n > 0 {
			h.Leased = max(s.grants[n-1].at+l.tab.span-at, 0)
		}
		if s.before {
			h.Earlier = max(s.beforeEnd-at, 0)
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b HolderStatus) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
