package cluster_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// threeWith returns three voters with the same log, one of which has another
// reason for a hold in it.
func threeWith(t *testing.T) (a, b, c *member) {
	t.Helper()
	a = newMember(t, "a")
	a.bootstrap()
	b, c = newMember(t, "b"), newMember(t, "c")
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
	b.start()
	b.eventually("it knows", func() bool { return b.c.Differs() != nil })
	situationtest.Error(t, "stored/log-edited", b.c.Differs())
	if d := b.c.LastContact(); d != cluster.Never {
		t.Errorf("in contact %s ago", d)
	}
	a.write("goes on", 5)
	for _, m := range []*member{a, c} {
		m.eventually("the others serve", func() bool { return m.c.Differs() == nil && m.c.LastContact() < cluster.Never && m.c.Cause() == nil })
	}
}

func TestI15_ALeaderWhoseLogWasEditedStops(t *testing.T) {
	t.Parallel()
	a, b, c := threeWith(t)
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
