package fsm

import (
	"bytes"
	"crypto/sha256"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
)

// authorityLoader is what a loader keeps of issuers and role bindings.
type authorityLoader struct {
	raised   bool                     // the cluster was founded before [FormatAuthority]
	callerCA *fsmpb.Secret            // that the issuer builtin is
	founded  []byte                   // certificate of the caller CA of the genesis, which gave builtin its uid
	issuers  map[string]*fsmpb.Issuer // by uid
	perOwner map[string]int
	taken    map[string]bool // keys of bindings in every unique index
	sets     map[string]setRow
	asks     map[string]int  // approvals that have not ended, by the requester's binding
	reserved []intent.Intent // of those
}

func newAuthorityLoader() authorityLoader {
	return authorityLoader{
		issuers:  make(map[string]*fsmpb.Issuer),
		perOwner: make(map[string]int),
		taken:    make(map[string]bool),
		sets:     make(map[string]setRow),
		asks:     make(map[string]int),
	}
}

// take notes a key that only one object may have.
func (a *authorityLoader) take(index string, key []byte) bool {
	k := index + "/" + string(key)
	if a.taken[k] {
		return false
	}
	a.taken[k] = true
	return true
}

// authorized reports whether the index of the last change of authority is not
// before this one.
func (l *loader) authorized(modIndex uint64) bool {
	return l.cluster.GetFormatVersion() >= FormatAuthority && modIndex <= l.cluster.GetAuthorityIndex()
}

// loadGovernors checks the list of governors of a tenant, and counts it.
func (l *loader) loadGovernors(t *fsmpb.Tenant) error {
	governors := t.GetGovernors()
	none := len(governors) == 0 && (l.authority.raised || l.cluster.GetFormatVersion() < FormatAuthority)
	if !none && (l.cluster.GetFormatVersion() < FormatAuthority || len(governors) == 0 || len(governors) > MaxTenantGovernors || !ascendingUIDs(governors)) {
		return corrupt("a tenant has governors that cannot be")
	}
	if t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return nil
	}
	for _, r := range setsOf(governors) {
		key, _ := setKeyOf(r)
		r.n += l.authority.sets[string(key)].n
		l.authority.sets[string(key)] = r
	}
	return nil
}

// ownedBy checks the tenant of an issuer or a binding.
func (l *loader) ownedBy(tenant string, uid []byte) bool {
	if len(uid) == 0 {
		return tenant == ""
	}
	t, ok := l.owners[string(uid)]
	if !ok || t.GetName() != tenant {
		return false
	}
	if t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		l.reap(uid, uidTenant)
	}
	return true
}

func (l *loader) loadIssuer(i *fsmpb.Issuer) error {
	a := &l.authority
	uid := i.GetUid()
	switch {
	case !l.authorized(i.GetModIndex()) || !l.timely(i.GetModIndex(), i.GetCreateTimeMs()) || i.GetCreateTimeMs() == 0:
		return corrupt("an issuer has a time or index that cannot be")
	case checkIssuer(i) != nil || !l.ownedBy(i.GetTenant(), i.GetTenantUid()) || !keptIntents(i.GetAuthorizedBy()):
		return corrupt("an issuer is not valid")
	case len(uid) != hierarchy.UIDSize || uidOf(uid).IsZero() || a.issuers[string(uid)] != nil:
		return corrupt("the uid of an issuer is not valid or there twice")
	case l.issuerRows >= MaxIssuers || a.perOwner[string(i.GetTenantUid())] >= MaxIssuersPerOwner:
		return corrupt("it has too many issuers")
	}
	for _, t := range i.GetTenantUids() {
		if l.owners[string(t)] == nil {
			return corrupt("an issuer is limited to a tenant that never was")
		}
	}
	own, ok := spkiOf(a.callerCA.GetPublic())
	if !ok {
		return corrupt("it has no CA for callers")
	}
	first, ok := spkiOf(a.founded)
	if !ok || isBuiltin(i) != bytes.Equal(uid, builtinUID(first)) || isBuiltin(i) && !l.builtin(i) {
		return corrupt("the issuer builtin is not the CA of the cluster")
	}
	for _, c := range i.GetX509().GetCertificates() {
		if spki, _ := spkiOf(c); bytes.Equal(spki, own) && !isBuiltin(i) {
			return corrupt("the CA of the cluster is another issuer than builtin")
		}
	}
	put(&l.tx, tableIssuers, i)
	a.issuers[string(uid)] = i
	a.perOwner[string(i.GetTenantUid())]++
	l.issuerRows++
	return nil
}

// builtin reports whether an issuer says what only builtin does.
func (l *loader) builtin(i *fsmpb.Issuer) bool {
	return proto.Equal(i.GetX509(), builtinX509(l.authority.callerCA, builtinDomain(l.cluster))) && i.GetAllTenants() && len(i.GetRoles()) == len(auth.Roles())
}

func (l *loader) loadBinding(b *fsmpb.RoleBinding) error {
	a := &l.authority
	issuer := a.issuers[string(b.GetIssuerUid())]
	if issuer == nil {
		return corrupt("a role binding has no issuer")
	}
	keys, err := checkRoleBinding(b, l.vouching(issuer, b))
	switch {
	case !l.authorized(b.GetModIndex()) || !l.timely(b.GetModIndex(), b.GetCreateTimeMs(), b.GetExpireTimeMs()) || b.GetCreateTimeMs() == 0:
		return corrupt("a role binding has a time or index that cannot be")
	case err != nil || !l.ownedBy(b.GetTenant(), b.GetTenantUid()) || !keptIntents(b.GetAuthorizedBy()) || b.GetEveryTenant() && !a.raised:
		return corrupt("a role binding is not valid")
	case len(b.GetUid()) != hierarchy.UIDSize || uidOf(b.GetUid()).IsZero() || !a.take(indexUID, b.GetUid()) ||
		!a.take(indexSubject, subjectKey(b.GetIssuerUid(), b.GetSubject())) ||
		!a.take(indexIdentity, identityKey(b.GetIssuerUid(), b.GetRole(), b.GetTenantUid(), b.GetName())):
		return corrupt("two role bindings are of one identity, or have one uid")
	case l.bindings >= MaxBindings:
		return corrupt("it has too many role bindings")
	}
	for _, id := range keys {
		if !a.take(tableKeys, id[:]) {
			return corrupt("two role bindings have one public key")
		}
	}
	l.storeBinding(b, keys)
	return nil
}

// vouching returns the issuer that a binding is checked against. Who is bound in a
// destroyed tenant counts for nobody, so the issuer may have been limited to other
// tenants since ([tx.boundBeyond]), before a tick removed the binding: a snapshot of
// that moment is sound.
func (l *loader) vouching(i *fsmpb.Issuer, b *fsmpb.RoleBinding) *fsmpb.Issuer {
	t := l.owners[string(b.GetTenantUid())]
	if t.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED || i.GetTenant() != "" || vouchesFor(i, b.GetTenantUid()) {
		return i
	}
	once := proto.CloneOf(i)
	once.TenantUids = [][]byte{b.GetTenantUid()}
	return once
}

// keptIntents reports whether what an object stores of the intents that ordered it
// has the form of that. That the signatures are good was verified when they came.
func keptIntents(all []*fsmpb.SignedIntent) bool {
	if len(all) > intent.MaxSignatures {
		return false
	}
	for i, s := range all {
		_, err := intent.Decode(s.GetIntent())
		if len(s.GetKeyId()) != sha256.Size || len(s.GetSignature()) == 0 || len(s.GetSignature()) > intent.MaxSignature || (i == 0) != (err == nil) || i > 0 && len(s.GetIntent()) != 0 {
			return false
		}
	}
	return true
}

// finishAuthority checks what only the whole shows of issuers and bindings.
func (l *loader) finishAuthority() error {
	for _, r := range l.authority.sets {
		put(&l.tx, tableSets, r)
	}
	if l.cluster.GetFormatVersion() < FormatAuthority {
		return nil
	}
	if _, ok := lookup[*fsmpb.Issuer](l.txn, tableIssuers, indexID, ownedKey(nil, BuiltinIssuer)); !ok {
		return corrupt("it has no issuer builtin")
	}
	platform := &fsmpb.RoleBinding{Role: auth.RoleGovernor.String(), Platform: true}
	if !l.enough(powerKey(platform), l.needed(auth.RoleGovernor, everyAct).loaded(), nil) {
		return corrupt("too few governors of the platform are left")
	}
	custodian := &fsmpb.RoleBinding{Role: auth.RoleCustodian.String()}
	if w := l.needed(auth.RoleCustodian, everyAct); w.signing && !l.enough(powerKey(custodian), w, nil) {
		return corrupt("too few custodians are left")
	}
	if err := l.finishApprovals(); err != nil {
		return err
	}
	w := l.needed(auth.RoleGovernor, insideTenant).loaded()
	every := l.everywhere(w, nil)
	governed := true
	scan(l.txn, tableSets, indexID, ownerKey(nil), nil, func(s setRow) bool {
		governed = l.enoughOf([]byte(s.set), w, nil, w.n-every)
		return governed
	})
	if !governed {
		return corrupt("a tenant has too few governors")
	}
	l.listIssuers()
	return nil
}
