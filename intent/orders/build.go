package orders

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// builder makes the canonical request, and adds the rest to the order. It returns
// nil if the request orders nothing that people sign.
type builder func(context.Context, *nodes, *Order) (*intent.Request, error)

// builderOf returns the builder for a request, nil for one that is never sovereign.
func builderOf(req proto.Message) builder {
	switch r := req.(type) {
	case *kryptonv1.CreateTenantRequest:
		return createTenant(r)
	case *kryptonv1.BindTenantRequest:
		return bindTenant(r)
	case *kryptonv1.DeleteTenantRequest:
		return destroy(r.GetName(), r.GetNow(), hierarchy.KindTenant)
	case *kryptonv1.DeleteServiceRequest:
		return destroy(r.GetName(), r.GetNow(), hierarchy.KindService)
	case *kryptonv1.DestroyVersionRequest:
		return destroy(r.GetName(), r.GetNow(), hierarchy.KindTenantVersion, hierarchy.KindServiceVersion)
	case *kryptonv1.CreateJoinTokenRequest:
		return joinToken(r)
	case *kryptonv1.PromoteNodeRequest:
		return promote(r)
	case *kryptonv1.DemoteNodeRequest:
		return withdraw("demote", r.GetName())
	case *kryptonv1.RemoveNodeRequest:
		return withdraw("remove", r.GetName())
	case *kryptonv1.CreateIssuerRequest:
		return putIssuer(join(r.GetParent(), "issuers/"+r.GetIssuerId()), r.GetIssuer())
	case *kryptonv1.UpdateIssuerRequest:
		return putIssuer(r.GetName(), r.GetIssuer())
	case *kryptonv1.DeleteIssuerRequest:
		return removeIssuer(r.GetName())
	case *kryptonv1.CreateRoleBindingRequest:
		return bind(join(r.GetParent(), "roleBindings/"+r.GetRoleBindingId()), r.GetRoleBinding())
	case *kryptonv1.DeleteRoleBindingRequest:
		return unbind(r.GetName())
	case *kryptonv1.IssueCertificateRequest:
		return issue(r)
	case *kryptonv1.SetGovernorsRequest:
		return setGovernors(r)
	case *kryptonv1.SetQuorumRequest:
		return setQuorum(r)
	case *kryptonv1.StartCeremonyRequest:
		return startCeremony(r)
	case *kryptonv1.ReplaceAuthorityRequest:
		return replaceAuthority(r)
	case *kryptonv1.RetireAuthorityRequest:
		return retireAuthority(r)
	case *kryptonv1.ConfirmCeremonyRequest:
		return confirmCeremony(r)
	case *kryptonv1.PutPolicyRequest:
		return putPolicy(r)
	case *kryptonv1.DeletePolicyRequest:
		return removePolicy(r.GetName())
	}
	return nil
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "/" + name
}

// pathOf reads the name of an object of one of the kinds.
func pathOf(name string, kinds ...hierarchy.Kind) (hierarchy.Path, error) {
	p, err := hierarchy.ParsePath(name)
	if err != nil || !slices.Contains(kinds, p.Kind) {
		return p, errs.New(errs.InvalidArgument, "the request does not name its object", errs.Hint("give the whole name, such as %s", kinds[0]), errs.Cause(err))
	}
	return p, nil
}

func createTenant(r *kryptonv1.CreateTenantRequest) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf("tenants/"+r.GetTenantId(), hierarchy.KindTenant)
		if err != nil {
			return nil, err
		}
		if r.GetBinding() != nil && r.GetBinding().GetArchetype() == "" {
			return nil, errs.New(errs.InvalidArgument, "nothing says how the customer holds the key, which people sign",
				errs.Hint("give the archetype of the binding: local for a keystore of the nodes themselves, hyok for any other"))
		}
		if len(r.GetGovernors()) == 0 { // whoever sends the request would be it
			return nil, errs.New(errs.InvalidArgument, "nothing says who governs the tenant, which people sign", errs.Hint("name role bindings of governors"))
		}
		governors, err := n.governors(ctx, o, r.GetGovernors())
		if err != nil {
			return nil, err
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		b := r.GetBinding()
		return intent.BindL1{
			Tenant: r.GetTenantId(), Keystore: b.GetKeystore(), Key: b.GetKey(), Archetype: b.GetArchetype(), Governors: governors,
		}.Request(), nil
	}
}

func bindTenant(r *kryptonv1.BindTenantRequest) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(r.GetName(), hierarchy.KindTenant)
		if err != nil {
			return nil, err
		}
		b := r.GetBinding()
		if b.GetArchetype() == "" {
			return nil, errs.New(errs.InvalidArgument, "nothing says how the customer holds the key, which people sign",
				errs.Hint("give the archetype of the binding: local for a keystore of the nodes themselves, hyok for any other"))
		}
		uid, err := n.tenantUID(ctx, p.Tenant)
		if err != nil {
			return nil, err
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		to := intent.BindTenant{
			Tenant: string(p.Tenant), TenantUID: uid, Keystore: b.GetKeystore(), Key: b.GetKey(), Archetype: b.GetArchetype(),
			Regions: slices.Compact(slices.Sorted(slices.Values(b.GetRegions()))),
		}
		for _, one := range slices.SortedFunc(slices.Values(b.GetIdentity()), func(x, y *kryptonv1.IdentityName) int { return strings.Compare(x.GetName(), y.GetName()) }) {
			to.Identity = append(to.Identity, one.GetName()+"="+one.GetValue())
		}
		for _, name := range b.GetSharedWith() {
			other, err := pathOf(name, hierarchy.KindTenant)
			if err != nil {
				return nil, err
			}
			to.SharedWith = append(to.SharedWith, string(other.Tenant))
		}
		to.SharedWith = slices.Compact(slices.Sorted(slices.Values(to.SharedWith)))
		return to.Request(), nil
	}
}

// destroy is for objects of the kinds that the request is for. A request that names
// something else destroys nothing, and its signature would: the whole tenant, say, of
// which a version was meant.
func destroy(name string, now bool, kinds ...hierarchy.Kind) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(name, kinds...)
		if err != nil {
			return nil, err
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		return intent.Destroy{
			Tenant: string(p.Tenant), Service: string(p.Service), Version: uint32(min(p.Version, math.MaxUint32)), Now: now,
		}.Request(), nil
	}
}

func joinToken(r *kryptonv1.CreateJoinTokenRequest) builder {
	return func(context.Context, *nodes, *Order) (*intent.Request, error) {
		if !r.GetVoter() {
			return nil, nil //nolint:nilnil // Nobody signs for a node without a vote.
		}
		if len(r.GetKeyHash()) == 0 || r.GetExpireTime() == nil {
			return nil, errs.New(errs.InvalidArgument, "people sign the key of a voter's token and when it ends, and the request has none",
				errs.Hint("make the key yourself: set key_hash and expire_time"))
		}
		return intent.VoterToken{Hash: r.GetKeyHash(), Region: r.GetRegion(), ExpireTimeMs: r.GetExpireTime().AsTime().UnixMilli()}.Request(), nil
	}
}

func promote(r *kryptonv1.PromoteNodeRequest) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		id, ok := strings.CutPrefix(r.GetName(), "nodes/")
		if !ok || id == "" {
			return nil, errs.New(errs.InvalidArgument, "the request does not name its object", errs.Hint("give the whole name, such as nodes/{id}"))
		}
		key, err := n.memberKey(ctx, o, r.GetName(), id)
		if err != nil {
			return nil, err
		}
		return intent.VoterPromotion{Node: id, PublicKey: key}.Request(), nil
	}
}

// withdraw is for a voter without which too few are left; nobody signs for others.
// What a node says wrongly of the numbers makes a request that the cluster refuses.
func withdraw(op, name string) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		id, ok := strings.CutPrefix(name, "nodes/")
		if !ok || id == "" {
			return nil, errs.New(errs.InvalidArgument, "the request does not name its object", errs.Hint("give the whole name, such as nodes/{id}"))
		}
		c, err := n.c.Cluster().GetCluster(ctx, &kryptonv1.GetClusterRequest{})
		if err != nil {
			return nil, err
		}
		m, err := n.c.Cluster().GetNode(ctx, &kryptonv1.GetNodeRequest{Name: name})
		if err != nil {
			return nil, err
		}
		left, fewest := uint64(c.GetVoters())-1, (uint64(c.GetVotersAgreed())+1)/2
		if c.GetVotersAgreed() == 2 {
			fewest = 2
		}
		if !m.GetVotes() || c.GetVoters() < 2 || left >= fewest {
			return nil, nil //nolint:nilnil // A majority is left, or the cluster refuses to be without a voter.
		}
		o.Names = append(o.Names, Name{UID: id, Name: "node " + shown(m.GetDisplayName()) + " at " + shown(m.GetGrpcAddress())})
		return intent.VoterWithdrawal{Op: op, Node: id, Voters: left}.Request(), nil
	}
}

func putIssuer(name string, i *kryptonv1.Issuer) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(name, hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
		if err != nil {
			return nil, err
		}
		put := intent.PutIssuer{
			Tenant: string(p.Tenant), ID: string(p.ID), AllTenants: i.GetAllTenants(), Roles: rolesOf(i.GetRoles()), UnboundRoles: rolesOf(i.GetUnboundRoles()),
		}
		if put.TenantUID, err = n.tenantUID(ctx, p.Tenant); err != nil {
			return nil, err
		}
		for _, t := range i.GetTenants() {
			tp, err := pathOf(t, hierarchy.KindTenant)
			if err != nil {
				return nil, err
			}
			if p.Tenant != "" { // of its own tenant, which is said already
				continue
			}
			uid, err := n.agreed(ctx, o, tp.String(), tenantUIDAt)
			if err != nil {
				return nil, err
			}
			put.TenantUIDs = append(put.TenantUIDs, uid)
		}
		put.TenantUIDs = sorted(put.TenantUIDs)
		switch k := i.GetKind().(type) {
		case *kryptonv1.Issuer_X509:
			put.X509 = &intent.X509Issuer{Certificates: certificates(k.X509.GetCertificates()), TrustDomain: k.X509.GetTrustDomain()}
		case *kryptonv1.Issuer_Jwt:
			j := k.Jwt
			put.JWT = &intent.JWTIssuer{
				URL: j.GetUrl(), Audiences: j.GetAudiences(), CA: certificates(j.GetCa()), JWKS: j.GetKeys(),
				SkewMs: min(j.GetClockSkewSeconds(), math.MaxUint32/1000) * 1000, MaxLifeS: j.GetMaxLifeSeconds(), SubjectClaim: j.GetSubjectClaim(),
			}
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		return put.Request(), nil
	}
}

func removeIssuer(name string) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(name, hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
		if err != nil {
			return nil, err
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		return intent.RemoveIssuer{Tenant: string(p.Tenant), ID: string(p.ID)}.Request(), nil
	}
}

func bind(name string, b *kryptonv1.RoleBinding) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(name, hierarchy.KindRoleBinding, hierarchy.KindTenantRoleBinding)
		if err != nil {
			return nil, err
		}
		out := intent.BindRole{
			Tenant: string(p.Tenant), ID: string(p.ID), Role: roleName(b.GetRole()), Name: b.GetMember(), Subject: b.GetSubject(), Platform: b.GetPlatform(),
		}
		if t := b.GetExpireTime(); t != nil {
			out.ExpireTimeMs = t.AsTime().UnixMilli()
		}
		for _, k := range b.GetKeys() {
			key, err := boundKey(k)
			if err != nil {
				return nil, err
			}
			out.Keys = append(out.Keys, key)
		}
		if out.TenantUID, err = n.tenantUID(ctx, p.Tenant); err != nil {
			return nil, err
		}
		issuer := b.GetIssuer()
		if issuer == "" {
			issuer = "issuers/" + identity.Builtin
		}
		if out.IssuerUID, err = n.agreed(ctx, o, issuer, issuerUIDAt); err != nil {
			return nil, err
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		return out.Request(), nil
	}
}

// issue is the role binding that comes with a certificate, if there is none yet.
func issue(r *kryptonv1.IssueCertificateRequest) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		role, err := auth.ParseRole(roleName(r.GetRole()))
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "there is no such role", errs.Cause(err))
		}
		id := auth.ID{Role: role, Name: r.GetName()}
		if r.GetTenant() != "" {
			p, err := pathOf(r.GetTenant(), hierarchy.KindTenant)
			if err != nil {
				return nil, err
			}
			id.Tenant = p.Tenant
		}
		name := join(r.GetTenant(), "roleBindings/"+identity.BindingID(id))
		if bound, err := n.bound(ctx, name, r); err != nil || bound {
			return nil, err
		}
		return bind(name, bindingFor(r).GetRoleBinding())(ctx, n, o)
	}
}

// bindingFor returns the request for the role binding that comes with a certificate.
func bindingFor(r *kryptonv1.IssueCertificateRequest) *kryptonv1.CreateRoleBindingRequest {
	id := auth.ID{Name: r.GetName()}
	id.Role, _ = auth.ParseRole(roleName(r.GetRole()))
	if p, err := hierarchy.ParsePath(r.GetTenant()); err == nil {
		id.Tenant = p.Tenant
	}
	power := id.Role == auth.RoleGovernor || id.Role == auth.RoleCustodian
	return &kryptonv1.CreateRoleBindingRequest{Parent: r.GetTenant(), RoleBindingId: identity.BindingID(id), RoleBinding: &kryptonv1.RoleBinding{
		Role: r.GetRole(), Member: r.GetName(), Keys: []*kryptonv1.AuthorityKey{{PublicKey: r.GetPublicKey(), Tls: true, Sign: power}},
	}}
}

func unbind(name string) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(name, hierarchy.KindRoleBinding, hierarchy.KindTenantRoleBinding)
		if err != nil {
			return nil, err
		}
		b, err := n.c.Access().GetRoleBinding(ctx, &kryptonv1.GetRoleBindingRequest{Name: name})
		if err != nil {
			return nil, err
		}
		uid, err := uidOf(b.GetUid())
		if err != nil {
			return nil, err
		}
		if err := o.unchanged(p, b.GetEtag()); err != nil {
			return nil, err
		}
		o.Names = append(o.Names, Name{UID: b.GetUid(), Name: boundTo(name, b)})
		return intent.UnbindRole{Tenant: string(p.Tenant), ID: string(p.ID), UID: uid, Role: roleName(b.GetRole())}.Request(), nil
	}
}

func setGovernors(r *kryptonv1.SetGovernorsRequest) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(r.GetName(), hierarchy.KindTenant)
		if err != nil {
			return nil, err
		}
		uid, err := n.tenantUID(ctx, p.Tenant)
		if err != nil {
			return nil, err
		}
		governors, err := n.governors(ctx, o, r.GetGovernors())
		if err != nil {
			return nil, err
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		return intent.SetTenantGovernors{Tenant: string(p.Tenant), TenantUID: uid, Governors: governors}.Request(), nil
	}
}

// setQuorum needs what is needed now and what will be, and depends on the cluster as
// it is, so that nobody signs a step from numbers that they did not see.
func setQuorum(r *kryptonv1.SetQuorumRequest) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		info, err := n.c.Cluster().GetCluster(ctx, &kryptonv1.GetClusterRequest{})
		if err != nil {
			return nil, err
		}
		p, err := pathOf("cluster", hierarchy.KindCluster)
		if err != nil {
			return nil, err
		}
		if err := o.unchanged(p, info.GetEtag()); err != nil {
			return nil, err
		}
		o.Rule = &kryptonv1.IntentRule{Act: intent.ActSetQuorum.String(), Governors: r.GetGovernors(), Custodians: r.GetCustodians()}
		for _, now := range info.GetRules() {
			if now.GetAct() == o.Rule.GetAct() {
				o.Rule.Governors, o.Rule.Custodians = max(o.Rule.GetGovernors(), now.GetGovernors()), max(o.Rule.GetCustodians(), now.GetCustodians())
			}
		}
		o.Rule.RequesterCounts = o.Rule.GetGovernors() <= 1 && o.Rule.GetCustodians() <= 1
		return intent.SetQuorum{Governors: r.GetGovernors(), Custodians: r.GetCustodians()}.Request(), nil
	}
}

// startCeremony says all that is in the plan, as it was typed. Nothing of it is asked of
// a node: who starts it says which seal it replaces.
func startCeremony(r *kryptonv1.StartCeremonyRequest) builder {
	kind := map[kryptonv1.CeremonyKind]string{
		kryptonv1.CeremonyKind_CEREMONY_KIND_RESHARE: intent.CeremonyReshare, kryptonv1.CeremonyKind_CEREMONY_KIND_MIGRATE: intent.CeremonyMigrate,
		kryptonv1.CeremonyKind_CEREMONY_KIND_REKEY: intent.CeremonyRekey, kryptonv1.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED: intent.CeremonyRekeyCompromised,
	}[r.GetKind()]
	return func(context.Context, *nodes, *Order) (*intent.Request, error) {
		if kind == "" {
			return nil, nil //nolint:nilnil // The cluster refuses it.
		}
		c := intent.Ceremony{Kind: kind, Base: r.GetBaseManifest(), Risks: r.GetAcceptRisks()}
		for _, k := range r.GetPlan().GetKeys() {
			c.Keys = append(c.Keys, intent.SealKey{Provider: k.GetKeystore(), Key: k.GetKey()})
		}
		for _, g := range r.GetPlan().GetGroups() {
			to := intent.SealGroup{Name: g.GetName(), Threshold: uint64(g.GetThreshold())}
			for _, h := range g.GetHolders() {
				to.Holders = append(to.Holders, intent.SealHolder{
					Name: h.GetName(), Recipient: h.GetRecipient(), Key: intent.SealKey{Provider: h.GetKeystore(), Key: h.GetKey()},
					ProviderType: h.GetDomain().GetProviderType(), Account: h.GetDomain().GetAccount(), Region: h.GetDomain().GetRegion(),
				})
			}
			c.Groups = append(c.Groups, to)
		}
		return c.Request(), nil
	}
}

// replaceAuthority names the CA that is replaced by its certificate, as it was typed.
func replaceAuthority(r *kryptonv1.ReplaceAuthorityRequest) builder {
	return func(context.Context, *nodes, *Order) (*intent.Request, error) {
		name, base, err := authority(r.GetName(), r.GetBaseSha256())
		if err != nil {
			return nil, err
		}
		overlap := uint64(r.GetOverlapSeconds()) * 1000
		if overlap == 0 && !r.GetNoOverlap() {
			overlap = intent.DefaultOverlapMs
		}
		return intent.ReplaceAuthority{Name: name, Base: base, OverlapMs: overlap}.Request(), nil
	}
}

func retireAuthority(r *kryptonv1.RetireAuthorityRequest) builder {
	return func(context.Context, *nodes, *Order) (*intent.Request, error) {
		name, base, err := authority(r.GetName(), r.GetBaseSha256())
		if err != nil {
			return nil, err
		}
		return intent.RetireAuthority{Name: name, Base: base}.Request(), nil
	}
}

// authority reads how a request names a CA.
func authority(name, sum string) (ca string, base []byte, err error) {
	ca, ok := strings.CutPrefix(name, "authorities/")
	base, err = hex.DecodeString(sum)
	if !ok || ca == "" || err != nil || len(base) != len(intent.Digest{}) {
		return "", nil, errs.New(errs.InvalidArgument, "the request does not name a CA and the SHA-256 of its certificate", errs.Hint("krypton operator ca show shows both"))
	}
	return ca, base, nil
}

// confirmCeremony says which MasterKey and which CAs are meant, by digests that who signs
// made of what he saw.
func confirmCeremony(r *kryptonv1.ConfirmCeremonyRequest) builder {
	return func(context.Context, *nodes, *Order) (*intent.Request, error) {
		text, ok := strings.CutPrefix(r.GetName(), "ceremonies/")
		id, err := hex.DecodeString(text)
		if !ok || err != nil {
			return nil, errs.New(errs.InvalidArgument, "the request does not name a ceremony", errs.Hint("ceremonies/ and 32 hex digits"))
		}
		return intent.ConfirmSeal{Ceremony: id, Manifest: r.GetManifest(), Authorities: r.GetAuthorities()}.Request(), nil
	}
}

// unchanged makes the order depend on the object as its etag says it.
func (o *Order) unchanged(p hierarchy.Path, etag string) error {
	at, err := modIndex(etag)
	if err != nil {
		return err
	}
	o.Preconditions = append(o.Preconditions, intent.Precondition{Object: p.String(), ModIndex: at})
	return nil
}

func roleName(r kryptonv1.Role) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_"))
}

func rolesOf(rs []kryptonv1.Role) []string {
	rs = slices.Sorted(slices.Values(rs)) // as the registry keeps them
	out := make([]string, len(rs))
	for i, r := range rs {
		out[i] = roleName(r)
	}
	return out
}

func sorted(uids [][]byte) [][]byte {
	slices.SortFunc(uids, bytes.Compare)
	return slices.CompactFunc(uids, bytes.Equal)
}

// certificates returns the certificates in text, PEM, in DER. Whether they are
// any is for the node to say.
func certificates(text []byte) (ders [][]byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		ders = append(ders, block.Bytes)
	}
	return ders
}

func boundKey(k *kryptonv1.AuthorityKey) (intent.BoundKey, error) {
	pub, err := x509.ParsePKIXPublicKey(k.GetPublicKey())
	if err != nil {
		return intent.BoundKey{}, errs.New(errs.InvalidArgument, "a public key cannot be read", errs.Hint("SubjectPublicKeyInfo, DER, of an Ed25519 or ECDSA P-256 key"), errs.Cause(err))
	}
	key, err := sign.PublicKey(pub)
	if err != nil {
		return intent.BoundKey{}, errs.New(errs.InvalidArgument, "a public key cannot be used: "+err.Error(), errs.Cause(err))
	}
	return intent.BoundKey{Algorithm: uint64(key.Alg()), PublicKey: key.Raw(), Sign: k.GetSign(), TLS: k.GetTls()}, nil
}

func uidOf(text string) ([]byte, error) {
	uid, err := hex.DecodeString(text)
	if err != nil || len(uid) != hierarchy.UIDSize {
		return nil, errs.New(errs.Internal, "a node says a uid that is none", errs.Hint("ask another node"), errs.Cause(err))
	}
	return uid, nil
}
