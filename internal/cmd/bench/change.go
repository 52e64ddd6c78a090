//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/fsm"
)

// changeBytes is what one change writes: two audit records and a log entry come
// to about this much.
const changeBytes = 2 << 10

func changePairs() []pair {
	const (
		baseline = "write and fsync of 2 KiB on the same disk"
		slice    = 200 * time.Millisecond
	)
	return []pair{
		{
			name: "change, 1 caller", baseline: baseline, goal: 0.08, slice: slice, open: changing(1),
			why: "a change is durable four times before its answer, one after the other: intent, two of the Raft log (entry, and the page that points to it), outcome; the rest is for the round trip",
		},
		{
			name: "change, 32 callers", baseline: baseline + ", one after the other", goal: 0.35, slice: slice, open: changing(many),
			why: "changes that arrive together share every fsync",
		},
	}
}

func changing(callers int) func(context.Context, *env) (match, error) {
	return func(ctx context.Context, e *env) (match, error) {
		nd, err := e.node(ctx)
		if err != nil {
			return match{}, err
		}
		governor, err := e.cluster.NodeClient(ctx, auth.RoleGovernor, nd)
		if err != nil {
			return match{}, err
		}
		name := filepath.Join(e.cluster.Dir(), fmt.Sprintf("fsync-%d", callers))
		f, err := os.Create(name)
		if err != nil {
			return match{}, errors.Join(err, governor.Close())
		}
		pins := make([]bool, callers)
		var mu sync.Mutex
		content := make([]byte, changeBytes)
		// The cluster remembers the changes of a caller for a day, and takes no more
		// than it can remember; two pairs, and some for those that run at the end of a turn.
		most := int64(fsm.MaxRequestsPerPrincipal/2/(e.turns+2) - callers)
		return match{
			subject: side{crowdUpTo(callers, max(most, 1), func(ctx context.Context, n int) error {
				pins[n] = !pins[n]
				return repin(ctx, governor, fmt.Sprintf("%s/resources/r%d-%d", service, callers, n), pins[n])
			}), scrape(nd.Addresses().Ops)},
			baseline: side{crowd(callers, func(context.Context, int) error {
				mu.Lock()
				defer mu.Unlock()
				if _, err := f.Write(content); err != nil {
					return err
				}
				return f.Sync()
			}), nil},
			close: func() error { return errors.Join(governor.Close(), f.Close()) },
		}, nil
	}
}

// repin pins a resource to the present version of its key, or ends that.
func repin(ctx context.Context, c *client.Client, name string, pin bool) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if pin {
		_, err := c.Services().PinResource(ctx, &kryptonv1.PinResourceRequest{Name: name})
		return err
	}
	_, err := c.Services().UnpinResource(ctx, &kryptonv1.UnpinResourceRequest{Name: name})
	return err
}
