package client

import (
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	minPenalty = 100 * time.Millisecond
	// maxPenalty is the longest time a failing node is avoided before it is
	// tried again.
	maxPenalty = 5 * time.Second

	// anewAfter is how long a node's refusal of a certificate is believed before
	// another connection shows what is in the files now.
	anewAfter = 5 * time.Second
)

// dialer makes a connection. It does not connect yet.
type dialer func(addr string) (Conn, error)

// slot is a connection with the number of calls that use it, guarded by the
// node's mu. A retired slot is closed by its last user, so that replacing a
// connection does not cut the calls that still get answers over it.
type slot struct {
	Conn

	users   int
	retired bool
}

// node is one address with its connection and what is known of its health.
type node struct {
	addr string
	dial dialer

	mu       sync.Mutex
	cur      *slot // nil until first used
	closed   bool
	inflight int
	fails    int       // failures since the last success
	until    time.Time // avoided until then
	lastOK   time.Time // last answer of any kind
	anew     time.Time // when a connection was last given up for its certificate
	ewma     float64   // of the latency of successes, seconds; 0: none yet
}

func newNode(addr string, dial dialer) *node { return &node{addr: addr, dial: dial} }

// acquire returns the present connection; release gives it back.
func (n *node) acquire() (*slot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed()
	}
	if n.cur == nil {
		t, err := n.dial(n.addr)
		if err != nil {
			return nil, err
		}
		n.cur = &slot{Conn: t}
	}
	n.cur.users++
	n.inflight++
	return n.cur, nil
}

func (n *node) release(s *slot) {
	n.mu.Lock()
	n.inflight--
	s.users--
	dead := s.retired && s.users == 0
	n.mu.Unlock()
	if dead {
		_ = s.Close() // nobody waits for it
	}
}

// answered records that the node answered at all, and how quickly if it did
// what it was asked.
func (n *node) answered(now time.Time, ok bool, took time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastOK = now
	if !ok {
		return
	}
	n.fails, n.until = 0, time.Time{}
	if s := took.Seconds(); n.ewma == 0 {
		n.ewma = s
	} else {
		n.ewma += 0.1 * (s - n.ewma)
	}
}

// failed makes calls avoid the node for a while. jitter is in [0,1).
func (n *node) failed(now time.Time, jitter float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := min(minPenalty<<min(n.fails, 6), maxPenalty)
	n.fails++
	d = d/2 + time.Duration(jitter*float64(d/2))
	if t := now.Add(d); t.After(n.until) {
		n.until = t
	}
}

// passing makes calls avoid the node for a moment: it is well, and said that it
// cannot answer now. It says so again for as long as that lasts, so the time does not grow.
func (n *node) passing(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := now.Add(minPenalty); t.After(n.until) {
		n.until = t
	}
}

// refused replaces the connection over which the node refused the certificate: it
// shows the one of its handshake as long as it lives, an hour, while a new one may
// have been written to the file since. Not at each refusal, because a caller that
// is never accepted should not cost a handshake per call.
func (n *node) refused(s *slot, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cur == s && now.Sub(n.anew) >= anewAfter {
		n.anew = now
		n.cur = nil
		s.retired = true // closed by release, which its user calls
	}
}

// suspect replaces the connection after an attempt that began at start timed
// out on it without any answer on the node since: a powered-off node leaves a
// connection that looks alive for as long as the kernel retransmits.
func (n *node) suspect(s *slot, start time.Time) {
	n.mu.Lock()
	if n.cur != s || n.lastOK.After(start) {
		n.mu.Unlock()
		return
	}
	n.cur = nil
	s.retired = true
	dead := s.users == 0
	n.mu.Unlock()
	if dead {
		_ = s.Close() // nobody waits for it
	}
}

// standing is what picking a node looks at.
func (n *node) standing(now time.Time) (until time.Time, load float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.until.After(now) {
		until = time.Time{}
	} else {
		until = n.until
	}
	return until, float64(n.inflight+1) * (n.ewma + 50e-6)
}

func (n *node) close() error {
	n.mu.Lock()
	n.closed = true
	s := n.cur
	n.cur = nil
	n.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Close()
}

func errClosed() error {
	return errs.New(errs.Canceled, "the client is closed")
}

// pick chooses the node of the next attempt: of those with the fewest tries by
// this call, a healthy one, and of those the less loaded of two drawn at random,
// which spreads calls without herding them onto the node that was best a moment
// ago. When no untried node is healthy, a healthy one that was tried is better
// than an untried one that is known to fail, unless avoid excludes it; when none
// is healthy at all, the one whose penalty ends first.
func (c *Client) pick(tries map[*node]int, avoid *node) *node {
	now := c.clk.Now()
	type candidate struct {
		n     *node
		until time.Time
		load  float64
	}
	var healthy []candidate
	var sick *candidate
	fewest := 0
	for _, n := range c.nodes {
		if n == avoid && len(c.nodes) > 1 {
			continue
		}
		cand := candidate{n: n}
		cand.until, cand.load = n.standing(now)
		if !cand.until.IsZero() {
			if sick == nil || tries[n] < tries[sick.n] || tries[n] == tries[sick.n] && cand.until.Before(sick.until) {
				sick = &cand
			}
			continue
		}
		switch {
		case len(healthy) == 0 || tries[n] < fewest:
			healthy, fewest = append(healthy[:0], cand), tries[n]
		case tries[n] == fewest:
			healthy = append(healthy, cand)
		}
	}
	if len(healthy) == 0 {
		return sick.n
	}
	i := c.jitter.intn(len(healthy))
	best := healthy[i]
	if len(healthy) > 1 {
		j := (i + 1 + c.jitter.intn(len(healthy)-1)) % len(healthy)
		if healthy[j].load < best.load {
			best = healthy[j]
		}
	}
	return best.n
}
