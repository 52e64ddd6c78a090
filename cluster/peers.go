package cluster

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// maxMessage bounds a message between nodes: a command or a task with its envelope.
const maxMessage = MaxEntry + 64<<10

// peerAuth is the proved identity of the other end, for gRPC.
type peerAuth struct {
	credentials.CommonAuthInfo

	conn *peerConn
}

// AuthType implements [credentials.AuthInfo].
func (peerAuth) AuthType() string { return "krypton-peer" }

// peerCreds tells gRPC about connections that the peer port has authenticated
// already; it does no handshake of its own.
type peerCreds struct{}

func known(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pc, ok := c.(*peerConn)
	if !ok {
		return nil, nil, errNoMember
	}
	return c, peerAuth{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, conn: pc}, nil
}

// ClientHandshake implements [credentials.TransportCredentials].
func (peerCreds) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return known(c)
}

// ServerHandshake implements [credentials.TransportCredentials].
func (peerCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) { return known(c) }

// Info implements [credentials.TransportCredentials].
func (peerCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements [credentials.TransportCredentials].
func (peerCreds) Clone() credentials.TransportCredentials { return peerCreds{} }

// OverrideServerName implements [credentials.TransportCredentials].
func (peerCreds) OverrideServerName(string) error { return nil }

// sender returns the connection over which a call came.
func sender(ctx context.Context) (*peerConn, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	a, ok := p.AuthInfo.(peerAuth)
	return a.conn, ok
}

// peers are the connections to the peer service of other members.
type peers struct {
	c *Cluster

	// ready returns a client of a member to whom a connection stands. A call that
	// fails before it is ready was certainly not sent. It is connected; simulations
	// reach members without a network.
	ready func(ctx context.Context, id NodeID) (clusterpb.PeerClient, error)

	// stream is ready for the stream of leases, and returns also what closes the
	// connection: the next stream has another one then. It is connectedForLeases.
	stream func(ctx context.Context, id NodeID) (clusterpb.PeerClient, func(), error)

	mu     sync.Mutex
	closed bool
	conns  map[peerConnection]*grpc.ClientConn
}

// peerConnection names a connection. Leases have one of their own: no large message
// is before theirs, and whoever gives it up breaks no call.
type peerConnection struct {
	to  NodeID
	use connectionUse
}

type connectionUse int

const (
	forCalls connectionUse = iota
	forLeases
)

func newPeers(c *Cluster) *peers {
	p := &peers{c: c, conns: map[peerConnection]*grpc.ClientConn{}}
	p.ready, p.stream = p.connected, p.connectedForLeases
	return p
}

func (p *peers) conn(id peerConnection) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errs.New(errs.Unavailable, "the node is shutting down")
	}
	if cc := p.conns[id]; cc != nil {
		return cc, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+string(id.to), clientOptions(func(ctx context.Context, _ string) (net.Conn, error) {
		return p.c.port.dial(ctx, id.to, protoPeer)
	})...)
	if err != nil {
		return nil, errs.New(errs.Internal, "cannot make a connection to a member", errs.Cause(err))
	}
	p.conns[id] = cc
	return cc, nil
}

func clientOptions(dial func(context.Context, string) (net.Conn, error)) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(peerCreds{}),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: dialTime,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	}
}

// connected connects to a member, unless a connection stands.
func (p *peers) connected(ctx context.Context, id NodeID) (clusterpb.PeerClient, error) {
	cc, err := p.standing(ctx, peerConnection{id, forCalls})
	if err != nil {
		return nil, err
	}
	return clusterpb.NewPeerClient(cc), nil
}

func (p *peers) connectedForLeases(ctx context.Context, id NodeID) (clusterpb.PeerClient, func(), error) {
	it := peerConnection{id, forLeases}
	cc, err := p.standing(ctx, it)
	if err != nil {
		return nil, nil, err
	}
	return clusterpb.NewPeerClient(cc), func() {
		p.mu.Lock()
		if p.conns[it] == cc {
			delete(p.conns, it)
		}
		p.mu.Unlock()
		_ = cc.Close()
	}, nil
}

// standing returns a connection that stands.
func (p *peers) standing(ctx context.Context, id peerConnection) (*grpc.ClientConn, error) {
	cc, err := p.conn(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	for {
		state := cc.GetState()
		switch state {
		case connectivity.Ready:
			return cc, nil
		case connectivity.Idle:
			cc.Connect()
		case connectivity.TransientFailure, connectivity.Shutdown:
			return nil, errs.New(errs.Unavailable, "member "+string(id.to)+" cannot be reached")
		case connectivity.Connecting:
		}
		if !cc.WaitForStateChange(ctx, state) {
			return nil, errs.New(errs.Unavailable, "member "+string(id.to)+" cannot be reached")
		}
	}
}

// retain closes the connections to whoever is not in keep.
func (p *peers) retain(keep func(NodeID) bool) {
	p.mu.Lock()
	var gone []*grpc.ClientConn
	for id, cc := range p.conns {
		if !keep(id.to) {
			gone = append(gone, cc)
			delete(p.conns, id)
		}
	}
	p.mu.Unlock()
	for _, cc := range gone {
		_ = cc.Close()
	}
}

func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.retain(func(NodeID) bool { return false })
}

// Peers returns the ids of the other members that are not removed: the leader
// first, then voters, then the others.
func (c *Cluster) Peers() []string {
	leader := string(c.LeaderID())
	var first, voters, rest []string
	for _, m := range c.machine.View().Members() {
		switch id := m.GetId(); {
		case m.GetRemoved() || id == string(c.id):
		case id == leader:
			first = append(first, id)
		case m.GetVoter():
			voters = append(voters, id)
		default:
			rest = append(rest, id)
		}
	}
	return append(append(first, voters...), rest...)
}

// PrepareOn gives a preparer's task to another member and returns its answer.
// Request and answer have at most 1 MiB.
func (c *Cluster) PrepareOn(ctx context.Context, id string, request []byte) ([]byte, error) {
	if len(request) > MaxEntry {
		return nil, errs.New(errs.TooLarge, "the task is larger than 1 MiB")
	}
	p, err := c.peers.ready(ctx, NodeID(id))
	if err != nil {
		return nil, err
	}
	resp, err := p.Prepare(ctx, &clusterpb.PrepareRequest{Request: request})
	if err != nil {
		return nil, wire.FromStatus(err)
	}
	return resp.GetResponse(), nil
}

// Health asks a member, or this node itself, how it is.
func (c *Cluster) Health(ctx context.Context, id NodeID) (Health, error) {
	if id == c.id {
		return c.health(), nil
	}
	p, err := c.peers.ready(ctx, id)
	if err != nil {
		return Health{}, err
	}
	asked := c.cfg.Clock.Now()
	r, err := p.Health(ctx, &clusterpb.HealthRequest{})
	if err != nil {
		return Health{}, wire.FromStatus(err)
	}
	wall := time.UnixMilli(r.GetWallMs())
	return Health{
		MaxFormat: r.GetMaxFormat(), Contact: time.Duration(r.GetContactMs()) * time.Millisecond,
		Wall: wall, ClockOffset: clockOffset(asked, c.cfg.Clock.Now(), wall),
		Space:  Space{DataFree: r.GetDiskFreeBytes(), DataTotal: r.GetDiskTotalBytes(), AuditFree: r.GetAuditFreeBytes()},
		Memory: Memory{Used: r.GetMemoryUsedBytes(), Limit: r.GetMemoryLimitBytes(), Hardened: r.GetHardened()},
		Lease:  time.Duration(r.GetLeaseMs()) * time.Millisecond, LeaseRefusal: r.GetLeaseRefusal(), StateCorrupt: r.GetStateCorrupt(), Uncompared: r.GetUncompared(), Leases: reportFromProto(r.GetLeaseReport()),
		NodeID: id, SealState: r.GetSealState(), Serving: r.GetServing(), Version: r.GetVersion(), MemoryTier: r.GetMemoryTier(),
		Term: r.GetTerm(), LastIndex: r.GetLastIndex(), AppliedIndex: r.GetAppliedIndex(), LeaderID: NodeID(r.GetLeaderId()),
	}, nil
}

func (c *Cluster) health() Health {
	h := c.cfg.Hooks.Health()
	h.NodeID, h.Version = c.id, c.cfg.Self.Version
	h.Term, h.LastIndex, h.AppliedIndex = c.raft.CurrentTerm(), c.raft.LastIndex(), c.machine.View().Index()
	h.LeaderID, h.MaxFormat = c.LeaderID(), c.cfg.Self.MaxFormat
	h.Wall, h.Contact = c.cfg.Clock.Now(), c.LastContact()
	if h.Contact == never {
		h.Contact = -time.Millisecond
	}
	if err := c.compared.err(); err != nil {
		h.Uncompared = errs.From(err).Msg
	}
	l := c.Lease()
	h.Lease, h.LeaseRefusal, h.Leases = l.Remaining, l.Refusal, l.Report
	return h
}

// clockOffset returns by how much a clock that showed wall between asked and
// answered was ahead of the one that showed these. The answer came at some time
// between the two, which is the error; a clock of milliseconds adds one.
func clockOffset(asked, answered, wall time.Time) time.Duration {
	half := answered.Sub(asked) / 2
	offset := wall.Sub(asked.Add(half))
	if offset.Abs() <= half+time.Millisecond {
		return 0
	}
	return offset.Round(time.Millisecond)
}

// RequestCertificate returns a certificate for this node's API ports from an
// unsealed member, this node first. The error has code Sealed when no member
// that could be reached was unsealed.
func (c *Cluster) RequestCertificate(ctx context.Context) (Certificate, error) {
	return c.certificateFor(ctx, c.id)
}

func (c *Cluster) certificateFor(ctx context.Context, id NodeID) (Certificate, error) {
	cert, err := c.issue(ctx, id)
	if err == nil || !errs.Is(err, errs.Sealed) {
		return cert, err
	}
	index := c.machine.View().Index()
	for _, m := range c.trust.current() {
		if m.ID == c.id || m.ID == id {
			continue
		}
		p, perr := c.peers.ready(ctx, m.ID)
		if perr != nil {
			continue
		}
		one, cancel := context.WithTimeout(ctx, dialTime)
		resp, perr := p.IssueCertificate(one, &clusterpb.IssueCertificateRequest{NodeId: string(id), Index: index})
		cancel()
		if perr != nil {
			continue
		}
		return Certificate{Chain: resp.GetCertificate().GetChain(), Authorities: resp.GetCertificate().GetAuthorities()}, nil
	}
	return Certificate{}, err
}

// issue asks this node for the certificate of a current member, with the key of
// the member entry: nobody can ask for another name or key.
func (c *Cluster) issue(ctx context.Context, id NodeID) (Certificate, error) {
	m, ok := c.machine.View().Member(string(id))
	if !ok || m.GetRemoved() {
		return Certificate{}, errs.New(errs.Denied, "certificates are for current members only")
	}
	return c.cfg.Hooks.IssueCertificate(ctx, id, m.GetPublicKey())
}
