package lease

import (
	"cmp"
	"time"
)

// NodeID names a member. It is born with a data directory and never used again.
type NodeID string

// History names the one past that a log continues: it is new after the state was
// restored from a backup or a majority was given up. Messages of another history
// mean nothing.
type History [16]byte

// Chain is the state chain at an index: two nodes that applied the same commands
// have the same chain. Zero: not known.
type Chain [32]byte

// Nonce of a request. A holder counts; zero means that a message asks for nothing.
type Nonce uint64

// EpochNonce is what a leader put into its epoch's command, to know it again.
type EpochNonce [16]byte

// Mark is a place in a Raft log: the highest entry that a node ever stored. Marks
// are ordered by term first.
type Mark struct{ Term, Index uint64 }

// Compare returns -1, 0 or 1 as m is before, at or after n.
func (m Mark) Compare(n Mark) int {
	return cmp.Or(cmp.Compare(m.Term, n.Term), cmp.Compare(m.Index, n.Index))
}

// Entry is a command that this node's state machine applied: its place in the log
// and the chain after it. Only commands count, never Raft's own entries.
type Entry struct {
	Index, Term uint64
	Chain       Chain
}

// Renew is what a holder tells the leader: what it has applied and, with a nonce,
// that it asks for a grant.
type Renew struct {
	History History
	Inc     Incarnation
	Nonce   Nonce  // zero: this is only a report
	Applied uint64 // last command that is visible to this node's readers
	Chain   Chain  // at Applied
	Log     Mark   // highest entry of its log, ever
	Boot    time.Duration
	// Differs says that the leader's state at some index is not this node's.
	Differs bool
}

// Grant is the right to serve for Lease from when the request with this nonce was
// made, once the view has Index. All parts belong together.
type Grant struct {
	History  History
	Term     uint64 // of the epoch
	Inc      Incarnation
	Nonce    Nonce
	Index    uint64 // g: the leader's last command when it gave the grant
	Chain    Chain  // the leader's, at Index
	Lease    time.Duration
	Complete uint64 // see [Leader.Complete]
}

// Granted is a grant and for whom it is.
type Granted struct {
	To    NodeID
	Grant Grant
}

// Confirm asks a voter in which term it is.
type Confirm struct {
	History History
	Round   uint64
	Term    uint64 // the established term, never the current one
}

// Confirmed is a voter's answer: its current term, read when it handled the question.
type Confirmed struct {
	History History
	Round   uint64
	Term    uint64
}

// Agreement is what a comparison of two nodes' chains at one index showed.
type Agreement uint8

// The agreements.
const (
	AgreementUnknown Agreement = iota // one of them has not applied it, or does not remember
	Agrees
	Differs
)

func (a Agreement) String() string {
	switch a {
	case AgreementUnknown:
		return "unknown"
	case Agrees:
		return "agrees"
	case Differs:
		return "differs"
	}
	return "invalid"
}
