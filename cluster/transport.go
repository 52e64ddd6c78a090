package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// raftTimeout bounds one Raft call on the network; a snapshot has more by its size.
const raftTimeout = 5 * time.Second

// raftTransport is Raft's network: it dials members by their id, and believes
// the sender named in a message only if it is the one of the connection (I2).
//
// In Raft's own configuration the address of a server is its node id. Where that
// node can be reached stands in its member entry, so that a node that moves
// needs no change of the Raft configuration.
//
// One network transport of the library has one queue for the messages of all
// connections and forgets which came from where. So every member has an
// instance of its own for what comes in, and what leaves it is compared with
// that member's id.
type raftTransport struct {
	self    NodeID
	log     hclog.Logger
	out     *raft.NetworkTransport
	consume chan raft.RPC

	mu        sync.Mutex
	closed    bool
	in        map[NodeID]*inbound
	heartbeat func(raft.RPC)
	raft      applying // nil before Raft runs

	// screen says why a message of a member must not reach Raft; nil: it may. It is set
	// before the transport serves.
	screen func(NodeID, *raft.AppendEntriesRequest) error

	arrivals arrivals

	// mayLead says why this node must not become the leader; nil: it may. It is set
	// before the transport serves.
	mayLead func() error

	done chan struct{}
	wg   sync.WaitGroup
}

// inbound is what one member sends.
type inbound struct {
	conns *connQueue
	trans *raft.NetworkTransport
}

var errSender = errors.New("the message names another sender than its connection")

func newRaftTransport(self NodeID, p *port, clk clock.Clock, log hclog.Logger) *raftTransport {
	t := &raftTransport{
		self: self, log: log, consume: make(chan raft.RPC), arrivals: newArrivals(),
		in: map[NodeID]*inbound{}, done: make(chan struct{}),
	}
	t.out = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: log, Timeout: raftTimeout, MaxPool: 3,
		Stream: &stream{connQueue: newConnQueue(p.ln.Addr()), dial: func(id NodeID, timeout time.Duration) (net.Conn, error) {
			ctx, cancel := context.WithDeadline(context.Background(), clk.Now().Add(timeout))
			defer cancel()
			return p.dial(ctx, id, protoRaft)
		}},
	})
	return t
}

// stream is the stream layer of the library.
type stream struct {
	*connQueue

	dial func(id NodeID, timeout time.Duration) (net.Conn, error)
}

// Dial implements [raft.StreamLayer]; the address is a node id.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.dial(NodeID(address), timeout)
}

// take gives Raft a connection that a member opened.
func (t *raftTransport) take(c net.Conn) {
	pc, ok := c.(*peerConn)
	if !ok || pc.peer == "" {
		_ = c.Close()
		return
	}
	in := t.from(pc.peer)
	if in == nil {
		_ = pc.Close()
		return
	}
	in.conns.put(pc)
}

// from returns what receives from the member, or nil once closed.
func (t *raftTransport) from(id NodeID) *inbound {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if in := t.in[id]; in != nil {
		return in
	}
	in := &inbound{conns: newConnQueue(nodeAddr(id))}
	in.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: t.log, Timeout: raftTimeout,
		Stream: &stream{connQueue: in.conns, dial: func(NodeID, time.Duration) (net.Conn, error) { return nil, net.ErrClosed }},
	})
	in.trans.SetHeartbeatHandler(t.checked(id))
	t.in[id] = in
	t.wg.Go(func() { t.forward(id, in) })
	return in
}

// nodeAddr is the address of a node where the library wants one for its log.
type nodeAddr NodeID

// Network implements [net.Addr].
func (nodeAddr) Network() string { return "krypton" }

// String implements [net.Addr].
func (a nodeAddr) String() string { return string(a) }

// sentBy reports whether the message names id as its sender.
func sentBy(rpc raft.RPC, id NodeID) bool {
	h, ok := rpc.Command.(interface{ GetRPCHeader() raft.RPCHeader })
	if !ok {
		return false
	}
	header := h.GetRPCHeader()
	return string(header.ID) == string(id) && string(header.Addr) == string(id)
}

// refuse answers a message that must not reach Raft.
func refuse(rpc raft.RPC) {
	if rpc.Reader != nil {
		_, _ = io.Copy(io.Discard, rpc.Reader) // The answer stands after the snapshot's bytes.
	}
	rpc.Respond(nil, errSender)
}

// forward hands the messages of one member to Raft.
func (t *raftTransport) forward(id NodeID, in *inbound) {
	for {
		select {
		case rpc := <-in.trans.Consumer():
			if !sentBy(rpc, id) {
				t.log.Error("refused a message that names another sender than its connection", "peer", string(id))
				refuse(rpc)
				continue
			}
			if err := t.screened(id, rpc); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			t.arrivals.hand(t.runs(), rpc, t.consume, t.done)
		case <-t.done:
			return
		}
	}
}

// screened is screen for a message of any kind.
func (t *raftTransport) screened(id NodeID, rpc raft.RPC) error {
	req, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || t.screen == nil {
		return nil
	}
	return t.screen(id, req)
}

// serve says whose messages these are. Before, nobody takes them.
func (t *raftTransport) serve(r applying) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.raft = r
}

func (t *raftTransport) runs() applying {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raft
}

// checked returns the handler of heartbeats from the member.
func (t *raftTransport) checked(id NodeID) func(raft.RPC) {
	return func(rpc raft.RPC) {
		t.mu.Lock()
		handle := t.heartbeat
		t.mu.Unlock()
		switch {
		case !sentBy(rpc, id):
			refuse(rpc)
		case handle == nil:
			rpc.Respond(nil, raft.ErrRaftShutdown)
		default:
			handle(rpc)
		}
	}
}

// SetHeartbeatHandler implements [raft.Transport].
func (t *raftTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = handle
}

// AppendEntriesPipeline implements [raft.Transport].
func (t *raftTransport) AppendEntriesPipeline(id raft.ServerID, _ raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.out.AppendEntriesPipeline(id, raft.ServerAddress(id))
	if err != nil {
		return nil, err
	}
	return newPipeline(inner), nil
}

// AppendEntries implements [raft.Transport].
func (t *raftTransport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return t.out.AppendEntries(id, raft.ServerAddress(id), req, resp)
}

// leads returns why nothing that makes or shows a leader may leave this node, or nil.
func (t *raftTransport) leads() error {
	if t.mayLead == nil {
		return nil
	}
	return t.mayLead()
}

// RequestVote implements [raft.Transport].
func (t *raftTransport) RequestVote(id raft.ServerID, _ raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := t.leads(); err != nil {
		return err
	}
	return t.out.RequestVote(id, raft.ServerAddress(id), req, resp)
}

// RequestPreVote implements [raft.WithPreVote]: without it a node that comes
// back from a partition would depose the leader.
func (t *raftTransport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := t.leads(); err != nil {
		return err
	}
	return t.out.RequestPreVote(id, raft.ServerAddress(id), req, resp)
}

// InstallSnapshot implements [raft.Transport].
func (t *raftTransport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if err := t.leads(); err != nil {
		return err
	}
	return t.out.InstallSnapshot(id, raft.ServerAddress(id), req, resp, data)
}

// TimeoutNow implements [raft.Transport].
func (t *raftTransport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.out.TimeoutNow(id, raft.ServerAddress(id), req, resp)
}

// Close implements [raft.WithClose]. Connections are the port's and end with it.
func (t *raftTransport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	all := t.in
	t.in = map[NodeID]*inbound{}
	t.mu.Unlock()
	close(t.done)
	for _, in := range all {
		_ = in.trans.Close()
	}
	t.out.CloseStreams()
	_ = t.out.Close()
	t.wg.Wait()
	return nil
}

// LocalAddr implements [raft.Transport].
func (t *raftTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.self) }

// Consumer implements [raft.Transport].
func (t *raftTransport) Consumer() <-chan raft.RPC { return t.consume }

// EncodePeer implements [raft.Transport].
func (*raftTransport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

// DecodePeer implements [raft.Transport].
func (*raftTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }
