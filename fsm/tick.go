package fsm

import (
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Bounds of one tick, so that it stays inside the 10 ms that an entry may take.
const (
	MaxTickObjects  = 500    // objects it changes or removes
	maxTickVersions = 10_000 // versions it looks at in them
)

// ticking is the budget that is left.
type ticking struct {
	*tx
	objects, versions int
}

// spend takes one object with so many versions from the budget.
func (k *ticking) spend(versions int) {
	k.objects--
	k.versions -= versions
}

func (k *ticking) spent() bool { return k.objects <= 0 || k.versions <= 0 }

// tick does what is due. Its order is fixed: what takes power away comes before
// what only frees memory.
func (t *tx) tick() (done, error) {
	k := &ticking{tx: t, objects: MaxTickObjects, versions: maxTickVersions}
	k.dueInternalKeys()
	k.dueObjects()
	k.reap()
	k.expire()
	return done{}, nil
}

// dueObjects changes tenants and services whose time has come, earliest first.
func (k *ticking) dueObjects() {
	if k.spent() {
		return
	}
	var rows []dueRow
	scan(k.txn, tableDue, indexDue, nil, nil, func(d dueRow) bool {
		if d.atMS > k.timeMS {
			return false
		}
		rows = append(rows, d)
		return len(rows) < k.objects
	})
	for _, d := range rows {
		if k.spent() {
			return
		}
		var o owner
		if d.kind == uidTenant {
			tn, _ := lookup[*fsmpb.Tenant](k.txn, tableTenants, indexUID, []byte(d.uid))
			o = owner{kind: ofTenant, tenant: tn}
		} else {
			s, _ := lookup[*fsmpb.Service](k.txn, tableServices, indexUID, []byte(d.uid))
			o = owner{kind: ofService, service: s}
		}
		k.spend(len(o.versions()))
		k.dueOwner(o)
	}
}

func (k *ticking) dueOwner(o owner) {
	state, destroyMS := o.tenant.GetState(), o.tenant.GetDestroyTimeMs()
	if o.kind == ofService {
		state, destroyMS = o.service.GetState(), o.service.GetDestroyTimeMs()
	}
	if state == fsmpb.ObjectState_OBJECT_STATE_DESTROY_SCHEDULED && destroyMS <= k.timeMS {
		k.destroy(o)
		if o.kind == ofService {
			k.disowned(o.service.GetTenantUid())
		}
		return
	}
	k.storeChain(o, k.dueChain(k.chainOf(o)), nil)
}

// dueChain deprecates and destroys the versions of a chain whose time has come.
func (k *ticking) dueChain(c hierarchy.Chain) hierarchy.Chain {
	c, _ = c.Sweep(at(k.timeMS))
	for _, v := range c.Versions {
		if v.State == hierarchy.DestroyScheduled && !v.DestroyAt.After(at(k.timeMS)) {
			if next, r := c.Change(v.Number, hierarchy.Occurrence{Event: hierarchy.EventDestroy, At: at(k.timeMS)}); r == hierarchy.NotRefused {
				c = next
			}
		}
	}
	return c
}

func (k *ticking) dueInternalKeys() {
	if due, ok := k.ivkChain().NextDue(); !ok || ms(due) > k.timeMS {
		return
	}
	o := owner{kind: ofCluster, cluster: k.cluster}
	k.spend(len(o.versions()))
	k.storeChain(o, k.dueChain(k.ivkChain()), nil)
}

// reap removes what stands under destroyed tenants and services.
func (k *ticking) reap() {
	var rows []reapRow
	scan(k.txn, tableReap, indexID, nil, nil, func(r reapRow) bool {
		rows = append(rows, r)
		return len(rows) < MaxTickObjects
	})
	for _, r := range rows {
		if k.spent() {
			return
		}
		if r.kind == uidTenant {
			k.reapTenant(r)
		} else {
			k.reapService(r)
		}
	}
}

func (k *ticking) reapTenant(r reapRow) {
	for _, s := range k.liveServices([]byte(r.uid), k.objects) {
		if k.spent() {
			return
		}
		k.spend(len(s.GetVersions()))
		k.destroy(owner{kind: ofService, service: s})
	}
	k.reapAuthority([]byte(r.uid))
	k.reapPolicies([]byte(r.uid))
	k.disowned([]byte(r.uid))
}

// reapAuthority removes the role bindings and issuers of a destroyed tenant. They
// counted for nobody already, so nobody has to learn of it.
func (k *ticking) reapAuthority(tenantUID []byte) {
	if k.spent() {
		return
	}
	for _, b := range k.bindingsOf(tenantUID, k.objects) {
		k.spend(0)
		k.dropBinding(b)
	}
	if k.spent() {
		return
	}
	for _, i := range k.issuersOf(tenantUID, k.objects) {
		k.spend(0)
		drop(k.tx, tableIssuers, i)
		k.issuerRows--
	}
}

func (k *ticking) reapService(r reapRow) {
	for _, res := range k.resourcesOf([]byte(r.uid), k.objects) {
		k.spend(0)
		drop(k.tx, tableResources, res)
	}
	if len(k.resourcesOf([]byte(r.uid), 1)) == 0 {
		drop(k.tx, tableReap, r)
	}
}

// expire ends approvals and ceremonies, removes role bindings that have ended, and forgets tokens,
// nonces, revocations, requests, and approvals that ended long ago.
func (k *ticking) expire() {
	for _, a := range expired(k, tableApprovals, k.timeMS, approvalDue) {
		if isOpen(a) {
			k.endApproval(a, fsmpb.ApprovalState_APPROVAL_STATE_EXPIRED, nil)
		} else {
			k.dropApproval(a)
		}
	}
	for _, c := range expired(k, tableCeremonies, k.timeMS, (*fsmpb.Ceremony).GetExpireTimeMs) {
		k.endCeremony(c, fsmpb.CeremonyState_CEREMONY_STATE_EXPIRED)
	}
	for _, tok := range expired(k, tableTokens, k.timeMS, (*fsmpb.JoinToken).GetExpireTimeMs) {
		drop(k.tx, tableTokens, tok)
		k.tokens--
	}
	// An intent is refused from its expiry on, so its nonce is not needed then.
	for _, n := range expired(k, tableNonces, k.timeMS, (*fsmpb.UsedNonce).GetExpireTimeMs) {
		k.dropNonce(n)
	}
	for _, r := range expired(k, tableRevoked, k.timeMS-RevocationGraceMS, (*fsmpb.Revocation).GetExpireTimeMs) {
		drop(k.tx, tableRevoked, r)
		k.revoked--
	}
	ended := expired(k, tableBindings, k.timeMS, (*fsmpb.RoleBinding).GetExpireTimeMs)
	for _, b := range ended {
		k.dropBinding(b)
	}
	if len(ended) != 0 {
		k.authorityMoved()
	}
	for _, r := range expired(k, tableRequests, k.timeMS-RequestMemoryMS, (*fsmpb.Request).GetTimeMs) {
		k.forget(r)
	}
}

// expired returns what the table has of times up to atMS, earliest first, as
// far as the budget goes, and spends it.
func expired[T any](k *ticking, table string, atMS int64, timeOf func(T) int64) (all []T) {
	if k.spent() {
		return nil
	}
	scan(k.txn, table, indexDue, nil, nil, func(obj T) bool {
		if timeOf(obj) > atMS {
			return false
		}
		all = append(all, obj)
		k.spend(0)
		return !k.spent()
	})
	return all
}

// NextDue returns the time, in Unix milliseconds, from which on a tick has
// something to do; false: never, as things are. The leader proposes a tick when
// that time has come, and again as long as it has.
func (v *View) NextDue() (atMS int64, ok bool) {
	if v.cluster == nil {
		return 0, false
	}
	first := never
	if _, left := firstOf[reapRow](v, tableReap, indexID); left {
		return 0, true
	}
	if due, ok := v.ivkChain().NextDue(); ok {
		first = min(first, ms(due))
	}
	if d, ok := firstOf[dueRow](v, tableDue, indexDue); ok {
		first = min(first, d.atMS)
	}
	if k, ok := firstOf[*fsmpb.JoinToken](v, tableTokens, indexDue); ok {
		first = min(first, k.GetExpireTimeMs())
	}
	if n, ok := firstOf[*fsmpb.UsedNonce](v, tableNonces, indexDue); ok {
		first = min(first, n.GetExpireTimeMs())
	}
	if r, ok := firstOf[*fsmpb.Revocation](v, tableRevoked, indexDue); ok {
		first = min(first, r.GetExpireTimeMs()+RevocationGraceMS)
	}
	if b, ok := firstOf[*fsmpb.RoleBinding](v, tableBindings, indexDue); ok {
		first = min(first, b.GetExpireTimeMs())
	}
	if a, ok := firstOf[*fsmpb.Approval](v, tableApprovals, indexDue); ok {
		first = min(first, approvalDue(a))
	}
	if c, ok := openCeremony(v.state); ok {
		first = min(first, c.GetExpireTimeMs())
	}
	if r, ok := firstOf[*fsmpb.Request](v, tableRequests, indexDue); ok {
		first = min(first, r.GetTimeMs()+RequestMemoryMS)
	}
	return first, first != never
}

func firstOf[T any](v *View, table, index string) (obj T, ok bool) {
	scan(v.txn, table, index, nil, nil, func(o T) bool {
		obj, ok = o, true
		return false
	})
	return obj, ok
}
