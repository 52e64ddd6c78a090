package server

import (
	"context"
	"encoding/hex"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

type clusterServer struct {
	kryptonv1.UnimplementedClusterServer
	*calls
}

const (
	// healthTimeout bounds how long a list of nodes waits for one that is away.
	healthTimeout = 500 * time.Millisecond
	// healthAtOnce bounds how many nodes are asked at a time.
	healthAtOnce = 64
	// waitMargin is how long before a call's deadline a wait answers that it is
	// not done yet, so that the answer arrives.
	waitMargin = 250 * time.Millisecond

	defaultTokenLife = time.Hour
	maxTokenLife     = 24 * time.Hour

	operationPrefix = "operations/"
	nodePrefix      = "nodes/"
)

func (c *calls) clusterInfo(v *fsm.View) *kryptonv1.ClusterInfo {
	cl := v.Cluster()
	out := &kryptonv1.ClusterInfo{
		Name: cl.GetName(), KeyspaceId: hex.EncodeToString(cl.GetKeyspaceId()), ClusterId: hex.EncodeToString(cl.GetClusterId()),
		Fingerprint: hex.EncodeToString(cl.GetFingerprint()), Term: c.cluster.Term(), AppliedIndex: v.Index(),
		FormatVersion: cl.GetFormatVersion(), VotersWanted: cl.GetSettings().GetVoters(), Held: v.Hold().GetHeld(),
		InternalKeyVersion: cl.GetInternalKeyPrimary(),
		LeaseDuration:      durationpb.New(v.LeaseDuration()),
		RollbackWindow:     durationpb.New(time.Duration(cl.GetSettings().GetRollbackWindowMs()) * time.Millisecond),
		DestroyWait:        durationpb.New(time.Duration(cl.GetSettings().GetDestroyWaitMs()) * time.Millisecond),
		Rules:              rulesToAPI(cl.GetRules()),
	}
	if v.Initialized() {
		out.Etag = etag(cl.GetModIndex())
		pending, approved, stuck := approvalsOpen(v, c.clock.Now())
		out.ApprovalsPending, out.ApprovalsApproved, out.ApprovalsStuck = count(pending), count(approved), count(stuck)
		now, agreed := v.Voters()
		out.Voters, out.VotersAgreed = count(now), count(agreed)
	}
	if id := c.cluster.LeaderID(); id != "" {
		out.Leader = node.NodeName(string(id))
	}
	return out
}

// GetCluster implements kryptonv1.ClusterServer.
func (s clusterServer) GetCluster(ctx context.Context, _ *kryptonv1.GetClusterRequest) (*kryptonv1.ClusterInfo, error) {
	var out *kryptonv1.ClusterInfo
	err := s.do(ctx, gate.GetCluster, node.ObjectCluster, func(gate.Token) error {
		out = s.clusterInfo(s.look(ctx).View) // what is, and not what is complete: it is for who mends it
		out.Limited = s.limitedOnes(s.clock.Now())
		return nil
	})
	return out, err
}

// describe shows one member. The Raft configuration says what it is, the member
// entry what it is wanted to be. The report is what the member said of everybody's
// leases, nil if it does not lead.
func (s clusterServer) describe(ctx context.Context, m *fsmpb.Member) (*kryptonv1.Node, *cluster.LeaseReport) {
	out := &kryptonv1.Node{
		Name: node.NodeName(m.GetId()), Id: m.GetId(), DisplayName: m.GetName(), Etag: etag(m.GetModIndex()),
		Region: m.GetRegion(), Zone: m.GetZone(), GrpcAddress: m.GetGrpcAddress(), RestAddress: m.GetRestAddress(),
		PeerAddress: m.GetPeerAddress(), Leader: string(s.cluster.LeaderID()) == m.GetId(), Self: m.GetId() == s.nodeID,
		CreateTime: stamp(m.GetCreateTimeMs()), Removed: m.GetRemoved(), Votes: m.GetVoter() && !m.GetRemoved(), Role: kryptonv1.NodeRole_NODE_ROLE_NON_VOTER,
	}
	switch voter := s.cluster.IsVoter(cluster.NodeID(m.GetId())); {
	case voter:
		out.Role = kryptonv1.NodeRole_NODE_ROLE_VOTER
	case m.GetVoter():
		out.Role = kryptonv1.NodeRole_NODE_ROLE_BECOMING_VOTER
	}
	if m.GetRemoved() {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	h, err := s.cluster.Health(ctx, cluster.NodeID(m.GetId()))
	if err != nil {
		out.Health = &kryptonv1.NodeHealth{NotServingReason: "it does not answer this node"}
		return out, nil
	}
	out.Health = &kryptonv1.NodeHealth{
		Reachable: true, Seal: sealStates[h.SealState], Serving: h.Serving, NotServingReason: whyNot(h),
		AppliedIndex: h.AppliedIndex, Version: h.Version, MemoryTier: h.MemoryTier, MaxFormat: h.MaxFormat,
		DiskFreeBytes: h.Space.DataFree, DiskTotalBytes: h.Space.DataTotal, AuditFreeBytes: h.Space.AuditFree,
		WallTime: timestamppb.New(h.Wall), ClockOffset: durationpb.New(h.ClockOffset),
		MemoryUsedBytes: h.Memory.Used, MemoryLimitBytes: h.Memory.Limit, Hardened: h.Memory.Hardened,
	}
	if h.Contact >= 0 {
		out.Health.ContactAge = durationpb.New(h.Contact)
	}
	out.Health.LeaseRefusal = h.LeaseRefusal
	if h.Lease > 0 {
		out.Health.LeaseRemaining = durationpb.New(h.Lease)
	}
	if r := h.Leases; r != nil {
		leads := &kryptonv1.LeaderLeases{Term: r.Term, CompleteIndex: r.Complete, Fences: uint32(r.Fences)} //nolint:gosec // Callers of one node are fewer.
		for _, w := range r.Waits {
			leads.Waits = append(leads.Waits, &kryptonv1.LeaseWait{Node: node.NodeName(string(w.Node)), AtMost: durationpb.New(w.Remaining)})
		}
		out.Health.LeaderLeases = leads
	}
	return out, h.Leases
}

// addHoldings adds to nodes what the leader of the latest of these reports knows
// of them: a node that leads no more may not know it yet.
func addHoldings(nodes []*kryptonv1.Node, reports ...*cluster.LeaseReport) {
	var newest *cluster.LeaseReport
	for _, r := range reports {
		if r != nil && (newest == nil || r.Term > newest.Term) {
			newest = r
		}
	}
	if newest == nil {
		return
	}
	known := map[string]cluster.LeaseHolder{}
	for _, h := range newest.Holders {
		known[string(h.ID)] = h
	}
	for _, n := range nodes {
		h, ok := known[n.GetId()]
		if n.GetHealth() == nil || !ok {
			continue
		}
		holding := &kryptonv1.LeaseHolding{Lag: h.Lag, Held: durationpb.New(h.Held)}
		if h.Drift.Over > 0 {
			holding.ClockOver, holding.ClockAhead = durationpb.New(h.Drift.Over), durationpb.New(h.Drift.Ahead)
		}
		n.Health.LeaseHolding = holding
	}
}

// whyNot says in a few words why a node does not serve; its own /readyz has the
// whole sentence.
func whyNot(h cluster.Health) string {
	switch {
	case h.Serving:
		return ""
	case h.StateCorrupt != "":
		return errs.StateCorrupt.String() + ": " + h.StateCorrupt
	case h.SealState != node.StateUnsealed:
		return h.SealState
	case h.Uncompared != "":
		return h.Uncompared + "; docs/runbooks/state-not-proved.md"
	case h.Lease > 0:
		return "it has a lease, and its /readyz says what is missing"
	case h.LeaseRefusal != "":
		return "no serving lease: the leader refuses: " + h.LeaseRefusal
	}
	return "no serving lease"
}

//nolint:gochecknoglobals // Immutable table.
var sealStates = map[string]kryptonv1.SealState{
	node.StateUninitialized: kryptonv1.SealState_SEAL_STATE_UNINITIALIZED,
	node.StateSealed:        kryptonv1.SealState_SEAL_STATE_SEALED,
	node.StateUnsealed:      kryptonv1.SealState_SEAL_STATE_UNSEALED,
}

// ListNodes implements kryptonv1.ClusterServer. It asks every node how it is,
// all at once.
func (s clusterServer) ListNodes(ctx context.Context, _ *kryptonv1.ListNodesRequest) (*kryptonv1.ListNodesResponse, error) {
	out := &kryptonv1.ListNodesResponse{}
	err := s.do(ctx, gate.ListNodes, "nodes", func(gate.Token) error {
		members := s.look(ctx).View.Members()
		out.Nodes = make([]*kryptonv1.Node, len(members))
		reports := make([]*cluster.LeaseReport, len(members))
		var g errgroup.Group
		g.SetLimit(healthAtOnce)
		for i, m := range members {
			g.Go(func() error {
				out.Nodes[i], reports[i] = s.describe(ctx, m)
				return nil
			})
		}
		err := g.Wait()
		addHoldings(out.GetNodes(), reports...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// nodeID takes the id out of nodes/{id}. Ids are 32 hex digits.
func nodeID(name string) (string, error) {
	id, ok := strings.CutPrefix(name, nodePrefix)
	if !ok || !cluster.NodeID(id).Valid() {
		return "", errs.New(errs.InvalidArgument, "the name of a node is nodes/ and 32 hex digits", errs.Hint("krypton operator members lists them"))
	}
	return id, nil
}

func (s clusterServer) node1(ctx context.Context, v *fsm.View, id string) (*kryptonv1.Node, error) {
	m, ok := v.Member(id)
	if !ok {
		return nil, gate.NoSuchObject()
	}
	n, report := s.describe(ctx, m)
	if leader := s.cluster.LeaderID(); report == nil && leader != "" {
		ctx, cancel := context.WithTimeout(ctx, healthTimeout)
		defer cancel()
		if h, err := s.cluster.Health(ctx, leader); err == nil {
			report = h.Leases
		}
	}
	addHoldings([]*kryptonv1.Node{n}, report)
	return n, nil
}

// GetNode implements kryptonv1.ClusterServer.
func (s clusterServer) GetNode(ctx context.Context, r *kryptonv1.GetNodeRequest) (*kryptonv1.Node, error) {
	id, err := nodeID(r.GetName())
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Node
	err = s.do(ctx, gate.GetNode, r.GetName(), func(gate.Token) (err error) {
		l := s.look(ctx)
		out, err = s.node1(ctx, l.View, id)
		return s.shown(ctx, l, 0, err)
	})
	return out, err
}

// tokenExpiry returns when a join token ends, unix milliseconds.
func (s clusterServer) tokenExpiry(r *kryptonv1.CreateJoinTokenRequest) (int64, error) {
	now, life := s.clock.Now(), time.Duration(r.GetTtlSeconds())*time.Second
	if at := r.GetExpireTime(); at != nil {
		if at.CheckValid() != nil || life != 0 || !at.AsTime().After(now) || at.AsTime().Nanosecond()%int(time.Millisecond) != 0 {
			return 0, errs.New(errs.InvalidArgument, "expire_time is no time to come in whole milliseconds, or stands beside ttl_seconds", errs.Hint("give one of both"))
		}
		life = at.AsTime().Sub(now)
	}
	switch {
	case life == 0:
		life = defaultTokenLife
	case life > maxTokenLife:
		return 0, errs.New(errs.InvalidArgument, "the join token would live too long", errs.Hint("ttl_seconds is at most %d; 0 means %d", maxTokenLife/time.Second, defaultTokenLife/time.Second))
	}
	return now.Add(life).UnixMilli(), nil
}

// CreateJoinToken implements kryptonv1.ClusterServer.
func (s clusterServer) CreateJoinToken(ctx context.Context, r *kryptonv1.CreateJoinTokenRequest) (*kryptonv1.CreateJoinTokenResponse, error) {
	expires, err := s.tokenExpiry(r)
	if err != nil {
		return nil, err
	}
	if n := len(r.GetKeyHash()); n != 0 && n != 32 {
		return nil, errs.New(errs.InvalidArgument, "key_hash is not 32 bytes", errs.Hint("the SHA-256 of an Ed25519 public key, or nothing"))
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.CreateJoinTokenResponse{}
	err = s.do(ctx, gate.CreateJoinToken, node.ObjectCluster, func(tok gate.Token) error {
		if r.GetRegion() != "" {
			if _, err := hierarchy.ParseName(r.GetRegion()); err != nil {
				return inField("region", err)
			}
		}
		t, err := s.cluster.JoinToken()
		if err != nil {
			return err
		}
		hash, text := t.Hash(), t.Text
		if len(r.GetKeyHash()) > 0 {
			hash, text = [32]byte(r.GetKeyHash()), t.Blank
		}
		if err := s.node.CreateJoinToken(ctx, tok, req, &fsmpb.JoinToken{
			Hash: hash[:], ExpireTimeMs: expires, Voter: r.GetVoter(), Region: r.GetRegion(),
		}); errs.Is(err, errs.NotComplete) {
			return errs.From(err).With(errs.Hint("nobody has seen this token: make another one, with a new request id and more time"))
		} else if err != nil {
			return err
		}
		// A retry makes a new secret, but the first answer stands in the
		// registry. Only the one that stands may go out.
		if _, ok := s.machine.View().JoinToken(hash[:]); !ok && !req.ValidateOnly {
			return errs.New(errs.FailedState, "this request made a token before, which was shown once",
				errs.Hint("make another one, with a new request id"))
		}
		out.Token, out.ExpireTime = text(), stamp(expires)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// changeNode runs a change of a member and answers with it.
func (s clusterServer) changeNode(ctx context.Context, act gate.Act, m interface {
	proto.Message
	GetName() string
}, fn func(tok gate.Token, req node.Request, id string) error,
) (*kryptonv1.Node, error) {
	id, err := nodeID(m.GetName())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, m)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Node
	err = s.do(ctx, act, m.GetName(), func(tok gate.Token) (err error) {
		if err := fn(tok, req, id); err != nil {
			return err
		}
		out, err = s.node1(ctx, s.machine.View(), id)
		return err
	})
	return out, err
}

// PromoteNode implements kryptonv1.ClusterServer.
func (s clusterServer) PromoteNode(ctx context.Context, r *kryptonv1.PromoteNodeRequest) (*kryptonv1.Node, error) {
	return s.changeNode(ctx, gate.PromoteNode, r, func(tok gate.Token, req node.Request, id string) error {
		return s.node.SetSuffrage(ctx, tok, req, id, node.Voter)
	})
}

// DemoteNode implements kryptonv1.ClusterServer.
func (s clusterServer) DemoteNode(ctx context.Context, r *kryptonv1.DemoteNodeRequest) (*kryptonv1.Node, error) {
	return s.changeNode(ctx, gate.DemoteNode, r, func(tok gate.Token, req node.Request, id string) error {
		return s.node.SetSuffrage(ctx, tok, req, id, node.NonVoter)
	})
}

// RemoveNode implements kryptonv1.ClusterServer.
func (s clusterServer) RemoveNode(ctx context.Context, r *kryptonv1.RemoveNodeRequest) (*kryptonv1.Node, error) {
	return s.changeNode(ctx, gate.RemoveNode, r, func(tok gate.Token, req node.Request, id string) error {
		return s.node.RemoveMember(ctx, tok, req, id)
	})
}

// TransferLeadership implements kryptonv1.ClusterServer. Only the leader can
// hand over; another node says who it is.
func (s clusterServer) TransferLeadership(ctx context.Context, r *kryptonv1.TransferLeadershipRequest) (*kryptonv1.ClusterInfo, error) {
	target := ""
	if r.GetTarget() != "" {
		var err error
		if target, err = nodeID(r.GetTarget()); err != nil {
			return nil, err
		}
	}
	if _, err := s.request(ctx, r); err != nil {
		return nil, err
	}
	var out *kryptonv1.ClusterInfo
	err := s.do(ctx, gate.TransferLeadership, node.ObjectCluster, func(gate.Token) error {
		if target != "" {
			if m, ok := s.machine.View().Member(target); !ok || m.GetRemoved() {
				return gate.NoSuchObject()
			}
		}
		if !s.cluster.IsLeader() {
			if at := s.cluster.LeaderAddress(); at != "" {
				return errs.New(errs.NoLeader, "this node does not lead", errs.Hint("ask the leader: %s", at))
			}
			return errs.New(errs.NoLeader, "this node does not lead and knows no leader", errs.Hint("retry; see krypton operator members"))
		}
		if err := s.cluster.TransferLeadership(ctx, cluster.NodeID(target)); err != nil {
			return err
		}
		out = s.clusterInfo(s.machine.View())
		return nil
	})
	return out, err
}

// SetQuorum implements kryptonv1.ClusterServer.
func (s clusterServer) SetQuorum(ctx context.Context, r *kryptonv1.SetQuorumRequest) (*kryptonv1.ClusterInfo, error) {
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.ClusterInfo
	err = s.do(ctx, gate.SetQuorum, node.ObjectCluster, func(tok gate.Token) error {
		if err := s.node.SetQuorum(ctx, tok, req, r.GetGovernors(), r.GetCustodians()); err != nil {
			return err
		}
		out = s.clusterInfo(s.machine.View())
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// operationID takes the request id out of operations/{id}, in the spelling in
// which it is remembered.
func operationID(name string) (string, error) {
	id, ok := strings.CutPrefix(name, operationPrefix)
	u, err := uuid.Parse(id)
	if !ok || len(id) != 36 || err != nil {
		return "", errs.New(errs.InvalidArgument, "the name of an operation is operations/ and the request id of the change",
			errs.Hint("such as operations/0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b"))
	}
	return u.String(), nil
}

// operation finds what became of a change of the same caller, from the memory of
// requests: so any node answers, and the next leader too. A rotation is two entries
// of the log, and done with the second: an interrupted one is found as not done, and
// the same request id finishes it. complete is a change that the caller knows to be.
func (s clusterServer) operation(ctx context.Context, v *fsm.View, p *fsmpb.Principal, id string, complete uint64) (*kryptonv1.Operation, error) {
	first, ok := v.Request(p, id, 0)
	if !ok {
		return nil, gate.NoSuchObject()
	}
	last, done := first, true
	if first.GetKind() == kindAddVersion && first.GetResult().GetReason() == "" {
		var second *fsmpb.Request
		if second, done = v.Request(p, id, 1); done {
			last = second
		}
	}
	res := last.GetResult()
	out := &kryptonv1.Operation{
		Name: operationPrefix + id, Target: res.GetObject(), CreateTime: stamp(first.GetTimeMs()), Index: res.GetIndex(),
	}
	if via := last.GetViaNode(); via != "" {
		out.ViaNode = node.NodeName(via)
	}
	how := cluster.Completion{Complete: true}
	if res.GetIndex() > complete {
		how = s.cluster.Completion(ctx, res.GetIndex())
	}
	if how.Complete {
		// A refusal changed nothing, but it tells of the state that it was made by.
		out.Reason, out.Message, out.Hint = res.GetReason(), res.GetMessage(), res.GetHint()
	}
	out.Complete = how.Complete
	out.Done = done && how.Complete
	for _, n := range how.Pending {
		out.PendingNodes = append(out.PendingNodes, node.NodeName(string(n.Node)))
	}
	if !how.Latest.IsZero() {
		out.CompleteByTime = timestamppb.New(how.Latest)
	}
	return out, nil
}

// kindAddVersion is how the registry calls the first entry of a rotation; only
// rotations have it.
const kindAddVersion = "add_version"

// GetOperation implements kryptonv1.ClusterServer.
func (s clusterServer) GetOperation(ctx context.Context, r *kryptonv1.GetOperationRequest) (*kryptonv1.Operation, error) {
	id, err := operationID(r.GetName())
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Operation
	err = s.do(ctx, gate.GetOperation, operationPrefix+id, func(tok gate.Token) (err error) {
		p, l := cluster.PrincipalOf(tok, cluster.NodeID(s.nodeID)), s.look(ctx)
		if out, err = s.operation(ctx, l.View, p, id, 0); !errs.Is(err, errs.NotFound) {
			return err
		}
		// The change may have been answered, unwaited for, by a node that knows more. Who
		// hears that there is none makes another one, so this is not for a node that lags.
		if err := s.cluster.CatchUp(ctx); err != nil {
			return err
		}
		l = s.look(ctx)
		if out, err = s.operation(ctx, l.View, p, id, 0); l.Stale && errs.Is(err, errs.NotFound) {
			return s.cannotKnow()
		}
		return err
	})
	return out, err
}

// WaitOperation implements kryptonv1.ClusterServer. It waits until this node has
// seen the change and the change is complete, or the call's deadline passed.
func (s clusterServer) WaitOperation(ctx context.Context, r *kryptonv1.WaitOperationRequest) (*kryptonv1.Operation, error) {
	id, err := operationID(r.GetName())
	if err != nil {
		return nil, err
	}
	wait := ctx
	if at, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(ctx, at.Add(-waitMargin))
		defer cancel()
	}
	out := &kryptonv1.Operation{Name: operationPrefix + id}
	err = s.do(ctx, gate.WaitOperation, operationPrefix+id, func(tok gate.Token) error {
		p := cluster.PrincipalOf(tok, cluster.NodeID(s.nodeID))
		for complete := uint64(0); ; {
			v := s.look(ctx).View
			if op, err := s.operation(wait, v, p, id, complete); err == nil {
				out = op
			}
			if out.GetDone() {
				return nil
			}
			if out.GetIndex() != 0 && !out.GetComplete() {
				if s.cluster.WaitComplete(wait, out.GetIndex()) == nil {
					complete = out.GetIndex()
					continue
				}
				return nil // with what was known when the wait began
			}
			select {
			case <-v.Superseded():
			case <-wait.Done():
				return nil
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
