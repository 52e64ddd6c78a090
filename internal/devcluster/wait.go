//go:build unix

package devcluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// pollEvery is how often a node is asked again. What is waited for takes some
// 100 ms, and the API has nothing to subscribe to.
const pollEvery = 25 * time.Millisecond

// final marks an error that waiting does not mend.
type final struct{ err error }

func (f final) Error() string { return f.err.Error() }
func (f final) Unwrap() error { return f.err }

// until calls try until it returns nil, an error marked [final], or patience
// or ctx ended. what says what is waited for.
func until(ctx context.Context, clk clock.Clock, patience time.Duration, what string, try func(context.Context) error) error {
	start := clk.Now()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if f, ok := errors.AsType[final](err); ok {
			return fmt.Errorf("wait until %s: %w", what, f.err)
		}
		if cerr := ctx.Err(); cerr != nil {
			return fmt.Errorf("wait until %s: %w", what, cerr)
		}
		if waited := clk.Since(start); waited >= patience {
			return errs.New(errs.Unavailable, fmt.Sprintf("waited %s until %s, in vain: %v", patience, what, err), errs.Cause(err))
		}
		if cerr := clk.Sleep(ctx, pollEvery); cerr != nil {
			return fmt.Errorf("wait until %s: %w", what, cerr)
		}
	}
}
