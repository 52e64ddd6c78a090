package guard

import (
	"context"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Parameters of the breakers.
const (
	// breakAfter is how many Unavailable in a row open a breaker.
	breakAfter = 5
	// firstOpen and maxOpen bound how long it stays open: long enough that a
	// keystore which is down is not asked by every call, short enough that nobody
	// waits long for one which is back.
	firstOpen = 500 * time.Millisecond
	maxOpen   = 10 * time.Second
	// maxBroken is how many failing keys a keystore can have at a time; further
	// ones have no breaker. Each costs the length of its reference and 100 bytes.
	maxBroken = 4096
)

// verdict is what a call says of the way to a key.
type verdict int

const (
	unsaid   verdict = iota // nothing: the caller gave up, or it was not made
	answered                // the keystore works, whatever it said
	silent                  // Unavailable
)

// judge says what the outcome of an attempt means (I3, I5).
func judge(ctx context.Context, err error) verdict {
	switch {
	case err == nil:
		return answered
	case ctx.Err() != nil:
		return unsaid
	case keystore.ClassOf(err) == keystore.Unavailable:
		return silent
	}
	return answered
}

// breaker is the state of one key that failed. A key that works has none.
type breaker struct {
	failures int           // in a row
	opened   time.Duration // how long it was opened for; 0: closed
	until    time.Time     // when the next call may try
	trying   bool          // half-open: one call is on its way
}

// breakers are those of one keystore, by key (I4).
type breakers struct {
	env keystore.Env

	mu    sync.Mutex
	byKey map[keystore.KeyRef]*breaker
}

func newBreakers(env keystore.Env) *breakers {
	return &breakers{env: env, byKey: map[keystore.KeyRef]*breaker{}}
}

// enter returns what to call with the outcome of an attempt, or nil and how
// long no attempt is made.
func (bs *breakers) enter(key keystore.KeyRef) (wait time.Duration, release func(verdict)) {
	now := bs.env.Clock.Now()
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if b := bs.byKey[key]; b != nil && b.opened > 0 {
		if b.trying || now.Before(b.until) {
			return max(b.until.Sub(now), 0), nil
		}
		b.trying = true
		return 0, func(v verdict) { bs.tried(key, v) }
	}
	return 0, func(v verdict) { bs.ended(key, v) }
}

// ended counts an attempt of a closed breaker.
func (bs *breakers) ended(key keystore.KeyRef, v verdict) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := bs.byKey[key]
	switch v {
	case answered:
		// Also one that others opened meanwhile: this answer is younger news
		// than their failures, or as old, and errs to the side of asking.
		delete(bs.byKey, key)
	case silent:
		if b == nil {
			if len(bs.byKey) >= maxBroken {
				return
			}
			b = &breaker{}
			bs.byKey[key] = b
		}
		b.failures++
		if b.failures >= breakAfter && b.opened == 0 {
			bs.open(b, firstOpen)
		}
	case unsaid:
	}
}

// tried ends the one attempt of a half-open breaker.
func (bs *breakers) tried(key keystore.KeyRef, v verdict) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := bs.byKey[key]
	if b == nil {
		return
	}
	b.trying = false
	switch v {
	case answered:
		delete(bs.byKey, key)
	case silent:
		b.failures++
		bs.open(b, min(2*b.opened, maxOpen))
	case unsaid: // the next call tries
	}
}

// open opens b for d, less a random part. Without randomness it is all of d.
func (bs *breakers) open(b *breaker, d time.Duration) {
	wait, err := jitter(bs.env, d)
	if err != nil {
		wait = d
	}
	b.opened, b.until = d, bs.env.Clock.Now().Add(wait)
}

// count returns how many keys have a breaker in each state but closed.
func (bs *breakers) count() (open, halfOpen int) {
	now := bs.env.Clock.Now()
	bs.mu.Lock()
	defer bs.mu.Unlock()
	for _, b := range bs.byKey {
		switch {
		case b.opened == 0:
		case b.trying || !now.Before(b.until):
			halfOpen++
		default:
			open++
		}
	}
	return open, halfOpen
}
