package client

import (
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

const (
	budgetPerSuccess = 0.1 // retries that one success gives back
	budgetPerSecond  = 10  // retries that one second gives back
)

// budget bounds the retries of all calls of a client together.
type budget struct {
	clk clock.Clock
	max float64

	mu   sync.Mutex
	left float64
	at   time.Time // when left was true
}

func newBudget(clk clock.Clock, size int) *budget {
	return &budget{clk: clk, max: float64(size), left: float64(size), at: clk.Now()}
}

// take spends one retry, or returns how long to wait before asking again.
func (b *budget) take() (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clk.Now()
	b.left = min(b.max, b.left+budgetPerSecond*now.Sub(b.at).Seconds())
	b.at = now
	if b.left >= 1 {
		b.left--
		return 0, true
	}
	// A millisecond more, so that rounding never makes the caller spin.
	return time.Duration((1-b.left)/budgetPerSecond*float64(time.Second)) + time.Millisecond, false
}

func (b *budget) success() {
	b.mu.Lock()
	b.left = min(b.max, b.left+budgetPerSuccess)
	b.mu.Unlock()
}
