package cluster

import (
	"cmp"
	"fmt"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Profile names a set of timers by the distance between voters.
type Profile string

// The profiles.
const (
	ProfileLAN Profile = "lan" // voters within a few milliseconds of each other
	ProfileWAN Profile = "wan" // voters in different regions
)

// Lease returns how long serving leases last in a cluster that is founded with the
// profile: long enough that a leader is replaced before they end. In a network of
// a few milliseconds 0 to 0.5 % of the failovers that were measured took longer
// than 3 s, and 1.4 to 5 % longer than 2 s; between regions about none took longer
// than 8 s, and 6 to 13 % longer than 4 s. It is fixed when a cluster is founded
// ([fsm.View.LeaseDuration]), so another profile later changes nothing.
func (p Profile) Lease() time.Duration {
	if p == ProfileWAN {
		return 8 * time.Second
	}
	return 3 * time.Second
}

// timers are those of Raft and of the rounds beside it.
type timers struct {
	heartbeat time.Duration // also election and leader lease timeout
	renew     time.Duration // between two requests of a member for a lease
	grant     time.Duration // from such a request to the grant, when all is well
	reconcile time.Duration // longest time between two looks at the members
}

// errTimers is for a node whose profile cannot work with the cluster's leases: its
// reads would pause at every failover, and it would look healthy until then.
func errTimers(p Profile, why error) error {
	e := errs.From(why)
	return errs.New(errs.InvalidConfig, fmt.Sprintf("cluster.profile %s does not fit the leases of this cluster: %s", cmp.Or(p, ProfileLAN), e.Msg),
		errs.Hint("set cluster.profile to what the cluster was founded with: the length of its leases is fixed; or found a new cluster with cluster.profile %s", cmp.Or(p, ProfileLAN)), errs.Cause(why))
}

// timers returns the timers of the profile. Heartbeat, election and leader
// lease timeout are equal: a shorter lease timeout protects nothing, since it
// is stamped when an answer arrives, and turns pauses of a leader into elections.
func (p Profile) timers() (timers, error) {
	lan, wan := lease.LAN(), lease.WAN()
	switch p {
	case ProfileLAN, "":
		return timers{heartbeat: lan.Heartbeat, renew: lan.Renew, grant: lan.Grant, reconcile: time.Second}, nil
	case ProfileWAN:
		return timers{heartbeat: wan.Heartbeat, renew: wan.Renew, grant: wan.Grant, reconcile: 2 * time.Second}, nil
	}
	return timers{}, errs.New(errs.InvalidConfig, "unknown cluster profile", errs.Hint("cluster.profile is lan or wan"))
}
