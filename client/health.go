package client

import (
	"context"
	"sync"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// HealthTimeout bounds the questions of [Client.Health] to one node, when the
// context does not end before.
const HealthTimeout = 5 * time.Second

// Serving says whether a node answers data operations. The zero value is that it
// is not known.
type Serving int

// What is known of a node's service. Unknown is what a workload is told.
const (
	ServingUnknown Serving = iota
	ServingYes
	ServingNo
)

// String returns "unknown", "yes" or "no".
func (s Serving) String() string {
	switch s {
	case ServingYes:
		return "yes"
	case ServingNo:
		return "no"
	case ServingUnknown:
	}
	return "unknown"
}

// NodeHealth is how one node is, as it says itself.
type NodeHealth struct {
	// Addr is the address that was asked, one of [Options.Addrs].
	Addr string
	// Err is why the node gave no answer; the rest is zero then. Nil: it did.
	Err error
	// ID and Name are the node's id, as in nodes/{id}, and what people call it.
	ID, Name string
	// Seal is what the node says of its seal: state, mode, shares, hold.
	Seal *kryptonv1.SealStatus
	// Serving tells whether it answers data operations, and Reason in a few words
	// why it does not or why that is not known.
	Serving Serving
	Reason  string
	// Leader tells that the node leads. Known when Serving is.
	Leader bool
	// Index is the log index up to which the node has applied changes.
	Index uint64
	// Latency is how long the answer about the seal took; the first one includes
	// the connection.
	Latency time.Duration
}

// Sealed reports whether the node has no MasterKey, or did not answer.
func (h NodeHealth) Sealed() bool {
	return h.Seal.GetState() != kryptonv1.SealState_SEAL_STATE_UNSEALED
}

// Held reports whether a person sealed the whole cluster and nobody has released
// the hold, as far as this node knows.
func (h NodeHealth) Held() bool { return h.Seal.GetHeld() }

// Health asks every address of the client how it is, all at once and each once,
// and returns the answers in the order of [Options.Addrs]. It takes at most
// [HealthTimeout]. A node that does not answer is one with Err.
//
// Everybody may ask. Whether a node serves, and which one leads, is not told to
// workloads.
func (c *Client) Health(ctx context.Context) []NodeHealth {
	ctx, cancel := context.WithTimeout(ctx, HealthTimeout)
	defer cancel()
	out := make([]NodeHealth, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { out[i] = (&Node{c: c, n: n}).health(ctx) })
	}
	wg.Wait()
	return out
}

func (nd *Node) health(ctx context.Context) NodeHealth {
	h := NodeHealth{Addr: nd.Addr()}
	var info Info
	begin := nd.c.clk.Now()
	h.Seal, h.Err = nd.Seal().GetSeal(ctx, &kryptonv1.GetSealRequest{}, Capture(&info))
	if h.Err != nil {
		h.Seal = nil
		return h
	}
	h.Latency, h.ID, h.Name, h.Index = nd.c.clk.Since(begin), h.Seal.GetNodeId(), h.Seal.GetNodeName(), info.Index
	if h.Seal.GetState() == kryptonv1.SealState_SEAL_STATE_UNINITIALIZED {
		h.Serving, h.Reason = ServingNo, "it belongs to no cluster"
		return h
	}
	self, err := kryptonv1.NewClusterClient(nd).GetNode(ctx, &kryptonv1.GetNodeRequest{Name: "nodes/" + h.ID})
	h.Leader = self.GetLeader()
	switch {
	case h.Sealed():
		h.Serving, h.Reason = ServingNo, "sealed"
	case err == nil && self.GetHealth().GetServing():
		h.Serving = ServingYes
	case err == nil:
		h.Serving, h.Reason = ServingNo, self.GetHealth().GetNotServingReason()
	case errs.Is(err, errs.Denied):
		h.Reason = "it is not told to this caller"
	default:
		h.Reason = errs.From(err).Msg
	}
	return h
}
