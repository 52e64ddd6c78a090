//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/client"
)

const (
	workers = 8

	// opDeadline is what the SDK's documentation asks for on a LAN, doubled for a
	// machine that runs the whole cluster.
	opDeadline = 10 * time.Second

	maxKept = 64 // data keys that are kept to be searched for

	// enough failures say what there is to say; each may take its deadline.
	enough = 20
)

// load runs data-key operations over all nodes, each with its result checked.
type load struct {
	cl     *client.Client
	scope  client.Scope
	canary string

	stop chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	grown   *sync.Cond // calls has grown
	calls   int
	failed  int
	first   error // the first failure
	slowest time.Duration
	kept    []client.Secret
}

func startLoad(ctx context.Context, cl *client.Client, scope client.Scope, canary string) *load {
	l := &load{cl: cl, scope: scope, canary: canary, stop: make(chan struct{})}
	l.grown = sync.NewCond(&l.mu)
	for range workers {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				l.keyRound(ctx)
				l.dataRound(ctx)
			}
		})
	}
	return l
}

// keyRound generates a data key and unwraps it again.
func (l *load) keyRound(ctx context.Context) {
	var key client.DataKey
	if !l.call(ctx, func(ctx context.Context) (err error) {
		key, err = l.cl.GenerateDataKey(ctx, l.scope, 0)
		return err
	}) {
		return
	}
	l.call(ctx, func(ctx context.Context) error {
		again, err := l.cl.UnwrapDataKey(ctx, l.scope, key.Wrapped)
		if err == nil && !bytes.Equal(again.Plaintext.Bytes(), key.Plaintext.Bytes()) {
			err = errors.New("another data key came back")
		}
		return err
	})
	l.mu.Lock()
	if len(l.kept) < maxKept {
		l.kept = append(l.kept, key.Plaintext)
	}
	l.mu.Unlock()
}

// dataRound lets a node encrypt the canary and decrypt it again.
func (l *load) dataRound(ctx context.Context) {
	var sealed []byte
	if !l.call(ctx, func(ctx context.Context) (err error) {
		sealed, err = l.cl.Encrypt(ctx, l.scope, []byte(l.canary))
		return err
	}) {
		return
	}
	l.call(ctx, func(ctx context.Context) error {
		plain, err := l.cl.Decrypt(ctx, l.scope, sealed)
		if err == nil && string(plain.Bytes()) != l.canary {
			err = errors.New("other data came back")
		}
		return err
	})
}

// call makes one call of the SDK and counts it.
func (l *load) call(ctx context.Context, fn func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, opDeadline)
	defer cancel()
	began := time.Now()
	err := fn(ctx)
	took := time.Since(began)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	l.slowest = max(l.slowest, took)
	if err != nil {
		l.failed++
		if l.first == nil {
			l.first = fmt.Errorf("after %s: %w", took.Round(time.Millisecond), err)
		}
	}
	l.grown.Broadcast()
	return err == nil
}

// count returns how many calls ended so far.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// waitFor returns when at least n calls have ended, or enough failed. Each ends
// by its deadline, so this does too.
func (l *load) waitFor(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.calls < n && l.failed < enough {
		l.grown.Wait()
	}
}

// end stops the load and waits for the calls in flight.
func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}
