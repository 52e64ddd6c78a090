package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// states is a seal of a node in a given state.
type states struct {
	kryptonv1.UnimplementedSealServer

	st *kryptonv1.SealStatus
}

func (s states) GetSeal(context.Context, *kryptonv1.GetSealRequest) (*kryptonv1.SealStatus, error) {
	return s.st, nil
}

func TestHealthAsksEveryNodeOnce(t *testing.T) {
	cluster := clienttest.Start(t, clienttest.Options{Nodes: 5, Seal: func(i int, id clienttest.Identity) kryptonv1.SealServer {
		st := &kryptonv1.SealStatus{NodeId: id.ID, NodeName: "name-" + id.ID, State: kryptonv1.SealState_SEAL_STATE_UNSEALED}
		switch i {
		case 1:
			st.State, st.Held = kryptonv1.SealState_SEAL_STATE_SEALED, true
		case 2:
			st.State = kryptonv1.SealState_SEAL_STATE_UNINITIALIZED
		}
		return states{st: st}
	}})
	var asked [5]map[string]int
	for i := range asked {
		asked[i] = map[string]int{}
	}
	calls := make(chan func(), 100)
	cluster.Before(func(_ context.Context, node int, method string, _ proto.Message) error {
		calls <- func() { asked[node][method]++ }
		if node == 1 && strings.HasSuffix(method, "/GetNode") {
			return errs.New(errs.Sealed, "the node is sealed")
		}
		if node == 3 && strings.HasSuffix(method, "/GetSeal") {
			return status.Error(codes.Unavailable, "connection reset by peer")
		}
		return nil
	})
	cluster.Kill(4)
	c := cluster.Client(t, "")
	got := c.Health(within(t, time.Minute))
	close(calls)
	for f := range calls {
		f()
	}
	if len(got) != 5 {
		t.Fatalf("%d answers of 5 nodes", len(got))
	}
	for i, want := range []struct {
		name                 string
		sealed, held, leader bool
		serving              client.Serving
		answered             bool
		getSeal, getNode     int
	}{
		{"name-n1", false, false, true, client.ServingYes, true, 1, 1},
		{"name-n2", true, true, false, client.ServingNo, true, 1, 1},
		{"name-n3", true, false, false, client.ServingNo, true, 1, 0},
		{"", true, false, false, client.ServingUnknown, false, 1, 0},
		{"", true, false, false, client.ServingUnknown, false, 0, 0},
	} {
		h := got[i]
		if h.Addr != cluster.Addrs()[i] || h.Name != want.name || h.Sealed() != want.sealed || h.Held() != want.held || h.Leader != want.leader || h.Serving != want.serving {
			t.Errorf("node %d: %+v", i, h)
		}
		if (h.Err == nil) != want.answered || want.answered != (h.Latency > 0 && h.Index > 0 && h.ID != "") {
			t.Errorf("node %d: %v, latency %v, index %d", i, h.Err, h.Latency, h.Index)
		}
		if s, n := asked[i]["/krypton.v1.Seal/GetSeal"], asked[i]["/krypton.v1.Cluster/GetNode"]; s != want.getSeal || n != want.getNode {
			t.Errorf("node %d was asked %d times for its seal, %d times for itself", i, s, n)
		}
	}
	if !errs.Is(got[4].Err, errs.Unavailable) || !strings.Contains(got[4].Err.Error(), cluster.Addrs()[4]) {
		t.Errorf("the dead node: %v", got[4].Err)
	}
}

// TestHealthOfAWorkload: a workload is not told who serves, and that is no error.
func TestHealthOfAWorkload(t *testing.T) {
	cluster := start(t)
	cluster.Before(func(_ context.Context, _ int, method string, _ proto.Message) error {
		if strings.HasSuffix(method, "/GetNode") {
			return errs.New(errs.Denied, "a workload may not do this")
		}
		return nil
	})
	for _, h := range cluster.Client(t, "demo").Health(within(t, time.Minute)) {
		if h.Err != nil || h.Sealed() || h.Serving != client.ServingUnknown || h.Reason != "it is not told to this caller" {
			t.Errorf("got %+v", h)
		}
	}
}

// TestHealthIsBounded asks nodes that never answer.
func TestHealthIsBounded(t *testing.T) {
	cluster := start(t)
	cluster.Before(func(ctx context.Context, _ int, _ string, _ proto.Message) error {
		<-ctx.Done()
		return ctx.Err()
	})
	for _, h := range cluster.Client(t, "").Health(within(t, 300*time.Millisecond)) {
		if h.Err == nil {
			t.Errorf("a node that hangs is well: %+v", h)
		}
	}
	// Without a deadline of the caller, a node is told that of Health.
	cluster.Before(func(ctx context.Context, _ int, _ string, _ proto.Message) error {
		if d, ok := ctx.Deadline(); !ok || time.Until(d) > client.HealthTimeout {
			return errs.Newf(errs.Internal, "the question has %s", time.Until(d))
		}
		return nil
	})
	for _, h := range cluster.Client(t, "").Health(t.Context()) {
		if h.Err != nil {
			t.Error(h.Err)
		}
	}
}

// TestANodeHasTheTimeOfItsCaller: one attempt has no other one to hurry for.
func TestANodeHasTheTimeOfItsCaller(t *testing.T) {
	cluster := start(t)
	cluster.Before(func(ctx context.Context, _ int, _ string, _ proto.Message) error {
		d, ok := ctx.Deadline()
		if left := time.Until(d); !ok || left < 10*time.Second {
			return errs.Newf(errs.Internal, "the attempt has %s", left)
		}
		return nil
	})
	c := cluster.Client(t, "")
	if _, err := c.Node(cluster.Addrs()[0]).Seal().GetSeal(within(t, 20*time.Second), &kryptonv1.GetSealRequest{}); err != nil {
		t.Error(err)
	}
}
