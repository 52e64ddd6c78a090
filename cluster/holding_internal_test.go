package cluster

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// bubble is the clock of a machine in a bubble of simulated time.
type bubble struct {
	clock.System

	began time.Time
}

func (b bubble) Read() clock.Reading {
	d := time.Since(b.began)
	return clock.Reading{Raw: d, Boot: d, Wall: time.Duration(b.began.UnixNano()) + d}
}

// alone is a node with the machines of leases and without a network.
func alone(t *testing.T) *Cluster {
	t.Helper()
	c := &Cluster{clk: bubble{began: time.Now()}, timers: timers{heartbeat: 500 * time.Millisecond, renew: 250 * time.Millisecond}, machine: fsm.New(fsm.Options{})}
	c.compared = newComparison(c)
	c.leases = newLeases(c)
	c.leases.holder = lease.NewHolder(lease.HolderConfig{Boot: 1, Renew: c.timers.renew})
	return c
}

// TestANodeThatIsAskedToComeAgainStillDiffers: a leader that does not lead yet is
// asked again soon, and what was found about states meanwhile is not forgotten.
func TestANodeThatIsAskedToComeAgainStillDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := alone(t).leases
		read := func() lease.Reading { return lease.Reading(l.clk.Read()) }
		l.holder.Renew(read(), lease.Mark{})
		l.refused(read(), lease.RefusedNotLeader)
		l.refused(read(), lease.RefusedStateDiffers)
		if due := l.holder.Due(read()); due != retryPause {
			t.Errorf("asked again after %s", due)
		}
		time.Sleep(retryPause)
		synctest.Wait()
		if due := l.holder.Due(read()); due != 0 {
			t.Errorf("asked again %s late", due)
		}
		if r := l.holder.Renew(read(), lease.Mark{}); !r.Differs || r.Nonce == 0 {
			t.Errorf("it says %+v", r)
		}
		if due := l.holder.Due(read()); due != l.c.timers.renew {
			t.Errorf("the request after that comes after %s", due)
		}
	})
}

// lastWord is a stream on which a message comes when the stream has ended, as one
// that is on its way does.
type lastWord struct {
	grpc.ServerStream

	ctx   context.Context //nolint:containedctx // It is that of a stream.
	speak chan struct{}
	heard chan struct{}
}

func (s *lastWord) Context() context.Context          { return s.ctx }
func (*lastWord) Send(*clusterpb.LeaseResponse) error { return nil }
func (s *lastWord) Recv() (*clusterpb.LeaseRequest, error) {
	<-s.speak
	close(s.heard)
	return nil, io.EOF
}

// TestANodeHasClosedWhenNobodyListensToAMember: what a stream brings after its end
// must not meet a node that is gone.
func TestANodeHasClosedWhenNobodyListensToAMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := alone(t)
		ctx, end := context.WithCancel(t.Context())
		s := &lastWord{ctx: ctx, speak: make(chan struct{}), heard: make(chan struct{})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = c.leases.serve(s, "n2")
		}()
		synctest.Wait()
		end()
		<-served
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			c.wg.Wait() // as Close does
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("it is closed while somebody still listens")
		default:
		}
		close(s.speak)
		<-s.heard
		<-closed
	})
}
