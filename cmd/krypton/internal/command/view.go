package command

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// answer is what one node of --addr said of its seal.
type answer struct {
	addr   string
	status *kryptonv1.SealStatus // nil with err
	err    error
}

// view is what can be seen of a cluster from outside: by everybody the seal of
// each node of --addr, by people also the cluster and all its members.
type view struct {
	answers   []answer
	info      *kryptonv1.ClusterInfo // nil: not seen
	members   []*kryptonv1.Node      // without removed ones; empty: not seen
	memberErr error                  // why the members are not seen

	asked, answered time.Time // when the members were asked, by this machine's clock
}

// offset returns by how much this machine's clock is ahead of one that showed wall
// when the members were asked; 0: no more than that took. One that is away makes it
// take a second.
func (v *view) offset(wall time.Time) time.Duration {
	switch {
	case v.asked.After(wall):
		return v.asked.Sub(wall)
	case v.answered.Before(wall):
		return v.answered.Sub(wall)
	}
	return 0
}

// look asks every node about itself, and one of them about all. Only what was
// asked wrongly is an error: what does not answer is part of the view.
func (in *Invocation) look(ctx context.Context) (*view, error) {
	c, err := in.client(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{}
	in.meter.step("asking %s", plural(len(in.addrs()), "node", "nodes"))
	cctx, cancel := in.deadline(ctx)
	for _, h := range c.Health(cctx) {
		v.answers = append(v.answers, answer{addr: h.Addr, status: h.Seal, err: h.Err})
	}
	cancel()
	in.meter.watch(nil)
	if !slices.ContainsFunc(v.answers, func(a answer) bool {
		return a.err == nil && a.status.GetState() != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED
	}) {
		v.memberErr = errs.New(errs.Unavailable, "no node of a cluster answers")
		return v, nil
	}
	v.memberErr = in.lookInside(ctx, c, v)
	return v, nil
}

// lookInside adds what only people see. Its error says why that is missing: what
// the nodes said of themselves is the answer then.
func (in *Invocation) lookInside(ctx context.Context, c *client.Client, v *view) error {
	info, err := call(ctx, in, c.Cluster().GetCluster, &kryptonv1.GetClusterRequest{})
	if err != nil {
		return err
	}
	v.info = info
	v.asked = time.Now()
	list, err := call(ctx, in, c.Cluster().ListNodes, &kryptonv1.ListNodesRequest{})
	v.answered = time.Now()
	if err != nil {
		return err
	}
	for _, n := range list.GetNodes() {
		if !n.GetRemoved() {
			v.members = append(v.members, n)
		}
	}
	slices.SortFunc(v.members, func(a, b *kryptonv1.Node) int { return strings.Compare(nodeName(a), nodeName(b)) })
	return nil
}

// answerOf returns what a member said itself; nil: its address is not among
// those asked.
func (v *view) answerOf(m *kryptonv1.Node) *answer {
	for i, a := range v.answers {
		if a.err == nil && a.status.GetNodeId() == m.GetId() || a.err != nil && a.addr == m.GetGrpcAddress() {
			return &v.answers[i]
		}
	}
	return nil
}

func (v *view) memberAt(addr string) *kryptonv1.Node {
	for _, m := range v.members {
		if m.GetGrpcAddress() == addr {
			return m
		}
	}
	return nil
}

// anySeal returns the seal of a node of the cluster, or nil.
func (v *view) anySeal() *kryptonv1.SealStatus {
	for _, a := range v.answers {
		if a.err == nil && a.status.GetState() != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED {
			return a.status
		}
	}
	return nil
}

// leaderLeases returns what the leader says of everybody's leases; nil: it was not
// asked, or gives none.
func (v *view) leaderLeases() *kryptonv1.LeaderLeases {
	return v.leader().GetHealth().GetLeaderLeases()
}

// nameOf returns the display name of nodes/{id}.
func (v *view) nameOf(name string) string {
	for _, m := range v.members {
		if m.GetName() == name {
			return nodeName(m)
		}
	}
	return name
}

// behind returns how many entries a node has not applied that the leader has, or,
// if the leader did not say, that another node has.
func (v *view) behind(h *kryptonv1.NodeHealth) uint64 {
	if l := h.GetLeaseHolding(); l != nil {
		return l.GetLag()
	}
	most := h.GetAppliedIndex()
	for _, m := range v.members {
		most = max(most, m.GetHealth().GetAppliedIndex())
	}
	return most - h.GetAppliedIndex()
}

// worst returns the error that decides the exit status: no answer goes before
// sealed, because it may be worse.
func (v *view) worst() error {
	var sealed error
	for _, a := range v.answers {
		if a.err != nil {
			return a.err
		}
		if sealed == nil {
			sealed = sealedError(a.status)
		}
	}
	return sealed
}

// strangers returns the addresses of --addr at which nodes of this cluster answer
// that are no members of it any more. None while the members are not seen.
func (v *view) strangers() (addrs []string) {
	if len(v.members) == 0 {
		return nil
	}
	for _, a := range v.answers {
		st := a.status
		own := v.info.GetFingerprint() == "" || st.GetFingerprint() == v.info.GetFingerprint()
		if a.err == nil && st.GetState() != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED && own &&
			!slices.ContainsFunc(v.members, func(m *kryptonv1.Node) bool { return m.GetId() == st.GetNodeId() }) {
			addrs = append(addrs, a.addr)
		}
	}
	return addrs
}

// voters returns how many voters there are and how many of them answer.
func (v *view) voters() (all, up int) {
	for _, m := range v.members {
		if m.GetRole() == kryptonv1.NodeRole_NODE_ROLE_VOTER {
			all++
			if m.GetHealth().GetReachable() {
				up++
			}
		}
	}
	return all, up
}

// spare returns how many voters may still fail; negative: there is no majority.
func (v *view) spare() int {
	all, up := v.voters()
	return up - (all/2 + 1)
}

func (v *view) leader() *kryptonv1.Node {
	for _, m := range v.members {
		if m.GetLeader() {
			return m
		}
	}
	return nil
}

// The states of a verdict.
const (
	healthy  = "healthy"
	degraded = "degraded"
	down     = "down"
)

// verdict is what a person wants to know first.
type verdict struct {
	State    string   `json:"state"`
	Summary  string   `json:"summary"`
	Problems []string `json:"problems"`
}

func (d verdict) color() color {
	switch d.State {
	case healthy:
		return green
	case degraded:
		return yellow
	}
	return red
}

func (v *view) verdict() verdict {
	if len(v.members) == 0 {
		return v.outsideVerdict()
	}
	d := verdict{State: healthy, Problems: []string{}}
	serving := 0
	for _, m := range v.members {
		h := m.GetHealth()
		a := v.answerOf(m)
		switch {
		case a != nil && a.err == nil && sealedError(a.status) != nil: // the node itself knows best
			d.Problems = append(d.Problems, errs.From(sealedError(a.status)).Error())
		case h.GetServing():
			serving++
		case !h.GetReachable():
			d.Problems = append(d.Problems, nodeName(m)+" does not answer the other nodes")
		default:
			d.Problems = append(d.Problems, fmt.Sprintf("%s serves nothing: %s", nodeName(m), h.GetNotServingReason()))
		}
	}
	for _, a := range v.answers {
		if m := v.memberAt(a.addr); a.err != nil && (m == nil || m.GetHealth().GetReachable()) {
			d.Problems = append(d.Problems, a.addr+" does not answer you: "+errs.From(a.err).Msg)
		}
	}
	for _, addr := range v.strangers() {
		d.Problems = append(d.Problems, "the node at "+addr+" was removed from the cluster and serves nothing")
	}
	all, _ := v.voters()
	parts := []string{fmt.Sprintf("%d of %d nodes serve", serving, len(v.members))}
	if l := v.leader(); l != nil {
		parts = append(parts, nodeName(l)+" leads")
	} else {
		parts = append(parts, "nobody leads")
		d.Problems = append(d.Problems, "no leader is known, so nothing can be changed")
	}
	switch spare := v.spare(); {
	case spare < 0:
		d.Problems = append(d.Problems, "too few voters answer for a majority, so nothing can be changed")
	case spare == 0 && all > 1:
		parts = append(parts, "no voter may fail")
	case spare == 0:
		parts = append(parts, "the only voter may not fail")
	default:
		parts = append(parts, fmt.Sprintf("%d of %d voters may fail", spare, all))
	}
	if v.info.GetHeld() {
		d.Problems = append(d.Problems, "a person sealed the cluster; krypton operator release-hold lets it unseal again")
	}
	if n := int(v.info.GetApprovalsStuck()); n > 0 {
		d.Problems = append(d.Problems, plural(n, "approval", "approvals")+" could not be executed for more than a minute; krypton approval list shows them")
	}
	d.Summary = strings.Join(parts, ", ")
	switch {
	case serving == 0:
		d.State = down
	case len(d.Problems) > 0:
		d.State = degraded
	}
	return d
}

// outsideVerdict is the verdict of those who see no more than the seals.
func (v *view) outsideVerdict() verdict {
	d := verdict{State: healthy, Problems: []string{}}
	unsealed := 0
	for _, a := range v.answers {
		switch err := sealedError(a.status); {
		case a.err != nil:
			d.Problems = append(d.Problems, a.addr+" does not answer you: "+errs.From(a.err).Msg)
		case err != nil:
			d.Problems = append(d.Problems, errs.From(err).Error())
		default:
			unsealed++
		}
	}
	d.Summary = fmt.Sprintf("%d of %d nodes are unsealed", unsealed, len(v.answers))
	switch {
	case unsealed == 0:
		d.State = down
	case len(d.Problems) > 0:
		d.State = degraded
	}
	return d
}
