package cluster_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/gate"
)

// TestI19_AWrongProofDoesNotReachTheLogsOfOthers: a leader that has not the MasterKey, or
// lies, could else have every node disbelieve its own log for ever.
func TestI19_AWrongProofDoesNotReachTheLogsOfOthers(t *testing.T) {
	t.Parallel()
	logs := &records{}
	all := three(t, func(c *cluster.Config) { c.Log = slog.New(logs) })
	liar, others := leaderOf(t, all)
	last := liar.write("before", 1).GetIndex()
	for _, m := range others {
		m.applied(last)
	}

	liar.hooks.mu.Lock()
	liar.hooks.lies = true
	liar.hooks.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := liar.propose(ctx, gate.SealCluster, write("a lie", 2))
		done <- err
	}()
	others[0].eventually("it is refused, and its sender named", func() bool {
		return len(logs.with("no node with the MasterKey vouched for", string(liar.c.NodeID()))) > 0
	})
	cancel()
	if err := <-done; err == nil {
		t.Error("a change that nobody else has was done")
	}
	liar.stop()

	for _, m := range others {
		m.eventually("another one leads", func() bool { return m.c.LeaderID() != "" && m.c.LeaderID() != liar.c.NodeID() })
	}
	last = others[0].write("after", 3).GetIndex()
	for _, m := range others {
		m.applied(last)
		if err := m.c.Proved(); err != nil {
			t.Errorf("%s does not believe its own log: %v", m.name, err)
		}
	}

	liar.start() // without the lie
	liar.applied(last)
	if err := liar.c.Proved(); err != nil {
		t.Errorf("what the others refused is left in the log of who sent it: %v", err)
	}
}
