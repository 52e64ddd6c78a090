package cluster

import "time"

// simDistances is how long a message is on its way from one region to another in
// the profile for voters in different regions: two of one continent, and one beyond
// the sea. Machines stand in the regions in turn, so that every quorum crosses one
// border at least.
var simDistances = [3][3]time.Duration{
	{time.Millisecond, 15 * time.Millisecond, 75 * time.Millisecond},
	{15 * time.Millisecond, time.Millisecond, 60 * time.Millisecond},
	{75 * time.Millisecond, 60 * time.Millisecond, time.Millisecond},
}

// distance is how long a message between two machines takes when nothing is in its way.
func (p Profile) distance(from, to *simNode) time.Duration {
	if p != ProfileWAN {
		return 200 * time.Microsecond
	}
	return simDistances[from.machine()%len(simDistances)][to.machine()%len(simDistances)]
}

// jitter is by how much longer it may take.
func (p Profile) jitter(d time.Duration) time.Duration {
	if p != ProfileWAN {
		return 800 * time.Microsecond
	}
	return d / 5
}

// lease is how long leases last.
func (w *simWorld) lease() time.Duration { return w.plan.profile.Lease() }

// scaled is a time for leases of 3 s, scaled to those of this history.
func (w *simWorld) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * w.lease().Seconds() / ProfileLAN.Lease().Seconds())
}

// simReads is for how long nodes could not serve when leaders were lost.
type simReads struct {
	Heartbeat time.Duration `json:"heartbeat_ns"`
	Renew     time.Duration `json:"renew_ns"`
	Lease     time.Duration `json:"lease_ns"`

	Losses int             `json:"losses"`  // of a leader
	Gapped int             `json:"gapped"`  // after which a node that was not hit could not serve for a while
	Gaps   []time.Duration `json:"gaps_ns"` // per loss and node that was not hit
}

// simReadsOf is for what histories with the profile show.
func simReadsOf(p Profile) *simReads {
	t := must(p.timers())
	return &simReads{Heartbeat: t.heartbeat, Renew: t.renew, Lease: p.Lease()}
}

func (r *simReads) add(o simReads) {
	r.Losses += o.Losses
	r.Gapped += o.Gapped
	r.Gaps = append(r.Gaps, o.Gaps...)
}
