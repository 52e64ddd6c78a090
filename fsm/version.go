package fsm

import (
	"bytes"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// addVersion stages the next version of a tenant's or a service's key.
func (t *tx) addVersion(c *fsmpb.AddVersion) (done, error) {
	o, err := t.findKeyed(c.GetObject())
	if err != nil {
		return done{}, err
	}
	if !bytes.Equal(o.uid(), c.GetObjectUid()) {
		return done{}, moved("the " + o.noun())
	}
	if err := checkEtag(c.GetEtag(), o.modIndex()); err != nil {
		return done{}, err
	}
	// Everything above must be in use; a state that unwraps stands in for the
	// new version, which has none yet.
	above, err := t.above(o)
	if err != nil {
		return done{}, err
	}
	if r := hierarchy.CanUnwrap(hierarchy.Active, above, hierarchy.GrantNone); r != hierarchy.NotRefused {
		return done{}, r.Err(o.blame(r))
	}
	is, r := t.chainOf(o).Stage(uidOf(c.GetVersion().GetUid()), at(t.timeMS))
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the new version")
	}
	number := uint32(len(is.Versions)) //nolint:gosec // At most hierarchy.MaxVersions.
	row := uidOwner{uid: string(c.GetVersion().GetUid()), tenant: string(o.tenant.GetUid()), number: number}
	if o.kind == ofService {
		row.kind, row.service = uidServiceVersion, string(o.service.GetUid())
		err = t.parentOfService(o, c.GetVersion(), number)
	} else {
		row.kind = uidTenantVersion
		err = material(c.GetVersion(), number, o.tenant.GetL2Uid(), "the tenant key")
	}
	if err != nil {
		return done{}, err
	}
	if err := t.claim(row); err != nil {
		return done{}, err
	}
	t.storeChain(o, is, c.GetVersion())
	return done{object: o.name(), version: number, uid: c.GetVersion().GetUid()}, nil
}

// setPrimary moves the primary pointer: on to a staged version, or back.
func (t *tx) setPrimary(c *fsmpb.SetPrimary) (done, error) {
	o, err := t.findKeyed(c.GetObject())
	if err != nil {
		return done{}, err
	}
	if !bytes.Equal(o.uid(), c.GetObjectUid()) {
		return done{}, moved("the " + o.noun())
	}
	if err := checkEtag(c.GetEtag(), o.modIndex()); err != nil {
		return done{}, err
	}
	if err := o.alive(); err != nil {
		return done{}, err
	}
	number := hierarchy.VersionNumber(c.GetNumber())
	var is hierarchy.Chain
	var r hierarchy.Refusal
	if c.GetRollback() {
		is, r = t.chainOf(o).Rollback(number, at(t.timeMS))
	} else {
		is, r = t.chainOf(o).Activate(number, at(t.timeMS), t.trigger())
	}
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the key version")
	}
	o = t.storeChain(o, is, nil)
	v, _ := versionAt(o.versions(), c.GetNumber())
	return done{object: o.name(), version: c.GetNumber(), uid: v.GetUid()}, nil
}

// trigger tells a person's rotation from one by the schedule: housekeeping of
// the leader has no principal.
func (t *tx) trigger() hierarchy.Trigger {
	if t.housekeeping() {
		return hierarchy.TriggerSchedule
	}
	return hierarchy.TriggerPerson
}

// housekeeping reports whether the command is the leader's own.
func (t *tx) housekeeping() bool {
	p := t.cmd.GetPrincipal()
	return p.GetIssuer() == "" && p.GetKind() == "" && p.GetName() == ""
}

func (t *tx) changeVersion(c *fsmpb.ChangeVersion) (done, error) {
	o, err := t.find(c.GetObject())
	if err != nil {
		return done{}, err
	}
	if err := o.alive(); err != nil {
		return done{}, err
	}
	v, ok := versionAt(o.versions(), c.GetNumber())
	if !ok {
		return done{}, hierarchy.RefusedNoVersion.Err("the key version")
	}
	if err := checkEtag(c.GetEtag(), v.GetModIndex()); err != nil {
		return done{}, err
	}
	oc := hierarchy.Occurrence{Event: versionEvent(c.GetEvent()), At: at(t.timeMS)}
	if oc.Event == 0 {
		return done{}, invalid("the command names no change")
	}
	if oc.Event == hierarchy.EventScheduleDestroy {
		oc.Wait = t.destroyWait(c.GetNow())
	}
	if o.kind == ofCluster {
		if err := t.mayWeaken(o, v, oc.Event); err != nil {
			return done{}, err
		}
	}
	number := hierarchy.VersionNumber(c.GetNumber())
	is, r := t.chainOf(o).Change(number, oc)
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the key version")
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	if oc.Event == hierarchy.EventScheduleDestroy && oc.Wait == 0 {
		if is, r = is.Change(number, hierarchy.Occurrence{Event: hierarchy.EventDestroy, At: at(t.timeMS)}); r != hierarchy.NotRefused {
			return done{}, r.Err("the key version")
		}
	}
	t.storeChain(o, is, nil)
	return done{object: o.name(), version: c.GetNumber(), uid: v.GetUid()}, nil
}

func versionEvent(e fsmpb.VersionEvent) hierarchy.Event {
	switch e {
	case fsmpb.VersionEvent_VERSION_EVENT_ENABLE:
		return hierarchy.EventEnable
	case fsmpb.VersionEvent_VERSION_EVENT_DISABLE:
		return hierarchy.EventDisable
	case fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE:
		return hierarchy.EventDeprecate
	case fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE:
		return hierarchy.EventCompromise
	case fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY:
		return hierarchy.EventScheduleDestroy
	case fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY:
		return hierarchy.EventCancelDestroy
	case fsmpb.VersionEvent_VERSION_EVENT_UNSPECIFIED:
	}
	return 0
}

// mayWeaken refuses what would take an internal key version from under
// something (I9): whoever wants that re-wraps first, or every tenant is lost.
func (t *tx) mayWeaken(o owner, v *fsmpb.Version, e hierarchy.Event) error {
	switch e { //nolint:exhaustive // The other events do not come from commands.
	case hierarchy.EventEnable, hierarchy.EventCancelDestroy:
		return nil
	case hierarchy.EventDeprecate: // still unwraps
		if v.GetNumber() == o.primary() {
			return hierarchy.RefusedPrimary.Err("the internal key version")
		}
		return nil
	}
	switch {
	case v.GetNumber() == o.primary():
		return hierarchy.RefusedPrimary.Err("the internal key version")
	case ivkUsed(t.txn, v.GetUid()):
		return errs.New(errs.FailedState, "something is wrapped under the internal key version",
			errs.Hint("re-wrap every tenant and internal secret first"))
	}
	return nil
}

// addInternalKey adds the next IVK version and makes it the primary. Only the
// leader's own housekeeping does (I16): a caller's command has a principal, and
// so has one that a member forwards.
//
// Nobody without the MasterKey can tell an IVK from junk, so a leader that lies
// can still make junk the primary. That costs availability, not secrecy, since
// nobody wraps under what does not open: no tenant is created and nothing is
// wrapped again until an honest leader adds the next version. What is wrapped
// under earlier versions stays where it is, and they stay usable (I9). What ends
// it is removing that member; the junk is then superseded, holds nothing, and
// can be destroyed.
func (t *tx) addInternalKey(c *fsmpb.AddInternalKey) (done, error) {
	if !t.housekeeping() {
		return done{}, errs.New(errs.Denied, "an internal key version is added by the leader itself, never for a caller")
	}
	if c, ok := openCeremony(state{txn: t.txn}); ok && c.GetRekey() != nil {
		// It would not be under the MasterKey that is about to come into force.
		return done{}, errs.New(errs.FailedState, "a rekey is staged, and it has every internal key", errs.Hint("wait for the end of the ceremony: krypton ceremony status"))
	}
	o := owner{kind: ofCluster, cluster: t.cluster}
	number := uint32(len(o.versions())) + 1 //nolint:gosec // At most hierarchy.MaxVersions.
	if err := material(c.GetVersion(), number, nil, "the MasterKey"); err != nil {
		return done{}, err
	}
	uid := c.GetVersion().GetUid()
	is, r := t.chainOf(o).Rotate(uidOf(uid), at(t.timeMS), t.trigger())
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the internal key")
	}
	if err := t.claim(uidOwner{uid: string(uid), kind: uidInternalKey, number: number}); err != nil {
		return done{}, err
	}
	t.storeChain(o, is, c.GetVersion())
	return done{object: o.name(), version: number, uid: uid}, nil
}

// rewrapTenant replaces the outer envelope of a tenant key. The key in it is
// the same, so no data operation can tell and mod_index stays.
//
// That it is the same nobody here can see. A leader that lies can put junk in its
// place, which opens for nobody; what brings the tenant key back then is a
// snapshot from before.
func (t *tx) rewrapTenant(c *fsmpb.RewrapTenant) (done, error) {
	o, err := t.findKeyed(&fsmpb.ObjectRef{Tenant: c.GetTenant()})
	if err != nil {
		return done{}, err
	}
	if err := o.alive(); err != nil {
		return done{}, err
	}
	switch {
	case !bytes.Equal(o.tenant.GetUid(), c.GetTenantUid()):
		return done{}, moved("the tenant")
	case !bytes.Equal(o.tenant.GetL2Uid(), c.GetL2Uid()), !bytes.Equal(o.tenant.GetL2IvkUid(), c.GetFromIvkUid()):
		return done{}, moved("the tenant key")
	case len(c.GetL2Blob()) == 0 || len(c.GetL2Blob()) > MaxBlobBytes:
		return done{}, invalid("the wrapped tenant key is missing or too large")
	}
	if err := t.ivkInForce(c.GetToIvkUid()); err != nil {
		return done{}, err
	}
	tn := copyTenant(o.tenant)
	tn.L2Blob, tn.L2IvkUid = c.GetL2Blob(), c.GetToIvkUid()
	t.putTenant(o.tenant, tn)
	return done{object: o.name(), uid: tn.GetUid()}, nil
}
