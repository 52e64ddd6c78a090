package validity

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Limits of the terms of a tenant.
const (
	MinCheck = 5 * time.Second
	MaxCheck = time.Hour
	MaxGrace = 24 * time.Hour
	// DefaultCheck and DefaultGrace are what counts if nothing is said.
	DefaultCheck = 30 * time.Second
	DefaultGrace = 15 * time.Minute

	// ProofTime is how long one proof may take before it counts as failed. A grace that
	// is shorter than two checks is that long, so that a proof that is on its way has a
	// chance: a grace of 0 ends at the first proof that fails.
	ProofTime = 10 * time.Second
	// AtOnce bounds the proofs by itself that a node makes at the same time.
	AtOnce = 32

	// Look is how often a node looks what is due. It is part of how late a denial may be
	// noticed.
	Look = 250 * time.Millisecond
	// drift is the part of check by which two proofs may be closer: one in drift.
	drift = 4
)

// Terms say how a tenant's key is watched.
type Terms struct {
	// Check is the longest time between two proofs, [MinCheck] to [MaxCheck].
	Check time.Duration
	// Grace is how long keys may be used after the last successful proof was sent while the
	// keystore does not answer, 0 to [MaxGrace].
	Grace time.Duration
}

// lasts returns how long a successful proof lets the keys be used.
func (t Terms) lasts() time.Duration { return max(t.Grace, t.Check+ProofTime) }

// ErrGone is what Prove returns of a tenant that has no key to prove any more.
var ErrGone = errors.New("the tenant has no key to prove")

// Change is what happened to a tenant.
type Change struct {
	Tenant hierarchy.UID
	// Is is the state from now on, Was the one before.
	Is, Was State
	// Err is why, of Denied, Failing and Unproved.
	Err error
}

// Config is what a Watch is made of. All of it is needed.
type Config struct {
	Clock clock.Clock
	Rand  io.Reader // for drift; safe for concurrent use
	Terms func(tenant hierarchy.UID) Terms
	// Prove unwraps the key of a tenant in its keystore, for real, and wipes it.
	Prove func(ctx context.Context, tenant hierarchy.UID) error
	// Held returns the tenants of which keys are in memory.
	Held func() map[hierarchy.UID]bool
	// Purge wipes all keys of a tenant.
	Purge func(tenant hierarchy.UID)
	// Tell is told of each change, after what it means was done.
	Tell func(context.Context, Change)
}

// Watch keeps the standings of a node, from unseal to seal. Make one with [New].
type Watch struct {
	cfg Config

	counts  [keystore.Corrupt + 1]atomic.Uint64 // proofs by class; ClassUnspecified: they succeeded
	began   time.Duration                       // reading of the clock just before time 1 of all standings
	slots   chan struct{}
	running sync.WaitGroup

	mu   sync.Mutex
	shut bool
	all  map[hierarchy.UID]*Standing
}

// New returns a watch that knows of no tenant.
func New(cfg Config) *Watch {
	return &Watch{cfg: cfg, began: cfg.Clock.Read().Boot - 1, slots: make(chan struct{}, AtOnce), all: map[hierarchy.UID]*Standing{}}
}

// Shut ends the proofs that are on their way; none begins any more. It is called when the
// keys are wiped.
func (w *Watch) Shut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shut = true
	for _, s := range w.all {
		if s.end != nil {
			s.end()
		}
	}
}

// Wait waits for the proofs that Shut ended. What they had unwrapped is wiped when it returns.
func (w *Watch) Wait() { w.running.Wait() }

// now is the clock that counts suspend: what sleeps with the machine must lapse meanwhile.
func (w *Watch) now() time.Duration { return w.cfg.Clock.Read().Boot - w.began }

// Standing returns the standing of a tenant, one that is not usable if there was none.
func (w *Watch) Standing(tenant hierarchy.UID) *Standing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.standing(tenant)
}

func (w *Watch) standing(tenant hierarchy.UID) *Standing {
	s, ok := w.all[tenant]
	if !ok {
		s = &Standing{tenant: tenant, began: w.began}
		w.all[tenant] = s
	}
	return s
}

// Proof is one unwrapping of a tenant key that is about to be made.
type Proof struct {
	w    *Watch
	of   *Standing
	sent time.Duration
}

// Begin is asked before a tenant key is unwrapped for a caller. While the tenant is
// denied it returns the denial, and nobody is to be asked (I5).
func (w *Watch) Begin(tenant hierarchy.UID) (Proof, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.standing(tenant)
	if err := s.Denied(); err != nil {
		return Proof{}, err
	}
	s.begun++
	return Proof{w: w, of: s, sent: w.now()}, nil
}

// Done is told what came of it: nil, or the error of who was asked. It is called once.
func (p Proof) Done(ctx context.Context, err error) {
	p.w.learn(ctx, p.of, p.sent, err, func() { p.of.begun-- })
}

// learn takes the outcome of a proof that was sent at that time. after is called with mu held.
// What is not of the keystore says nothing about the key: time passes.
func (w *Watch) learn(ctx context.Context, s *Standing, sent time.Duration, err error, after func()) {
	terms := w.cfg.Terms(s.tenant)
	if _, of := errors.AsType[*keystore.Error](err); err != nil && !of && !errors.Is(err, context.DeadlineExceeded) {
		w.mu.Lock()
		defer w.mu.Unlock()
		s.due = max(s.due, sent+w.pause(terms.Check)/drift)
		after()
		return
	}
	class := keystore.ClassOf(err)
	w.counts[class].Add(1)
	w.mu.Lock()
	now := w.now()
	was := s.state(now)
	if was == Unproved && s.until.Load() != 0 {
		was = Failing // it lapsed, and nobody was told yet
	}
	newest := sent >= s.asked
	switch {
	case err == nil && (s.why.Load() == nil || sent > s.denied): // I2
		s.proved = max(s.proved, sent)
		s.failing = s.failing && !newest
		s.why.Store(nil)
		s.until.Store(int64(s.proved + terms.lasts())) // I1
	case err == nil:
	case class == keystore.Denied && sent >= s.proved:
		s.denied = max(s.denied, sent)
		s.until.Store(0)
		s.why.Store(&denial{keystore.Visible(err)})
	case class != keystore.Denied && newest: // I3
		s.failing = true
		if sent >= s.proved+terms.Grace {
			s.until.Store(0)
		}
	}
	s.asked = max(s.asked, sent)
	s.due = s.asked + w.pause(terms.Check)
	is := s.state(now)
	after()
	w.mu.Unlock()
	// Of who was not proved before there is nothing to purge, and every failed load of a
	// caller comes here.
	if is == Denied || is == Unproved && was != Unproved {
		w.cfg.Purge(s.tenant) // I4
	}
	if is != was {
		w.cfg.Tell(ctx, Change{Tenant: s.tenant, Is: is, Was: was, Err: err})
	}
}

// state is where a standing is at that time; mu is held.
func (s *Standing) state(now time.Duration) State {
	switch until := s.until.Load(); {
	case s.why.Load() != nil:
		return Denied
	case until == 0 || int64(now) >= until:
		return Unproved
	case s.failing:
		return Failing
	}
	return Proved
}

// pause returns the time to the next proof: check, or up to a quarter less.
func (w *Watch) pause(check time.Duration) time.Duration {
	var b [4]byte
	if _, err := io.ReadFull(w.cfg.Rand, b[:]); err != nil {
		return check // the drift is for the keystores; without it nothing is less safe
	}
	return check - time.Duration(float64(check/drift)*float64(binary.BigEndian.Uint32(b[:]))/(1<<32))
}

// Once begins the proofs that are due and lets go what lapsed. It is called every [Look].
func (w *Watch) Once(ctx context.Context) {
	held := w.cfg.Held()
	var due, lapsed []*Standing
	w.mu.Lock()
	now := w.now()
	for uid, s := range w.all {
		state := s.state(now)
		if state == Unproved && s.until.Swap(0) != 0 {
			lapsed = append(lapsed, s)
		}
		switch {
		case s.due > now:
		case state == Denied || held[uid]:
			due = append(due, s)
		case s.begun == 0 && !s.inFlight:
			delete(w.all, uid) // whoever needs it next proves it
		}
	}
	w.mu.Unlock()
	for _, s := range lapsed {
		w.cfg.Purge(s.tenant)
		w.cfg.Tell(ctx, Change{Tenant: s.tenant, Is: Unproved, Was: Failing, Err: s.Err(w.cfg.Clock.Read())})
	}
	for _, s := range due {
		if !w.begin(ctx, s) {
			return // all slots are taken; the next look goes on
		}
	}
}

// begin starts a proof; false: there are as many as may be.
func (w *Watch) begin(ctx context.Context, s *Standing) bool {
	select {
	case w.slots <- struct{}{}:
	default:
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.inFlight || w.shut {
		<-w.slots
		return true
	}
	bound, end := context.WithTimeout(ctx, ProofTime)
	s.inFlight, s.end = true, end
	w.running.Go(func() {
		defer func() { <-w.slots }()
		defer end()
		w.prove(bound, s)
	})
	return true
}

func (w *Watch) prove(ctx context.Context, s *Standing) {
	sent := w.now()
	err := w.cfg.Prove(ctx, s.tenant)
	switch {
	case errors.Is(err, ErrGone):
		w.mu.Lock()
		s.until.Store(0)
		s.inFlight = false
		delete(w.all, s.tenant)
		w.mu.Unlock()
		w.cfg.Purge(s.tenant)
	case err != nil && errors.Is(ctx.Err(), context.Canceled): // the node stops, or is sealed: it says nothing about the key
		w.mu.Lock()
		s.inFlight = false
		w.mu.Unlock()
	default:
		w.learn(context.WithoutCancel(ctx), s, sent, err, func() { s.inFlight = false })
	}
}

// Usable returns the tenants of which keys may be in memory now.
func (w *Watch) Usable() map[hierarchy.UID]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.cfg.Clock.Read()
	usable := make(map[hierarchy.UID]bool, len(w.all))
	for t, s := range w.all {
		usable[t] = s.Err(now) == nil
	}
	return usable
}

// Counts says how many tenants are in each state, and how many proofs there were by class;
// [keystore.ClassUnspecified] are those that succeeded. For metrics.
func (w *Watch) Counts() (tenants map[State]int, proofs map[keystore.Class]uint64) {
	tenants, proofs = map[State]int{}, map[keystore.Class]uint64{}
	for c := range w.counts {
		proofs[keystore.Class(c)] = w.counts[c].Load()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	for _, s := range w.all {
		tenants[s.state(now)]++
	}
	return tenants, proofs
}
