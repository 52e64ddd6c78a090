package node

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// CreateIssuer makes an authority known whose callers the cluster shall know.
func (n *Node) CreateIssuer(ctx context.Context, tok gate.Token, r Request, i *fsmpb.Issuer) (*fsmpb.Issuer, error) {
	if err := tok.Require(gate.CreateIssuer, identity.IssuerName(i)); err != nil {
		return nil, err
	}
	return n.putIssuer(ctx, tok, r, &fsmpb.PutIssuer{Issuer: i, Create: true})
}

// UpdateIssuer replaces what an issuer says. It never makes one: without an etag it
// is for the issuer that this node sees.
func (n *Node) UpdateIssuer(ctx context.Context, tok gate.Token, r Request, i *fsmpb.Issuer) (*fsmpb.Issuer, error) {
	if err := tok.Require(gate.UpdateIssuer, identity.IssuerName(i)); err != nil {
		return nil, err
	}
	l, err := n.current()
	if err != nil {
		return nil, err
	}
	was, ok := l.View.Issuer(i.GetTenant(), i.GetId())
	if !ok && !n.answered(tok, r, 0) {
		return nil, n.refused(ctx, l, gate.NoSuchObject())
	}
	etag := r.ETag
	if etag == 0 {
		etag = was.GetModIndex()
	}
	return n.putIssuer(ctx, tok, r, &fsmpb.PutIssuer{Issuer: i, Etag: etag})
}

func (n *Node) putIssuer(ctx context.Context, tok gate.Token, r Request, put *fsmpb.PutIssuer) (*fsmpb.Issuer, error) {
	i := put.GetIssuer()
	uid, err := n.ownerUID(ctx, tok, r, i.GetTenant())
	if err != nil {
		return nil, err
	}
	i.TenantUid = uid
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_PutIssuer{PutIssuer: put}
	if _, err := n.commit(ctx, tok, r, cmd); err != nil || r.ValidateOnly {
		return i, err
	}
	if now, ok := n.machine.View().Issuer(i.GetTenant(), i.GetId()); ok {
		return now, nil
	}
	return nil, gate.NoSuchObject()
}

// DeleteIssuer forgets an issuer under which nobody is bound, and returns it as it was.
func (n *Node) DeleteIssuer(ctx context.Context, tok gate.Token, r Request, tenant, id hierarchy.Name) (*fsmpb.Issuer, error) {
	if err := tok.Require(gate.DeleteIssuer, hierarchy.IssuerPath(tenant, id).String()); err != nil {
		return nil, err
	}
	was, ok := n.machine.View().Issuer(string(tenant), string(id))
	if !ok {
		was = &fsmpb.Issuer{Tenant: string(tenant), Id: string(id)} // a retry
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RemoveIssuer{RemoveIssuer: &fsmpb.RemoveIssuer{Tenant: string(tenant), Id: string(id), Etag: r.ETag}}
	_, err := n.commit(ctx, tok, r, cmd)
	return was, err
}

// CreateRoleBinding gives an identity a role.
func (n *Node) CreateRoleBinding(ctx context.Context, tok gate.Token, r Request, b *fsmpb.RoleBinding) (*fsmpb.RoleBinding, error) {
	name := hierarchy.RoleBindingPath(hierarchy.Name(b.GetTenant()), hierarchy.Name(b.GetId())).String()
	if err := tok.Require(gate.CreateRoleBinding, name); err != nil {
		return nil, err
	}
	return n.bind(ctx, tok, r, b)
}

func (n *Node) bind(ctx context.Context, tok gate.Token, r Request, b *fsmpb.RoleBinding) (*fsmpb.RoleBinding, error) {
	uid, err := n.ownerUID(ctx, tok, r, b.GetTenant())
	if err != nil {
		return nil, err
	}
	b.TenantUid = uid
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_BindRole{BindRole: &fsmpb.BindRole{Binding: b}}
	res, err := n.commit(ctx, tok, r, cmd)
	if err != nil || r.ValidateOnly {
		return b, err
	}
	if now, ok := n.machine.View().BindingByUID(res.GetUid()); ok {
		return now, nil
	}
	return nil, gate.NoSuchObject()
}

// DeleteRoleBinding takes a role away, and returns the binding as it was.
func (n *Node) DeleteRoleBinding(ctx context.Context, tok gate.Token, r Request, tenant, id hierarchy.Name) (*fsmpb.RoleBinding, error) {
	if err := tok.Require(gate.DeleteRoleBinding, hierarchy.RoleBindingPath(tenant, id).String()); err != nil {
		return nil, err
	}
	was, ok := n.machine.View().Binding(string(tenant), string(id))
	if !ok {
		was = &fsmpb.RoleBinding{Tenant: string(tenant), Id: string(id)} // a retry
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_UnbindRole{UnbindRole: &fsmpb.UnbindRole{Tenant: string(tenant), Id: string(id), Etag: r.ETag}}
	_, err := n.commit(ctx, tok, r, cmd)
	return was, err
}

// SetGovernors says who governs what is inside a tenant: uids of role bindings.
func (n *Node) SetGovernors(ctx context.Context, tok gate.Token, r Request, tenant hierarchy.Name, governors [][]byte) error {
	if err := tok.Require(gate.SetGovernors, hierarchy.TenantPath(tenant).String()); err != nil {
		return err
	}
	uid, err := n.ownerUID(ctx, tok, r, string(tenant))
	if err != nil {
		return err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_SetTenantGovernors{SetTenantGovernors: &fsmpb.SetTenantGovernors{
		Tenant: string(tenant), TenantUid: uid, Governors: governors, Etag: r.ETag,
	}}
	_, err = n.commit(ctx, tok, r, cmd)
	return err
}

// ownerUID returns the uid of the tenant that has the name; none for "". A retry is
// answered from memory, so it gets none where the tenant is gone by now.
func (n *Node) ownerUID(ctx context.Context, tok gate.Token, r Request, tenant string) ([]byte, error) {
	if tenant == "" {
		return nil, nil
	}
	l, err := n.current()
	if err != nil {
		return nil, err
	}
	t, ok := l.View.Tenant(tenant)
	if !ok && !n.answered(tok, r, 0) {
		return nil, n.refused(ctx, l, gate.NoSuchObject())
	}
	return t.GetUid(), nil
}

// Caller is whom a certificate is for.
type Caller struct {
	Role      auth.Role
	Tenant    hierarchy.Name // of a workload
	Name      string
	PublicKey []byte // SubjectPublicKeyInfo, DER
}

func (c Caller) id() auth.ID { return auth.ID{Role: c.Role, Tenant: c.Tenant, Name: c.Name} }

// IssueCaller signs a caller's public key with the cluster's caller CA. If the
// identity has no role binding yet, it gets one, with that key; if it has one with
// that key, only a certificate is made. A workload's tenant must exist: a
// certificate for a tenant to come would reach whoever is called so later.
//
// The certificate is made first and counts for nothing until the key is bound: what
// cannot be signed leaves no role binding behind.
func (n *Node) IssueCaller(ctx context.Context, tok gate.Token, r Request, c Caller, ttl time.Duration) (leaf, nodeCA *x509.Certificate, err error) {
	object := ObjectCluster
	if c.Tenant != "" {
		object = hierarchy.TenantPath(c.Tenant).String()
	}
	if err := tok.Require(gate.IssueCertificate, object); err != nil {
		return nil, nil, err
	}
	v, err := n.stillTrusted(ctx, tok)
	if err != nil {
		return nil, nil, err
	}
	id := c.id()
	if c.Role == auth.RoleWorkload {
		t, ok := v.Tenant(string(c.Tenant))
		// That there is a tenant is told like that there is none.
		if err := n.Shown(ctx, Look{View: v}, t.GetModIndex()); err != nil {
			return nil, nil, err
		}
		if !ok || t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
			return nil, nil, gate.NoSuchObject()
		}
		if id.TenantUID, err = uidOf(t.GetUid()); err != nil {
			return nil, nil, err
		}
	}
	pub, err := pki.ParsePublicKey(c.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	if leaf, nodeCA, err = n.signCaller(ctx, id, pub, ttl); err != nil {
		return nil, nil, err
	}
	if v.Cluster().GetFormatVersion() >= fsm.FormatAuthority {
		if err := n.bindCaller(ctx, tok, r, v, c); err != nil {
			return nil, nil, err
		}
	}
	return leaf, nodeCA, nil
}

// bindCaller makes the role binding for a certificate of the cluster's own CA,
// unless there is one that has the key.
func (n *Node) bindCaller(ctx context.Context, tok gate.Token, r Request, v *fsm.View, c Caller) error {
	builtin, ok := v.Issuer("", identity.Builtin)
	if !ok {
		return errs.New(errs.StateCorrupt, "the registry has no issuer builtin")
	}
	key, err := PublicKey(c.PublicKey)
	if err != nil {
		return err
	}
	if b, ok := v.BindingBySubject(builtin.GetUid(), identity.Subject(c.id())); ok && !fsm.Expired(b, n.clock.Now().UnixMilli()) {
		if hasKey(b, key) {
			return nil
		}
		return n.refused(ctx, Look{View: v}, errs.New(errs.FailedState, "the identity has a role binding for another key",
			errs.Hint("issue for the key it has, choose another name, or remove the binding first: krypton role unbind %s",
				hierarchy.RoleBindingPath(hierarchy.Name(b.GetTenant()), hierarchy.Name(b.GetId())))))
	}
	power := c.Role == auth.RoleGovernor || c.Role == auth.RoleCustodian
	_, err = n.bind(ctx, tok, r, &fsmpb.RoleBinding{
		Id: bindingID(v, c), IssuerUid: builtin.GetUid(), Role: c.Role.String(), Name: c.Name, Tenant: string(c.Tenant),
		Keys: []*fsmpb.BindingKey{{Key: key, Tls: true, Sign: power}},
	})
	return err
}

// hasKey reports whether a certificate for that key counts as the binding's.
func hasKey(b *fsmpb.RoleBinding, key *fsmpb.PublicKey) bool {
	return slices.ContainsFunc(b.GetKeys(), func(k *fsmpb.BindingKey) bool {
		return k.GetTls() && identity.KeyID(k.GetKey()) == identity.KeyID(key)
	})
}

// bindingID makes the id of a role binding of who is called so: the name under a
// tenant, role and name of a person. Where that is no id, for its dots or its length,
// or is taken by a binding of somebody else, of another issuer say, it is the role
// and a digest.
func bindingID(v *fsm.View, c Caller) string {
	id := identity.BindingID(c.id())
	if _, taken := v.Binding(string(c.Tenant), id); !taken {
		return id
	}
	sum := sha256.Sum256([]byte(identity.Subject(c.id())))
	return c.Role.String() + "-" + hex.EncodeToString(sum[:8])
}

// RenewCaller makes a new certificate for the identity and the key of an old one,
// which may have expired: the role binding, which has the key, is what counts. It
// ends no later than the role binding, as far as certificates can be so short.
func (n *Node) RenewCaller(ctx context.Context, tok gate.Token, binding hierarchy.UID, pub crypto.PublicKey, ttl time.Duration) (leaf, nodeCA *x509.Certificate, err error) {
	if err := tok.Require(gate.RenewCertificate, ObjectCluster); err != nil {
		return nil, nil, err
	}
	if binding.IsZero() {
		return nil, nil, errs.New(errs.FailedState, "this certificate cannot renew itself: no role binding has its key",
			errs.Hint("have a governor issue a new one: krypton operator cert issue"))
	}
	v, err := n.stillTrusted(ctx, tok)
	if err != nil {
		return nil, nil, err
	}
	b, ok := v.BindingByUID(binding[:])
	if !ok || fsm.Expired(b, n.clock.Now().UnixMilli()) {
		return nil, nil, errs.New(errs.Unauthenticated, "the role binding of this identity was removed in the meantime", errs.Hint("ask a governor of this cluster"))
	}
	i, ok := v.IssuerByUID(b.GetIssuerUid())
	if !ok || !identity.IsBuiltin(i) {
		return nil, nil, errs.New(errs.FailedState, "the cluster renews only certificates of its own CA", errs.Hint("renew it where it was issued"))
	}
	if key, err := publicKey(pub); err != nil || !hasKey(b, key) {
		// The caller showed it, by a view that may be older than this one.
		return nil, nil, errs.New(errs.Unauthenticated, "the role binding of this identity does not have the key of the certificate any more",
			errs.Hint("use the certificate for the bound key, or ask a governor of this cluster"))
	}
	role, err := auth.ParseRole(b.GetRole())
	if err != nil {
		return nil, nil, errs.New(errs.StateCorrupt, "a role binding has no role", errs.Cause(err))
	}
	id := auth.ID{Role: role, Tenant: hierarchy.Name(b.GetTenant()), Name: b.GetName()}
	if len(b.GetTenantUid()) > 0 {
		if id.TenantUID, err = uidOf(b.GetTenantUid()); err != nil {
			return nil, nil, err
		}
	}
	if end := b.GetExpireTimeMs(); end != 0 {
		if ttl == 0 {
			ttl = pki.CallerLifetime
		}
		if left := time.UnixMilli(end).Sub(n.clock.Now()); ttl > left {
			ttl = max(left, pki.MinLifetime)
		}
	}
	return n.signCaller(ctx, id, pub, ttl)
}

// signCaller makes the certificate.
func (n *Node) signCaller(ctx context.Context, id auth.ID, pub crypto.PublicKey, ttl time.Duration) (leaf, nodeCA *x509.Certificate, err error) {
	v := n.machine.View()
	nodeCA, ok := Authority(v, SecretNodeCA)
	if !ok {
		return nil, nil, errs.New(errs.FailedState, "the cluster has no CA of its own for nodes")
	}
	ca, err := n.openCA(ctx, SecretCallerCA)
	if err != nil {
		return nil, nil, err
	}
	defer ca.Destroy()
	if id.TrustDomain, err = trustDomain(v.Cluster()); err != nil {
		return nil, nil, err
	}
	leaf, err = ca.IssueCaller(n.rand, n.clock.Now(), pki.CallerRequest{ID: id, PublicKey: pub, Lifetime: ttl})
	return leaf, nodeCA, err
}
