package cluster

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// Member returns the member entry of this node as it would be, for a genesis:
// a voter.
func (c *Cluster) Member() *fsmpb.Member {
	m := memberOf(applicant{id: c.id, spki: c.PublicKey(), info: c.info()})
	m.Voter = true
	return m
}

func (c *Cluster) info() *clusterpb.NodeInfo {
	s := c.cfg.Self
	return &clusterpb.NodeInfo{
		Name: s.Name, PeerAddress: c.advertise, GrpcAddress: s.GRPCAddress, RestAddress: s.RESTAddress,
		Region: s.Region, Zone: s.Zone, Version: s.Version, MaxFormat: s.MaxFormat,
	}
}

func memberOf(a applicant) *fsmpb.Member {
	i := a.info
	return &fsmpb.Member{
		Id: string(a.id), Name: i.GetName(), PublicKey: a.spki, PeerAddress: i.GetPeerAddress(), GrpcAddress: i.GetGrpcAddress(),
		RestAddress: i.GetRestAddress(), Region: i.GetRegion(), Zone: i.GetZone(), Version: i.GetVersion(), MaxFormat: i.GetMaxFormat(),
	}
}

// Bootstrap founds a cluster with this node as its one voter and commits the
// genesis command, whose first member must be [Cluster.Member]. A bootstrap that
// a crash cut short is repeated by calling it again: with the same genesis, or
// with another one if the first never became part of the log. Run must be
// running or start meanwhile. Errors: FailedState when the node is a member already.
func (c *Cluster) Bootstrap(ctx context.Context, tok gate.Token, genesis *fsmpb.Command) (*fsmpb.Result, error) {
	g := genesis.GetGenesis()
	principal, correlation := PrincipalOf(tok, c.id), string(tok.Correlation())
	if m := g.GetFirstMember(); NodeID(m.GetId()) != c.id || string(m.GetPublicKey()) != string(c.key.spki) {
		return nil, errs.New(errs.InvalidArgument, "the first member of the genesis is not this node")
	}
	if c.cfg.Dir.Membership() == MembershipMember {
		return nil, ErrInitialised()
	}
	raw, err := fsm.EncodeGenesis(g)
	if err != nil {
		return nil, err
	}
	if err := c.trust.learn([]trusted{{ID: c.id, PublicKey: c.key.spki, Address: c.advertise}}); err != nil {
		return nil, err
	}
	if err := c.cfg.Dir.update(func(n *nodeRecord) { n.Membership = MembershipBootstrapping }); err != nil {
		return nil, err
	}
	err = c.await(ctx, func() error {
		return c.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{
			{Suffrage: raft.Voter, ID: raft.ServerID(c.id), Address: raft.ServerAddress(c.id)},
		}}).Error()
	})
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return nil, errs.New(errs.Unavailable, "the log cannot be started: "+err.Error(), errs.Cause(err))
	}
	if err := c.lead(ctx); err != nil {
		return nil, err
	}
	if !c.machine.View().Initialized() {
		genesis = copyCommand(genesis)
		genesis.Principal, genesis.CorrelationId = principal, correlation
		if _, err := c.internal(ctx, genesis, ""); err != nil && !c.machine.View().Initialized() {
			return nil, err
		}
	}
	sum := fsm.Fingerprint(raw)
	if string(c.machine.View().Cluster().GetFingerprint()) != string(sum[:]) {
		return nil, ErrInitialised() // an earlier bootstrap was completed meanwhile
	}
	cl := c.machine.View().Cluster()
	if err := c.adopt(); err != nil {
		return nil, err
	}
	c.awaitLease(ctx)
	return &fsmpb.Result{Index: c.machine.View().Index(), Object: "cluster", Uid: cl.GetClusterId()}, nil
}

// awaitLease gives a node that founded a cluster the moment that its first lease
// takes, so that it serves when its founder hears of it. Founding is done already:
// without a lease the node says so itself.
func (c *Cluster) awaitLease(ctx context.Context) {
	for range 100 {
		if c.LeaseErr() == nil || !pause(ctx, c.clk, 10*time.Millisecond) {
			return
		}
	}
}

// ErrInitialised is the answer to whoever wants to make a cluster of a node that
// has one, which may be what an init whose answer was lost has left.
func ErrInitialised() error {
	return errs.New(errs.FailedState, "this node belongs to a cluster already",
		errs.Hint("if nobody got its shares and certificates, nothing is lost: stop the node, empty its data directory, start it, and run krypton init again"))
}

// FinishBootstrap ends what a bootstrap that died in the middle began: if the
// genesis is in the log, this node is a member; if not, it belongs to no cluster.
// Until it returns that is not known. For every other node it returns at once.
// Run must be running.
func (c *Cluster) FinishBootstrap(ctx context.Context) error {
	if c.cfg.Dir.Membership() != MembershipBootstrapping {
		return nil
	}
	if last, err := c.store.LastIndex(); err != nil || last == 0 {
		return err
	}
	if err := c.lead(ctx); err != nil || !c.machine.View().Initialized() {
		return err
	}
	return c.adopt()
}

// lead waits until this node leads and has applied what its log held before.
func (c *Cluster) lead(ctx context.Context) error {
	changes, stop := c.leaders.subscribe()
	defer stop()
	for {
		if c.IsLeader() {
			err := c.await(ctx, func() error { return c.raft.Barrier(enqueueTime).Error() })
			if err == nil {
				return nil
			}
		}
		wait, cancel := context.WithTimeout(ctx, retryPause)
		select {
		case <-changes:
		case <-wait.Done():
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return errs.From(ctx.Err())
		case c.Cause() != nil:
			return c.Cause()
		case c.base.Err() != nil:
			return errs.New(errs.Unavailable, "the node is shutting down")
		}
	}
}

// adopt makes the directory that of a member, from the facts in the view.
func (c *Cluster) adopt() error {
	cl := c.machine.View().Cluster()
	return c.cfg.Dir.update(func(n *nodeRecord) {
		n.Membership = MembershipMember
		n.ClusterID = hex.EncodeToString(cl.GetClusterId())
		n.KeyspaceID = hex.EncodeToString(cl.GetKeyspaceId())
		n.Fingerprint = hex.EncodeToString(cl.GetFingerprint())
	})
}

// JoinToken makes a token for this cluster that names up to [MaxTokenSeeds] of
// its voters, this node first. The caller commits its hash by CreateJoinToken.
func (c *Cluster) JoinToken() (JoinToken, error) {
	view := c.machine.View()
	if !view.Initialized() {
		return JoinToken{}, errs.New(errs.FailedState, "the cluster is not initialised", errs.Hint("run krypton init first"))
	}
	seeds := []Seed{{Address: c.advertise, KeyHash: c.key.hash}}
	for _, m := range view.Members() {
		if len(seeds) < MaxTokenSeeds && m.GetVoter() && !m.GetRemoved() && m.GetId() != string(c.id) && checkAddress(m.GetPeerAddress()) == nil {
			seeds = append(seeds, Seed{Address: m.GetPeerAddress(), KeyHash: sha256.Sum256(m.GetPublicKey())})
		}
	}
	return NewJoinToken(c.cfg.Rand, [32]byte(view.Cluster().GetFingerprint()), seeds)
}

// Join makes this node a member of the cluster that the token names, as a
// non-voter. A join that was cut short is repeated with the same token. The
// certificate is zero when no unsealed member could be reached; see
// [Cluster.RequestCertificate]. Errors: FailedState when the node is a member
// already, Denied when the token does not admit it, Unavailable when no member
// in the token can be reached. Where members can be reached that have no leader
// just now it asks again, for [joinPatience].
func (c *Cluster) Join(ctx context.Context, token JoinToken) (Certificate, error) {
	if err := token.check(); err != nil {
		return Certificate{}, errs.New(errs.InvalidArgument, "the join token is empty", errs.Cause(err))
	}
	if c.cfg.Dir.Membership() != MembershipNone {
		return Certificate{}, errs.New(errs.FailedState, "this node belongs to a cluster already", errs.Hint("if its join was given again because the answer was lost, it is done: look with krypton status; for another cluster use an empty data directory"))
	}
	for begun := c.clk.Now(); ; {
		resp, err := c.askSeeds(ctx, token)
		if err == nil {
			return c.joined(resp, token)
		}
		if !electing(err) || c.clk.Since(begun) > joinPatience || c.clk.Sleep(ctx, joinPause) != nil {
			return Certificate{}, err
		}
	}
}

// A node asks to be let in again, in these steps and for so long, while the members
// that it reaches elect: a person would do no more than type the same again.
const (
	joinPatience = 15 * time.Second
	joinPause    = 250 * time.Millisecond
)

// electing reports whether a join failed for want of a leader. Of a leader that was
// lost in the middle it is not known what it did, and the same token says it again.
func electing(err error) bool { return errs.Is(err, errs.NoLeader) || errs.Is(err, errs.Indeterminate) }

// askSeeds asks the members that the token names, one after the other. A member that
// can be reached says more than one that cannot, whichever was asked last.
func (c *Cluster) askSeeds(ctx context.Context, token JoinToken) (*clusterpb.JoinResponse, error) {
	unreached := errs.New(errs.Unavailable, "no member that the join token names can be reached",
		errs.Hint("check the addresses and the network, then join again with the same token"))
	var wait error
	for _, seed := range token.Seeds {
		resp, err := c.askToJoin(ctx, seed, token)
		if err == nil {
			return resp, nil
		}
		c.log.LogAttrs(ctx, slog.LevelWarn, "join refused", slog.String("seed", seed.Address), slog.Any("error", err))
		switch code := errs.Of(err); {
		case code.Row().Retry == errs.RetryNever && code != errs.Internal:
			return nil, err
		case electing(err):
			wait = err
		}
		unreached = unreached.With(errs.Cause(err))
	}
	if wait != nil {
		return nil, wait
	}
	return nil, unreached
}

func (c *Cluster) askToJoin(ctx context.Context, seed Seed, token JoinToken) (*clusterpb.JoinResponse, error) {
	cc, err := grpc.NewClient("passthrough:///"+seed.Address, clientOptions(func(ctx context.Context, _ string) (net.Conn, error) {
		return c.port.dialKey(ctx, seed.Address, seed.KeyHash, protoJoin)
	})...)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "the address in the join token cannot be used", errs.Cause(err))
	}
	defer func() { _ = cc.Close() }()
	info := c.info()
	key, signature := token.applies(memberOf(applicant{id: c.id, spki: c.PublicKey(), info: info}))
	resp, err := clusterpb.NewJoinClient(cc).Join(ctx, &clusterpb.JoinRequest{NodeId: string(c.id), TokenKey: key, Signature: signature, Info: info})
	if err != nil {
		return nil, wire.FromStatus(err)
	}
	return resp, nil
}

// joined checks the answer and makes it this node's own, the trust list first:
// after a crash in between the node is no member yet and joins again.
func (c *Cluster) joined(resp *clusterpb.JoinResponse, token JoinToken) (Certificate, error) {
	members := fromProto(resp.GetMembers())
	if string(resp.GetFingerprint()) != string(token.Fingerprint[:]) || len(resp.GetClusterId()) != 16 || len(resp.GetKeyspaceId()) != 16 || len(members) == 0 ||
		len(resp.GetIncarnation()) != 0 && len(resp.GetIncarnation()) != 16 {
		return Certificate{}, errs.New(errs.Denied, "the answer is not of the cluster that the join token names")
	}
	if err := c.trust.learn(members); err != nil {
		return Certificate{}, err
	}
	if err := c.compared.named(token.Seeds); err != nil {
		return Certificate{}, err
	}
	if err := c.cfg.Dir.update(func(n *nodeRecord) {
		n.Membership = MembershipMember
		n.ClusterID = hex.EncodeToString(resp.GetClusterId())
		n.KeyspaceID = hex.EncodeToString(resp.GetKeyspaceId())
		n.Fingerprint = hex.EncodeToString(resp.GetFingerprint())
		n.Incarnation = hex.EncodeToString(resp.GetIncarnation())
	}); err != nil {
		return Certificate{}, err
	}
	return Certificate{Chain: resp.GetCertificate().GetChain(), Authorities: resp.GetCertificate().GetAuthorities()}, nil
}

// applicant asks to become a member. Its public key is the one of its
// connection.
type applicant struct {
	id   NodeID
	spki []byte // SubjectPublicKeyInfo, DER
	info *clusterpb.NodeInfo

	token     []byte // public key of its join token
	signature []byte // by that key, see [fsm.AdmissionMessage]
}

// joinService answers nodes that are no members yet.
type joinService struct {
	clusterpb.UnimplementedJoinServer

	c *Cluster
}

// Join implements [clusterpb.JoinServer].
func (s *joinService) Join(ctx context.Context, req *clusterpb.JoinRequest) (*clusterpb.JoinResponse, error) {
	conn, ok := sender(ctx)
	if !ok {
		return nil, errs.New(errs.Unauthenticated, "the connection has no identity")
	}
	c := s.c
	if !c.machine.View().Initialized() {
		return nil, errs.New(errs.Unavailable, "this node belongs to no cluster yet")
	}
	if err := c.errRecovering(); err != nil {
		return nil, err
	}
	a := applicant{id: NodeID(req.GetNodeId()), spki: conn.spki, info: req.GetInfo(), token: req.GetTokenKey(), signature: req.GetSignature()}
	index, err := c.admitAnywhere(ctx, a)
	if err != nil {
		return nil, err
	}
	if err := c.machine.Wait(ctx, index); err != nil {
		return nil, errs.From(err)
	}
	cl := c.machine.View().Cluster()
	resp := &clusterpb.JoinResponse{
		Fingerprint: cl.GetFingerprint(), ClusterId: cl.GetClusterId(), KeyspaceId: cl.GetKeyspaceId(),
		Members: toProto(c.trust.current()), Incarnation: c.cfg.Dir.Incarnation(),
	}
	cert, err := c.certificateFor(ctx, a.id)
	if err != nil {
		// The node is a member already; it asks for its certificate again.
		c.log.LogAttrs(ctx, slog.LevelWarn, "no certificate for a joining node yet", slog.String("peer", string(a.id)), slog.Any("error", err))
		return resp, nil
	}
	resp.Certificate = &clusterpb.Certificate{Chain: cert.Chain, Authorities: cert.Authorities}
	return resp, nil
}

// admitAnywhere admits here or at the leader.
func (c *Cluster) admitAnywhere(ctx context.Context, a applicant) (uint64, error) {
	now := c.Leadership()
	if now.IsLeader {
		return c.admit(ctx, a, "")
	}
	if now.LeaderID == "" {
		return 0, errNoLeader(nil)
	}
	p, err := c.peers.ready(ctx, now.LeaderID)
	if err != nil {
		return 0, errNoLeader(err)
	}
	resp, err := p.Admit(ctx, &clusterpb.AdmitRequest{NodeId: string(a.id), PublicKey: a.spki, TokenKey: a.token, Signature: a.signature, Info: a.info})
	if err != nil {
		return 0, sent(ctx, err)
	}
	return resp.GetIndex(), nil
}

// admit makes the applicant a member, on the leader. Neither the leader nor the node
// that was asked gets the secret of the token: they see its public key, and a
// signature that is good for this node alone. Every replica verifies it.
func (c *Cluster) admit(ctx context.Context, a applicant, via NodeID) (uint64, error) {
	if !a.id.Valid() || len(a.token) != ed25519.PublicKeySize {
		return 0, errs.New(errs.InvalidArgument, "the join request is malformed")
	}
	if err := checkAddress(a.info.GetPeerAddress()); err != nil {
		return 0, errs.New(errs.InvalidArgument, "the peer address of the joining node cannot be used: "+err.Error())
	}
	hash := sha256.Sum256(a.token)
	if err := c.catchUp(ctx); err != nil {
		return 0, err
	}
	if index, ok := c.admitted(a, hash); ok {
		return index, nil
	}
	// The state machine decides; but a stranger without a token must not be able
	// to fill the log with refusals.
	view := c.machine.View()
	tok, ok := view.JoinToken(hash[:])
	if !ok || tok.GetUsedBy() != "" || tok.GetExpireTimeMs() <= c.wall() {
		return 0, errs.New(errs.Denied, "the join token does not admit this node", errs.Hint("a token is good for one node, until it expires; make a new one"))
	}
	m := memberOf(a)
	m.Voter = tok.GetVoter()
	add := &fsmpb.AddMember{Member: m, TokenHash: hash[:]}
	if view.Cluster().GetFormatVersion() >= fsm.FormatProofs { // before, a member of an older release would stop at it
		add.TokenKey, add.Signature = a.token, a.signature
		if err := fsm.CheckAdmission([32]byte(view.Cluster().GetFingerprint()), add); err != nil {
			return 0, err
		}
	}
	res, err := c.internal(ctx, &fsmpb.Command{Body: &fsmpb.Command_AddMember{AddMember: add}}, via)
	if err != nil {
		// The same node may have asked twice, or asks again after it lost the answer.
		if index, ok := c.admitted(a, hash); ok {
			return index, nil
		}
		return 0, err
	}
	c.look()
	return res.GetIndex(), nil
}

// catchUp makes sure, once per term, that this leader's view has everything that
// was committed before it led.
func (c *Cluster) catchUp(ctx context.Context) error {
	term := c.Term()
	if c.caught.Load() == term {
		return nil
	}
	if err := c.await(ctx, func() error { return c.raft.Barrier(enqueueTime).Error() }); err != nil {
		return errNoLeader(err)
	}
	c.caught.Store(term)
	return nil
}

// admitted reports whether the token made exactly this node a member.
func (c *Cluster) admitted(a applicant, hash [32]byte) (uint64, bool) {
	view := c.machine.View()
	tok, ok := view.JoinToken(hash[:])
	if !ok || tok.GetUsedBy() != string(a.id) {
		return 0, false
	}
	m, ok := view.Member(string(a.id))
	if !ok || m.GetRemoved() || string(m.GetPublicKey()) != string(a.spki) {
		return 0, false
	}
	return view.Index(), true
}

// updateSelf changes what the member id says about itself, on the leader.
func (c *Cluster) updateSelf(ctx context.Context, id NodeID, info *clusterpb.NodeInfo, via NodeID) error {
	m, ok := c.machine.View().Member(string(id))
	if !ok || m.GetRemoved() {
		return errs.New(errs.Denied, "not a member")
	}
	fields := differing(m, info)
	if len(fields) == 0 {
		return nil
	}
	if err := checkAddress(info.GetPeerAddress()); err != nil {
		return errs.New(errs.InvalidArgument, "the announced peer address cannot be used: "+err.Error())
	}
	if err := c.freeAddresses(m, info); err != nil {
		return err
	}
	_, err := c.internal(ctx, &fsmpb.Command{Body: &fsmpb.Command_UpdateMember{
		UpdateMember: &fsmpb.UpdateMember{Member: memberOf(applicant{id: id, info: info}), Fields: fields},
	}}, via)
	return err
}

// freeAddresses refuses an address that m newly announces and another member
// has: whoever dials that member would reach this one, find another key, and
// have lost it. An address that m had already is not looked at, so that it can
// go on announcing the rest.
func (c *Cluster) freeAddresses(m *fsmpb.Member, info *clusterpb.NodeInfo) error {
	for _, a := range []struct{ what, has, wants string }{
		{"peer", m.GetPeerAddress(), info.GetPeerAddress()},
		{"gRPC", m.GetGrpcAddress(), info.GetGrpcAddress()},
		{"REST", m.GetRestAddress(), info.GetRestAddress()},
	} {
		if a.wants == "" || a.wants == a.has {
			continue
		}
		for _, o := range c.machine.View().Members() {
			if o.GetRemoved() || o.GetId() == m.GetId() {
				continue
			}
			if a.wants == o.GetPeerAddress() || a.wants == o.GetGrpcAddress() || a.wants == o.GetRestAddress() {
				return errs.New(errs.FailedState, "the announced "+a.what+" address "+a.wants+" is that of member "+o.GetId(),
					errs.Hint("change listen or advertise of one of them, or remove the member that is gone"))
			}
		}
	}
	return nil
}

// differing names the fields of the entry that a member may change by itself
// and that are not what info says.
func differing(m *fsmpb.Member, info *clusterpb.NodeInfo) []string {
	var out []string
	for _, f := range []struct {
		name    string
		differs bool
	}{
		{"peer_address", m.GetPeerAddress() != info.GetPeerAddress()},
		{"grpc_address", m.GetGrpcAddress() != info.GetGrpcAddress()},
		{"rest_address", m.GetRestAddress() != info.GetRestAddress()},
		{"zone", m.GetZone() != info.GetZone()},
		{"version", m.GetVersion() != info.GetVersion()},
		{"max_format", m.GetMaxFormat() != info.GetMaxFormat()},
	} {
		if f.differs {
			out = append(out, f.name)
		}
	}
	return out
}

// announce tells the leader what changed about this node.
func (c *Cluster) announce(ctx context.Context) error {
	m, ok := c.machine.View().Member(string(c.id))
	if !ok || m.GetRemoved() || len(differing(m, c.info())) == 0 {
		return nil
	}
	now := c.Leadership()
	if now.IsLeader {
		return c.updateSelf(ctx, c.id, c.info(), "")
	}
	if now.LeaderID == "" {
		return nil
	}
	p, err := c.peers.ready(ctx, now.LeaderID)
	if err != nil {
		return err
	}
	if _, err = p.Announce(ctx, &clusterpb.AnnounceRequest{Info: c.info()}); err != nil {
		return fmt.Errorf("announce: %w", wire.FromStatus(err))
	}
	return nil
}
