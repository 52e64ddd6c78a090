package hierarchy_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

func serving() hierarchy.Ancestors {
	return hierarchy.AboveServiceKey(hierarchy.ObjectActive, hierarchy.ObjectActive, hierarchy.Active, hierarchy.Active)
}

func rotated(t *testing.T, at time.Time, uids ...byte) hierarchy.Chain {
	t.Helper()
	var c hierarchy.Chain
	for _, u := range uids {
		var r hierarchy.Refusal
		if c, r = c.Rotate(uid(u), at, hierarchy.TriggerPerson); r != hierarchy.NotRefused {
			t.Fatal(r)
		}
	}
	return c
}

func change(t *testing.T, c hierarchy.Chain, n hierarchy.VersionNumber, e hierarchy.Event, at time.Time) hierarchy.Chain {
	t.Helper()
	c, r := c.Change(n, hierarchy.Occurrence{Event: e, At: at, Wait: time.Hour})
	if r != hierarchy.NotRefused {
		t.Fatalf("%s on version %d: %v", e, n, r)
	}
	return c
}

func state(c hierarchy.Chain, n hierarchy.VersionNumber) hierarchy.VersionState {
	v, _ := c.Version(n)
	return v.State
}

func TestRotateSupersedesAndOnlyThePrimaryWraps(t *testing.T) {
	var empty hierarchy.Chain
	if _, r := empty.ForWrap(hierarchy.Pin{}, serving()); r != hierarchy.RefusedNoPrimary {
		t.Errorf("wrap with no version: %v", r)
	}
	c := rotated(t, day0, 1, 2)
	if c.Primary != 2 || state(c, 1) != hierarchy.Active || state(c, 2) != hierarchy.Active {
		t.Fatalf("%+v", c)
	}
	v, r := c.ForWrap(hierarchy.Pin{}, serving())
	if v.UID != uid(2) || r != hierarchy.NotRefused {
		t.Errorf("wraps under %v, %v", v.UID, r)
	}
	if st := c.Standing(1, hierarchy.Pin{}); st != hierarchy.StandingNone {
		t.Errorf("a superseded version has standing %d", st)
	}
	if v, ok := c.ByUID(uid(1)); !ok || v.Number != 1 {
		t.Errorf("ByUID: %+v, %v", v, ok)
	}
	if _, ok := c.ByUID(hierarchy.UID{}); ok {
		t.Error("the zero uid names a version")
	}
	for _, n := range []hierarchy.VersionNumber{0, 3, 1 << 63} {
		if _, ok := c.Version(n); ok {
			t.Errorf("version %d exists", n)
		}
	}
}

func TestUIDsAreNeverUsedAgain(t *testing.T) {
	c := rotated(t, day0, 1, 2)
	c = change(t, c, 1, hierarchy.EventScheduleDestroy, day0)
	c = change(t, c, 1, hierarchy.EventDestroy, day0.Add(time.Hour))
	for _, u := range []hierarchy.UID{{}, uid(1), uid(2)} {
		if got, r := c.Rotate(u, day0, hierarchy.TriggerPerson); r != hierarchy.RefusedReusedUID || !cmp.Equal(got, c) {
			t.Errorf("rotate to %v: %v", u, r)
		}
		if _, r := c.Stage(u, day0); r != hierarchy.RefusedReusedUID {
			t.Errorf("stage %v: %v", u, r)
		}
	}
}

func TestI9_TheWindowTurnsSupersededIntoDeprecated(t *testing.T) {
	c := rotated(t, day0, 1, 2)
	if due, ok := c.NextDue(); !ok || !due.Equal(day0.Add(window)) {
		t.Errorf("next due %v, %v", due, ok)
	}
	same, changed := c.Sweep(day0.Add(window - 1))
	if len(changed) != 0 || !cmp.Equal(same, c) {
		t.Errorf("swept %v early", changed)
	}
	swept, changed := c.Sweep(day0.Add(window))
	if !slices.Equal(changed, []hierarchy.VersionNumber{1}) || state(swept, 1) != hierarchy.Deprecated {
		t.Errorf("swept %v, version 1 is %s", changed, state(swept, 1))
	}
	if state(c, 1) != hierarchy.Active {
		t.Error("sweep wrote to its input")
	}
	if _, ok := swept.NextDue(); ok {
		t.Error("something is still due")
	}
	if state(swept, 2) != hierarchy.Active {
		t.Error("the primary was deprecated")
	}
	c.Window = time.Minute
	if _, changed := c.Sweep(day0.Add(time.Minute)); len(changed) != 1 {
		t.Error("a shorter window was ignored")
	}
}

func TestI10_RollbackMovesThePointerInsideTheWindowOnly(t *testing.T) {
	c := rotated(t, day0, 1, 2, 3)
	back, r := c.Rollback(1, day0.Add(window-1))
	if r != hierarchy.NotRefused || back.Primary != 1 || !back.Paused {
		t.Fatalf("rollback: %v, primary %d, paused %v", r, back.Primary, back.Paused)
	}
	if v, _ := back.Version(1); !v.SupersededAt.IsZero() {
		t.Error("the primary counts as superseded")
	}
	if v, _ := back.Version(3); v.State != hierarchy.Active || !v.SupersededAt.Equal(day0.Add(window-1)) {
		t.Errorf("the version rolled back from: %+v", v)
	}
	if fwd, r := back.Rollback(3, day0.Add(window)); r != hierarchy.NotRefused || fwd.Primary != 3 {
		t.Errorf("rolling forward again: %v", r)
	}

	if _, r := back.Rotate(uid(9), day0.Add(window), hierarchy.TriggerSchedule); r != hierarchy.RefusedPaused {
		t.Errorf("scheduled rotation while paused: %v", r)
	}
	if n, r := back.Rotate(uid(9), day0.Add(window), hierarchy.TriggerPerson); r != hierarchy.NotRefused || n.Paused {
		t.Errorf("rotation by hand: %v, paused %v", r, n.Paused)
	}
	if _, r := back.Rotate(uid(9), day0, hierarchy.Trigger(0)); r != hierarchy.RefusedInvalid {
		t.Errorf("rotation by nobody: %v", r)
	}

	for name, tc := range map[string]struct {
		c    hierarchy.Chain
		n    hierarchy.VersionNumber
		at   time.Time
		want hierarchy.Refusal
	}{
		"window over":           {c, 1, day0.Add(window), hierarchy.RefusedWindowClosed},
		"primary":               {c, 3, day0, hierarchy.RefusedAlready},
		"no such version":       {c, 4, day0, hierarchy.RefusedNoVersion},
		"version zero":          {c, 0, day0, hierarchy.RefusedNoVersion},
		"disabled":              {change(t, c, 1, hierarchy.EventDisable, day0), 1, day0, hierarchy.RefusedDisabled},
		"deprecated":            {change(t, c, 1, hierarchy.EventDeprecate, day0), 1, day0, hierarchy.RefusedOneWay},
		"compromised":           {change(t, c, 1, hierarchy.EventCompromise, day0), 1, day0, hierarchy.RefusedCompromised},
		"scheduled":             {change(t, c, 1, hierarchy.EventScheduleDestroy, day0), 1, day0, hierarchy.RefusedDestroyPending},
		"compromised, disabled": {change(t, change(t, c, 1, hierarchy.EventCompromise, day0), 1, hierarchy.EventDisable, day0), 1, day0, hierarchy.RefusedCompromised},
	} {
		if got, r := tc.c.Rollback(tc.n, tc.at); r != tc.want || !cmp.Equal(got, tc.c) {
			t.Errorf("%s: %v, want %v", name, r, tc.want)
		}
	}
	staged, _ := c.Stage(uid(7), day0)
	if _, r := staged.Rollback(4, day0); r != hierarchy.RefusedNotActive {
		t.Errorf("rollback to a staged version: %v", r)
	}
}

func TestRollbackFromACompromisedPrimary(t *testing.T) {
	c := change(t, rotated(t, day0, 1, 2), 2, hierarchy.EventCompromise, day0)
	if _, r := c.ForWrap(hierarchy.Pin{}, serving()); r != hierarchy.RefusedCompromised {
		t.Errorf("a compromised primary wraps: %v", r)
	}
	c, r := c.Rollback(1, day0.Add(time.Hour))
	if r != hierarchy.NotRefused || state(c, 2) != hierarchy.Compromised {
		t.Errorf("%v, version 2 is %s", r, state(c, 2))
	}
	if _, r := c.Rollback(2, day0.Add(time.Hour)); r != hierarchy.RefusedCompromised {
		t.Errorf("rolling back to the compromised version: %v", r)
	}
}

func TestStagedVersionsTakeOverWhenActivated(t *testing.T) {
	c := rotated(t, day0, 1)
	c, r := c.Stage(uid(2), day0)
	if r != hierarchy.NotRefused || c.Primary != 1 || state(c, 2) != hierarchy.PreActive {
		t.Fatalf("%v, %+v", r, c)
	}
	act, r := c.Activate(2, day0.Add(time.Hour), hierarchy.TriggerSchedule)
	if r != hierarchy.NotRefused || act.Primary != 2 || state(act, 2) != hierarchy.Active {
		t.Errorf("%v, %+v", r, act)
	}
	if v, _ := act.Version(1); !v.SupersededAt.Equal(day0.Add(time.Hour)) {
		t.Error("the old primary is not superseded")
	}
	if _, r := act.Activate(2, day0, hierarchy.TriggerPerson); r != hierarchy.RefusedAlready {
		t.Errorf("activating twice: %v", r)
	}
	if _, r := c.Activate(9, day0, hierarchy.TriggerPerson); r != hierarchy.RefusedNoVersion {
		t.Errorf("activating nothing: %v", r)
	}
	c.Paused = true
	if _, r := c.Activate(2, day0, hierarchy.TriggerSchedule); r != hierarchy.RefusedPaused {
		t.Errorf("scheduled activation while paused: %v", r)
	}
}

func TestI7_EnableAfterTheWindowWithoutASweep(t *testing.T) {
	for _, back := range [][]hierarchy.Event{{hierarchy.EventDisable, hierarchy.EventEnable}, {hierarchy.EventScheduleDestroy, hierarchy.EventCancelDestroy, hierarchy.EventEnable}} {
		c := change(t, rotated(t, day0, 1, 2), 1, back[0], day0.Add(time.Hour))
		for _, e := range back[1:] {
			c = change(t, c, 1, e, day0.Add(window))
		}
		if s := state(c, 1); s != hierarchy.Deprecated {
			t.Errorf("%v over the end of the window: %s, want DEPRECATED", back, s)
		}
	}
}

func TestChangeTakesOnlyEventsOfPeople(t *testing.T) {
	c := rotated(t, day0, 1, 2)
	for _, e := range []hierarchy.Event{0, hierarchy.EventActivate, hierarchy.EventSupersede, hierarchy.EventReinstate, hierarchy.EventWindowElapsed, 12} {
		if got, r := c.Change(1, hierarchy.Occurrence{Event: e, At: day0.Add(2 * window)}); r != hierarchy.RefusedInvalid || !cmp.Equal(got, c) {
			t.Errorf("%s: %v", e, r)
		}
	}
	if _, r := c.Change(3, hierarchy.Occurrence{Event: hierarchy.EventDisable}); r != hierarchy.RefusedNoVersion {
		t.Errorf("no such version: %v", r)
	}
}

func TestPinHoldsAVersionActiveAndItsRollbackHasItsOwnWindow(t *testing.T) {
	c := rotated(t, day0, 1, 2)
	c, pin, r := c.Pin(hierarchy.Pin{}, 1, day0.Add(time.Hour))
	if r != hierarchy.NotRefused {
		t.Fatal(r)
	}
	v, r := c.ForWrap(pin, serving())
	if r != hierarchy.NotRefused || v.Number != 1 {
		t.Errorf("a pinned resource wraps under %d, %v", v.Number, r)
	}
	if st := c.Standing(2, pin); st != hierarchy.StandingNone {
		t.Errorf("a pinned resource may also wrap under the primary: %d", st)
	}
	late := day0.Add(10 * window)
	if _, changed := c.Sweep(late); len(changed) != 0 {
		t.Error("a pinned version was deprecated")
	}
	if _, r := c.Rollback(1, late); r != hierarchy.RefusedWindowClosed {
		t.Errorf("a pin keeps the window of the whole service open: %v", r)
	}

	c2, pin2, r := c.Pin(pin, 2, late)
	if r != hierarchy.NotRefused || pin2 != (hierarchy.Pin{Version: 2, Previous: 1, PinnedAt: late}) {
		t.Fatalf("%+v, %v", pin2, r)
	}
	if due, ok := c2.NextDue(); !ok || !due.Equal(late.Add(window)) {
		t.Errorf("the released version is due at %v, %v", due, ok)
	}
	c3, pin3, r := c2.RollbackPin(pin2, late.Add(window-1))
	if r != hierarchy.NotRefused || pin3.Version != 1 || pin3.Previous != 2 {
		t.Fatalf("%+v, %v", pin3, r)
	}
	if a, _ := c3.Version(1); a.Pins != 1 {
		t.Errorf("version 1 has %d pins", a.Pins)
	}
	if b, _ := c3.Version(2); b.Pins != 0 {
		t.Errorf("version 2 has %d pins", b.Pins)
	}
	if _, _, r := c2.RollbackPin(pin2, late.Add(window)); r != hierarchy.RefusedWindowClosed {
		t.Errorf("rollback of a pin after its window: %v", r)
	}
	if _, _, r := c2.Pin(pin2, 1, late.Add(window)); r != hierarchy.RefusedOneWay {
		t.Errorf("pin to a version whose window is over, not swept: %v", r)
	}

	c4, none, r := c.RollbackPin(pin, day0.Add(2*time.Hour))
	if r != hierarchy.NotRefused || none != (hierarchy.Pin{}) {
		t.Errorf("rollback of the first pin: %+v, %v", none, r)
	}
	if _, changed := c4.Sweep(day0.Add(2*time.Hour + window)); len(changed) != 1 {
		t.Error("an unpinned superseded version stays ACTIVE")
	}

	for name, tc := range map[string]struct {
		n    hierarchy.VersionNumber
		pin  hierarchy.Pin
		e    hierarchy.Event
		want hierarchy.Refusal
	}{
		"no version":  {n: 9, want: hierarchy.RefusedNoVersion},
		"same":        {n: 1, pin: pin, want: hierarchy.RefusedAlready},
		"disabled":    {n: 2, e: hierarchy.EventDisable, want: hierarchy.RefusedDisabled},
		"deprecated":  {n: 2, e: hierarchy.EventDeprecate, want: hierarchy.RefusedOneWay},
		"compromised": {n: 2, e: hierarchy.EventCompromise, want: hierarchy.RefusedCompromised},
	} {
		at := c
		if tc.e != 0 {
			at = change(t, c, tc.n, tc.e, day0)
		}
		if got, p, r := at.Pin(tc.pin, tc.n, day0); r != tc.want || p != tc.pin || !cmp.Equal(got, at) {
			t.Errorf("%s: %v, want %v", name, r, tc.want)
		}
	}
	staged, _ := c.Stage(uid(7), day0)
	if _, _, r := staged.Pin(hierarchy.Pin{}, 3, day0); r != hierarchy.RefusedNotActive {
		t.Errorf("pin to a staged version: %v", r)
	}
	if _, _, r := c.Unpin(hierarchy.Pin{}, day0); r != hierarchy.RefusedNotPinned {
		t.Errorf("unpin nothing: %v", r)
	}
	if _, _, r := c.RollbackPin(hierarchy.Pin{}, day0); r != hierarchy.RefusedNotPinned {
		t.Errorf("roll back no pin: %v", r)
	}
	if _, _, r := c.Unpin(hierarchy.Pin{Version: 2}, day0); r != hierarchy.RefusedNotPinned {
		t.Errorf("unpin what nobody pinned: %v", r)
	}
	if _, _, r := c.Unpin(hierarchy.Pin{Version: 9}, day0); r != hierarchy.RefusedNoVersion {
		t.Errorf("unpin from no version: %v", r)
	}
	if _, r := c.ForWrap(hierarchy.Pin{Version: 9}, serving()); r != hierarchy.RefusedNoVersion {
		t.Errorf("wrap under a pin to nothing: %v", r)
	}
	bad := change(t, c, 1, hierarchy.EventDisable, day0)
	if _, r := bad.ForWrap(pin, serving()); r != hierarchy.RefusedDisabled {
		t.Errorf("a pinned resource whose version is disabled: %v, want no fallback", r)
	}
}

func TestAChainHoldsNoMoreThanMaxVersions(t *testing.T) {
	c := hierarchy.Chain{Versions: make([]hierarchy.Version, hierarchy.MaxVersions)}
	for i := range c.Versions {
		var u hierarchy.UID
		binary.BigEndian.PutUint64(u[:], uint64(i)+1)
		c.Versions[i] = hierarchy.Version{UID: u, Number: hierarchy.VersionNumber(i) + 1, State: hierarchy.Deprecated}
	}
	if _, r := c.Rotate(uid(250), day0, hierarchy.TriggerPerson); r != hierarchy.RefusedTooMany {
		t.Errorf("%v", r)
	}
	c.Versions = c.Versions[1:]
	if _, r := c.Stage(uid(250), day0); r != hierarchy.NotRefused {
		t.Errorf("one below the limit: %v", r)
	}
}

// TestChainsUnderRandomHistories drives a chain and the pins of two resources
// with random acts and holds I4 to I10 after each.
func TestChainsUnderRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c hierarchy.Chain
		var pins [2]hierarchy.Pin
		at := day0
		nextUID := byte(1)
		fate := map[hierarchy.VersionNumber]struct{ deprecated, compromised, destroyed bool }{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(0, 13).Draw(t, "hours")) * time.Hour)
			n := hierarchy.VersionNumber(rapid.IntRange(0, len(c.Versions)+1).Draw(t, "version"))
			before, copied := c, hierarchy.Chain{Versions: slices.Clone(c.Versions), Primary: c.Primary, Window: c.Window, Paused: c.Paused}
			r := hierarchy.NotRefused
			act := rapid.SampledFrom([]string{"rotate", "scheduled", "stage", "activate", "rollback", "sweep", "pin", "unpin", "rollback-pin", "change", "change", "change"}).Draw(t, "act")
			k := rapid.IntRange(0, 1).Draw(t, "resource")
			old := pins[k]
			switch act {
			case "rotate":
				c, r = c.Rotate(uid(nextUID), at, hierarchy.TriggerPerson)
				nextUID++
			case "scheduled":
				c, r = c.Rotate(uid(nextUID), at, hierarchy.TriggerSchedule)
				nextUID++
				if before.Paused != (r == hierarchy.RefusedPaused) {
					t.Fatalf("I10: paused=%v, scheduled rotation: %v", before.Paused, r)
				}
			case "stage":
				c, r = c.Stage(uid(nextUID), at)
				nextUID++
			case "activate":
				c, r = c.Activate(n, at, hierarchy.TriggerPerson)
			case "rollback":
				was, _ := c.Version(n)
				if c, r = c.Rollback(n, at); r == hierarchy.NotRefused {
					if was.State != hierarchy.Active || was.EverCompromised || at.Sub(was.SupersededAt) >= window || !c.Paused || c.Primary != n {
						t.Fatalf("I10: rolled back to %+v at %v", was, at)
					}
				}
			case "sweep":
				c, _ = c.Sweep(at)
				if due, ok := c.NextDue(); ok && !due.After(at) && !anyDestroyDue(c, at) {
					t.Fatalf("after a sweep at %v something is due at %v", at, due)
				}
			case "pin":
				c, pins[k], r = c.Pin(pins[k], n, at)
			case "unpin":
				c, pins[k], r = c.Unpin(pins[k], at)
			case "rollback-pin":
				c, pins[k], r = c.RollbackPin(pins[k], at)
			case "change":
				e := rapid.SampledFrom(hierarchy.Events()).Draw(t, "event")
				c, r = c.Change(n, hierarchy.Occurrence{Event: e, At: at, Wait: 20 * time.Hour})
			}
			if !cmp.Equal(before, copied) {
				t.Fatalf("%s wrote to its input", act)
			}
			if r != hierarchy.NotRefused && (!cmp.Equal(c, before) || pins[k] != old) {
				t.Fatalf("%s was refused (%v) and changed something", act, r)
			}

			pinned := map[hierarchy.VersionNumber]uint32{}
			for _, p := range pins {
				if p.Version != 0 {
					pinned[p.Version]++
				}
			}
			if int(c.Primary) > len(c.Versions) {
				t.Fatalf("primary %d of %d versions", c.Primary, len(c.Versions))
			}
			for i, v := range c.Versions {
				f := fate[v.Number]
				switch {
				case v.Number != hierarchy.VersionNumber(i)+1:
					t.Fatalf("version %d stands at place %d", v.Number, i)
				case v.Pins != pinned[v.Number]:
					t.Fatalf("version %d counts %d pins, resources hold %d", v.Number, v.Pins, pinned[v.Number])
				case v.State == hierarchy.Active && v.Number != c.Primary && v.SupersededAt.IsZero():
					t.Fatalf("I9: version %d is ACTIVE, not the primary, and was never superseded", v.Number)
				case f.destroyed && v.State != hierarchy.Destroyed:
					t.Fatalf("I4: version %d came back as %s", v.Number, v.State)
				case f.deprecated && v.State == hierarchy.Active:
					t.Fatalf("I5: version %d is ACTIVE again", v.Number)
				case f.compromised && !v.EverCompromised:
					t.Fatalf("I6: version %d forgot its compromise", v.Number)
				}
				f.destroyed = f.destroyed || v.State == hierarchy.Destroyed
				f.deprecated = f.deprecated || v.State == hierarchy.Deprecated
				f.compromised = f.compromised || v.EverCompromised
				fate[v.Number] = f
			}
			for _, p := range append(pins[:], hierarchy.Pin{}) {
				v, r := c.ForWrap(p, serving())
				if r != hierarchy.NotRefused {
					continue
				}
				f := fate[v.Number]
				if v.State != hierarchy.Active || f.compromised || f.deprecated || p.Version == 0 && v.Number != c.Primary || p.Version != 0 && v.Number != p.Version {
					t.Fatalf("I8: wraps under %+v with pin %+v", v, p)
				}
			}
		}
	})
}

func anyDestroyDue(c hierarchy.Chain, at time.Time) bool {
	return slices.ContainsFunc(c.Versions, func(v hierarchy.Version) bool {
		return v.State == hierarchy.DestroyScheduled && !v.DestroyAt.After(at)
	})
}
