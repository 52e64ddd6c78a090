package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
)

// downlink is the way from the leader to one member. It keeps the newest of each
// part of a message and nothing else, so that a member that reads slowly costs
// the leader no memory, and gets what is true now instead of what was.
type downlink struct {
	end context.CancelFunc // of the stream

	mu     sync.Mutex
	next   *clusterpb.LeaseResponse
	ready  chan struct{} // one slot: there is something to send
	urgent chan struct{} // one slot: something that does not wait for its turn
}

func newDownlink(end context.CancelFunc) *downlink {
	return &downlink{end: end, ready: make(chan struct{}, 1), urgent: make(chan struct{}, 1)}
}

// put adds the parts that are set in m. Grants, refusals and questions go at
// once; the rest waits for the link's turn.
func (d *downlink) put(m *clusterpb.LeaseResponse) {
	d.mu.Lock()
	if d.next == nil {
		d.next = &clusterpb.LeaseResponse{}
	}
	n := d.next
	if m.GetGrant() != nil {
		n.Grant, n.Refused = m.GetGrant(), nil
	}
	if m.GetRefused() != nil {
		n.Refused = m.GetRefused()
	}
	if m.GetConfirm() != nil {
		n.Confirm = m.GetConfirm()
	}
	n.Complete, n.FencePending = max(n.GetComplete(), m.GetComplete()), max(n.GetFencePending(), m.GetFencePending())
	d.mu.Unlock()
	wake(d.ready)
	if m.GetGrant() != nil || m.GetRefused() != nil || m.GetConfirm() != nil {
		wake(d.urgent)
	}
}

// take returns what is to be sent, nil if nothing is.
func (d *downlink) take() *clusterpb.LeaseResponse {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.next
	d.next = nil
	return m
}

// carry sends what is put until ctx ends or a send fails. pace is the least time
// between two messages that are not urgent.
func (d *downlink) carry(ctx context.Context, sleep func(context.Context, time.Duration) error, pace func() time.Duration, send func(*clusterpb.LeaseResponse) error) error {
	for {
		select {
		case <-d.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		m := d.take()
		if m == nil {
			continue
		}
		if err := send(m); err != nil {
			return err
		}
		pause, cancel := context.WithCancel(ctx)
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			_ = sleep(pause, pace())
		}()
		select {
		case <-waited:
		case <-d.urgent:
		}
		cancel()
		<-waited
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
