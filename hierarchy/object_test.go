package hierarchy_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

const objectGrid = `
state              suspend            resume             schedule-destroy   cancel-destroy  destroy
ACTIVE             SUSPENDED          !NOT_SUSPENDED     DESTROY_SCHEDULED  !NOT_SCHEDULED  !NOT_SCHEDULED
SUSPENDED          SUSPENDED          ACTIVE             DESTROY_SCHEDULED  !NOT_SCHEDULED  !NOT_SCHEDULED
DESTROY_SCHEDULED  DESTROY_SCHEDULED  DESTROY_SCHEDULED  DESTROY_SCHEDULED  SUSPENDED       DESTROYED
DESTROYED          !DESTROYED         !DESTROYED         !DESTROYED         !DESTROYED      !DESTROYED
`

func TestI3_EveryObjectStateTimesEveryEvent(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(objectGrid), "\n")
	for i, s := range hierarchy.ObjectStates() {
		cells := strings.Fields(lines[i+1])
		if cells[0] != s.String() || len(cells) != len(hierarchy.ObjectEvents())+1 {
			t.Fatalf("row %d is %v", i, cells)
		}
		for j, e := range hierarchy.ObjectEvents() {
			o := hierarchy.Object{State: s}
			if s == hierarchy.ObjectSuspended || s == hierarchy.ObjectDestroyScheduled {
				o.Causes = hierarchy.CauseOperator
			}
			if s == hierarchy.ObjectDestroyScheduled {
				o.DestroyAt = day0.Add(time.Hour)
			}
			oc := hierarchy.ObjectOccurrence{Event: e, At: day0, Cause: hierarchy.CauseOperator}
			switch e {
			case hierarchy.ObjectSuspend:
				oc.Cause = hierarchy.CauseL1Denied
			case hierarchy.ObjectDestroy:
				oc.At = day0.Add(time.Hour)
			case hierarchy.ObjectResume, hierarchy.ObjectScheduleDestroy, hierarchy.ObjectCancelDestroy:
			}
			next, r := o.Apply(oc)
			got := next.State.String()
			if r != hierarchy.NotRefused {
				got = "!" + r.String()
				if next != o {
					t.Errorf("%s on %s was refused and changed the object", e, s)
				}
			}
			if got != cells[j+1] {
				t.Errorf("%s on %s: %s, want %s", e, s, got, cells[j+1])
			}
		}
	}
}

func TestSuspensionLastsUntilItsLastCauseIsGone(t *testing.T) {
	o := hierarchy.Object{State: hierarchy.ObjectActive}
	step := func(e hierarchy.ObjectEvent, c hierarchy.Causes, want hierarchy.Refusal) {
		t.Helper()
		next, r := o.Apply(hierarchy.ObjectOccurrence{Event: e, At: day0, Cause: c})
		if r != want {
			t.Fatalf("%s %d: %v, want %v", e, c, r, want)
		}
		o = next
	}
	step(hierarchy.ObjectSuspend, hierarchy.CauseL1Denied, hierarchy.NotRefused)
	step(hierarchy.ObjectSuspend, hierarchy.CauseL1Denied, hierarchy.RefusedAlready)
	step(hierarchy.ObjectSuspend, hierarchy.CauseUnlinked, hierarchy.NotRefused)
	step(hierarchy.ObjectResume, hierarchy.CauseOperator, hierarchy.RefusedNotSuspended)
	step(hierarchy.ObjectResume, hierarchy.CauseL1Denied, hierarchy.NotRefused)
	if o.State != hierarchy.ObjectSuspended {
		t.Fatalf("an unlinked tenant is %s after L1 came back", o.State)
	}
	step(hierarchy.ObjectResume, hierarchy.CauseUnlinked, hierarchy.NotRefused)
	if o.State != hierarchy.ObjectActive || o.Causes != 0 {
		t.Fatalf("%+v", o)
	}
	for _, c := range []hierarchy.Causes{0, hierarchy.CauseOperator | hierarchy.CauseUnlinked, 8, 255} {
		step(hierarchy.ObjectSuspend, c, hierarchy.RefusedInvalid)
	}
	o.State, o.Causes = hierarchy.ObjectSuspended, hierarchy.CauseOperator
	for _, c := range []hierarchy.Causes{0, hierarchy.CauseOperator | hierarchy.CauseUnlinked, 8} {
		step(hierarchy.ObjectResume, c, hierarchy.RefusedInvalid)
	}
}

func TestObjectDestructionWaitsAndCanOnlyComeForward(t *testing.T) {
	o, r := hierarchy.Object{State: hierarchy.ObjectActive}.Apply(hierarchy.ObjectOccurrence{Event: hierarchy.ObjectScheduleDestroy, At: day0, Wait: time.Hour})
	if r != hierarchy.NotRefused || !o.DestroyAt.Equal(day0.Add(time.Hour)) {
		t.Fatalf("%+v, %v", o, r)
	}
	for wait, want := range map[time.Duration]hierarchy.Refusal{-1: hierarchy.RefusedInvalid, time.Hour: hierarchy.RefusedAlready, 2 * time.Hour: hierarchy.RefusedAlready, time.Minute: hierarchy.NotRefused} {
		if _, r := o.Apply(hierarchy.ObjectOccurrence{Event: hierarchy.ObjectScheduleDestroy, At: day0, Wait: wait}); r != want {
			t.Errorf("again with wait %v: %v, want %v", wait, r, want)
		}
	}
	if _, r := o.Apply(hierarchy.ObjectOccurrence{Event: hierarchy.ObjectDestroy, At: o.DestroyAt.Add(-1)}); r != hierarchy.RefusedNotDue {
		t.Errorf("1 ns early: %v", r)
	}
	c, r := o.Apply(hierarchy.ObjectOccurrence{Event: hierarchy.ObjectCancelDestroy, At: day0})
	if r != hierarchy.NotRefused || c.State != hierarchy.ObjectSuspended || c.Causes != hierarchy.CauseOperator || !c.DestroyAt.IsZero() {
		t.Errorf("cancel: %+v, %v", c, r)
	}
}

func TestUnknownObjectStatesAndEventsAreRefused(t *testing.T) {
	for _, o := range []hierarchy.Object{{}, {State: 5}, {State: -1}, {State: hierarchy.ObjectActive, Causes: 8}} {
		for _, e := range hierarchy.ObjectEvents() {
			if next, r := o.Apply(hierarchy.ObjectOccurrence{Event: e, Cause: hierarchy.CauseOperator}); r != hierarchy.RefusedInvalid || next != o {
				t.Errorf("%s on %+v: %v", e, o, r)
			}
		}
	}
	for _, e := range []hierarchy.ObjectEvent{-1, 0, 6} {
		if _, r := (hierarchy.Object{State: hierarchy.ObjectActive}).Apply(hierarchy.ObjectOccurrence{Event: e}); r != hierarchy.RefusedInvalid || e.Valid() || e.String() != "invalid event" {
			t.Errorf("event %d: %v", e, r)
		}
	}
	if s := hierarchy.ObjectState(0); s.Valid() || s.String() != "STATE_UNSPECIFIED" {
		t.Error("the zero object state is valid")
	}
}

func TestI4_RandomObjectLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := hierarchy.Object{State: hierarchy.ObjectActive}
		destroyed := false
		at := day0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "hours")) * time.Hour)
			o, _ = o.Apply(hierarchy.ObjectOccurrence{
				Event: rapid.SampledFrom(hierarchy.ObjectEvents()).Draw(t, "event"), At: at, Wait: 3 * time.Hour,
				Cause: hierarchy.Causes(1 << rapid.IntRange(0, 3).Draw(t, "cause")),
			})
			switch {
			case destroyed && o.State != hierarchy.ObjectDestroyed:
				t.Fatalf("I4: DESTROYED led to %s", o.State)
			case o.State == hierarchy.ObjectActive && o.Causes != 0, o.State == hierarchy.ObjectSuspended && o.Causes == 0:
				t.Fatalf("%s with causes %03b", o.State, o.Causes)
			case !o.Causes.Valid():
				t.Fatalf("unknown causes %b", o.Causes)
			}
			destroyed = o.State == hierarchy.ObjectDestroyed
		}
	})
}
