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
	Contribute
	SealNode
	SealCluster
	ReleaseHold

	Init
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
	RevokeCertificate
	ListRevocations
	ReadAudit

	NodeUnseal
	NodeSeal
	NodeRotate
	NodePrepare
	NodeIssueCertificate
	NodeRewrap
	NodeCheckL1
	NodeSuspend
	NodeDestroy

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
	DutyOperate          // run nodes
	DutyRead             // read state that holds no key
	DutyReadAudit        // read what others did
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
	DutyOperate:   oper,
	DutyRead:      everyone,
	DutyReadAudit: aud,
	DutySystem:    0,
}

func mayCarry(r auth.Role, d Duty) bool {
	return d > DutyUnspecified && d < dutyEnd && duties[d].has(r)
}

type scope int

const (
	scopeCluster scope = iota + 1 // the object belongs to no tenant
	scopeTenant                   // the object is a tenant or belongs to one
)

// row is what is known about an act.
type row struct {
	name  string
	class audit.Class
	scope scope
	duty  Duty
	may   roles // under the built-in policy
}

// acts is an array, so that an act without a row fails
// TestEveryActHasOneRowAndOneName.
//
//nolint:gochecknoglobals // Immutable table.
var acts = [actEnd]row{
	GenerateDataKey: {"crypto.generate_data_key", audit.Data, scopeTenant, DutyUse, work},
	UnwrapDataKey:   {"crypto.unwrap_data_key", audit.Data, scopeTenant, DutyUse, work},
	RewrapDataKey:   {"crypto.rewrap_data_key", audit.Data, scopeTenant, DutyUse, work},
	Encrypt:         {"crypto.encrypt", audit.Data, scopeTenant, DutyUse, work},
	Decrypt:         {"crypto.decrypt", audit.Data, scopeTenant, DutyUse, work},

	CreateTenant:    {"tenants.create", audit.Control, scopeTenant, DutyGovern, gov},
	GetTenant:       {"tenants.get", audit.Data, scopeTenant, DutyRead, gov | aud | work},
	ListTenants:     {"tenants.list", audit.Data, scopeCluster, DutyRead, gov | aud},
	SuspendTenant:   {"tenants.suspend", audit.Control, scopeTenant, DutyGovern, gov},
	ResumeTenant:    {"tenants.resume", audit.Control, scopeTenant, DutyGovern, gov},
	DeleteTenant:    {"tenants.delete", audit.Control, scopeTenant, DutyGovern, gov},
	DeleteTenantNow: {"tenants.delete_now", audit.Control, scopeTenant, DutyGovern, gov},
	UndeleteTenant:  {"tenants.undelete", audit.Control, scopeTenant, DutyGovern, gov},
	RotateTenant:    {"tenants.rotate", audit.Control, scopeTenant, DutyGovern, gov},
	RollbackTenant:  {"tenants.rollback", audit.Control, scopeTenant, DutyGovern, gov},

	CreateService:    {"services.create", audit.Control, scopeTenant, DutyGovern, gov},
	GetService:       {"services.get", audit.Data, scopeTenant, DutyRead, gov | aud | work},
	ListServices:     {"services.list", audit.Data, scopeTenant, DutyRead, gov | aud | work},
	DeleteService:    {"services.delete", audit.Control, scopeTenant, DutyGovern, gov},
	DeleteServiceNow: {"services.delete_now", audit.Control, scopeTenant, DutyGovern, gov},
	UndeleteService:  {"services.undelete", audit.Control, scopeTenant, DutyGovern, gov},
	SuspendService:   {"services.suspend", audit.Control, scopeTenant, DutyGovern, gov},
	ResumeService:    {"services.resume", audit.Control, scopeTenant, DutyGovern, gov},
	RotateService:    {"services.rotate", audit.Control, scopeTenant, DutyGovern, gov},
	RollbackService:  {"services.rollback", audit.Control, scopeTenant, DutyGovern, gov},

	GetVersion:           {"versions.get", audit.Data, scopeTenant, DutyRead, gov | aud | work},
	ListVersions:         {"versions.list", audit.Data, scopeTenant, DutyRead, gov | aud | work},
	EnableVersion:        {"versions.enable", audit.Control, scopeTenant, DutyGovern, gov},
	DisableVersion:       {"versions.disable", audit.Control, scopeTenant, DutyGovern, gov},
	DeprecateVersion:     {"versions.deprecate", audit.Control, scopeTenant, DutyGovern, gov},
	CompromiseVersion:    {"versions.compromise", audit.Control, scopeTenant, DutyGovern, gov},
	DestroyVersion:       {"versions.destroy", audit.Control, scopeTenant, DutyGovern, gov},
	DestroyVersionNow:    {"versions.destroy_now", audit.Control, scopeTenant, DutyGovern, gov},
	CancelDestroyVersion: {"versions.cancel_destroy", audit.Control, scopeTenant, DutyGovern, gov},

	PinResource:      {"resources.pin", audit.Control, scopeTenant, DutyGovern, gov},
	UnpinResource:    {"resources.unpin", audit.Control, scopeTenant, DutyGovern, gov},
	RollbackResource: {"resources.rollback", audit.Control, scopeTenant, DutyGovern, gov},
	GetResource:      {"resources.get", audit.Data, scopeTenant, DutyRead, gov | aud | work},
	ListResources:    {"resources.list", audit.Data, scopeTenant, DutyRead, gov | aud | work},

	GetSeal:     {"seal.get", audit.Data, scopeCluster, DutyRead, everyone},
	Contribute:  {"seal.contribute", audit.Control, scopeCluster, DutyCustody, cust},
	SealNode:    {"seal.seal", audit.Control, scopeCluster, DutyProtect, gov | cust | oper},
	SealCluster: {"seal.seal_cluster", audit.Control, scopeCluster, DutyProtect, gov | cust},
	ReleaseHold: {"seal.release_hold", audit.Control, scopeCluster, DutyCustody, cust},

	Init:      {"admin.init", audit.Control, scopeCluster, DutyOperate, oper},
	Join:      {"admin.join", audit.Control, scopeCluster, DutyOperate, oper},
	GetStatus: {"admin.status", audit.Data, scopeCluster, DutyRead, oper},

	GetCluster:         {"cluster.get", audit.Data, scopeCluster, DutyRead, people},
	ListNodes:          {"nodes.list", audit.Data, scopeCluster, DutyRead, people},
	GetNode:            {"nodes.get", audit.Data, scopeCluster, DutyRead, people},
	CreateJoinToken:    {"nodes.create_join_token", audit.Control, scopeCluster, DutyOperate, oper},
	PromoteNode:        {"nodes.promote", audit.Control, scopeCluster, DutyOperate, oper},
	DemoteNode:         {"nodes.demote", audit.Control, scopeCluster, DutyOperate, oper},
	RemoveNode:         {"nodes.remove", audit.Control, scopeCluster, DutyOperate, oper},
	TransferLeadership: {"cluster.transfer_leadership", audit.Control, scopeCluster, DutyOperate, oper},
	SaveSnapshot:       {"cluster.save_snapshot", audit.Control, scopeCluster, DutyOperate, oper},

	GetOperation:  {"operations.get", audit.Data, scopeCluster, DutyRead, people},
	WaitOperation: {"operations.wait", audit.Data, scopeCluster, DutyRead, people},

	WhoAmI:            {"access.whoami", audit.Data, scopeCluster, DutyRead, everyone},
	IssueCertificate:  {"access.issue_certificate", audit.Control, scopeCluster, DutyGovern, gov},
	RevokeCertificate: {"access.revoke_certificate", audit.Control, scopeCluster, DutyProtect, gov | oper},
	ListRevocations:   {"access.list_revocations", audit.Data, scopeCluster, DutyRead, people},
	ReadAudit:         {"audit.read", audit.Data, scopeCluster, DutyReadAudit, aud},

	NodeUnseal:           {"node.unseal", audit.Control, scopeCluster, DutySystem, 0},
	NodeSeal:             {"node.seal", audit.Control, scopeCluster, DutySystem, 0},
	NodeRotate:           {"node.rotate", audit.Control, scopeTenant, DutySystem, 0},
	NodePrepare:          {"node.prepare", audit.Control, scopeTenant, DutySystem, 0},
	NodeIssueCertificate: {"node.issue_certificate", audit.Control, scopeCluster, DutySystem, 0},
	NodeRewrap:           {"node.rewrap", audit.Control, scopeTenant, DutySystem, 0},
	NodeCheckL1:          {"node.check_l1", audit.Data, scopeTenant, DutySystem, 0},
	NodeSuspend:          {"node.suspend", audit.Control, scopeTenant, DutySystem, 0},
	NodeDestroy:          {"node.destroy", audit.Control, scopeTenant, DutySystem, 0},
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

func (a Act) scope() scope {
	if !a.Valid() {
		return 0
	}
	return acts[a].scope
}
