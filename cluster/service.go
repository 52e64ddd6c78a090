package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// newServers makes the gRPC servers of members and of joining nodes. They are
// two, so that no method of the one is in reach of a connection of the other.
func (c *Cluster) newServers() {
	c.peerServer = grpc.NewServer(c.serverOptions(maxMessage, 256)...)
	clusterpb.RegisterPeerServer(c.peerServer, &peerService{c: c})
	c.joinServer = grpc.NewServer(c.serverOptions(16<<10, 2)...)
	clusterpb.RegisterJoinServer(c.joinServer, &joinService{c: c})
	c.spawn(func() { _ = c.peerServer.Serve(c.port.next[protoPeer]) })
	c.spawn(func() { _ = c.joinServer.Serve(c.port.next[protoJoin]) })
	c.spawn(func() { c.serveRaft() })
}

func (c *Cluster) serverOptions(message int, streams uint32) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(peerCreds{}),
		grpc.MaxRecvMsgSize(message),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(streams),
		grpc.MaxHeaderListSize(8 << 10),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 15 * time.Second, Timeout: 5 * time.Second}),
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(c.intercept),
		grpc.StreamInterceptor(c.interceptStream),
	}
}

// forUnproven are the methods for a sender that this node's view does not have:
// what it learned of it, it learned from a peer or before it had a view. They
// give away what strangers may know, and two nodes need them that do not know
// enough yet: Health, by which the leader sees a new node catch up, before the
// leader is in that node's view; and Members, by which a node that lags learns
// whom to listen to. Everything else is for members in the view.
var forUnproven = map[string]bool{
	clusterpb.Peer_Health_FullMethodName:  true,
	clusterpb.Peer_Members_FullMethodName: true,
}

var errNotInView = errs.New(errs.Unauthenticated, "the sender is not a member",
	errs.Hint("a removed node joins again with an empty data directory"))

// errBehind is for a sender that this node knows, and its view does not, as long
// as the view may be behind: after a start nothing is applied before a leader is
// heard. It is no word about the sender, and whoever forwarded asks again.
func errBehind() error {
	return errs.New(errs.NoLeader, "the node that was asked has not heard from a leader yet", errs.Hint("retry; see krypton operator members"))
}

// mayCall returns an error unless the sender is a current member, at this moment
// and not only at the handshake (I8), and known well enough for the method (I12).
func (c *Cluster) mayCall(ctx context.Context, conn *peerConn, method string) error {
	is := func(id NodeID, ok bool) bool { return ok && id == conn.peer }
	switch {
	case !is(c.trust.peerOf(conn.keyHash)):
		return errNotInView
	case forUnproven[method], is(c.trust.memberOf(conn.keyHash)):
		return nil
	case !c.IsLeader() || c.catchUp(ctx) != nil:
		return errBehind()
	case is(c.trust.memberOf(conn.keyHash)): // a leader that was just elected had not applied all that was committed
		return nil
	}
	return errNotInView
}

// intercept stands before every method: the sender must be one that may call it,
// errors leave as statuses, and a panic ends the call and not the node's other
// work.
func (c *Cluster) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	_, join := info.Server.(*joinService)
	err = c.answering(ctx, info.FullMethod, join, func() error {
		resp, err = handle(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// interceptStream is intercept for streams.
func (c *Cluster) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	_, join := srv.(*joinService)
	return c.answering(stream.Context(), info.FullMethod, join, func() error { return handle(srv, stream) })
}

// answering runs one call of a member, or of a joining node, and returns its error
// as a status.
func (c *Cluster) answering(ctx context.Context, method string, join bool, call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.LogAttrs(ctx, slog.LevelError, "panic in a call between nodes", slog.String("method", method),
				slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			err = wire.ToStatus(errs.New(errs.Internal, "internal error")).Err()
		}
	}()
	conn, ok := sender(ctx)
	if !ok {
		return wire.ToStatus(errs.New(errs.Unauthenticated, "the connection has no identity")).Err()
	}
	if !join {
		if err := c.mayCall(ctx, conn, method); err != nil {
			return wire.ToStatus(err).Err()
		}
	}
	if err := call(); err != nil {
		return wire.ToStatus(err).Err()
	}
	return nil
}

// peerService answers members; see [Cluster.mayCall] for who they are.
type peerService struct {
	clusterpb.UnimplementedPeerServer

	c *Cluster
}

func from(ctx context.Context) NodeID {
	conn, ok := sender(ctx)
	if !ok {
		return ""
	}
	return conn.peer
}

// Propose implements [clusterpb.PeerServer].
func (s *peerService) Propose(ctx context.Context, req *clusterpb.ProposeRequest) (*clusterpb.ProposeResponse, error) {
	return s.c.forwarded(ctx, req, from(ctx))
}

// Prepare implements [clusterpb.PeerServer].
func (s *peerService) Prepare(ctx context.Context, req *clusterpb.PrepareRequest) (*clusterpb.PrepareResponse, error) {
	out, err := s.c.cfg.Hooks.Prepare(ctx, from(ctx), req.GetRequest())
	if err != nil {
		return nil, err
	}
	return &clusterpb.PrepareResponse{Response: out}, nil
}

// Health implements [clusterpb.PeerServer].
func (s *peerService) Health(context.Context, *clusterpb.HealthRequest) (*clusterpb.HealthResponse, error) {
	h := s.c.health()
	return &clusterpb.HealthResponse{
		NodeId: string(h.NodeID), SealState: h.SealState, Serving: h.Serving, Version: h.Version, MemoryTier: h.MemoryTier,
		Term: h.Term, LastIndex: h.LastIndex, AppliedIndex: h.AppliedIndex, LeaderId: string(h.LeaderID),
		MaxFormat: h.MaxFormat, ContactMs: h.Contact.Milliseconds(), WallMs: h.Wall.UnixMilli(),
		LeaseMs: h.Lease.Milliseconds(), LeaseRefusal: h.LeaseRefusal, StateCorrupt: h.StateCorrupt, Uncompared: h.Uncompared, LeaseReport: reportToProto(h.Leases),
		DiskFreeBytes: h.Space.DataFree, DiskTotalBytes: h.Space.DataTotal, AuditFreeBytes: h.Space.AuditFree,
		MemoryUsedBytes: h.Memory.Used, MemoryLimitBytes: h.Memory.Limit, Hardened: h.Memory.Hardened,
	}, nil
}

// Announce implements [clusterpb.PeerServer].
func (s *peerService) Announce(ctx context.Context, req *clusterpb.AnnounceRequest) (*clusterpb.AnnounceResponse, error) {
	id := from(ctx)
	if err := s.c.updateSelf(ctx, id, req.GetInfo(), id); err != nil {
		return nil, err
	}
	return &clusterpb.AnnounceResponse{}, nil
}

// Admit implements [clusterpb.PeerServer].
func (s *peerService) Admit(ctx context.Context, req *clusterpb.AdmitRequest) (*clusterpb.AdmitResponse, error) {
	index, err := s.c.admit(ctx, applicant{
		id: NodeID(req.GetNodeId()), spki: req.GetPublicKey(), info: req.GetInfo(), token: req.GetTokenKey(), signature: req.GetSignature(),
	}, from(ctx))
	if err != nil {
		return nil, err
	}
	return &clusterpb.AdmitResponse{Index: index}, nil
}

// Members implements [clusterpb.PeerServer].
func (s *peerService) Members(context.Context, *clusterpb.MembersRequest) (*clusterpb.MembersResponse, error) {
	return &clusterpb.MembersResponse{Members: toProto(s.c.trust.current())}, nil
}

// IssueCertificate implements [clusterpb.PeerServer].
func (s *peerService) IssueCertificate(ctx context.Context, req *clusterpb.IssueCertificateRequest) (*clusterpb.IssueCertificateResponse, error) {
	if err := s.c.machine.Wait(ctx, req.GetIndex()); err != nil {
		return nil, errs.From(err)
	}
	cert, err := s.c.issue(ctx, NodeID(req.GetNodeId()))
	if err != nil {
		return nil, err
	}
	return &clusterpb.IssueCertificateResponse{Certificate: &clusterpb.Certificate{Chain: cert.Chain, Authorities: cert.Authorities}}, nil
}

// StateDigest implements [clusterpb.PeerServer].
func (s *peerService) StateDigest(ctx context.Context, _ *clusterpb.StateDigestRequest) (*clusterpb.StateDigestResponse, error) {
	return s.c.compared.answer(from(ctx))
}

func toProto(all []trusted) []*clusterpb.Trusted {
	out := make([]*clusterpb.Trusted, len(all))
	for i, t := range all {
		out[i] = &clusterpb.Trusted{NodeId: string(t.ID), PublicKey: t.PublicKey, PeerAddress: t.Address}
	}
	return out
}

func fromProto(all []*clusterpb.Trusted) []trusted {
	out := make([]trusted, 0, len(all))
	for _, t := range all {
		out = append(out, trusted{ID: NodeID(t.GetNodeId()), PublicKey: t.GetPublicKey(), Address: t.GetPeerAddress()})
	}
	return out
}
