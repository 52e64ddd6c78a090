package keystoretest

import (
	"fmt"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
)

// revoked is not the owner of the key who withdrew it, but somebody who changed
// the provider's credentials: a tenant must not be purged for that.
func (s *suite) revoked() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	restore := s.Revoke(s.T)
	s.refused("asked for with credentials that are refused", key, blob, keystore.Misconfigured)
	s.fails("health", s.Provider.Health(s.ctx, s.correlation()), keystore.Misconfigured)
	restore()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) expired() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	for range 3 {
		s.ExpireToken(s.T)
		s.opens(s.Provider, key, blob, sec)
		s.wrap(key, sec)
	}
	s.ExpireToken(s.T)
	if err := s.Provider.Health(s.ctx, s.correlation()); err != nil {
		s.Errorf("health with a session that has ended: %v", err)
	}
}

// expiredInUse ends the session under running calls, and again only when every
// call that may have seen the last end is over: one renewal a call has to do.
func (s *suite) expiredInUse() {
	const workers, ends = 6, 3
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	failed := make(chan error, workers)
	stop := make(chan struct{})
	turns := make([]chan struct{}, workers)
	var wg sync.WaitGroup
	for i := range workers {
		turns[i] = make(chan struct{}, 1)
		wg.Go(func() {
			defer close(turns[i])
			for {
				res, err := s.Provider.Unwrap(s.ctx, s.unwrapReq(key, blob))
				res.Secret.Destroy()
				if err != nil {
					failed <- fmt.Errorf("a call beside the end of a session failed: %w", err)
					return
				}
				select {
				case turns[i] <- struct{}{}:
				case <-stop:
					return
				}
			}
		})
	}
	for range ends {
		s.ExpireToken(s.T)
		for _, turn := range turns {
			// One may lie there from before; the second call began after it, and the third after the end.
			for range 3 {
				<-turn
			}
		}
	}
	close(stop)
	wg.Wait()
	close(failed)
	for err := range failed {
		s.Error(err)
	}
}

func (s *suite) refusedRefresh() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	restore := s.RefuseRefresh(s.T)
	s.ExpireToken(s.T)
	s.refused("asked for without a session", key, blob, keystore.Misconfigured)
	restore()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) lostIdentity() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	restore := s.LoseIdentity(s.T)
	s.ExpireToken(s.T)
	s.refused("asked for while nobody gives out sessions", key, blob, keystore.Unavailable)
	restore()
	s.opens(s.Provider, key, blob, sec)
}

// skewed accepts that a provider copes; if it does not, that is nobody's
// withdrawal and no damage to a blob.
func (s *suite) skewed() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	for _, d := range []time.Duration{20 * time.Minute, -20 * time.Minute, 36 * time.Hour} {
		restore := s.Skew(s.T, d)
		for _, c := range keyed(s.calls(key, sec, blob)) {
			if err := c.do(s.ctx, s.correlation()); err != nil {
				s.fails(fmt.Sprintf("%s with a clock that is %s off", c.name, d), err, keystore.Misconfigured, keystore.Unavailable)
			}
		}
		restore()
		s.opens(s.Provider, key, blob, sec)
	}
}
