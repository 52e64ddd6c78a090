package cluster

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// settleTime is how long the leader waits for members that do not apply a
// command, before the caller hears that it is committed.
const settleTime = 100 * time.Millisecond

// commitSettled commits a caller's command and gives the other members a moment
// to apply it, so that what a caller does next finds it on any node.
//
// This is a courtesy and no guarantee: a member that is away, or slower than
// settleTime, is not waited for, and serves its older view as long as it hears
// from the leader. Serving leases turn the wait into a fence.
func (c *Cluster) commitSettled(ctx context.Context, cmd *fsmpb.Command, via NodeID) (*fsmpb.Result, error) {
	res, err := c.commit(ctx, cmd, via)
	if err != nil {
		return nil, err
	}
	c.settle(ctx, res.GetIndex())
	return res, nil
}

func (c *Cluster) settle(ctx context.Context, index uint64) {
	members := c.peers.connected()
	if len(members) == 0 {
		return
	}
	// Raft tells followers what is committed with the entries that follow; a
	// barrier is one.
	c.spawn(func() {
		_ = c.await(c.base, func() error { return c.raft.Barrier(enqueueTime).Error() })
	})
	ctx, cancel := context.WithTimeout(ctx, c.settleTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() { _, _ = m.Settle(ctx, &clusterpb.SettleRequest{Index: index}) })
	}
	wg.Wait()
}

// connected returns a client of every member to whom a connection stands.
func (p *peers) connected() []clusterpb.PeerClient {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []clusterpb.PeerClient
	for _, cc := range p.conns {
		if cc.GetState() == connectivity.Ready {
			out = append(out, clusterpb.NewPeerClient(cc))
		}
	}
	return out
}
