package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// loadTimeout bounds one unwrapping of a key through the hierarchy, with the
// call to the customer's keystore in it. It is not the deadline of any caller:
// one load serves all callers that wait for the same key.
const loadTimeout = 10 * time.Second

// maxLoaded is how many keys of each layer are kept unwrapped. Beyond, keys of the
// tenant that has most of them go, of these those used longest ago, and are unwrapped
// again when they are needed.
const maxLoaded = 4096

// evictShare is the part of a shelf that goes at once when there is no room:
// one in evictShare. Looking for the oldest costs a pass over all of them.
const evictShare = 16

// errShut is why a shelf has no key any more. It never leaves this package: who
// meets it asks the node again, which says what became of it.
var errShut = errors.New("the keyring was wiped")

// forever is the hold time of keys that stay until they may not be used any more.
const forever = time.Duration(-1)

// destroyer is an unwrapped key. Destroy may be called at any time and more
// than once: whoever is using the key finishes, and wipes it then.
type destroyer interface{ Destroy() }

// shelf keeps the unwrapped keys of one layer by the uid of what they are. It
// loads a key once for all who ask for it at the same time (I5), and remembers
// no failure.
//
// A load runs on a goroutine of the shelf, so that it goes on when the caller
// who began it gives up; shut cancels loads, and wait waits for them.
type shelf[K destroyer] struct {
	// hold is how long a key stays after its last use. 0: not at all, it goes
	// with the last of those who are using it.
	hold time.Duration
	// age is the time since the keyring was made: a monotonic measure.
	age func() time.Duration

	running sync.WaitGroup // loads

	mu       sync.RWMutex
	isShut   bool
	slots    map[hierarchy.UID]*slot[K]
	pendings map[hierarchy.UID]*pending[K]
}

// slot is one unwrapped key.
type slot[K destroyer] struct {
	uid, tenant hierarchy.UID // what it is, and whose; an internal key is nobody's
	key         K
	used        atomic.Int64 // age at the last use
	users       int          // who took it and did not give it back; under the shelf's mu
}

// pending is a load that is running.
type pending[K destroyer] struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed, under mu, when slot or err is set
	waiting int           // callers; under mu
	slot    *slot[K]
	err     error
}

func newShelf[K destroyer](hold time.Duration, age func() time.Duration) *shelf[K] {
	return &shelf[K]{hold: hold, age: age, slots: map[hierarchy.UID]*slot[K]{}, pendings: map[hierarchy.UID]*pending[K]{}}
}

// peek returns a key that is loaded. It may be destroyed at any moment after.
func (s *shelf[K]) peek(uid hierarchy.UID) (k K, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sl, ok := s.slots[uid]
	if !ok {
		return k, false
	}
	sl.used.Store(int64(s.age()))
	return sl.key, true
}

// take returns the slot of a key, loading it if need be. The caller gives it
// back; until then it is not evicted and its hold time does not end.
func (s *shelf[K]) take(ctx context.Context, uid, tenant hierarchy.UID, load func(context.Context) (K, error)) (*slot[K], error) {
	p, sl, err := s.join(ctx, uid, tenant, load)
	if sl != nil || err != nil {
		return sl, err
	}
	select {
	case <-p.done:
		return p.slot, p.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-p.done: // at the same moment: this caller counts as a user already
		return p.slot, p.err
	default:
		p.waiting--
		return nil, ctx.Err()
	}
}

// join returns the slot if the key is loaded, else the load to wait for.
func (s *shelf[K]) join(ctx context.Context, uid, tenant hierarchy.UID, load func(context.Context) (K, error)) (*pending[K], *slot[K], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isShut {
		return nil, nil, errShut
	}
	if sl, ok := s.slots[uid]; ok {
		sl.users++
		sl.used.Store(int64(s.age()))
		return nil, sl, nil
	}
	p, ok := s.pendings[uid]
	if !ok {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		p = &pending[K]{cancel: cancel, done: make(chan struct{})}
		s.pendings[uid] = p
		s.running.Go(func() {
			defer cancel()
			k, err := load(ctx)
			s.finish(p, &slot[K]{uid: uid, tenant: tenant, key: k}, err)
		})
	}
	p.waiting++
	return p, nil, nil
}

// finish hands a load's result to everyone who waits for it.
func (s *shelf[K]) finish(p *pending[K], sl *slot[K], err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(p.done)
	delete(s.pendings, sl.uid)
	switch {
	case s.isShut:
		// I4: what was on its way when the keyring was wiped goes too.
		if err == nil {
			sl.key.Destroy()
		}
		p.err = errShut
	case err != nil:
		p.err = err
	case s.hold == 0 && p.waiting == 0:
		sl.key.Destroy() // nobody waits for it any more
	default:
		if len(s.slots) >= maxLoaded {
			s.evictLocked(maxLoaded / evictShare)
		}
		sl.users = p.waiting
		sl.used.Store(int64(s.age()))
		s.slots[sl.uid] = sl
		p.slot = sl
	}
}

// give returns a slot that take returned.
func (s *shelf[K]) give(sl *slot[K]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl.users--
	sl.used.Store(int64(s.age()))
	if sl.users == 0 && s.hold == 0 {
		s.drop(sl)
	}
}

// drop wipes a key. mu is held.
func (s *shelf[K]) drop(sl *slot[K]) {
	if s.slots[sl.uid] == sl {
		delete(s.slots, sl.uid)
	}
	sl.key.Destroy()
}

// sweep wipes the keys that usable does not confirm (I7), in use or not, and
// those whose hold time is over. usable is asked without a lock: it reads the
// registry, and data operations do not wait for that.
func (s *shelf[K]) sweep(usable func(uid, tenant hierarchy.UID) bool) {
	for _, sl := range s.all() {
		if !usable(sl.uid, sl.tenant) {
			s.mu.Lock()
			s.drop(sl)
			s.mu.Unlock()
			continue
		}
		if s.hold == forever {
			continue
		}
		s.mu.Lock()
		if sl.users == 0 && s.age()-time.Duration(sl.used.Load()) >= s.hold {
			s.drop(sl)
		}
		s.mu.Unlock()
	}
}

// purge wipes the keys of a tenant, in use or not.
func (s *shelf[K]) purge(tenant hierarchy.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sl := range s.slots {
		if sl.tenant == tenant {
			s.drop(sl)
		}
	}
}

// tenants adds those of which keys are here.
func (s *shelf[K]) tenants(to map[hierarchy.UID]bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sl := range s.slots {
		to[sl.tenant] = true
	}
}

// all returns the present slots.
func (s *shelf[K]) all() []*slot[K] {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*slot[K], 0, len(s.slots))
	for _, sl := range s.slots {
		out = append(out, sl)
	}
	return out
}

// evict wipes up to n keys that nobody has taken and returns how many: those of the
// tenant that has most keys here, until another one has as many, and of each tenant
// those used longest ago. By use alone, a tenant that goes through more keys than
// there is room for would push out everybody else's, and every one of their calls would
// wait for their keystores.
func (s *shelf[K]) evict(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evictLocked(n)
}

func (s *shelf[K]) evictLocked(n int) int {
	type idle struct {
		slot *slot[K]
		used int64
		over int // how many keys its tenant has that stay longer
	}
	var all []idle
	kept := map[hierarchy.UID]int{}
	for _, sl := range s.slots {
		if sl.users == 0 {
			all = append(all, idle{slot: sl, used: sl.used.Load()})
		} else {
			kept[sl.tenant]++
		}
	}
	slices.SortFunc(all, func(a, b idle) int { return cmp.Compare(b.used, a.used) })
	for i := range all {
		t := all[i].slot.tenant
		all[i].over = kept[t]
		kept[t]++
	}
	slices.SortFunc(all, func(a, b idle) int { return cmp.Or(cmp.Compare(b.over, a.over), cmp.Compare(a.used, b.used)) })
	all = all[:min(n, len(all))]
	for _, i := range all {
		s.drop(i.slot)
	}
	return len(all)
}

func (s *shelf[K]) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.slots)
}

// shut wipes every key, cancels what is being loaded, and loads nothing more.
func (s *shelf[K]) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isShut = true
	for _, p := range s.pendings {
		p.cancel()
	}
	for _, sl := range s.slots {
		s.drop(sl)
	}
}

// wait waits for the loads that shut cancelled. What they had unwrapped is
// wiped when it returns.
func (s *shelf[K]) wait() { s.running.Wait() }

// with runs fn with a key that is loaded if need be.
func with[K destroyer](ctx context.Context, s *shelf[K], uid, tenant hierarchy.UID, load func(context.Context) (K, error), fn func(K) error) error {
	sl, err := s.take(ctx, uid, tenant, load)
	if err != nil {
		return err
	}
	defer s.give(sl)
	return fn(sl.key)
}
