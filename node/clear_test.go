package node_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// cleanState is a cluster in whose state nothing is left that the exposed MasterKey opens;
// only disks have it.
func cleanState(t *testing.T) *held {
	t.Helper()
	h := exposedWorld(t)
	h.exposedNow(t)
	for range 10 {
		if exposureOf(t, h.members[0]).ClearIndex != 0 {
			return h
		}
		check(t, h.members[0].StepExposure(t.Context()))
	}
	t.Fatalf("something is left: %+v", exposureOf(t, h.members[0]))
	return nil
}

func TestI19_EveryMemberIsAskedUntilItHasClearedItsDisk(t *testing.T) {
	h := cleanState(t)
	a, b, c := h.members[0], h.members[1], h.members[2]
	x := exposureOf(t, a)
	var mu sync.Mutex
	var asked []string
	answers := func(m *member, f func(index uint64) (uint64, error)) {
		m.clear = func(index uint64) (uint64, error) {
			mu.Lock()
			asked = append(asked, string(m.id))
			mu.Unlock()
			if index != x.ClearIndex {
				t.Errorf("asked to clear to %d, not to %d", index, x.ClearIndex)
			}
			return f(index)
		}
	}
	full := errs.New(errs.Unavailable, "the disk is full")
	answers(a, func(index uint64) (uint64, error) { return index + 5, nil })
	answers(b, func(uint64) (uint64, error) { return 0, full })
	answers(c, func(index uint64) (uint64, error) { return index - 1, nil }) // less than it was to do
	round := func() {
		t.Helper()
		asked = nil
		check(t, a.ClearDue(t.Context()))
	}
	round()
	if len(asked) != 3 || asked[2] != string(a.id) {
		t.Errorf("asked in the order %v; the leader %s is to be the last", asked, a.id)
	}
	want := []string{string(b.id), string(c.id)}
	slices.Sort(want)
	if left := exposureOf(t, a).MembersLeft; !slices.Equal(left, want) {
		t.Errorf("%v are left, not %v", left, want)
	}
	why := a.Uncleared()
	if len(why) != 2 || why[string(b.id)] != full.Msg || !strings.Contains(why[string(c.id)], "something left from before") {
		t.Errorf("why: %v", why)
	}
	if round(); len(asked) != 0 {
		t.Errorf("%v asked again at once", asked)
	}
	answers(c, func(index uint64) (uint64, error) { return index, nil })
	h.advance(10 * time.Second)
	if round(); len(asked) != 2 {
		t.Errorf("%v asked later", asked)
	}
	if left := exposureOf(t, a).MembersLeft; !slices.Equal(left, []string{string(b.id)}) || len(a.Uncleared()) != 1 {
		t.Errorf("%v are left; %v", left, a.Uncleared())
	}
	// One that does not lead asks nobody, and any leader goes on.
	h.advance(10 * time.Second)
	asked = nil
	check(t, b.ClearDue(t.Context()))
	if len(asked) != 0 {
		t.Errorf("a follower asked %v", asked)
	}
	h.leads.Store(int64(b.number - 1))
	answers(b, func(index uint64) (uint64, error) { return index, nil })
	check(t, b.ClearDue(t.Context()))
	if left := exposureOf(t, a).MembersLeft; len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

func TestI19_AMemberClearsNothingForWhichItsRegistryHasNoReason(t *testing.T) {
	h := cleanState(t)
	b := h.members[1]
	x := exposureOf(t, b)
	b.clear = func(uint64) (uint64, error) {
		t.Error("it cleared its disk")
		return 0, nil
	}
	for _, task := range []string{"", "short", string(append(make([]byte, 7), byte(x.ClearIndex)+1))} {
		if out, err := b.Prepare(t.Context(), []byte("krypton/v1/clear-disk"+task)); err == nil {
			t.Errorf("task %q was done: %x", task, out)
		}
	}
}
