package fsm

import (
	"bytes"
	"crypto/sha256"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
)

// loader builds a state from the items of a snapshot. It ends with everything
// that [Machine.Apply] relies on checked.
//
// What it has to look up again it keeps in maps: a read of a table between two
// writes makes the database copy what it just wrote, which would make a restore
// several times slower than reading and hashing the snapshot.
type loader struct {
	tx
	state state
	head  *fsmpb.SnapshotHeader
	items uint64
	last  []byte // key of the item before

	ivks      map[string]bool // uids of internal key versions, and whether something is wrapped under one
	uids      map[string]bool
	owners    map[string]*fsmpb.Tenant // by uid
	holders   map[string]*fsmpb.Service
	pins      map[string]map[uint32]uint32 // per service uid and version number
	keys      map[string]bool              // SHA-256 of members' public keys
	callers   map[string]int
	voting    int // members that are to vote
	reaping   map[string]bool
	authority authorityLoader

	policySets map[string]policySet // by uid of the tenant

	openCeremony bool // one was met that has not ended

	born map[string][]byte // public parts of the secrets of the genesis that were not met yet, by name
}

func newLoader(h *fsmpb.SnapshotHeader) (*loader, error) {
	switch {
	case h.GetFormat() != SnapshotFormat:
		return nil, corrupt("its header has the unknown format %d", h.GetFormat())
	case len(h.GetChain()) != sha256.Size:
		return nil, corrupt("its state chain has the wrong length")
	case h.GetTimeUnixMs() < 0 || h.GetTimeUnixMs() > maxTimeMS:
		return nil, corrupt("its time is out of range")
	case h.GetFormatVersion() > knownFormat:
		return nil, corrupt("its cluster has format version %d, this release knows %d", h.GetFormatVersion(), knownFormat)
	}
	l := &loader{
		state:   emptyState(),
		head:    h,
		ivks:    make(map[string]bool),
		uids:    make(map[string]bool),
		owners:  make(map[string]*fsmpb.Tenant),
		holders: make(map[string]*fsmpb.Service),
		pins:    make(map[string]map[uint32]uint32),
		keys:    make(map[string]bool),
		callers: make(map[string]int),
		reaping: make(map[string]bool),

		authority:  newAuthorityLoader(),
		policySets: make(map[string]policySet),
	}
	l.txn = l.state.db.Txn(true)
	l.index, l.term, l.chain = h.GetAppliedIndex(), h.GetAppliedTerm(), [32]byte(h.GetChain())
	l.timeMS, l.commands = h.GetTimeUnixMs(), h.GetCommands()
	return l, nil
}

// load checks one item and puts it into the state. Items refer only to items
// before them: the order of kinds is the order of references.
func (l *loader) load(it *fsmpb.SnapshotItem) error {
	key, ok := itemKey(it)
	switch {
	case !ok:
		return corrupt("object %d is of no known kind", l.items)
	case l.items > 0 && bytes.Compare(l.last, key) >= 0:
		return corrupt("object %d is out of order or there twice", l.items)
	}
	c, isCluster := it.GetObject().(*fsmpb.SnapshotItem_Cluster)
	if isCluster != (l.items == 0) {
		return corrupt("it does not begin with its cluster")
	}
	l.last = key
	l.items++
	var err error
	switch o := it.GetObject().(type) {
	case *fsmpb.SnapshotItem_Cluster:
		err = l.loadCluster(c.Cluster)
	case *fsmpb.SnapshotItem_Tenant:
		err = l.loadTenant(o.Tenant, it.GetReplaced())
	case *fsmpb.SnapshotItem_Service:
		err = l.loadService(o.Service, it.GetReplaced())
	case *fsmpb.SnapshotItem_Resource:
		err = l.loadResource(o.Resource)
	case *fsmpb.SnapshotItem_Secret:
		err = l.loadSecret(o.Secret)
	case *fsmpb.SnapshotItem_Member:
		err = l.loadMember(o.Member)
	case *fsmpb.SnapshotItem_JoinToken:
		err = l.loadToken(o.JoinToken)
	case *fsmpb.SnapshotItem_Request:
		err = l.loadRequest(o.Request)
	case *fsmpb.SnapshotItem_UsedNonce:
		err = l.loadNonce(o.UsedNonce)
	case *fsmpb.SnapshotItem_Revocation:
		err = l.loadRevocation(o.Revocation)
	case *fsmpb.SnapshotItem_Issuer:
		err = l.loadIssuer(o.Issuer)
	case *fsmpb.SnapshotItem_RoleBinding:
		err = l.loadBinding(o.RoleBinding)
	case *fsmpb.SnapshotItem_Approval:
		err = l.loadApproval(o.Approval)
	case *fsmpb.SnapshotItem_Policy:
		err = l.loadPolicy(o.Policy)
	case *fsmpb.SnapshotItem_Ceremony:
		err = l.loadCeremony(o.Ceremony)
	}
	return err
}

// timely reports whether times and indexes lie where they can.
func (l *loader) timely(modIndex uint64, times ...int64) bool {
	for _, t := range times {
		if t < 0 || t > maxTimeMS+maxDurationMS {
			return false
		}
	}
	return modIndex > 0 && modIndex <= l.index
}

// gateable reports whether a gate index lies where it can: it moves with mod_index
// or stays, and there is none before [FormatLeases].
func (l *loader) gateable(obj gated) bool {
	g := obj.GetGateIndex()
	return g <= obj.GetModIndex() && (g == 0 || l.cluster.GetFormatVersion() >= FormatLeases)
}

func (l *loader) loadCluster(c *fsmpb.Cluster) error {
	fingerprint := Fingerprint(c.GetGenesis())
	switch {
	case !bytes.Equal(c.GetKeyspaceId(), l.head.GetKeyspaceId()) || !bytes.Equal(c.GetClusterId(), l.head.GetClusterId()) ||
		c.GetFormatVersion() != l.head.GetFormatVersion() || c.GetFormatVersion() == 0:
		return corrupt("its header and its cluster differ")
	case len(c.GetKeyspaceId()) != hierarchy.UIDSize || len(c.GetClusterId()) != hierarchy.UIDSize || checkName(c.GetName()) != nil:
		return corrupt("its cluster has no valid ids or name")
	case !bytes.Equal(fingerprint[:], c.GetFingerprint()):
		return corrupt("its genesis has another fingerprint")
	case checkSettings(c.GetSettings()) != nil || checkPersons(c.GetPersons()) != nil || checkRules(c.GetRules(), c.GetFormatVersion()) != nil:
		return corrupt("its settings, persons or rules are not valid")
	case !l.timely(c.GetModIndex(), c.GetHold().GetTimeMs()) || c.GetHold() == nil || l.timeMS == 0:
		return corrupt("its cluster has a time or index that cannot be")
	}
	if a := c.GetAuthorityIndex(); a > l.index || (a == 0) != (c.GetFormatVersion() < FormatAuthority) {
		return corrupt("its authority has an index that cannot be")
	}
	if c.GetFormatVersion() < FormatAuthority && enoughPersons(c.GetPersons(), c.GetRules()) != nil {
		return corrupt("its rules ask for more persons than there are")
	}
	if err := l.checkGenerations(c); err != nil {
		return err
	}
	g, err := founded(c)
	if err != nil {
		return err
	}
	l.born = make(map[string][]byte, len(g.GetSecrets()))
	for _, s := range g.GetSecrets() {
		l.born[s.GetName()] = s.GetPublic()
	}
	if err := l.lineage(c, g.GetSealRecord()); err != nil {
		return err
	}
	if err := l.exposures(c); err != nil {
		return err
	}
	l.authority.raised = g.GetFormatVersion() < FormatAuthority
	if !l.incarnations(c) {
		return corrupt("its recoveries are not ones that can have been")
	}
	l.cluster = c
	l.authorityAt = c.GetAuthorityIndex()
	for _, v := range c.GetInternalKeys() {
		l.ivks[string(v.GetUid())] = false
	}
	return l.loadVersions(c.GetInternalKeys(), c.GetInternalKeyPrimary(), uidOwner{kind: uidInternalKey}, nil)
}

// claim is [tx.claim] on the loader's own map.
func (l *loader) claim(rows ...uidOwner) bool {
	for _, r := range rows {
		if len(r.uid) != hierarchy.UIDSize || uidOf([]byte(r.uid)).IsZero() || l.uids[r.uid] {
			return false
		}
		l.uids[r.uid] = true
		put(&l.tx, tableUIDs, r)
	}
	return true
}

func (l *loader) due(uid []byte, kind uidKind, atMS int64) {
	if atMS != never {
		put(&l.tx, tableDue, dueRow{uid: string(uid), kind: kind, atMS: atMS})
	}
}

func (l *loader) reap(uid []byte, kind uidKind) {
	if !l.reaping[string(uid)] {
		l.reaping[string(uid)] = true
		put(&l.tx, tableReap, reapRow{uid: string(uid), kind: kind})
	}
}

// underIVK notes that something is wrapped under an internal key version.
func (l *loader) underIVK(uid []byte, used bool) bool {
	was, ok := l.ivks[string(uid)]
	if ok {
		l.ivks[string(uid)] = was || used
	}
	return ok
}

// loadVersions checks the versions of one key and takes their uids into use.
func (l *loader) loadVersions(vs []*fsmpb.Version, primary uint32, own uidOwner, parent func([]byte) bool) error {
	if len(vs) == 0 || len(vs) > hierarchy.MaxVersions || primary == 0 || uint64(primary) > uint64(len(vs)) {
		return corrupt("a key has no primary version")
	}
	for i, v := range vs {
		s, before := hierarchy.VersionState(v.GetState()), hierarchy.VersionState(v.GetStateBefore())
		off := s == hierarchy.Disabled || s == hierarchy.DestroyScheduled
		switch {
		case uint64(v.GetNumber()) != uint64(i)+1 || !s.Valid():
			return corrupt("the versions of a key are not in order")
		case off != before.Valid() || (before.Valid() && before > hierarchy.Deprecated && before != hierarchy.Compromised) || (!off && before != 0):
			return corrupt("a version has a state before that cannot be")
		case (len(v.GetBlob()) == 0) != (s == hierarchy.Destroyed) || len(v.GetBlob()) > MaxVersionBytes:
			return corrupt("a version has material where none belongs, or none where some does")
		case (v.GetDestroyTimeMs() != 0) != (s == hierarchy.DestroyScheduled || s == hierarchy.Destroyed):
			return corrupt("a version has no time of destruction, or one too many")
		case s == hierarchy.Compromised && !v.GetEverCompromised(), before == hierarchy.Compromised && !v.GetEverCompromised():
			return corrupt("a version forgot that it was compromised")
		case s == hierarchy.PreActive && v.GetNumber() == primary:
			return corrupt("a primary version was never activated")
		case !l.timely(v.GetModIndex(), v.GetCreateTimeMs(), v.GetSupersededTimeMs(), v.GetDestroyTimeMs(), v.GetReleasedTimeMs()) || !l.gateable(v):
			return corrupt("a version has a time or index that cannot be")
		case parent == nil && len(v.GetParentUid()) != 0, parent != nil && !parent(v.GetParentUid()):
			return corrupt("a version has no parent")
		case own.kind != uidServiceVersion && v.GetPins() != 0:
			return corrupt("a version that is no service's has pins")
		}
		own.uid, own.number = string(v.GetUid()), v.GetNumber()
		if !l.claim(own) {
			return corrupt("a uid is not valid or there twice")
		}
	}
	return nil
}

func (l *loader) loadObject(state fsmpb.ObjectState, causes []string, destroyMS int64, replaced bool) error {
	s, set := hierarchy.ObjectState(state), toCauses(causes)
	canonical := fromCauses(set)
	if len(canonical) != len(causes) {
		return corrupt("an object has unknown causes of suspension")
	}
	for i := range causes {
		if causes[i] != canonical[i] {
			return corrupt("an object has unknown causes of suspension")
		}
	}
	switch {
	case !s.Valid():
		return corrupt("an object has no state")
	case replaced && s != hierarchy.ObjectDestroyed:
		return corrupt("an object was replaced and is not destroyed")
	case s == hierarchy.ObjectActive && set != 0, s == hierarchy.ObjectSuspended && set == 0, s == hierarchy.ObjectDestroyed && set != 0:
		return corrupt("an object has causes of suspension that do not fit its state")
	case (destroyMS != 0) != (s == hierarchy.ObjectDestroyScheduled || s == hierarchy.ObjectDestroyed):
		return corrupt("an object has no time of destruction, or one too many")
	}
	return nil
}

// allDestroyed reports whether no version has material.
func allDestroyed(vs []*fsmpb.Version) bool {
	for _, v := range vs {
		if v.GetState() != fsmpb.VersionState_VERSION_STATE_DESTROYED {
			return false
		}
	}
	return true
}

func (l *loader) loadTenant(t *fsmpb.Tenant, replaced bool) error {
	destroyed := t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED
	unbound := Unbound(t) && l.cluster.GetFormatVersion() >= FormatOwnedKeys
	ivk := unbound || l.underIVK(t.GetL2IvkUid(), !destroyed)
	switch {
	case checkName(t.GetName()) != nil || checkBinding(t.GetBinding()) != nil && !unbound || !ivk:
		return corrupt("a tenant has no valid name, binding or internal key")
	case checkOwned(t.GetBinding()) != nil || !plain(t.GetBinding()) && l.cluster.GetFormatVersion() < FormatOwnedKeys:
		return corrupt("a tenant has a binding that cannot be")
	case unbound && (len(t.GetL2Uid()) != 0 || len(t.GetL2Blob()) != 0 || len(t.GetL2IvkUid()) != 0 || len(t.GetVersions()) != 0 || t.GetPrimary() != 0):
		return corrupt("a tenant without a binding has a key")
	case !unbound && (len(t.GetL2Blob()) == 0) != destroyed || len(t.GetL2Blob()) > MaxBlobBytes || (destroyed && !allDestroyed(t.GetVersions())):
		return corrupt("a tenant has material where none belongs, or none where some does")
	case !l.timely(t.GetModIndex(), t.GetCreateTimeMs(), t.GetDestroyTimeMs()) || !l.gateable(t) || !l.policied(t):
		return corrupt("a tenant has a time or index that cannot be")
	}
	if err := l.loadObject(t.GetState(), t.GetSuspendCauses(), t.GetDestroyTimeMs(), replaced); err != nil {
		return err
	}
	uid := string(t.GetUid())
	if !l.claim(uidOwner{uid: uid, kind: uidTenant, tenant: uid}) || !unbound && !l.claim(uidOwner{uid: string(t.GetL2Uid()), kind: uidL2, tenant: uid}) {
		return corrupt("a uid is not valid or there twice")
	}
	if !unbound {
		underL2 := func(p []byte) bool { return bytes.Equal(p, t.GetL2Uid()) }
		if err := l.loadVersions(t.GetVersions(), t.GetPrimary(), uidOwner{kind: uidTenantVersion, tenant: uid}, underL2); err != nil {
			return err
		}
	}
	if err := l.loadGovernors(t); err != nil {
		return err
	}
	l.tenants++
	l.policiesAt = max(l.policiesAt, policiesMovedAt(t))
	l.owners[uid] = t
	if replaced {
		put(&l.tx, tableTombs, t)
		return nil
	}
	if b := t.GetBinding(); b.GetOwner() != "" && !destroyed && ownerTaken(l.txn, b.GetOwner(), t.GetUid()) != nil {
		return corrupt("two tenants have one identity")
	}
	put(&l.tx, tableTenants, t)
	l.indexOwners(nil, t)
	l.due(t.GetUid(), uidTenant, l.tenantDue(t))
	return nil
}

func (l *loader) loadService(s *fsmpb.Service, replaced bool) error {
	destroyed := s.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED
	tn, ok := l.owners[string(s.GetTenantUid())]
	switch {
	case !ok || tn.GetName() != s.GetTenant() || checkName(s.GetName()) != nil:
		return corrupt("a service has no valid name or tenant")
	case destroyed && !allDestroyed(s.GetVersions()):
		return corrupt("a destroyed service has material")
	case !l.timely(s.GetModIndex(), s.GetCreateTimeMs(), s.GetDestroyTimeMs()) || !l.gateable(s):
		return corrupt("a service has a time or index that cannot be")
	}
	if err := l.loadObject(s.GetState(), s.GetSuspendCauses(), s.GetDestroyTimeMs(), replaced); err != nil {
		return err
	}
	uid := string(s.GetUid())
	if !l.claim(uidOwner{uid: uid, kind: uidService, tenant: string(tn.GetUid()), service: uid}) {
		return corrupt("a uid is not valid or there twice")
	}
	underTenant := func(p []byte) bool { _, ok := versionByUID(tn.GetVersions(), p); return ok }
	own := uidOwner{kind: uidServiceVersion, tenant: string(tn.GetUid()), service: uid}
	if err := l.loadVersions(s.GetVersions(), s.GetPrimary(), own, underTenant); err != nil {
		return err
	}
	l.services++
	l.holders[uid] = s
	if replaced {
		put(&l.tx, tableSvcTombs, s)
		return nil
	}
	put(&l.tx, tableServices, s)
	l.due(s.GetUid(), uidService, l.serviceDue(s))
	if !destroyed && tn.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		l.reap(tn.GetUid(), uidTenant)
	}
	return nil
}

func (l *loader) loadResource(r *fsmpb.Resource) error {
	s, ok := l.holders[string(r.GetServiceUid())]
	if !ok || s.GetName() != r.GetService() || s.GetTenant() != r.GetTenant() {
		return corrupt("a resource has no service")
	}
	if _, err := hierarchy.ParseResourceID(r.GetId()); err != nil || r.GetId() == "" {
		return corrupt("a resource has no valid id")
	}
	_, ok = versionAt(s.GetVersions(), r.GetVersion())
	for _, e := range r.GetEarlier() {
		if e != 0 {
			_, there := versionAt(s.GetVersions(), e)
			ok = ok && there
		}
	}
	if !ok || len(r.GetEarlier()) > MaxEarlierPins || !l.timely(r.GetModIndex(), r.GetPinnedTimeMs()) || r.GetPinnedTimeMs() == 0 {
		return corrupt("a resource has a pin that cannot be")
	}
	put(&l.tx, tableResources, r)
	if s.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		l.reap(s.GetUid(), uidService)
		return nil
	}
	if l.pins[string(s.GetUid())] == nil {
		l.pins[string(s.GetUid())] = make(map[uint32]uint32)
	}
	l.pins[string(s.GetUid())][r.GetVersion()]++
	return nil
}

func (l *loader) loadSecret(s *fsmpb.Secret) error {
	if !l.underIVK(s.GetIvkUid(), true) || l.checkStored(s) != nil || !l.timely(s.GetModIndex()) {
		return corrupt("an internal secret is not valid")
	}
	public, ok := l.born[s.GetName()]
	if ok && !bytes.Equal(public, s.GetPublic()) && !l.succeeded(s) {
		return corrupt("an internal secret has another public part than in the genesis")
	}
	delete(l.born, s.GetName())
	if s.GetName() == callerCA {
		l.authority.callerCA, l.authority.founded = s, s.GetPublic()
		if ok {
			l.authority.founded = public
		}
	}
	l.secrets++
	put(&l.tx, tableSecrets, s)
	return nil
}

// checkStored checks a secret as it is stored: that of a CA may have others before it.
func (l *loader) checkStored(s *fsmpb.Secret) error {
	if !IsAuthority(s.GetName()) || l.cluster.GetFormatVersion() < FormatSealProof {
		return l.checkSecret(s)
	}
	plain := &fsmpb.Secret{Name: s.GetName(), Blob: s.GetBlob(), Public: s.GetPublic()}
	if err := l.checkSecret(plain); err != nil {
		return err
	}
	if len(s.GetPrevious()) == 0 && len(s.GetCrossCertificate()) == 0 && len(s.GetLineage()) == 0 {
		return nil
	}
	return checkCA(s)
}

// succeeded reports whether a CA comes from the one that people vouched for last.
func (l *loader) succeeded(s *fsmpb.Secret) bool {
	anchor, ok := Anchor(l.cluster, s.GetName())
	return ok && l.cluster.GetFormatVersion() >= FormatSealProof && Descends(anchor, s)
}

func (l *loader) loadMember(m *fsmpb.Member) error {
	check := m
	if m.GetPurged() { // the addresses are gone
		check = copyMember(m)
		check.PeerAddress = "purged"
	}
	sum, _ := memberKeySum(m)
	if l.keys[string(sum)] || checkMember(check) != nil || !l.timely(m.GetModIndex(), m.GetCreateTimeMs()) || (m.GetPurged() && !m.GetRemoved()) {
		return corrupt("a member is not valid or there twice")
	}
	l.keys[string(sum)] = true
	l.members++
	l.voting += votersIn([]*fsmpb.Member{m})
	l.putMember(m)
	return nil
}

func (l *loader) loadToken(k *fsmpb.JoinToken) error {
	with := k.GetCreatedWith()
	if len(k.GetHash()) != sha256.Size || !l.timely(k.GetModIndex(), k.GetExpireTimeMs(), k.GetCreateTimeMs()) ||
		len(with) > MaxSerialBytes || len(with) > 0 && l.cluster.GetFormatVersion() < FormatRevocations {
		return corrupt("a join token is not valid")
	}
	l.tokens++
	put(&l.tx, tableTokens, k)
	return nil
}

func (l *loader) loadRequest(r *fsmpb.Request) error {
	if r.GetRequestId() == "" || len(r.GetDigest()) != sha256.Size || r.GetResult() == nil || r.GetResult().GetReplayed() ||
		r.GetResult().GetTerm() != 0 || !l.timely(max(r.GetResult().GetIndex(), 1), r.GetTimeMs()) {
		return corrupt("a remembered request is not valid")
	}
	put(&l.tx, tableRequests, r)
	l.requests++
	l.callers[string(principalKey(r.GetPrincipal()))]++
	return nil
}

func (l *loader) loadNonce(n *fsmpb.UsedNonce) error {
	if len(n.GetNonce()) != len(intent.Nonce{}) || !l.timely(1, n.GetExpireTimeMs()) || len(n.GetPersons()) > intent.MaxSignatures {
		return corrupt("a used nonce is not valid")
	}
	l.putNonce(n)
	return nil
}

func (l *loader) loadRevocation(r *fsmpb.Revocation) error {
	if l.cluster.GetFormatVersion() < FormatRevocations || checkRevocation(r) != nil ||
		!l.timely(r.GetModIndex(), r.GetExpireTimeMs(), r.GetRevokeTimeMs()) || r.GetRevokeTimeMs() == 0 || l.revoked >= MaxRevocations ||
		l.cluster.GetFormatVersion() >= FormatAuthority && !l.authorized(r.GetModIndex()) {
		return corrupt("a revocation is not valid")
	}
	put(&l.tx, tableRevoked, r)
	l.revoked++
	l.authorityAt = max(l.authorityAt, r.GetModIndex())
	return nil
}

// finish checks what only the whole shows and returns the state.
func (l *loader) finish() (*View, error) {
	defer l.txn.Abort() // nothing, after the commit
	if l.cluster == nil && len(l.head.GetKeyspaceId())+len(l.head.GetClusterId())+int(l.head.GetFormatVersion()) != 0 {
		return nil, corrupt("its header names a cluster that is not there")
	}
	if len(l.born) != 0 {
		return nil, corrupt("an internal secret of the genesis is gone")
	}
	for _, v := range l.cluster.GetInternalKeys() {
		under := hierarchy.AboveTenantKey(hierarchy.ObjectActive, hierarchy.VersionState(v.GetState()))
		usable := hierarchy.CanUnwrap(hierarchy.Active, under, hierarchy.GrantNone) == hierarchy.NotRefused
		if !usable && l.ivks[string(v.GetUid())] {
			return nil, corrupt("something is wrapped under an internal key version that cannot unwrap")
		}
	}
	for uid, s := range l.holders {
		for _, v := range s.GetVersions() {
			if v.GetPins() != l.pins[uid][v.GetNumber()] {
				return nil, corrupt("its pins do not add up")
			}
		}
	}
	if l.cluster != nil && !l.votersAgreed(l.voting) {
		return nil, corrupt("it has more voters than people agreed to, or too few of them")
	}
	for key, n := range l.callers {
		put(&l.tx, tableCallers, callerRow{key: key, n: n})
	}
	if err := l.finishAuthority(); err != nil {
		return nil, err
	}
	l.txn.Commit()
	v := &View{state: state{db: l.state.db, txn: l.state.db.Txn(false)}, meta: l.meta, next: make(chan struct{})}
	return v, nil
}
