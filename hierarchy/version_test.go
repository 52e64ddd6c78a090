package hierarchy_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

var day0 = time.Date(2026, 1, 13, 8, 0, 0, 0, time.UTC)

const window = hierarchy.DefaultRollbackWindow

// versionGrid is the expected table, written apart from the code. "B" is the
// state remembered in Before. The subject of each row is a superseded, unpinned
// version, and the event comes when every wait is over.
const versionGrid = `
state              activate         supersede          reinstate        window-elapsed     deprecate        disable          enable        compromise         schedule-destroy   cancel-destroy  destroy
PRE_ACTIVE         ACTIVE           !NOT_ACTIVE        !NOT_ACTIVE      !NOT_ACTIVE        !NOT_ACTIVE      DISABLED         !NOT_DISABLED COMPROMISED        DESTROY_SCHEDULED  !NOT_SCHEDULED  !NOT_SCHEDULED
ACTIVE             !ALREADY         ACTIVE             ACTIVE           DEPRECATED         DEPRECATED       DISABLED         !NOT_DISABLED COMPROMISED        DESTROY_SCHEDULED  !NOT_SCHEDULED  !NOT_SCHEDULED
DEPRECATED         !ONE_WAY         DEPRECATED         !ONE_WAY         !ALREADY           !ALREADY         DISABLED         !NOT_DISABLED COMPROMISED        DESTROY_SCHEDULED  !NOT_SCHEDULED  !NOT_SCHEDULED
DISABLED           !DISABLED        DISABLED           !DISABLED        DISABLED           !DISABLED        !ALREADY         B             COMPROMISED        DESTROY_SCHEDULED  !NOT_SCHEDULED  !NOT_SCHEDULED
COMPROMISED        !COMPROMISED     COMPROMISED        !COMPROMISED     !COMPROMISED       !COMPROMISED     DISABLED         !COMPROMISED  !ALREADY           DESTROY_SCHEDULED  !NOT_SCHEDULED  !NOT_SCHEDULED
DESTROY_SCHEDULED  !DESTROY_PENDING DESTROY_SCHEDULED  !DESTROY_PENDING DESTROY_SCHEDULED  !DESTROY_PENDING !DESTROY_PENDING !DESTROY_PENDING DESTROY_SCHEDULED DESTROY_SCHEDULED DISABLED        DESTROYED
DESTROYED          !DESTROYED       DESTROYED          !DESTROYED       !DESTROYED         !DESTROYED       !DESTROYED       !DESTROYED    DESTROYED          !DESTROYED         !DESTROYED      !DESTROYED
`

// inState returns a superseded version in that state; before is what a DISABLED
// or DESTROY_SCHEDULED one remembers.
func inState(s, before hierarchy.VersionState) hierarchy.Version {
	v := hierarchy.Version{UID: uid(1), Number: 1, State: s, SupersededAt: day0}
	switch s {
	case hierarchy.Disabled:
		v.Before = before
	case hierarchy.DestroyScheduled:
		v.Before = before
		v.DestroyAt = day0.Add(48 * time.Hour)
	case hierarchy.PreActive:
		v.SupersededAt = time.Time{}
	case hierarchy.Active, hierarchy.Deprecated, hierarchy.Compromised, hierarchy.Destroyed:
	}
	return v
}

func TestI3_EveryStateTimesEveryEvent(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(versionGrid), "\n")
	events := strings.Fields(lines[0])[1:]
	if len(events) != len(hierarchy.Events()) || len(lines)-1 != len(hierarchy.VersionStates()) {
		t.Fatalf("grid has %d x %d, code has %d states and %d events", len(lines)-1, len(events), len(hierarchy.VersionStates()), len(hierarchy.Events()))
	}
	for i, s := range hierarchy.VersionStates() {
		cells := strings.Fields(lines[i+1])
		if cells[0] != s.String() || len(cells) != len(events)+1 {
			t.Fatalf("row %d is %q, want %s with %d cells", i, cells[0], s, len(events))
		}
		for j, e := range hierarchy.Events() {
			if events[j] != e.String() {
				t.Fatalf("column %d is %s, want %s", j, events[j], e)
			}
			v := inState(s, hierarchy.Active)
			next, r := v.Apply(hierarchy.Occurrence{Event: e, At: day0.Add(72 * time.Hour)})
			if e == hierarchy.EventScheduleDestroy && s == hierarchy.DestroyScheduled {
				// Only an earlier time is a change.
				if _, r := v.Apply(hierarchy.Occurrence{Event: e, At: day0.Add(72 * time.Hour)}); r != hierarchy.RefusedAlready {
					t.Errorf("later destruction: %v, want ALREADY", r)
				}
				next, r = v.Apply(hierarchy.Occurrence{Event: e, At: day0})
			}
			got := next.State.String()
			switch {
			case r != hierarchy.NotRefused:
				got = "!" + r.String()
				if next != v {
					t.Errorf("%s on %s was refused and changed the version", e, s)
				}
			case cells[j+1] == "B":
				if next.State == v.Before {
					got = "B"
				}
			}
			if got != cells[j+1] {
				t.Errorf("%s on %s: %s, want %s", e, s, got, cells[j+1])
			}
		}
	}
}

func TestUnknownStatesAndEventsAreRefused(t *testing.T) {
	for _, s := range []hierarchy.VersionState{-1, 0, 8, 100} {
		for _, e := range hierarchy.Events() {
			v := hierarchy.Version{State: s}
			if next, r := v.Apply(hierarchy.Occurrence{Event: e, At: day0}); r != hierarchy.RefusedInvalid || next != v {
				t.Errorf("%s on state %d: %v", e, s, r)
			}
		}
		if s.Valid() || s.String() != "STATE_UNSPECIFIED" {
			t.Errorf("state %d is valid or named %s", s, s)
		}
	}
	for _, e := range []hierarchy.Event{-1, 0, 12, 100} {
		if _, r := inState(hierarchy.Active, 0).Apply(hierarchy.Occurrence{Event: e}); r != hierarchy.RefusedInvalid {
			t.Errorf("event %d: %v", e, r)
		}
		if e.Valid() || e.String() != "invalid event" {
			t.Errorf("event %d is valid or named %s", e, e)
		}
	}
	for _, before := range []hierarchy.VersionState{0, hierarchy.Disabled, hierarchy.DestroyScheduled, hierarchy.Destroyed, 99} {
		v := hierarchy.Version{State: hierarchy.Disabled, Before: before}
		if _, r := v.Apply(hierarchy.Occurrence{Event: hierarchy.EventEnable}); r != hierarchy.RefusedInvalid {
			t.Errorf("enable with a remembered %s: %v", before, r)
		}
	}
	v := inState(hierarchy.Active, 0)
	if _, r := v.Apply(hierarchy.Occurrence{Event: hierarchy.EventScheduleDestroy, At: day0, Wait: -1}); r != hierarchy.RefusedInvalid {
		t.Errorf("negative wait: %v", r)
	}
}

func apply(t *testing.T, v hierarchy.Version, at time.Time, events ...hierarchy.Event) hierarchy.Version {
	t.Helper()
	for _, e := range events {
		next, r := v.Apply(hierarchy.Occurrence{Event: e, At: at, Wait: window})
		if r != hierarchy.NotRefused {
			t.Fatalf("%s on %s: %v", e, v.State, r)
		}
		v = next
	}
	return v
}

func TestI7_EnableReturnsToTheStateBefore(t *testing.T) {
	for _, s := range []hierarchy.VersionState{hierarchy.PreActive, hierarchy.Active, hierarchy.Deprecated, hierarchy.Compromised} {
		v := inState(s, 0)
		if got := apply(t, v, day0, hierarchy.EventDisable, hierarchy.EventEnable); got != v {
			t.Errorf("disable, enable: %+v, want %+v", got, v)
		}
		got := apply(t, v, day0, hierarchy.EventScheduleDestroy, hierarchy.EventCancelDestroy)
		if got.State != hierarchy.Disabled || !got.DestroyAt.IsZero() {
			t.Errorf("schedule, cancel from %s gives %s", s, got.State)
		}
		if got = apply(t, got, day0, hierarchy.EventEnable); got != v {
			t.Errorf("schedule, cancel, enable: %+v, want %+v", got, v)
		}
		// Disabled first: the state before the disable is what counts.
		got = apply(t, v, day0, hierarchy.EventDisable, hierarchy.EventScheduleDestroy, hierarchy.EventCancelDestroy, hierarchy.EventEnable)
		if got != v {
			t.Errorf("disable, schedule, cancel, enable: %+v, want %+v", got, v)
		}
	}
}

func TestI7_TimeThatPassesWhileSwitchedOffCounts(t *testing.T) {
	later := day0.Add(window)
	for _, off := range [][]hierarchy.Event{{hierarchy.EventDisable}, {hierarchy.EventScheduleDestroy}} {
		v := apply(t, inState(hierarchy.Active, 0), day0, off...)
		v = apply(t, v, later, hierarchy.EventWindowElapsed)
		if v.State == hierarchy.DestroyScheduled {
			v = apply(t, v, later, hierarchy.EventCancelDestroy)
		}
		if v = apply(t, v, later, hierarchy.EventEnable); v.State != hierarchy.Deprecated {
			t.Errorf("after %v and the window, enable gives %s, want DEPRECATED", off, v.State)
		}
		if _, r := v.Apply(hierarchy.Occurrence{Event: hierarchy.EventWindowElapsed, At: later, Wait: window}); r != hierarchy.RefusedAlready {
			t.Errorf("window twice: %v", r)
		}
	}
}

func TestI6_CompromiseIsRememberedThroughEveryState(t *testing.T) {
	v := apply(t, inState(hierarchy.Active, 0), day0, hierarchy.EventScheduleDestroy, hierarchy.EventCompromise)
	if !v.EverCompromised || v.State != hierarchy.DestroyScheduled {
		t.Errorf("compromise while scheduled: %+v", v)
	}
	if got := apply(t, v, day0, hierarchy.EventCancelDestroy, hierarchy.EventEnable); got.State != hierarchy.Compromised {
		t.Errorf("cancel and enable after compromise gives %s", got.State)
	}
	if _, r := v.Apply(hierarchy.Occurrence{Event: hierarchy.EventCompromise, At: day0}); r != hierarchy.RefusedAlready {
		t.Errorf("compromise twice while scheduled: %v", r)
	}
	d := apply(t, inState(hierarchy.Destroyed, 0), day0, hierarchy.EventCompromise)
	if !d.EverCompromised || d.State != hierarchy.Destroyed {
		t.Errorf("compromise after destruction: %+v", d)
	}
	if _, r := d.Apply(hierarchy.Occurrence{Event: hierarchy.EventCompromise, At: day0}); r != hierarchy.RefusedAlready {
		t.Errorf("compromise twice after destruction: %v", r)
	}
	forged := inState(hierarchy.Active, 0)
	forged.EverCompromised = true
	if _, r := forged.Apply(hierarchy.Occurrence{Event: hierarchy.EventReinstate, At: day0}); r != hierarchy.RefusedCompromised {
		t.Errorf("reinstating an ACTIVE version that was compromised: %v", r)
	}
}

func TestDestroyAndWindowWaitForTheirTime(t *testing.T) {
	v := apply(t, inState(hierarchy.Active, 0), day0, hierarchy.EventScheduleDestroy)
	if !v.DestroyAt.Equal(day0.Add(window)) {
		t.Fatalf("DestroyAt = %v", v.DestroyAt)
	}
	destroy := func(at time.Time) (hierarchy.Version, hierarchy.Refusal) {
		return v.Apply(hierarchy.Occurrence{Event: hierarchy.EventDestroy, At: at})
	}
	if _, r := destroy(v.DestroyAt.Add(-1)); r != hierarchy.RefusedNotDue {
		t.Errorf("1 ns early: %v", r)
	}
	if d, r := destroy(v.DestroyAt); r != hierarchy.NotRefused || d.State != hierarchy.Destroyed || d.Before != 0 {
		t.Errorf("in time: %+v, %v", d, r)
	}
	now, r := v.Apply(hierarchy.Occurrence{Event: hierarchy.EventScheduleDestroy, At: day0})
	if r != hierarchy.NotRefused || !now.DestroyAt.Equal(day0) || now.Before != hierarchy.Active {
		t.Errorf("bringing the destruction forward: %+v, %v", now, r)
	}

	elapse := func(v hierarchy.Version, at time.Time) hierarchy.Refusal {
		_, r := v.Apply(hierarchy.Occurrence{Event: hierarchy.EventWindowElapsed, At: at, Wait: window})
		return r
	}
	a := inState(hierarchy.Active, 0)
	if r := elapse(a, day0.Add(window-1)); r != hierarchy.RefusedNotDue {
		t.Errorf("window 1 ns early: %v", r)
	}
	if r := elapse(a, day0.Add(window)); r != hierarchy.NotRefused {
		t.Errorf("window in time: %v", r)
	}
	a.ReleasedAt = day0.Add(time.Hour)
	if r := elapse(a, day0.Add(window)); r != hierarchy.RefusedNotDue {
		t.Errorf("window counts from the last release: %v", r)
	}
	a.Pins = 1
	if r := elapse(a, day0.Add(10*window)); r != hierarchy.RefusedPinned {
		t.Errorf("pinned: %v", r)
	}
	p := inState(hierarchy.Active, 0)
	p.SupersededAt = time.Time{}
	if r := elapse(p, day0.Add(10*window)); r != hierarchy.RefusedPrimary {
		t.Errorf("primary: %v", r)
	}
	if _, r := p.Apply(hierarchy.Occurrence{Event: hierarchy.EventReinstate, At: day0}); r != hierarchy.RefusedAlready {
		t.Errorf("reinstating what was not superseded: %v", r)
	}
}

// TestI4567_RandomLives applies random events to one version and holds the
// one-way streets after every step.
func TestI4567_RandomLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := hierarchy.Version{UID: uid(1), Number: 1, State: hierarchy.PreActive}
		at := day0
		deprecated, compromised, destroyed := false, false, false
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			e := rapid.SampledFrom(hierarchy.Events()).Draw(t, "event")
			at = at.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "hours")) * time.Hour)
			next, r := v.Apply(hierarchy.Occurrence{Event: e, At: at, Wait: window})
			if r != hierarchy.NotRefused {
				if next != v {
					t.Fatalf("%s on %+v was refused and changed it", e, v)
				}
				continue
			}
			if next.State == hierarchy.Active && v.State != hierarchy.Active && e != hierarchy.EventActivate && e != hierarchy.EventEnable {
				t.Fatalf("%s leads from %s to ACTIVE", e, v.State)
			}
			deprecated = deprecated || next.State == hierarchy.Deprecated || next.Before == hierarchy.Deprecated
			compromised = compromised || e == hierarchy.EventCompromise
			v = next
			switch {
			case !v.State.Valid():
				t.Fatalf("invalid state %d after %s", v.State, e)
			case destroyed && v.State != hierarchy.Destroyed:
				t.Fatalf("I4: DESTROYED led to %s", v.State)
			case deprecated && v.State == hierarchy.Active:
				t.Fatal("I5: a deprecated version is ACTIVE again")
			case compromised != v.EverCompromised:
				t.Fatalf("I6: compromised=%v, remembered=%v", compromised, v.EverCompromised)
			case compromised && (v.State == hierarchy.Active || v.State == hierarchy.Deprecated || v.State == hierarchy.PreActive):
				t.Fatalf("I6: a compromised version is %s", v.State)
			case (v.State == hierarchy.Disabled || v.State == hierarchy.DestroyScheduled) != (v.Before != 0):
				t.Fatalf("Before is %s in state %s", v.Before, v.State)
			case v.State == hierarchy.DestroyScheduled && v.DestroyAt.IsZero():
				t.Fatal("scheduled without a time")
			}
			destroyed = destroyed || v.State == hierarchy.Destroyed
		}
	})
}

func TestRefusalsAreNamedErrorsWithNextSteps(t *testing.T) {
	names := map[string]bool{}
	for _, r := range hierarchy.Refusals() {
		err := r.Err("the key version")
		if err == nil || !r.Valid() || names[r.String()] || !strings.HasPrefix(err.Error(), "the key version ") {
			t.Errorf("%d %s: %v", r, r, err)
		}
		names[r.String()] = true
		switch errs.Of(err) {
		case errs.FailedState, errs.NotFound, errs.LimitReached, errs.Aborted:
		default:
			t.Errorf("%s has the code %s", r, errs.Of(err))
		}
	}
	if err := hierarchy.NotRefused.Err("x"); err != nil {
		t.Errorf("no refusal is the error %v", err)
	}
	for _, r := range []hierarchy.Refusal{-1, 26, 1000} {
		if r.Valid() || r.Err("x") == nil || r.String() != "INVALID_REFUSAL" {
			t.Errorf("refusal %d: %v", r, r.Err("x"))
		}
	}
}
