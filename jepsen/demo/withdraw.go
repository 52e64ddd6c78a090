//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	withdrawals = 10 // times that the version is disabled and enabled again
	perNode     = 2  // callers of each node
	perPhase    = 40 // calls of each node that must end between two changes
)

// epoch is what callers know of the version. It is changed by who changes the
// version only: to a new number before each change is asked for, and to another
// after each is acknowledged. A call during which it stayed the same began after
// the acknowledgement and ended before the next change, so that exactly one answer
// is right.
type epoch struct {
	number   int64
	disabled bool
	between  bool // a change is on its way: either answer is right
}

// hammer counts the answers that are wrong in the epoch in which a call began and
// ended.
type hammer struct {
	now   atomic.Pointer[epoch]
	calls atomic.Int64
	stale atomic.Int64

	mu    sync.Mutex
	first error // the first answer that is neither
	done  []int // calls of each node that counted in this epoch
	grown *sync.Cond
}

// judge notes one answer; err is nil if the ciphertext opened.
func (h *hammer) judge(node int, before, after *epoch, err error) {
	h.calls.Add(1)
	refused := errs.Is(err, errs.FailedState)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil && !refused:
		if h.first == nil {
			h.first = fmt.Errorf("a call failed: %w", err)
		}
	case before != after || before.between:
		return
	case refused != before.disabled:
		h.stale.Add(1)
	}
	h.done[node]++
	h.grown.Broadcast()
}

// change tells callers that a change begins, or that one was acknowledged.
func (h *hammer) change(e epoch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.number = h.now.Load().number + 1
	h.now.Store(&e)
	clear(h.done)
}

// settled waits until every node has answered often enough in this epoch.
func (h *hammer) settled() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if h.first != nil {
			return h.first
		}
		least := h.done[0]
		for _, n := range h.done {
			least = min(least, n)
		}
		if least >= perPhase {
			return nil
		}
		h.grown.Wait()
	}
}

// withdraw disables and enables a version, again and again, while every node is
// asked to decrypt under it: once a change is acknowledged, no node answers by the
// state before.
func (d *demo) withdraw(ctx context.Context) (string, error) {
	nodes := d.cluster.Nodes()
	h := &hammer{done: make([]int, len(nodes))}
	h.grown = sync.NewCond(&h.mu)
	h.now.Store(&epoch{})
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	defer wg.Wait()
	defer close(stop)
	for i, n := range nodes {
		cl, err := d.cluster.NodeClient(ctx, auth.RoleWorkload, n)
		if err != nil {
			return "", err
		}
		defer func() { _ = cl.Close() }()
		for range perNode {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					before := h.now.Load()
					_, err := cl.Decrypt(ctx, client.Scope{Service: service, Resource: row}, d.second)
					h.judge(i, before, h.now.Load(), err)
				}
			})
		}
	}
	var slowest time.Duration
	err := d.govern(ctx, func(cl *client.Client) error {
		for range withdrawals {
			for _, disabled := range []bool{true, false} {
				if err := h.settled(); err != nil {
					return err
				}
				h.change(epoch{between: true})
				began := time.Now()
				if err := setEnabled(ctx, cl, !disabled); err != nil {
					return err
				}
				h.change(epoch{disabled: disabled})
				slowest = max(slowest, time.Since(began))
			}
		}
		return h.settled()
	})
	d.found.staleAfterAck = int(h.stale.Load())
	d.found.withdrawn = true
	switch {
	case err != nil:
		return "", err
	case d.found.staleAfterAck > 0:
		return "", fmt.Errorf("%d of %d answers were by the state before an acknowledged change", d.found.staleAfterAck, h.calls.Load())
	case h.calls.Load() < 2*withdrawals*int64(len(nodes))*perPhase:
		return "", errors.New("too few calls ended")
	}
	return fmt.Sprintf("%d times each; %d calls on all nodes, none by an old state; slowest change %.0f ms",
		withdrawals, h.calls.Load(), slowest.Seconds()*1e3), nil
}

func setEnabled(ctx context.Context, cl *client.Client, on bool) error {
	if on {
		_, err := cl.Services().EnableVersion(ctx, &kryptonv1.EnableVersionRequest{Name: versionName(2)})
		return err
	}
	_, err := cl.Services().DisableVersion(ctx, &kryptonv1.DisableVersionRequest{Name: versionName(2)})
	return err
}
