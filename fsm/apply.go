package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxTimeMS bounds command times to the year 9999, so that no sum of a time and
// a duration overflows.
const maxTimeMS = 253402300799999

// Limits of a command's envelope.
const (
	MaxRequestIDBytes = 128  // of a request id
	MaxPrincipalBytes = 1024 // of issuer, kind and name together
)

// done is what a command that was done says in its result.
type done struct {
	object  string
	version uint32
	uid     []byte
}

// run executes cmd on the state in v and leaves the outcome in v; an epoch that it
// began is returned beside. Only an error after which the node must stop is
// returned as one.
func (m *Machine) run(v *View, cmd *fsmpb.Command, raw []byte, p provedness) (*fsmpb.Result, Epoch, error) {
	index := v.index
	if e := checkEnvelope(cmd, v.cluster); e != nil {
		return refusal(index, e), Epoch{}, nil
	}
	if e := p.refuses(cmd, v.cluster); e != nil {
		return refusal(index, e), Epoch{}, nil
	}
	if p.counts(v.cluster) {
		v.timeMS = max(v.timeMS, cmd.GetTimeUnixMs())
	}
	if v.cluster == nil && cmd.GetGenesis() == nil {
		return refusal(index, errs.New(errs.FailedState, "the cluster is not initialised", errs.Hint("run krypton init first"))), Epoch{}, nil
	}

	base := v.meta
	t := m.begin(v, base, cmd, raw)
	if res := t.recall(); res != nil {
		t.txn.Abort()
		return res, Epoch{}, nil
	}
	d, err := t.attempt()
	if err == nil {
		res := &fsmpb.Result{Index: index, Object: d.object, Version: d.version, Uid: bytes.Clone(d.uid)}
		t.endApproval(t.approval, fsmpb.ApprovalState_APPROVAL_STATE_EXECUTED, res)
		t.remember(res)
		t.commit(v)
		return res, t.epoch, nil
	}

	// Whatever the command did before it was refused is gone with the
	// transaction; only the memory of the refusal may stay (I10), and that the
	// approval which it was to execute never will be.
	approval := t.approval
	t.txn.Abort()
	var e *errs.Error
	if !errors.As(err, &e) {
		return nil, Epoch{}, err
	}
	res := refusal(index, e)
	fails := approval != nil && endsApproval(e.Code)
	if (isFact(e.Code) || fails) && v.cluster != nil {
		t = m.begin(v, base, cmd, raw)
		if fails {
			t.endApproval(approval, fsmpb.ApprovalState_APPROVAL_STATE_FAILED, res)
		}
		if isFact(e.Code) && t.room() == nil {
			t.remember(res)
		}
		t.commit(v)
	}
	return res, Epoch{}, nil
}

// attempt does what the command says, if it may.
func (t *tx) attempt() (done, error) {
	if err := t.admit(); err != nil {
		return done{}, err
	}
	d, err := t.execute()
	if err == nil && t.approval != nil && !t.approved {
		// Signatures were gathered for something that needed none when it was done: a
		// member that is a voter already, say. The approval orders nothing then.
		return done{}, errs.New(errs.FailedState, "nothing was left to do that people sign for", errs.Hint("look at the object; it is as it was ordered, or changed otherwise"))
	}
	return d, err
}

// admit refuses a command before it is looked at what it orders: for who asks, and
// for want of room to remember it.
func (t *tx) admit() error {
	if err := t.callerRevoked(); err != nil {
		return err
	}
	if err := t.openApproval(); err != nil {
		return err
	}
	if err := t.mayOrder(); err != nil {
		return err
	}
	if err := t.sameRequester(); err != nil {
		return err
	}
	return t.room()
}

// commit leaves the outcome of the command in v.
func (t *tx) commit(v *View) {
	t.txn.Commit()
	v.meta, v.state = t.meta, state{db: t.db, txn: t.db.Txn(false)}
}

// begin begins a command on a copy of the database of v.
func (m *Machine) begin(v *View, base meta, cmd *fsmpb.Command, raw []byte) *tx {
	db := v.db.Snapshot()
	return &tx{meta: base, db: db, txn: db.Txn(true), cmd: cmd, raw: raw, opts: m.opts}
}

// checkEnvelope refuses what no command may carry in that cluster. Nothing of such
// a command counts, its time neither.
func checkEnvelope(cmd *fsmpb.Command, c *fsmpb.Cluster) *errs.Error {
	p := cmd.GetPrincipal()
	switch {
	case cmd.GetTimeUnixMs() <= 0 || cmd.GetTimeUnixMs() > maxTimeMS:
		return errs.New(errs.InvalidArgument, "the command has no valid time", errs.Hint("check the clock of the leader"))
	case len(cmd.GetRequestId()) > MaxRequestIDBytes:
		return errs.New(errs.InvalidArgument, "request id is longer than 128 bytes")
	case len(p.GetIssuer())+len(p.GetKind())+len(p.GetName()) > MaxPrincipalBytes:
		return errs.New(errs.InvalidArgument, "the principal's name is too long")
	case len(cmd.GetCallerSerial()) > MaxSerialBytes:
		return errs.New(errs.InvalidArgument, "the serial number of the caller's certificate is too long")
	case cmd.GetRequestId() != "" && len(cmd.GetRequestDigest()) != sha256.Size:
		return errs.New(errs.InvalidArgument, "a command with a request id needs the digest of its request")
	case cmd.GetSkippable() && max(c.GetFormatVersion(), cmd.GetGenesis().GetFormatVersion()) >= FormatLeases:
		// All that this release knows matter to a data operation or to who is a
		// member: a release that skipped one would gate by another state (I18).
		return errs.New(errs.InvalidArgument, "no command of this kind may be skipped by a release that does not know it")
	}
	return nil
}

// execute does what the body of the command says. An [errs.Error] refuses it;
// any other error stops the node.
func (t *tx) execute() (done, error) {
	switch b := t.cmd.GetBody().(type) {
	case *fsmpb.Command_Genesis:
		return t.genesis(b.Genesis)
	case *fsmpb.Command_CreateTenant:
		return t.createTenant(b.CreateTenant)
	case *fsmpb.Command_ChangeObject:
		return t.changeObject(b.ChangeObject)
	case *fsmpb.Command_CreateService:
		return t.createService(b.CreateService)
	case *fsmpb.Command_AddVersion:
		return t.addVersion(b.AddVersion)
	case *fsmpb.Command_SetPrimary:
		return t.setPrimary(b.SetPrimary)
	case *fsmpb.Command_ChangeVersion:
		return t.changeVersion(b.ChangeVersion)
	case *fsmpb.Command_PinResource:
		return t.pinResource(b.PinResource)
	case *fsmpb.Command_UnpinResource:
		return t.unpinResource(b.UnpinResource)
	case *fsmpb.Command_RollbackResource:
		return t.rollbackResource(b.RollbackResource)
	case *fsmpb.Command_AddInternalKey:
		return t.addInternalKey(b.AddInternalKey)
	case *fsmpb.Command_RewrapTenant:
		return t.rewrapTenant(b.RewrapTenant)
	case *fsmpb.Command_PutSecret:
		return t.putSecret(b.PutSecret.GetSecret())
	case *fsmpb.Command_CreateJoinToken:
		return t.createJoinToken(b.CreateJoinToken.GetToken())
	case *fsmpb.Command_AddMember:
		return t.addMember(b.AddMember)
	case *fsmpb.Command_UpdateMember:
		return t.updateMember(b.UpdateMember)
	case *fsmpb.Command_RemoveMember:
		return t.removeMember(b.RemoveMember)
	case *fsmpb.Command_PurgeMember:
		return t.purgeMember(b.PurgeMember)
	case *fsmpb.Command_SetHold:
		return t.setHold(b.SetHold)
	case *fsmpb.Command_RevokeCertificate:
		return t.revokeCertificate(b.RevokeCertificate)
	case *fsmpb.Command_Tick:
		return t.tick()
	case *fsmpb.Command_RaiseFormat:
		return t.raiseFormat(b.RaiseFormat)
	case *fsmpb.Command_LeaseEpoch:
		return t.leaseEpoch(b.LeaseEpoch)
	case *fsmpb.Command_RepairSeal:
		return t.repairSeal(b.RepairSeal)
	case *fsmpb.Command_Recover:
		return t.recover(b.Recover)
	}
	if t.cluster.GetFormatVersion() < FormatAuthority && ofAuthority(t.cmd) {
		return done{}, errNoAuthority()
	}
	switch b := t.cmd.GetBody().(type) {
	case *fsmpb.Command_PutIssuer:
		return t.putIssuer(b.PutIssuer)
	case *fsmpb.Command_RemoveIssuer:
		return t.removeIssuer(b.RemoveIssuer)
	case *fsmpb.Command_BindRole:
		return t.bindRole(b.BindRole)
	case *fsmpb.Command_UnbindRole:
		return t.unbindRole(b.UnbindRole)
	case *fsmpb.Command_SetTenantGovernors:
		return t.setTenantGovernors(b.SetTenantGovernors)
	case *fsmpb.Command_RequestApproval:
		return t.requestApproval(b.RequestApproval.GetApproval())
	case *fsmpb.Command_Approve:
		return t.approve(b.Approve)
	case *fsmpb.Command_RejectApproval:
		return t.rejectApproval(b.RejectApproval)
	case *fsmpb.Command_SetQuorum:
		return t.setQuorum(b.SetQuorum)
	case *fsmpb.Command_PutPolicy:
		return t.putPolicy(b.PutPolicy)
	case *fsmpb.Command_RemovePolicy:
		return t.removePolicy(b.RemovePolicy)
	}
	if t.cluster.GetFormatVersion() < FormatCeremonies && ofCeremonies(t.cmd) {
		return done{}, errs.New(errs.FailedState, "the format version of this cluster is older than ceremonies", errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	}
	switch b := t.cmd.GetBody().(type) {
	case *fsmpb.Command_BeginCeremony:
		return t.beginCeremony(b.BeginCeremony)
	case *fsmpb.Command_StageCeremony:
		return t.stageCeremony(b.StageCeremony)
	case *fsmpb.Command_ConfirmHolder:
		return t.confirmHolder(b.ConfirmHolder)
	case *fsmpb.Command_ProveSeal:
		return t.proveSeal(b.ProveSeal)
	case *fsmpb.Command_CommitCeremony:
		return t.commitCeremony(b.CommitCeremony)
	case *fsmpb.Command_CancelCeremony:
		return t.cancelCeremony(b.CancelCeremony)
	case *fsmpb.Command_BindTenant:
		return t.bindTenant(b.BindTenant)
	}
	if t.cluster.GetFormatVersion() < FormatSealProof && ofExposure(t.cmd) {
		return done{}, errs.New(errs.FailedState, "the format version of this cluster is older than rekeys of an exposed MasterKey", errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	}
	switch b := t.cmd.GetBody().(type) {
	case *fsmpb.Command_ReplaceAuthority:
		return t.succeedAuthority(b.ReplaceAuthority)
	case *fsmpb.Command_RetireAuthority:
		return t.retireAuthority(b.RetireAuthority)
	case *fsmpb.Command_ConfirmSeal:
		return t.confirmSeal(b.ConfirmSeal)
	case *fsmpb.Command_EndInternalKeys:
		return t.endInternalKeys(b.EndInternalKeys)
	case *fsmpb.Command_MemberCleared:
		return t.memberCleared(b.MemberCleared)
	case *fsmpb.Command_DropCarried:
		return t.dropCarried(b.DropCarried)
	case *fsmpb.Command_FinishExposure:
		return t.finishExposure(b.FinishExposure)
	case *fsmpb.Command_NoteBackup:
		return t.noteBackup(b.NoteBackup.GetBackup())
	}
	return done{}, fmt.Errorf("%w: %T", errNoBody, t.cmd.GetBody())
}

// ofCeremonies reports whether a command is one of those that came with [FormatCeremonies].
func ofCeremonies(cmd *fsmpb.Command) bool {
	switch cmd.GetBody().(type) {
	case *fsmpb.Command_BeginCeremony, *fsmpb.Command_StageCeremony, *fsmpb.Command_ConfirmHolder, *fsmpb.Command_ProveSeal,
		*fsmpb.Command_CommitCeremony, *fsmpb.Command_CancelCeremony:
		return true
	}
	return false
}

// ofExposure reports whether a command is one of those that came with [FormatSealProof].
func ofExposure(cmd *fsmpb.Command) bool {
	switch cmd.GetBody().(type) {
	case *fsmpb.Command_ReplaceAuthority, *fsmpb.Command_RetireAuthority, *fsmpb.Command_NoteBackup, *fsmpb.Command_ConfirmSeal,
		*fsmpb.Command_DropCarried, *fsmpb.Command_EndInternalKeys, *fsmpb.Command_MemberCleared, *fsmpb.Command_FinishExposure:
		return true
	}
	return false
}

// takesPower reports whether a command only takes power away. Such commands are
// never refused for want of room in the memory of requests.
func takesPower(cmd *fsmpb.Command) bool {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_ChangeObject:
		e := b.ChangeObject.GetEvent()
		return e == fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND || e == fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY
	case *fsmpb.Command_ChangeVersion:
		e := b.ChangeVersion.GetEvent()
		return e == fsmpb.VersionEvent_VERSION_EVENT_DISABLE || e == fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE ||
			e == fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE || e == fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY
	case *fsmpb.Command_SetHold:
		return b.SetHold.GetHeld()
	case *fsmpb.Command_RemoveMember, *fsmpb.Command_RevokeCertificate, *fsmpb.Command_UnbindRole, *fsmpb.Command_RemoveIssuer,
		*fsmpb.Command_RejectApproval, *fsmpb.Command_CancelCeremony, *fsmpb.Command_RetireAuthority:
		return true
	}
	return false
}

// Refusals that several commands share.

func invalid(msg string) error { return errs.New(errs.InvalidArgument, msg) }

// wrong is invalid for what a caller chose, with what to give instead.
func wrong(msg, hint string) error {
	return errs.New(errs.InvalidArgument, msg, errs.Hint("%s", hint))
}

func moved(what string) error {
	return errs.New(errs.Aborted, what+" moved while the change was being prepared", errs.Hint("prepare the change again"))
}

func limit(what string, n int) error {
	return errs.Newf(errs.LimitReached, "there are %d %s already, which is the limit", n, what).
		With(errs.Hint("use one that is there, or another cluster"))
}

// checkEtag compares what the caller saw with what is there.
func checkEtag(etag, modIndex uint64) error {
	if etag == 0 || etag == modIndex {
		return nil
	}
	return errs.New(errs.StaleEtag, "the object changed since it was read", errs.Hint("read it again and retry with its new etag"))
}
