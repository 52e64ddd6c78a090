package fsm

import (
	"encoding/hex"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// kindNode is the kind of principal that a member is, when it acts for itself.
const kindNode = "node"

// order says who may order a command, whatever the node says that let it in. It is
// the least that every replica asks (I20); that node asked more.
type order struct {
	roles  []auth.Role // of callers; none: it is not for callers
	leader bool        // the leader may, by itself
	node   bool        // a member may, by itself
	power  auth.Power  // which governors may, and which sign
	tenant string      // the tenant that the power is about
	any    bool        // any governor may; Apply asks for more
}

// orderOf returns who may order a command. A command that is not named here
// nobody may.
//
//nolint:cyclop // One case per command.
func orderOf(cmd *fsmpb.Command) order {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_Genesis:
		return order{roles: []auth.Role{auth.RoleOperator}, leader: true} // the first is before there is anybody, and there is no second
	case *fsmpb.Command_CreateTenant, *fsmpb.Command_BindTenant:
		return governing(auth.PowerCreateTenant, "")
	case *fsmpb.Command_ChangeObject:
		return orderOfObject(b.ChangeObject)
	case *fsmpb.Command_CreateService:
		return governing(auth.PowerTenant, b.CreateService.GetTenant())
	case *fsmpb.Command_AddVersion:
		return byItself(governing(auth.PowerTenant, b.AddVersion.GetObject().GetTenant()))
	case *fsmpb.Command_SetPrimary:
		o := governing(auth.PowerTenant, b.SetPrimary.GetObject().GetTenant())
		if b.SetPrimary.GetRollback() {
			return o
		}
		return byItself(o)
	case *fsmpb.Command_ChangeVersion:
		return orderOfVersion(b.ChangeVersion)
	case *fsmpb.Command_PinResource:
		return governing(auth.PowerTenant, b.PinResource.GetTenant())
	case *fsmpb.Command_UnpinResource:
		return governing(auth.PowerTenant, b.UnpinResource.GetTenant())
	case *fsmpb.Command_RollbackResource:
		return governing(auth.PowerTenant, b.RollbackResource.GetTenant())
	case *fsmpb.Command_CreateJoinToken, *fsmpb.Command_RemoveMember:
		return operating()
	case *fsmpb.Command_UpdateMember:
		o := operating()
		o.leader = true
		return o
	case *fsmpb.Command_SetHold:
		o := governing(auth.PowerCluster, "")
		o.roles = []auth.Role{auth.RoleCustodian}
		if b.SetHold.GetHeld() {
			o.roles = append(o.roles, auth.RoleGovernor)
		}
		return o
	case *fsmpb.Command_RevokeCertificate:
		o := governing(auth.PowerCluster, "")
		o.roles = append(o.roles, auth.RoleOperator)
		return o
	case *fsmpb.Command_PutIssuer:
		return governingOf(b.PutIssuer.GetIssuer().GetTenant())
	case *fsmpb.Command_RemoveIssuer:
		return governingOf(b.RemoveIssuer.GetTenant())
	case *fsmpb.Command_BindRole:
		return governingOf(b.BindRole.GetBinding().GetTenant())
	case *fsmpb.Command_UnbindRole:
		return governingOf(b.UnbindRole.GetTenant())
	case *fsmpb.Command_SetTenantGovernors:
		return governing(auth.PowerTenant, b.SetTenantGovernors.GetTenant())
	case *fsmpb.Command_SetQuorum:
		return governing(auth.PowerCluster, "")
	case *fsmpb.Command_RequestApproval, *fsmpb.Command_Approve, *fsmpb.Command_RejectApproval:
		return order{roles: []auth.Role{auth.RoleGovernor, auth.RoleCustodian}, any: true}
	case *fsmpb.Command_PutPolicy:
		return governing(auth.PowerTenant, b.PutPolicy.GetPolicy().GetTenant())
	case *fsmpb.Command_RemovePolicy:
		return governing(auth.PowerTenant, b.RemovePolicy.GetTenant())
	case *fsmpb.Command_BeginCeremony, *fsmpb.Command_CancelCeremony, *fsmpb.Command_ConfirmSeal, *fsmpb.Command_ReplaceAuthority, *fsmpb.Command_RetireAuthority:
		return sealing()
	case *fsmpb.Command_StageCeremony, *fsmpb.Command_ConfirmHolder, *fsmpb.Command_ProveSeal, *fsmpb.Command_CommitCeremony:
		// A custodian brings a share to a node; that one does the rest in his name, so that
		// a leader finds out by itself that somebody who may was there.
		return byItself(order{roles: []auth.Role{auth.RoleCustodian}})
	case *fsmpb.Command_NoteBackup:
		return byItself(operating()) // who has it made, or the member that made it
	case *fsmpb.Command_AddInternalKey, *fsmpb.Command_RewrapTenant, *fsmpb.Command_PutSecret, *fsmpb.Command_AddMember,
		*fsmpb.Command_PurgeMember, *fsmpb.Command_Tick, *fsmpb.Command_RaiseFormat, *fsmpb.Command_LeaseEpoch, *fsmpb.Command_RepairSeal,
		*fsmpb.Command_Recover, *fsmpb.Command_DropCarried, *fsmpb.Command_EndInternalKeys, *fsmpb.Command_MemberCleared, *fsmpb.Command_FinishExposure:
		return order{leader: true}
	}
	return order{}
}

func governing(p auth.Power, tenant string) order {
	return order{roles: []auth.Role{auth.RoleGovernor}, power: p, tenant: tenant}
}

// governingOf is about people and issuers of the cluster, or of a tenant.
func governingOf(tenant string) order {
	if tenant == "" {
		return governing(auth.PowerCluster, "")
	}
	return governing(auth.PowerTenant, tenant)
}

// operating is about nodes. If people sign for it, governors of the platform do.
func operating() order {
	o := governing(auth.PowerCluster, "")
	o.roles = []auth.Role{auth.RoleOperator}
	return o
}

// sealing is about who opens the MasterKey: custodians sign for it, and so nobody else
// has to be able to ask. Governors of the platform may, because with two custodians who
// both have to sign nobody else would be left to.
func sealing() order {
	o := governing(auth.PowerCluster, "")
	o.roles = append(o.roles, auth.RoleCustodian)
	return o
}

// byItself is what the cluster does without being asked: rotation by a schedule,
// and suspending a tenant whose keystore refuses its key.
func byItself(o order) order {
	o.leader, o.node = true, true
	return o
}

func orderOfObject(c *fsmpb.ChangeObject) order {
	tenant, service := c.GetObject().GetTenant(), c.GetObject().GetService() != ""
	power := auth.PowerTenant
	switch c.GetEvent() {
	case fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND:
		power = auth.PowerSuspendTenant
		if service {
			power = auth.PowerSuspendService
		}
	case fsmpb.ObjectEvent_OBJECT_EVENT_RESUME:
		if !service {
			power = auth.PowerResumeTenant
		}
	case fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY:
		if !service {
			power = auth.PowerDeleteTenant
		}
	case fsmpb.ObjectEvent_OBJECT_EVENT_UNSPECIFIED:
	}
	o := governing(power, tenant)
	// No other event has a cause, so a member that lies could write this one beside it.
	if c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND && c.GetCause() == causeL1Denied {
		return byItself(o)
	}
	return o
}

func orderOfVersion(c *fsmpb.ChangeVersion) order {
	if c.GetObject().GetTenant() == "" {
		return governing(auth.PowerCluster, "") // the internal key
	}
	switch c.GetEvent() { //nolint:exhaustive // All others are a matter of the tenant.
	case fsmpb.VersionEvent_VERSION_EVENT_DISABLE, fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE:
		return governing(auth.PowerWeakenVersion, c.GetObject().GetTenant())
	}
	return governing(auth.PowerTenant, c.GetObject().GetTenant())
}

// mayOrder refuses a command whose principal, as the node that let it in names it,
// is not in the registry in that role, or may not order it (I20). A node that lies
// can name somebody else who may; so what is sovereign needs signatures besides.
func (t *tx) mayOrder() error {
	if t.cluster.GetFormatVersion() < FormatAuthority || mutation.On(mutation.SkipPrincipal) {
		return nil
	}
	o, p := t.order(), t.cmd.GetPrincipal()
	switch {
	case t.housekeeping():
		if !o.leader {
			return errs.New(errs.Denied, "this is not the leader's own to do: the command names nobody who asked")
		}
		return nil
	case len(o.roles) == 0:
		return errs.New(errs.Denied, "the leader does this by itself, never for a caller")
	case p.GetKind() == kindNode:
		m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(p.GetName()))
		if !ok || m.GetRemoved() || p.GetIssuer() != "" || !o.node {
			return errs.New(errs.Denied, "this is not a node's own to do, or the node is not a member")
		}
		return nil
	}
	role, b, err := t.caller()
	switch {
	case err != nil:
		return err
	case !slices.Contains(o.roles, role):
		return errs.New(errs.Denied, "the role of the caller may not order this", errs.Hint("ask somebody with another role"))
	case role == auth.RoleGovernor && !t.has(o, b):
		return errs.New(errs.Denied, "the caller does not govern this", errs.Hint("ask a governor of the tenant, or of the platform"))
	}
	return nil
}

// has reports whether a governor has the power that an order needs. What is about
// a tenant that is not there is refused for that, not for lack of power.
func (t *tx) has(o order, b *fsmpb.RoleBinding) bool {
	if o.any {
		return true
	}
	s := auth.Standing{Platform: b.GetPlatform()}
	if o.power != auth.PowerCluster && o.power != auth.PowerCreateTenant {
		tn, ok := lookup[*fsmpb.Tenant](t.txn, tableTenants, indexID, []byte(o.tenant))
		if !ok {
			return true
		}
		s.Tenant = governs(b, tn)
	}
	return o.power.Has(s)
}

// order returns who may order the command. Of one that executes an approval it is
// what the signed request says, which is the same but that governors of the platform
// may ask for what operators do: they sign for it, and could bind an operator.
func (t *tx) order() order {
	if t.approval != nil {
		if req, err := intent.ParseRequest(t.approval.GetRequest()); err == nil {
			return orderOfRequest(req)
		}
		return order{}
	}
	return orderOf(t.cmd)
}

// orderOfRequest returns who may order what a canonical request says, and whose
// signatures count for it: nobody, if it is of an act that no command is.
func orderOfRequest(req *intent.Request) order {
	tenant, service := textOf(req, "tenant"), textOf(req, "service")
	switch req.Act() { //nolint:exhaustive // The others have no command.
	case intent.ActBindL1:
		return governing(auth.PowerCreateTenant, "")
	case intent.ActDestroy:
		switch {
		case tenant == "":
			return governing(auth.PowerCluster, "") // the internal key
		case service == "" && uintOf(req, "version") == 0:
			return governing(auth.PowerDeleteTenant, tenant)
		}
		return governing(auth.PowerTenant, tenant)
	case intent.ActResumeAfterUnlink:
		if service == "" {
			return governing(auth.PowerResumeTenant, tenant)
		}
		return governing(auth.PowerTenant, tenant)
	case intent.ActBindRole, intent.ActSetAuthorityKeys, intent.ActSetIssuer, intent.ActSetPolicy:
		return governingOf(tenant)
	case intent.ActAddMember, intent.ActSetQuorum:
		return governing(auth.PowerCluster, "")
	case intent.ActReshare, intent.ActMigrate, intent.ActRekey:
		return sealing()
	}
	return order{}
}

// textOf returns the first text field of that name, uintOf the first number.
func textOf(req *intent.Request, name string) string {
	return fieldOf(req, name, intent.KindText).Text
}

func uintOf(req *intent.Request, name string) uint64 {
	return fieldOf(req, name, intent.KindUint).Uint
}

func fieldOf(req *intent.Request, name string, k intent.Kind) intent.Field {
	for _, f := range req.Fields() {
		if f.Name == name && f.Kind == k {
			return f
		}
	}
	return intent.Field{}
}

func errNoRole() error {
	return errs.New(errs.Unauthenticated, "the caller has no such role in this cluster", errs.Hint("ask a governor of this cluster to bind the role"))
}

// caller returns the role in which the command's principal is in the registry, and
// the binding that says so; nil for roles that need none.
func (t *tx) caller() (auth.Role, *fsmpb.RoleBinding, error) {
	p := t.cmd.GetPrincipal()
	role, err := auth.ParseRole(p.GetKind())
	if err != nil {
		return 0, nil, errNoRole()
	}
	if p.GetIssuer() == auth.LocalIssuer.String() {
		// Who may open the administration socket of a member operates it.
		if role != auth.RoleOperator || p.GetName() != auth.LocalOperator().Name {
			return 0, nil, errNoRole()
		}
		return role, nil, nil
	}
	issuer, tenant, name, ok := t.identity(p, role)
	if !ok {
		return 0, nil, errNoRole()
	}
	b, ok := bindingAt(t.txn, indexIdentity, identityKey(issuer.GetUid(), role.String(), tenant, name))
	switch {
	case ok && !Expired(b, t.timeMS):
		return role, b, nil
	case !slices.Contains(issuer.GetUnboundRoles(), role.String()) || role == auth.RoleWorkload && !vouchesFor(issuer, tenant):
		return 0, nil, errNoRole()
	}
	return role, nil, nil
}

// identity resolves the names in a principal.
func (t *tx) identity(p *fsmpb.Principal, role auth.Role) (issuer *fsmpb.Issuer, tenantUID []byte, name string, ok bool) {
	uid, err := hex.DecodeString(p.GetIssuer())
	if err != nil || len(uid) != hierarchy.UIDSize || strings.ToLower(p.GetIssuer()) != p.GetIssuer() {
		return nil, nil, "", false
	}
	if issuer, ok = issuerByUID(t.txn, uid); !ok {
		return nil, nil, "", false
	}
	if role != auth.RoleWorkload {
		return issuer, nil, p.GetName(), true
	}
	tenant, name, ok := strings.Cut(p.GetName(), "/")
	if !ok {
		return nil, nil, "", false
	}
	tn, ok := lookup[*fsmpb.Tenant](t.txn, tableTenants, indexID, []byte(tenant))
	if !ok {
		return nil, nil, "", false
	}
	return issuer, tn.GetUid(), name, true
}

// requester returns the binding of who asked for the command; false: nobody did
// who has one.
func (t *tx) requester() (*fsmpb.RoleBinding, bool) {
	if t.housekeeping() || t.cmd.GetPrincipal().GetKind() == kindNode {
		return nil, false
	}
	_, b, err := t.caller()
	return b, err == nil && b != nil
}
