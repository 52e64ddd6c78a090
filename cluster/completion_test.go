package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// ask proposes a change under a request id.
func (m *member) ask(ctx context.Context, id string, until cluster.Until) (res *fsmpb.Result, err error) {
	m.t.Helper()
	cmd := write(id, 1)
	err = m.as(ctx, cluster.WhoMay(cmd), gate.SealCluster, func(tok gate.Token) error {
		res, err = m.c.Propose(ctx, tok, cmd, until)
		return err
	})
	return res, err
}

// TestI17_ACommittedChangeIsNamedWithWhoItWaitsFor on the leader and on a follower,
// and the wait ends when the lease of the dead node does, not before.
func TestI17_ACommittedChangeIsNamedWithWhoItWaitsFor(t *testing.T) {
	t.Parallel()
	all := threeWithLease(t, 12*time.Second)
	leased(all...)
	leader, others := leaderOf(t, all)
	dead, alive := others[0], others[1]
	leader.write("warm", 0)
	dead.stop()

	// Asynchronous: before it is complete, as both of them say after the answer.
	start := time.Now()
	res, err := alive.ask(limited(t), "async", cluster.Committed)
	if err != nil {
		t.Fatal(err)
	}
	var latest time.Time
	for _, m := range []*member{leader, alive} {
		var how cluster.Completion
		m.eventually("everybody else to follow", func() bool {
			how = m.c.Completion(limited(t), res.GetIndex())
			return len(how.Pending) <= 1
		})
		if how.Complete || len(how.Pending) != 1 || how.Pending[0].Node != dead.c.NodeID() || how.Pending[0].Name != dead.name {
			t.Errorf("%s: %+v", m.c.NodeID(), how)
		}
		if left := time.Until(how.Latest); left <= 0 || left > 13*time.Second {
			t.Errorf("%s: complete in %v", m.c.NodeID(), left)
		}
		latest = how.Latest
	}

	// A deadline before the end of the lease: committed, by name. A busy machine may not
	// commit before the deadline, or not find out in time for whom, which the answer then
	// does not say: it is asked until the lease ends.
	for i, limit := 0, 500*time.Millisecond; time.Until(latest) > limit; i++ {
		id := fmt.Sprintf("short-%d", i)
		short, cancel := context.WithTimeout(t.Context(), limit)
		_, err = alive.ask(short, id, cluster.Complete)
		if !errs.Is(err, errs.NotComplete) { // too late, as the end of the connection may say first
			<-short.Done()
			cancel()
			limit *= 2
			continue
		}
		cancel()
		if !strings.Contains(errs.From(err).Hint, id) {
			t.Errorf("the hint does not name the request: %v", err)
		}
		if strings.Contains(errs.From(err).Msg, "until") {
			break
		}
	}
	situationtest.Error(t, "cluster/change-not-complete", err)

	// Waiting for it ends, and it is complete then.
	if err := alive.c.WaitComplete(limited(t), res.GetIndex()); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*member{leader, alive} {
		if how := m.c.Completion(limited(t), res.GetIndex()); !how.Complete || len(how.Pending) != 0 {
			t.Errorf("%s: %+v", m.c.NodeID(), how)
		}
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("complete after %v, while the dead node may have a lease", took)
	}
}

// TestI17_TheNextLeaderAnswersForTheChangesOfTheLast: a caller of a follower does
// not notice that the leader died while its change was not complete.
func TestI17_TheNextLeaderAnswersForTheChangesOfTheLast(t *testing.T) {
	t.Parallel()
	all := three(t)
	leased(all...)
	leader, others := leaderOf(t, all)
	others[0].write("warm", 0)
	res, err := others[0].ask(limited(t), "orphan", cluster.Committed)
	if err != nil {
		t.Fatal(err)
	}
	leader.stop()
	if err := others[0].c.WaitComplete(limited(t), res.GetIndex()); err != nil {
		t.Fatal(err)
	}
	if how := others[1].c.Completion(limited(t), res.GetIndex()); !how.Complete {
		others[1].eventually("completion", func() bool { return others[1].c.Completion(limited(t), res.GetIndex()).Complete })
	}
}

// TestWhoCatchesUpHasWhatTheLeaderHad: nobody waited for the change, and it was
// answered elsewhere.
func TestWhoCatchesUpHasWhatTheLeaderHad(t *testing.T) {
	t.Parallel()
	all := three(t)
	leased(all...)
	leader, others := leaderOf(t, all)
	for i := range 20 {
		res, err := leader.ask(limited(t), fmt.Sprintf("async-%d", i), cluster.Committed)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range others {
			if err := m.c.CatchUp(limited(t)); err != nil {
				t.Fatal(err)
			}
			if at := m.machine.View().Index(); at < res.GetIndex() {
				t.Fatalf("it is at %d, the change at %d", at, res.GetIndex())
			}
		}
	}
	leader.stop()
	others[0].stop()
	others[1].eventually("no leader", func() bool { return others[1].c.LeaderID() == "" })
	if err := others[1].c.CatchUp(limited(t)); !errs.Is(err, errs.NoLeader) {
		t.Errorf("without a leader: %v", err)
	}
}
