package cluster

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// beginRemoval refuses to remove a member whose vote the others cannot do without.
// Once the removal is applied nobody listens to that node (I8), so it cannot hand
// over what only it can: the right to change the voters. The one voter of a cluster
// of two members would stop, and the other one never lead.
//
// The Raft configuration does not change until the returned function is called, so
// that the removal is applied while what was counted still holds.
func (c *Cluster) beginRemoval(ctx context.Context, id NodeID) (done func(), err error) {
	release, err := c.holdMembership(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.mayGo(ctx, id); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (c *Cluster) mayGo(ctx context.Context, id NodeID) error {
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	conf := c.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return errNoLeader(err)
	}
	v := c.machine.View()
	if voters, ok := dispensable(id, conf.Configuration().Servers, v); !ok {
		// In the words of the state machine, where it would refuse, too.
		if !slices.ContainsFunc(v.Members(), func(m *fsmpb.Member) bool {
			return m.GetVoter() && !m.GetRemoved() && m.GetId() != string(id)
		}) {
			return fsm.ErrLastVoter()
		}
		return errs.New(errs.FailedState, fmt.Sprintf("of the votes that count, %d, too few are left without that of this node", voters),
			errs.Hint("take its vote first: krypton operator demote NODE; then remove it, when krypton operator members shows that another one votes"))
	}
	return nil
}

// holdMembership keeps everybody else from changing the Raft configuration until the
// returned function is called. It is no mutex, because who waits must end with the node.
func (c *Cluster) holdMembership(ctx context.Context) (done func(), err error) {
	select {
	case c.membership <- struct{}{}:
		return func() { <-c.membership }, nil
	case <-ctx.Done():
		return nil, errs.From(ctx.Err())
	case <-c.base.Done():
		return nil, errNoLeader(errClosing)
	}
}

// dispensable reports whether the voters that are members and not id are a majority
// of all voters, and how many those are. A node that does not vote is dispensable, and
// so is one that is removed already.
func dispensable(id NodeID, servers []raft.Server, v *fsm.View) (voters int, ok bool) {
	votes, others := false, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		m, known := v.Member(string(s.ID))
		switch {
		case known && m.GetRemoved():
		case NodeID(s.ID) == id:
			votes = true
		default:
			others++
		}
	}
	return voters, !votes || others > voters/2
}
