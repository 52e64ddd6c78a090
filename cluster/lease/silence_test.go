package lease_test

import (
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// impatient is a holder of a cluster with these timers.
func impatient(tm lease.Timing) *lease.Holder {
	return lease.NewHolder(lease.HolderConfig{History: history, Boot: 1, Renew: tm.Renew, Patience: tm.Patience()})
}

// TestASilentConnectionIsGivenUpWhileTheLeaseLasts: however late in a lease the
// network begins to swallow what is sent, there is time for a new connection; and the
// next ones are given up ever more seldom, since the leader may have its reasons.
func TestASilentConnectionIsGivenUpWhileTheLeaseLasts(t *testing.T) {
	t.Parallel()
	for _, tm := range []lease.Timing{lease.LAN(), lease.WAN()} {
		h := impatient(tm)
		var given []time.Duration
		for now := time.Duration(0); now < time.Minute; now += tm.Renew {
			h.Renew(at(now), lease.Mark{})
			if h.Silent(at(now)) {
				given = append(given, now)
				h.Connect()
			}
		}
		if len(given) < 2 || len(given) > 9 {
			t.Fatalf("%+v: given up at %v", tm, given)
		}
		// A request was answered just before; a new connection takes three round trips, and a grant one more.
		if worst := tm.Renew + given[0] + 4*tm.Grant; worst >= lease.HolderSpan(tm.Lease) {
			t.Errorf("%+v: a new lease after %v", tm, worst)
		}
		for i := range given[1:] {
			gap, before := given[i+1]-given[i], given[i]
			if i > 0 {
				before -= given[i-1]
			}
			if i < 4 && gap < before*17/10 || gap < before {
				t.Errorf("%+v: given up at %v", tm, given)
			}
		}
	}
}

// TestAnAnswerIsASignOfLife: none that comes in time gives a connection up, at
// whatever distance the leader is; nor is patience lost for good.
func TestAnAnswerIsASignOfLife(t *testing.T) {
	t.Parallel()
	tm := lease.LAN()
	h := impatient(tm)
	lost := 0
	for now := time.Duration(0); now < time.Minute; now += tm.Renew {
		h.Renew(at(now), lease.Mark{})
		if now%(3*tm.Renew) == 2*tm.Renew {
			h.Answered()
		}
		if h.Silent(at(now)) {
			lost++
		}
	}
	if lost != 0 {
		t.Errorf("%d connections were given up over which answers came", lost)
	}
	for range 2 { // after an answer it is noticed as fast as ever
		h.Connect()
		h.Answered()
		h.Renew(at(time.Hour), lease.Mark{})
		for d := time.Duration(0); !h.Silent(at(time.Hour + d)); d += 50 * time.Millisecond {
			if d > time.Second {
				t.Fatal("not noticed within a second")
			}
		}
	}
}

// TestAProcessThatStoodStillLooksIntoItsSocketFirst: the answers are there.
func TestAProcessThatStoodStillLooksIntoItsSocketFirst(t *testing.T) {
	t.Parallel()
	h := impatient(lease.LAN())
	h.Renew(at(0), lease.Mark{})
	if h.Silent(at(time.Hour)) {
		t.Error("the connection is given up when the process goes on")
	}
	if h.Silent(at(2 * time.Hour)) {
		t.Error("and again")
	}
	eternal := lease.NewHolder(lease.HolderConfig{History: history, Boot: 1, Renew: second})
	for now := time.Duration(0); now < time.Hour; now += second {
		eternal.Renew(at(now), lease.Mark{})
		if eternal.Silent(at(now)) {
			t.Fatal("a holder whose patience is not limited gives up")
		}
	}
}
