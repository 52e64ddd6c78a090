package lease

import "time"

// Limits of what others can make a machine keep (I11), and fixed times.
const (
	// RoundSpacing is the least time between the starts of two rounds of a leader.
	// A round costs a message to every voter and serves every request that waits.
	RoundSpacing = 20 * time.Millisecond

	// RoundRetry is the time after which requests that are in a round already are
	// put to the voters again, because a question or an answer may be lost.
	RoundRetry = 250 * time.Millisecond

	// MaxGrants is how many grants of one holder a leader keeps apart. A holder
	// asks every 250 ms or more seldom and a lease of 8 s is the longest default,
	// so that 33 are in use. Beyond, the newest grants share an entry that has the
	// lowest index and the latest end of them: changes wait longer, never shorter.
	MaxGrants = 64

	// MaxAsked is how many unanswered requests a holder remembers. The oldest is
	// forgotten first; its answer then brings nothing.
	MaxAsked = 16

	// MaxQueued is how many members' requests a leader keeps that has not yet
	// applied its epoch, one of each.
	MaxQueued = 4096

	// MaxLease is the longest lease that a holder accepts and a configuration may
	// name.
	MaxLease = time.Minute

	// GateWait is how long an operation waits for a change to be complete before it
	// answers that a change is in progress. Twice the round trip to the slowest
	// holder would be enough; this is the floor of it.
	GateWait = 250 * time.Millisecond

	// StuckAfter is the age of a leader's oldest unfinished step beyond which it
	// gives no grants. A hung disk would otherwise keep a leader that renews
	// everybody's lease while no revocation can commit.
	StuckAfter = 3 * time.Second

	// AuditSpan is the least time over which the difference of two machines'
	// clocks is taken. A round trip that changes by 150 ms is an error of half a
	// percent then.
	AuditSpan = 30 * time.Second
)

// Pace returns the least time between two messages of one kind on one stream, with
// this many holders: a leader sends at most 20,000 of a kind per second to all of
// them together. Only the latest value is sent.
func Pace(holders int) time.Duration {
	return max(time.Millisecond, time.Duration(max(holders, 0))*50*time.Microsecond)
}

// Stuck reports whether a leader must stop giving grants and end: oldest is the
// age of its oldest Apply, Barrier, StoreLogs or FSM.Apply that has not returned,
// zero if there is none (I12).
func Stuck(oldest time.Duration) bool { return oldest > StuckAfter }
