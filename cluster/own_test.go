package cluster_test

import (
	"context"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI13_WhatIsTheLeadersOwnIsNobodyElses: a member that does not lead gives no such
// command, nobody gives one for a caller, and a caller's command is not the leader's.
func TestI13_WhatIsTheLeadersOwnIsNobodyElses(t *testing.T) {
	all := three(t)
	leader, others := leaderOf(t, all)
	repair := &fsmpb.Command{Body: &fsmpb.Command_RepairSeal{RepairSeal: &fsmpb.RepairSeal{Base: make([]byte, 32)}}}
	own := func(m *member, cmd *fsmpb.Command) error {
		return m.as(t.Context(), auth.LocalOperator(), gate.CreateJoinToken, func(tok gate.Token) error {
			_, err := m.c.ProposeOwn(context.WithoutCancel(t.Context()), tok, cmd)
			return err
		})
	}
	if err := own(others[0], repair); !errs.Is(err, errs.NoLeader) {
		t.Errorf("by a member that does not lead: %v", err)
	}
	// It is applied, and refused for what it says and not for who gave it.
	if err := own(leader, repair); !errs.Is(err, errs.Aborted) && !errs.Is(err, errs.FailedState) {
		t.Errorf("by the leader: %v", err)
	}
	if err := own(leader, &fsmpb.Command{Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: true}}}); !errs.Is(err, errs.Internal) {
		t.Errorf("a caller's command: %v", err)
	}
	err := leader.as(t.Context(), auth.LocalOperator(), gate.CreateJoinToken, func(tok gate.Token) error {
		_, err := leader.c.Propose(t.Context(), tok, repair, cluster.Committed)
		return err
	})
	if !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("for a caller: %v", err)
	}
}
