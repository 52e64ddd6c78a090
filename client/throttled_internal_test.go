package client

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// saidWait is an error as a node sends it that knows how long to wait.
func saidWait(ctx context.Context, code errs.Code, after time.Duration) error {
	MarkSent(ctx)
	return wire.ToStatus(errs.New(code, "said "+code.String(), errs.RetryAfter(after))).Err()
}

// TestI10_TheTimeThatANodeSaysIsWaited and not much more: of a read, of a change and
// of a call that is sent once, because a node that refuses so did nothing.
func TestI10_TheTimeThatANodeSaysIsWaited(t *testing.T) {
	for name, do := range map[string]func(context.Context, *Client) error{
		"read":   get,
		"change": func(ctx context.Context, c *Client) error { return rotate(ctx, c) },
		"once":   contribute,
	} {
		for _, after := range []time.Duration{time.Millisecond, 700 * time.Millisecond, 3 * time.Second} {
			t.Run(name+" "+after.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &script{answer: func(ctx context.Context, at attempt) error {
						if at.n <= 2 {
							return saidWait(ctx, errs.Throttled, after)
						}
						return nil
					}}
					if err := do(within(t, time.Minute), s.client(t, 3)); err != nil || len(s.log) != 3 {
						t.Fatalf("%v after %d attempts", err, len(s.log))
					}
					for i, at := range s.log[1:] {
						if waited := at.after - s.log[i].after; waited < after || waited > after+maxDelay {
							t.Errorf("attempt %d came after %v, told to wait %v", i+2, waited, after)
						}
					}
				})
			})
		}
	}
}

// TestI10_ATimeBeyondTheDeadlineEndsTheCall at once, with what the node said.
func TestI10_ATimeBeyondTheDeadlineEndsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: func(ctx context.Context, _ attempt) error { return saidWait(ctx, errs.Throttled, time.Hour) }}
		begin := time.Now()
		err := get(within(t, 5*time.Second), s.client(t, 3))
		if e := errs.From(err); e.Code != errs.Throttled || e.After != time.Hour || len(s.log) != 1 || time.Since(begin) > 0 {
			t.Errorf("%v after %d attempts and %v", err, len(s.log), time.Since(begin))
		}
	})
}
