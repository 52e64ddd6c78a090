package cluster_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func setHold(held bool) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: held, Reason: "drill"}}}
}

// invitation is a command that needs a proof.
func invitation(id string) *fsmpb.Command {
	hash := sha256.Sum256([]byte(id))
	return request(id, &fsmpb.Command{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{Token: &fsmpb.JoinToken{
		Hash: hash[:], ExpireTimeMs: time.Now().Add(time.Hour).UnixMilli(),
	}}}})
}

func TestI19_ASealedLeaderCommitsNextToNothing(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	for _, m := range all {
		m.hooks.seal()
	}
	for _, m := range all { // on the leader, and forwarded to it
		ctx, cancel := context.WithTimeout(limited(t), 10*time.Second)
		_, err := m.propose(ctx, gate.CreateJoinToken, invitation("sealed"))
		cancel()
		if !errs.Is(err, errs.Sealed) || errs.From(err).Hint == "" {
			t.Fatalf("%s: a change while all are sealed: %v", m.name, err)
		}
	}
	// What a sealed cluster comes back by is done; and leases are given.
	for i, held := range []bool{true, false} {
		if _, err := leader.insist(gate.SealCluster, request(fmt.Sprintf("hold-%t", held), setHold(held))); err != nil {
			t.Fatalf("hold %d: %v", i, err)
		}
	}
	// One that is unsealed leads, as soon as there is something to do, wherever it is asked.
	able := others[0]
	able.hooks.unseal()
	res, err := others[1].insist(gate.CreateJoinToken, invitation("unsealed"))
	if err != nil {
		t.Fatalf("a change with one that is unsealed: %v", err)
	}
	if !able.c.IsLeader() {
		t.Errorf("%s leads, and %s is unsealed", others[1].c.LeaderID(), able.name)
	}
	// Those that were sealed verify what they applied once they can.
	for _, m := range all {
		m.applied(res.GetIndex())
		if err := m.c.Proved(); m != able != errs.Is(err, errs.Sealed) {
			t.Errorf("%s: %v", m.name, err)
		}
		m.hooks.unseal()
		if err := m.c.Proved(); err != nil {
			t.Errorf("%s, unsealed: %v", m.name, err)
		}
	}
}

// TestI19_AnotherMasterKeyVouchesForNothing: a node whose log others wrote with another
// key does not believe it, and as a leader it gives no leases.
func TestI19_AnotherMasterKeyVouchesForNothing(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.write("x", 0)
	a.eventually("it has a lease", func() bool { return a.c.LeaseErr() == nil })
	a.stop()
	a.change = append(a.change, func(c *cluster.Config) {
		mac := c.MAC
		c.MAC = func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
			sum, ok := mac(g, parts...)
			sum[0]++
			return sum, ok
		}
	})
	a.start()
	a.eventually("it finds out", func() bool { return errs.Is(a.c.Proved(), errs.StateCorrupt) })
	a.eventually("it leads", a.c.IsLeader)
	_, err := a.propose(limited(t), gate.CreateJoinToken, invitation("y"))
	if !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("it commits: %v", err)
	}
	for range 20 {
		if err := a.c.LeaseErr(); err == nil {
			t.Fatal("a leader that does not believe its own log gives itself a lease")
		}
		if _, err := a.propose(limited(t), gate.CreateJoinToken, invitation("y")); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("it commits: %v", err)
		}
	}
}
