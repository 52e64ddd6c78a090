package lease_test

import (
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// mutation takes one protection away.
type mutation uint8

const (
	none mutation = iota
	noNewLeaderWait
	noConfirm
	currentTermInConfirm
	nonVotersCounted
	receiveTime
	noGrantIndex
	noGate
	incarnationsUnordered
	incarnationsIgnored
	flapUnnoticed
	leaseOverRestore
	leasePersisted
	driftIgnored
	earlierReleasedForGood
	raftAppliedReported
	purgeTooEarly
	removedGoesOn
	selfCountedAlways
	lateAnswersCount
	tableOverRestore
	mutations
)

func (m mutation) is(n mutation) bool { return m == n }

// own is the term that a leader says to be in.
func (m mutation) own(s *server) uint64 {
	term, _, ok := s.leader.Established()
	if ok && (m == selfCountedAlways || m == currentTermInConfirm && s.leads) {
		return term
	}
	return s.term
}

// confirmed is what becomes of a voter's answer on the way.
func (m mutation) confirmed(voter, leader *server, q lease.Confirm, a lease.Confirmed) confirmedAs {
	as := confirmedAs{voter.id, a}
	switch {
	case m == currentTermInConfirm && leader.leads && a.Term == leader.term:
		as.answer.Term = q.Term
	case m == nonVotersCounted:
		voters, _, _ := leader.configuration()
		if voters&(1<<voter.n) == 0 {
			for n := range 8 {
				if voters&(1<<n) != 0 && n != leader.n {
					as.voter = name(n)
				}
			}
		}
	}
	return as
}

// renew is what becomes of a member's message on the way. Incarnations without an
// order are random numbers: whichever comes is the newest.
func (m mutation) renew(from *server, r lease.Renew) lease.Renew {
	switch m {
	case incarnationsIgnored:
		r.Inc = lease.Incarnation{Boot: 1}
	case incarnationsUnordered:
		if r.Inc != from.newest {
			from.newest = r.Inc
			from.shift++
		}
		r.Inc = lease.Incarnation{Boot: from.shift, Restores: 0}
	}
	return r
}

// grant is what becomes of a grant on the way.
func (m mutation) grant(to *server, g lease.Grant) lease.Grant {
	switch m {
	case noGrantIndex:
		g.Index, g.Chain = 0, lease.Chain{}
	case incarnationsIgnored, incarnationsUnordered:
		g.Inc = to.holder.Incarnation()
	}
	return g
}

// TestMutation takes the protections away one by one: the explorer must find a
// schedule that goes wrong, among as many as are stated. Schedules follow from
// their number, so that the same one is found again until a machine or the
// explorer changes. Families only make what is needed less rare; the explorer
// draws from all of them.
func TestMutation(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		family family
		within int
		want   string
	}{
		{"no new-leader wait", family{mut: noNewLeaderWait}, 100, "S"},
		{"no CONFIRM", family{noConfirm, toStale, 0}, 500, "S"},
		{"current term in Confirm", family{currentTermInConfirm, toFlaps, 3}, 6000, "S"},
		{"non-voters counted", family{nonVotersCounted, toStale, 4}, 6000, "S"},
		{"leader counts itself in any term", family{selfCountedAlways, toStale, 3}, 6000, "S"},
		{"answers to earlier rounds counted", family{lateAnswersCount, toStale, 3}, 6000, "S"},
		{"receive time", family{mut: receiveTime}, 500, "S"},
		{"no grant index", family{mut: noGrantIndex}, 500, "S"},
		{"no gate", family{mut: noGate}, 100, "S2"},
		{"unordered incarnation", family{incarnationsUnordered, toCrashes, 0}, 3000, "S"},
		{"no incarnation", family{incarnationsIgnored, toLag, 0}, 3000, "S"},
		{"flap unnoticed", family{flapUnnoticed, toFlaps, 0}, 100, "S"},
		{"table kept over Restore", family{tableOverRestore, toFlaps, 3}, 1000, "S"},
		{"lease kept over Restore", family{leaseOverRestore, toCrashes, 0}, 2000, "S"},
		{"persisted lease", family{leasePersisted, toCrashes, 0}, 200, "S"},
		{"drift", family{mut: driftIgnored}, 1000, "S"},
		{"star released for good", family{mut: earlierReleasedForGood}, 500, "S"},
		{"raft-applied reported", family{mut: raftAppliedReported}, 200, "S"},
		{"purge before the removal is complete", family{purgeTooEarly, toMembers, 4}, 500, "S"},
		{"removed member goes on", family{removedGoesOn, toMembers, 4}, 1000, "S"},
	} {
		if invariants.Race && tc.within > 500 {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for i := range tc.within {
				if w := schedule(seed(uint64(i)), tc.family, steps, nil); w.wrong != "" {
					if !strings.HasPrefix(w.wrong, tc.want) {
						continue
					}
					t.Logf("schedule %d of %d: %s", i+1, tc.within, w.wrong)
					return
				}
			}
			t.Errorf("none of %d schedules goes wrong", tc.within)
		})
	}
}
