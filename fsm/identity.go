package fsm

import (
	"bytes"
	"slices"

	"github.com/hashicorp/go-memdb"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// BuiltinIssuer is the id of the issuer that the cluster's own caller CA is. It is
// there from [FormatAuthority] on and stays for ever.
const BuiltinIssuer = "builtin"

// Who may do what comes from here: an issuer vouches for who a caller is, a role
// binding says what that identity may do. Nothing that a caller shows says it.

func errNoAuthority() error {
	return errs.New(errs.FailedState, "the format version of this cluster is older than issuers, role bindings, governors of tenants and approvals",
		errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
}

// ofAuthority reports whether a command is one of those that came with [FormatAuthority].
func ofAuthority(cmd *fsmpb.Command) bool {
	switch cmd.GetBody().(type) {
	case *fsmpb.Command_PutIssuer, *fsmpb.Command_RemoveIssuer, *fsmpb.Command_BindRole, *fsmpb.Command_UnbindRole, *fsmpb.Command_SetTenantGovernors,
		*fsmpb.Command_RequestApproval, *fsmpb.Command_Approve, *fsmpb.Command_RejectApproval, *fsmpb.Command_SetQuorum,
		*fsmpb.Command_PutPolicy, *fsmpb.Command_RemovePolicy:
		return true
	}
	return false
}

// authorityMoved notes that what vouches for a caller changed with this command.
func (t *tx) authorityMoved() {
	t.authorityAt = t.index
	if t.cluster.GetFormatVersion() >= FormatAuthority {
		c := copyCluster(t.cluster)
		c.AuthorityIndex = t.index
		t.cluster = c
	}
}

// AuthorityAt tells whether anything by which a caller is known changed since it
// was looked up last: an issuer, a role binding, a revocation, the governors of a
// tenant, or the end of a tenant. While it is the same number, what was found is
// true still, but for what ends by itself: a certificate, a token, and a binding
// with an expire time, which counts for nobody from that time on. It costs
// nothing, so that every call can ask.
//
// It is the log index of the last such change. In clusters older than
// [FormatAuthority] it is that of the last revocation; after a restore there, of
// the last one whose certificate has not expired.
func (v *View) AuthorityAt() uint64 { return v.authorityAt }

// Issuers returns every issuer, those of the cluster first, each in the order of
// their owners and ids. Those of a destroyed tenant are not in it. The slice is
// shared: whoever has it may keep it while [View.AuthorityAt] is the same.
func (v *View) Issuers() []*fsmpb.Issuer { return v.issuers }

// Issuer returns an issuer of a tenant, or of the cluster if tenant is empty.
func (v *View) Issuer(tenant, id string) (*fsmpb.Issuer, bool) {
	uid, ok := v.ownerUID(tenant)
	if !ok {
		return nil, false
	}
	return lookup[*fsmpb.Issuer](v.txn, tableIssuers, indexID, ownedKey(uid, id))
}

// IssuerByUID returns the issuer with that uid.
func (v *View) IssuerByUID(uid []byte) (*fsmpb.Issuer, bool) { return issuerByUID(v.txn, uid) }

func issuerByUID(txn *memdb.Txn, uid []byte) (*fsmpb.Issuer, bool) {
	i, ok := lookup[*fsmpb.Issuer](txn, tableIssuers, indexUID, uid)
	if !ok || !ownerCounts(txn, i.GetTenantUid()) {
		return nil, false
	}
	return i, true
}

// Binding returns a role binding: of a workload of the tenant, or of a person if
// tenant is empty. One whose expire time has passed is found until a tick removed
// it; see [Expired].
func (v *View) Binding(tenant, id string) (*fsmpb.RoleBinding, bool) {
	uid, ok := v.ownerUID(tenant)
	if !ok {
		return nil, false
	}
	return lookup[*fsmpb.RoleBinding](v.txn, tableBindings, indexID, ownedKey(uid, id))
}

// BindingByUID returns the role binding with that uid, like [View.Binding].
func (v *View) BindingByUID(uid []byte) (*fsmpb.RoleBinding, bool) {
	return bindingAt(v.txn, indexUID, uid)
}

// BindingBySubject returns the role binding of whom that issuer names so, like
// [View.Binding].
func (v *View) BindingBySubject(issuerUID []byte, subject string) (*fsmpb.RoleBinding, bool) {
	return bindingAt(v.txn, indexSubject, subjectKey(issuerUID, subject))
}

// BindingOf returns the role binding of who has that role and name, like
// [View.Binding]. tenantUID is empty for people.
func (v *View) BindingOf(issuerUID []byte, role auth.Role, tenantUID []byte, name string) (*fsmpb.RoleBinding, bool) {
	return bindingAt(v.txn, indexIdentity, identityKey(issuerUID, role.String(), tenantUID, name))
}

// BindingByKey returns the role binding in which a public key stands, like
// [View.Binding]. A key stands in one at most.
func (v *View) BindingByKey(id intent.KeyID) (*fsmpb.RoleBinding, bool) {
	return bindingByKey(v.txn, id)
}

func bindingByKey(txn *memdb.Txn, id intent.KeyID) (*fsmpb.RoleBinding, bool) {
	k, ok := lookup[keyRow](txn, tableKeys, indexID, id[:])
	if !ok {
		return nil, false
	}
	return bindingAt(txn, indexUID, []byte(k.binding))
}

// bindingAt finds a binding that counts: none under a tenant that is destroyed.
func bindingAt(txn *memdb.Txn, index string, key []byte) (*fsmpb.RoleBinding, bool) {
	b, ok := lookup[*fsmpb.RoleBinding](txn, tableBindings, index, key)
	if !ok || !ownerCounts(txn, b.GetTenantUid()) {
		return nil, false
	}
	return b, true
}

// Bindings returns up to limit role bindings of a tenant's workloads, or of people
// if tenant is empty, in the order of their ids, beginning after the id after.
func (v *View) Bindings(tenant, after string, limit int) []*fsmpb.RoleBinding {
	uid, ok := v.ownerUID(tenant)
	if !ok {
		return nil
	}
	return page[*fsmpb.RoleBinding](v, tableBindings, ownerKey(uid), []byte(after), limit,
		func(b *fsmpb.RoleBinding) bool { return bytes.Equal(b.GetTenantUid(), uid) })
}

// Governs reports whether a role binding decides inside a tenant. Whether it has
// expired is not asked; see [Expired].
func (v *View) Governs(b *fsmpb.RoleBinding, t *fsmpb.Tenant) bool { return governs(b, t) }

func governs(b *fsmpb.RoleBinding, t *fsmpb.Tenant) bool {
	if b.GetRole() != auth.RoleGovernor.String() {
		return false
	}
	return b.GetEveryTenant() || slices.ContainsFunc(t.GetGovernors(), func(uid []byte) bool { return bytes.Equal(uid, b.GetUid()) })
}

// Expired reports whether a role binding has ended at that time, in Unix milliseconds.
func Expired(b *fsmpb.RoleBinding, nowMS int64) bool {
	return b.GetExpireTimeMs() != 0 && b.GetExpireTimeMs() <= nowMS
}

// ownerUID returns the uid of the tenant that has the name now, and none for "".
// false: what it owned counts no more.
func (v *View) ownerUID(tenant string) (uid []byte, ok bool) {
	if tenant == "" {
		return nil, true
	}
	t, ok := v.Tenant(tenant)
	if !ok || t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return nil, false
	}
	return t.GetUid(), true
}

// ownerCounts reports whether what a tenant of that uid owns counts, which is so
// until the tenant is destroyed; and what the cluster owns, always.
func ownerCounts(txn *memdb.Txn, tenantUID []byte) bool {
	if len(tenantUID) == 0 {
		return true
	}
	t, ok := lookup[*fsmpb.Tenant](txn, tableTenants, indexUID, tenantUID)
	return ok && t.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED
}
