package cluster

import (
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

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

func (p *simPeer) StateDigest(ctx context.Context, in *clusterpb.StateDigestRequest, opts ...grpc.CallOption) (*clusterpb.StateDigestResponse, error) {
	for _, o := range opts {
		if at, ok := o.(grpc.PeerCallOption); ok {
			at.PeerAddr.AuthInfo = peerAuth{conn: &peerConn{peer: p.to.c.id, keyHash: simKey(p.to.c.id)}}
		}
	}
	return simUnary(ctx, p, func(ctx context.Context) (*clusterpb.StateDigestResponse, error) {
		return (&peerService{c: p.to.c}).StateDigest(ctx, in)
	})
}

// Lease opens a stream.
//
//nolint:contextcheck // What the other process does has a context of its own.
func (p *simPeer) Lease(ctx context.Context, _ ...grpc.CallOption) (clusterpb.Peer_LeaseClient, error) {
	w := p.from.node.w
	up, down := newSimPipe[*clusterpb.LeaseRequest](p.from, p.to), newSimPipe[*clusterpb.LeaseResponse](p.to, p.from)
	served, cancel := context.WithCancel(p.asCaller())
	w.spawn(func() { // the member ends the stream; the leader hears of it behind what was sent
		select {
		case <-ctx.Done():
		case <-p.from.ended:
		case <-up.broken:
		case <-down.broken:
		case <-down.ended:
		}
		up.close()
		<-up.ended
		cancel()
		down.end(errSimStream)
	})
	w.spawn(func() { // the leader serves it, and ends it
		defer cancel()
		defer down.end(errSimStream)
		defer up.end(io.EOF)
		if w.net.carry(p.from, p.to, simBreak) != nil {
			return
		}
		err := (&peerService{c: p.to.c}).Lease(&simServer{ctx: served, up: up, down: down})
		up.end(io.EOF)
		if w.net.carry(p.to, p.from, simBreak) == nil {
			down.end(wire.ToStatus(err).Err())
		}
	})
	return &simClient{ctx: ctx, up: up, down: down}, nil
}

type simClient struct {
	grpc.ClientStream // what nobody calls here

	ctx  context.Context //nolint:containedctx // It is that of a stream.
	up   *simPipe[*clusterpb.LeaseRequest]
	down *simPipe[*clusterpb.LeaseResponse]
}

func (s *simClient) Send(m *clusterpb.LeaseRequest) error { return s.up.send(m) }

func (s *simClient) Recv() (*clusterpb.LeaseResponse, error) { return s.down.recv(s.ctx.Done()) }

type simServer struct {
	grpc.ServerStream // what nobody calls here

	ctx  context.Context //nolint:containedctx // It is that of a stream.
	up   *simPipe[*clusterpb.LeaseRequest]
	down *simPipe[*clusterpb.LeaseResponse]
}

func (s *simServer) Context() context.Context { return s.ctx }

func (s *simServer) Send(m *clusterpb.LeaseResponse) error {
	if g := m.GetGrant(); g != nil {
		s.down.to.node.w.granted(s.down.to.node, g)
	}
	return s.down.send(m)
}

func (s *simServer) Recv() (*clusterpb.LeaseRequest, error) { return s.up.recv(nil) }

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
	m    M
	last bool // the stream ends here
	at   time.Time
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
					p.end(io.EOF)
					return
				}
				if m.last {
					p.end(io.EOF)
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

// close ends the stream behind what was sent, as the system does with the
// connections of a process that is gone.
func (p *simPipe[M]) close() {
	at := time.Now().Add(p.from.node.w.net.streams(p.from, p.to))
	p.mu.Lock()
	if at.Before(p.at) {
		at = p.at
	}
	p.mu.Unlock()
	select {
	case p.in <- simMessage[M]{last: true, at: at}:
	case <-p.ended:
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
	at := time.Now().Add(p.from.node.w.net.streams(p.from, p.to))
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
	case p.in <- simMessage[M]{m: copied, at: at}:
		return nil
	case <-p.ended:
		return io.EOF
	}
}

// recv returns the next message, or an error once the stream has ended or whoever
// receives has given it up.
func (p *simPipe[M]) recv(gaveUp <-chan struct{}) (m M, err error) {
	select {
	case m = <-p.out: // also when the end has come behind it
	default:
		select {
		case m = <-p.out:
		case <-p.ended:
			return m, p.failed()
		case <-gaveUp:
			return m, errSimStream
		case <-p.to.ended:
			return m, errSimGone
		}
	}
	if !p.to.pass() {
		return m, errSimGone
	}
	return m, nil
}
