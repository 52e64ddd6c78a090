package cluster_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// hasLease reports whether one of them, as leader, has given the member a lease that may
// still run.
func hasLease(id cluster.NodeID, leaders ...*member) bool {
	for _, l := range leaders {
		if r := l.c.Lease().Report; r != nil && slices.ContainsFunc(r.Holders, func(h cluster.LeaseHolder) bool { return h.ID == id && h.Held > 0 }) {
			return true
		}
	}
	return false
}

func TestASnapshotOfAnotherMemberIsServedOnceAMajorityHasTheSame(t *testing.T) {
	t.Parallel()
	var who sync.Map
	all := three(t, silent(&who))
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
	compact(t, last, leader, third)
	who.Store(third.name, true)
	lag.start()
	lag.applied(last)
	for range 2 {
		lag.eventually("who sent it says that it has the same, and the leader gives a lease", func() bool {
			err := lag.c.Proved()
			if !errs.Is(err, errs.NotServing) {
				t.Fatalf("one other member has that state: %v", err)
			}
			return strings.Contains(err.Error(), ": 1 of 2 said") && hasLease(lag.c.NodeID(), leader, third)
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
	who.Delete(third.name)
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

// silent is a configuration of members that vote and commit, and of which some, by
// name, say nothing of their state, as while they are sealed.
func silent(who *sync.Map) func(*cluster.Config) {
	return func(c *cluster.Config) {
		c.TrailingLogs, c.SnapshotThreshold = 5, 1<<20
		name, mac := c.Self.Name, c.MAC
		c.MAC = func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
			sum, ok := mac(g, parts...)
			_, quiet := who.Load(name)
			return sum, ok && !quiet
		}
	}
}

func TestI21_WhoWaitsHelpsToCommitNothingAndNeverLeads(t *testing.T) {
	t.Parallel()
	var who sync.Map
	all := three(t, silent(&who))
	leader, others := leaderOf(t, all)
	lag, third := others[0], others[1]
	lag.eventually("three voters are known, and it has had a lease", func() bool {
		_, err := os.Stat(filepath.Join(lag.path, "compare.json"))
		return errors.Is(err, fs.ErrNotExist) && len(lag.machine.View().Members()) == 3
	})
	lag.stop()
	var last uint64
	for i := range 30 {
		last = leader.write("many", i).GetIndex()
	}
	compact(t, last, leader, third)
	who.Store(third.name, true)
	lag.start()
	lag.applied(last)
	id := lag.c.NodeID()
	waits := func() bool {
		h, err := leader.c.Health(limited(t), id)
		return err == nil && h.Uncompared != ""
	}
	leader.eventually("it says that it waits", waits)

	// It is no leader.
	if err := leader.c.TransferLeadership(limited(t), id); err == nil {
		t.Error("leadership was handed to it")
	}
	if err := leader.c.SaysLead(id); err == nil {
		t.Error("it becomes a candidate when it is told to")
	}
	for i, err := range lag.c.AskForVotes(third.c.NodeID()) {
		if err == nil || !strings.Contains(err.Error(), "was not compared") {
			t.Errorf("request %d leaves it: %v", i, err)
		}
	}

	// What is committed comes to it, and nothing is committed by it.
	next := leader.write("more", 0).GetIndex()
	lag.applied(next)
	third.stop()
	for led := false; !led; { // a busy machine loses the leadership, and gets it back by the vote of the node that waits
		leader.eventually("it leads", leader.c.IsLeader)
		term := leader.c.Term()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // what must not happen would happen within a round trip
		_, err := leader.propose(ctx, gate.SealCluster, write("alone", 1))
		cancel()
		if reason := leader.machine.View().Hold().GetReason(); err == nil || reason == "alone-1" {
			t.Fatalf("a change with nobody but a node that waits: %v, %q", err, reason)
		}
		led = leader.c.IsLeader() && leader.c.Term() == term
	}
	if _, err := os.Stat(filepath.Join(lag.path, "compare.json")); err != nil || !waits() {
		t.Fatalf("it waits no more: %v", err)
	}
	third.start()
	lag.applied(leader.write("more", 2).GetIndex())
	// Its vote counts: the third one leads by it, and not the other way round.
	leader.stop()
	third.eventually("it leads", third.c.IsLeader)
	who.Delete(third.name)
	if lag.c.IsLeader() {
		t.Error("the node that waits leads")
	}
	// That one has the state alone, and of the two voters that lag knew the other one is away.
	leader.start()
	lag.eventually("both have the same", func() bool { return lag.c.Proved() == nil })
	lag.applied(third.write("more", 3).GetIndex())
	h, err := third.c.Health(limited(t), id)
	if err != nil || h.Uncompared != "" {
		t.Errorf("it says still that it waits: %q, %v", h.Uncompared, err)
	}
}

func TestI21_WhoJoinsVotesOnceItsStateWasCompared(t *testing.T) {
	t.Parallel()
	var who sync.Map
	all := three(t, silent(&who))
	leader, others := leaderOf(t, all)
	last := leader.write("many", 0).GetIndex()
	for i := range 20 {
		last = leader.write("many", 1+i).GetIndex()
	}
	compact(t, last, all...)
	for _, m := range others {
		who.Store(m.name, true)
	}
	joins := newMember(t, "joins", silent(&who))
	joins.join(leader.invite(wanted{voter: true}))
	who.Store(leader.name, true) // whoever leads now, nobody says anything
	joins.applied(last)
	id := joins.c.NodeID()
	leader.eventually("it says that it waits, and has caught up", func() bool {
		h, err := leader.c.Health(limited(t), id)
		return err == nil && h.Uncompared != "" && h.Term == leader.c.Term() && h.AppliedIndex >= last
	})
	if leader.c.CaughtUp(limited(t), id) || leader.c.IsVoter(id) {
		t.Error("it votes, or could")
	}
	who.Clear()
	leader.voters(4)
	if err := joins.c.Proved(); errs.Is(err, errs.NotServing) {
		t.Error(err)
	}
}
