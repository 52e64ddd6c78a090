package lease

import (
	"time"

	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// HolderConfig is what a [Holder] never changes.
type HolderConfig struct {
	History History
	// Boot is the count of this process's starts, durable before the first request.
	Boot uint64
	// Renew is the time between two requests (R).
	Renew time.Duration
	// Patience is how long requests may stay unanswered before [Holder.Silent] gives
	// the connection up; zero: for ever.
	Patience time.Duration
}

// Holder asks for grants and knows whether this node may serve.
//
// The caller tells it of every command after the command has become visible and
// what derives from the old state is gone, and publishes [Holder.Lease] whenever
// that may have changed. It holds nothing that is worth keeping over a restart, and
// nothing of it may be kept: a lease that survives its process belongs to a view
// that does not.
type Holder struct {
	cfg      HolderConfig
	inc      Incarnation
	applied  Entry
	complete uint64
	maxTerm  uint64
	removed  bool
	differs  bool

	inUse Lease
	waits waiting
	nonce Nonce
	asked []asked // unanswered, oldest first

	// Of the present stream to the leader.
	sent     bool          // whether a request was sent on it
	last     Reading       // when, or when the leader said to come again
	again    time.Duration // after how long then; zero: Renew
	reported uint64        // last command that was reported on it
	fence    uint64        // last command that the leader said somebody waits for
	silence  silence
}

// asked is a request: when it was made, before it was sent.
type asked struct {
	nonce Nonce
	start Reading
}

// NewHolder returns a holder without a lease, whose view is empty.
func NewHolder(cfg HolderConfig) *Holder {
	return &Holder{cfg: cfg, inc: Incarnation{Boot: cfg.Boot}}
}

// Incarnation returns the present one.
func (h *Holder) Incarnation() Incarnation { return h.inc }

// Complete returns the last change that this node heard to be complete.
func (h *Holder) Complete() uint64 { return h.complete }

// Lease returns the lease in use. It may have run out: whoever uses it asks
// [Lease.Usable].
func (h *Holder) Lease() Lease { return h.inUse }

// Needs returns the index that the view must reach before a grant that was given
// can be used; 0: none waits for that.
func (h *Holder) Needs(now Reading) uint64 {
	if !h.waits.lease.Usable(now) {
		return 0
	}
	return h.waits.lease.Index
}

// Applied notes a command that is visible to this node's readers. A grant that
// waited for it comes into use.
func (h *Holder) Applied(now Reading, e Entry) {
	if e.Index <= h.applied.Index {
		invariants.Violated("lease", "entry %d after entry %d in incarnation %s", e.Index, h.applied.Index, h.inc)
	}
	h.applied = e
	h.reach(now)
}

// Restore says that the state machine is about to be given a snapshot: leases and
// requests are void from now on, and a new incarnation begins, whose view has
// nothing (I8). The caller publishes the lease before it touches the view, and
// says with [Holder.Applied] what the snapshot ended with.
func (h *Holder) Restore() {
	h.inc.Restores++
	h.applied, h.complete = Entry{}, 0
	h.void()
	h.Connect() // it reports anew, as another incarnation
}

// Remove says that this node's view has its removal: it never serves again.
func (h *Holder) Remove() {
	h.removed = true
	h.void()
}

// Differ says that this node's state at some index is not the leader's: it has no
// lease from it (I10), until [Holder.Connect] or a grant whose chain agrees.
func (h *Holder) Differ() {
	h.differs = true
	h.void()
}

func (h *Holder) void() {
	h.inUse, h.waits, h.asked = Lease{}, waiting{}, h.asked[:0]
}

// Connect says that a new stream to a leader stands, of this or of another one.
// Nothing was reported on it: the next message is due at once. Nor were states
// compared. Leases stay: they were given and run out by themselves.
func (h *Holder) Connect() {
	h.sent, h.again, h.reported, h.fence, h.differs = false, 0, 0, 0, false
	h.silence.open = false
}

// Again says that the leader took no message yet, and that the next request is due
// after that time. What was found about its state stays.
func (h *Holder) Again(now Reading, after time.Duration) {
	h.last, h.again = now, after
	h.reported, h.fence = 0, 0 // nor did it note what was in the message
}

// Grant takes a grant, at the time at which it came (I7). agrees says how the
// leader's chain at the grant's index compares with this node's at that index, as
// far as the caller remembers that; if it is the view's last or a later one, the
// chains are compared here.
func (h *Holder) Grant(now Reading, g Grant, agrees Agreement) Refusal {
	switch {
	case g.History != h.cfg.History:
		return RefusedHistory
	case h.removed:
		return RefusedRemoved
	case g.Inc != h.inc:
		return RefusedUnknown
	case g.Term < h.maxTerm:
		return RefusedLowerTerm
	case g.Lease <= 0 || g.Lease > MaxLease:
		return RefusedLength
	}
	start, ok := h.answered(g.Nonce)
	if !ok {
		return RefusedUnknown
	}
	h.maxTerm = g.Term
	h.Completed(g.Complete)
	if g.Index == h.applied.Index && agrees == AgreementUnknown {
		agrees = compare(h.applied.Chain, g.Chain)
	}
	switch agrees {
	case Differs:
		h.Differ()
	case Agrees:
		h.differs = false
	case AgreementUnknown:
	}
	if h.differs {
		return RefusedStateDiffers
	}
	h.install(now, waiting{
		lease: Lease{Start: start, Span: HolderSpan(g.Lease), Term: g.Term, Index: g.Index},
		chain: g.Chain,
	})
	return RefusalNone
}

// answered returns when the request with this nonce was made, and forgets it and
// those before it.
func (h *Holder) answered(n Nonce) (Reading, bool) {
	for i, a := range h.asked {
		if a.nonce == n {
			h.asked = append(h.asked[:0], h.asked[i+1:]...)
			return a.start, true
		}
	}
	return Reading{}, false
}

// Completed notes that the change index is complete, whoever said so: that stays
// true in every term of this history.
func (h *Holder) Completed(index uint64) { h.complete = max(h.complete, index) }

// Fence notes that somebody waits for the command index to be applied here.
func (h *Holder) Fence(index uint64) { h.fence = max(h.fence, index) }
