package cluster

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxAhead is how far a leader's wall clock may be ahead of the other voters'.
const maxAhead = time.Minute

// clockAhead returns how far this leader's clock is ahead of the voters' median,
// the larger one of two; false while fewer than a majority, itself included,
// told their time. Time only goes forward in the registry, and destructions
// happen when it is their time; so a leader in doubt waits for its operator.
func clockAhead(self NodeID, servers []raft.Server, said func(NodeID) (time.Duration, bool)) (time.Duration, bool) {
	var ahead []time.Duration
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if NodeID(s.ID) == self {
			ahead = append(ahead, 0)
		} else if d, ok := said(NodeID(s.ID)); ok {
			ahead = append(ahead, d)
		}
	}
	if len(ahead) < voterCount(servers)/2+1 {
		return 0, false
	}
	slices.Sort(ahead)
	return ahead[len(ahead)/2], true
}

// ahead returns clockAhead of this node, which leads. Voters tell their time with
// every answer to the leader's question for its term.
func (l *leases) ahead() (time.Duration, bool) {
	servers := l.c.raft.GetConfiguration().Configuration().Servers
	l.mu.Lock()
	defer l.mu.Unlock()
	return clockAhead(l.c.id, servers, func(id NodeID) (time.Duration, bool) {
		d, ok := l.voices[id]
		return d, ok
	})
}

// soundClock refuses to stamp commands with a time that most voters are not near.
func (c *Cluster) soundClock() error {
	if d, ok := c.leases.ahead(); ok && d > maxAhead {
		return errClockAhead(c.id, d)
	}
	return nil
}

func errClockAhead(leader NodeID, d time.Duration) error {
	return errs.New(errs.Unavailable, "the clock of the leader is "+d.Round(time.Second).String()+" ahead of the other voters' clocks",
		errs.Hint("set the clock of node %s right (compare date -u), or hand leadership over: krypton operator transfer", leader))
}
