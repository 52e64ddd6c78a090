package hierarchy

import "time"

// ObjectState is the state of a tenant or a service. The numbers are durable
// (I11). Zero is invalid and allows nothing.
type ObjectState int

// The states of tenants and services.
const (
	ObjectActive           ObjectState = 1
	ObjectSuspended        ObjectState = 2 // nothing, until every cause is gone
	ObjectDestroyScheduled ObjectState = 3 // nothing; the keys go after a wait; cancel leaves it suspended
	ObjectDestroyed        ObjectState = 4 // tombstone

	objectStateEnd = 5
)

// ObjectStates returns every state.
func ObjectStates() []ObjectState {
	return []ObjectState{ObjectActive, ObjectSuspended, ObjectDestroyScheduled, ObjectDestroyed}
}

// Valid reports whether s is one of the states.
func (s ObjectState) Valid() bool { return s >= ObjectActive && s < objectStateEnd }

// String returns the state as the API writes it.
func (s ObjectState) String() string {
	switch s {
	case ObjectActive:
		return "ACTIVE"
	case ObjectSuspended:
		return "SUSPENDED"
	case ObjectDestroyScheduled:
		return "DESTROY_SCHEDULED"
	case ObjectDestroyed:
		return "DESTROYED"
	}
	return "STATE_UNSPECIFIED"
}

// ObjectEvent is what can happen to a tenant or a service. Numbers are durable
// (I11); zero is invalid.
type ObjectEvent int

// The events.
const (
	ObjectSuspend         ObjectEvent = 1 // adds a cause
	ObjectResume          ObjectEvent = 2 // removes a cause; ACTIVE when none is left
	ObjectScheduleDestroy ObjectEvent = 3
	ObjectCancelDestroy   ObjectEvent = 4
	ObjectDestroy         ObjectEvent = 5

	objectEventEnd = 6
)

// ObjectEvents returns every event.
func ObjectEvents() []ObjectEvent {
	return []ObjectEvent{ObjectSuspend, ObjectResume, ObjectScheduleDestroy, ObjectCancelDestroy, ObjectDestroy}
}

// Valid reports whether e is one of the events.
func (e ObjectEvent) Valid() bool { return e >= ObjectSuspend && e < objectEventEnd }

// String returns the event in the words of the command line.
func (e ObjectEvent) String() string {
	switch e {
	case ObjectSuspend:
		return "suspend"
	case ObjectResume:
		return "resume"
	case ObjectScheduleDestroy:
		return "schedule-destroy"
	case ObjectCancelDestroy:
		return "cancel-destroy"
	case ObjectDestroy:
		return "destroy"
	}
	return "invalid event"
}

// Causes is a set of reasons for a suspension. They are kept apart because they
// end differently: a denial by the customer's keystore ends by itself when a
// real unwrap succeeds again; what people did only people undo. The bits are
// durable (I11).
type Causes uint8

// The causes.
const (
	CauseOperator Causes = 1 << 0 // a person suspended it, or cancelled its destruction
	CauseL1Denied Causes = 1 << 1 // the customer's keystore denied the customer key
	CauseUnlinked Causes = 1 << 2 // a person cut the tenant from its customer key

	allCauses = CauseOperator | CauseL1Denied | CauseUnlinked
)

// Valid reports whether c is a set of known causes.
func (c Causes) Valid() bool { return c&^allCauses == 0 }

// Has reports whether every cause in d is in c.
func (c Causes) Has(d Causes) bool { return c&d == d }

// objectTable is the whole life of a tenant or service (I3). What to(s) says
// about ACTIVE and SUSPENDED is decided by the causes that are left.
var objectTable = [objectStateEnd][objectEventEnd]struct {
	to     ObjectState
	refuse Refusal
}{
	ObjectActive: {
		ObjectSuspend:         {to: ObjectSuspended},
		ObjectResume:          {refuse: RefusedNotSuspended},
		ObjectScheduleDestroy: {to: ObjectDestroyScheduled},
		ObjectCancelDestroy:   {refuse: RefusedNotScheduled},
		ObjectDestroy:         {refuse: RefusedNotScheduled},
	},
	ObjectSuspended: {
		ObjectSuspend:         {to: ObjectSuspended},
		ObjectResume:          {to: ObjectActive}, // stays SUSPENDED while a cause is left
		ObjectScheduleDestroy: {to: ObjectDestroyScheduled},
		ObjectCancelDestroy:   {refuse: RefusedNotScheduled},
		ObjectDestroy:         {refuse: RefusedNotScheduled},
	},
	ObjectDestroyScheduled: {
		ObjectSuspend:         {to: ObjectDestroyScheduled}, // the cause is kept for after a cancel
		ObjectResume:          {to: ObjectDestroyScheduled}, // and goes when it ends
		ObjectScheduleDestroy: {to: ObjectDestroyScheduled}, // only to an earlier time
		ObjectCancelDestroy:   {to: ObjectSuspended},
		ObjectDestroy:         {to: ObjectDestroyed}, // only when the wait is over
	},
	ObjectDestroyed: {
		ObjectSuspend:         {refuse: RefusedDestroyed},
		ObjectResume:          {refuse: RefusedDestroyed},
		ObjectScheduleDestroy: {refuse: RefusedDestroyed},
		ObjectCancelDestroy:   {refuse: RefusedDestroyed},
		ObjectDestroy:         {refuse: RefusedDestroyed},
	},
}

// Object is the state of a tenant or a service. It is a value: methods return a
// changed copy.
type Object struct {
	State     ObjectState
	Causes    Causes    // not empty while SUSPENDED, empty while ACTIVE
	DestroyAt time.Time // set exactly while DESTROY_SCHEDULED, and kept by DESTROYED
}

// ObjectOccurrence is an event with its arguments.
type ObjectOccurrence struct {
	Event ObjectEvent
	At    time.Time
	Cause Causes        // exactly one cause, for suspend and resume
	Wait  time.Duration // for schedule-destroy; 0 = may go at once
}

// Apply returns the object after oc, or the object unchanged and a refusal.
func (o Object) Apply(oc ObjectOccurrence) (Object, Refusal) {
	if !o.State.Valid() || !oc.Event.Valid() || !o.Causes.Valid() {
		return o, RefusedInvalid
	}
	row := objectTable[o.State][oc.Event]
	if row.refuse != NotRefused {
		return o, row.refuse
	}
	next := o
	next.State = row.to
	switch oc.Event {
	case ObjectSuspend:
		if !oneCause(oc.Cause) {
			return o, RefusedInvalid
		}
		if o.Causes.Has(oc.Cause) {
			return o, RefusedAlready
		}
		next.Causes |= oc.Cause
	case ObjectResume:
		if !oneCause(oc.Cause) {
			return o, RefusedInvalid
		}
		if !o.Causes.Has(oc.Cause) {
			return o, RefusedNotSuspended
		}
		next.Causes &^= oc.Cause
		if o.State == ObjectSuspended && next.Causes != 0 {
			next.State = ObjectSuspended
		}
	case ObjectScheduleDestroy:
		if oc.Wait < 0 {
			return o, RefusedInvalid
		}
		at := oc.At.Add(oc.Wait)
		if o.State == ObjectDestroyScheduled && !at.Before(o.DestroyAt) {
			return o, RefusedAlready
		}
		next.DestroyAt = at
	case ObjectCancelDestroy:
		// Whoever changes their mind about a destruction looks before resuming.
		next.Causes |= CauseOperator
		next.DestroyAt = time.Time{}
	case ObjectDestroy:
		if oc.At.Before(o.DestroyAt) {
			return o, RefusedNotDue
		}
	}
	return next, NotRefused
}

func oneCause(c Causes) bool {
	return c == CauseOperator || c == CauseL1Denied || c == CauseUnlinked
}
