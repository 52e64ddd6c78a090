package gate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of records about callers that did not authenticate. They are strangers
// and can come in any number; what they write must not fill the disk, because a
// full log stops the node (I6).
const (
	StrayWindow = 10 * time.Second
	StrayBurst  = 16 // single records per window; the rest become one count
)

// Acts of records that stand for many calls.
const (
	ActStrays  = "gate.unauthenticated" // counts failed authentications
	ActLimited = "gate.limited"         // calls refused for a budget, of one caller or a count of them
)

type strays struct {
	mu     sync.Mutex
	begun  time.Time           // of the current window
	single int                 // records written in it
	named  map[string]struct{} // who has one, where the same caller gets no second

	counted atomic.Uint64 // events without a record of their own; changed with mu only
}

// Unauthenticated records that a caller presented no valid identity, within the
// limits above, and returns the error for them. cause goes to the record and may
// be nil. If it is itself an UNAUTHENTICATED error, it is also what the caller is
// told, without what that hides: it speaks of the certificate or token that the caller
// presented and of nothing else. So is UNAVAILABLE or THROTTLED: whether a token is
// good could not be found out just now. [Gate.Enter] calls it for a request without a principal; the
// server calls it when a handshake or a token fails before there is a request.
func (g *Gate) Unauthenticated(_ context.Context, req Request, cause error) error {
	refusal := errs.New(errs.Unauthenticated, "no valid identity was presented",
		errs.Hint("use a client certificate that this cluster issued and that has not expired"))
	if e := errs.From(cause); cause != nil && (e.Code == errs.Unauthenticated || e.Code == errs.Unavailable || e.Code == errs.Throttled) {
		refusal = errs.New(e.Code, e.Msg, errs.Hint("%s", e.Hint))
	}
	g.sweep()
	if !g.strays.take() {
		return refusal
	}
	r := audit.Record{
		Class: audit.Data, Phase: audit.Whole, Act: req.Act.String(), Outcome: errs.OutcomeDenied,
		Correlation: req.Correlation, Object: req.Object, Principal: req.Principal.String(), Via: req.Via, Code: errs.Unauthenticated,
	}
	if !req.Principal.Valid() {
		r.Principal = "unauthenticated"
	}
	if cause != nil {
		r.Cause = cause.Error()
	}
	if err := g.cfg.Sink.Append(r); err != nil {
		return err
	}
	return refusal
}

// take reports whether the next event may have a record of its own.
func (s *strays) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.single < StrayBurst {
		s.single++
		return true
	}
	s.counted.Add(1)
	return false
}

// takeNamed is take for a caller who has a name: one record in a window is enough to
// say who it is, and leaves room for others.
func (s *strays) takeNamed(who string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, has := s.named[who]; !has && s.single < StrayBurst {
		if s.named == nil {
			s.named = make(map[string]struct{}, StrayBurst)
		}
		s.named[who] = struct{}{}
		s.single++
		return true
	}
	s.counted.Add(1)
	return false
}

// over begins a new window when the current one is over, and returns the count of the
// old one.
func (s *strays) over(now time.Time) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.begun) >= StrayWindow {
		n = s.counted.Swap(0)
		s.begun, s.single = now, 0
		clear(s.named)
	}
	return n
}

// rest returns what was counted and has no record yet.
func (s *strays) rest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counted.Swap(0)
}

// Limited records that a call of a known caller was refused for what it or its tenant
// spent, before anybody looked at what was asked for: for each caller once in a
// window, and as strangers' records are bounded, so that refusals cost no disk. It
// returns the failure of the record, if there is one, which goes out in place of the
// refusal.
func (g *Gate) Limited(req Request, refusal error) error {
	g.sweep()
	who := req.Principal.String()
	if !g.limited.takeNamed(who) {
		return nil
	}
	return g.cfg.Sink.Append(audit.Record{
		Class: audit.Data, Phase: audit.Whole, Act: ActLimited, Outcome: errs.OutcomeOf(refusal), Code: errs.Of(refusal),
		Correlation: req.Correlation, Principal: who, Role: req.Principal.Role.String(), Cause: refusal.Error(),
	})
}

// sweep begins new windows when the current ones are over and records the counts
// of the old ones. Every Enter does this if there is a count, so that no
// goroutine is needed.
func (g *Gate) sweep() {
	now := g.cfg.Clock.Now()
	g.countStrays(g.strays.over(now))
	g.countLimited(g.limited.over(now))
}

// Flush records the counts that have no record yet. A node calls it before it closes
// the log.
func (g *Gate) Flush() {
	g.countStrays(g.strays.rest())
	g.countLimited(g.limited.rest())
}

func (g *Gate) countStrays(n uint64) {
	if n == 0 {
		return
	}
	// A failed sink stops the node at the next Enter; the count adds nothing then.
	_ = g.cfg.Sink.Append(audit.Record{
		Class: audit.Data, Phase: audit.Whole, Act: ActStrays, Outcome: errs.OutcomeDenied,
		Principal: "unauthenticated", Code: errs.Unauthenticated, Count: n,
	})
}

func (g *Gate) countLimited(n uint64) {
	if n == 0 {
		return
	}
	_ = g.cfg.Sink.Append(audit.Record{
		Class: audit.Data, Phase: audit.Whole, Act: ActLimited, Outcome: errs.Throttled.Row().Outcome,
		Principal: "several", Code: errs.Throttled, Count: n,
	})
}
