package hierarchy

import (
	"slices"
	"time"
)

// DefaultRollbackWindow is how long a superseded version stays ACTIVE, so that
// a rotation can be taken back.
const DefaultRollbackWindow = 24 * time.Hour

// MaxVersions is the most versions one key can have, tombstones included. It
// bounds the size of one replicated object and the time of one change.
const MaxVersions = 10_000

// Trigger says who asked for a rotation. Zero is invalid.
type Trigger int

// The triggers.
const (
	TriggerPerson   Trigger = 1 // by hand: always allowed, and resumes a paused schedule
	TriggerSchedule Trigger = 2 // by the rotation schedule: refused while it is paused
)

// Chain is the versions of one key: the L2.1 versions of a tenant, the L3
// versions of a service, or the IVK versions. It is a value: methods return a
// changed copy that shares no memory with the old one, or the old one and a
// refusal. Only these methods keep I9 and I10; do not edit the fields.
type Chain struct {
	Versions []Version     // by Number: Versions[i].Number == i+1
	Primary  VersionNumber // the version that wraps, or 0
	Window   time.Duration // rollback window; 0 = DefaultRollbackWindow
	Paused   bool          // a rollback paused the rotation schedule
}

// Pin fixes the version that one resource wraps under. The zero Pin is no pin.
type Pin struct {
	Version  VersionNumber // the version in use; 0 = not pinned
	Previous VersionNumber // the pin before, to which rollback returns; 0 = was not pinned
	PinnedAt time.Time     // when Version was chosen
}

// RollbackWindow returns the window in force.
func (c Chain) RollbackWindow() time.Duration {
	if c.Window <= 0 {
		return DefaultRollbackWindow
	}
	return c.Window
}

// Version returns version n.
func (c Chain) Version(n VersionNumber) (Version, bool) {
	if n == 0 || n > VersionNumber(len(c.Versions)) {
		return Version{}, false
	}
	return c.Versions[n-1], true
}

// ByUID returns the version with that identity. A header selects by it.
func (c Chain) ByUID(u UID) (Version, bool) {
	i := slices.IndexFunc(c.Versions, func(v Version) bool { return v.UID == u })
	if i < 0 || u.IsZero() {
		return Version{}, false
	}
	return c.Versions[i], true
}

// Standing returns on what ground version n may wrap for a resource with that pin.
// A pinned resource wraps under its pin only, also when the pinned version cannot:
// falling back to the primary would break the promise of the pin in silence.
func (c Chain) Standing(n VersionNumber, p Pin) Standing {
	switch {
	case n == 0:
		return StandingNone
	case p.Version != 0 && p.Version == n:
		return StandingPinned
	case p.Version == 0 && c.Primary == n:
		return StandingPrimary
	}
	return StandingNone
}

// ForWrap returns the version under which a resource with that pin wraps now.
func (c Chain) ForWrap(p Pin, above Ancestors) (Version, Refusal) {
	n := c.Primary
	if p.Version != 0 {
		n = p.Version
	}
	if n == 0 {
		return Version{}, RefusedNoPrimary
	}
	v, ok := c.Version(n)
	if !ok {
		return Version{}, RefusedNoVersion
	}
	return v, CanWrap(v.State, c.Standing(n, p), above)
}

// Rotate adds a version with that uid, makes it the primary and supersedes the
// old one, which stays ACTIVE for the rollback window.
func (c Chain) Rotate(u UID, at time.Time, by Trigger) (Chain, Refusal) {
	if r := c.mayRotate(by); r != NotRefused {
		return c, r
	}
	next, r := c.add(u, at)
	if r != NotRefused {
		return c, r
	}
	return next.promote(c, VersionNumber(len(next.Versions)), EventActivate, at)
}

// Stage adds a PRE_ACTIVE version with that uid, for [Chain.Activate] later.
func (c Chain) Stage(u UID, at time.Time) (Chain, Refusal) { return c.add(u, at) }

// Activate makes a staged version the primary and supersedes the old one.
func (c Chain) Activate(n VersionNumber, at time.Time, by Trigger) (Chain, Refusal) {
	if r := c.mayRotate(by); r != NotRefused {
		return c, r
	}
	if _, ok := c.Version(n); !ok {
		return c, RefusedNoVersion
	}
	return c.clone().promote(c, n, EventActivate, at)
}

// Rollback makes an earlier primary the primary again and pauses the schedule
// (I10): it must be ACTIVE, never compromised, and superseded for less than the
// rollback window.
func (c Chain) Rollback(n VersionNumber, at time.Time) (Chain, Refusal) {
	v, ok := c.Version(n)
	switch {
	case !ok:
		return c, RefusedNoVersion
	case n == c.Primary:
		return c, RefusedAlready
	case v.EverCompromised:
		return c, RefusedCompromised
	}
	if r := versionTable[v.State][EventReinstate].refuse; r != NotRefused {
		return c, r
	}
	// Not windowEnd: a pin keeps a version ACTIVE longer, but does not make it a
	// candidate for the whole service again.
	if !at.Before(v.SupersededAt.Add(c.RollbackWindow())) {
		return c, RefusedWindowClosed
	}
	next, r := c.clone().promote(c, n, EventReinstate, at)
	if r != NotRefused {
		return c, r
	}
	next.Paused = true
	return next, NotRefused
}

// Change applies what people do to one version: deprecate, disable, enable,
// compromise, schedule-destroy, cancel-destroy, and destroy. Other events move
// the primary pointer and have methods of their own; they are refused.
//
// A rollback window that is over by o.At counts as over, whether or not
// [Chain.Sweep] ran: enable must not hand back power that time has taken (I7).
func (c Chain) Change(n VersionNumber, o Occurrence) (Chain, Refusal) {
	switch o.Event {
	case EventDeprecate, EventDisable, EventEnable, EventCompromise, EventScheduleDestroy, EventCancelDestroy, EventDestroy:
	case EventActivate, EventSupersede, EventReinstate, EventWindowElapsed:
		return c, RefusedInvalid
	default:
		return c, RefusedInvalid
	}
	v, ok := c.Version(n)
	if !ok {
		return c, RefusedNoVersion
	}
	if swept, r := v.Apply(c.elapsed(o.At)); r == NotRefused {
		v = swept
	}
	v, r := v.Apply(o)
	if r != NotRefused {
		return c, r
	}
	next := c.clone()
	next.Versions[n-1] = v
	return next, NotRefused
}

// Sweep deprecates every superseded version whose rollback window is over at
// that time, and returns their numbers.
func (c Chain) Sweep(at time.Time) (Chain, []VersionNumber) {
	var changed []VersionNumber
	next := c
	for i, v := range c.Versions {
		swept, r := v.Apply(c.elapsed(at))
		if r != NotRefused {
			continue
		}
		if changed == nil {
			next = c.clone()
		}
		next.Versions[i] = swept
		changed = append(changed, v.Number)
	}
	return next, changed
}

// NextDue returns the earliest time at which [Chain.Sweep] will change
// something or a scheduled destruction is due.
func (c Chain) NextDue() (time.Time, bool) {
	var first time.Time
	found := false
	consider := func(t time.Time) {
		if !found || t.Before(first) {
			first, found = t, true
		}
	}
	for _, v := range c.Versions {
		if v.State == Active || v.Before == Active {
			if t, ok := v.windowEnd(c.RollbackWindow()); ok {
				consider(t)
			}
		}
		if v.State == DestroyScheduled {
			consider(v.DestroyAt)
		}
	}
	return first, found
}

// Pin fixes a resource, whose pin is p, to version n, which must be ACTIVE and
// never compromised. The version stays ACTIVE while a resource is pinned to it.
func (c Chain) Pin(p Pin, n VersionNumber, at time.Time) (Chain, Pin, Refusal) {
	v, ok := c.Version(n)
	switch {
	case !ok:
		return c, p, RefusedNoVersion
	case p.Version == n:
		return c, p, RefusedAlready
	case v.EverCompromised:
		return c, p, RefusedCompromised
	}
	// The window may be over without a sweep; such a version is as good as deprecated.
	if _, r := v.Apply(c.elapsed(at)); r == NotRefused && v.State == Active {
		return c, p, RefusedOneWay
	}
	if r := v.State.pinnable(); r != NotRefused {
		return c, p, r
	}
	next, r := c.release(p, at)
	if r != NotRefused {
		return c, p, r
	}
	next.Versions[n-1].Pins++
	return next, Pin{Version: n, Previous: p.Version, PinnedAt: at}, NotRefused
}

// RollbackPin takes the last change of a pin back, inside the rollback window
// since it was made: to the version before, under the rules of [Chain.Pin], or
// to no pin.
func (c Chain) RollbackPin(p Pin, at time.Time) (Chain, Pin, Refusal) {
	switch {
	case p.Version == 0:
		return c, p, RefusedNotPinned
	case !at.Before(p.PinnedAt.Add(c.RollbackWindow())):
		return c, p, RefusedWindowClosed
	case p.Previous == 0:
		return c.Unpin(p, at)
	}
	next, back, r := c.Pin(p, p.Previous, at)
	return next, back, r
}

// Unpin lets a resource follow the primary again.
func (c Chain) Unpin(p Pin, at time.Time) (Chain, Pin, Refusal) {
	if p.Version == 0 {
		return c, p, RefusedNotPinned
	}
	next, r := c.release(p, at)
	if r != NotRefused {
		return c, p, r
	}
	return next, Pin{}, NotRefused
}

func (s VersionState) pinnable() Refusal {
	if s == Deprecated {
		return RefusedOneWay
	}
	return s.unwraps(GrantNone)
}

// release gives up what p holds and returns a chain that the caller may write to.
func (c Chain) release(p Pin, at time.Time) (Chain, Refusal) {
	next := c.clone()
	if p.Version == 0 {
		return next, NotRefused
	}
	v, ok := c.Version(p.Version)
	switch {
	case !ok:
		return c, RefusedNoVersion
	case v.Pins == 0:
		return c, RefusedNotPinned
	}
	v.Pins--
	if v.Pins == 0 {
		v.ReleasedAt = at
	}
	next.Versions[p.Version-1] = v
	return next, NotRefused
}

func (c Chain) elapsed(at time.Time) Occurrence {
	return Occurrence{Event: EventWindowElapsed, At: at, Wait: c.RollbackWindow()}
}

func (c Chain) mayRotate(by Trigger) Refusal {
	switch {
	case by == TriggerPerson:
		return NotRefused
	case by != TriggerSchedule:
		return RefusedInvalid
	case c.Paused:
		return RefusedPaused
	}
	return NotRefused
}

func (c Chain) add(u UID, at time.Time) (Chain, Refusal) {
	if len(c.Versions) >= MaxVersions {
		return c, RefusedTooMany
	}
	if _, used := c.ByUID(u); used || u.IsZero() {
		return c, RefusedReusedUID
	}
	next := c.clone()
	next.Versions = append(next.Versions, Version{
		UID: u, Number: VersionNumber(len(c.Versions)) + 1, State: PreActive, CreatedAt: at,
	})
	return next, NotRefused
}

// promote moves the pointer of c, which the caller owns, to n. On a refusal it
// returns old.
func (c Chain) promote(old Chain, n VersionNumber, e Event, at time.Time) (Chain, Refusal) {
	v, r := c.Versions[n-1].Apply(Occurrence{Event: e, At: at})
	if r != NotRefused {
		return old, r
	}
	if p, ok := c.Version(c.Primary); ok {
		was, r := p.Apply(Occurrence{Event: EventSupersede, At: at})
		if r != NotRefused {
			return old, r
		}
		c.Versions[c.Primary-1] = was
	}
	c.Versions[n-1] = v
	c.Primary = n
	c.Paused = false
	return c, NotRefused
}

func (c Chain) clone() Chain {
	c.Versions = slices.Clone(c.Versions)
	return c
}
