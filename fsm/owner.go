package fsm

import (
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// ownerKind says what has a chain of versions.
type ownerKind int

const (
	ofCluster ownerKind = iota + 1
	ofTenant
	ofService
)

// owner is whatever has a chain of versions: a tenant (L2.1), a service (L3) or
// the cluster (IVK).
type owner struct {
	kind    ownerKind
	tenant  *fsmpb.Tenant  // of a tenant, and above a service
	service *fsmpb.Service // of a service
	cluster *fsmpb.Cluster // of the internal key
}

// find returns the owner that ref names.
func (t *tx) find(ref *fsmpb.ObjectRef) (owner, error) {
	if ref.GetTenant() == "" {
		if ref.GetService() != "" {
			return owner{}, invalid("a service is named without its tenant")
		}
		return owner{kind: ofCluster, cluster: t.cluster}, nil
	}
	tn, ok := lookup[*fsmpb.Tenant](t.txn, tableTenants, indexID, []byte(ref.GetTenant()))
	if !ok {
		return owner{}, errs.NoSuchObject()
	}
	if ref.GetService() == "" {
		return owner{kind: ofTenant, tenant: tn}, nil
	}
	s, ok := lookup[*fsmpb.Service](t.txn, tableServices, indexID, serviceKey(tn.GetUid(), ref.GetService()))
	if !ok {
		return owner{}, errs.NoSuchObject()
	}
	return owner{kind: ofService, tenant: tn, service: s}, nil
}

// findKeyed is find for commands that do not work on the internal key.
func (t *tx) findKeyed(ref *fsmpb.ObjectRef) (owner, error) {
	if ref.GetTenant() == "" {
		return owner{}, invalid("the command names no tenant")
	}
	return t.find(ref)
}

func (o owner) name() string {
	switch o.kind {
	case ofService:
		return serviceName(o.service.GetTenant(), o.service.GetName())
	case ofTenant:
		return tenantName(o.tenant.GetName())
	case ofCluster:
	}
	return "internalKeys"
}

func (o owner) uid() []byte {
	if o.kind == ofService {
		return o.service.GetUid()
	}
	return o.tenant.GetUid()
}

func (o owner) modIndex() uint64 {
	switch o.kind {
	case ofService:
		return o.service.GetModIndex()
	case ofTenant:
		return o.tenant.GetModIndex()
	case ofCluster:
	}
	return o.cluster.GetModIndex()
}

func (o owner) versions() []*fsmpb.Version {
	switch o.kind {
	case ofService:
		return o.service.GetVersions()
	case ofTenant:
		return o.tenant.GetVersions()
	case ofCluster:
	}
	return o.cluster.GetInternalKeys()
}

func (o owner) primary() uint32 {
	switch o.kind {
	case ofService:
		return o.service.GetPrimary()
	case ofTenant:
		return o.tenant.GetPrimary()
	case ofCluster:
	}
	return o.cluster.GetInternalKeyPrimary()
}

func (t *tx) chainOf(o owner) hierarchy.Chain {
	switch o.kind {
	case ofService:
		return t.serviceChain(o.service)
	case ofTenant:
		return t.tenantChain(o.tenant)
	case ofCluster:
	}
	return t.ivkChain()
}

// blame names what a refusal is about that something above a key brings.
func (o owner) blame(r hierarchy.Refusal) string {
	switch {
	case r == hierarchy.RefusedSuspended && o.tenant.GetState() == fsmpb.ObjectState_OBJECT_STATE_SUSPENDED,
		r == hierarchy.RefusedDestroyPending && o.tenant.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROY_SCHEDULED:
		return "the tenant"
	}
	return "the " + o.noun()
}

// alive refuses what is destroyed, or stands under a destroyed tenant.
func (o owner) alive() error {
	if o.tenant.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return hierarchy.RefusedDestroyed.Err("the tenant")
	}
	if o.service.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return hierarchy.RefusedDestroyed.Err("the service")
	}
	return nil
}

// above is the state of everything above the versions of o, read from the state.
func (t *tx) above(o owner) (hierarchy.Ancestors, error) {
	switch o.kind {
	case ofTenant, ofService:
		ivk, ok := versionByUID(t.cluster.GetInternalKeys(), o.tenant.GetL2IvkUid())
		if !ok {
			return hierarchy.Ancestors{}, errs.New(errs.FailedState, "the tenant has no tenant key")
		}
		tenant, ivkState := hierarchy.ObjectState(o.tenant.GetState()), hierarchy.VersionState(ivk.GetState())
		if o.kind == ofTenant {
			return hierarchy.AboveTenantKey(tenant, ivkState), nil
		}
		l21, _ := versionAt(o.tenant.GetVersions(), o.tenant.GetPrimary())
		return hierarchy.AboveServiceKey(tenant, hierarchy.ObjectState(o.service.GetState()), hierarchy.VersionState(l21.GetState()), ivkState), nil
	case ofCluster:
	}
	return hierarchy.AboveInternal(), nil
}

// storeChain puts a changed chain of o into the state.
func (t *tx) storeChain(o owner, is hierarchy.Chain, added *fsmpb.Version) owner {
	versions := t.mergeChain(o.versions(), t.chainOf(o), is, added)
	primary := uint32(is.Primary) //nolint:gosec // At most hierarchy.MaxVersions.
	switch o.kind {
	case ofService:
		s := copyService(o.service)
		s.Versions, s.Primary, s.RotationPaused = versions, primary, is.Paused
		s.ModIndex = t.index
		t.putService(o.service, s)
		o.service = s
	case ofTenant:
		tn := copyTenant(o.tenant)
		tn.Versions, tn.Primary, tn.RotationPaused = versions, primary, is.Paused
		tn.ModIndex = t.index
		t.putTenant(o.tenant, tn)
		o.tenant = tn
	case ofCluster:
		c := copyCluster(o.cluster)
		c.InternalKeys, c.InternalKeyPrimary = versions, primary
		c.ModIndex = t.index
		o.cluster = c
		t.cluster = c
	}
	return o
}

// putTenant stores a tenant, its gate index and when time will change it. was is
// what it replaces, nil for a new one.
func (t *tx) putTenant(was, tn *fsmpb.Tenant) {
	tn.GateIndex = t.tenantGate(was, tn)
	put(t, tableTenants, tn)
	if was.GetBinding() != tn.GetBinding() || was.GetState() != tn.GetState() {
		t.indexOwners(was, tn)
	}
	t.setDue(tn.GetUid(), uidTenant, t.tenantDue(tn))
}

// putService stores a service, its gate index and when time will change it. was
// is what it replaces, nil for a new one.
func (t *tx) putService(was, s *fsmpb.Service) {
	s.GateIndex = t.serviceGate(was, s)
	t.storeService(s)
}

func (t *tx) storeService(s *fsmpb.Service) {
	put(t, tableServices, s)
	t.setDue(s.GetUid(), uidService, t.serviceDue(s))
}

func (m *meta) tenantDue(tn *fsmpb.Tenant) int64 {
	return dueOf(tn.GetState(), tn.GetDestroyTimeMs(), func() hierarchy.Chain { return m.tenantChain(tn) })
}

func (m *meta) serviceDue(s *fsmpb.Service) int64 {
	return dueOf(s.GetState(), s.GetDestroyTimeMs(), func() hierarchy.Chain { return m.serviceChain(s) })
}

func dueOf(s fsmpb.ObjectState, destroyMS int64, chain func() hierarchy.Chain) int64 {
	if s == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return never
	}
	due := never
	if s == fsmpb.ObjectState_OBJECT_STATE_DESTROY_SCHEDULED {
		due = destroyMS
	}
	if next, ok := chain().NextDue(); ok {
		due = min(due, ms(next))
	}
	return due
}

func (t *tx) setDue(uid []byte, kind uidKind, atMS int64) {
	row := dueRow{uid: string(uid), kind: kind, atMS: atMS}
	if atMS != never {
		put(t, tableDue, row)
		return
	}
	if _, ok := lookup[dueRow](t.txn, tableDue, indexID, uid); ok {
		drop(t, tableDue, row)
	}
}

// claim takes uids into use, or refuses if one was ever used (I3).
func (t *tx) claim(rows ...uidOwner) error {
	for _, r := range rows {
		if len(r.uid) != hierarchy.UIDSize || uidOf([]byte(r.uid)).IsZero() {
			return invalid("a uid is not 16 random bytes")
		}
		if _, used := lookup[uidOwner](t.txn, tableUIDs, indexID, []byte(r.uid)); used {
			return hierarchy.RefusedReusedUID.Err("the object")
		}
		put(t, tableUIDs, r)
	}
	return nil
}

// Names of objects, as results and intents spell them.

func tenantName(t string) string     { return "tenants/" + t }
func serviceName(t, s string) string { return "tenants/" + t + "/services/" + s }

func checkName(s string) error {
	_, err := hierarchy.ParseName(s)
	return err
}
