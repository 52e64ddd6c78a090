package cluster

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// TestWhatIsSaidToBeTheMostNeverIsLess: a follower hears of a wait and of a lease
// what the leader knows, or up to a millisecond more, and never that there is none
// while there is one.
func TestWhatIsSaidToBeTheMostNeverIsLess(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "left"))
		r := reportFromProto(reportToProto(&LeaseReport{
			Waits:   []lease.Waiting{{Node: "n2", Remaining: d}},
			Holders: []LeaseHolder{{ID: "n2", Held: d}},
		}))
		for _, got := range []time.Duration{r.Waits[0].Remaining, r.Holders[0].Held} {
			if got < d || got >= d+time.Millisecond {
				t.Errorf("%s is told as %s", d, got)
			}
		}
	})
}

// told is a leader of three, in its first instants.
func told(t *testing.T) (*leases, func(time.Duration) lease.Reading) {
	t.Helper()
	at := func(d time.Duration) lease.Reading { return lease.Reading{Raw: d, Boot: d, Wall: d} }
	l := &leases{c: &Cluster{id: "n1"}, leader: lease.NewLeader(lease.LeaderConfig{Self: "n1", Lease: 3 * time.Second})}
	l.leader.Expect(lease.EpochNonce{1})
	l.leader.Applied(at(0), lease.Entry{Index: 5, Term: 2})
	if !l.leader.Establish(at(0), lease.Epoch{Nonce: lease.EpochNonce{1}, Members: []lease.Member{{ID: "n1"}, {ID: "n2"}, {ID: "n3"}}}) {
		t.Fatal("no epoch")
	}
	return l, at
}

// TestALeaderNamesThoseForWhomChangesWait, and nobody who is only behind with what
// the cluster writes for itself: for that nobody hurries.
func TestALeaderNamesThoseForWhomChangesWait(t *testing.T) {
	t.Parallel()
	l, at := told(t)
	names := func() (out []lease.NodeID) {
		for _, w := range l.report(at(time.Second), 7).Waits {
			out = append(out, w.Node)
		}
		return out
	}
	l.leader.Applied(at(0), lease.Entry{Index: 6, Term: 2}) // a caller's
	l.leader.Applied(at(0), lease.Entry{Index: 7, Term: 2}) // the cluster's own
	if got := names(); len(got) != 0 {
		t.Errorf("no change waits, and %v keep one", got)
	}
	l.waited.begin(6, time.Now())
	if ref := l.leader.Renew(at(0), "n2", lease.Renew{Inc: lease.Incarnation{Boot: 1}, Applied: 6}, lease.Checks{}); ref != lease.RefusalNone {
		t.Fatal(ref)
	}
	if got := names(); len(got) != 1 || got[0] != "n3" {
		t.Errorf("%v keep the change, and n3 alone did not report it", got)
	}
}

// TestALeaseOfAnEarlierLeaderIsALease: a member that serves under one is not said to
// hold none.
func TestALeaseOfAnEarlierLeaderIsALease(t *testing.T) {
	t.Parallel()
	l, at := told(t)
	if ref := l.leader.Renew(at(0), "n2", lease.Renew{Inc: lease.Incarnation{Boot: 1}, Applied: 4}, lease.Checks{}); ref != lease.RefusalNone {
		t.Fatal(ref)
	}
	held := func(after time.Duration) []LeaseHolder {
		l.leader.Advance(at(after))
		return l.report(at(after), 5).Holders
	}
	if h := held(time.Second); len(h) != 1 || h[0].Held != 2030*time.Millisecond {
		t.Errorf("while it may serve under one: %+v", h)
	}
	if h := held(4 * time.Second); len(h) != 1 || h[0].Held != 0 {
		t.Errorf("after that: %+v", h)
	}
}

// TestTheSumOfFencesNeverFalls: a scraper takes a sum that falls for a restart. The
// clocks of those who begin and of those who end are read before they queue.
func TestTheSumOfFencesNeverFalls(t *testing.T) {
	t.Parallel()
	var f fenceTimer
	now := time.Now()
	f.begin(1, now.Add(time.Millisecond))
	f.reach(1, now)
	if got := f.read(); got.Sum != 0 || got.Count != 1 || got.Buckets[0] != 1 {
		t.Errorf("%+v", got)
	}
}
