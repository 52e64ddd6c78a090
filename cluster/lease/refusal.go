package lease

import "fmt"

// Refusal says why a leader gives no grant, or a holder takes none. The numbers
// are those on the wire.
type Refusal uint8

// The refusals.
const (
	RefusalNone           Refusal = 0  // not refused
	RefusedNotLeader      Refusal = 1  // this node leads no epoch and expects none
	RefusedHistory        Refusal = 2  // the message is of another history of the cluster
	RefusedNotMember      Refusal = 3  // the leader's registry does not have the node
	RefusedRemoved        Refusal = 4  // the node is removed
	RefusedOldIncarnation Refusal = 5  // a newer incarnation of the node was seen: a boot counter that went back, or a message that was overtaken
	RefusedRolledBack     Refusal = 6  // the node's log ends before where it ended once: its disk was set back
	RefusedAhead          Refusal = 7  // the node's log ends after the leader's: the leader's disk was set back
	RefusedStateDiffers   Refusal = 8  // the states at one index differ
	RefusedFull           Refusal = 9  // too many requests wait for an epoch
	RefusedLowerTerm      Refusal = 10 // holder: a grant of a higher term was heard
	RefusedUnknown        Refusal = 11 // holder: not asked for, forgotten, or asked by an earlier incarnation
	RefusedLength         Refusal = 12 // holder: no lease has this length
)

// Refusals is how many values of [Refusal] there are, none included.
const Refusals = len(refusalNames)

var refusalNames = [...]string{
	"none", "not the leader", "another history", "not a member", "removed", "an older incarnation",
	"log rolled back", "log ahead of the leader's", "state differs", "too many requests wait",
	"a higher term was heard", "not asked for", "no such length",
}

// String returns the refusal in a few words.
func (r Refusal) String() string {
	if int(r) < len(refusalNames) {
		return refusalNames[r]
	}
	return fmt.Sprintf("refusal %d", uint8(r))
}
