package transit

import (
	"context"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

const (
	// refusalPause is how long a refused login is not tried again with the same
	// credentials. OpenBao and Vault lock an AppRole for a quarter of an hour
	// after five wrong attempts within as long. New credentials count at once.
	refusalPause = 5 * time.Second
	// renewalPause is how long a renewal that failed is not tried again, while
	// the token still holds.
	renewalPause = 2 * time.Second
)

// session keeps the node logged in.
type session struct {
	id    identity
	c     *client
	clock clock.Clock

	mu      sync.Mutex
	current *grant
	due     time.Time         // when current is renewed or replaced; zero: never
	refusal *failure          // of the last login
	until   time.Time         // until then refusal is the answer
	refused [sha256.Size]byte // the identity's digest when it was refused
	busy    *flight           // the login or renewal under way; nil: none is
}

// flight is a login or renewal under way.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// get returns a session that holds, or a *failure. A token is renewed when two
// thirds of its time are over, so that a server which is away for a while
// costs nothing.
func (s *session) get(ctx context.Context, id corr.ID) (*grant, error) {
	for {
		s.mu.Lock()
		now := s.clock.Now()
		g := s.current
		holds := g != nil && (g.ttl == 0 || now.Before(g.begun.Add(g.ttl)))
		switch {
		case holds && (s.due.IsZero() || now.Before(s.due) || s.busy != nil):
			s.mu.Unlock()
			return g, nil
		case s.busy != nil:
			busy := s.busy
			s.mu.Unlock()
			select {
			case <-busy.done:
				if busy.err != nil {
					return nil, busy.err // what the server said to one is for all who waited
				}
				continue
			case <-ctx.Done():
				return nil, fail(keystore.Unavailable, "", ctx.Err())
			}
		}
		var refusal *failure
		if !holds && now.Before(s.until) {
			refusal = s.refusal
		}
		refused := s.refused
		s.busy = &flight{done: make(chan struct{})}
		s.mu.Unlock()
		digest := s.id.digest()
		if refusal != nil && digest == refused {
			s.leave(refusal)
			return nil, refusal
		}
		next, err := s.replace(ctx, g, holds, id)
		s.settle(ctx, next, err, digest)
		if err == nil {
			return next, nil
		}
		if holds {
			return g, nil // for as long as it does; the next call tries again
		}
		return nil, err
	}
}

// replace renews a session that still holds and whose server gives it its full
// time again, and logs in otherwise. A session near the end of what the server
// allows at most is renewed to less each time.
func (s *session) replace(ctx context.Context, g *grant, holds bool, id corr.ID) (*grant, error) {
	if holds && g.renewals {
		next, err := s.c.renew(ctx, g, id, s.clock.Now)
		if err == nil && next.ttl > g.full/2 {
			return next, nil
		}
	}
	return s.id.login(ctx, s.c, id, s.clock.Now)
}

// settle notes how a login or renewal ended and wakes who waits for it.
func (s *session) settle(ctx context.Context, next *grant, err error, digest [sha256.Size]byte) {
	var shared error
	if ctx.Err() == nil { // a caller who gave up gives the turn to another
		shared = err
	}
	defer s.leave(shared)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if err == nil {
		s.current, s.refusal, s.due = next, nil, time.Time{}
		if next.ttl > 0 {
			s.due = next.begun.Add(next.ttl * 2 / 3)
		}
		return
	}
	if s.current != nil {
		s.due = now.Add(renewalPause)
	}
	// A caller that gave up says nothing about the credentials.
	if f, ok := err.(*failure); ok && f.class == keystore.Misconfigured && ctx.Err() == nil { //nolint:errorlint // login returns it unwrapped.
		s.refusal, s.refused, s.until = f, digest, now.Add(refusalPause)
	}
}

// leave ends a login and tells who waits for it how it went.
func (s *session) leave(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy.err = err
	close(s.busy.done)
	s.busy = nil
}

// drop forgets a session that the server does not accept, unless another one
// took its place already.
func (s *session) drop(g *grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == g {
		s.current, s.due = nil, time.Time{}
	}
}

// end tells the server that the session is over, as far as it listens.
func (s *session) end(ctx context.Context) {
	s.mu.Lock()
	g := s.current
	s.current = nil
	s.mu.Unlock()
	if g == nil || !s.id.own() {
		return
	}
	out := newOutgoing([]byte("{}"))
	defer out.finish()
	var rep reply
	// Nothing is lost when it fails: the token ends by itself.
	_, _ = s.c.send(ctx, request{method: http.MethodPost, path: "auth/token/revoke-self", token: g.token, body: out}, &rep)
}
