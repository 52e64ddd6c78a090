package cluster

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// A member that does not lead hands a caller's change to the leader, with what the
// caller showed to it. The leader takes nothing of what it says about the caller: it
// verifies the certificate or token by its own registry, keys and clock (I18). What is
// left to a member that lies is to use what a caller really showed to it.

// Caller is who showed a credential.
type Caller struct {
	Principal auth.Principal
	Serial    string // of the certificate, if it is of the cluster's own CA: the bytes of the number
}

// shownOf is a credential on its way to the leader.
func shownOf(c auth.Credential) *clusterpb.Shown {
	switch {
	case c.Token() != "":
		return &clusterpb.Shown{By: &clusterpb.Shown_Token{Token: []byte(c.Token())}}
	case c.Certificate() != nil:
		return &clusterpb.Shown{By: &clusterpb.Shown_Certificate{Certificate: c.Certificate()}}
	}
	return nil
}

// forget wipes the token in a message. What gRPC and TLS have of it in their buffers
// stays until these are used again.
func forget(s *clusterpb.Shown) { clear(s.GetToken()) }

// credentialOf is the inverse of shownOf for what came from a member.
func credentialOf(s *clusterpb.Shown) (auth.Credential, error) {
	switch by := s.GetBy().(type) {
	case *clusterpb.Shown_Certificate:
		if len(by.Certificate) > auth.MaxCertificate {
			return auth.Credential{}, errs.Newf(errs.TooLarge, "the caller's certificate is larger than %d bytes", auth.MaxCertificate).
				With(errs.Hint("use a smaller certificate, or ask the leader itself: krypton operator members"))
		}
		return auth.CertificateShown(by.Certificate), nil
	case *clusterpb.Shown_Token:
		if len(by.Token) > auth.MaxToken {
			return auth.Credential{}, errs.New(errs.Unauthenticated, "the caller's token is larger than a token may be")
		}
		return auth.TokenShown(string(by.Token)), nil
	}
	return auth.Credential{}, errs.New(errs.Unauthenticated, "the node that forwards the command does not show what its caller showed",
		errs.Hint("find out why that node says so; krypton operator remove ends what it may"))
}

// forwarded commits what a member forwards, and records it. A refusal by the state
// machine is a result, and no error.
func (c *Cluster) forwarded(ctx context.Context, req *clusterpb.ProposeRequest, via NodeID) (*clusterpb.ProposeResponse, error) {
	defer forget(req.GetShown())
	if !c.IsLeader() {
		return nil, errNoLeader(nil)
	}
	cmd := req.GetCommand()
	f := gate.Forwarded{Via: string(via), Command: kindOf(cmd), Object: objectOf(cmd), Claims: claimed(cmd.GetPrincipal())}
	if id, err := corr.Parse(cmd.GetCorrelationId()); err == nil {
		f.Correlation = id
	}
	if a, ok := c.machine.View().Approval(cmd.GetApproval()); ok {
		f.Approval = "approvals/" + a.GetId()
	}
	var out *clusterpb.ProposeResponse
	var ended error
	if err := c.cfg.Hooks.Forward(f, func() (auth.Principal, gate.Ours, error) {
		who, ours, err := c.vouched(ctx, req, via)
		if err != nil {
			ended = err
			return auth.Principal{}, gate.NotOurs, err
		}
		index, res, err := c.commitForCaller(ctx, cmd, via)
		if err != nil {
			ended = err
			return who.Principal, ours, err
		}
		out = &clusterpb.ProposeResponse{Result: res, Index: index}
		return who.Principal, ours, fsm.Err(res)
	}); err != nil {
		return nil, err
	}
	return out, ended
}

// vouched finds out who asks for what a member forwards, and makes the command say so
// (I18). What the member says is compared, never believed.
func (c *Cluster) vouched(ctx context.Context, req *clusterpb.ProposeRequest, via NodeID) (Caller, gate.Ours, error) {
	cmd := req.GetCommand()
	if mutation.On(mutation.SkipForwarded) {
		return Caller{}, gate.NotOurs, nil
	}
	if err := mayForward(cmd, via); err != nil {
		return Caller{}, gate.NotOurs, err
	}
	if id, err := corr.Parse(cmd.GetCorrelationId()); err != nil || string(id) != cmd.GetCorrelationId() {
		return Caller{}, gate.NotOurs, errs.New(errs.InvalidArgument, "the forwarded command has no correlation id of a call")
	}
	if cmd.GetPrincipal().GetKind() == kindNode { // it is the sender, by the key of the connection
		cmd.CallerSerial = nil
		return Caller{}, gate.OfTheNode, nil
	}
	if cmd.GetApproval() != "" {
		return Caller{}, gate.ByApproval, c.requested(ctx, cmd)
	}
	if err := c.asNewAs(ctx, req.GetAuthority()); err != nil {
		return Caller{}, gate.NotOurs, err
	}
	if req.GetShown() == nil && c.machine.View().Cluster().GetFormatVersion() < fsm.FormatAuthority {
		// Members of releases that show nothing are among those of such a cluster.
		return Caller{}, gate.NotOurs, nil
	}
	shown, err := credentialOf(req.GetShown())
	if err != nil {
		return Caller{}, gate.NotOurs, err
	}
	who, err := c.cfg.Hooks.Identify(ctx, shown)
	if err != nil {
		return Caller{}, gate.NotOurs, err
	}
	if !proto.Equal(principalOf(who.Principal), cmd.GetPrincipal()) {
		return Caller{}, gate.NotOurs, errs.New(errs.Denied, "the forwarded command names another caller than the certificate or token is of",
			errs.Hint("the node that forwarded it may lie: find out, and remove it"))
	}
	cmd.CallerSerial = nil
	if c.machine.View().Cluster().GetFormatVersion() >= fsm.FormatRevocations {
		cmd.CallerSerial = []byte(who.Serial)
	}
	return who, gate.NotOurs, nil
}

// requested checks in whose name a command by an approval comes. Who requested the
// approval signed that, is not here now, and shows nothing; that all have signed, and
// that this is what they signed, every replica verifies. So a member can do with an
// approval only what was approved, which the leader would do by itself.
func (c *Cluster) requested(ctx context.Context, cmd *fsmpb.Command) error {
	cmd.CallerSerial = nil
	// The other node may have applied the last signature before this one.
	if err := c.await(ctx, func() error { return c.raft.Barrier(enqueueTime).Error() }); err != nil {
		return errNoLeader(err)
	}
	a, ok := c.machine.View().Approval(cmd.GetApproval())
	switch {
	case !ok || !proto.Equal(a.GetRequester(), cmd.GetPrincipal()):
		return errs.New(errs.Denied, "the forwarded command is by an approval that does not exist, or that somebody else requested",
			errs.Hint("the node that forwarded it may lie: find out, and remove it"))
	case a.GetState() != fsmpb.ApprovalState_APPROVAL_STATE_APPROVED:
		// Else the refusals of what has ended would fill the memory of requests of
		// whoever requested it.
		return errs.New(errs.Aborted, "the approval has not all its signatures, or has ended", errs.Hint("look at it: krypton approval get"))
	}
	return nil
}

// asNewAs waits until the registry here has all that was acknowledged before this node
// began to lead, and the change of identities at index, by which the sender found who
// its caller is. So nobody is known here who is not any more, and nobody is unknown here
// whom the sender knows already.
func (c *Cluster) asNewAs(ctx context.Context, index uint64) error {
	if err := c.catchUp(ctx); err != nil {
		return errBehind()
	}
	if index <= c.machine.View().Index() {
		return nil
	}
	if index > c.raft.LastIndex() { // whatever was applied anywhere is in the log of who leads
		return errs.New(errs.InvalidArgument, "the forwarded command was let in by a state that is not this cluster's")
	}
	if err := c.machine.Wait(ctx, index); err != nil {
		return errs.From(err)
	}
	return nil
}

// principalOf returns a caller as commands name it.
func principalOf(p auth.Principal) *fsmpb.Principal {
	name := p.Name
	if p.Tenant != "" {
		name = string(p.Tenant) + "/" + p.Name
	}
	return &fsmpb.Principal{Issuer: p.Issuer.String(), Kind: p.Role.String(), Name: name}
}

// claimed is a principal in a command as records of a refusal quote it.
func claimed(p *fsmpb.Principal) string {
	return strings.Trim(p.GetIssuer()+"/"+p.GetKind()+"/"+p.GetName(), "/")
}

// kindOf returns the name of a command's body.
func kindOf(cmd *fsmpb.Command) string {
	m := cmd.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("body")); fd != nil {
		return string(fd.Name())
	}
	return "nothing"
}

// objectOf returns the name of what a caller's command is about, for the record: as the
// command says, which nobody has checked yet.
func objectOf(cmd *fsmpb.Command) string {
	object := func(tenant, service string) string {
		if service == "" {
			return hierarchy.TenantPath(hierarchy.Name(tenant)).String()
		}
		return hierarchy.ServicePath(hierarchy.Name(tenant), hierarchy.Name(service)).String()
	}
	ref := func(o *fsmpb.ObjectRef) string { return object(o.GetTenant(), o.GetService()) }
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		return object(b.CreateTenant.GetName(), "")
	case *fsmpb.Command_BindTenant:
		return object(b.BindTenant.GetTenant(), "")
	case *fsmpb.Command_CreateService:
		return object(b.CreateService.GetTenant(), b.CreateService.GetName())
	case *fsmpb.Command_ChangeObject:
		return ref(b.ChangeObject.GetObject())
	case *fsmpb.Command_AddVersion:
		return ref(b.AddVersion.GetObject())
	case *fsmpb.Command_SetPrimary:
		return ref(b.SetPrimary.GetObject())
	case *fsmpb.Command_ChangeVersion:
		return ref(b.ChangeVersion.GetObject())
	case *fsmpb.Command_PinResource:
		return object(b.PinResource.GetTenant(), b.PinResource.GetService())
	case *fsmpb.Command_UnpinResource:
		return object(b.UnpinResource.GetTenant(), b.UnpinResource.GetService())
	case *fsmpb.Command_RollbackResource:
		return object(b.RollbackResource.GetTenant(), b.RollbackResource.GetService())
	case *fsmpb.Command_SetTenantGovernors:
		return object(b.SetTenantGovernors.GetTenant(), "")
	case *fsmpb.Command_PutIssuer:
		i := b.PutIssuer.GetIssuer()
		return hierarchy.IssuerPath(hierarchy.Name(i.GetTenant()), hierarchy.Name(i.GetId())).String()
	case *fsmpb.Command_RemoveIssuer:
		return hierarchy.IssuerPath(hierarchy.Name(b.RemoveIssuer.GetTenant()), hierarchy.Name(b.RemoveIssuer.GetId())).String()
	case *fsmpb.Command_BindRole:
		r := b.BindRole.GetBinding()
		return hierarchy.RoleBindingPath(hierarchy.Name(r.GetTenant()), hierarchy.Name(r.GetId())).String()
	case *fsmpb.Command_UnbindRole:
		return hierarchy.RoleBindingPath(hierarchy.Name(b.UnbindRole.GetTenant()), hierarchy.Name(b.UnbindRole.GetId())).String()
	case *fsmpb.Command_UpdateMember:
		return "nodes/" + b.UpdateMember.GetMember().GetId()
	case *fsmpb.Command_RemoveMember:
		return "nodes/" + b.RemoveMember.GetId()
	}
	return "cluster"
}
