package lease

import (
	"fmt"
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Timing is the timers of a cluster that leases depend on.
type Timing struct {
	// Heartbeat is Raft's heartbeat, election and leader lease timeout: they are equal.
	Heartbeat time.Duration
	// Renew is the time between two requests of a holder (R).
	Renew time.Duration
	// Lease is the length of a lease (D).
	Lease time.Duration
	// Grant is from a holder's request to its usable grant when all is well: a round
	// trip to the leader, one from it to a majority, and what the view lags.
	Grant time.Duration
}

// LAN returns the timers for voters within a few milliseconds of each other.
func LAN() Timing {
	return Timing{Heartbeat: 500 * time.Millisecond, Renew: 250 * time.Millisecond, Lease: 3 * time.Second, Grant: 100 * time.Millisecond}
}

// WAN returns the timers for voters in different regions.
func WAN() Timing {
	return Timing{Heartbeat: time.Second, Renew: 500 * time.Millisecond, Lease: 8 * time.Second, Grant: 600 * time.Millisecond}
}

// Failover returns how long a cluster may be without a leader after losing one:
// Raft notices within one to two heartbeat timeouts and elects within one to two
// more. Votes that split take longer, and are rare.
func (t Timing) Failover() time.Duration { return 4 * t.Heartbeat }

// Needed returns how much of a lease a holder can be without a leader's answer
// while the leader is replaced: it asked up to Renew ago, waits for the failover,
// and then for a grant.
func (t Timing) Needed() time.Duration { return t.Renew + t.Failover() + t.Grant }

// Patience returns how long a holder waits for an answer before it makes a new
// connection to the leader: a quarter of what it uses of a lease, which so outlives
// the loss of a connection, and not less than two grants.
func (t Timing) Patience() time.Duration { return max(HolderSpan(t.Lease)/4, 2*t.Grant) }

// Check refuses timers that cannot work (I13): what a holder uses of a lease must
// be longer than [Timing.Needed], or reads pause whenever the leader changes. The
// error is an InvalidConfig that says which timers, and what would be enough.
func (t Timing) Check() error {
	for _, v := range []struct {
		name string
		d    time.Duration
	}{{"heartbeat", t.Heartbeat}, {"renewal", t.Renew}, {"lease", t.Lease}, {"grant", t.Grant}} {
		if v.d <= 0 || v.d > MaxLease {
			return errs.New(errs.InvalidConfig, fmt.Sprintf("the %s time is %v", v.name, v.d),
				errs.Hint("it is more than 0 and at most %v", MaxLease))
		}
	}
	if t.Grant >= MaxAsked*t.Renew {
		// Each request would be forgotten before its answer comes: no lease, ever.
		return errs.New(errs.InvalidConfig, fmt.Sprintf("a grant takes %v and leases are renewed every %v, so that more than %d requests would be unanswered at a time", t.Grant, t.Renew, MaxAsked-1),
			errs.Hint("renew them less often"))
	}
	if t.Renew < RoundSpacing {
		return errs.New(errs.InvalidConfig, fmt.Sprintf("leases are renewed every %v", t.Renew),
			errs.Hint("renew them every %v or less often: a leader asks the voters no faster", RoundSpacing))
	}
	used, needed := HolderSpan(t.Lease), t.Needed()
	if used <= needed {
		return errs.New(errs.InvalidConfig,
			fmt.Sprintf("a lease of %v is too short: it is used for %v, and that must be more than %v (renewal %v, failover of 4 heartbeats of %v, grant %v)",
				t.Lease, used, needed, t.Renew, t.Heartbeat, t.Grant),
			errs.Hint("make the lease longer, or the heartbeat shorter"))
	}
	return nil
}
