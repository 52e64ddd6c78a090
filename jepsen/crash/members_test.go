//go:build linux && (amd64 || arm64)

package crash_test

import (
	"context"
	"fmt"
	"testing"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// invited has n1 as a cluster that serves, and a token for n2, which runs and
// belongs to no cluster. The one of both that will die runs already. Founded anew
// for each world: copies of one cluster would find each other over the network.
func invited(w *world) error {
	n1, n2 := w.node("n1"), w.node("n2")
	for _, n := range []*node{n1, n2} {
		if n.proc == nil {
			n.start(plan{})
		}
		if err := n.answers(); err != nil {
			return err
		}
	}
	w.must(n1.found(w.Context(), w.initRequest(auto)))
	n1.furnish()
	w.must(n1.serves())
	return n1.as(w.Context(), "operator", func(ctx context.Context, c *client.Client) error {
		r, err := c.Cluster().CreateJoinToken(ctx, &kryptonv1.CreateJoinTokenRequest{})
		w.token = r.GetToken()
		return err
	})
}

// join makes n2 a member.
func join(ctx context.Context, w *world) error {
	return w.node("n2").admin(func(a kryptonv1.AdminClient) error {
		_, err := a.Join(ctx, &kryptonv1.JoinRequest{Token: w.token})
		return err
	})
}

// members returns the members as n1 knows them.
func (w *world) members() (all []*kryptonv1.Node) {
	w.Helper()
	n1 := w.node("n1")
	w.must(n1.ready())
	w.must(n1.as(w.Context(), "operator", func(ctx context.Context, c *client.Client) error {
		r, err := c.Cluster().ListNodes(ctx, &kryptonv1.ListNodesRequest{})
		all = r.GetNodes()
		return err
	}))
	return all
}

// joined looks at a join that died: n2 belongs to the cluster or asks again with
// the same token.
func joined(w *world, acked bool) {
	n1, n2 := w.node("n1"), w.node("n2")
	w.must(n1.serves())
	st := n2.state().GetState()
	if st == kryptonv1.SealState_SEAL_STATE_UNINITIALIZED {
		if acked {
			w.Fatal("the join was acknowledged, and the node belongs to no cluster")
		}
		situationtest.Outcome(w, "crash/join-not-done")
		w.must(n2.until("n2 joins with the same token", func(context.Context) error {
			err := join(w.Context(), w)                                                                                  //nolint:contextcheck // Not that of a short try: it may only wait.
			if errs.Is(err, errs.FailedState) && n2.state().GetState() != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED { //nolint:contextcheck // As above.
				return nil
			}
			return err
		}))
	} else {
		situationtest.Error(w, "crash/join-answer-lost", join(w.Context(), w))
	}
	w.must(n2.serves())
	if got := len(w.members()); got != 2 {
		w.Errorf("the cluster has %d members", got)
	}
	if acked {
		n3 := w.node("n3")
		n3.run()
		err := n3.admin(func(a kryptonv1.AdminClient) error {
			_, err := a.Join(w.Context(), &kryptonv1.JoinRequest{Token: w.token})
			return err
		})
		if !errs.Is(err, errs.Denied) {
			w.Errorf("a second node with the same token: %v", err)
		}
	}
}

// The node that joins dies.
func TestJoin(t *testing.T) {
	scenario{name: "join", base: nothing, victim: "n2", ready: invited, do: join, after: joined}.test(t)
}

// The leader that admits it dies.
func TestAdmit(t *testing.T) {
	scenario{name: "admit", base: nothing, plain: true, remote: true, ready: invited, do: join, after: joined}.test(t)
}

// remove ends the membership of n2.
func (w *world) remove(ctx context.Context) error {
	return w.node("n1").as(ctx, "operator", func(ctx context.Context, c *client.Client) error {
		_, err := c.Cluster().RemoveNode(ctx, &kryptonv1.RemoveNodeRequest{Name: "nodes/" + w.removing, RequestId: request})
		return err
	})
}

// The leader dies while it removes a member, which stops by itself then.
func TestRemove(t *testing.T) {
	scenario{
		name: "remove", base: nothing, plain: true,
		ready: func(w *world) error {
			if err := invited(w); err != nil {
				return err
			}
			if err := join(w.Context(), w); err != nil {
				return err
			}
			w.removing = w.node("n2").state().GetNodeId()
			return w.node("n2").serves()
		},
		do: func(ctx context.Context, w *world) error { return w.remove(ctx) },
		after: func(w *world, acked bool) {
			n1, n2 := w.node("n1"), w.node("n2")
			w.must(n1.serves())
			for _, m := range w.members() {
				if acked && m.GetName() == "nodes/"+w.removing && !m.GetRemoved() {
					w.Error("the removal was acknowledged, and the node is a member")
				}
			}
			situationtest.Outcome(w, "crash/remove")
			w.must(n1.until("the same request again", w.remove))
			w.must(n1.until("the removed node stops or serves nothing", func(ctx context.Context) error {
				select {
				case <-n2.proc.Done():
					return nil
				default:
				}
				if err := n2.opens(ctx); !errs.Is(err, errs.NotServing) {
					return fmt.Errorf("n2 still serves: %w", err)
				}
				return nil
			}))
			w.must(n1.serves())
		},
	}.test(t)
}
