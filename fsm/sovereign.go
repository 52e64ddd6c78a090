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
//	bind-l1              tenant, keystore, key, archetype
//	destroy              tenant, service, version, now        of a tenant, service or key version; version 0: all
//	resume-after-unlink  tenant, service
//	add-member           token, region, expire                a join token for a voter
//	add-member           node, key                            a member that becomes a voter
//	bind-role            op, tenant, tenant uid, id, issuer, role, name, subject, platform, expire, keys
//	bind-role            op, tenant, id, uid                  a role binding that is removed
//	bind-role            op, tenant, tenant uid, governors    of a tenant
//	set-authority-keys   as the first two of bind-role        of governors and custodians
//	set-issuer           op, tenant, tenant uid, id, and everything that the issuer says
//	set-issuer           op, tenant, id                       an issuer that is removed
//
// Every field that gives power is in it. So a tenant that is made names its
// governors here, if its command does.
func SovereignRequest(cmd *fsmpb.Command) (intent.Act, *intent.Request, bool) {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		c := b.CreateTenant
		r := intent.NewRequest(intent.ActBindL1).
			Text("tenant", c.GetName()).
			Text("keystore", c.GetBinding().GetKeystore()).
			Text("key", c.GetBinding().GetKey()).
			Text("archetype", c.GetBinding().GetArchetype())
		if len(c.GetGovernors()) != 0 {
			listed(r, "governors", c.GetGovernors())
		}
		return intent.ActBindL1, r, true
	case *fsmpb.Command_ChangeObject:
		c := b.ChangeObject
		switch {
		case c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY:
			return intent.ActDestroy, destroyRequest(c.GetObject(), 0, c.GetNow()), true
		case c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_RESUME && c.GetCause() == causeUnlink:
			return intent.ActResumeAfterUnlink, intent.NewRequest(intent.ActResumeAfterUnlink).
				Text("tenant", c.GetObject().GetTenant()).
				Text("service", c.GetObject().GetService()), true
		}
	case *fsmpb.Command_ChangeVersion:
		c := b.ChangeVersion
		if c.GetEvent() == fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY {
			return intent.ActDestroy, destroyRequest(c.GetObject(), c.GetNumber(), c.GetNow()), true
		}
	case *fsmpb.Command_CreateJoinToken:
		c := b.CreateJoinToken.GetToken()
		if c.GetVoter() {
			return intent.ActAddMember, intent.NewRequest(intent.ActAddMember).
				Bytes("token", c.GetHash()).
				Text("region", c.GetRegion()).
				Uint("expire", uint64(max(c.GetExpireTimeMs(), 0))), true
		}
	case *fsmpb.Command_PutIssuer:
		return intent.ActSetIssuer, issuerRequest(b.PutIssuer.GetIssuer()), true
	case *fsmpb.Command_RemoveIssuer:
		return intent.ActSetIssuer, intent.NewRequest(intent.ActSetIssuer).
			Text("op", "remove").Text("tenant", b.RemoveIssuer.GetTenant()).Text("id", b.RemoveIssuer.GetId()), true
	case *fsmpb.Command_BindRole:
		in := b.BindRole.GetBinding()
		return actOfBinding(in), bindRequest(in), true
	case *fsmpb.Command_SetTenantGovernors:
		c := b.SetTenantGovernors
		return intent.ActBindRole, listed(intent.NewRequest(intent.ActBindRole).
			Text("op", "governors").Text("tenant", c.GetTenant()).Bytes("tenant_uid", c.GetTenantUid()), "governors", c.GetGovernors()), true
	}
	return intent.ActUnspecified, nil, false
}

func destroyRequest(o *fsmpb.ObjectRef, version uint32, now bool) *intent.Request {
	r := intent.NewRequest(intent.ActDestroy).
		Text("tenant", o.GetTenant()).
		Text("service", o.GetService()).
		Uint("version", uint64(version))
	if now {
		return r.Uint("now", 1)
	}
	return r.Uint("now", 0)
}

func listed(r *intent.Request, name string, all [][]byte) *intent.Request {
	r.List(name, len(all))
	for _, b := range all {
		r.Bytes(name, b)
	}
	return r
}

func texts(r *intent.Request, name string, all []string) *intent.Request {
	r.List(name, len(all))
	for _, s := range all {
		r.Text(name, s)
	}
	return r
}

func flag(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}

func bindRequest(b *fsmpb.RoleBinding) *intent.Request {
	r := intent.NewRequest(actOfBinding(b)).
		Text("op", "bind").
		Text("tenant", b.GetTenant()).
		Bytes("tenant_uid", b.GetTenantUid()).
		Text("id", b.GetId()).
		Bytes("issuer", b.GetIssuerUid()).
		Text("role", b.GetRole()).
		Text("name", b.GetName()).
		Text("subject", b.GetSubject()).
		Uint("platform", flag(b.GetPlatform())).
		Uint("expire", uint64(max(b.GetExpireTimeMs(), 0))).
		List("keys", len(b.GetKeys()))
	for _, k := range b.GetKeys() {
		r.Uint("algorithm", uint64(max(k.GetKey().GetAlgorithm(), 0))).
			Bytes("key", k.GetKey().GetRaw()).
			Uint("sign", flag(k.GetSign())).
			Uint("tls", flag(k.GetTls()))
	}
	return r
}

// UnbindRequest is the canonical form of removing a role binding; see
// [SovereignRequest]. It needs the binding, because a command names it only by its
// id, and people must know whose power they take. Of governors and custodians the
// act is set-authority-keys, of others bind-role.
func UnbindRequest(b *fsmpb.RoleBinding) *intent.Request {
	return intent.NewRequest(actOfBinding(b)).
		Text("op", "unbind").Text("tenant", b.GetTenant()).Text("id", b.GetId()).Bytes("uid", b.GetUid())
}

func issuerRequest(i *fsmpb.Issuer) *intent.Request {
	r := intent.NewRequest(intent.ActSetIssuer).
		Text("op", "put").
		Text("tenant", i.GetTenant()).
		Bytes("tenant_uid", i.GetTenantUid()).
		Text("id", i.GetId())
	switch k := i.GetKind().(type) {
	case *fsmpb.Issuer_X509:
		listed(r.Text("kind", "x509"), "certificates", k.X509.GetCertificates()).
			Text("trust_domain", k.X509.GetTrustDomain())
	case *fsmpb.Issuer_Jwt:
		j := k.Jwt
		listed(texts(r.Text("kind", "jwt").Text("url", j.GetUrl()), "audiences", j.GetAudiences()), "ca", j.GetCa()).
			Bytes("keys", j.GetKeys()).
			Uint("skew", uint64(j.GetSkewMs())).
			Uint("max_life", uint64(j.GetMaxLifeS())).
			Text("subject_claim", j.GetSubjectClaim())
	}
	listed(texts(r, "roles", i.GetRoles()), "tenants", i.GetTenantUids()).Uint("all_tenants", flag(i.GetAllTenants()))
	return texts(r, "unbound_roles", i.GetUnboundRoles())
}

// PromotionRequest is the canonical form of making a member a voter; see
// [SovereignRequest]. It needs the member, because a command names it only by
// its id, and people must know whose key they admit.
func PromotionRequest(m *fsmpb.Member) *intent.Request {
	return intent.NewRequest(intent.ActAddMember).Text("node", m.GetId()).Bytes("key", m.GetPublicKey())
}
