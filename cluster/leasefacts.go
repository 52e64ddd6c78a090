package cluster

import (
	"slices"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// LeaseReport is what a leader that gives leases knows of everybody's.
type LeaseReport struct {
	Term     uint64          // of the entry with which it began to give leases
	Complete uint64          // last change before which no node acts on the state
	Fences   int             // callers' changes that are committed and not complete, at most 4096
	Waits    []lease.Waiting // for whom the last of them waits
	Holders  []LeaseHolder   // by node; only those that it heard in this term
}

// LeaseHolder is a member as a leader sees it.
type LeaseHolder struct {
	ID    NodeID
	Lag   uint64        // indexes that the leader has applied and the member has not reported
	Held  time.Duration // how long it may hold a lease, of this or an earlier leader, at most; 0: it holds none
	Drift lease.Drift
}

// report makes the report of what Lease found; nil without an epoch. The caller
// holds mu.
func (l *leases) report(now lease.Reading, index uint64) *LeaseReport {
	term, _, ok := l.leader.Established()
	if !ok {
		return nil
	}
	r := &LeaseReport{Term: term, Complete: l.leader.Complete()}
	var last uint64
	if r.Fences, last = l.waited.waiting(); r.Fences > 0 {
		// Not for the last command: for the cluster's own ones nobody hurries.
		r.Waits = l.leader.Pending(now, last)
	}
	for _, h := range l.leader.Holders(now) {
		if h.Removed || h.Inc == (lease.Incarnation{}) {
			continue
		}
		one := LeaseHolder{ID: NodeID(h.Node), Held: max(h.Leased, h.Earlier), Drift: h.Drift}
		if one.ID != l.c.id && h.Reported < index { // what a leader reports to itself says nothing
			one.Lag = index - h.Reported
		}
		r.Holders = append(r.Holders, one)
	}
	return r
}

func reportToProto(r *LeaseReport) *clusterpb.LeaseReport {
	if r == nil {
		return nil
	}
	out := &clusterpb.LeaseReport{Term: r.Term, Complete: r.Complete, Fences: uint32(r.Fences)} //nolint:gosec // Callers of one node are fewer.
	for _, w := range r.Waits {
		out.Waits = append(out.Waits, &clusterpb.LeaseWait{NodeId: string(w.Node), AtMostMs: atMostMS(w.Remaining)})
	}
	for _, h := range r.Holders {
		out.Holders = append(out.Holders, &clusterpb.LeaseHolder{
			NodeId: string(h.ID), Lag: h.Lag, HeldMs: atMostMS(h.Held),
			ClockOverMs: h.Drift.Over.Milliseconds(), ClockAheadUs: h.Drift.Ahead.Microseconds(),
		})
	}
	return out
}

// atMostMS rounds up: what is said to be the most never is less.
func atMostMS(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func reportFromProto(r *clusterpb.LeaseReport) *LeaseReport {
	if r == nil {
		return nil
	}
	out := &LeaseReport{Term: r.GetTerm(), Complete: r.GetComplete(), Fences: int(r.GetFences())}
	for _, w := range r.GetWaits() {
		out.Waits = append(out.Waits, lease.Waiting{Node: lease.NodeID(w.GetNodeId()), Remaining: time.Duration(w.GetAtMostMs()) * time.Millisecond})
	}
	for _, h := range r.GetHolders() {
		out.Holders = append(out.Holders, LeaseHolder{
			ID: NodeID(h.GetNodeId()), Lag: h.GetLag(), Held: time.Duration(h.GetHeldMs()) * time.Millisecond,
			Drift: lease.Drift{Over: time.Duration(h.GetClockOverMs()) * time.Millisecond, Ahead: time.Duration(h.GetClockAheadUs()) * time.Microsecond},
		})
	}
	return out
}

// RefusedBy says who refused: a leader that gave no lease, or a holder that took
// none.
type RefusedBy string

// Who refuses.
const (
	RefusedByLeader RefusedBy = "leader"
	RefusedByHolder RefusedBy = "holder"
)

// RefusalCount is how often this node refused, as what and why.
type RefusalCount struct {
	By     RefusedBy
	Reason string // one of a closed set, see [lease.Refusal]
	Count  uint64
}

// refusals counts this node's own refusals. The zero value is ready to use; the
// caller serializes.
type refusals struct{ byLeader, byHolder [lease.Refusals]uint64 }

func (r *refusals) list() []RefusalCount {
	var out []RefusalCount
	for _, side := range []struct {
		by     RefusedBy
		counts *[lease.Refusals]uint64
	}{{RefusedByLeader, &r.byLeader}, {RefusedByHolder, &r.byHolder}} {
		for reason, n := range side.counts {
			if n > 0 {
				out = append(out, RefusalCount{By: side.by, Reason: lease.Refusal(reason).String(), Count: n})
			}
		}
	}
	return out
}

// FenceBounds are the upper bounds of the buckets of [FenceTimes]: a round trip in
// one building is in the first half, the lease of a member that died in the second.
//
//nolint:gochecknoglobals // Immutable.
var FenceBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// FenceTimes is how long callers' changes waited on this node, while it led, from
// being committed to being complete.
type FenceTimes struct {
	Count   uint64
	Sum     time.Duration
	Buckets [len(FenceBounds)]uint64 // how many took at most the bound, those of lower bounds included
}

// maxTimed is how many changes are measured at a time; more are not counted.
const maxTimed = 4096

// fenceTimer collects [FenceTimes], whether or not the callers wait. The zero value
// is ready to use.
type fenceTimer struct {
	mu      sync.Mutex
	open    []timed
	reached uint64
	times   FenceTimes
}

// timed is a change that is committed and not complete.
type timed struct {
	index uint64
	since time.Time
}

// begin notes a change that is committed.
func (f *fenceTimer) begin(index uint64, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case index <= f.reached:
		f.took(0) // it was complete before this node came to note it
	case len(f.open) < maxTimed:
		f.open = append(f.open, timed{index, now})
	}
}

// reach notes that a change and all before it are complete.
func (f *fenceTimer) reach(index uint64, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index <= f.reached {
		return
	}
	f.reached = index
	f.open = slices.DeleteFunc(f.open, func(t timed) bool {
		done := t.index <= index
		if done {
			f.took(now.Sub(t.since))
		}
		return done
	})
}

// drop forgets what is not complete: this node does not know any more.
func (f *fenceTimer) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open, f.reached = nil, 0
}

// waiting returns how many changes are not complete, and the index of the last.
func (f *fenceTimer) waiting() (count int, last uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.open {
		last = max(last, t.index)
	}
	return len(f.open), last
}

// took counts one. The caller holds mu.
func (f *fenceTimer) took(d time.Duration) {
	d = max(d, 0) // the clock was read before the lock was taken
	f.times.Count++
	f.times.Sum += d
	first, _ := slices.BinarySearch(FenceBounds[:], d)
	for i := first; i < len(FenceBounds); i++ {
		f.times.Buckets[i]++
	}
}

func (f *fenceTimer) read() FenceTimes {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.times
}
