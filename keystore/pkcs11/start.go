//go:build unix

package pkcs11

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// Waits before a helper is started again, doubled with each failure in a row.
const (
	firstWait = 20 * time.Millisecond
	mostWait  = 2 * time.Second
)

// attempt is one start of a helper, for all who wait for it.
type attempt struct {
	done chan struct{}
	proc *process
	err  error
}

// lifecycle is which helper runs now.
type lifecycle struct {
	mu       sync.Mutex
	proc     *process // nil before the first call
	attempt  *attempt // nil unless one is going on
	failures int      // ends and failed starts since the last good answer
	closed   bool
	work     sync.WaitGroup // what Close waits for
}

// helper returns the running helper, or starts one. Whoever waits for a start
// may give up; the start goes on for the others, and for the PIN's sake: a
// log-in without an answer could not be repeated.
func (p *Provider) helper(ctx context.Context) (*process, error) {
	l := &p.life
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, errClosed
	}
	if l.proc != nil && l.proc.ended() == nil {
		proc := l.proc
		l.mu.Unlock()
		return proc, nil
	}
	a := l.attempt
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		l.attempt = a
		old, wait := l.proc, l.wait()
		l.work.Go(func() { p.replace(a, old, wait) }) //nolint:contextcheck // A start belongs to all who wait for it, and not to one call.
	}
	l.mu.Unlock()
	select {
	case <-a.done:
		return a.proc, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// wait returns how long the next start has to wait, with mu held.
func (l *lifecycle) wait() time.Duration {
	if l.failures == 0 {
		return 0
	}
	return min(firstWait<<min(l.failures-1, 10), mostWait)
}

// replace waits for the end of the old helper and starts another one.
func (p *Provider) replace(a *attempt, old *process, wait time.Duration) {
	l := &p.life
	if old != nil {
		<-old.done
		p.env.Logger.LogAttrs(p.ctx, slog.LevelWarn, "the PKCS#11 helper ended and is started again",
			slog.String("keystore", p.name), slog.String("reason", old.ended().Error()), slog.Duration("wait", wait))
	}
	if p.env.Clock.Sleep(p.ctx, wait) != nil {
		a.err = errClosed
	} else {
		a.proc, a.err = p.bringUp()
	}
	l.mu.Lock()
	l.attempt = nil
	if a.err != nil {
		l.failures++
	} else {
		l.proc = a.proc
	}
	l.mu.Unlock()
	close(a.done)
}

// bringUp starts a helper that has the token open and its user logged in.
func (p *Provider) bringUp() (*process, error) {
	proc, err := start(p.settings, p.env.Clock)
	if err != nil {
		return nil, &classified{class: misconfiguredStart(err), text: err.Error()}
	}
	if err = p.greet(proc); err == nil {
		err = p.logIn(proc)
	}
	if err != nil {
		if p.ctx.Err() != nil {
			err = errClosed // and no cancellation of a call
		}
		p.end(proc, err)
		return nil, err
	}
	p.env.Logger.LogAttrs(p.ctx, slog.LevelDebug, "the PKCS#11 helper runs",
		slog.String("keystore", p.name), slog.Int("pid", proc.cmd.Process.Pid), slog.String("token", proc.token.Label), slog.String("serial", proc.token.Serial),
		slog.String("model", proc.token.Model), slog.String("library", proc.token.Library), slog.Any("mechanisms", proc.token.Mechanisms))
	return proc, nil
}

// end kills a helper and waits until it is gone.
func (p *Provider) end(proc *process, why error) {
	proc.kill(why)
	<-proc.done
}

func (p *Provider) greet(proc *process) error {
	hello, err := json.Marshal(p.settings.hello)
	if err != nil {
		return err
	}
	return p.ask(p.ctx, proc, wire.Request{Op: wire.OpHello}, hello, func(a wire.Answer, payload []byte) error {
		if err := judge(a, payload); err != nil {
			return err
		}
		proc.token, err = wire.DecodeToken(payload)
		if err != nil && !errors.Is(err, wire.ErrMalformed) {
			err = &classified{class: misconfigured, text: err.Error()}
		}
		return err
	})
}

// ask is [process.call] with a payload that is no secret, outside of the count of workers.
func (p *Provider) ask(ctx context.Context, proc *process, req wire.Request, payload []byte, use func(wire.Answer, []byte) error) error {
	return proc.call(ctx, req, len(payload), func(room []byte) error { copy(room, payload); return nil }, func() {}, use)
}

// good notes that the helper answered something sensible: the next failure is a first one again.
func (p *Provider) good() {
	p.life.mu.Lock()
	p.life.failures = 0
	p.life.mu.Unlock()
}

// bad notes that a helper ended, or is ended now, because of why.
func (p *Provider) bad(proc *process, why error) {
	p.life.mu.Lock()
	if p.life.proc == proc {
		p.life.failures++
	}
	p.life.mu.Unlock()
	proc.kill(why)
}

// Close implements [keystore.Provider]. It ends the helper, also in the middle
// of a call.
func (p *Provider) Close() error {
	l := &p.life
	l.mu.Lock()
	l.closed = true
	proc := l.proc
	l.mu.Unlock()
	p.stop()
	if proc != nil {
		p.end(proc, errClosed)
	}
	l.work.Wait()
	l.mu.Lock()
	proc = l.proc // of a start that was on its way
	l.mu.Unlock()
	if proc != nil {
		p.end(proc, errClosed)
	}
	return nil
}

var errContradicted = fmt.Errorf("another helper found what it did not")
