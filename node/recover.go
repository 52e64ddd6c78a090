package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// recoverTime bounds one attempt to recover: longer than any lease that has to end first.
const recoverTime = 2 * time.Minute

// recoverByItself makes a node that was recovered the one member of its cluster, once it
// is unsealed. It ends when that is done; every attempt is in the audit trail.
func (n *Node) recoverByItself(ctx context.Context) error {
	backoff := minBackoff
	for n.cluster.Recovering() {
		err := n.tryRecover(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil, errs.Is(err, errs.Sealed):
			backoff = minBackoff
		default:
			n.log.ErrorContext(ctx, "this node is not recovered yet; it tries again by itself", slog.Any("error", err), slog.Duration("next_try", backoff))
			backoff = min(2*backoff, maxBackoff)
		}
		if err := n.clock.Sleep(ctx, backoff); err != nil {
			return err
		}
	}
	return nil
}

// tryRecover makes one attempt. While the node is sealed there is nothing to attempt.
func (n *Node) tryRecover(ctx context.Context) error {
	if !n.Unsealed() {
		return n.whySealed()
	}
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(corr.With(ctx, id), recoverTime)
	defer cancel()
	return n.gate.DoNode(ctx, gate.NodeRecover, ObjectCluster, func(gate.Token) error { return n.cluster.Recover(ctx) })
}
