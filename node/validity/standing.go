package validity

import (
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// State is where a tenant stands on this node.
type State int

// The states.
const (
	Unproved State = iota // its key was not unwrapped yet, or the grace is over
	Proved                // usable, and the last proof succeeded
	Failing               // usable within the grace: the keystore does not answer
	Denied                // the owner of the key withdrew it
)

// String returns the state as metrics and logs write it.
func (s State) String() string {
	switch s {
	case Proved:
		return "proved"
	case Failing:
		return "failing"
	case Denied:
		return "denied"
	case Unproved:
	}
	return "unproved"
}

// Standing is whether one tenant's keys may be used on this node. Keys in memory hold
// it, so that asking needs no look-up.
type Standing struct {
	tenant hierarchy.UID
	began  time.Duration // of the Watch: all times here are from then on, by the clock that counts suspend (Boot)
	// until is when it lapses; 0: it may not be used now.
	until atomic.Int64
	// why is what a caller is told while it may not be used; nil: it lapsed, or was never proved.
	why atomic.Pointer[denial]

	// What follows is under the mu of the Watch.
	proved   time.Duration // when the last successful proof was sent
	denied   time.Duration // when the last denied one was sent
	asked    time.Duration // when the last proof was sent
	due      time.Duration // of the next proof by itself
	failing  bool          // the last proof failed, and was no denial
	inFlight bool          // a proof by itself is running
	begun    int           // proofs for callers that are running
	end      func()        // of the proof by itself that is running
}

// denial is what callers are told.
type denial struct{ err error }

// Err returns nil if the tenant's keys may be used at that reading of the clock. It has
// code L1Denied after a denial, and L1Unavailable when the grace is over.
func (s *Standing) Err(now clock.Reading) error {
	if until := s.until.Load(); until != 0 && int64(now.Boot-s.began) < until {
		return nil
	}
	if d := s.why.Load(); d != nil {
		return d.err
	}
	return errs.New(errs.L1Unavailable, "the customer's key was not proved for longer than its grace period",
		errs.Hint("retry later; look at the tenant's keystore: krypton keystore check"))
}

// Denied returns the denial that stands, or nil.
func (s *Standing) Denied() error {
	if d := s.why.Load(); d != nil {
		return d.err
	}
	return nil
}
