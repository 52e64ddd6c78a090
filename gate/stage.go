package gate

// Stage is how far the approval is by which something is done. The zero value is that
// there is none: the caller does it.
type Stage int

// The stages.
const (
	NoApproval Stage = iota
	// Asked: it is only checked, so that others can be asked to sign for it. Governors
	// of the platform may ask for what operators do: they sign for it, and could bind
	// an operator.
	Asked
	// Signed: those who have to have signed. No policy is asked: every replica judges
	// the requester and the signers when it applies the change, and a refusal there
	// ends the approval; one here would leave it waiting.
	Signed
)

// sovereign are the acts that people may have to sign, and so the only ones that an
// approval can be about.
//
//nolint:gochecknoglobals // Immutable table.
var sovereign = map[Act]bool{
	CreateTenant: true, BindTenant: true, DeleteTenant: true, DeleteTenantNow: true, DeleteService: true, DeleteServiceNow: true,
	DestroyVersion: true, DestroyVersionNow: true, CreateJoinToken: true, PromoteNode: true, DemoteNode: true, RemoveNode: true,
	CreateIssuer: true, UpdateIssuer: true, DeleteIssuer: true, CreateRoleBinding: true, DeleteRoleBinding: true,
	IssueCertificate: true, SetGovernors: true, SetQuorum: true, ReplaceAuthority: true, RetireAuthority: true, StartCeremony: true, ConfirmCeremony: true,
	PutPolicy: true, DeletePolicy: true,
}

// Sovereign reports whether people may have to sign for the act.
func (a Act) Sovereign() bool { return sovereign[a] }

// staged reports whether approval and stage fit together, and the act.
func (r Request) staged() bool {
	if r.Stage == NoApproval {
		return r.Approval == ""
	}
	return r.Stage <= Signed && r.Stage > NoApproval && r.Approval != "" && r.Act.Sovereign()
}

// duty is what the request is for: by an approval it is to ask for signatures, which
// no operator does.
func (r Request) duty() Duty {
	if r.Stage != NoApproval {
		return DutyApprove
	}
	return r.Act.Duty()
}
