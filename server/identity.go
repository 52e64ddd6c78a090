package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"slices"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// parentOf returns the tenant that owns an object; none: the cluster.
func parentOf(name string) (hierarchy.Name, error) {
	if name == "" {
		return "", nil
	}
	p, err := path(name, "parent", hierarchy.KindTenant)
	return p.Tenant, err
}

// CreateIssuer implements kryptonv1.AccessServer.
func (s accessServer) CreateIssuer(ctx context.Context, r *kryptonv1.CreateIssuerRequest) (*kryptonv1.Issuer, error) {
	tenant, err := parentOf(r.GetParent())
	if err != nil {
		return nil, err
	}
	id, err := hierarchy.ParseName(r.GetIssuerId())
	if err != nil {
		return nil, inField("issuer_id", err)
	}
	i, err := s.issuerFromAPI(r.GetIssuer(), tenant, id)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Issuer
	err = s.do(ctx, gate.CreateIssuer, hierarchy.IssuerPath(tenant, id).String(), func(tok gate.Token) error {
		made, err := s.node.CreateIssuer(ctx, tok, req, i)
		if err != nil {
			return err
		}
		out = s.issuerToAPI(s.machine.View(), made)
		return s.after(ctx, tok, req, made.GetModIndex())
	})
	return out, err
}

// UpdateIssuer implements kryptonv1.AccessServer.
func (s accessServer) UpdateIssuer(ctx context.Context, r *kryptonv1.UpdateIssuerRequest) (*kryptonv1.Issuer, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
	if err != nil {
		return nil, err
	}
	i, err := s.issuerFromAPI(r.GetIssuer(), p.Tenant, p.ID)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Issuer
	err = s.do(ctx, gate.UpdateIssuer, p.String(), func(tok gate.Token) error {
		now, err := s.node.UpdateIssuer(ctx, tok, req, i)
		if err != nil {
			return err
		}
		out = s.issuerToAPI(s.machine.View(), now)
		return s.after(ctx, tok, req, now.GetModIndex())
	})
	return out, err
}

// GetIssuer implements kryptonv1.AccessServer.
func (s accessServer) GetIssuer(ctx context.Context, r *kryptonv1.GetIssuerRequest) (*kryptonv1.Issuer, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Issuer
	err = s.do(ctx, gate.GetIssuer, p.String(), func(gate.Token) error {
		l := s.look(ctx)
		i, ok := l.View.Issuer(string(p.Tenant), string(p.ID))
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out = s.issuerToAPI(l.View, i)
		return s.shown(ctx, l, i.GetModIndex(), nil)
	})
	return out, err
}

// ListIssuers implements kryptonv1.AccessServer.
func (s accessServer) ListIssuers(ctx context.Context, r *kryptonv1.ListIssuersRequest) (*kryptonv1.ListIssuersResponse, error) {
	tenant, err := parentOf(r.GetParent())
	if err != nil {
		return nil, err
	}
	pg, err := page(r, r.GetParent()+"/issuers", "")
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListIssuersResponse{}
	err = s.do(ctx, gate.ListIssuers, listed(tenant, "issuers"), func(gate.Token) error {
		l := s.look(ctx)
		if err := s.owner(ctx, l.View, tenant); err != nil {
			return s.shown(ctx, l, 0, err)
		}
		read := func(after string, limit int) (some []*fsmpb.Issuer) {
			for _, i := range l.View.Issuers() { // in the order of owners and ids
				if i.GetTenant() == string(tenant) && i.GetId() > after && len(some) < limit {
					some = append(some, i)
				}
			}
			return some
		}
		out.Issuers, out.NextPageToken = collect(pg, read,
			func(i *fsmpb.Issuer) (string, kryptonv1.ObjectState) {
				return i.GetId(), kryptonv1.ObjectState_OBJECT_STATE_ACTIVE
			},
			func(i *fsmpb.Issuer) *kryptonv1.Issuer { return s.issuerToAPI(l.View, i) })
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// listed is the object of a list: of a tenant's, or of the cluster's.
func listed(tenant hierarchy.Name, what string) string {
	if tenant == "" {
		return what
	}
	return hierarchy.TenantPath(tenant).String() + "/" + what
}

// owner refuses the list of a tenant that is not there.
func (s accessServer) owner(_ context.Context, v *fsm.View, tenant hierarchy.Name) error {
	if tenant == "" {
		return nil
	}
	if _, ok := v.Tenant(string(tenant)); !ok {
		return gate.NoSuchObject()
	}
	return nil
}

// DeleteIssuer implements kryptonv1.AccessServer.
func (s accessServer) DeleteIssuer(ctx context.Context, r *kryptonv1.DeleteIssuerRequest) (*kryptonv1.Issuer, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Issuer
	err = s.do(ctx, gate.DeleteIssuer, p.String(), func(tok gate.Token) error {
		was, err := s.node.DeleteIssuer(ctx, tok, req, p.Tenant, p.ID)
		if err != nil {
			return err
		}
		out = s.issuerToAPI(s.machine.View(), was)
		return s.after(ctx, tok, req, 0)
	})
	return out, err
}

// CreateRoleBinding implements kryptonv1.AccessServer.
func (s accessServer) CreateRoleBinding(ctx context.Context, r *kryptonv1.CreateRoleBindingRequest) (*kryptonv1.RoleBinding, error) {
	tenant, err := parentOf(r.GetParent())
	if err != nil {
		return nil, err
	}
	id, err := hierarchy.ParseName(r.GetRoleBindingId())
	if err != nil {
		return nil, inField("role_binding_id", err)
	}
	b, err := s.bindingFromAPI(r.GetRoleBinding(), tenant, id)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.RoleBinding
	err = s.do(ctx, gate.CreateRoleBinding, bindingName(b), func(tok gate.Token) error {
		made, err := s.node.CreateRoleBinding(ctx, tok, req, b)
		if err != nil {
			return err
		}
		out = s.bindingToAPI(s.machine.View(), made)
		return s.after(ctx, tok, req, made.GetModIndex())
	})
	return out, err
}

// GetRoleBinding implements kryptonv1.AccessServer.
func (s accessServer) GetRoleBinding(ctx context.Context, r *kryptonv1.GetRoleBindingRequest) (*kryptonv1.RoleBinding, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindRoleBinding, hierarchy.KindTenantRoleBinding)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.RoleBinding
	err = s.do(ctx, gate.GetRoleBinding, p.String(), func(gate.Token) error {
		l := s.look(ctx)
		b, ok := l.View.Binding(string(p.Tenant), string(p.ID))
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out = s.bindingToAPI(l.View, b)
		return s.shown(ctx, l, b.GetModIndex(), nil)
	})
	return out, err
}

// ListRoleBindings implements kryptonv1.AccessServer.
func (s accessServer) ListRoleBindings(ctx context.Context, r *kryptonv1.ListRoleBindingsRequest) (*kryptonv1.ListRoleBindingsResponse, error) {
	tenant, err := parentOf(r.GetParent())
	if err != nil {
		return nil, err
	}
	pg, err := page(r, r.GetParent()+"/roleBindings", "")
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListRoleBindingsResponse{}
	err = s.do(ctx, gate.ListRoleBindings, listed(tenant, "roleBindings"), func(gate.Token) error {
		l := s.look(ctx)
		if err := s.owner(ctx, l.View, tenant); err != nil {
			return s.shown(ctx, l, 0, err)
		}
		out.RoleBindings, out.NextPageToken = collect(pg,
			func(after string, limit int) []*fsmpb.RoleBinding {
				return l.View.Bindings(string(tenant), after, limit)
			},
			func(b *fsmpb.RoleBinding) (string, kryptonv1.ObjectState) {
				return b.GetId(), kryptonv1.ObjectState_OBJECT_STATE_ACTIVE
			},
			func(b *fsmpb.RoleBinding) *kryptonv1.RoleBinding { return s.bindingToAPI(l.View, b) })
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// DeleteRoleBinding implements kryptonv1.AccessServer.
func (s accessServer) DeleteRoleBinding(ctx context.Context, r *kryptonv1.DeleteRoleBindingRequest) (*kryptonv1.RoleBinding, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindRoleBinding, hierarchy.KindTenantRoleBinding)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.RoleBinding
	err = s.do(ctx, gate.DeleteRoleBinding, p.String(), func(tok gate.Token) error {
		was, err := s.node.DeleteRoleBinding(ctx, tok, req, p.Tenant, p.ID)
		if err != nil {
			return err
		}
		out = s.bindingToAPI(s.machine.View(), was)
		return s.after(ctx, tok, req, 0)
	})
	return out, err
}

func bindingName(b *fsmpb.RoleBinding) string {
	return hierarchy.RoleBindingPath(hierarchy.Name(b.GetTenant()), hierarchy.Name(b.GetId())).String()
}

// roleFromAPI reads a role; false: it is none that this node knows.
func roleFromAPI(r kryptonv1.Role) (auth.Role, bool) {
	for a, b := range apiRoles {
		if b == r && a.Valid() {
			return a, true
		}
	}
	return 0, false
}

func rolesFromAPI(in []kryptonv1.Role, field string) ([]string, error) {
	var roles []auth.Role
	for _, r := range in {
		role, ok := roleFromAPI(r)
		if !ok || slices.Contains(roles, role) {
			return nil, errs.New(errs.InvalidArgument, field+" has a role twice, or one that this node does not know", errs.Hint("governor, custodian, operator, auditor or workload, each once"))
		}
		roles = append(roles, role)
	}
	slices.Sort(roles)
	out := make([]string, len(roles))
	for i, r := range roles {
		out[i] = r.String()
	}
	return out, nil
}

func rolesToAPI(in []string) (out []kryptonv1.Role) {
	for _, name := range in {
		if r, err := auth.ParseRole(name); err == nil {
			out = append(out, apiRoles[r])
		}
	}
	return out
}

// issuerFromAPI reads an issuer. What the registry itself sets is refused: whoever
// sends back what he read means it to be kept, and name, uid and etag of another
// issuer in there would be a mistake that nobody notices.
func (s accessServer) issuerFromAPI(in *kryptonv1.Issuer, tenant, id hierarchy.Name) (*fsmpb.Issuer, error) {
	name := hierarchy.IssuerPath(tenant, id).String()
	if in == nil {
		return nil, errs.New(errs.InvalidArgument, "issuer is missing", errs.Hint("give x509 or jwt, and the roles that it may vouch for"))
	}
	if in.GetName() != "" && in.GetName() != name {
		return nil, errs.New(errs.InvalidArgument, "issuer.name is that of another issuer", errs.Hint("leave it out, or give %s", name))
	}
	out := &fsmpb.Issuer{Id: string(id), Tenant: string(tenant), AllTenants: in.GetAllTenants()}
	var err error
	if out.Roles, err = rolesFromAPI(in.GetRoles(), "issuer.roles"); err != nil {
		return nil, err
	}
	if out.UnboundRoles, err = rolesFromAPI(in.GetUnboundRoles(), "issuer.unbound_roles"); err != nil {
		return nil, err
	}
	v := s.machine.View()
	for _, t := range in.GetTenants() {
		p, err := path(t, "issuer.tenants", hierarchy.KindTenant)
		if err != nil {
			return nil, err
		}
		now, ok := v.Tenant(string(p.Tenant))
		if !ok {
			return nil, errs.New(errs.FailedState, "issuer.tenants names a tenant that does not exist", errs.Hint("create the tenant first"))
		}
		if tenant == "" { // a tenant's own issuer is for that tenant; naming it is no mistake
			out.TenantUids = append(out.TenantUids, now.GetUid())
		} else if p.Tenant != tenant {
			return nil, errs.New(errs.InvalidArgument, "an issuer of a tenant vouches for workloads of that tenant only", errs.Hint("leave issuer.tenants out"))
		}
	}
	slices.SortFunc(out.GetTenantUids(), bytes.Compare)
	out.TenantUids = slices.CompactFunc(out.GetTenantUids(), bytes.Equal)
	switch k := in.GetKind().(type) {
	case *kryptonv1.Issuer_X509:
		out.Kind, err = x509FromAPI(k.X509)
	case *kryptonv1.Issuer_Jwt:
		out.Kind, err = jwtFromAPI(k.Jwt)
	default:
		err = errs.New(errs.InvalidArgument, "issuer has neither x509 nor jwt", errs.Hint("give the CA certificates, or the URL and audiences of the tokens"))
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// certsFromAPI reads up to limit certificates, PEM.
func certsFromAPI(text []byte, field string, check func(*x509.Certificate) error) (ders [][]byte, err error) {
	certs, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, field+" holds no certificates that can be read", errs.Hint("PEM, 1 to %d certificates and nothing else", fsm.MaxIssuerCertificates), errs.Cause(err))
	}
	if len(certs) > fsm.MaxIssuerCertificates {
		return nil, errs.Newf(errs.InvalidArgument, "%s holds more than %d certificates", field, fsm.MaxIssuerCertificates).With(errs.Hint("give the present one and those that it replaces"))
	}
	for _, c := range certs {
		if err := check(c); err != nil {
			e := errs.From(err)
			return nil, errs.New(errs.InvalidArgument, field+": "+e.Msg, errs.Hint("%s", e.Hint))
		}
		ders = append(ders, c.Raw)
	}
	return ders, nil
}

func x509FromAPI(in *kryptonv1.X509Issuer) (*fsmpb.Issuer_X509, error) {
	ders, err := certsFromAPI(in.GetCertificates(), "issuer.x509.certificates", pki.CheckCA)
	if err != nil {
		return nil, err
	}
	return &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{Certificates: ders, TrustDomain: in.GetTrustDomain()}}, nil
}

func jwtFromAPI(in *kryptonv1.JWTIssuer) (*fsmpb.Issuer_Jwt, error) {
	out := &fsmpb.JWTIssuer{
		Url: in.GetUrl(), Audiences: in.GetAudiences(), Keys: in.GetKeys(), SubjectClaim: in.GetSubjectClaim(),
		MaxLifeS: in.GetMaxLifeSeconds(),
	}
	if in.GetClockSkewSeconds() > fsm.MaxIssuerSkewMS/1000 {
		return nil, errs.Newf(errs.InvalidArgument, "issuer.jwt.clock_skew_seconds is more than %d", fsm.MaxIssuerSkewMS/1000).With(errs.Hint("set the clocks right"))
	}
	out.SkewMs = in.GetClockSkewSeconds() * 1000
	if len(in.GetCa()) > 0 {
		var err error
		if out.Ca, err = certsFromAPI(in.GetCa(), "issuer.jwt.ca", func(*x509.Certificate) error { return nil }); err != nil {
			return nil, err
		}
	}
	return &fsmpb.Issuer_Jwt{Jwt: out}, nil
}

func certsToAPI(ders [][]byte) (text []byte) {
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

func (s accessServer) issuerToAPI(v *fsm.View, i *fsmpb.Issuer) *kryptonv1.Issuer {
	out := &kryptonv1.Issuer{
		Name: identity.IssuerName(i), Uid: uidText(i.GetUid()), Etag: etag(i.GetModIndex()),
		Roles: rolesToAPI(i.GetRoles()), UnboundRoles: rolesToAPI(i.GetUnboundRoles()), AllTenants: i.GetAllTenants(), CreateTime: stamp(i.GetCreateTimeMs()),
		AuthorizedBy: signersOf(v, i.GetAuthorizedBy()),
	}
	for _, uid := range i.GetTenantUids() {
		if t, ok := v.TenantByUID(uid); ok {
			out.Tenants = append(out.Tenants, hierarchy.TenantPath(hierarchy.Name(t.GetName())).String())
		}
	}
	slices.Sort(out.GetTenants())
	switch k := i.GetKind().(type) {
	case *fsmpb.Issuer_X509:
		out.Kind = &kryptonv1.Issuer_X509{X509: &kryptonv1.X509Issuer{Certificates: certsToAPI(k.X509.GetCertificates()), TrustDomain: k.X509.GetTrustDomain()}}
	case *fsmpb.Issuer_Jwt:
		out.Kind = &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{
			Url: k.Jwt.GetUrl(), Audiences: k.Jwt.GetAudiences(), Ca: certsToAPI(k.Jwt.GetCa()), Keys: k.Jwt.GetKeys(),
			ClockSkewSeconds: k.Jwt.GetSkewMs() / 1000, SubjectClaim: k.Jwt.GetSubjectClaim(), MaxLifeSeconds: k.Jwt.GetMaxLifeS(),
		}}
	}
	return out
}

func (s accessServer) bindingFromAPI(in *kryptonv1.RoleBinding, tenant, id hierarchy.Name) (*fsmpb.RoleBinding, error) {
	if in == nil {
		return nil, errs.New(errs.InvalidArgument, "role_binding is missing", errs.Hint("give role, member, and keys or issuer and subject"))
	}
	name := hierarchy.RoleBindingPath(tenant, id).String()
	role, ok := roleFromAPI(in.GetRole())
	switch {
	case in.GetName() != "" && in.GetName() != name:
		return nil, errs.New(errs.InvalidArgument, "role_binding.name is that of another role binding", errs.Hint("leave it out, or give %s", name))
	case !ok:
		return nil, errs.New(errs.InvalidArgument, "role_binding.role is missing, or none that this node knows", errs.Hint("governor, custodian, operator, auditor or workload"))
	case (role == auth.RoleWorkload) != (tenant != ""):
		return nil, errs.New(errs.InvalidArgument, "a workload is bound under its tenant, a person under none", errs.Hint("give parent for the role workload and only for it"))
	case !auth.ValidName(in.GetMember()):
		return nil, errs.New(errs.InvalidArgument, "role_binding.member is missing, or no name that a caller can have",
			errs.Hint("1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"))
	case in.GetEveryTenant():
		return nil, errs.New(errs.InvalidArgument, "role_binding.every_tenant cannot be given", errs.Hint("have each tenant list the governor: krypton tenant governors set"))
	}
	out := &fsmpb.RoleBinding{
		Id: string(id), Tenant: string(tenant), Role: role.String(), Name: in.GetMember(), Subject: in.GetSubject(), Platform: in.GetPlatform(),
	}
	if t := in.GetExpireTime(); t != nil {
		if t.CheckValid() != nil || t.AsTime().UnixMilli() <= 0 {
			return nil, errs.New(errs.InvalidArgument, "role_binding.expire_time is no time", errs.Hint("RFC 3339, such as 2030-01-31T00:00:00Z"))
		}
		out.ExpireTimeMs = t.AsTime().UnixMilli()
	}
	v := s.machine.View()
	owner, issuer := "", identity.Builtin
	if in.GetIssuer() != "" {
		p, err := path(in.GetIssuer(), "role_binding.issuer", hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
		if err != nil {
			return nil, err
		}
		if p.Tenant != "" && p.Tenant != tenant {
			return nil, errs.New(errs.InvalidArgument, "role_binding.issuer is one of another tenant", errs.Hint("an issuer of a tenant vouches for workloads of that tenant only"))
		}
		owner, issuer = string(p.Tenant), string(p.ID)
	}
	i, ok := v.Issuer(owner, issuer)
	if !ok {
		return nil, errs.New(errs.FailedState, "role_binding.issuer does not exist", errs.Hint("krypton issuer list shows those that do"))
	}
	out.IssuerUid = i.GetUid()
	for _, k := range in.GetKeys() {
		key, err := keyFromAPI(k)
		if err != nil {
			return nil, err
		}
		out.Keys = append(out.Keys, key)
	}
	return out, nil
}

func (s accessServer) bindingToAPI(v *fsm.View, b *fsmpb.RoleBinding) *kryptonv1.RoleBinding {
	out := &kryptonv1.RoleBinding{
		Name: bindingName(b), Uid: uidText(b.GetUid()), Etag: etag(b.GetModIndex()), Subject: b.GetSubject(), Member: b.GetName(),
		Platform: b.GetPlatform(), EveryTenant: b.GetEveryTenant(), CreateTime: stamp(b.GetCreateTimeMs()),
		AuthorizedBy: signersOf(v, b.GetAuthorizedBy()),
	}
	if r, err := auth.ParseRole(b.GetRole()); err == nil {
		out.Role = apiRoles[r]
	}
	if ms := b.GetExpireTimeMs(); ms != 0 {
		out.ExpireTime = stamp(ms)
	}
	if i, ok := v.IssuerByUID(b.GetIssuerUid()); ok {
		out.Issuer = identity.IssuerName(i)
	}
	for _, k := range b.GetKeys() {
		out.Keys = append(out.Keys, &kryptonv1.AuthorityKey{PublicKey: spkiOf(k.GetKey()), Sign: k.GetSign(), Tls: k.GetTls()})
	}
	return out
}

func keyFromAPI(k *kryptonv1.AuthorityKey) (*fsmpb.BindingKey, error) {
	key, err := node.PublicKey(k.GetPublicKey())
	if err != nil {
		return nil, inField("role_binding.keys.public_key", err)
	}
	return &fsmpb.BindingKey{Key: key, Sign: k.GetSign(), Tls: k.GetTls()}, nil
}

// spkiOf returns a public key of the registry as SubjectPublicKeyInfo, DER; nil if it
// is none.
func spkiOf(k *fsmpb.PublicKey) []byte {
	var pub any
	switch k.GetAlgorithm() {
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519:
		pub = ed25519.PublicKey(k.GetRaw())
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256:
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), k.GetRaw())
		if err != nil {
			return nil
		}
		pub = key
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_UNSPECIFIED:
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil
	}
	return der
}
