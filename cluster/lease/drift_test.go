package lease_test

import (
	"math"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// audited is a leader that hears one member, whose clock runs at a rate of its own.
type audited struct {
	l    *lease.Leader
	rate float64
}

// hear takes a message that was sent at that time and was on its way for so long.
func (a audited) hear(t *testing.T, sent, way time.Duration) {
	t.Helper()
	r := lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: 5, Boot: time.Hour + time.Duration(float64(sent)*a.rate)}
	if ref := a.l.Renew(at(sent+way), "n2", r, lease.Checks{}); ref != lease.RefusalNone {
		t.Fatal(ref)
	}
}

// drift returns what the leader says of the member's clock, as a part.
func (a audited) drift(now time.Duration) (part float64, over time.Duration) {
	for _, h := range a.l.Holders(at(now)) {
		if h.Node == "n2" && h.Drift.Over > 0 {
			return float64(h.Drift.Ahead) / float64(h.Drift.Over), h.Drift.Over
		}
	}
	return 0, 0
}

// TestADelayIsNotTakenForAClock: a process that stood still and packets that were
// lost make messages late by half a second, and a clock that is right must not look
// like one that is off by more than leases allow for. One that is off shows.
func TestADelayIsNotTakenForAClock(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{1, 1.012, 0.994} {
		a := audited{established(t, "n1", 3*second, 5, "n1", "n2"), rate}
		known := 0
		for i := range 4 * 300 {
			sent := time.Duration(i) * 250 * time.Millisecond
			way := 2 * time.Millisecond
			switch {
			case i%3 == 0:
				way += 500 * time.Millisecond
			case i%97 < 8:
				way += 2 * second
			}
			a.hear(t, sent, way)
			part, over := a.drift(sent + way)
			if over == 0 {
				continue
			}
			known++
			if over < lease.AuditSpan || over > 55*second {
				t.Fatalf("compared over %v", over)
			}
			if math.Abs(part-(rate-1)) > 0.0002 {
				t.Fatalf("after %v: a clock at a rate of %v is said to be off by %.3f %%", sent, rate, 100*part)
			}
		}
		if known < 4*200 {
			t.Errorf("known after %d of %d messages", known, 4*300)
		}
	}
}

// TestAMessageIsAsOldAsWhenItCame: one that waited for the epoch came before it.
func TestAMessageIsAsOldAsWhenItCame(t *testing.T) {
	t.Parallel()
	a := audited{lease.NewLeader(lease.LeaderConfig{Self: "n1", History: history, Lease: 3 * second}), 1}
	a.l.Expect(lease.EpochNonce{1})
	a.hear(t, 0, 0)
	a.l.Applied(at(second), lease.Entry{Index: 5, Term: 2})
	if !a.l.Establish(at(second), lease.Epoch{Nonce: lease.EpochNonce{1}, Members: []lease.Member{{ID: "n1"}, {ID: "n2"}}}) {
		t.Fatal("no epoch")
	}
	now := time.Duration(0)
	for i := range 7 {
		now += 10 * second
		a.hear(t, now, 0)
		if part, over := a.drift(now); part != 0 || i == 6 && over == 0 {
			t.Errorf("off by %.2f %% over %v", 100*part, over)
		}
	}
}

// TestWhatWasFoundOfAClockIsForgotten: a number of an hour ago is not shown as one
// of now, and what came before a gap is compared with nothing after it.
func TestWhatWasFoundOfAClockIsForgotten(t *testing.T) {
	t.Parallel()
	a := audited{established(t, "n1", 3*second, 5, "n1", "n2"), 1.012}
	var now time.Duration
	for range 70 {
		now += second
		a.hear(t, now, 0)
	}
	if part, _ := a.drift(now); part < 0.011 {
		t.Fatalf("off by %v, so the test shows nothing", part)
	}
	if _, over := a.drift(now + time.Hour); over != 0 {
		t.Error("a member that was silent for an hour has a clock that is off now")
	}
	a.rate = 1
	now += time.Hour
	for range 49 {
		now += second
		a.hear(t, now, 0)
		if _, over := a.drift(now); over != 0 {
			t.Fatalf("compared over %v, and it is not heard for that long", over)
		}
	}
}
