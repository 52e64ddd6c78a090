package cluster_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
)

// TestALeaderTellsWhoHasALeaseAndForWhomAChangeWaits, over the peers' protocol as
// its followers hear it: a member that died is who a change waits for, by name and
// for no longer than a lease; afterwards nobody waits, and the wait was measured.
func TestALeaderTellsWhoHasALeaseAndForWhomAChangeWaits(t *testing.T) {
	t.Parallel()
	all := three(t)
	leased(all...)
	leader, others := leaderOf(t, all)
	leader.write("warm", 0)
	seen := func() cluster.Health {
		h, err := others[1].c.Health(limited(t), leader.c.NodeID())
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	var r *cluster.LeaseReport
	leader.eventually("all have a lease and are up to date, as a follower hears it", func() bool {
		if r = seen().Leases; r == nil || len(r.Holders) != 3 {
			return false
		}
		for _, h := range r.Holders {
			if h.Held <= 0 || h.Lag != 0 {
				return false
			}
		}
		return len(r.Waits) == 0
	})
	h := seen()
	if d := leader.machine.View().LeaseDuration(); h.Lease <= 0 || h.Lease > d || h.LeaseRefusal != "" {
		t.Errorf("the leader has %s of a lease of %s, refused: %q", h.Lease, d, h.LeaseRefusal)
	}
	if r.Term != leader.c.Term() || r.Fences != 0 || r.Complete == 0 {
		t.Errorf("%+v in term %d", r, leader.c.Term())
	}
	if h, err := leader.c.Health(limited(t), others[1].c.NodeID()); err != nil || h.Leases != nil || h.Lease <= 0 {
		t.Errorf("of a follower: %+v, %v", h, err)
	}
	before := leader.c.Lease().Fences

	others[0].stop()
	var wg sync.WaitGroup
	wg.Go(func() { leader.write("waits", 1) })
	leader.eventually("the change waits for the dead member", func() bool {
		r := seen().Leases
		return r != nil && r.Fences == 1 && len(r.Waits) == 1 && cluster.NodeID(r.Waits[0].Node) == others[0].c.NodeID() &&
			r.Waits[0].Remaining > 0 && r.Waits[0].Remaining < 4*time.Second
	})
	for _, h := range seen().Leases.Holders {
		if (h.ID == others[0].c.NodeID()) != (h.Lag > 0) {
			t.Errorf("%s is %d behind", h.ID, h.Lag)
		}
	}
	wg.Wait()
	leader.eventually("nothing waits", func() bool {
		r := seen().Leases
		return r != nil && r.Fences == 0 && len(r.Waits) == 0
	})
	after := leader.c.Lease().Fences
	last := len(cluster.FenceBounds) - 1
	if after.Count != before.Count+1 || after.Sum-before.Sum < 500*time.Millisecond || after.Buckets[last] != after.Count || after.Buckets[0] > before.Buckets[0] {
		t.Errorf("fences %+v, before %+v", after, before)
	}
}

// TestRefusalsAreCountedByReason: on the side that refused, and the member that got
// no lease says why.
func TestRefusalsAreCountedByReason(t *testing.T) {
	t.Parallel()
	all := make([]*member, 2)
	var tamper atomic.Bool
	for i, name := range []string{"a", "b"} {
		all[i] = &member{t: t, name: name, path: t.TempDir() + "/data"}
		all[i].wrap = onWire{up: func(up *clusterpb.LeaseRequest) bool {
			if tamper.Load() && up.GetRenew() != nil {
				up.Renew.History = make([]byte, 16)
			}
			return true
		}}.wrap
		all[i].start()
		t.Cleanup(all[i].stop)
	}
	a, b := all[0], all[1]
	a.bootstrap()
	b.join(a.invite(wanted{}))
	leased(a, b)
	tamper.Store(true)
	const reason = "another history"
	b.eventually("it is refused", func() bool { return b.c.Lease().Refusal == reason })
	a.eventually("the leader counts it", func() bool {
		for _, c := range a.c.Lease().Refusals {
			if c.By == cluster.RefusedByLeader && c.Reason == reason && c.Count > 0 {
				return true
			}
		}
		return false
	})
	b.eventually("its lease runs out", func() bool { return b.c.Lease().Remaining == 0 })
	if h, err := a.c.Health(limited(t), b.c.NodeID()); err != nil || h.Lease != 0 || h.LeaseRefusal != reason {
		t.Errorf("%+v, %v", h, err)
	}
}
