//go:build unix

package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

// listener is callers of one node that note when they got an answer. They use
// plain gRPC: an SDK would go to another node, and hide what this one does.
type listener struct {
	conns  pool
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	answers []time.Time
	refused int
	first   error // the first refusal
}

func newListener(c *devcluster.Cluster, n *devcluster.Node) (*listener, error) {
	l := &listener{cancel: func() {}}
	for range connections {
		cc, err := dialAs(c, auth.RoleWorkload, n.Addresses().GRPC)
		if err != nil {
			return nil, errors.Join(err, l.conns.close())
		}
		l.conns = append(l.conns, cc)
	}
	return l, nil
}

func (l *listener) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	for i := range electors {
		c := kryptonv1.NewCryptoClient(l.conns[i%connections])
		l.wg.Go(func() {
			plain := make([]byte, 256)
			for ctx.Err() == nil {
				call, cancel := context.WithTimeout(ctx, deadline)
				out, err := c.Encrypt(call, &kryptonv1.EncryptRequest{Service: service, Plaintext: plain})
				cancel()
				l.note(ctx, answered(err, len(out.GetCiphertext()) > len(plain)))
			}
		})
	}
}

func (l *listener) note(ctx context.Context, err error) {
	at := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.answers = append(l.answers, at)
	case ctx.Err() == nil: // else it is the end that broke the call off
		l.refused++
		if l.first == nil {
			l.first = err
		}
	}
}

// stop ends the callers and returns when there was an answer, in order, and how
// many calls were refused, with the first reason.
func (l *listener) stop() (answers []time.Time, refused int, first error) {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(l.answers, time.Time.Compare)
	return l.answers, l.refused, l.first
}

// close is idempotent but for the connections, and may come without start and stop.
func (l *listener) close() error {
	l.cancel()
	l.wg.Wait()
	return l.conns.close()
}
