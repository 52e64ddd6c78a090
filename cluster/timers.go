package cluster

import (
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Profile names a set of timers by the distance between voters.
type Profile string

// The profiles.
const (
	ProfileLAN Profile = "lan" // voters within a few milliseconds of each other
	ProfileWAN Profile = "wan" // voters in different regions
)

// timers are those of Raft and of the rounds beside it.
type timers struct {
	heartbeat time.Duration // also election and leader lease timeout
	contact   time.Duration // between two questions of a member to the leader
	reconcile time.Duration // longest time between two looks at the members
}

// timers returns the timers of the profile. Heartbeat, election and leader
// lease timeout are equal: a shorter lease timeout protects nothing, since it
// is stamped when an answer arrives, and turns pauses of a leader into elections.
func (p Profile) timers() (timers, error) {
	switch p {
	case ProfileLAN, "":
		return timers{heartbeat: 500 * time.Millisecond, contact: 150 * time.Millisecond, reconcile: time.Second}, nil
	case ProfileWAN:
		return timers{heartbeat: time.Second, contact: 250 * time.Millisecond, reconcile: 2 * time.Second}, nil
	}
	return timers{}, errs.New(errs.InvalidConfig, "unknown cluster profile", errs.Hint("cluster.profile is lan or wan"))
}
