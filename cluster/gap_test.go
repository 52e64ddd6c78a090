package cluster_test

import (
	"bytes"
	"crypto/sha256"
	"path/filepath"
	"testing"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// A member that was behind for so long that the leader had to send a snapshot
// has a log with what it had before and what came after. That is no damage.
// compact has members write snapshots behind index, so that whichever of them leads
// next has no older entries to send: on a busy machine that may be another one than
// before.
func compact(t *testing.T, index uint64, members ...*member) {
	t.Helper()
	for _, m := range members {
		m.applied(index)
		if err := m.c.TakeSnapshot(); err != nil {
			t.Fatal(err)
		}
		if first, err := m.c.FirstIndex(); err != nil || first < index-10 {
			t.Fatalf("the log of %s still begins at %d: %v", m.name, first, err)
		}
	}
}

func TestAMemberThatWasSentASnapshotStartsAgainAndAgain(t *testing.T) {
	t.Parallel()
	mac := func(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		return sha256.Sum256(bytes.Join(parts, nil)), true
	}
	all := three(t, func(c *cluster.Config) { c.TrailingLogs, c.SnapshotThreshold, c.MAC = 5, 1<<20, mac })
	leader, others := leaderOf(t, all)
	lag := others[0]
	lag.stop()
	var last uint64
	for i := range 30 {
		last = leader.write("many", i).GetIndex()
	}
	compact(t, last, leader, others[1])
	lag.start()
	lag.applied(leader.write("after", 0).GetIndex())
	if _, ok := lag.machine.RestoreProof(); !ok {
		t.Fatal("the node did not get a snapshot")
	}
	begins := func() (first, snapshot uint64) {
		first, err := lag.c.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		proof, _ := lag.machine.RestoreProof()
		return first, proof.Index
	}
	if first, snapshot := begins(); first <= snapshot {
		t.Errorf("the log begins at %d, the snapshot that was sent ends at %d", first, snapshot)
	}
	for i := range 2 {
		lag.restart()
		lag.applied(leader.write("again", i).GetIndex())
	}

	// A death after the snapshot was kept and before the log was emptied.
	lag.stop()
	if err := cluster.OldEntries(filepath.Join(lag.path, "raft", "raft.db"), 3); err != nil {
		t.Fatal(err)
	}
	lag.start()
	lag.applied(leader.write("again", 2).GetIndex())
	if first, snapshot := begins(); first <= snapshot {
		t.Errorf("entries from before the snapshot stayed: the log begins at %d", first)
	}
}

// A node that joins is named at the end of the log that it is sent.
func TestANodeThatStopsWhileItJoinsGoesOn(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{voter: true}))
	b.applied(a.write("joined", 0).GetIndex())
	b.stop()
	if err := cluster.CutLog(filepath.Join(b.path, "raft", "raft.db"), 2); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.applied(a.write("joined", 1).GetIndex())
}
