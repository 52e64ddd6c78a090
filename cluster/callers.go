package cluster

import (
	"slices"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// callers reports whether an act of the API makes the command (I13). It is a list
// of what may pass and not of what may not: a command that is added to the
// registry later is the cluster's own until somebody decides here that callers
// give it.
//
// What is not on the list is also what a node that was taken over cannot make the
// leader commit, whatever a caller showed to it: another certificate authority,
// another internal key, a member without a token.
func callers(cmd *fsmpb.Command) bool {
	if cmd.GetSkippable() {
		// That is for releases that differ, and no act of the API needs it.
		return false
	}
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant, *fsmpb.Command_BindTenant, *fsmpb.Command_CreateService, *fsmpb.Command_ChangeObject,
		*fsmpb.Command_AddVersion, *fsmpb.Command_SetPrimary, *fsmpb.Command_ChangeVersion,
		*fsmpb.Command_PinResource, *fsmpb.Command_UnpinResource, *fsmpb.Command_RollbackResource,
		*fsmpb.Command_CreateJoinToken, *fsmpb.Command_RemoveMember, *fsmpb.Command_SetHold,
		*fsmpb.Command_RevokeCertificate,
		*fsmpb.Command_PutIssuer, *fsmpb.Command_RemoveIssuer,
		*fsmpb.Command_BindRole, *fsmpb.Command_UnbindRole, *fsmpb.Command_SetTenantGovernors,
		*fsmpb.Command_RequestApproval, *fsmpb.Command_Approve, *fsmpb.Command_RejectApproval, *fsmpb.Command_SetQuorum,
		*fsmpb.Command_PutPolicy, *fsmpb.Command_RemovePolicy,
		*fsmpb.Command_NoteBackup,
		*fsmpb.Command_BeginCeremony, *fsmpb.Command_StageCeremony, *fsmpb.Command_ConfirmHolder, *fsmpb.Command_ProveSeal, *fsmpb.Command_CommitCeremony, *fsmpb.Command_CancelCeremony, *fsmpb.Command_ConfirmSeal,
		*fsmpb.Command_ReplaceAuthority, *fsmpb.Command_RetireAuthority:
		return true
	case *fsmpb.Command_UpdateMember:
		// Addresses and releases are what a member says of itself; see Announce.
		return slices.Equal(b.UpdateMember.GetFields(), []string{"voter"})
	}
	return false
}

// forCallers refuses the commands that no caller gives (I13).
func forCallers(cmd *fsmpb.Command) error {
	if !callers(cmd) {
		return errs.New(errs.InvalidArgument, "this command is not a caller's")
	}
	return nil
}

// mayForward checks a command that the member via received from a caller.
func mayForward(cmd *fsmpb.Command, via NodeID) error {
	if err := forCallers(cmd); err != nil {
		return err
	}
	p := cmd.GetPrincipal()
	if p.GetIssuer() == auth.LocalIssuer.String() {
		// The permissions of a file on another machine: nothing that could be verified
		// here, and nothing of that socket is forwarded.
		return errs.New(errs.Denied, "the forwarded command is of the local operator of another node")
	}
	if p.GetKind() == "" || p.GetName() == "" || p.GetKind() == kindNode && (p.GetName() != string(via) || p.GetIssuer() != "") {
		return errs.New(errs.Denied, "the forwarded command names no caller, or another node as one")
	}
	return nil
}
