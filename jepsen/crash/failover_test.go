//go:build linux && (amd64 || arm64)

package crash_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// three has three voters that serve; n1 leads.
func three(w *world) error {
	n1 := w.node("n1")
	if err := n1.answers(); err != nil {
		return err
	}
	r := w.initRequest(auto)
	r.Voters = 3
	w.must(n1.found(w.Context(), r))
	n1.furnish()
	for _, name := range []string{"n2", "n3"} {
		n := w.node(name)
		n.run()
		// People sign the hash of a voter's secret, so no node makes it.
		var secret [32]byte
		_, err := rand.Read(secret[:])
		w.must(err)
		hash := cluster.JoinKeyHash(secret)
		var token string
		w.must(n1.as(w.Context(), "operator", func(ctx context.Context, c *client.Client) error {
			r, err := c.Cluster().CreateJoinToken(ctx, &kryptonv1.CreateJoinTokenRequest{
				Voter: true, KeyHash: hash[:], ExpireTime: timestamppb.New(time.Now().Add(time.Hour).Truncate(time.Millisecond)),
			})
			if err != nil {
				return err
			}
			t, err := cluster.FillJoinToken(r.GetToken(), secret)
			token = t.Text()
			return err
		}))
		w.must(n.admin(func(a kryptonv1.AdminClient) error {
			_, err := a.Join(w.Context(), &kryptonv1.JoinRequest{Token: token})
			return err
		}))
	}
	w.must(n1.until("all vote", func(ctx context.Context) error {
		return n1.as(ctx, "operator", func(ctx context.Context, c *client.Client) error {
			r, err := c.Cluster().ListNodes(ctx, &kryptonv1.ListNodesRequest{})
			voters := 0
			for _, m := range r.GetNodes() {
				if m.GetRole() == kryptonv1.NodeRole_NODE_ROLE_VOTER {
					voters++
				}
			}
			if err == nil && voters != 3 {
				err = fmt.Errorf("%d vote", voters)
			}
			return err
		})
	}))
	for _, name := range []string{"n2", "n3"} {
		w.must(w.node(name).serves())
	}
	return nil
}

// The leader of three dies while a caller of another node rotates: the others
// elect, serve, and bring the rotation to its end before the leader is back.
func TestFailover(t *testing.T) {
	rotate := func(ctx context.Context, w *world) (s *kryptonv1.Service, err error) {
		err = w.node("n2").as(ctx, "governor", func(ctx context.Context, c *client.Client) error {
			s, err = c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: service, RequestId: request})
			return err
		})
		return s, err
	}
	scenario{
		name: "failover", base: nothing, plain: true, remote: true, ready: three,
		do: func(ctx context.Context, w *world) error {
			_, err := rotate(ctx, w)
			return err
		},
		meanwhile: func(w *world) {
			for _, name := range []string{"n2", "n3"} {
				w.must(w.node(name).serves())
			}
		},
		after: func(w *world, acked bool) {
			s, err := rotate(w.Context(), w)
			if !acked && err != nil { // the first one ran into its deadline
				w.must(w.node("n2").until("the same request again", func(ctx context.Context) error {
					s, err = rotate(ctx, w)
					return err
				}))
			} else {
				w.must(err)
			}
			if s.GetPrimaryVersion() != 2 || len(s.GetVersions()) != 2 {
				w.Errorf("primary %d of %d", s.GetPrimaryVersion(), len(s.GetVersions()))
			}
			situationtest.Outcome(w, "crash/failover")
			for _, name := range []string{"n1", "n2", "n3"} {
				w.must(w.node(name).serves())
			}
		},
	}.test(t)
}
