package fsm

import (
	"bytes"
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of tenants and services. Destroyed ones count: their tombstones stay.
const (
	MaxTenants  = 100_000   // tenants of a cluster
	MaxServices = 1_000_000 // services of a cluster, of all tenants

	MaxBlobBytes       = 64 << 10 // of a wrapped tenant key (L2) or secret
	MaxVersionBytes    = 1 << 10  // of one wrapped key version; hierarchy.MaxVersions of them fit into a snapshot item
	MaxKeystoreBytes   = 63       // of a keystore's name
	MaxKeyRefBytes     = 2048     // of a reference to a customer key
	MaxKeyVersionBytes = 512      // of the provider's name for a key version
)

const (
	causeOperator = "operator"
	causeL1Denied = "l1_denied"
	causeUnlink   = "unlink"
)

// material checks what a command brings for a new version: its number, its
// uid, its wrapped bytes and the parent they were wrapped under.
func material(v *fsmpb.Version, number uint32, parent []byte, what string) error {
	switch {
	case len(v.GetBlob()) == 0 || len(v.GetBlob()) > MaxVersionBytes:
		return invalid("the wrapped key is missing or too large")
	case !bytes.Equal(v.GetParentUid(), parent):
		return moved(what)
	case v.GetNumber() != number:
		return moved("the key")
	}
	return nil
}

// ivkInForce refuses material that was not wrapped under the present primary of
// the internal key.
func (t *tx) ivkInForce(uid []byte) error {
	p, ok := versionAt(t.cluster.GetInternalKeys(), t.cluster.GetInternalKeyPrimary())
	if !ok || !bytes.Equal(p.GetUid(), uid) {
		return moved("the internal key")
	}
	return hierarchy.CanWrap(hierarchy.VersionState(p.GetState()), hierarchy.StandingPrimary, hierarchy.AboveInternal()).Err("the internal key")
}

func checkBinding(b *fsmpb.Binding) error {
	switch {
	case b.GetKeystore() == "" || len(b.GetKeystore()) > MaxKeystoreBytes:
		return invalid("the binding names no keystore, or one with too long a name")
	case b.GetKey() == "" || len(b.GetKey()) > MaxKeyRefBytes:
		return invalid("the binding names no key, or one with too long a name")
	case len(b.GetKeyVersion()) > MaxKeyVersionBytes:
		return invalid("the key version of the binding is too long")
	}
	switch b.GetArchetype() {
	case "hyok", "cyok", "byok", "local":
		return nil
	}
	return errs.New(errs.InvalidArgument, "the binding has no known archetype", errs.Hint("use hyok, cyok, byok or local"))
}

func (t *tx) createTenant(c *fsmpb.CreateTenant) (done, error) {
	if err := checkName(c.GetName()); err != nil {
		return done{}, err
	}
	unbound := c.GetBinding() == nil && t.cluster.GetFormatVersion() >= FormatOwnedKeys
	if err := checkBinding(c.GetBinding()); err != nil && !unbound {
		return done{}, err
	}
	switch {
	case !plain(c.GetBinding()):
		// The identity is for the tenant's uid, which nobody knew.
		return done{}, wrong("a tenant that is made has no identity yet", "make it without a key, then bind it: krypton tenant bind")
	case !unbound && (len(c.GetL2Blob()) == 0 || len(c.GetL2Blob()) > MaxBlobBytes):
		return done{}, invalid("the wrapped tenant key is missing or too large")
	}
	old, exists := lookup[*fsmpb.Tenant](t.txn, tableTenants, indexID, []byte(c.GetName()))
	switch {
	case exists && old.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED:
		return done{}, errs.New(errs.AlreadyExists, "a tenant of this name exists already", errs.Hint("read it, or choose another name"))
	case t.tenants >= MaxTenants:
		return done{}, limit("tenants", MaxTenants)
	}
	governors, err := t.governorsOf(c)
	if err != nil {
		return done{}, err
	}
	if unbound {
		return t.createUnbound(c, old, governors)
	}
	if c.GetBinding().GetArchetype() != "local" && t.cluster.GetFormatVersion() >= FormatOwnedKeys {
		if err := keyTaken(t.txn, c.GetBinding(), c.GetUid()); err != nil {
			return done{}, err
		}
	}
	if err := t.ivkInForce(c.GetL2IvkUid()); err != nil {
		return done{}, err
	}
	if err := material(c.GetVersion(), 1, c.GetL2Uid(), "the tenant key"); err != nil {
		return done{}, err
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	uid := string(c.GetUid())
	if err := t.claim(uidOwner{uid: uid, kind: uidTenant, tenant: uid},
		uidOwner{uid: string(c.GetL2Uid()), kind: uidL2, tenant: uid},
		uidOwner{uid: string(c.GetVersion().GetUid()), kind: uidTenantVersion, tenant: uid, number: 1}); err != nil {
		return done{}, err
	}
	was := toChain(nil, 0, false, t.window())
	is, r := was.Rotate(uidOf(c.GetVersion().GetUid()), at(t.timeMS), hierarchy.TriggerPerson)
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the tenant key")
	}
	t.take(old)
	t.tenants++
	t.putTenant(nil, &fsmpb.Tenant{
		Name:         c.GetName(),
		Uid:          c.GetUid(),
		State:        fsmpb.ObjectState_OBJECT_STATE_ACTIVE,
		Binding:      c.GetBinding(),
		L2Uid:        c.GetL2Uid(),
		L2Blob:       c.GetL2Blob(),
		L2IvkUid:     c.GetL2IvkUid(),
		Primary:      1,
		Versions:     t.mergeChain(nil, was, is, c.GetVersion()),
		CreateTimeMs: t.timeMS,
		ModIndex:     t.index,
		Governors:    governors,
	})
	t.countSet(governors, 1)
	return done{object: tenantName(c.GetName()), version: 1, uid: c.GetUid()}, nil
}

func (t *tx) createService(c *fsmpb.CreateService) (done, error) {
	if err := checkName(c.GetName()); err != nil {
		return done{}, err
	}
	o, err := t.findKeyed(&fsmpb.ObjectRef{Tenant: c.GetTenant()})
	if err != nil {
		return done{}, err
	}
	if !bytes.Equal(o.tenant.GetUid(), c.GetTenantUid()) {
		return done{}, moved("the tenant")
	}
	old, exists := lookup[*fsmpb.Service](t.txn, tableServices, indexID, serviceKey(o.tenant.GetUid(), c.GetName()))
	switch {
	case exists && old.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED:
		return done{}, errs.New(errs.AlreadyExists, "a service of this name exists already", errs.Hint("read it, or choose another name"))
	case t.services >= MaxServices:
		return done{}, limit("services", MaxServices)
	}
	if err := t.parentOfService(o, c.GetVersion(), 1); err != nil {
		return done{}, err
	}
	tenant, uid := string(o.tenant.GetUid()), string(c.GetUid())
	if err := t.claim(uidOwner{uid: uid, kind: uidService, tenant: tenant, service: uid},
		uidOwner{uid: string(c.GetVersion().GetUid()), kind: uidServiceVersion, tenant: tenant, service: uid, number: 1}); err != nil {
		return done{}, err
	}
	was := toChain(nil, 0, false, t.window())
	is, r := was.Rotate(uidOf(c.GetVersion().GetUid()), at(t.timeMS), hierarchy.TriggerPerson)
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the service key")
	}
	if exists {
		t.setDue(old.GetUid(), uidService, never)
		drop(t, tableServices, old)
		put(t, tableSvcTombs, old)
	}
	t.services++
	t.putService(nil, &fsmpb.Service{
		Tenant:       c.GetTenant(),
		Name:         c.GetName(),
		Uid:          c.GetUid(),
		State:        fsmpb.ObjectState_OBJECT_STATE_ACTIVE,
		Primary:      1,
		Versions:     t.mergeChain(nil, was, is, c.GetVersion()),
		CreateTimeMs: t.timeMS,
		ModIndex:     t.index,
		TenantUid:    o.tenant.GetUid(),
	})
	return done{object: serviceName(c.GetTenant(), c.GetName()), version: 1, uid: c.GetUid()}, nil
}

// parentOfService checks material for an L3 version: it must be wrapped under
// the tenant's primary L2.1 version, and that one must be able to wrap.
func (t *tx) parentOfService(tenant owner, v *fsmpb.Version, number uint32) error {
	parent, ok := versionAt(tenant.tenant.GetVersions(), tenant.tenant.GetPrimary())
	if !ok {
		return hierarchy.RefusedNoPrimary.Err("the tenant key version")
	}
	tenant = owner{kind: ofTenant, tenant: tenant.tenant}
	above, err := t.above(tenant)
	if err != nil {
		return err
	}
	if r := hierarchy.CanWrap(hierarchy.VersionState(parent.GetState()), hierarchy.StandingPrimary, above); r == hierarchy.RefusedSuspended || r == hierarchy.RefusedDestroyPending {
		return r.Err(tenant.blame(r))
	} else if r != hierarchy.NotRefused {
		return r.Err("the tenant key")
	}
	return material(v, number, parent.GetUid(), "the tenant key")
}

// changeObject suspends, resumes or destroys a tenant or a service.
func (t *tx) changeObject(c *fsmpb.ChangeObject) (done, error) {
	o, err := t.findKeyed(c.GetObject())
	if err != nil {
		return done{}, err
	}
	if err := checkEtag(c.GetEtag(), o.modIndex()); err != nil {
		return done{}, err
	}
	if o.kind == ofService && o.tenant.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return done{}, hierarchy.RefusedDestroyed.Err("the tenant")
	}
	oc, err := t.occurrence(c)
	if err != nil {
		return done{}, err
	}
	var was hierarchy.Object
	if o.kind == ofService {
		was = toObject(o.service.GetState(), o.service.GetSuspendCauses(), o.service.GetDestroyTimeMs())
	} else {
		was = toObject(o.tenant.GetState(), o.tenant.GetSuspendCauses(), o.tenant.GetDestroyTimeMs())
	}
	is, r := was.Apply(oc)
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the " + o.noun())
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	if oc.Event == hierarchy.ObjectScheduleDestroy && oc.Wait == 0 {
		t.destroy(o)
		return done{object: o.name(), uid: o.uid()}, nil
	}
	state, causes, destroyMS := fsmpb.ObjectState(is.State), fromCauses(is.Causes), ms(is.DestroyAt) //nolint:gosec // A small enum.
	if o.kind == ofService {
		s := copyService(o.service)
		s.State, s.SuspendCauses, s.DestroyTimeMs, s.ModIndex = state, causes, destroyMS, t.index
		t.putService(o.service, s)
	} else {
		tn := copyTenant(o.tenant)
		tn.State, tn.SuspendCauses, tn.DestroyTimeMs, tn.ModIndex = state, causes, destroyMS, t.index
		t.putTenant(o.tenant, tn)
	}
	return done{object: o.name(), uid: o.uid()}, nil
}

func (t *tx) occurrence(c *fsmpb.ChangeObject) (hierarchy.ObjectOccurrence, error) {
	oc := hierarchy.ObjectOccurrence{At: at(t.timeMS)}
	switch c.GetEvent() {
	case fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND:
		oc.Event = hierarchy.ObjectSuspend
	case fsmpb.ObjectEvent_OBJECT_EVENT_RESUME:
		oc.Event = hierarchy.ObjectResume
	case fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY:
		oc.Event = hierarchy.ObjectScheduleDestroy
		oc.Wait = t.destroyWait(c.GetNow())
		return oc, nil
	case fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY:
		oc.Event = hierarchy.ObjectCancelDestroy
		return oc, nil
	case fsmpb.ObjectEvent_OBJECT_EVENT_UNSPECIFIED:
		return oc, invalid("the command names no change")
	default:
		return oc, invalid("the command names no change")
	}
	name := c.GetCause()
	if name == "" {
		name = causeOperator
	}
	cause, ok := causeOf(name)
	if !ok {
		return oc, errs.New(errs.InvalidArgument, "no such cause of a suspension", errs.Hint("use operator, l1_denied or unlink"))
	}
	oc.Cause = cause
	return oc, nil
}

// destroyWait returns how long the material of what is destroyed is kept. Zero:
// it goes with the command itself.
func (t *tx) destroyWait(now bool) time.Duration {
	if now {
		return 0
	}
	return millis(t.cluster.GetSettings().GetDestroyWaitMs())
}

func (o owner) noun() string {
	if o.kind == ofService {
		return "service"
	}
	return "tenant"
}
