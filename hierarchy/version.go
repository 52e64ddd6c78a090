package hierarchy

import "time"

// VersionState is the state of a key version: L2.1, L3 and IVK versions alike.
// The numbers are durable and the same in the replicated state (I11). Zero is
// invalid and allows nothing.
//
//	                                    wrap   unwrap          KMIP 1.4 State
//	PRE_ACTIVE         made, unused     no     (2)             Pre-Active
//	ACTIVE             in use           (1)    yes             Active
//	DEPRECATED         old              no     yes             Deactivated
//	DISABLED           switched off     no     no              Deactivated (Compromised if ever compromised)
//	COMPROMISED        known to others  no     recovery grant  Compromised
//	DESTROY_SCHEDULED  to be destroyed  no     no              Deactivated (Compromised if ever compromised)
//	DESTROYED          tombstone        no     no              Destroyed (Destroyed Compromised if ever compromised)
//
// (1) the primary, or the version that a resource is pinned to. (2) what a node
// that is ahead has wrapped, see [CanUnwrap]; never as a parent. KMIP has no state
// that can be left again like DISABLED and DESTROY_SCHEDULED; Deactivated is the
// nearest that does not promise too much use, and KMIP clients that may process
// with a Deactivated object are refused by the states above.
type VersionState int

// The states.
const (
	PreActive        VersionState = 1
	Active           VersionState = 2
	Deprecated       VersionState = 3
	Disabled         VersionState = 4
	Compromised      VersionState = 5
	DestroyScheduled VersionState = 6
	Destroyed        VersionState = 7

	versionStateEnd = 8
)

// VersionStates returns every state.
func VersionStates() []VersionState {
	return []VersionState{PreActive, Active, Deprecated, Disabled, Compromised, DestroyScheduled, Destroyed}
}

// Valid reports whether s is one of the states.
func (s VersionState) Valid() bool { return s >= PreActive && s < versionStateEnd }

// String returns the state as the API writes it.
func (s VersionState) String() string {
	switch s {
	case PreActive:
		return "PRE_ACTIVE"
	case Active:
		return "ACTIVE"
	case Deprecated:
		return "DEPRECATED"
	case Disabled:
		return "DISABLED"
	case Compromised:
		return "COMPROMISED"
	case DestroyScheduled:
		return "DESTROY_SCHEDULED"
	case Destroyed:
		return "DESTROYED"
	}
	return "STATE_UNSPECIFIED"
}

// Event is what can happen to a version. Numbers are durable (I11); zero is invalid.
type Event int

// The events. The first four come from the chain of versions (rotation,
// rollback, passing of time), the others from people.
const (
	EventActivate        Event = 1  // becomes the primary for the first time
	EventSupersede       Event = 2  // another version became the primary
	EventReinstate       Event = 3  // becomes the primary again, by rollback
	EventWindowElapsed   Event = 4  // the rollback window is over
	EventDeprecate       Event = 5  // no new wraps, one way
	EventDisable         Event = 6  // nothing, until enabled
	EventEnable          Event = 7  // back to the state before disable
	EventCompromise      Event = 8  // the material is known to others
	EventScheduleDestroy Event = 9  // nothing; the material goes after a wait
	EventCancelDestroy   Event = 10 // keep the material; leaves the version disabled
	EventDestroy         Event = 11 // the wait is over: the material goes

	eventEnd = 12
)

// Events returns every event.
func Events() []Event {
	all := make([]Event, 0, eventEnd-1)
	for e := EventActivate; e < eventEnd; e++ {
		all = append(all, e)
	}
	return all
}

// Valid reports whether e is one of the events.
func (e Event) Valid() bool { return e >= EventActivate && e < eventEnd }

// String returns the event in the words of the command line.
func (e Event) String() string {
	switch e {
	case EventActivate:
		return "activate"
	case EventSupersede:
		return "supersede"
	case EventReinstate:
		return "reinstate"
	case EventWindowElapsed:
		return "window-elapsed"
	case EventDeprecate:
		return "deprecate"
	case EventDisable:
		return "disable"
	case EventEnable:
		return "enable"
	case EventCompromise:
		return "compromise"
	case EventScheduleDestroy:
		return "schedule-destroy"
	case EventCancelDestroy:
		return "cancel-destroy"
	case EventDestroy:
		return "destroy"
	}
	return "invalid event"
}

// move is one row of the table: a next state, the state that the version
// remembers, or a refusal.
type move struct {
	to     VersionState
	back   bool
	refuse Refusal
}

func to(s VersionState) move { return move{to: s} }
func toBefore() move         { return move{back: true} }
func no(r Refusal) move      { return move{refuse: r} }

// versionTable is the whole life of a version (I3). DESTROYED leads nowhere
// (I4), nothing but PRE_ACTIVE's activate and enable leads to ACTIVE, and enable
// goes to the remembered state, which compromise and the rollback window lower
// even while the version is switched off (I5, I6, I7).
//
// A person may switch off, deprecate, compromise or destroy the primary: acts
// that take power away do not wait for a rotation. Wraps are refused until one.
var versionTable = [versionStateEnd][eventEnd]move{
	PreActive: {
		EventActivate:        to(Active),
		EventSupersede:       no(RefusedNotActive),
		EventReinstate:       no(RefusedNotActive),
		EventWindowElapsed:   no(RefusedNotActive),
		EventDeprecate:       no(RefusedNotActive),
		EventDisable:         to(Disabled),
		EventEnable:          no(RefusedNotDisabled),
		EventCompromise:      to(Compromised),
		EventScheduleDestroy: to(DestroyScheduled),
		EventCancelDestroy:   no(RefusedNotScheduled),
		EventDestroy:         no(RefusedNotScheduled),
	},
	Active: {
		EventActivate:        no(RefusedAlready),
		EventSupersede:       to(Active),
		EventReinstate:       to(Active),
		EventWindowElapsed:   to(Deprecated),
		EventDeprecate:       to(Deprecated),
		EventDisable:         to(Disabled),
		EventEnable:          no(RefusedNotDisabled),
		EventCompromise:      to(Compromised),
		EventScheduleDestroy: to(DestroyScheduled),
		EventCancelDestroy:   no(RefusedNotScheduled),
		EventDestroy:         no(RefusedNotScheduled),
	},
	Deprecated: {
		EventActivate:        no(RefusedOneWay),
		EventSupersede:       to(Deprecated),
		EventReinstate:       no(RefusedOneWay),
		EventWindowElapsed:   no(RefusedAlready),
		EventDeprecate:       no(RefusedAlready),
		EventDisable:         to(Disabled),
		EventEnable:          no(RefusedNotDisabled),
		EventCompromise:      to(Compromised),
		EventScheduleDestroy: to(DestroyScheduled),
		EventCancelDestroy:   no(RefusedNotScheduled),
		EventDestroy:         no(RefusedNotScheduled),
	},
	Disabled: {
		EventActivate:        no(RefusedDisabled),
		EventSupersede:       to(Disabled),
		EventReinstate:       no(RefusedDisabled),
		EventWindowElapsed:   to(Disabled),
		EventDeprecate:       no(RefusedDisabled),
		EventDisable:         no(RefusedAlready),
		EventEnable:          toBefore(),
		EventCompromise:      to(Compromised),
		EventScheduleDestroy: to(DestroyScheduled),
		EventCancelDestroy:   no(RefusedNotScheduled),
		EventDestroy:         no(RefusedNotScheduled),
	},
	Compromised: {
		EventActivate:        no(RefusedCompromised),
		EventSupersede:       to(Compromised),
		EventReinstate:       no(RefusedCompromised),
		EventWindowElapsed:   no(RefusedCompromised),
		EventDeprecate:       no(RefusedCompromised),
		EventDisable:         to(Disabled),
		EventEnable:          no(RefusedCompromised),
		EventCompromise:      no(RefusedAlready),
		EventScheduleDestroy: to(DestroyScheduled),
		EventCancelDestroy:   no(RefusedNotScheduled),
		EventDestroy:         no(RefusedNotScheduled),
	},
	DestroyScheduled: {
		EventActivate:        no(RefusedDestroyPending),
		EventSupersede:       to(DestroyScheduled),
		EventReinstate:       no(RefusedDestroyPending),
		EventWindowElapsed:   to(DestroyScheduled),
		EventDeprecate:       no(RefusedDestroyPending),
		EventDisable:         no(RefusedDestroyPending),
		EventEnable:          no(RefusedDestroyPending),
		EventCompromise:      to(DestroyScheduled),
		EventScheduleDestroy: to(DestroyScheduled), // only to an earlier time
		EventCancelDestroy:   to(Disabled),
		EventDestroy:         to(Destroyed), // only when the wait is over
	},
	Destroyed: {
		EventActivate:        no(RefusedDestroyed),
		EventSupersede:       to(Destroyed),
		EventReinstate:       no(RefusedDestroyed),
		EventWindowElapsed:   no(RefusedDestroyed),
		EventDeprecate:       no(RefusedDestroyed),
		EventDisable:         no(RefusedDestroyed),
		EventEnable:          no(RefusedDestroyed),
		EventCompromise:      to(Destroyed), // it can turn out later that the material was known
		EventScheduleDestroy: no(RefusedDestroyed),
		EventCancelDestroy:   no(RefusedDestroyed),
		EventDestroy:         no(RefusedDestroyed),
	},
}

// Version is one version of a key, without its material. It is a value: methods
// return a changed copy.
type Version struct {
	UID    UID
	Number VersionNumber
	State  VersionState

	// Before is the state to which enable returns. It is set exactly while State
	// is DISABLED or DESTROY_SCHEDULED, and is PRE_ACTIVE, ACTIVE, DEPRECATED or
	// COMPROMISED.
	Before VersionState
	// EverCompromised is set by the first compromise and never cleared (I6).
	EverCompromised bool

	CreatedAt    time.Time
	SupersededAt time.Time // when it last stopped being the primary; zero while primary or never activated
	ReleasedAt   time.Time // when the last resource pinned to it was unpinned; zero if none ever was
	Pins         uint32    // resources pinned to it now
	DestroyAt    time.Time // when the material may go; set exactly while DESTROY_SCHEDULED, and kept by DESTROYED
}

// Occurrence is an event with the time at which the leader says it happens.
type Occurrence struct {
	Event Event
	At    time.Time
	// Wait is read by EventScheduleDestroy (how long the material is kept; 0 =
	// may go at once) and by EventWindowElapsed (the rollback window).
	Wait time.Duration
}

// Apply returns the version after o, or the version unchanged and a refusal.
// It depends on nothing but its arguments.
func (v Version) Apply(o Occurrence) (Version, Refusal) {
	if !v.State.Valid() || !o.Event.Valid() {
		return v, RefusedInvalid
	}
	m := versionTable[v.State][o.Event]
	if m.refuse != NotRefused {
		return v, m.refuse
	}
	if m.back {
		if !v.Before.rememberable() { // a record that no sequence of events makes
			return v, RefusedInvalid
		}
		m.to = v.Before
	}
	next := v
	switch o.Event {
	case EventActivate:
	case EventSupersede:
		next.SupersededAt = o.At
	case EventReinstate:
		if v.EverCompromised { // I6. Unreachable while ACTIVE; kept because a table edit must not make it reachable.
			return v, RefusedCompromised
		}
		if v.SupersededAt.IsZero() {
			return v, RefusedAlready
		}
		next.SupersededAt = time.Time{}
	case EventWindowElapsed:
		if r := v.windowOver(o); r != NotRefused {
			return v, r
		}
		if v.State != Active { // I7: switched off meanwhile; enable must not bring ACTIVE back.
			if v.Before != Active {
				return v, RefusedAlready
			}
			next.Before = Deprecated
		}
	case EventDeprecate, EventDisable, EventEnable:
	case EventCompromise:
		if v.State == Destroyed && v.EverCompromised {
			return v, RefusedAlready
		}
		if v.State == DestroyScheduled && v.Before == Compromised {
			return v, RefusedAlready
		}
		next.EverCompromised = true
		if v.State == DestroyScheduled {
			next.Before = Compromised
		}
	case EventScheduleDestroy:
		if o.Wait < 0 {
			return v, RefusedInvalid
		}
		at := o.At.Add(o.Wait)
		if v.State == DestroyScheduled && !at.Before(v.DestroyAt) {
			return v, RefusedAlready
		}
		next.DestroyAt = at
	case EventCancelDestroy:
		next.DestroyAt = time.Time{}
	case EventDestroy:
		if o.At.Before(v.DestroyAt) {
			return v, RefusedNotDue
		}
	}
	return next.enter(v, m.to), NotRefused
}

func (s VersionState) rememberable() bool {
	return s == PreActive || s == Active || s == Deprecated || s == Compromised
}

// enter moves to the table's next state and keeps Before as its comment says.
func (v Version) enter(old Version, s VersionState) Version {
	v.State = s
	switch s {
	case Disabled, DestroyScheduled:
		if old.State != Disabled && old.State != DestroyScheduled {
			v.Before = old.State
		}
	case PreActive, Active, Deprecated, Compromised, Destroyed:
		v.Before = 0
	}
	return v
}

// windowOver refuses while the window of a superseded version is open, or
// while it is not superseded at all or a resource is pinned to it (I9).
func (v Version) windowOver(o Occurrence) Refusal {
	switch due, ok := v.windowEnd(o.Wait); {
	case !ok && v.Pins > 0:
		return RefusedPinned
	case !ok:
		return RefusedPrimary
	case o.At.Before(due):
		return RefusedNotDue
	}
	return NotRefused
}

// windowEnd returns when the version is to be deprecated, if nothing else
// happens: window after it was last the primary or pinned to.
func (v Version) windowEnd(window time.Duration) (time.Time, bool) {
	if v.SupersededAt.IsZero() || v.Pins > 0 {
		return time.Time{}, false
	}
	last := v.SupersededAt
	if v.ReleasedAt.After(last) {
		last = v.ReleasedAt
	}
	return last.Add(window), true
}
