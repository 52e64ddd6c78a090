package cluster_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// leasesOf returns to whom a leader has given a lease that may still run.
func leasesOf(leader *member) map[cluster.NodeID]bool {
	out := map[cluster.NodeID]bool{}
	if r := leader.c.Lease().Report; r != nil {
		for _, h := range r.Holders {
			out[h.ID] = h.Held > 0
		}
	}
	return out
}

func TestASnapshotOfAnotherMemberIsServedOnceAMajorityHasTheSame(t *testing.T) {
	t.Parallel()
	all := three(t, func(c *cluster.Config) { c.TrailingLogs, c.SnapshotThreshold = 5, 1<<20 })
	leader, others := leaderOf(t, all)
	lag, third := others[0], others[1]
	mark := filepath.Join(lag.path, "compare.json")
	lag.eventually("its registry has three voters, and names its witnesses instead of the join token", func() bool {
		if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
		n := 0
		for _, m := range lag.machine.View().Members() {
			if m.GetVoter() {
				n++
			}
		}
		return n == 3
	})
	lag.stop()
	var last uint64
	for i := range 30 {
		last = leader.write("many", i).GetIndex()
	}
	if err := leader.c.TakeSnapshot(); err != nil {
		t.Fatal(err)
	}
	third.stop()
	lag.start()
	lag.applied(last)
	for range 2 {
		lag.eventually("who sent it says that it has the same, and the leader gives a lease", func() bool {
			err := lag.c.Proved()
			if !errs.Is(err, errs.NotServing) {
				t.Fatalf("one other member has that state: %v", err)
			}
			return strings.Contains(err.Error(), ": 1 of 2 said") && leasesOf(leader)[lag.c.NodeID()]
		})
		if _, err := os.Stat(mark); err != nil {
			t.Errorf("nothing on disk says so: %v", err)
		}
		if lag.c.Standing().Usable(clock.System{}.Read()) {
			t.Error("it has a lease")
		}
		lag.restart()
		lag.applied(last)
	}
	third.start()
	lag.eventually("the third member says that it has the same", func() bool { return lag.c.Proved() == nil })
	lag.eventually("it has a lease", func() bool { return lag.c.Standing().Usable(clock.System{}.Read()) })
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mark is there still: %v", err)
	}
	lag.restart()
	lag.applied(last)
	if err := lag.c.Proved(); errs.Is(err, errs.StateCorrupt) {
		t.Error(err)
	}
}
