package lease

import (
	"slices"
	"time"
)

// rounds asks the voters whether this leader still leads.
//
// A voter's answer to round r says that it was in the established term after round
// r began. What counts is the latest round that each voter answered: so a request
// that came before round r is served once a majority has answered r or a later
// round, rounds need not wait for each other, and a lost answer is made good by
// the next one.
type rounds struct {
	last  uint64        // number of the latest round; never used twice by one machine
	began time.Duration // when it began
	any   bool          // whether there was one

	voters   []NodeID // of the configuration given with the latest round
	answered map[NodeID]uint64
	quorum   uint64 // the latest round that a majority has answered
}

// majority of n voters; of none, one that nobody can give.
func majority(n int) int { return n/2 + 1 }

func distinct(voters []NodeID) []NodeID {
	v := slices.Clone(voters)
	slices.Sort(v)
	return slices.Compact(v)
}

// NextRound returns how long to wait before [Leader.Begin] would begin a round;
// false: no request waits for one.
func (l *Leader) NextRound(now Reading) (time.Duration, bool) {
	at := l.clock.tick(now)
	if l.term == 0 || l.stuck || l.tab.open+l.tab.ready == 0 {
		return 0, false
	}
	if !l.rounds.any {
		return 0, true
	}
	spacing := RoundSpacing
	if l.tab.ready == 0 {
		spacing = RoundRetry // whoever asked waits for answers already
	}
	return max(l.rounds.began+spacing-at, 0), true
}

// Begin begins a round for all requests that have come: the caller sends the
// question to all voters but itself. voters are those of the latest configuration
// in this node's log, committed or not, and own is this node's current term, both
// read now, after the requests came. This node counts iff it is a voter and in
// exactly the established term (I2). It returns false if [Leader.NextRound] says to wait.
//
// Grants are appended to dst: a cluster of one voter needs no answers.
func (l *Leader) Begin(now Reading, voters []NodeID, own uint64, dst []Granted) ([]Granted, Confirm, bool) {
	if wait, ok := l.NextRound(now); !ok || wait > 0 {
		return dst, Confirm{}, false
	}
	r := &l.rounds
	r.last++
	r.began, r.any = l.clock.at, true
	r.voters = distinct(voters)
	answered := make(map[NodeID]uint64, len(r.voters))
	for _, v := range r.voters {
		answered[v] = r.answered[v]
	}
	r.answered = answered
	l.tab.admit(r.last)
	q := Confirm{History: l.cfg.History, Round: r.last, Term: l.term}
	dst = l.Confirmed(now, l.cfg.Self, Confirmed{History: q.History, Round: q.Round, Term: own}, dst)
	return dst, q, true
}

// Confirmed takes a voter's answer; grants are appended to dst. An answer from who
// is not a voter, in another term, or to a round that never was, counts nothing.
func (l *Leader) Confirmed(now Reading, voter NodeID, a Confirmed, dst []Granted) []Granted {
	at := l.clock.tick(now)
	r := &l.rounds
	before, votes := r.answered[voter]
	if l.term == 0 || !votes || a.History != l.cfg.History || a.Term != l.term || a.Round > r.last || a.Round <= before {
		return dst
	}
	r.answered[voter] = a.Round
	q := r.reached()
	if q <= r.quorum {
		return dst
	}
	r.quorum = q
	return l.grant(at, dst)
}

// reached returns the latest round that a majority of the voters has answered.
func (r *rounds) reached() uint64 {
	latest := make([]uint64, 0, len(r.voters))
	for _, v := range r.voters {
		latest = append(latest, r.answered[v])
	}
	slices.Sort(latest)
	if len(latest) < majority(len(latest)) {
		return 0
	}
	return latest[len(latest)-majority(len(latest))]
}

// grant serves every request whose round a majority has answered. The index and
// the entry in the table are one step for every change (I5).
func (l *Leader) grant(at time.Duration, dst []Granted) []Granted {
	if l.stuck {
		return dst // I12
	}
	for i := range l.tab.slots {
		s := &l.tab.slots[i]
		if s.open.nonce == 0 || s.open.round > l.rounds.quorum {
			continue
		}
		req := l.tab.take(i)
		l.tab.grant(i, l.applied.Index, at)
		dst = append(dst, Granted{s.node, Grant{
			History: l.cfg.History, Term: l.term, Inc: req.inc, Nonce: req.nonce,
			Index: l.applied.Index, Chain: l.applied.Chain, Lease: l.cfg.Lease, Complete: l.complete,
		}})
	}
	return dst
}
