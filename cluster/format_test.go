package cluster_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
)

// TestTheLeaderRaisesTheFormatWhenEveryMemberSupportsIt: the last step of an
// upgrade, and not one before.
func TestTheLeaderRaisesTheFormatWhenEveryMemberSupportsIt(t *testing.T) {
	t.Parallel()
	supports := map[string]uint32{"a": 1, "b": 1}
	as := func(name string) func(*cluster.Config) {
		return func(c *cluster.Config) { c.Self.MaxFormat = supports[name] }
	}
	a := newMember(t, "a", as("a"))
	a.bootstrap()
	b := newMember(t, "b", as("b"))
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())

	upgrade := func(m *member) {
		t.Helper()
		id := string(m.c.NodeID())
		supports[m.name] = fsm.MaxFormatVersion
		m.restart()
		a.eventually("the leader knows that "+m.name+" was upgraded", func() bool {
			self, ok := a.machine.View().Member(id)
			return ok && self.GetMaxFormat() == fsm.MaxFormatVersion
		})
	}
	upgrade(a)
	if to, ok := a.machine.View().Raisable(); ok || a.machine.View().Cluster().GetFormatVersion() != 1 {
		t.Fatalf("raisable to %d with a member of the old release; the format is %d", to, a.machine.View().Cluster().GetFormatVersion())
	}
	upgrade(b)
	for _, m := range []*member{a, b} {
		m.eventually(m.name+" has the new format", func() bool { return m.machine.View().Cluster().GetFormatVersion() == fsm.MaxFormatVersion })
	}
}
