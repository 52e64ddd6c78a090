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

// ActStrays is the act of the record that counts failed authentications.
const ActStrays = "gate.unauthenticated"

type strays struct {
	mu     sync.Mutex
	begun  time.Time // of the current window
	single int       // records written in it

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

// sweep begins a new window when the current one is over and records the count
// of the old one. Every Enter does this if there is a count, so that no
// goroutine is needed.
func (g *Gate) sweep() {
	now := g.cfg.Clock.Now()
	g.strays.mu.Lock()
	var n uint64
	if now.Sub(g.strays.begun) >= StrayWindow {
		n = g.strays.counted.Swap(0)
		g.strays.begun, g.strays.single = now, 0
	}
	g.strays.mu.Unlock()
	g.countStrays(n)
}

// Flush records the count of failed authentications that have no record yet. A
// node calls it before it closes the log.
func (g *Gate) Flush() {
	g.strays.mu.Lock()
	n := g.strays.counted.Swap(0)
	g.strays.mu.Unlock()
	g.countStrays(n)
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
