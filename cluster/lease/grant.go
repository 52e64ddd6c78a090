package lease

import (
	"time"

	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// Lease is the right to serve under one grant: a value that the caller publishes
// together with the view, for readers without a lock. The zero value is no right.
type Lease struct {
	// Start is the holder's clock before it sent the request.
	Start Reading
	// Span is how long after Start the lease may be used.
	Span  time.Duration
	Term  uint64 // of the leader that gave it
	Index uint64 // g; the view has it
}

// Usable reports whether an operation may be answered at now. A reader loads lease
// and view in one step, then reads the clock, then asks: in any other order a
// pause in between lets it answer after the end.
func (l Lease) Usable(now Reading) bool { return now.Longest(l.Start) < l.Span }

// Remaining returns for how long the lease can be used from now, 0 if it cannot.
func (l Lease) Remaining(now Reading) time.Duration {
	return max(l.Span-now.Longest(l.Start), 0)
}

// waiting is a grant whose index the view does not have yet.
type waiting struct {
	lease Lease
	chain Chain
}

// install takes a grant into use, or keeps it until the view has its index. There
// are at most two: the one in use and one that waits. The one in use stays until
// the other's index is reached and is replaced by it whole (I7).
//
// Of two that wait the first stays, while it lasts: its index is the lower one, and
// a view that lags behind would never reach one that moves on with every grant.
func (h *Holder) install(now Reading, w waiting) {
	switch {
	case h.applied.Index >= w.lease.Index:
		h.use(now, w.lease)
	case !h.waits.lease.Usable(now):
		h.waits = w
	case w.lease.Index == h.waits.lease.Index && w.lease.Remaining(now) > h.waits.lease.Remaining(now):
		h.waits = w
	}
}

// use replaces the grant in use by another one unless that ends earlier.
func (h *Holder) use(now Reading, l Lease) {
	if l.Remaining(now) > h.inUse.Remaining(now) {
		h.inUse = l
	}
}

// reach takes the waiting grant into use once the view has its index, unless the
// leader's state there was another one (I10).
func (h *Holder) reach(now Reading) {
	w := h.waits
	if w.lease.Span == 0 || h.applied.Index < w.lease.Index {
		return
	}
	h.waits = waiting{}
	if h.applied.Index == w.lease.Index && compare(h.applied.Chain, w.chain) == Differs {
		h.Differ()
		return
	}
	h.use(now, w.lease)
}

func compare(a, b Chain) Agreement {
	switch {
	case a == Chain{} || b == Chain{} || mutation.On(mutation.SkipChain):
		return AgreementUnknown
	case a == b:
		return Agrees
	}
	return Differs
}
