package gate

import (
	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
)

// Act is what a caller can ask for: one per RPC, and more where one RPC needs
// two permissions. The numbers exist in memory only; records and policies have
// the names. Zero is invalid.
type Act int

// The acts. What each is called, and who may do it, stands in the table below.
const (
	ActUnspecified Act = iota

	GenerateDataKey
	UnwrapDataKey
	RewrapDataKey
	Encrypt
	Decrypt

	CreateTenant
	GetTenant
	ListTenants
	SuspendTenant
	ResumeTenant
	DeleteTenant
	DeleteTenantNow
	UndeleteTenant
	RotateTenant
	RollbackTenant

	CreateService
	GetService
	ListServices
	DeleteService
	DeleteServiceNow
	UndeleteService
	SuspendService
	ResumeService
	RotateService
	RollbackService

	GetVersion
	ListVersions
	EnableVersion
	DisableVersion
	DeprecateVersion
	CompromiseVersion
	DestroyVersion
	DestroyVersionNow
	CancelDestroyVersion

	PinResource
	UnpinResource
	RollbackResource
	GetResource
	ListResources

	GetSeal
	GetShard
	Contribute
	SealNode
	SealCluster
	ReleaseHold

	Init
	PlanSeal
	Join
	GetStatus

	GetCluster
	ListNodes
	GetNode
	CreateJoinToken
	PromoteNode
	DemoteNode
	RemoveNode
	TransferLeadership
	SaveSnapshot

	GetOperation
	WaitOperation

	WhoAmI
	IssueCertificate
	RenewCertificate
	RevokeCertificate
	ListRevocations
	ReadAudit

	CreateIssuer
	UpdateIssuer
	GetIssuer
	ListIssuers
	DeleteIssuer
	CreateRoleBinding
	GetRoleBinding
	ListRoleBindings
	DeleteRoleBinding
	SetGovernors
	BindTenant

	CreateApproval
	GetApproval
	ListApprovals
	Approve
	Reject
	SetQuorum
	GetPolicy
	ListPolicies
	PutPolicy
	DeletePolicy
	TestPolicy

	StartCeremony
	GetCeremony
	ListCeremonies
	ContributeToCeremony
	CancelCeremony
	ConfirmCeremony
	GetManifests

	GetAuthorities
	ReplaceAuthority
	RetireAuthority

	NodeUnseal
	NodeSeal
	NodeRotate
	NodePrepare
	NodeForward
	NodeIssueCertificate
	NodeRewrap
	NodeCheckL1
	NodeSuspend
	NodeDestroy
	NodeWatchSeal
	NodeRepairSeal
	NodeRecover
	NodeCeremony
	NodeExposure
	NodeClear

	actEnd // one past the last act; not an act
)

// Duty groups acts by what they are for. Which role may have which duty is fixed
// in code and holds under every policy (I4). Zero is invalid.
type Duty int

// The duties.
const (
	DutyUnspecified Duty = iota
	DutyUse              // use a key on data
	DutyGovern           // decide about tenants, keys and people
	DutyCustody          // bring the MasterKey into memory
	DutyProtect          // take power away at once: seal
	DutyApprove          // ask others to sign, sign for others, or refuse to
	DutyOperate          // run nodes
	DutyRead             // read state that holds no key
	DutyReadAudit        // read what others did
	DutySelf             // ask about oneself, renew the own certificate
	DutySystem           // what a node does by itself; no role has it
	dutyEnd              // one past the last duty; not a duty
)

// roles is a set of roles, a bit per role number.
type roles uint8

const (
	gov  = roles(1) << auth.RoleGovernor
	cust = roles(1) << auth.RoleCustodian
	oper = roles(1) << auth.RoleOperator
	aud  = roles(1) << auth.RoleAuditor
	work = roles(1) << auth.RoleWorkload

	people   = gov | cust | oper | aud
	everyone = people | work
)

func (s roles) has(r auth.Role) bool { return r.Valid() && s&(1<<r) != 0 }

// duties is the ceiling: which roles may carry which duty at all (I4).
//
//nolint:gochecknoglobals // Immutable table.
var duties = [dutyEnd]roles{
	DutyUse:       work,
	DutyGovern:    gov,
	DutyCustody:   cust,
	DutyProtect:   gov | cust | oper,
	DutyApprove:   gov | cust,
	DutyOperate:   oper,
	DutyRead:      everyone,
	DutyReadAudit: aud,
	DutySelf:      everyone,
	DutySystem:    0,
}

func mayCarry(r auth.Role, d Duty) bool {
	return d > DutyUnspecified && d < dutyEnd && duties[d].has(r)
}

type scope int

const (
	scopeCluster scope = iota + 1 // the object belongs to no tenant
	scopeTenant                   // the object is a tenant or belongs to one
	scopeEither                   // there are such objects of the cluster and of tenants
)

// fits reports whether an object of a tenant, or of none, is one of the scope.
func (s scope) fits(ofTenant bool) bool {
	return s == scopeEither || ofTenant == (s == scopeTenant)
}

// row is what is known about an act.
type row struct {
	name  string
	class audit.Class
	scope scope
	duty  Duty
	may   roles // under the built-in policy
	// power is which governors may, where it is a governor's act; see [Act.Power].
	power auth.Power
}

// acts is an array, so that an act without a row fails
// TestEveryActHasOneRowAndOneName.
//
//nolint:gochecknoglobals // Immutable table.
var acts = [actEnd]row{
	GenerateDataKey: {"crypto.generate_data_key", audit.Data, scopeTenant, DutyUse, work, 0},
	UnwrapDataKey:   {"crypto.unwrap_data_key", audit.Data, scopeTenant, DutyUse, work, 0},
	RewrapDataKey:   {"crypto.rewrap_data_key", audit.Data, scopeTenant, DutyUse, work, 0},
	Encrypt:         {"crypto.encrypt", audit.Data, scopeTenant, DutyUse, work, 0},
	Decrypt:         {"crypto.decrypt", audit.Data, scopeTenant, DutyUse, work, 0},

	CreateTenant:    {"tenants.create", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerCreateTenant},
	GetTenant:       {"tenants.get", audit.Data, scopeTenant, DutyRead, gov | aud | work, 0},
	ListTenants:     {"tenants.list", audit.Data, scopeCluster, DutyRead, gov | aud, 0},
	SuspendTenant:   {"tenants.suspend", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerSuspendTenant},
	ResumeTenant:    {"tenants.resume", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerResumeTenant},
	DeleteTenant:    {"tenants.delete", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerDeleteTenant},
	DeleteTenantNow: {"tenants.delete_now", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerDeleteTenant},
	UndeleteTenant:  {"tenants.undelete", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerDeleteTenant},
	RotateTenant:    {"tenants.rotate", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	RollbackTenant:  {"tenants.rollback", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},

	CreateService:    {"services.create", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	GetService:       {"services.get", audit.Data, scopeTenant, DutyRead, gov | aud | work, 0},
	ListServices:     {"services.list", audit.Data, scopeTenant, DutyRead, gov | aud | work, 0},
	DeleteService:    {"services.delete", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	DeleteServiceNow: {"services.delete_now", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	UndeleteService:  {"services.undelete", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	SuspendService:   {"services.suspend", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerSuspendService},
	ResumeService:    {"services.resume", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	RotateService:    {"services.rotate", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	RollbackService:  {"services.rollback", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},

	GetVersion:           {"versions.get", audit.Data, scopeTenant, DutyRead, gov | aud | work, 0},
	ListVersions:         {"versions.list", audit.Data, scopeTenant, DutyRead, gov | aud | work, 0},
	EnableVersion:        {"versions.enable", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	DisableVersion:       {"versions.disable", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerWeakenVersion},
	DeprecateVersion:     {"versions.deprecate", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	CompromiseVersion:    {"versions.compromise", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerWeakenVersion},
	DestroyVersion:       {"versions.destroy", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	DestroyVersionNow:    {"versions.destroy_now", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	CancelDestroyVersion: {"versions.cancel_destroy", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},

	PinResource:      {"resources.pin", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	UnpinResource:    {"resources.unpin", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	RollbackResource: {"resources.rollback", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	GetResource:      {"resources.get", audit.Data, scopeTenant, DutyRead, gov | aud | work, 0},
	ListResources:    {"resources.list", audit.Data, scopeTenant, DutyRead, gov | aud | work, 0},

	GetSeal:     {"seal.get", audit.Data, scopeCluster, DutyRead, everyone, 0},
	GetShard:    {"seal.get_shard", audit.Data, scopeCluster, DutyCustody, cust, 0},
	Contribute:  {"seal.contribute", audit.Control, scopeCluster, DutyCustody, cust, 0},
	SealNode:    {"seal.seal", audit.Control, scopeCluster, DutyProtect, gov | cust | oper, 0},
	SealCluster: {"seal.seal_cluster", audit.Control, scopeCluster, DutyProtect, gov | cust, 0},
	ReleaseHold: {"seal.release_hold", audit.Control, scopeCluster, DutyCustody, cust, 0},

	Init:      {"admin.init", audit.Control, scopeCluster, DutyOperate, oper, 0},
	PlanSeal:  {"admin.plan-seal", audit.Data, scopeCluster, DutyRead, oper, 0},
	Join:      {"admin.join", audit.Control, scopeCluster, DutyOperate, oper, 0},
	GetStatus: {"admin.status", audit.Data, scopeCluster, DutyRead, oper, 0},

	GetCluster:         {"cluster.get", audit.Data, scopeCluster, DutyRead, people, 0},
	ListNodes:          {"nodes.list", audit.Data, scopeCluster, DutyRead, people, 0},
	GetNode:            {"nodes.get", audit.Data, scopeCluster, DutyRead, people, 0},
	CreateJoinToken:    {"nodes.create_join_token", audit.Control, scopeCluster, DutyOperate, oper, 0},
	PromoteNode:        {"nodes.promote", audit.Control, scopeCluster, DutyOperate, oper, 0},
	DemoteNode:         {"nodes.demote", audit.Control, scopeCluster, DutyOperate, oper, 0},
	RemoveNode:         {"nodes.remove", audit.Control, scopeCluster, DutyOperate, oper, 0},
	TransferLeadership: {"cluster.transfer_leadership", audit.Control, scopeCluster, DutyOperate, oper, 0},
	SaveSnapshot:       {"cluster.save_snapshot", audit.Control, scopeCluster, DutyOperate, oper, 0},

	GetOperation:  {"operations.get", audit.Data, scopeCluster, DutyRead, people, 0},
	WaitOperation: {"operations.wait", audit.Data, scopeCluster, DutyRead, people, 0},

	WhoAmI:            {"access.whoami", audit.Data, scopeCluster, DutySelf, everyone, 0},
	RenewCertificate:  {"access.renew_certificate", audit.Control, scopeCluster, DutySelf, everyone, 0},
	IssueCertificate:  {"access.issue_certificate", audit.Control, scopeEither, DutyGovern, gov, auth.PowerTenant},
	RevokeCertificate: {"access.revoke_certificate", audit.Control, scopeCluster, DutyProtect, gov | oper, 0},
	ListRevocations:   {"access.list_revocations", audit.Data, scopeCluster, DutyRead, people, 0},
	ReadAudit:         {"audit.read", audit.Data, scopeCluster, DutyReadAudit, aud, 0},

	CreateIssuer:      {"issuers.create", audit.Control, scopeEither, DutyGovern, gov, auth.PowerTenant},
	UpdateIssuer:      {"issuers.update", audit.Control, scopeEither, DutyGovern, gov, auth.PowerTenant},
	GetIssuer:         {"issuers.get", audit.Data, scopeEither, DutyRead, gov | aud, 0},
	ListIssuers:       {"issuers.list", audit.Data, scopeEither, DutyRead, gov | aud, 0},
	DeleteIssuer:      {"issuers.delete", audit.Control, scopeEither, DutyGovern, gov, auth.PowerTenant},
	CreateRoleBinding: {"role_bindings.create", audit.Control, scopeEither, DutyGovern, gov, auth.PowerTenant},
	GetRoleBinding:    {"role_bindings.get", audit.Data, scopeEither, DutyRead, people, 0},
	ListRoleBindings:  {"role_bindings.list", audit.Data, scopeEither, DutyRead, people, 0},
	DeleteRoleBinding: {"role_bindings.delete", audit.Control, scopeEither, DutyGovern, gov, auth.PowerTenant},
	SetGovernors:      {"tenants.set_governors", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	BindTenant:        {"tenants.bind", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerCreateTenant},

	CreateApproval: {"approvals.create", audit.Control, scopeCluster, DutyApprove, gov | cust, 0},
	GetApproval:    {"approvals.get", audit.Data, scopeCluster, DutyRead, people, 0},
	ListApprovals:  {"approvals.list", audit.Data, scopeCluster, DutyRead, people, 0},
	Approve:        {"approvals.approve", audit.Control, scopeCluster, DutyApprove, gov | cust, 0},
	Reject:         {"approvals.reject", audit.Control, scopeCluster, DutyApprove, gov | cust, 0},
	SetQuorum:      {"cluster.set_quorum", audit.Control, scopeCluster, DutyGovern, gov, 0},
	GetPolicy:      {"policies.get", audit.Data, scopeTenant, DutyRead, gov | aud, 0},
	ListPolicies:   {"policies.list", audit.Data, scopeTenant, DutyRead, gov | aud, 0},
	PutPolicy:      {"policies.put", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	DeletePolicy:   {"policies.delete", audit.Control, scopeTenant, DutyGovern, gov, auth.PowerTenant},
	TestPolicy:     {"policies.test", audit.Data, scopeTenant, DutyRead, gov | aud, 0},

	StartCeremony:        {"ceremonies.start", audit.Control, scopeCluster, DutyApprove, gov | cust, 0},
	GetCeremony:          {"ceremonies.get", audit.Data, scopeCluster, DutyRead, people, 0},
	ListCeremonies:       {"ceremonies.list", audit.Data, scopeCluster, DutyRead, people, 0},
	ContributeToCeremony: {"ceremonies.contribute", audit.Control, scopeCluster, DutyCustody, cust, 0},
	CancelCeremony:       {"ceremonies.cancel", audit.Control, scopeCluster, DutyProtect, gov | cust, 0},
	ConfirmCeremony:      {"ceremonies.confirm", audit.Control, scopeCluster, DutyApprove, gov | cust, 0},
	GetManifests:         {"seal.get_manifests", audit.Data, scopeCluster, DutyRead, people, 0},

	GetAuthorities:   {"authorities.get", audit.Data, scopeCluster, DutyRead, everyone, 0},
	ReplaceAuthority: {"authorities.replace", audit.Control, scopeCluster, DutyApprove, gov | cust, 0},
	RetireAuthority:  {"authorities.retire", audit.Control, scopeCluster, DutyApprove, gov | cust, 0},

	NodeUnseal:           {"node.unseal", audit.Control, scopeCluster, DutySystem, 0, 0},
	NodeSeal:             {"node.seal", audit.Control, scopeCluster, DutySystem, 0, 0},
	NodeRotate:           {"node.rotate", audit.Control, scopeTenant, DutySystem, 0, 0},
	NodePrepare:          {"node.prepare", audit.Control, scopeTenant, DutySystem, 0, 0},
	NodeForward:          {"node.forward", audit.Data, scopeEither, DutySystem, 0, 0},
	NodeIssueCertificate: {"node.issue_certificate", audit.Control, scopeCluster, DutySystem, 0, 0},
	NodeRewrap:           {"node.rewrap", audit.Control, scopeTenant, DutySystem, 0, 0},
	NodeCheckL1:          {"node.check_l1", audit.Data, scopeTenant, DutySystem, 0, 0},
	NodeSuspend:          {"node.suspend", audit.Control, scopeTenant, DutySystem, 0, 0},
	NodeDestroy:          {"node.destroy", audit.Control, scopeTenant, DutySystem, 0, 0},
	NodeWatchSeal:        {"node.watch_seal", audit.Data, scopeCluster, DutySystem, 0, 0},
	NodeRepairSeal:       {"node.repair_seal", audit.Control, scopeCluster, DutySystem, 0, 0},
	NodeRecover:          {"node.recover", audit.Control, scopeCluster, DutySystem, 0, 0},
	NodeCeremony:         {"node.ceremony", audit.Control, scopeCluster, DutySystem, 0, 0},
	NodeExposure:         {"node.exposure", audit.Control, scopeCluster, DutySystem, 0, 0},
	NodeClear:            {"node.clear", audit.Control, scopeCluster, DutySystem, 0, 0},
}

// Valid reports whether a is one of the acts.
func (a Act) Valid() bool { return a > ActUnspecified && a < actEnd }

// Acts returns every act in the order of the table.
func Acts() []Act {
	all := make([]Act, 0, actEnd-1)
	for a := ActUnspecified + 1; a < actEnd; a++ {
		all = append(all, a)
	}
	return all
}

// String returns the name of the act in records and policies.
func (a Act) String() string {
	if !a.Valid() {
		return "unspecified"
	}
	return acts[a].name
}

// Class says whether the act changes something and therefore has two records,
// each on disk before the gate goes on. It is fixed here and not a field of
// [Request], where a caller could get it wrong.
func (a Act) Class() audit.Class {
	if !a.Valid() {
		return audit.ClassUnspecified
	}
	return acts[a].class
}

// Duty returns what the act is for.
func (a Act) Duty() Duty {
	if !a.Valid() {
		return DutyUnspecified
	}
	return acts[a].duty
}

// Power returns which governors may do the act to an object of a tenant, or of the
// cluster: what is the cluster's is for those of the platform. Invalid for what is
// no governor's act.
func (a Act) Power(ofTenant bool) auth.Power {
	switch {
	case a.Duty() != DutyGovern && a.Duty() != DutyProtect:
		return auth.PowerUnspecified
	case !ofTenant:
		return auth.PowerCluster
	}
	return acts[a].power
}

// Expired reports whether the act is open to who shows an expired certificate for a
// key that a role binding has: to learn who one is, to renew it, and for custodians
// to unseal a cluster that was off for longer than certificates live.
func (a Act) Expired(r auth.Role) bool {
	return a == WhoAmI || a == RenewCertificate || r == auth.RoleCustodian && (a == GetSeal || a == GetShard || a == Contribute)
}

func (a Act) scope() scope {
	if !a.Valid() {
		return 0
	}
	return acts[a].scope
}
