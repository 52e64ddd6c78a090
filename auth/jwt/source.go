package jwt

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// source has the keys of one issuer and, unless they are static, fetches them. One
// goroutine fetches, in run; whoever needs new keys asks it and waits (I4).
type source struct {
	clk    clock.Clock
	client *http.Client // nil: static
	url    string
	spread float64            // 0 to 1, of the issuer: so that many do not fetch at the same times
	stop   context.CancelFunc // ends run; nil: static
	over   <-chan struct{}    // closed when run may not fetch any more

	set atomic.Pointer[keySet] // nil: none fetched yet

	mu      sync.Mutex
	asked   bool               // somebody waits for a fetch that has not begun
	wake    context.CancelFunc // ends the present pause of run
	fetches bool               // a fetch is under way
	done    chan struct{}      // closed, and replaced, when a fetch ends
	begun   time.Time          // of the last fetch
	count   uint64             // of fetches
	row     int                // of failures without a success
	failure error              // of the last fetch
	waiting int                // callers in ask
}

// start returns the source of the keys of i, which Check has accepted, and begins
// to fetch them. ctx ends that.
func start(ctx context.Context, running *sync.WaitGroup, clk clock.Clock, i Issuer) (*source, error) {
	s := &source{clk: clk, url: i.URL, done: make(chan struct{})}
	if len(i.StaticJWKS) > 0 {
		keys, err := parseKeys(i.StaticJWKS, refuseUnusable)
		if err != nil {
			return nil, err
		}
		s.set.Store(&keySet{keys: keys, static: true})
		return s, nil
	}
	cas, err := roots(i.CAs)
	if err != nil {
		return nil, err
	}
	s.client = newClient(cas)
	// The uid is random, and that is all the randomness that this needs.
	s.spread = float64(binary.BigEndian.Uint16(i.UID[len(i.UID)-2:])) / (1 << 16)
	ctx, s.stop = context.WithCancel(ctx)
	s.over = ctx.Done()
	running.Go(func() { s.run(ctx) })
	return s, nil
}

// close ends the fetches of s. Static keys have none.
func (s *source) close() {
	if s.stop != nil {
		s.stop()
	}
}

// run fetches until ctx ends.
func (s *source) run(ctx context.Context) {
	defer s.stop()
	for pause := time.Duration(s.spread * float64(startSpread)); s.wait(ctx, pause); {
		s.begin()
		fetching, end := context.WithCancel(ctx)
		var timer sync.WaitGroup
		timer.Go(func() {
			if s.clk.Sleep(fetching, FetchTimeout) == nil {
				end()
			}
		})
		keys, err := fetchKeys(fetching, s.client, s.url)
		end()
		timer.Wait()
		pause = s.end(keys, err)
	}
}

// wait returns after d, or sooner if somebody asks for a fetch. It reports whether
// to fetch; false is the end.
func (s *source) wait(ctx context.Context, d time.Duration) bool {
	pause, end := context.WithCancel(ctx)
	defer end()
	s.mu.Lock()
	if s.asked {
		end()
	}
	s.wake = end
	s.mu.Unlock()
	_ = s.clk.Sleep(pause, d) // an error is somebody who asks, or the end
	return ctx.Err() == nil
}

func (s *source) begin() {
	now := s.clk.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.fetches, s.begun = false, true, now
	s.count++
}

// end keeps what a fetch brought, tells those who wait, and returns the pause
// until the next one.
func (s *source) end(keys []*key, err error) time.Duration {
	if err == nil {
		fresh := &keySet{keys: keys, fetched: s.clk.Now()}
		s.set.Store(fresh.succeed(s.set.Load()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetches, s.failure = false, err
	close(s.done)
	s.done = make(chan struct{})
	if err == nil {
		s.row = 0
		return RefreshEvery - time.Duration(s.spread*float64(RefreshEvery)/10)
	}
	s.row++
	return min(FetchEvery<<min(s.row-1, 10), maxRetry)
}

// keys returns the keys that count now, or nil.
func (s *source) keys(now time.Time) *keySet {
	if set := s.set.Load(); set.usable(now) {
		return set
	}
	return nil
}

// lastFailure returns why the last fetch failed, or nil.
func (s *source) lastFailure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// status writes how things stand into st.
func (s *source) status(now time.Time, st *Status) {
	if set := s.set.Load(); set != nil {
		st.Fetched = set.fetched
		if set.usable(now) {
			st.Keys = len(set.keys)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Fetches = s.count
	if s.failure != nil {
		st.Problem = s.failure.Error()
	}
}

var errTooMany = errors.New("too many wait for keys")

// ask has the keys fetched, unless that was done less than FetchEvery ago, and
// returns when the fetch has ended, however it ended.
func (s *source) ask(ctx context.Context) error {
	if s.client == nil {
		return nil
	}
	now := s.clk.Now()
	s.mu.Lock()
	if !s.fetches && s.count > 0 && now.Sub(s.begun) < FetchEvery {
		s.mu.Unlock()
		return nil
	}
	if s.waiting >= maxWaiting {
		s.mu.Unlock()
		return errTooMany
	}
	s.waiting++
	if !s.fetches {
		s.asked = true
		if s.wake != nil {
			s.wake()
		}
	}
	done := s.done
	s.mu.Unlock()

	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	select {
	case <-done:
	case <-s.over:
	case <-ctx.Done():
		return errs.From(ctx.Err())
	}
	return nil
}
