package fsm

import (
	"bytes"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of what a binding says of its identity.
const (
	MaxIdentityNames = 8       // parts of what an identity is called
	MaxIdentityValue = 1 << 10 // bytes of one of them
	MaxBindingOwner  = 4 << 10 // bytes of an identity, or a key, in the words of its keystore
	MaxRegions       = 16      // regions of a binding
	MaxRegionBytes   = 64      // of the name of one
	MaxShared        = 16      // tenants with one key
)

// A binding says as whom nodes ask for the key of a tenant, and that identity is no
// other tenant's (I41). What identity and key are in the words of their keystore
// the preparer found out; nobody here can ask. Two names of one key, or of one
// identity, are one text there.

// The kinds of rows of the index of owners.
const (
	ownsIdentity = 'i'
	ownsKey      = 'k'
)

// ownerRow says which tenant has an identity or a key.
type ownerRow struct {
	kind   byte
	what   string
	tenant string // uid
}

func ownerRowKey(r ownerRow) ([]byte, bool) {
	return append(ownerRowPrefix(r.kind, r.what), r.tenant...), true
}

func ownerRowPrefix(kind byte, what string) []byte { return appendPart([]byte{kind}, what) }

// ownerRows returns the rows of a tenant that is there. Of a binding without
// identity, as they were before [FormatOwnedKeys], the key has the name that the
// binding gives it. A keystore of the nodes themselves is no customer's.
func ownerRows(tn *fsmpb.Tenant) (rows []ownerRow) {
	b := tn.GetBinding()
	if b == nil || tn.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED || b.GetArchetype() == "local" {
		return nil
	}
	uid := string(tn.GetUid())
	rows = append(rows, ownerRow{ownsKey, namedKey(b), uid})
	if b.GetOwner() != "" {
		rows = append(rows, ownerRow{ownsIdentity, b.GetOwner(), uid}, ownerRow{ownsKey, b.GetL1(), uid})
	}
	return rows
}

// namedKey is what a key is called in the binding. No word of a keystore begins so.
func namedKey(b *fsmpb.Binding) string { return "\x00" + b.GetKeystore() + "\x00" + b.GetKey() }

// indexOwners brings the rows of a tenant from was to is; nil: none.
func (t *tx) indexOwners(was, is *fsmpb.Tenant) {
	for _, r := range ownerRows(was) {
		drop(t, tableOwners, r)
	}
	for _, r := range ownerRows(is) {
		put(t, tableOwners, r)
	}
}

// ownersOf returns the tenants that have an identity or a key, in the order of their uids.
func ownersOf(txn *memdb.Txn, kind byte, what string, limit int) (all []*fsmpb.Tenant) {
	scan(txn, tableOwners, indexID, ownerRowPrefix(kind, what), nil, func(r ownerRow) bool {
		if tn, ok := lookup[*fsmpb.Tenant](txn, tableTenants, indexUID, []byte(r.tenant)); ok {
			all = append(all, tn)
		}
		return len(all) < limit
	})
	return all
}

// OwnerTaken returns an error if another tenant than that one has the identity, as
// its keystore calls it. Whoever prepares asks before the keystore is.
func (v *View) OwnerTaken(owner string, tenantUID []byte) error {
	return ownerTaken(v.txn, owner, tenantUID)
}

func ownerTaken(txn *memdb.Txn, owner string, tenantUID []byte) error {
	for _, tn := range ownersOf(txn, ownsIdentity, owner, 2) {
		if !bytes.Equal(tn.GetUid(), tenantUID) {
			return errs.New(errs.FailedState, "the identity of the binding is another tenant's", errs.Hint("have the customer make one for this tenant only"))
		}
	}
	return nil
}

// KeyTaken returns an error if other tenants than sharedWith have the key that a
// binding names, or not all of them do.
func (v *View) KeyTaken(b *fsmpb.Binding, tenantUID []byte) error {
	return keyTaken(v.txn, b, tenantUID)
}

func keyTaken(txn *memdb.Txn, b *fsmpb.Binding, tenantUID []byte) error {
	names := map[string]bool{}
	for _, what := range []string{namedKey(b), b.GetL1()} {
		if what == "" {
			continue
		}
		for _, tn := range ownersOf(txn, ownsKey, what, MaxShared+2) {
			if !bytes.Equal(tn.GetUid(), tenantUID) {
				names[tn.GetName()] = true
			}
		}
	}
	for _, name := range b.GetSharedWith() {
		if !names[name] && b.GetL1() != "" {
			return errs.New(errs.FailedState, "a tenant with which the key is to be shared has another one", errs.Hint("name the tenants that have the key"))
		}
		delete(names, name)
	}
	if len(names) != 0 {
		return errs.New(errs.FailedState, "the key of the binding is another tenant's",
			errs.Hint("have the customer make a key for this tenant; if both shall have one key, two governors of the platform sign for it: krypton tenant bind --share-with"))
	}
	return nil
}

// checkOwned checks what a binding says from [FormatOwnedKeys] on.
func checkOwned(b *fsmpb.Binding) error {
	switch ids := b.GetIdentity(); {
	case len(ids) > MaxIdentityNames || (b.GetOwner() == "") != (len(ids) == 0) || (b.GetL1() == "") != (b.GetOwner() == ""):
		return invalid("the binding has an identity without a keystore's word for it, or the other way round")
	case len(b.GetOwner()) > MaxBindingOwner || len(b.GetL1()) > MaxBindingOwner || strings.HasPrefix(b.GetL1(), "\x00"):
		return invalid("what the keystore calls identity or key is too long")
	case !ascendingNames(ids):
		return invalid("the names of the identity are not in ascending order")
	}
	for _, n := range b.GetIdentity() {
		if n.GetName() == "" || len(n.GetName()) > MaxKeystoreBytes || !shown(n.GetValue()) {
			return invalid("the identity has a name or a value that cannot be")
		}
		if strings.Contains(n.GetValue(), "://") {
			return errs.New(errs.InvalidArgument, "the identity names an address", errs.Hint("where a keystore is, the nodes' configuration says"))
		}
	}
	for _, list := range []struct {
		all  []string
		most int
	}{{b.GetRegions(), MaxRegions}, {b.GetDeniedIn(), MaxRegions}, {b.GetSharedWith(), MaxShared}} {
		if len(list.all) > list.most || !ascendingTexts(list.all) {
			return invalid("the binding has too many regions or tenants, or not in ascending order")
		}
	}
	for _, r := range slices.Concat(b.GetRegions(), b.GetDeniedIn()) {
		if r == "" || !printable(r, MaxRegionBytes) {
			return invalid("a region of the binding has no valid name")
		}
	}
	for _, r := range b.GetDeniedIn() {
		if len(b.GetRegions()) == 0 || slices.Contains(b.GetRegions(), r) {
			return invalid("the binding says that a region was denied which is allowed")
		}
	}
	for _, name := range b.GetSharedWith() {
		if err := checkName(name); err != nil {
			return err
		}
	}
	return nil
}

// plain reports whether a binding has nothing that came with [FormatOwnedKeys].
func plain(b *fsmpb.Binding) bool {
	return len(b.GetIdentity()) == 0 && b.GetOwner() == "" && b.GetL1() == "" && len(b.GetRegions()) == 0 && len(b.GetDeniedIn()) == 0 && len(b.GetSharedWith()) == 0
}

// shown reports whether a value of an identity is one that people can read: labels of
// tokens have spaces.
func shown(s string) bool {
	return s != "" && len(s) <= MaxIdentityValue && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func ascendingNames(ids []*fsmpb.IdentityName) bool {
	names := make([]string, len(ids))
	for i, one := range ids {
		names[i] = one.GetName()
	}
	return ascendingTexts(names)
}

func ascendingTexts(all []string) bool {
	for i := 1; i < len(all); i++ {
		if all[i-1] >= all[i] {
			return false
		}
	}
	return true
}

// Unbound reports whether a tenant has no customer key yet, and so no keys at all.
func Unbound(tn *fsmpb.Tenant) bool { return tn != nil && tn.GetBinding() == nil }

// createUnbound makes a tenant without a key.
func (t *tx) createUnbound(c *fsmpb.CreateTenant, old *fsmpb.Tenant, governors [][]byte) (done, error) {
	if len(c.GetL2Uid()) != 0 || len(c.GetL2Blob()) != 0 || len(c.GetL2IvkUid()) != 0 || c.GetVersion() != nil {
		return done{}, invalid("the command has a key for a tenant without a binding")
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	uid := string(c.GetUid())
	if err := t.claim(uidOwner{uid: uid, kind: uidTenant, tenant: uid}); err != nil {
		return done{}, err
	}
	t.take(old)
	t.tenants++
	t.putTenant(nil, &fsmpb.Tenant{
		Name: c.GetName(), Uid: c.GetUid(), State: fsmpb.ObjectState_OBJECT_STATE_ACTIVE,
		CreateTimeMs: t.timeMS, ModIndex: t.index, Governors: governors,
	})
	t.countSet(governors, 1)
	return done{object: tenantName(c.GetName()), uid: c.GetUid()}, nil
}

// take gives the name of a destroyed tenant to a new one; the destroyed one stays
// what its uid says. nil: nobody had the name.
func (t *tx) take(old *fsmpb.Tenant) {
	if old == nil {
		return
	}
	t.setDue(old.GetUid(), uidTenant, never)
	drop(t, tableTenants, old)
	put(t, tableTombs, old)
}

// bindTenant gives a tenant its first key, under a customer key that nobody else
// has by an identity that nobody else has (I41, I42).
func (t *tx) bindTenant(c *fsmpb.BindTenant) (done, error) {
	if t.cluster.GetFormatVersion() < FormatOwnedKeys {
		return done{}, errs.New(errs.FailedState, "the format version of this cluster is older than the binding of tenants", errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	}
	o, err := t.findKeyed(&fsmpb.ObjectRef{Tenant: c.GetTenant()})
	if err != nil {
		return done{}, err
	}
	b := c.GetBinding()
	switch {
	case !bytes.Equal(o.tenant.GetUid(), c.GetTenantUid()):
		return done{}, moved("the tenant")
	case !Unbound(o.tenant):
		return done{}, errs.New(errs.FailedState, "the tenant has a customer key already", errs.Hint("make another tenant"))
	case o.tenant.GetState() != fsmpb.ObjectState_OBJECT_STATE_ACTIVE:
		return done{}, errs.New(errs.FailedState, "the tenant is suspended or about to be destroyed", errs.Hint("resume it first"))
	case len(c.GetL2Blob()) == 0 || len(c.GetL2Blob()) > MaxBlobBytes:
		return done{}, invalid("the wrapped tenant key is missing or too large")
	}
	if err := checkEtag(c.GetEtag(), o.tenant.GetModIndex()); err != nil {
		return done{}, err
	}
	if err := checkBinding(b); err != nil {
		return done{}, err
	}
	if err := checkOwned(b); err != nil {
		return done{}, err
	}
	if err := ownerTaken(t.txn, b.GetOwner(), c.GetTenantUid()); err != nil && b.GetOwner() != "" {
		return done{}, err
	}
	if b.GetArchetype() != "local" {
		if err := keyTaken(t.txn, b, c.GetTenantUid()); err != nil {
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
	uid := string(o.tenant.GetUid())
	if err := t.claim(uidOwner{uid: string(c.GetL2Uid()), kind: uidL2, tenant: uid},
		uidOwner{uid: string(c.GetVersion().GetUid()), kind: uidTenantVersion, tenant: uid, number: 1}); err != nil {
		return done{}, err
	}
	was := toChain(nil, 0, false, t.window())
	is, r := was.Rotate(uidOf(c.GetVersion().GetUid()), at(t.timeMS), hierarchy.TriggerPerson)
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the tenant key")
	}
	tn := copyTenant(o.tenant)
	tn.Binding, tn.L2Uid, tn.L2Blob, tn.L2IvkUid = b, c.GetL2Uid(), c.GetL2Blob(), c.GetL2IvkUid()
	tn.Primary, tn.Versions, tn.ModIndex = 1, t.mergeChain(nil, was, is, c.GetVersion()), t.index
	t.putTenant(o.tenant, tn)
	return done{object: o.name(), version: 1, uid: tn.GetUid()}, nil
}
