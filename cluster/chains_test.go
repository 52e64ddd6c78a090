package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// threeWith returns three voters with the same log, one of which has another
// reason for a hold in it.
func threeWith(t *testing.T, change ...func(*cluster.Config)) (a, b, c *member) {
	t.Helper()
	a = newMember(t, "a", change...)
	a.bootstrap()
	b, c = newMember(t, "b", change...), newMember(t, "c", change...)
	for _, m := range []*member{b, c} {
		m.join(a.invite(wanted{voter: true}))
	}
	a.eventually("three voters", func() bool { return a.c.Stats().Voters == 3 })
	last := a.write("edited", 2).GetIndex()
	last = max(last, a.write("after", 3).GetIndex())
	for _, m := range []*member{b, c} {
		m.applied(last)
	}
	return a, b, c
}

func edit(t *testing.T, m *member) {
	t.Helper()
	if err := cluster.EditLog(filepath.Join(m.path, "raft", "raft.db"), func(cmd []byte) []byte {
		return bytes.ReplaceAll(cmd, []byte("edited-2"), []byte("edited-7"))
	}); err != nil {
		t.Fatal(err)
	}
}

// An entry that was edited on the disk of one node, checksum and all, is found by
// its effect on the chain.
func TestI15_ANodeWhoseLogWasEditedDoesNotServe(t *testing.T) {
	t.Parallel()
	a, b, c := threeWith(t)
	b.stop()
	edit(t, b)
	asked := new(atomic.Int64)
	b.wrap = onWire{up: func(*clusterpb.LeaseRequest) bool { asked.Add(1); return true }}.wrap
	b.start()
	b.eventually("it knows", func() bool { return b.c.Differs() != nil })
	situationtest.Error(t, "stored/log-edited", b.c.Differs())
	if d := b.c.LastContact(); d != cluster.Never {
		t.Errorf("in contact %s ago", d)
	}
	b.c.ForgetChains()
	before := asked.Load()
	b.eventually("it asked again", func() bool { return asked.Load() > before+2 })
	if d := b.c.LastContact(); d != cluster.Never || b.c.Differs() == nil {
		t.Errorf("in contact %s ago: what is not noted yet is not compared", d)
	}
	a.write("goes on", 5)
	for _, m := range []*member{a, c} {
		m.eventually("the others serve", func() bool { return m.c.Differs() == nil && m.c.LastContact() < cluster.Never && m.c.Cause() == nil })
	}
}

// Nodes without a MAC compare chains only. With one, the edited leader may find out by
// itself before the others tell it, and hands leadership on (I19).
func TestI15_ALeaderWhoseLogWasEditedStops(t *testing.T) {
	t.Parallel()
	a, b, c := threeWith(t, func(c *cluster.Config) { c.MAC = nil })
	for _, m := range []*member{a, b, c} {
		m.stop()
	}
	edit(t, b)
	for _, m := range []*member{a, b, c} {
		m.start()
	}
	all := []*member{a, b, c}
	for { // until the edited one leads
		b.eventually("somebody leads", func() bool { return b.c.LeaderID() != "" || b.c.Cause() != nil })
		if b.c.Cause() != nil || b.c.IsLeader() {
			break
		}
		for _, m := range all {
			if m.c.IsLeader() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_ = m.c.TransferLeadership(ctx, b.c.NodeID()) // or another one leads meanwhile
				cancel()
			}
		}
	}
	b.stopsBecause(errs.StateCorrupt)
	situationtest.Error(t, "stored/leader-log-edited", b.c.Cause())
	b.stop() // as its process does
	for _, m := range []*member{a, c} {
		m.eventually("the others go on", func() bool { return m.c.Differs() == nil && m.c.LeaderID() != "" && m.c.LeaderID() != b.c.NodeID() })
	}
	a.write("goes on", 5)
}

// TestI15_NothingThatHappensToASoundClusterIsADifference: restarts, members that
// are away and are sent snapshots, snapshots of their own, leaders that change under
// load, and answers that come late or never.
func TestI15_NothingThatHappensToASoundClusterIsADifference(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	mac := func(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		return sha256.Sum256(bytes.Join(parts, nil)), true
	}
	all := three(t, func(c *cluster.Config) { c.TrailingLogs, c.SnapshotThreshold, c.MAC = 5, 1<<20, mac })
	leader, _ := leaderOf(t, all)
	for i := range 2 {
		m := newMember(t, fmt.Sprintf("late-%d", i), all[0].change...)
		m.join(leader.invite(wanted{voter: i == 0}))
		all = append(all, m)
	}
	lossy := new(atomic.Uint64)
	for _, m := range all {
		m.wrap = onWire{down: func(*clusterpb.LeaseResponse) bool {
			switch n := lossy.Add(1); {
			case n%7 == 0:
				return false
			case n%5 == 0: // the answer lies somewhere while much is applied
				late, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				<-late.Done()
				cancel()
			}
			return true
		}}.wrap
	}
	n := 0
	// load makes changes at several members at once; some may be refused.
	load := func() {
		var wg sync.WaitGroup
		for range 12 {
			m := all[rnd.IntN(len(all))]
			n++
			if cmd := write("load", n); !m.stopped {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					_, _ = m.propose(ctx, gate.SealCluster, cmd)
				})
			}
		}
		wg.Wait()
	}
	sound := func(what string) {
		t.Helper()
		for _, m := range all {
			if m.stopped {
				continue
			}
			if err := m.c.Differs(); err != nil {
				t.Fatalf("after %s, %s: %v", what, m.name, err)
			}
			if err := m.c.Cause(); err != nil {
				t.Fatalf("after %s, %s stopped: %v", what, m.name, err)
			}
		}
	}
	for range 14 {
		m := all[rnd.IntN(len(all))]
		var what string
		switch rnd.IntN(5) {
		case 0:
			what = "a restart"
			m.restart()
			load()
		case 1:
			what = "an absence"
			m.stop()
			load()
			for _, o := range all {
				if !o.stopped {
					_ = o.c.TakeSnapshot() // there may be nothing new
				}
			}
			m.start()
			load()
		case 2:
			what = "a snapshot"
			_ = m.c.TakeSnapshot()
			load()
		default:
			what = "a transfer"
			var wg sync.WaitGroup
			wg.Go(func() {
				for _, o := range all {
					if o.c.IsLeader() {
						ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
						_ = o.c.TransferLeadership(ctx, m.c.NodeID()) // it may be no voter, or behind
						cancel()
					}
				}
			})
			load()
			wg.Wait()
		}
		sound(what)
	}
	leader, _ = leaderOf(t, all)
	last := leader.write("last", 1).GetIndex()
	for _, m := range all {
		m.applied(last)
		m.eventually("in contact", func() bool { return m.c.LastContact() < time.Second })
	}
	sound("everything")
}
