package client

import (
	"slices"
	"sync"
	"time"
)

const (
	// minAttempt is the shortest time an attempt of a read or data operation gets.
	minAttempt = 250 * time.Millisecond

	// minMutation is the shortest time an attempt of a mutation gets. A mutation is
	// answered only when no node can act on the old state any more, which takes up to a
	// failover and a lease (3 s on a LAN, 8 s across regions) when a node has just died.
	// An attempt need not last so long: a node that is well says NOT_COMPLETE before the
	// attempt ends, and the next attempt, under the same request id, waits for the rest.
	// A node that is not well, such as a stopped process, costs this much.
	minMutation = 2 * time.Second

	// minUnsafe is the shortest time an attempt gets of a call that may not be sent
	// again, or whose second answer is worth less: giving it up early would leave the
	// caller with the question what it did. It is longer than a lease.
	minUnsafe = 12 * time.Second

	// attemptFactor times the recent p99 is what an attempt gets at least.
	attemptFactor = 5

	// maxAttempt bounds an attempt however often its timeout was doubled.
	maxAttempt = 60 * time.Second

	latencyWindow  = 256 // samples that "recent" means
	latencyRefresh = 32  // samples between two computations of the percentile
)

// latency keeps the 99th percentile of the recent successful attempts of one kind.
type latency struct {
	mu   sync.Mutex
	ring [latencyWindow]time.Duration
	n    int // samples ever added
	p99  time.Duration
}

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.n%latencyWindow] = d
	l.n++
	if l.n%latencyRefresh != 0 {
		return
	}
	s := slices.Clone(l.ring[:min(l.n, latencyWindow)])
	slices.Sort(s)
	l.p99 = s[len(s)*99/100]
}

func (l *latency) get() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.p99
}

// attemptTimeout is how long the next attempt of a call of kind k may take when
// timedOut attempts of it have run into their own timeouts. It doubles each
// time: the first use of a tenant may wait for the customer's keystore on every
// node alike, and a fixed timeout would never let it through.
func (c *Client) attemptTimeout(k kind, timedOut int) time.Duration {
	d := c.opts.Timeout
	if d == 0 {
		switch k {
		case kindData, kindRead:
			d = max(minAttempt, attemptFactor*c.lat[k].get())
		case kindWait:
			d = minMutation
		case kindMutation:
			d = max(minMutation, attemptFactor*c.lat[k].get())
		case kindUnsafe, kindOnce:
			d = max(minUnsafe, attemptFactor*c.lat[k].get())
		case kindUnspecified, kindEnd:
			d = maxAttempt
		}
	}
	for range timedOut {
		if d >= maxAttempt {
			break
		}
		d *= 2
	}
	return min(d, maxAttempt)
}
