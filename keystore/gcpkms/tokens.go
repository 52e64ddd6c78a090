package gcpkms

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

const (
	// earlyRefresh is how long before its end a token is replaced, or a quarter
	// of its life if that is shorter: the clocks of both sides differ.
	earlyRefresh = 4 * time.Minute
	// refreshPause is the least time between attempts to replace a token that
	// is still good, so that a token service that is away is not asked with
	// every call.
	refreshPause = 10 * time.Second
	// earlyPatience is the longest that a call waits for a new token while it
	// has a good one, or a quarter of its own time if that is shorter.
	earlyPatience = time.Second
)

// tokens keeps one access token and replaces it in time.
type tokens struct {
	source source
	clock  clock.Clock
	wall   clock.System // by which deadlines of contexts are, whatever clock is
	log    *slog.Logger
	name   string // of the keystore, for the log

	// asking has room for the one call that asks for a token; the others wait
	// for it or for their contexts. A mutex would not obey those.
	asking chan struct{}

	mu      sync.Mutex // never held over I/O
	current token
	renew   time.Time // from when to replace current
}

func newTokens(s source, clk clock.Clock, log *slog.Logger, name string) *tokens {
	return &tokens{source: s, clock: clk, log: log, name: name, asking: make(chan struct{}, 1)}
}

// get returns a token that is valid now.
func (t *tokens) get(ctx context.Context) (string, error) {
	switch v, fresh := t.look(); {
	case fresh:
		return v, nil
	case v != "":
		return t.early(ctx, v), nil
	}
	select {
	case t.asking <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-t.asking }()
	if v, _ := t.look(); v != "" { // somebody else asked meanwhile
		return v, nil
	}
	next, err := t.source.fetch(ctx)
	if err != nil {
		return "", err
	}
	t.keep(next)
	return next.value, nil
}

// early replaces a token that is good for a while, if nobody else is at it. The
// call that does so waits a little at most: it has what it needs.
func (t *tokens) early(ctx context.Context, present string) string {
	select {
	case t.asking <- struct{}{}:
	default:
		return present
	}
	defer func() { <-t.asking }()
	wait := earlyPatience
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, end.Sub(t.wall.Now())/4)
	}
	short, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	next, err := t.source.fetch(short)
	if err == nil {
		t.keep(next)
		return next.value
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renew = t.clock.Now().Add(refreshPause)
	t.log.LogAttrs(ctx, slog.LevelWarn, "access token not renewed yet; the present one is used until it ends",
		slog.String("keystore", t.name), slog.Time("ends", t.current.expires), slog.Any("error", err))
	return present
}

func (t *tokens) keep(next token) {
	left := next.expires.Sub(t.clock.Now())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current, t.renew = next, next.expires.Add(-min(earlyRefresh, left/4))
}

// look returns the present token if it is valid, and whether it needs no
// replacement yet.
func (t *tokens) look() (value string, fresh bool) {
	now := t.clock.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current.value == "" || !now.Before(t.current.expires) {
		return "", false
	}
	return t.current.value, now.Before(t.renew)
}

// drop forgets a token that was refused, unless it was replaced meanwhile.
func (t *tokens) drop(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current.value == value {
		t.current = token{}
	}
}
