package fsm

import (
	"bytes"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// destroy makes a tombstone of a tenant or a service, now. Its own material
// leaves the state with this entry. What stands under it has no use from here
// on, because the state above it says so, and is removed by ticks.
func (t *tx) destroy(o owner) {
	versions := t.destroyedVersions(o)
	if o.kind == ofService {
		s := copyService(o.service)
		s.State, s.SuspendCauses = fsmpb.ObjectState_OBJECT_STATE_DESTROYED, nil
		s.DestroyTimeMs, s.ModIndex, s.Versions = t.timeMS, t.index, versions
		t.putService(o.service, s)
		if t.hasResources(s) {
			put(t, tableReap, reapRow{uid: string(s.GetUid()), kind: uidService})
		}
		return
	}
	tn := copyTenant(o.tenant)
	tn.State, tn.SuspendCauses = fsmpb.ObjectState_OBJECT_STATE_DESTROYED, nil
	tn.DestroyTimeMs, tn.ModIndex, tn.Versions = t.timeMS, t.index, versions
	tn.L2Blob = nil
	t.putTenant(o.tenant, tn)
	t.countSet(tn.GetGovernors(), -1)
	t.policiesAt = max(t.policiesAt, policiesMovedAt(tn))
	if t.ownsAuthority(tn.GetUid()) {
		t.unlistIssuers(func(i *fsmpb.Issuer) bool { return bytes.Equal(i.GetTenantUid(), tn.GetUid()) })
		t.authorityMoved()
	}
	if t.ownsAny(tn.GetUid()) {
		put(t, tableReap, reapRow{uid: string(tn.GetUid()), kind: uidTenant})
	}
}

// ownsAny reports whether anything stands under a tenant that goes with it.
func (t *tx) ownsAny(tenantUID []byte) bool {
	return len(t.liveServices(tenantUID, 1)) != 0 || t.ownsAuthority(tenantUID) || len(t.policiesOf(tenantUID, 1)) != 0
}

// disowned takes a destroyed tenant off the list of what is to be reaped if nothing
// stands under it any more. Whatever but reap itself removes something of a tenant
// that may be destroyed calls it: the list is not in a snapshot, a restore makes it of
// what is there, and a row that only some replicas have would have their ticks reap
// other objects (I1).
func (t *tx) disowned(tenantUID []byte) {
	if r, listed := lookup[reapRow](t.txn, tableReap, indexID, tenantUID); listed && !t.ownsAny(tenantUID) {
		drop(t, tableReap, r)
	}
}

// destroyedVersions destroys every version of o, whatever its state: what is
// above them is gone. Pins go with the service.
func (t *tx) destroyedVersions(o owner) []*fsmpb.Version {
	was := t.chainOf(o)
	is := was
	is.Versions = make([]hierarchy.Version, len(was.Versions))
	for i, v := range was.Versions {
		if v.State != hierarchy.Destroyed {
			now := hierarchy.Occurrence{Event: hierarchy.EventScheduleDestroy, At: at(t.timeMS)}
			if next, r := v.Apply(now); r == hierarchy.NotRefused {
				v = next
			} else if v.State != hierarchy.DestroyScheduled || v.DestroyAt.After(now.At) {
				invariants.Violated("fsm", "a version in state %s cannot be destroyed: %s", v.State, r)
			}
			now.Event = hierarchy.EventDestroy
			next, r := v.Apply(now)
			if r != hierarchy.NotRefused {
				invariants.Violated("fsm", "a version in state %s cannot be destroyed: %s", v.State, r)
			}
			v = next
		}
		v.Pins = 0
		is.Versions[i] = v
	}
	return t.mergeChain(o.versions(), was, is, nil)
}

func (t *tx) liveServices(tenantUID []byte, limit int) (all []*fsmpb.Service) {
	scan(t.txn, tableServices, indexLive, tenantUID, nil, func(s *fsmpb.Service) bool {
		all = append(all, s)
		return len(all) < limit
	})
	return all
}

// ownsAuthority reports whether a tenant has issuers or role bindings of its own.
// They count for nobody once it is destroyed.
func (t *tx) ownsAuthority(tenantUID []byte) bool {
	return len(t.bindingsOf(tenantUID, 1)) != 0 || len(t.issuersOf(tenantUID, 1)) != 0
}

func (t *tx) bindingsOf(tenantUID []byte, limit int) (all []*fsmpb.RoleBinding) {
	scan(t.txn, tableBindings, indexID, tenantUID, nil, func(b *fsmpb.RoleBinding) bool {
		all = append(all, b)
		return len(all) < limit
	})
	return all
}

func (t *tx) issuersOf(tenantUID []byte, limit int) (all []*fsmpb.Issuer) {
	scan(t.txn, tableIssuers, indexID, tenantUID, nil, func(i *fsmpb.Issuer) bool {
		all = append(all, i)
		return len(all) < limit
	})
	return all
}

func (t *tx) hasResources(s *fsmpb.Service) bool {
	return len(t.resourcesOf(s.GetUid(), 1)) != 0
}

func (t *tx) resourcesOf(serviceUID []byte, limit int) (all []*fsmpb.Resource) {
	scan(t.txn, tableResources, indexID, serviceUID, nil, func(r *fsmpb.Resource) bool {
		all = append(all, r)
		return len(all) < limit
	})
	return all
}
