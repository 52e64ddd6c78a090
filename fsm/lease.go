package fsm

import (
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of serving leases.
const (
	// DefaultLeaseMS is how long a serving lease lasts, in milliseconds, where the
	// genesis does not say: that of clusters founded before there were leases.
	DefaultLeaseMS = 3_000
	// MinLeaseMS and MaxLeaseMS bound it: below, a lease ends before a leader can be
	// replaced; above, one dead node keeps a revocation waiting for too long.
	MinLeaseMS = 1_000
	MaxLeaseMS = 60_000
	// EpochNonceBytes is the length of the nonce of an epoch.
	EpochNonceBytes = 16
)

// Epoch is what a [fsmpb.LeaseEpoch] said. The zero value is none.
type Epoch struct {
	Leader string // node id
	Nonce  [EpochNonceBytes]byte
}

// LeaseDuration returns how long a serving lease lasts in this cluster. It is
// fixed by the genesis.
func (v *View) LeaseDuration() time.Duration {
	if ms := v.cluster.GetLeaseMs(); ms != 0 {
		return time.Duration(ms) * time.Millisecond
	}
	return DefaultLeaseMS * time.Millisecond
}

// MembersIndex returns the index of the last change of any member, removed and
// purged ones too. Equal numbers in two views of one cluster mean equal members.
func (v *View) MembersIndex() uint64 { return v.membersAt }

// putMember stores a member. It is the only way to change one.
func (t *tx) putMember(m *fsmpb.Member) {
	put(t, tableMembers, m)
	t.membersAt = max(t.membersAt, m.GetModIndex())
}

// checkLease checks the lease duration of a genesis, in a command and in a snapshot.
func checkLease(g *fsmpb.Genesis) error {
	switch ms := g.GetLeaseMs(); {
	case ms == 0:
		return nil
	case g.GetFormatVersion() < FormatLeases:
		return invalid("the format version is older than serving leases")
	case ms < MinLeaseMS || ms > MaxLeaseMS:
		return errs.New(errs.InvalidArgument, "a serving lease lasts for 1 to 60 seconds")
	}
	return nil
}

// leaseEpoch changes nothing: that it is in the log, at this index and in this
// term, is all that it is for. What is made of it is told to [Options.Publish].
//
// A caller's command has a principal, and so has one that a member forwards. Both
// refusals for that, unlike the others, are not remembered: a request id would
// make of it a request.
func (t *tx) leaseEpoch(c *fsmpb.LeaseEpoch) (done, error) {
	switch m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(c.GetLeader())); {
	case !t.housekeeping() || t.cmd.GetRequestId() != "":
		return done{}, errs.New(errs.Denied, "an epoch of leases is begun by the leader itself, never for a caller")
	case t.cluster.GetFormatVersion() < FormatLeases:
		return done{}, errs.New(errs.FailedState, "the format version of this cluster is older than serving leases",
			errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	case len(c.GetNonce()) != EpochNonceBytes:
		return done{}, invalid("the nonce of an epoch has 16 bytes")
	case !ok || m.GetRemoved():
		return done{}, errs.New(errs.FailedState, "the leader of the epoch is not a member")
	}
	t.epoch = Epoch{Leader: c.GetLeader(), Nonce: [EpochNonceBytes]byte(c.GetNonce())}
	return done{object: nodeName(c.GetLeader())}, nil
}
