package lease

import (
	"time"

	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// LeaderConfig is what a [Leader] never changes.
type LeaderConfig struct {
	Self    NodeID
	History History
	Lease   time.Duration // D: the length of every lease, fixed when the cluster was founded
}

// Leader gives grants and knows which changes are complete. Every node has one,
// since any node may come to lead; it does nothing before [Leader.Establish].
//
// The caller tells it of every command that the state machine applies, in the
// same critical section in which the command becomes visible:
//
//	lock; leader.Applied(now, entry); publish; leader.Establish(...) or leader.SetMembers(...); unlock
//
// and calls [Leader.Advance] once after a batch of events. now is always read
// after what the event reports was received.
type Leader struct {
	cfg     LeaderConfig
	clock   meter
	applied Entry
	seen    map[NodeID]*seen // what nodes said of themselves; outlives an epoch

	expected EpochNonce
	expects  bool
	queue    map[NodeID]queued // requests that wait for the epoch

	// Of the epoch; the zero value without one.
	term     uint64
	epoch    uint64 // index of its command
	complete uint64
	stuck    bool
	tab      table
	rounds   rounds
}

// seen is the newest that a member said of itself.
type seen struct {
	inc   Incarnation
	log   Mark
	audit audit
}

// NewLeader returns a leader without an epoch.
func NewLeader(cfg LeaderConfig) *Leader {
	return &Leader{cfg: cfg, seen: map[NodeID]*seen{}, queue: map[NodeID]queued{}}
}

// Member is a node of the registry, as of the last command.
type Member struct {
	ID NodeID
	// Removed is set from the command that removes the member until the one that
	// purges it, which is written once the first is complete.
	Removed bool
}

// Expect says that this node proposed the command of an epoch with this nonce. The
// latest counts; requests are kept from now on until it is applied.
//
// The caller proposes one whenever this node leads a term that is not the
// established one: also if it never saw that it did not lead in between. Without,
// an idle leader asks about its old term for ever and gives no grant.
func (l *Leader) Expect(nonce EpochNonce) { l.expected, l.expects = nonce, true }

// Epoch is a command LeaseEpoch that was applied, and the state just after it.
type Epoch struct {
	Nonce   EpochNonce
	Members []Member // of the registry, the removed and not yet purged ones too
	// Heard is what this node's holder has heard to be complete. It stays so.
	Heard uint64
}

// Establish begins the epoch of the command that [Leader.Applied] was told last,
// if this node expects that nonce; it reports whether it did (I3). Whatever leases
// earlier leaders gave, to whomever, is in the table as one entry per member, which
// ends after a whole lease from now (I4): no other waiting is needed.
func (l *Leader) Establish(now Reading, e Epoch) bool {
	if !l.expects || e.Nonce != l.expected {
		return false
	}
	at := l.clock.tick(now)
	l.drop()
	l.expects = false
	l.term, l.epoch, l.complete = l.applied.Term, l.applied.Index, min(e.Heard, l.applied.Index-1)
	l.tab.span = LeaderSpan(l.cfg.Lease)
	l.tab.self = l.cfg.Self
	l.setMembers(e.Members)
	for i := range l.tab.slots {
		l.tab.star(i, at)
	}
	queue := l.queue
	l.queue = map[NodeID]queued{}
	for id, q := range queue {
		l.take(q.at, id, q.renew, q.checks)
	}
	return true
}

// Established returns the term and the index of the epoch; false: there is none.
func (l *Leader) Established() (term, index uint64, ok bool) {
	return l.term, l.epoch, l.term != 0
}

// Complete returns the last change that is complete: no node acts on a state
// before it, now or later. It is what [Leader.Advance] found, 0 without an epoch.
func (l *Leader) Complete() uint64 { return l.complete }

// Applied notes a command, on whatever node, just before it becomes visible. A
// command of a higher term than the epoch's ends the epoch, whatever this node
// believes about who leads: leadership can be lost and won again unnoticed, and
// the leader in between gave grants that this table does not have (I3). It reports
// whether an epoch ended.
func (l *Leader) Applied(now Reading, e Entry) (ended bool) {
	l.clock.tick(now)
	if e.Index <= l.applied.Index || e.Term < l.applied.Term {
		invariants.Violated("lease", "entry %d of term %d after entry %d of term %d", e.Index, e.Term, l.applied.Index, l.applied.Term)
	}
	if l.term != 0 && e.Term > l.term {
		l.drop()
		ended = true
	}
	l.applied = e
	return ended
}

// Restored notes that the state machine was given a snapshot that ends with e, in
// the critical section in which it becomes visible. It may be older than what was
// applied. An epoch ends: whoever gave the snapshot led, and the snapshot may jump
// over the very commands by which [Leader.Applied] would notice (I3). The caller
// calls [Leader.Lost] already before it begins to load.
func (l *Leader) Restored(now Reading, e Entry) (ended bool) {
	l.clock.tick(now)
	ended = l.term != 0
	l.drop()
	l.applied = e
	return ended
}

// Lost says that this node does not lead any more, or is not sure: the epoch ends,
// with all grants and requests, and nothing is expected. It reports whether there was an
// epoch. Whoever waits for a change to be complete must then be told that the outcome is unknown.
func (l *Leader) Lost() (ended bool) {
	ended = l.term != 0
	l.drop()
	l.expects = false
	clear(l.queue)
	return ended
}

// drop forgets the epoch. What nodes said of themselves, what is expected and
// queued, and the numbers of rounds stay.
func (l *Leader) drop() {
	l.term, l.epoch, l.complete, l.stuck = 0, 0, 0, false
	l.tab = table{}
	l.rounds = rounds{last: l.rounds.last, began: l.rounds.began, any: l.rounds.any}
}

// Busy says how old this leader's oldest unfinished step is, as in [Stuck]. While
// that is too old no grant is given (I12). The caller says so before each round
// and some times per second.
func (l *Leader) Busy(oldest time.Duration) { l.stuck = Stuck(oldest) }

// SetMembers notes the members of the registry after a command that changed them,
// in the critical section of that command. A removed member gets no more grants.
// One that is purged keeps what it was granted until that runs out.
func (l *Leader) SetMembers(members []Member) {
	if l.term != 0 {
		l.setMembers(members)
	}
}

func (l *Leader) setMembers(members []Member) {
	l.tab.setMembers(members)
	for id := range l.seen {
		if _, ok := l.tab.of[id]; !ok {
			delete(l.seen, id)
		}
	}
}
