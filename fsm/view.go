package fsm

import (
	"crypto/sha256"
	"slices"

	"github.com/hashicorp/go-memdb"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// View is the state at one log index. It never changes, so all its answers
// belong together.
//
// What it returns is shared with every other reader and with the state machine
// itself: read it, never write to it; proto.Clone makes a copy of one's own.
// Builds with the tag invariants stop a program that wrote (I4).
type View struct {
	state
	meta

	next  chan struct{} // closed once a later view is published
	names names
}

// Index returns the log index of the last command in the view; 0: none.
func (v *View) Index() uint64 { return v.index }

// Term returns the term of the last command in the view.
func (v *View) Term() uint64 { return v.term }

// Chain returns the state chain at [View.Index].
func (v *View) Chain() [32]byte { return v.chain }

// TimeMS returns the largest command time, in Unix milliseconds.
func (v *View) TimeMS() int64 { return v.timeMS }

// Superseded is closed once a later view is published.
func (v *View) Superseded() <-chan struct{} { return v.next }

// Initialized reports whether there was a genesis.
func (v *View) Initialized() bool { return v.cluster != nil }

// Cluster returns the facts about the whole cluster, or nil before genesis. The
// getters of a nil message return zero values.
func (v *View) Cluster() *fsmpb.Cluster { return v.cluster }

// Hold returns the cluster-wide hold; never nil.
func (v *View) Hold() *fsmpb.Hold {
	if h := v.cluster.GetHold(); h != nil {
		return h
	}
	return &fsmpb.Hold{}
}

// Tenant returns the tenant that has the name now, or had it last if that one
// is destroyed.
func (v *View) Tenant(name string) (*fsmpb.Tenant, bool) {
	slot := v.names.tenant(name)
	r := slot.Load()
	if r == nil || r.obj.GetName() != name {
		if r = first[*fsmpb.Tenant](v.txn, tableTenants, indexID, []byte(name)); r == nil {
			return nil, false
		}
		slot.Store(r)
	}
	r.check(tableTenants)
	return r.obj, true
}

// TenantByUID returns the tenant with that uid, also a destroyed one whose name
// was taken again.
func (v *View) TenantByUID(uid []byte) (*fsmpb.Tenant, bool) {
	if t, ok := lookup[*fsmpb.Tenant](v.txn, tableTenants, indexUID, uid); ok {
		return t, true
	}
	return lookup[*fsmpb.Tenant](v.txn, tableTombs, indexID, uid)
}

// Tenants returns up to limit tenants in the order of their names, beginning
// after the name after ("": at the beginning). Destroyed ones whose name was
// taken again are not in it.
func (v *View) Tenants(after string, limit int) []*fsmpb.Tenant {
	return page[*fsmpb.Tenant](v, tableTenants, nil, []byte(after), limit, func(*fsmpb.Tenant) bool { return true })
}

// Service returns the service that has the name now under the tenant that has
// its name now.
func (v *View) Service(tenant, name string) (*fsmpb.Service, bool) {
	t, ok := v.Tenant(tenant)
	if !ok {
		return nil, false
	}
	return v.ServiceOf(t, name)
}

// ServiceOf is [View.Service] for who has the tenant already: one lookup less.
func (v *View) ServiceOf(t *fsmpb.Tenant, name string) (*fsmpb.Service, bool) {
	slot := v.names.service(t.GetUid(), name)
	r := slot.Load()
	if r == nil || r.obj.GetName() != name || string(r.obj.GetTenantUid()) != string(t.GetUid()) {
		if r = first[*fsmpb.Service](v.txn, tableServices, indexID, serviceKey(t.GetUid(), name)); r == nil {
			return nil, false
		}
		slot.Store(r)
	}
	r.check(tableServices)
	return r.obj, true
}

// ServiceByUID returns the service with that uid, also a destroyed one.
func (v *View) ServiceByUID(uid []byte) (*fsmpb.Service, bool) {
	if s, ok := lookup[*fsmpb.Service](v.txn, tableServices, indexUID, uid); ok {
		return s, true
	}
	return lookup[*fsmpb.Service](v.txn, tableSvcTombs, indexID, uid)
}

// Services returns up to limit services of a tenant in the order of their
// names, beginning after the name after.
func (v *View) Services(t *fsmpb.Tenant, after string, limit int) []*fsmpb.Service {
	uid := string(t.GetUid())
	return page[*fsmpb.Service](v, tableServices, t.GetUid(), []byte(after), limit,
		func(s *fsmpb.Service) bool { return string(s.GetTenantUid()) == uid })
}

// Resource returns the pin of a resource of a service; false: not pinned.
//
// A data operation under a service reads the resource too. Pinning gives the
// resource a new mod_index; the end of the last pin removes it and gives the
// service one, so that either way a fence covers the change.
func (v *View) Resource(s *fsmpb.Service, id string) (*fsmpb.Resource, bool) {
	return lookup[*fsmpb.Resource](v.txn, tableResources, indexID, resourceKey(s.GetUid(), id))
}

// Resources returns up to limit pinned resources of a service in the order of
// their ids, beginning after the id after.
func (v *View) Resources(s *fsmpb.Service, after string, limit int) []*fsmpb.Resource {
	uid := string(s.GetUid())
	return page[*fsmpb.Resource](v, tableResources, s.GetUid(), []byte(after), limit,
		func(r *fsmpb.Resource) bool { return string(r.GetServiceUid()) == uid })
}

// InternalKeys returns the versions of the internal key (IVK) by number, and
// the number of the primary.
func (v *View) InternalKeys() (versions []*fsmpb.Version, primary uint32) {
	return v.cluster.GetInternalKeys(), v.cluster.GetInternalKeyPrimary()
}

// InternalKey returns the version of the internal key with that uid.
func (v *View) InternalKey(uid []byte) (*fsmpb.Version, bool) {
	return versionByUID(v.cluster.GetInternalKeys(), uid)
}

// InternalKeyUsed reports whether anything is wrapped under the version of the
// internal key with that uid.
func (v *View) InternalKeyUsed(uid []byte) bool { return ivkUsed(v.txn, uid) }

// TenantsUnder returns up to limit tenants whose L2 is wrapped under the version
// of the internal key with that uid, in the order of their names after the name after.
func (v *View) TenantsUnder(ivkUID []byte, after string, limit int) []*fsmpb.Tenant {
	uid := string(ivkUID)
	return pageOf[*fsmpb.Tenant](v, tableTenants, indexIVK, ivkUID, []byte(after), limit,
		func(t *fsmpb.Tenant) bool { return string(t.GetL2IvkUid()) == uid })
}

// Secret returns an internal secret.
func (v *View) Secret(name string) (*fsmpb.Secret, bool) {
	return lookup[*fsmpb.Secret](v.txn, tableSecrets, indexID, []byte(name))
}

// Secrets returns every internal secret in the order of the names; there are at
// most [MaxSecrets].
func (v *View) Secrets() []*fsmpb.Secret {
	return page[*fsmpb.Secret](v, tableSecrets, nil, nil, MaxSecrets, func(*fsmpb.Secret) bool { return true })
}

// Member returns the member of that id, also a removed or purged one.
func (v *View) Member(id string) (*fsmpb.Member, bool) {
	return lookup[*fsmpb.Member](v.txn, tableMembers, indexID, []byte(id))
}

// MemberByKey returns the member, also a removed or purged one, whose public
// key (SubjectPublicKeyInfo, DER) has that SHA-256.
func (v *View) MemberByKey(spkiSum [sha256.Size]byte) (*fsmpb.Member, bool) {
	return lookup[*fsmpb.Member](v.txn, tableMembers, indexKey, spkiSum[:])
}

// Members returns every member that is not purged in the order of the ids,
// removed ones too: a lease of theirs may still run.
func (v *View) Members() []*fsmpb.Member {
	var all []*fsmpb.Member
	scan(v.txn, tableMembers, indexID, nil, nil, func(m *fsmpb.Member) bool {
		if !m.GetPurged() {
			all = append(all, m)
		}
		return true
	})
	return all
}

// JoinToken returns the join token with that SHA-256 of its public key.
func (v *View) JoinToken(hash []byte) (*fsmpb.JoinToken, bool) {
	return lookup[*fsmpb.JoinToken](v.txn, tableTokens, indexID, hash)
}

// JoinTokens returns every join token, used and expired ones too until a tick
// removes them; there are at most [MaxJoinTokens].
func (v *View) JoinTokens() []*fsmpb.JoinToken {
	return page[*fsmpb.JoinToken](v, tableTokens, nil, nil, MaxJoinTokens, func(*fsmpb.JoinToken) bool { return true })
}

// Request returns what is remembered of one step of a request.
func (v *View) Request(p *fsmpb.Principal, id string, step uint32) (*fsmpb.Request, bool) {
	return lookup[*fsmpb.Request](v.txn, tableRequests, indexID, requestKey(p, id, step))
}

// VersionOwner says which key a version belongs to.
type VersionOwner struct {
	Layer   hierarchy.Layer // LayerL21, LayerL3 or LayerIVK
	Tenant  *fsmpb.Tenant   // nil for LayerIVK
	Service *fsmpb.Service  // only for LayerL3
	Version *fsmpb.Version
}

// Version returns the key version with that uid, of whatever layer. Destroyed
// versions are found too, without their material.
func (v *View) Version(uid []byte) (VersionOwner, bool) {
	o, ok := lookup[uidOwner](v.txn, tableUIDs, indexID, uid)
	if !ok {
		return VersionOwner{}, false
	}
	var own VersionOwner
	switch o.kind {
	case uidInternalKey:
		own.Layer = hierarchy.LayerIVK
		own.Version, ok = versionAt(v.cluster.GetInternalKeys(), o.number)
	case uidTenantVersion:
		own.Layer = hierarchy.LayerL21
		own.Tenant, _ = v.TenantByUID([]byte(o.tenant))
		own.Version, ok = versionAt(own.Tenant.GetVersions(), o.number)
	case uidServiceVersion:
		own.Layer = hierarchy.LayerL3
		own.Tenant, _ = v.TenantByUID([]byte(o.tenant))
		own.Service, _ = v.ServiceByUID([]byte(o.service))
		own.Version, ok = versionAt(own.Service.GetVersions(), o.number)
	case uidTenant, uidService, uidL2:
		return VersionOwner{}, false
	}
	return own, ok
}

// VersionAt returns version number n of a list that a view returned: version n
// stands at place n-1, destroyed ones included.
func VersionAt(versions []*fsmpb.Version, n uint32) (*fsmpb.Version, bool) {
	return versionAt(versions, n)
}

// VersionByUID returns the version with that uid of a list that a view returned.
func VersionByUID(versions []*fsmpb.Version, uid []byte) (*fsmpb.Version, bool) {
	return versionByUID(versions, uid)
}

func versionAt(vs []*fsmpb.Version, n uint32) (*fsmpb.Version, bool) {
	if n == 0 || uint64(n) > uint64(len(vs)) {
		return nil, false
	}
	return vs[n-1], true
}

// versionByUID looks at the newest first: that is what most callers use.
func versionByUID(vs []*fsmpb.Version, uid []byte) (*fsmpb.Version, bool) {
	for _, v := range slices.Backward(vs) {
		if string(v.GetUid()) == string(uid) {
			return v, true
		}
	}
	return nil, false
}

// page returns up to limit objects of a table in the order of the primary keys
// that start with prefix, beginning after prefix+after.
func page[T any](v *View, table string, prefix, after []byte, limit int, mine func(T) bool) []T {
	return pageOf(v, table, indexID, prefix, after, limit, mine)
}

func pageOf[T any](v *View, table, index string, prefix, after []byte, limit int, mine func(T) bool) []T {
	var all []T
	if limit <= 0 {
		return nil
	}
	var from []byte
	if len(after) != 0 {
		from = concat(prefix, after)
	}
	scan(v.txn, table, index, prefix, from, func(obj T) bool {
		if !mine(obj) {
			return false
		}
		all = append(all, obj)
		return len(all) < limit
	})
	return all
}

func ivkUsed(txn *memdb.Txn, uid []byte) bool {
	used := false
	seen := func() bool { used = true; return false }
	scan(txn, tableTenants, indexIVK, uid, nil, func(*fsmpb.Tenant) bool { return seen() })
	scan(txn, tableSecrets, indexIVK, uid, nil, func(*fsmpb.Secret) bool { return seen() })
	return used
}
