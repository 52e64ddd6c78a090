package keystoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Times of the cases with a fault on the wire. They are long enough for a
// machine that is busy and short enough that a suite stays pleasant.
const (
	shortDeadline = 150 * time.Millisecond // of a call that will not be answered
	slowness      = 400 * time.Millisecond // of an answer that comes late
	returnTime    = 3 * time.Second        // how long after the end of its context a call has to return
)

// call is one way of asking a provider.
type call struct {
	name string
	do   func(ctx context.Context, id corr.ID) error
}

// calls are all ways of asking for a key that exists.
func (s *suite) calls(key keystore.KeyRef, sec memsec.Secret, blob []byte) []call {
	return []call{
		{"wrap", func(ctx context.Context, id corr.ID) error {
			r := s.wrapReq(key, sec)
			r.Correlation = id
			_, err := s.Provider.Wrap(ctx, r)
			return err
		}},
		{"unwrap", func(ctx context.Context, id corr.ID) error {
			r := s.unwrapReq(key, blob)
			r.Correlation = id
			res, err := s.Provider.Unwrap(ctx, r)
			res.Secret.Destroy()
			return err
		}},
		{"describe", func(ctx context.Context, id corr.ID) error {
			_, err := s.Provider.Describe(ctx, keystore.DescribeRequest{Key: key, Correlation: id})
			return err
		}},
		{"health", func(ctx context.Context, id corr.ID) error { return s.Provider.Health(ctx, id) }},
	}
}

// keyed are those of calls that need the keystore for a key: a description may
// come from what a provider remembers, and health may be asked elsewhere.
func keyed(all []call) []call { return all[:2] }

// later returns a context that is cancelled after d.
func later(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(d, cancel)
	return ctx, func() { timer.Stop(); cancel() }
}

func (s *suite) cut() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Cut(s.T)
	s.refused("cut off", key, blob, keystore.Unavailable)
	s.refused("cut off", key, blob, keystore.Unavailable)
	back()
	s.opens(s.Provider, key, blob, sec)
	s.wrap(key, sec)
}

// ends checks that a call of a context that ends meanwhile returns soon after
// it, as Unavailable with the context's error.
func (s *suite) ends(ctx context.Context, c call, want error) {
	s.Helper()
	clk := clock.System{}
	start := clk.Now()
	err := c.do(ctx, s.correlation())
	took := clk.Since(start)
	s.fails(c.name+" that hangs", err, keystore.Unavailable)
	if !errors.Is(err, want) {
		s.Errorf("%s: error does not wrap %v: %v", c.name, want, err)
	}
	if took > shortDeadline+returnTime {
		s.Errorf("%s returned %s after its context had ended", c.name, took-shortDeadline)
	}
}

func (s *suite) hangs() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Hang(s.T)
	for _, c := range keyed(s.calls(key, sec, blob)) {
		ctx, cancel := context.WithTimeout(s.ctx, shortDeadline)
		s.ends(ctx, c, context.DeadlineExceeded)
		cancel()
	}
	back()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) hangsUntilCancelled() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Hang(s.T)
	for _, c := range keyed(s.calls(key, sec, blob)) {
		ctx, cancel := later(s.ctx, shortDeadline)
		s.ends(ctx, c, context.Canceled)
		cancel()
	}
	back()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) slow() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Slow(s.T, slowness)
	s.opens(s.Provider, key, blob, sec)
	ctx, cancel := context.WithTimeout(s.ctx, slowness/4)
	defer cancel()
	_, err := s.Provider.Unwrap(ctx, s.unwrapReq(key, blob))
	s.fails("unwrap that is too slow", err, keystore.Unavailable)
	if !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("error does not wrap %v: %v", context.DeadlineExceeded, err)
	}
	back()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) failing() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Fail(s.T)
	s.refused("behind a failure", key, blob, keystore.Unavailable)
	back()
	s.opens(s.Provider, key, blob, sec)
}

// oneAttempt counts what reached the keystore: retries belong to the caller,
// who has a budget for them.
func (s *suite) oneAttempt() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Fail(s.T)
	for _, c := range keyed(s.calls(key, sec, blob)) {
		id := s.correlation()
		s.fails(c.name+" behind a failure", c.do(s.ctx, id), keystore.Unavailable)
		n := 0
		for _, seen := range s.Calls(s.T) {
			if seen.Correlation == id {
				n++
			}
		}
		if n > 1 {
			s.Errorf("%s behind a failure reached the keystore %d times", c.name, n)
		}
	}
	back()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) nonsense() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Nonsense(s.T)
	for _, c := range keyed(s.calls(key, sec, blob)) {
		s.fails(c.name+" that is answered with nonsense", c.do(s.ctx, s.correlation()), keystore.Unavailable, keystore.Misconfigured, keystore.Corrupt)
	}
	back()
	s.opens(s.Provider, key, blob, sec)
}

// requestsStay holds that a request belongs to its caller: its buffers come
// back as they were, and what happens to them later changes nothing.
func (s *suite) requestsStay() {
	key, sec := s.NewKey(s.T), s.secret(32)
	aad := bytes.Clone(theAAD)
	w := s.wrapReq(key, sec)
	w.AAD = aad
	res, err := s.Provider.Wrap(s.ctx, w)
	if err != nil {
		s.Fatalf("wrap: %v", err)
	}
	if !bytes.Equal(aad, theAAD) {
		s.Error("wrap changed the AAD of its request")
	}
	clear(aad)
	kept := bytes.Clone(res.Blob)
	blob := bytes.Clone(res.Blob)
	clear(res.Blob) // the caller's, to do with as it likes
	u := s.unwrapReq(key, blob)
	out, err := s.Provider.Unwrap(s.ctx, u)
	if err != nil {
		s.Fatalf("unwrap: %v", err)
	}
	if !bytes.Equal(blob, kept) || !bytes.Equal(u.AAD, theAAD) {
		s.Error("unwrap changed its request")
	}
	// Two results are two secrets: destroying one leaves the other.
	again, err := s.Provider.Unwrap(s.ctx, u)
	if err != nil {
		s.Fatalf("unwrap again: %v", err)
	}
	out.Secret.Destroy()
	if same, err := memsec.Equal(again.Secret, sec); err != nil || !same {
		s.Errorf("a secret died with another one (%v)", err)
	}
	again.Secret.Destroy()
	s.opens(s.Provider, key, kept, sec)
}

// cancelledNeighbours shakes calls that end early beside calls that must not.
func (s *suite) cancelledNeighbours() {
	const workers, rounds = 4, 8
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	failed := make(chan error, 2*workers)
	var early, others sync.WaitGroup
	over := make(chan struct{})
	for i := range workers {
		early.Go(func() {
			for round := range rounds {
				// From ended before it began to ended when it is long over.
				ctx, cancel := later(s.ctx, time.Duration(i*round)*200*time.Microsecond)
				if i*round == 0 || round == rounds-1 {
					cancel()
				}
				res, err := s.Provider.Unwrap(ctx, s.unwrapReq(key, blob))
				res.Secret.Destroy()
				cancel()
				if c := keystore.ClassOf(err); err != nil && c != keystore.Unavailable {
					failed <- fmt.Errorf("a cancelled call is %s: %w", c, err)
					return
				}
			}
		})
		others.Go(func() {
			for last := false; !last; {
				select {
				case <-over:
					last = true // once more, when all is over
				default:
				}
				res, err := s.Provider.Unwrap(s.ctx, s.unwrapReq(key, blob))
				if err != nil {
					failed <- fmt.Errorf("a call beside cancelled ones failed: %w", err)
					return
				}
				same, err := memsec.Equal(res.Secret, sec)
				res.Secret.Destroy()
				if err != nil || !same {
					failed <- fmt.Errorf("a call beside cancelled ones got another secret (%w)", err)
					return
				}
			}
		})
	}
	early.Wait()
	close(over)
	others.Wait()
	close(failed)
	for err := range failed {
		s.Error(err)
	}
}

func (s *suite) closedInUse() {
	const workers = 6
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	failed := make(chan error, workers)
	running := make(chan struct{}, workers)
	var done atomic.Bool
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for first := true; ; first = false {
				stop := done.Load() // before the call: one call at least comes after Close
				res, err := s.Provider.Unwrap(s.ctx, s.unwrapReq(key, blob))
				if err == nil {
					same, err := memsec.Equal(res.Secret, sec)
					if err != nil || !same {
						failed <- fmt.Errorf("another secret (%w)", err)
					}
				}
				res.Secret.Destroy()
				if first {
					running <- struct{}{}
				}
				switch c := keystore.ClassOf(err); {
				case err == nil && stop:
					failed <- errors.New("a call that began after Close succeeded")
					return
				case err != nil && c != keystore.Unavailable:
					failed <- fmt.Errorf("a call beside Close is %s: %w", c, err)
					return
				case err != nil || stop:
					return
				}
			}
		})
	}
	for range workers {
		<-running
	}
	if err := s.Provider.Close(); err != nil {
		s.Errorf("close: %v", err)
	}
	done.Store(true)
	wg.Wait()
	close(failed)
	for err := range failed {
		s.Error(err)
	}
}

func (s *suite) idOfRefusal() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	s.Disable(s.T, key)
	u := s.unwrapReq(key, blob)
	_, err := s.Provider.Unwrap(s.ctx, u)
	e := s.fails("unwrap under a disabled key", err, keystore.Denied)
	for _, c := range s.Calls(s.T) {
		if c.Correlation == u.Correlation && c.RequestID == e.RequestID && e.RequestID != "" {
			return
		}
	}
	s.Errorf("the keystore's log has no call with correlation id %s and request id %q", u.Correlation, e.RequestID)
}
