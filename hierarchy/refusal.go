package hierarchy

import "github.com/openkcm/krypton-cluster/internal/errs"

// Refusal names why a transition or a use is not allowed. It is a fact that
// every replica finds alike, so the numbers are durable (I11).
type Refusal int

// The refusals. [NotRefused] is the only one that allows anything.
const (
	NotRefused            Refusal = 0
	RefusedInvalid        Refusal = 1  // an unknown state or event, or an argument outside its range
	RefusedAlready        Refusal = 2  // it is so already
	RefusedNotActive      Refusal = 3  // was never activated
	RefusedOneWay         Refusal = 4  // is deprecated, and that is one way
	RefusedDisabled       Refusal = 5  // is disabled
	RefusedNotDisabled    Refusal = 6  // is not disabled
	RefusedCompromised    Refusal = 7  // is or was compromised
	RefusedDestroyPending Refusal = 8  // is scheduled to be destroyed
	RefusedNotScheduled   Refusal = 9  // is not scheduled to be destroyed
	RefusedDestroyed      Refusal = 10 // is destroyed
	RefusedNotDue         Refusal = 11 // its time has not come
	RefusedPrimary        Refusal = 12 // is the primary
	RefusedNotPrimary     Refusal = 13 // is not the primary
	RefusedPinned         Refusal = 14 // a resource is pinned to it
	RefusedNotPinned      Refusal = 15 // the resource is not pinned
	RefusedNoVersion      Refusal = 16 // no such version
	RefusedNoPrimary      Refusal = 17 // the key has no primary version
	RefusedWindowClosed   Refusal = 18 // the rollback window is over
	RefusedPaused         Refusal = 19 // the rotation schedule is paused by a rollback
	RefusedReusedUID      Refusal = 20 // the uid is zero or was used before
	RefusedTooMany        Refusal = 21 // the key has MaxVersions versions
	RefusedSuspended      Refusal = 22 // the tenant or service is suspended
	RefusedNotSuspended   Refusal = 23 // is not suspended for this cause
	RefusedParent         Refusal = 24 // a key above it cannot unwrap
	RefusedDeprecated     Refusal = 25 // only unwraps

	refusalEnd = 26
)

// refusalText holds, per refusal, the name, the rest of the sentence "the key
// version ...", and the next step.
var refusalText = [refusalEnd]struct{ name, msg, hint string }{
	NotRefused:            {"NOT_REFUSED", "", ""},
	RefusedInvalid:        {"INVALID", "has a state this node does not know, or the change is malformed", "check that every node runs a release that supports the cluster's format version"},
	RefusedAlready:        {"ALREADY", "is in that state already", "nothing is left to do; read it to be sure"},
	RefusedNotActive:      {"NOT_ACTIVE", "was never activated", "rotate to it first"},
	RefusedOneWay:         {"ONE_WAY", "is deprecated, which is one way", "rotate to a new version"},
	RefusedDisabled:       {"DISABLED", "is disabled", "enable it first"},
	RefusedNotDisabled:    {"NOT_DISABLED", "is not disabled", "only a disabled version can be enabled; read its state"},
	RefusedCompromised:    {"COMPROMISED", "is or was compromised", "rotate to a new version; what is under this one stays closed"},
	RefusedDestroyPending: {"DESTROY_PENDING", "is scheduled to be destroyed", "cancel the destruction first"},
	RefusedNotScheduled:   {"NOT_SCHEDULED", "is not scheduled to be destroyed", "schedule the destruction first"},
	RefusedDestroyed:      {"DESTROYED", "is destroyed", "its keys do not come back; use another one, or make it anew"},
	RefusedNotDue:         {"NOT_DUE", "has to wait longer", "read it: its state says until when"},
	RefusedPrimary:        {"PRIMARY", "is the primary", "rotate first"},
	RefusedNotPrimary:     {"NOT_PRIMARY", "is not the primary, so it does not wrap", "use the primary, or pin the resource to this version"},
	RefusedPinned:         {"PINNED", "has resources pinned to it", "unpin them first"},
	RefusedNotPinned:      {"NOT_PINNED", "is not pinned", "pin it first; a resource without a pin follows the primary"},
	RefusedNoVersion:      {"NO_VERSION", "does not exist", "list the versions of the key"},
	RefusedNoPrimary:      {"NO_PRIMARY", "does not exist: the key has no primary", "rotate first"},
	RefusedWindowClosed:   {"WINDOW_CLOSED", "is outside its rollback window", "rotate to a new version"},
	RefusedPaused:         {"PAUSED", "stays: the rotation schedule is paused by a rollback", "rotate by hand to resume the schedule"},
	RefusedReusedUID:      {"REUSED_UID", "has a uid that is zero or was used before", "draw a new uid and prepare again"},
	RefusedTooMany:        {"TOO_MANY", "is one more than a key may have", "create a new service"},
	RefusedSuspended:      {"SUSPENDED", "is suspended", "resume it first"},
	RefusedNotSuspended:   {"NOT_SUSPENDED", "is not suspended for this cause", "its state names the causes; whoever set one lifts it"},
	RefusedParent:         {"PARENT", "stands under a key version that cannot be used", "enable the parent version, or re-wrap under the current one"},
	RefusedDeprecated:     {"DEPRECATED", "is deprecated, so it only unwraps", "use the primary version"},
}

// Valid reports whether r is one of the refusals or [NotRefused].
func (r Refusal) Valid() bool { return r >= NotRefused && r < refusalEnd }

// Refusals returns every refusal but [NotRefused].
func Refusals() []Refusal {
	all := make([]Refusal, 0, refusalEnd-1)
	for r := RefusedInvalid; r < refusalEnd; r++ {
		all = append(all, r)
	}
	return all
}

// String returns the name of the refusal in upper case.
func (r Refusal) String() string {
	if !r.Valid() {
		return "INVALID_REFUSAL"
	}
	return refusalText[r].name
}

// Err returns the refusal as an error about subject ("the key version", "the
// tenant"), or nil for [NotRefused]. subject holds no name that the caller may
// not know.
func (r Refusal) Err(subject string) error {
	if r == NotRefused {
		return nil
	}
	if !r.Valid() {
		r = RefusedInvalid
	}
	t := refusalText[r]
	if t.hint == "" {
		return errs.New(r.code(), subject+" "+t.msg)
	}
	return errs.New(r.code(), subject+" "+t.msg, errs.Hint("%s", t.hint))
}

func (r Refusal) code() errs.Code {
	if r == RefusedNoVersion || r == RefusedNoPrimary {
		return errs.NotFound
	}
	if r == RefusedTooMany {
		return errs.LimitReached
	}
	if r == RefusedReusedUID {
		return errs.Aborted // a retry prepares with a new uid
	}
	return errs.FailedState
}
