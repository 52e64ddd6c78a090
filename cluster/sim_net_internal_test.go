package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

var (
	errSimLost = errors.New("lost on the way")
	errSimGone = errors.New("the process is gone")
)

// A message waits while its way is cut and arrives when that is mended, as it
// does over TCP, unless that takes longer than its sender or its connection lasts.
const (
	simBreak   = 13 * time.Second // of a connection whose other end does not answer, as in production
	simTimeout = 5 * time.Second  // of a call of Raft
)

// simNet carries messages. Each direction between two nodes is a way of its own.
type simNet struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	cuts    map[[2]int]int           // how many faults cut it
	slow    map[[2]int]time.Duration // how much longer it takes
	changed chan struct{}            // closed when a way changes
}

func newSimNet(seed uint64) *simNet {
	return &simNet{
		rnd:  rand.New(rand.NewPCG(seed, 1)),
		cuts: map[[2]int]int{}, slow: map[[2]int]time.Duration{}, changed: make(chan struct{}),
	}
}

func (n *simNet) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// cut cuts the ways and returns what mends them.
func (n *simNet) cut(ways ...[2]int) (mend func()) {
	add := func(d int) func() {
		return func() {
			n.change(func() {
				for _, w := range ways {
					n.cuts[w] += d
				}
			})
		}
	}
	add(1)()
	return sync.OnceFunc(add(-1))
}

// delay makes the ways slower and returns what ends it.
func (n *simNet) delay(by time.Duration, ways ...[2]int) (mend func()) {
	add := func(d time.Duration) func() {
		return func() {
			n.change(func() {
				for _, w := range ways {
					n.slow[w] += d
				}
			})
		}
	}
	add(by)()
	return sync.OnceFunc(add(-by))
}

func (n *simNet) random(below int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rnd.IntN(below)
}

// takes returns how long a message is on the way.
func (n *simNet) takes(from, to *simLife) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := 200*time.Microsecond + time.Duration(n.rnd.Int64N(int64(800*time.Microsecond)))
	if n.rnd.IntN(200) == 0 {
		d += 200 * time.Millisecond // lost once, and sent again
	}
	return d + n.slow[[2]int{from.node.n, to.node.n}]
}

// open reports whether the way is, and what is closed when that may change.
func (n *simNet) open(from, to *simLife) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts[[2]int{from.node.n, to.node.n}] == 0, n.changed
}

// arrive waits until a message that was sent at that time is there, and the
// receiver runs.
func (n *simNet) arrive(from, to *simLife, at time.Time, bound time.Duration) error {
	late := time.NewTimer(bound)
	defer late.Stop()
	if !simSleep(time.Until(at), to.ended) {
		return errSimGone
	}
	for {
		ok, changed := n.open(from, to)
		if ok {
			break
		}
		select {
		case <-changed:
		case <-late.C:
			return errSimLost
		case <-to.ended:
			return errSimGone
		}
	}
	if !to.pass() {
		return errSimGone
	}
	return nil
}

// carry sends a message and waits until it is there.
func (n *simNet) carry(from, to *simLife, bound time.Duration) error {
	from.pass() // a message that a process has sent arrives although the process is gone
	return n.arrive(from, to, time.Now().Add(n.takes(from, to)), bound)
}

// simSleep reports whether d passed before ended was closed.
func simSleep(d time.Duration, ended <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ended:
		return false
	}
}

// simTransport is Raft's network.
type simTransport struct {
	life    *simLife
	consume chan raft.RPC

	arrivals arrivals

	mu        sync.Mutex
	heartbeat func(raft.RPC)
}

var (
	_ raft.Transport   = (*simTransport)(nil)
	_ raft.WithPreVote = (*simTransport)(nil)
)

func (t *simTransport) Consumer() <-chan raft.RPC { return t.consume }

func (t *simTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.life.c.id) }

func (t *simTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

func (t *simTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

func (t *simTransport) SetHeartbeatHandler(f func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = f
}

func (t *simTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func simCall[R any](t *simTransport, to raft.ServerAddress, req any, resp *R, data []byte) error {
	r, err := t.call(NodeID(to), req, data)
	if err != nil {
		return err
	}
	got, ok := r.(*R)
	if !ok {
		return errSimLost
	}
	*resp = *got
	return nil
}

func (t *simTransport) AppendEntries(_ raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) RequestVote(_ raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return simCall(t, to, req, resp, data)
}

// call is one call of Raft. Its messages go on when the caller has given up, or died.
func (t *simTransport) call(id NodeID, req any, data []byte) (any, error) {
	from := t.life
	to := from.node.w.life(id)
	if to == nil || !from.pass() {
		simSleep(time.Millisecond, from.ended)
		return nil, errSimGone
	}
	done := make(chan raft.RPCResponse, 1)
	from.node.w.spawn(func() {
		resp, err := from.node.w.deliver(from, to, req, data)
		done <- raft.RPCResponse{Response: resp, Error: err}
	})
	late := time.NewTimer(simTimeout)
	defer late.Stop()
	select {
	case r := <-done:
		return r.Response, r.Error
	case <-late.C:
		return nil, errSimLost
	case <-from.ended:
		return nil, errSimGone
	}
}

// deliver brings a request of Raft, and its answer back.
func (w *simWorld) deliver(from, to *simLife, req any, data []byte) (any, error) {
	if err := w.net.carry(from, to, 2*simTimeout); err != nil {
		return nil, err
	}
	resp := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: req, RespChan: resp}
	if data != nil {
		rpc.Reader = bytes.NewReader(data)
		w.count(func(s *simStats) { s.Snapshots++ })

	}
	if h := to.trans.handler(); h != nil && isHeartbeat(req) {
		h(rpc)
	} else {
		to.trans.arrivals.hand(to.c.raft, rpc, to.trans.consume, to.ended)
	}
	select {
	case r := <-resp:
		if r.Error != nil {
			return nil, r.Error
		}
		if data != nil {
			w.again(from, to, req, data)
		}
		return r.Response, w.net.carry(to, from, 2*simTimeout)
	case <-to.ended:
		return nil, errSimGone
	}
}

// isHeartbeat tells what the transport of the library answers beside the main loop.
func isHeartbeat(req any) bool {
	r, ok := req.(*raft.AppendEntriesRequest)
	return ok && r.Term != 0 && len(r.Addr) != 0 && r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

func (t *simTransport) handler() func(raft.RPC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heartbeat
}

// simPeer is a client of another member.
type simPeer struct {
	clusterpb.PeerClient // what nobody calls here

	from, to *simLife
}

// ready is [peers.ready] of a node.
func (l *simLife) ready(_ context.Context, id NodeID) (clusterpb.PeerClient, error) {
	w := l.node.w
	to := w.life(id)
	if !l.pass() || to == nil {
		return nil, errSimGone
	}
	there, _ := w.net.open(l, to)
	back, _ := w.net.open(to, l)
	if !there || !back {
		return nil, errSimLost
	}
	return &simPeer{from: l, to: to}, nil
}

// simUnary is one call of a member. Its errors are statuses, and it says nothing
// about what became of it when a message is lost.
//
//nolint:contextcheck // What the other process does has a context of its own.
func simUnary[R any](ctx context.Context, p *simPeer, handle func(context.Context) (R, error)) (R, error) {
	w := p.from.node.w
	type answer struct {
		r   R
		err error
	}
	done := make(chan answer, 1)
	called, cancel := context.WithCancel(p.asCaller())
	defer cancel()
	w.spawn(func() {
		var a answer
		if a.err = w.net.carry(p.from, p.to, simBreak); a.err == nil {
			r, err := handle(called)
			if lost := w.net.carry(p.to, p.from, simBreak); lost != nil {
				a.err = lost
			} else if err != nil {
				done <- answer{err: wire.ToStatus(err).Err()}
				return
			}
			a.r = r
		}
		if a.err != nil {
			a.err = status.Error(codes.Unavailable, a.err.Error())
		}
		done <- a
	})
	var none R
	select {
	case a := <-done:
		return a.r, a.err
	case <-ctx.Done():
		return none, status.FromContextError(ctx.Err()).Err()
	case <-p.from.ended:
		return none, status.Error(codes.Canceled, "gone")
	}
}

// asCaller is the context of a method that this node called: it names the node.
func (p *simPeer) asCaller() context.Context {
	return grpcpeer.NewContext(p.to.c.base, &grpcpeer.Peer{AuthInfo: peerAuth{conn: &peerConn{peer: p.from.c.id}}})
}

func (p *simPeer) Propose(ctx context.Context, in *clusterpb.ProposeRequest, _ ...grpc.CallOption) (*clusterpb.ProposeResponse, error) {
	return simUnary(ctx, p, func(ctx context.Context) (*clusterpb.ProposeResponse, error) {
		return (&peerService{c: p.to.c}).Propose(ctx, in)
	})
}

func (p *simPeer) Completion(ctx context.Context, in *clusterpb.CompletionRequest, _ ...grpc.CallOption) (*clusterpb.CompletionResponse, error) {
	return simUnary(ctx, p, func(ctx context.Context) (*clusterpb.CompletionResponse, error) {
		return (&peerService{c: p.to.c}).Completion(ctx, in)
	})
}

func (p *simPeer) Health(ctx context.Context, in *clusterpb.HealthRequest, _ ...grpc.CallOption) (*clusterpb.HealthResponse, error) {
	return simUnary(ctx, p, func(ctx context.Context) (*clusterpb.HealthResponse, error) {
		return (&peerService{c: p.to.c}).Health(ctx, in)
	})
}

// Lease opens a stream.
//
//nolint:contextcheck // What the other process does has a context of its own.
func (p *simPeer) Lease(ctx context.Context, _ ...grpc.CallOption) (clusterpb.Peer_LeaseClient, error) {
	w := p.from.node.w
	up, down := newSimPipe[*clusterpb.LeaseRequest](p.from, p.to), newSimPipe[*clusterpb.LeaseResponse](p.to, p.from)
	served, cancel := context.WithCancel(p.asCaller())
	w.spawn(func() { // the member's end of the stream ends
		select {
		case <-ctx.Done():
		case <-p.from.ended:
		case <-up.broken:
		case <-down.broken:
		case <-served.Done():
		}
		down.end(status.Error(codes.Canceled, "the stream ended"))
		_ = w.net.carry(p.from, p.to, simBreak)
		up.end(io.EOF)
		cancel()
	})
	w.spawn(func() {
		defer cancel()
		if w.net.carry(p.from, p.to, simBreak) != nil {
			return
		}
		err := (&peerService{c: p.to.c}).Lease(&simServer{ctx: served, up: up, down: down})
		up.end(io.EOF)
		if w.net.carry(p.to, p.from, simBreak) == nil {
			down.end(wire.ToStatus(err).Err())
		}
	})
	return &simClient{up: up, down: down}, nil
}

type simClient struct {
	grpc.ClientStream // what nobody calls here

	up   *simPipe[*clusterpb.LeaseRequest]
	down *simPipe[*clusterpb.LeaseResponse]
}

func (s *simClient) Send(m *clusterpb.LeaseRequest) error { return s.up.send(m) }

func (s *simClient) Recv() (*clusterpb.LeaseResponse, error) { return s.down.recv() }

type simServer struct {
	grpc.ServerStream // what nobody calls here

	ctx  context.Context //nolint:containedctx // It is that of a stream.
	up   *simPipe[*clusterpb.LeaseRequest]
	down *simPipe[*clusterpb.LeaseResponse]
}

func (s *simServer) Context() context.Context { return s.ctx }

func (s *simServer) Send(m *clusterpb.LeaseResponse) error { return s.down.send(m) }

func (s *simServer) Recv() (*clusterpb.LeaseRequest, error) { return s.up.recv() }

// simPipe is one direction of a stream: what is sent arrives in order.
type simPipe[M proto.Message] struct {
	from, to *simLife
	in       chan simMessage[M]
	out      chan M
	broken   chan struct{} // closed when a message could not be brought for too long
	ended    chan struct{}

	mu  sync.Mutex
	at  time.Time // when the last message is there at the earliest
	err error     // with which it ended
}

type simMessage[M proto.Message] struct {
	m  M
	at time.Time
}

func newSimPipe[M proto.Message](from, to *simLife) *simPipe[M] {
	p := &simPipe[M]{
		from: from, to: to, in: make(chan simMessage[M], 4096), out: make(chan M, 4096),
		broken: make(chan struct{}), ended: make(chan struct{}),
	}
	from.node.w.spawn(func() {
		for {
			select {
			case <-p.ended:
				return
			case m := <-p.in:
				if from.node.w.net.arrive(from, to, m.at, simBreak) != nil {
					close(p.broken)
					return
				}
				p.out <- m.m
			}
		}
	})
	return p
}

func (p *simPipe[M]) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.ended)
	}
}

func (p *simPipe[M]) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *simPipe[M]) send(m M) error {
	if !p.from.pass() {
		return errSimGone
	}
	at := time.Now().Add(p.from.node.w.net.takes(p.from, p.to))
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return io.EOF
	}
	if at.Before(p.at) {
		at = p.at
	}
	p.at = at
	p.mu.Unlock()
	copied, ok := proto.Clone(m).(M)
	if !ok {
		return errSimLost
	}
	select {
	case p.in <- simMessage[M]{copied, at}:
		return nil
	case <-p.ended:
		return io.EOF
	}
}

func (p *simPipe[M]) recv() (m M, err error) {
	select {
	case m = <-p.out:
		if !p.to.pass() {
			return m, errSimGone
		}
		return m, nil
	case <-p.ended:
		return m, p.failed()
	}
}
