package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// fakeKey counts how often it was wiped.
type fakeKey struct{ wiped int }

func (k *fakeKey) Destroy() { k.wiped++ }

func uidNumber(n int) hierarchy.UID { return hierarchy.UID{byte(n >> 8), byte(n), 1} }

func newTestShelf(hold time.Duration) (*shelf[*fakeKey], *time.Duration) {
	now := new(time.Duration)
	return newShelf[*fakeKey](hold, func() time.Duration { return *now }), now
}

func loadOf(k *fakeKey) func(context.Context) (*fakeKey, error) {
	return func(context.Context) (*fakeKey, error) { return k, nil }
}

// A load that succeeds although the shelf was shut meanwhile leaves nothing.
func TestI4_AKeyThatArrivesAfterTheEndIsWiped(t *testing.T) {
	s, _ := newTestShelf(forever)
	k := &fakeKey{}
	began, release := make(chan struct{}), make(chan struct{})
	got := make(chan error)
	go func() {
		_, err := s.take(t.Context(), uidNumber(1), hierarchy.UID{}, func(ctx context.Context) (*fakeKey, error) {
			close(began)
			<-ctx.Done() // it is told to stop, and has the key all the same
			<-release
			return k, nil
		})
		got <- err
	}()
	<-began
	s.shut()
	close(release)
	s.wait()
	if err := <-got; !errors.Is(err, errShut) {
		t.Errorf("%v", err)
	}
	if k.wiped != 1 || s.len() != 0 {
		t.Errorf("wiped %d times, %d on the shelf", k.wiped, s.len())
	}
	if _, err := s.take(t.Context(), uidNumber(1), hierarchy.UID{}, loadOf(k)); !errors.Is(err, errShut) {
		t.Errorf("a shelf that is shut loads: %v", err)
	}
	s.shut() // idempotent
	s.wait()
}

// Without a hold, a key for which nobody waits any more does not stay.
func TestAKeyThatNobodyWaitsForIsNotKeptWithoutAHold(t *testing.T) {
	for _, hold := range []time.Duration{0, time.Minute} {
		s, _ := newTestShelf(hold)
		k := &fakeKey{}
		began, release := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error)
		go func() {
			_, err := s.take(ctx, uidNumber(1), hierarchy.UID{}, func(context.Context) (*fakeKey, error) {
				close(began)
				<-release
				return k, nil
			})
			got <- err
		}()
		<-began
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		close(release)
		s.wait()
		if want := hold != 0; (k.wiped == 0) != want || (s.len() == 1) != want {
			t.Errorf("hold %v: wiped %d times, %d on the shelf", hold, k.wiped, s.len())
		}
	}
}

func TestOfTwoUsersTheLastOneEndsAKeyWithoutAHold(t *testing.T) {
	s, _ := newTestShelf(0)
	k := &fakeKey{}
	a, err := s.take(t.Context(), uidNumber(1), hierarchy.UID{}, loadOf(k))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.take(t.Context(), uidNumber(1), hierarchy.UID{}, func(context.Context) (*fakeKey, error) {
		return nil, errors.New("loaded twice")
	})
	if err != nil {
		t.Fatal(err)
	}
	s.give(a)
	if k.wiped != 0 || s.evict(10) != 0 {
		t.Error("wiped while it is in use")
	}
	s.sweep(func(_, _ hierarchy.UID) bool { return true })
	if k.wiped != 0 {
		t.Error("swept while it is in use")
	}
	s.give(b)
	if k.wiped == 0 || s.len() != 0 {
		t.Error("kept after the last user")
	}
}

func TestI7_ASweepDoesNotSpareWhoIsUsingTheKey(t *testing.T) {
	s, _ := newTestShelf(time.Hour)
	k := &fakeKey{}
	sl, err := s.take(t.Context(), uidNumber(1), hierarchy.UID{}, loadOf(k))
	if err != nil {
		t.Fatal(err)
	}
	s.sweep(func(_, _ hierarchy.UID) bool { return false })
	if k.wiped == 0 || s.len() != 0 {
		t.Error("a key that may not be used stays because somebody uses it")
	}
	fresh := &fakeKey{}
	again, err := s.take(t.Context(), uidNumber(1), hierarchy.UID{}, loadOf(fresh))
	if err != nil {
		t.Fatal(err)
	}
	s.give(sl) // of the one before
	if fresh.wiped != 0 || s.len() != 1 {
		t.Error("giving back a wiped key touched its successor")
	}
	s.give(again)
}

func TestAFullShelfGivesUpWhatWasUsedLongestAgo(t *testing.T) {
	s, now := newTestShelf(forever)
	keys := make([]*fakeKey, maxLoaded+1)
	put := func(i int) {
		keys[i] = &fakeKey{}
		sl, err := s.take(t.Context(), uidNumber(i), hierarchy.UID{}, loadOf(keys[i]))
		if err != nil {
			t.Fatal(err)
		}
		s.give(sl)
		*now++
	}
	for i := range maxLoaded {
		put(i)
	}
	for i := range 100 { // the first ones are used again
		if _, ok := s.peek(uidNumber(i)); !ok {
			t.Fatal("not kept")
		}
	}
	put(maxLoaded)
	gone := maxLoaded + 1 - s.len()
	if gone != maxLoaded/evictShare {
		t.Errorf("%d went", gone)
	}
	for i, k := range keys {
		if want := i >= 100 && i < 100+gone; (k.wiped > 0) != want {
			t.Fatalf("key %d wiped %d times", i, k.wiped)
		}
	}
}

// TestATenantThatHasMostKeysLosesThem: one that goes through any number of keys pushes
// out its own.
func TestATenantThatHasMostKeysLosesThem(t *testing.T) {
	s, now := newTestShelf(forever)
	load := func(n, tenant int) *fakeKey {
		t.Helper()
		k := &fakeKey{}
		sl, err := s.take(t.Context(), uidNumber(n), uidNumber(tenant), loadOf(k))
		if err != nil {
			t.Fatal(err)
		}
		s.give(sl)
		*now += time.Second
		return k
	}
	const others = 100
	var quiet []*fakeKey
	for i := range others {
		quiet = append(quiet, load(i, 1000+i%10))
	}
	var held *slot[*fakeKey]
	for i := range 3 * maxLoaded {
		load(others+i, 1)
		if i == 5 { // one that is in use stays, whosever it is
			var err error
			if held, err = s.take(t.Context(), uidNumber(others+i), uidNumber(1), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, k := range quiet {
		if k.wiped > 0 {
			t.Errorf("key %d of another tenant was wiped", i)
		}
	}
	if held.key.wiped > 0 {
		t.Error("a key in use was wiped")
	}
	if n := s.len(); n > maxLoaded {
		t.Errorf("%d keys are loaded", n)
	}
	// Of the tenant itself those used longest ago went.
	if _, ok := s.peek(uidNumber(others + 3*maxLoaded - 1)); !ok {
		t.Error("the newest key is gone")
	}
	if _, ok := s.peek(uidNumber(others)); ok {
		t.Error("the oldest key is still there")
	}
	// Beyond what the largest has more than others, all lose alike.
	if n := s.evict(s.len()); n == 0 || s.len() != 1 {
		t.Errorf("%d went, %d stay", n, s.len())
	}
}
