package server_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/node"
)

// metricsOf returns what a node's operations port says, one value per series.
func metricsOf(t *testing.T, m *member) map[string]float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(limited(t), http.MethodGet, "http://"+m.addrs.Ops+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && !strings.HasPrefix(line, "#") {
			out[series] = v
		}
	}
	return out
}

// TestEveryNodeTellsOfEverybodysLeases: the list of nodes and one node, asked
// anywhere, say what is left of each lease and what the leader knows of its
// holders; so does the leader's operations port. Without a quorum they say that
// there is none.
func TestEveryNodeTellsOfEverybodysLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	const lasts = 3 * time.Second
	well := func(n *kryptonv1.Node) error {
		h := n.GetHealth()
		if d := h.GetLeaseRemaining().AsDuration(); d <= 0 || d > lasts || h.GetLeaseRefusal() != "" {
			return fmt.Errorf("%s has %s of its lease, refused: %q", n.GetDisplayName(), d, h.GetLeaseRefusal())
		}
		if l := h.GetLeaseHolding(); l == nil || l.GetLag() != 0 || l.GetHeld().AsDuration() <= 0 || l.GetHeld().AsDuration() > lasts*102/100 {
			return fmt.Errorf("the leader knows %v of %s", l, n.GetDisplayName())
		}
		if l := h.GetLeaderLeases(); (l != nil) != n.GetLeader() || l != nil && (l.GetTerm() == 0 || l.GetCompleteIndex() == 0 || l.GetFences() != 0) {
			return fmt.Errorf("%s, leading %v, says %v of all leases", n.GetDisplayName(), n.GetLeader(), l)
		}
		return nil
	}
	for i := range w.members {
		until(t, "every node is told to have a lease", func() error {
			list, err := w.call(t, i, "auditor", "Cluster.ListNodes", &kryptonv1.ListNodesRequest{})
			if err != nil {
				return err
			}
			for _, n := range list.(*kryptonv1.ListNodesResponse).GetNodes() {
				if err := well(n); err != nil {
					return err
				}
				name := node.NodeName(n.GetId())
				one, err := w.call(t, i, "operator", "Cluster.GetNode", &kryptonv1.GetNodeRequest{Name: name})
				if err != nil {
					return err
				}
				if err := well(one.(*kryptonv1.Node)); err != nil {
					return fmt.Errorf("alone: %w", err)
				}
			}
			return nil
		})
		info, err := w.call(t, i, "operator", "Cluster.GetCluster", &kryptonv1.GetClusterRequest{})
		if err != nil || info.(*kryptonv1.ClusterInfo).GetLeaseDuration().AsDuration() != lasts {
			t.Errorf("%v, %v", info, err)
		}
	}

	leader := 0
	until(t, "the operations ports say the same", func() error { // a busy machine elects now and then
		if leader = slices.IndexFunc(w.members, func(m *member) bool { return m.c.IsLeader() }); leader < 0 {
			return errors.New("nobody leads")
		}
		var all []error
		wrong := func(format string, a ...any) { all = append(all, fmt.Errorf(format, a...)) }
		for i, m := range w.members {
			got := metricsOf(t, m)
			if v, ok := got["krypton_lease_remaining_seconds"]; !ok || v <= 0 || v > lasts.Seconds() {
				wrong("%s has %v s of its lease", m.name, v)
			}
			want := 0.0
			if i == leader {
				want = 3
				if v := got["krypton_lease_term"]; v != float64(m.c.Term()) {
					wrong("it leads in term %d and gives leases since %v", m.c.Term(), v)
				}
				if v := got["krypton_fence_seconds_count"]; v == 0 || got[`krypton_fence_seconds_bucket{le="+Inf"}`] != v || got["krypton_fence_seconds_sum"] <= 0 {
					wrong("%v fences were measured", v)
				}
				for _, other := range w.members {
					if v, ok := got[fmt.Sprintf("krypton_lease_holder_lag{node=%q}", other.c.NodeID())]; !ok || v > 100 {
						wrong("%s is %v behind, known: %v", other.name, v, ok)
					}
				}
			} else if got["krypton_lease_term"] != 0 {
				wrong("%s does not lead and gives leases", m.name)
			}
			if v, ok := got["krypton_lease_holders"]; !ok || v != want {
				wrong("%s, leading %v, knows %v holders", m.name, i == leader, v)
			}
			if v, ok := got["krypton_fences_in_flight"]; !ok || v != 0 {
				wrong("%v changes wait", v)
			}
		}
		return errors.Join(all...)
	})

	// While a member is dead, the change that waits for it is told of, and for whom.
	dead, left := (leader+1)%3, (leader+2)%3
	deadID := w.members[dead].c.NodeID()
	w.members[dead].close()
	made := make(chan error, 1)
	go func() {
		_, err := kryptonv1.NewServicesClient(w.grpc(leader, "governor")).SuspendService(limited(t), &kryptonv1.SuspendServiceRequest{Name: pay, RequestId: uuid.NewString()})
		made <- err
	}()
	until(t, "the change waits for the dead member", func() error {
		list, err := w.call(t, left, "auditor", "Cluster.ListNodes", &kryptonv1.ListNodesRequest{})
		if err != nil {
			return err
		}
		for _, n := range list.(*kryptonv1.ListNodesResponse).GetNodes() {
			for _, wait := range n.GetHealth().GetLeaderLeases().GetWaits() {
				if wait.GetNode() == node.NodeName(string(deadID)) && wait.GetAtMost().AsDuration() > 0 && n.GetHealth().GetLeaderLeases().GetFences() == 1 {
					return nil
				}
			}
		}
		return fmt.Errorf("nobody waits in %v", list)
	})
	if err := <-made; err != nil {
		t.Errorf("the change: %v", err)
	}

	w.members[leader].close()
	until(t, "it says that it has no lease", func() error {
		one, err := w.call(t, left, "operator", "Cluster.GetNode", &kryptonv1.GetNodeRequest{Name: node.NodeName(string(w.members[left].c.NodeID()))})
		if err != nil {
			return err
		}
		h := one.(*kryptonv1.Node).GetHealth()
		if h.GetLeaseRemaining() != nil || h.GetServing() || !strings.HasPrefix(h.GetNotServingReason(), "no serving lease") {
			return fmt.Errorf("it says %v", h)
		}
		return nil
	})
	if got := metricsOf(t, w.members[left]); got["krypton_lease_remaining_seconds"] != 0 || got["krypton_node_serving"] != 0 {
		t.Errorf("%v s of a lease, serving %v", got["krypton_lease_remaining_seconds"], got["krypton_node_serving"])
	}
}
