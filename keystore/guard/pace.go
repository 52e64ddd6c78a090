package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// Parameters of the budget for retries, in tenths of a retry.
const (
	retryCost   = 10
	budgetLimit = 10 * retryCost // ten at once after a while without failures
	callEarns   = 1              // a tenth of the calls may be tried again
)

// budget bounds retries of one keystore over all calls: when most calls fail,
// trying each three times only makes the load three times as much.
type budget struct {
	mu     sync.Mutex
	tenths int
}

func newBudget() *budget { return &budget{tenths: budgetLimit} }

// call is one call, whatever comes of it.
func (b *budget) call() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tenths = min(b.tenths+callEarns, budgetLimit)
}

// retry takes one retry out, if there is one.
func (b *budget) retry() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tenths < retryCost {
		return false
	}
	b.tenths -= retryCost
	return true
}

// maxWait is how long a call waits for its turn.
const maxWait = time.Second

// errTooMany is why a call was not made.
var errTooMany = errors.New("this node asks the keystore as often as its setting rate allows, and a second of calls waits already")

// pace lets so many attempts a second through. nil lets all through.
type pace struct {
	each  time.Duration // between two
	burst time.Duration // how much may be saved up

	mu   sync.Mutex
	next time.Time // when the next attempt is due; in the past: some are saved up
}

func newPace(rate int, now time.Time) *pace {
	if rate <= 0 {
		return nil
	}
	p := &pace{each: time.Second / time.Duration(rate), burst: time.Second}
	p.next = now.Add(-p.burst)
	return p
}

// wait waits for the turn of an attempt, in order of arrival.
func (p *pace) wait(ctx context.Context, clk clock.Clock) error {
	if p == nil {
		return nil
	}
	now := clk.Now()
	p.mu.Lock()
	if floor := now.Add(-p.burst); p.next.Before(floor) {
		p.next = floor
	}
	// What is saved up begins one attempt after next, so that a burst is as many
	// as a second has.
	due := p.next.Add(p.each)
	d := due.Sub(now)
	end, bounded := ctx.Deadline()
	if d > maxWait || bounded && end.Before(due) {
		p.mu.Unlock()
		return errTooMany
	}
	p.next = due
	p.mu.Unlock()
	if d <= 0 {
		return nil
	}
	if err := clk.Sleep(ctx, d); err != nil {
		return fmt.Errorf("while the call waited for its turn: %w", err)
	}
	return nil
}
