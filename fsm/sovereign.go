package fsm

import (
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
)

// SovereignRequest returns the act that a command is and the canonical form of
// what it orders, or false if it is no sovereign act. People sign its digest,
// and every replica computes it again from the command that it is about to
// apply: a signed digest beside another command proves nothing. What a preparer
// or the leader adds (uids, wrapped material, time) is not in it, since nobody
// knows it when people sign.
//
//	bind-l1              tenant, keystore, key, archetype     a tenant that is made; empty but for the tenant: without a key
//	bind-l1              tenant, tenant uid, keystore, key, archetype, identity, regions, shared with
//	destroy              tenant, service, version, now        of a tenant, service or key version; version 0: all
//	resume-after-unlink  tenant, service
//	add-member           token, region, expire                a join token for a voter
//	add-member           node, key                            a member that becomes a voter
//	add-member           op, node, voters                     a voter that is removed or demoted, where too few are left
//	bind-role            op, tenant, tenant uid, id, issuer, role, name, subject, platform, expire, keys
//	bind-role            op, tenant, id, uid                  a role binding that is removed
//	bind-role            op, tenant, tenant uid, governors    of a tenant
//	set-authority-keys   as the first two of bind-role        of governors and custodians
//	set-issuer           op, tenant, tenant uid, id, and everything that the issuer says
//	set-issuer           op, tenant, id                       an issuer that is removed
//	set-quorum           governors, custodians
//	set-policy           op, tenant, tenant uid, id, text     a policy, whole
//	set-policy           op, tenant, id                       a policy that is removed
//	reshare, migrate     kind, base, groups with their holders, keys, risks
//	rekey                the same
//	rekey                kind, ca, base, overlap              a CA of the cluster that is replaced
//	rekey                kind, ca, base                       trust in those before it that ends
//	rekey                kind, ceremony, manifest, authorities   what replaces an exposed MasterKey is confirmed
//	restore              op, node, key, incarnation, index, chain, lost
//
// Every field that gives power is in it. So a tenant that is made names its
// governors here, if its command does.
func SovereignRequest(cmd *fsmpb.Command) (intent.Act, *intent.Request, bool) {
	var r *intent.Request
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		c := b.CreateTenant
		r = intent.BindL1{
			Tenant: c.GetName(), Keystore: c.GetBinding().GetKeystore(), Key: c.GetBinding().GetKey(), Archetype: c.GetBinding().GetArchetype(), Governors: c.GetGovernors(),
		}.Request()
	case *fsmpb.Command_BindTenant:
		c := b.BindTenant
		r = bindTenantRequest(c.GetTenant(), c.GetTenantUid(), c.GetBinding())
	case *fsmpb.Command_ChangeObject:
		c := b.ChangeObject
		o := c.GetObject()
		switch {
		case c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY:
			r = intent.Destroy{Tenant: o.GetTenant(), Service: o.GetService(), Now: c.GetNow()}.Request()
		case c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_RESUME && c.GetCause() == causeUnlink:
			r = intent.ResumeAfterUnlink{Tenant: o.GetTenant(), Service: o.GetService()}.Request()
		}
	case *fsmpb.Command_ChangeVersion:
		c := b.ChangeVersion
		if c.GetEvent() == fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY {
			r = intent.Destroy{Tenant: c.GetObject().GetTenant(), Service: c.GetObject().GetService(), Version: c.GetNumber(), Now: c.GetNow()}.Request()
		}
	case *fsmpb.Command_CreateJoinToken:
		if c := b.CreateJoinToken.GetToken(); c.GetVoter() {
			r = intent.VoterToken{Hash: c.GetHash(), Region: c.GetRegion(), ExpireTimeMs: c.GetExpireTimeMs()}.Request()
		}
	case *fsmpb.Command_PutIssuer:
		r = issuerRequest(b.PutIssuer.GetIssuer())
	case *fsmpb.Command_RemoveIssuer:
		r = intent.RemoveIssuer{Tenant: b.RemoveIssuer.GetTenant(), ID: b.RemoveIssuer.GetId()}.Request()
	case *fsmpb.Command_PutPolicy:
		p := b.PutPolicy.GetPolicy()
		r = intent.PutPolicy{Tenant: p.GetTenant(), TenantUID: p.GetTenantUid(), ID: p.GetId(), Text: p.GetText()}.Request()
	case *fsmpb.Command_RemovePolicy:
		r = intent.RemovePolicy{Tenant: b.RemovePolicy.GetTenant(), ID: b.RemovePolicy.GetId()}.Request()
	case *fsmpb.Command_BindRole:
		r = bindRequest(b.BindRole.GetBinding())
	case *fsmpb.Command_SetTenantGovernors:
		c := b.SetTenantGovernors
		r = intent.SetTenantGovernors{Tenant: c.GetTenant(), TenantUID: c.GetTenantUid(), Governors: c.GetGovernors()}.Request()
	case *fsmpb.Command_BeginCeremony:
		c := b.BeginCeremony
		if kindNames[c.GetKind()] != "" {
			r = CeremonyRequest(c.GetKind(), c.GetBaseManifest(), c.GetPlan())
		}
	case *fsmpb.Command_ConfirmSeal:
		r = confirmRequest(b.ConfirmSeal)
	case *fsmpb.Command_Recover:
		r = RecoveryRequest(b.Recover)
	case *fsmpb.Command_ReplaceAuthority:
		r = replaceRequest(b.ReplaceAuthority)
	case *fsmpb.Command_RetireAuthority:
		r = retireRequest(b.RetireAuthority)
	case *fsmpb.Command_SetQuorum:
		r = intent.SetQuorum{Governors: b.SetQuorum.GetGovernors(), Custodians: b.SetQuorum.GetCustodians()}.Request()
	}
	if r == nil {
		return intent.ActUnspecified, nil, false
	}
	return r.Act(), r, true
}

func bindTenantRequest(tenant string, uid []byte, b *fsmpb.Binding) *intent.Request {
	to := intent.BindTenant{
		Tenant: tenant, TenantUID: uid, Keystore: b.GetKeystore(), Key: b.GetKey(), Archetype: b.GetArchetype(), Regions: b.GetRegions(), SharedWith: b.GetSharedWith(),
	}
	for _, n := range b.GetIdentity() {
		to.Identity = append(to.Identity, n.GetName()+"="+n.GetValue())
	}
	return to.Request()
}

func bindRequest(b *fsmpb.RoleBinding) *intent.Request {
	to := intent.BindRole{
		Tenant: b.GetTenant(), TenantUID: b.GetTenantUid(), ID: b.GetId(), IssuerUID: b.GetIssuerUid(), Role: b.GetRole(), Name: b.GetName(), Subject: b.GetSubject(),
		Platform: b.GetPlatform(), ExpireTimeMs: b.GetExpireTimeMs(), Keys: make([]intent.BoundKey, len(b.GetKeys())),
	}
	for i, k := range b.GetKeys() {
		to.Keys[i] = intent.BoundKey{
			Algorithm: uint64(max(k.GetKey().GetAlgorithm(), 0)), PublicKey: k.GetKey().GetRaw(), Sign: k.GetSign(), TLS: k.GetTls(),
		}
	}
	return to.Request()
}

func issuerRequest(i *fsmpb.Issuer) *intent.Request {
	put := intent.PutIssuer{
		Tenant: i.GetTenant(), TenantUID: i.GetTenantUid(), ID: i.GetId(),
		Roles: i.GetRoles(), TenantUIDs: i.GetTenantUids(), AllTenants: i.GetAllTenants(), UnboundRoles: i.GetUnboundRoles(),
	}
	switch k := i.GetKind().(type) {
	case *fsmpb.Issuer_X509:
		put.X509 = &intent.X509Issuer{Certificates: k.X509.GetCertificates(), TrustDomain: k.X509.GetTrustDomain()}
	case *fsmpb.Issuer_Jwt:
		j := k.Jwt
		put.JWT = &intent.JWTIssuer{
			URL: j.GetUrl(), Audiences: j.GetAudiences(), CA: j.GetCa(), JWKS: j.GetKeys(),
			SkewMs: j.GetSkewMs(), MaxLifeS: j.GetMaxLifeS(), SubjectClaim: j.GetSubjectClaim(),
		}
	}
	return put.Request()
}

// UnbindRequest is the canonical form of removing a role binding; see
// [SovereignRequest]. It needs the binding, because a command names it only by its
// id, and people must know whose power they take. Of governors and custodians the
// act is set-authority-keys, of others bind-role.
func UnbindRequest(b *fsmpb.RoleBinding) *intent.Request {
	return intent.UnbindRole{Tenant: b.GetTenant(), ID: b.GetId(), UID: b.GetUid(), Role: b.GetRole()}.Request()
}

// PromotionRequest is the canonical form of making a member a voter; see
// [SovereignRequest]. It needs the member, because a command names it only by
// its id, and people must know whose key they admit.
func PromotionRequest(m *fsmpb.Member) *intent.Request {
	return intent.VoterPromotion{Node: m.GetId(), PublicKey: m.GetPublicKey()}.Request()
}
