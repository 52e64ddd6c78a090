package node

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxAgain is how often key material is made again because its parent moved
// between making and committing it.
const maxAgain = 3

// Request is what every change carries, besides what it changes.
type Request struct {
	// ID makes a retry act once. Never empty: the server makes one up for a
	// caller that sent none.
	ID string
	// Digest is SHA-256 of the canonical request, without ID.
	Digest [32]byte
	// ETag is the log index at which the caller saw the object; 0: any.
	ETag uint64
	// ValidateOnly checks everything and changes nothing.
	ValidateOnly bool
	// Until says when the change is answered; zero: once it is complete.
	Until cluster.Until
	// Intents are the signatures of people over what is asked, if the caller sent some.
	// They are not in the digest: who signed is no part of what is asked, and a retry
	// may bring other signatures.
	Intents []*fsmpb.SignedIntent
	// Approval is the id of the approval that the request executes; empty: none.
	Approval string
	// Drafted, if it is set, gets the command that would be proposed, once its dry run
	// has passed. Only together with ValidateOnly.
	Drafted func(*fsmpb.Command)
}

// command makes the command of one step of the request. Who asks, and under
// which correlation id, the cluster takes from the token.
func (r Request) command(step uint32) *fsmpb.Command {
	return &fsmpb.Command{
		Format:        fsm.CommandFormat,
		RequestId:     r.ID,
		RequestDigest: r.Digest[:],
		Step:          step,
		Intents:       r.Intents,
		Approval:      r.Approval,
	}
}

// commit proposes a command and turns a refusal into an error. It returns once
// this node has applied it, so that what the caller reads next has the change.
func (n *Node) commit(ctx context.Context, tok gate.Token, r Request, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	if r.ValidateOnly {
		res, err := n.dryRun(ctx, tok, cmd)
		if err == nil && r.Drafted != nil {
			r.Drafted(cmd)
		}
		return res, err
	}
	res, err := n.cluster.Propose(ctx, tok, cmd, r.Until)
	if errs.Is(err, errs.Aborted) {
		// What the state machine says is for whoever prepares; callers prepare nothing.
		err = errs.From(err).With(errs.Hint("read the object again, then retry"))
	}
	return res, err
}

// dryRun says what would become of a command. It is a read: of a state that has
// every acknowledged change, and shows none that is not complete.
func (n *Node) dryRun(ctx context.Context, tok gate.Token, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	l, err := n.current()
	if err != nil {
		return nil, err
	}
	cmd.Principal, cmd.CallerSerial = cluster.PrincipalOf(tok, n.cluster.NodeID()), []byte(tok.Serial())
	if tok.Asked() && tok.Act().Duty() == gate.DutyOperate {
		// What a governor of the platform may have approved is what an operator may do.
		cmd.Principal, cmd.CallerSerial = &fsmpb.Principal{Issuer: auth.LocalIssuer.String(), Kind: auth.RoleOperator.String(), Name: auth.LocalOperator().Name}, nil
	}
	res := n.machine.DryRun(cmd)
	// It ran on the newest view now, or on an older one.
	if err := n.Shown(ctx, l, n.machine.View().Index()); err != nil {
		return nil, err
	}
	return res, fsm.Err(res)
}

// commitMade prepares the key material of a command, where a node that can is
// this one or a peer, and commits it. The parent of new material may move in
// between; then it is made again.
func (n *Node) commitMade(ctx context.Context, tok gate.Token, r Request, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	// A peer that prepares records it under the id of this call.
	ctx, cmd.CorrelationId = corr.With(ctx, tok.Correlation()), string(tok.Correlation())
	var err error
	for range 1 + maxAgain {
		ready := proto.CloneOf(cmd)
		if !n.answered(tok, r, cmd.GetStep()) {
			m, err := n.prepareAnywhere(ctx, ready)
			if err != nil {
				return nil, err
			}
			tok.Describe(m.details())
			if ready.GetBindTenant() != nil {
				if err := n.proveForeign(ctx, ready); err != nil {
					return nil, err
				}
			}
		}
		var res *fsmpb.Result
		res, err = n.commit(ctx, tok, r, ready)
		if !errs.Is(err, errs.Aborted) {
			return res, err
		}
	}
	return nil, err
}

// answered reports whether this node remembers the result of a step already, so
// that a retry makes no key material for nothing. The state machine decides; a
// node that lags only does needless work.
func (n *Node) answered(tok gate.Token, r Request, step uint32) bool {
	_, ok := n.machine.View().Request(cluster.PrincipalOf(tok, n.cluster.NodeID()), r.ID, step)
	return ok
}

// CreateTenant makes a tenant whose key is wrapped by the customer's key and by
// the internal key, one inside the other; with a nil binding it has none until
// [Node.BindTenant]. governors are the role bindings, by uid, of
// who governs what is inside it; none: whoever asks.
func (n *Node) CreateTenant(ctx context.Context, tok gate.Token, r Request, name hierarchy.Name, b *fsmpb.Binding, governors [][]byte) (*fsmpb.Tenant, error) {
	if err := tok.Require(gate.CreateTenant, hierarchy.TenantPath(name).String()); err != nil {
		return nil, err
	}
	if b != nil {
		var err error
		if b, err = n.archetyped(b); err != nil {
			return nil, err
		}
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{Name: string(name), Binding: b, Governors: governors}}
	res, err := n.commitMade(ctx, tok, r, cmd)
	if err != nil {
		return nil, err
	}
	if r.ValidateOnly {
		return &fsmpb.Tenant{Name: string(name), Binding: b}, nil
	}
	if t, ok := n.machine.View().TenantByUID(res.GetUid()); ok {
		return t, nil
	}
	return nil, gate.NoSuchObject()
}

// archetype says how a customer holds their key. A key in a keystore of somebody
// else, of which only wrap and unwrap are asked, is held by them.
func archetype(keystoreType string) string {
	if keystoreType == "local" {
		return "local"
	}
	return "hyok"
}

// CreateService makes a service with the first version of its key.
func (n *Node) CreateService(ctx context.Context, tok gate.Token, r Request, tenant, name hierarchy.Name) (*fsmpb.Service, error) {
	if err := tok.Require(gate.CreateService, hierarchy.ServicePath(tenant, name).String()); err != nil {
		return nil, err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{Tenant: string(tenant), Name: string(name)}}
	res, err := n.commitMade(ctx, tok, r, cmd)
	if err != nil {
		return nil, err
	}
	if r.ValidateOnly {
		return &fsmpb.Service{Tenant: string(tenant), Name: string(name)}, nil
	}
	if s, ok := n.machine.View().ServiceByUID(res.GetUid()); ok {
		return s, nil
	}
	return nil, gate.NoSuchObject()
}

// CauseOperator is the cause of a suspension by a person.
const CauseOperator = "operator"

// ChangeObject suspends, resumes, deletes or saves a tenant or a service. now is
// for deletions: without the wait.
func (n *Node) ChangeObject(ctx context.Context, tok gate.Token, r Request, o Object, event fsmpb.ObjectEvent, now Wait) error {
	if err := tok.Require(ObjectAct(o, event, now), o.Name()); err != nil {
		return err
	}
	cmd := r.command(0)
	change := &fsmpb.ChangeObject{Object: o.ref(), Event: event, Etag: r.ETag, Now: now == WithoutWait}
	if event == fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND || event == fsmpb.ObjectEvent_OBJECT_EVENT_RESUME {
		change.Cause = CauseOperator
	}
	cmd.Body = &fsmpb.Command_ChangeObject{ChangeObject: change}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// Wait says whether a destruction waits.
type Wait int

// Both ways to destroy.
const (
	AfterWait   Wait = iota // the material goes after the cluster's wait
	WithoutWait             // at once; a permission of its own
)

// Rotate adds a version to the key of a tenant (L2.1) or service (L3) and makes
// it primary. These are two entries of the log: the new version is known
// everywhere before anything is wrapped under it, so no node meets a version
// that it does not know. A retry with the same request id finishes what an
// interrupted one began; without one, the staged version stays and does nothing.
// The etag is of the object before the first entry.
func (n *Node) Rotate(ctx context.Context, tok gate.Token, r Request, o Object) error {
	if err := tok.Require(o.act(gate.RotateTenant, gate.RotateService), o.Name()); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_AddVersion{AddVersion: &fsmpb.AddVersion{Object: o.ref(), Etag: r.ETag}}
	// Complete, whatever the caller waits for: no node may meet what is wrapped under
	// a version that it does not know.
	first := r
	first.Until = cluster.Complete
	res, err := n.commitMade(ctx, tok, first, cmd)
	if errs.Is(err, errs.NotComplete) {
		err = errs.From(err).With(errs.Hint("the new version is there and not in use yet: try again with request id %s to finish", r.ID))
	}
	if err != nil || r.ValidateOnly {
		return err
	}
	// The object that got the version, not the one that has the name now: it may
	// have been destroyed and made anew in between.
	staged, ok := n.machine.View().Version(res.GetUid())
	if !ok {
		return gate.NoSuchObject()
	}
	uid := staged.Tenant.GetUid()
	if staged.Service != nil {
		uid = staged.Service.GetUid()
	}
	cmd = r.command(1)
	cmd.Body = &fsmpb.Command_SetPrimary{SetPrimary: &fsmpb.SetPrimary{Object: o.ref(), ObjectUid: uid, Number: res.GetVersion()}}
	_, err = n.commit(ctx, tok, r, cmd)
	return err
}

// Rollback makes an earlier version primary again; number 0 means the one that
// was primary before.
func (n *Node) Rollback(ctx context.Context, tok gate.Token, r Request, o Object, number uint32) error {
	if err := tok.Require(o.act(gate.RollbackTenant, gate.RollbackService), o.Name()); err != nil {
		return err
	}
	l, err := n.current()
	if err != nil {
		return err
	}
	uid, err := uidIn(l.View, o)
	if err != nil {
		return n.refused(ctx, l, err)
	}
	// What was before is not what was before once it has been done: a retry is
	// answered from memory, whatever it names.
	if number == 0 && !n.answered(tok, r, 0) {
		if number, err = before(l.View, o); err != nil {
			return n.refused(ctx, l, err)
		}
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_SetPrimary{SetPrimary: &fsmpb.SetPrimary{
		Object: o.ref(), ObjectUid: uid, Number: number, Rollback: true, Etag: r.ETag,
	}}
	_, err = n.commit(ctx, tok, r, cmd)
	return err
}

// before finds the version that was superseded last.
func before(v *fsm.View, o Object) (uint32, error) {
	vs, primary, err := versions(v, o)
	if err != nil {
		return 0, err
	}
	var best *fsmpb.Version
	for _, v := range vs {
		if v.GetNumber() == primary || v.GetSupersededTimeMs() == 0 {
			continue
		}
		// Within one millisecond the index tells.
		if at, last := v.GetSupersededTimeMs(), best.GetSupersededTimeMs(); at > last || at == last && v.GetModIndex() > best.GetModIndex() {
			best = v
		}
	}
	if best == nil {
		return 0, errs.New(errs.FailedState, "there is no earlier version to return to", errs.Hint("rotate to get a new one"))
	}
	return best.GetNumber(), nil
}

// ChangeVersion moves one version of a key to another state.
func (n *Node) ChangeVersion(ctx context.Context, tok gate.Token, r Request, o Object, number uint32, event fsmpb.VersionEvent, now Wait) error {
	if err := tok.Require(VersionAct(event, now), o.VersionName(number)); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_ChangeVersion{ChangeVersion: &fsmpb.ChangeVersion{
		Object: o.ref(), Number: number, Event: event, Etag: r.ETag, Now: now == WithoutWait,
	}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// PinResource fixes the version that wraps for a resource; 0 means the present
// primary.
func (n *Node) PinResource(ctx context.Context, tok gate.Token, r Request, o Object, id hierarchy.ResourceID, version uint32) error {
	if err := tok.Require(gate.PinResource, o.ResourceName(id)); err != nil {
		return err
	}
	if version == 0 {
		// By a node that lags the pin would fix a version that wraps no more.
		l, err := n.current()
		if err != nil {
			return err
		}
		if _, version, err = versions(l.View, o); err != nil {
			return n.refused(ctx, l, err)
		}
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_PinResource{PinResource: &fsmpb.PinResource{
		Tenant: string(o.Tenant), Service: string(o.Service), Id: string(id), Version: version, Etag: r.ETag,
	}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// UnpinResource lets a resource follow the primary version again.
func (n *Node) UnpinResource(ctx context.Context, tok gate.Token, r Request, o Object, id hierarchy.ResourceID) error {
	if err := tok.Require(gate.UnpinResource, o.ResourceName(id)); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_UnpinResource{UnpinResource: &fsmpb.UnpinResource{
		Tenant: string(o.Tenant), Service: string(o.Service), Id: string(id), Etag: r.ETag,
	}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// RollbackResource returns a resource to the pin it had before.
func (n *Node) RollbackResource(ctx context.Context, tok gate.Token, r Request, o Object, id hierarchy.ResourceID) error {
	if err := tok.Require(gate.RollbackResource, o.ResourceName(id)); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RollbackResource{RollbackResource: &fsmpb.RollbackResource{
		Tenant: string(o.Tenant), Service: string(o.Service), Id: string(id), Etag: r.ETag,
	}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// SetHold sets or releases the cluster-wide hold: while it is set, every node
// wipes its keys and none unseals.
func (n *Node) SetHold(ctx context.Context, tok gate.Token, r Request, held Hold, reason string) error {
	if err := tok.Require(HoldAct(held), ObjectSeal); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: held == Held, Reason: reason}}
	if _, err := n.commit(ctx, tok, r, cmd); err != nil || r.ValidateOnly {
		return err
	}
	// This node does not answer before its own keys are gone (I4); the others
	// wipe theirs when they apply the command, and serve nothing from then on.
	if v := n.machine.View(); v.Hold().GetHeld() {
		n.obeyHold(ctx, v)
	} else {
		n.forgetHold(ctx)
	}
	return nil
}

// Hold says whether the cluster is held.
type Hold int

// Both states of the hold.
const (
	Released Hold = iota
	Held
)

// CreateJoinToken records a token; only the hash of its public key is known here.
func (n *Node) CreateJoinToken(ctx context.Context, tok gate.Token, r Request, t *fsmpb.JoinToken) error {
	if err := tok.Require(gate.CreateJoinToken, ObjectCluster); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{Token: t}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// SetSuffrage makes a member a voter or a non-voter. The leader changes the Raft
// configuration once the node has caught up.
func (n *Node) SetSuffrage(ctx context.Context, tok gate.Token, r Request, id string, s Suffrage) error {
	if err := tok.Require(SuffrageAct(s), NodeName(id)); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_UpdateMember{UpdateMember: &fsmpb.UpdateMember{
		Member: &fsmpb.Member{Id: id, Voter: s == Voter}, Fields: []string{"voter"}, Etag: r.ETag,
	}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// Suffrage says whether a node votes.
type Suffrage int

// Both kinds of member.
const (
	NonVoter Suffrage = iota
	Voter
)

// RemoveMember ends the membership of a node for good.
func (n *Node) RemoveMember(ctx context.Context, tok gate.Token, r Request, id string) error {
	if err := tok.Require(gate.RemoveNode, NodeName(id)); err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RemoveMember{RemoveMember: &fsmpb.RemoveMember{Id: id, Etag: r.ETag}}
	_, err := n.commit(ctx, tok, r, cmd)
	return err
}

// uidIn returns the uid of the object that has the name in that view.
func uidIn(v *fsm.View, o Object) ([]byte, error) {
	t, ok := v.Tenant(string(o.Tenant))
	if !ok {
		return nil, gate.NoSuchObject()
	}
	if o.Service == "" {
		return t.GetUid(), nil
	}
	s, ok := v.ServiceOf(t, string(o.Service))
	if !ok {
		return nil, gate.NoSuchObject()
	}
	return s.GetUid(), nil
}

func versions(v *fsm.View, o Object) (vs []*fsmpb.Version, primary uint32, err error) {
	t, ok := v.Tenant(string(o.Tenant))
	if !ok {
		return nil, 0, gate.NoSuchObject()
	}
	if o.Service == "" {
		return t.GetVersions(), t.GetPrimary(), nil
	}
	s, ok := v.ServiceOf(t, string(o.Service))
	if !ok {
		return nil, 0, gate.NoSuchObject()
	}
	return s.GetVersions(), s.GetPrimary(), nil
}
