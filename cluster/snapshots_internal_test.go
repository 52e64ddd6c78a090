package cluster

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// TestAMemberWithEntriesBehindASnapshotFollowsALeaderThatDoesNotKnowOfThem: it was
// sent the snapshot, stored the first entries behind it, and stopped before the
// leader heard of that.
func TestAMemberWithEntriesBehindASnapshotFollowsALeaderThatDoesNotKnowOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, leader := raft.NewInmemTransport("leader")
		_, trans := raft.NewInmemTransport("member")
		leader.Connect("member", trans)
		trans.Connect("leader", leader)
		conf := raft.Configuration{Servers: []raft.Server{{ID: "leader", Address: "leader"}, {ID: "member", Address: "member"}, {ID: "other", Address: "other"}}}
		snaps := raft.NewInmemSnapshotStore()
		sink, err := snaps.Create(1, 73, 2, conf, 1, trans)
		if err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		st := newStore(memory{raft.NewInmemStore()}, clock.System{}, nil, func(err error) { t.Error(err) })
		entry := func(i uint64) *raft.Log {
			return &raft.Log{Index: i, Term: 3, Type: raft.LogCommand, Data: []byte("x")}
		}
		if err := st.StoreLogs([]*raft.Log{entry(74), entry(75), entry(76)}); err != nil {
			t.Fatal(err)
		}
		if err := st.SetUint64(keyCurrentTerm, 3); err != nil {
			t.Fatal(err)
		}
		tm, err := ProfileLAN.timers()
		if err != nil {
			t.Fatal(err)
		}
		rc := raft.DefaultConfig()
		rc.LocalID = "member"
		rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = tm.heartbeat, tm.heartbeat, tm.heartbeat
		rc.Logger = newRaftLog(slog.New(slog.DiscardHandler), clock.System{})
		machine := &counter{}
		r, err := raft.NewRaft(rc, machine, st, st, snaps, trans)
		if err != nil {
			t.Fatal(err)
		}
		st.running.Store(true)
		st.restored(snapshotOf(r))
		defer func() {
			_ = r.Shutdown().Error()
			_ = st.Close()
			_, _ = leader.Close(), trans.Close()
		}()
		var resp raft.AppendEntriesResponse
		err = leader.AppendEntries("member", "member", &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("leader"), Addr: []byte("leader")}, Term: 3,
			PrevLogEntry: 73, PrevLogTerm: 2, Entries: []*raft.Log{entry(74), entry(75), entry(76), entry(77)}, LeaderCommitIndex: 77,
		}, &resp)
		if err != nil || !resp.Success {
			t.Fatalf("it is not followed: %+v, %v", resp, err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		machine.mu.Lock()
		defer machine.mu.Unlock()
		if machine.n != 4 {
			t.Errorf("%d commands applied", machine.n)
		}
	})
}

func TestOnlyTheEndOfTheSnapshotThatTheStateCameFromIsAnsweredFor(t *testing.T) {
	st := newStore(memory{raft.NewInmemStore()}, clock.System{}, nil, func(err error) { t.Error(err) })
	defer func() { _ = st.Close() }()
	knows := func(index uint64) bool {
		var l raft.Log
		err := st.GetLog(index, &l)
		return err == nil && l.Index == index && l.Term == 2
	}
	files := snapshots{raft.NewInmemSnapshotStore(), func(m lease.Mark) { st.kept.Store(&m) }, func() error { return nil }, &readers{}}
	sink, err := files.Create(1, 73, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	st.restored(nil)
	if knows(73) {
		t.Error("before it is on disk")
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	if knows(73) {
		t.Error("before the state is that of it")
	}
	st.restored(nil)
	if !knows(73) || knows(72) || knows(74) {
		t.Error("the end of the snapshot, and nothing else, is answered for")
	}
}
