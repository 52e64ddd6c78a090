package cluster

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// contact knows a time at which this node's view had everything that any leader
// had acknowledged (I11).
//
// Every member asks the leader, again and again. A question carries the asker's
// term and the nonce of the answer before; so the leader knows that the asker
// was in that term at some time after it gave that nonce out. A majority of
// voters in the leader's own term shows that no other leader was elected before
// the earliest of those times. The leader answers how long ago that was, and the
// asker counts from when it asked, which was earlier than when the leader
// answered: time that a question or an answer spent in a buffer, because the
// network or a process stood still, makes contact older and never fresher.
//
// The other way round, a leader that tells its followers, was rejected: what it
// said just before a follower was stopped would count as fresh when the follower
// goes on. Raft's own times do not serve either: they are stamped when an answer
// arrives, and count non-voters.
type contact struct {
	c   *Cluster
	clk clock.Clock
	ask func(ctx context.Context, leader NodeID, req *clusterpb.ContactRequest) (*clusterpb.ContactResponse, error)

	// Of the goroutine that asks: the answer before.
	leader NodeID
	echo   uint64

	mu sync.RWMutex // every data operation reads
	// Not the leader: in contact at heard, once the view has index.
	heard time.Time
	index uint64
	// The leader in term: a majority was in term after at.
	term  uint64
	at    time.Time
	nonce uint64
	asked map[NodeID]question
	// Not the leader: index at which its chain is not this node's; 0: it is.
	differs uint64
}

// question is what the leader knows of a member that asks.
type question struct {
	nonce  uint64    // that it was given last
	issued time.Time // when
	voice  voice
}

// voice is what the last question with the right nonce said.
type voice struct {
	term  uint64
	since time.Time     // the asker was in term at some time after it; zero: it never said
	ahead time.Duration // the leader's wall clock is ahead of the asker's by at least this

	differs bool // the asker's state is another one than this leader's
}

func newContact(c *Cluster) *contact {
	ct := &contact{c: c, clk: c.clk, asked: map[NodeID]question{}}
	ct.ask = c.peers.contact
	return ct
}

// never is the time since something that did not happen.
const never = time.Duration(math.MaxInt64)

// LastContact returns how long ago this node's view is known to have had every
// change that a leader had acknowledged by then: on a leader since a majority of
// voters was in its term, after it has applied what its log held before it led;
// on others since they asked such a leader and had then applied what it had. It
// is the largest duration if there was no such time. A node that is not in
// contact must not serve: its view may be old.
//
// Time is counted by the machine's monotonic clock and by its wall clock, and
// the larger counts. A stopped process is in both; a suspended machine is in the
// wall clock only, once that is set right, since Go reads a monotonic clock that
// stands still meanwhile. A paused virtual machine may be in neither.
func (c *Cluster) LastContact() time.Duration {
	leader, term := c.IsLeader(), c.Term()
	index := c.machine.View().Index()
	ct := c.contact
	ct.mu.RLock()
	defer ct.mu.RUnlock()
	at := ct.heard
	switch {
	case leader && ct.term != term, !leader && index < ct.index: // a snapshot may have set the view back
		return never
	case leader:
		at = ct.at
	}
	if at.IsZero() {
		return never
	}
	return elapsed(ct.clk, at)
}

// elapsed returns the time since at by the clock that says more.
func elapsed(clk clock.Clock, at time.Time) time.Duration {
	now := clk.Now()
	return max(now.Sub(at), now.Round(0).Sub(at.Round(0)), 0)
}

// run asks while another node leads, and counts while this one does.
func (ct *contact) run(ctx context.Context) error {
	changes, stop := ct.c.leaders.subscribe()
	defer stop()
	for ctx.Err() == nil {
		again := false
		if ct.c.IsLeader() {
			if ct.c.catchUp(ctx) == nil {
				ct.count()
			}
		} else {
			again = ct.question(ctx)
		}
		if again {
			continue
		}
		wait, cancel := context.WithTimeout(ctx, ct.c.timers.contact)
		select {
		case <-changes:
		case <-wait.Done():
		}
		cancel()
	}
	return nil
}

// question asks the leader once. It reports whether to ask again at once,
// because the leader heard of this node for the first time and learns its term
// with the next question.
func (ct *contact) question(ctx context.Context) (again bool) {
	c := ct.c
	leader := c.LeaderID()
	if leader != ct.leader {
		ct.leader, ct.echo = leader, 0
		ct.compared(0, nil) // what it said is no word about another one
	}
	if leader == "" || leader == c.id {
		return false
	}
	start := ct.clk.Now()
	bound, cancel := context.WithTimeout(ctx, c.timers.heartbeat)
	resp, err := ct.ask(bound, leader, &clusterpb.ContactRequest{
		Term: c.raft.CurrentTerm(), Echo: ct.echo, WallMs: start.UnixMilli(), Differs: ct.echo != 0 && ct.disagrees(),
	})
	cancel()
	if err != nil {
		ct.echo = 0
		return false
	}
	again = ct.echo == 0 && resp.GetNonce() != 0
	ct.echo = resp.GetNonce()
	age, has := resp.GetQuorumAgeMs(), false
	if resp.GetConfirmed() && age >= 0 {
		bound, cancel := context.WithTimeout(ctx, c.timers.heartbeat)
		has = c.machine.Wait(bound, resp.GetAppliedIndex()) == nil
		cancel()
	}
	if !ct.compared(resp.GetAppliedIndex(), resp.GetChain()) && has { // I15
		ct.told(start.Add(-time.Duration(min(age, time.Hour.Milliseconds()))*time.Millisecond), resp.GetAppliedIndex())
	}
	return again
}

// disagrees reports whether the last answer's chain was not this node's.
func (ct *contact) disagrees() bool {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	return ct.differs != 0
}

// told notes that the view, which has index, had everything at that time.
func (ct *contact) told(at time.Time, index uint64) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if at.After(ct.heard) {
		ct.heard, ct.index = at, index
	}
}

// answer answers the member id, on the leader.
func (ct *contact) answer(id NodeID, req *clusterpb.ContactRequest) (*clusterpb.ContactResponse, error) {
	term := ct.c.established()
	if term == 0 {
		return nil, errNoLeader(nil)
	}
	now := ct.clk.Now()
	ct.mu.Lock()
	if !ct.enter(term) {
		ct.mu.Unlock()
		return nil, errNoLeader(nil)
	}
	q := ct.asked[id]
	if q.nonce != 0 && req.GetEcho() == q.nonce {
		// Travel time makes the asker's clock look older, never newer; so the
		// difference to the time of the nonce is the least it can be.
		q.voice = voice{
			term: req.GetTerm(), since: q.issued,
			ahead: time.Duration(q.issued.UnixMilli()-req.GetWallMs()) * time.Millisecond, differs: req.GetDiffers(),
		}
	}
	ct.nonce++
	q.nonce, q.issued = ct.nonce, now
	ct.asked[id] = q
	nonce := ct.nonce
	ct.mu.Unlock()
	ct.count()
	age := ct.c.LastContact()
	// After the age: what was acknowledged before that time is in this view.
	index, _, chain := ct.c.machine.Applied()
	return &clusterpb.ContactResponse{
		Nonce: nonce, Confirmed: age != never, QuorumAgeMs: age.Milliseconds() + 1, AppliedIndex: index, Chain: chain[:],
	}, nil
}

// enter forgets what belongs to an earlier term; false: a later one has begun.
// The caller holds mu.
func (ct *contact) enter(term uint64) bool {
	if ct.term < term {
		ct.term, ct.at, ct.asked = term, time.Time{}, map[NodeID]question{}
	}
	return ct.term == term
}

// established returns the term in which this node leads and has applied all that
// its log held before, or 0.
func (c *Cluster) established() uint64 {
	if term := c.caught.Load(); c.IsLeader() && c.Term() == term {
		return term
	}
	return 0
}

// count finds the time after which a majority was in this leader's term.
func (ct *contact) count() {
	c := ct.c
	now := ct.clk.Now()
	term := c.established() // after now: this node itself is in term after now
	if term == 0 {
		return
	}
	servers := c.raft.GetConfiguration().Configuration().Servers
	against := false
	defer func() {
		if against {
			c.fail(errs.New(errs.StateCorrupt, "the state of this node differs from that of most voters",
				errs.Hint("find out who can write to its data directory; %s", startAnew)))
		}
	}()
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if !ct.enter(term) {
		return
	}
	if at, ok := quorumTime(c.id, servers, term, now, ct.said); ok {
		ct.at = at
	}
	against = ct.contradicted(servers, term) // I15
}

// said returns what a member said last. The caller holds mu.
func (ct *contact) said(id NodeID) (voice, bool) {
	v := ct.asked[id].voice
	return v, !v.since.IsZero()
}

// quorumTime returns a time after which a majority of the voters was in term;
// self was so after now. Non-voters never count, and neither does a voter that
// named another term.
func quorumTime(self NodeID, servers []raft.Server, term uint64, now time.Time, said func(NodeID) (voice, bool)) (time.Time, bool) {
	var at []time.Time
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if NodeID(s.ID) == self {
			at = append(at, now)
		} else if v, ok := said(NodeID(s.ID)); ok && v.term == term {
			at = append(at, v.since)
		}
	}
	need := voterCount(servers)/2 + 1
	if len(at) < need {
		return time.Time{}, false
	}
	slices.SortFunc(at, func(a, b time.Time) int { return b.Compare(a) })
	return at[need-1], true
}

// maxAhead is how far a leader's wall clock may be ahead of the other voters'.
const maxAhead = time.Minute

// clockAhead returns how far this leader's clock is ahead of the voters' median,
// the larger one of two; false while fewer than a majority, itself included,
// told their time. Time only goes forward in the registry, and destructions
// happen when it is their time; so a leader in doubt waits for its operator.
func clockAhead(self NodeID, servers []raft.Server, said func(NodeID) (voice, bool)) (time.Duration, bool) {
	var ahead []time.Duration
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if NodeID(s.ID) == self {
			ahead = append(ahead, 0)
		} else if v, ok := said(NodeID(s.ID)); ok {
			ahead = append(ahead, v.ahead)
		}
	}
	if len(ahead) < voterCount(servers)/2+1 {
		return 0, false
	}
	slices.Sort(ahead)
	return ahead[len(ahead)/2], true
}

// ahead returns clockAhead of this node, which leads.
func (ct *contact) ahead() (time.Duration, bool) {
	servers := ct.c.raft.GetConfiguration().Configuration().Servers
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.term != ct.c.Term() {
		return 0, voterCount(servers) == 1
	}
	return clockAhead(ct.c.id, servers, ct.said)
}

// soundClock refuses to stamp commands with a time that most voters are not near.
func (c *Cluster) soundClock() error {
	if d, ok := c.contact.ahead(); ok && d > maxAhead {
		return errClockAhead(c.id, d)
	}
	return nil
}

func errClockAhead(leader NodeID, d time.Duration) error {
	return errs.New(errs.Unavailable, "the clock of the leader is "+d.Round(time.Second).String()+" ahead of the other voters' clocks",
		errs.Hint("set the clock of node %s right (compare date -u), or hand leadership over: krypton operator transfer", leader))
}
