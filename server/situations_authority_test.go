package server_test

import (
	"bytes"
	"encoding/pem"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

// TestWrongAuthorities goes through what can be wrong with issuers, role bindings and
// governors of tenants.
func TestWrongAuthorities(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for _, c := range wrongAuthorities(g) {
		c.who = "governor"
		g.refuse(t, c)
	}
	g.noTrace(t)
}

//nolint:maintidx // A list, one line for each.
func wrongAuthorities(g *ground) []wrong {
	ca := newAuthority(g.t, "used.example")
	issuer := func(change func(*kryptonv1.Issuer)) *kryptonv1.Issuer {
		i := ca.issuer(kryptonv1.Role_ROLE_OPERATOR, kryptonv1.Role_ROLE_WORKLOAD)
		i.AllTenants, i.UnboundRoles = true, []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD}
		change(i)
		return i
	}
	tokens := func(change func(*kryptonv1.Issuer)) *kryptonv1.Issuer {
		i := &kryptonv1.Issuer{Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_AUDITOR}, Kind: &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{Url: "https://id.example", Audiences: []string{"krypton"}}}}
		change(i)
		return i
	}
	key := spki(g.t)
	person := func(change func(*kryptonv1.RoleBinding)) *kryptonv1.RoleBinding {
		b := &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_AUDITOR, Member: "ada", Keys: tlsKey(key)}
		change(b)
		return b
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.named("x").Certificate[0]})
	builtin := g.must("governor", "Access.GetIssuer", &kryptonv1.GetIssuerRequest{Name: "issuers/builtin"}).(*kryptonv1.Issuer)

	// Somebody is bound under the issuer, and somebody else governs a tenant alone.
	g.register("", "used", issuer(func(*kryptonv1.Issuer) {}))
	g.bind("", "olga", &kryptonv1.RoleBinding{Issuer: "issuers/used", Subject: "cn:Olga", Role: kryptonv1.Role_ROLE_OPERATOR, Member: "olga"})
	g.bind("tenants/acme", "app", &kryptonv1.RoleBinding{Issuer: "issuers/used", Subject: "cn:app", Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "app"})
	g.bind("", "gabi", &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gabi", Keys: tlsKey(spki(g.t))})
	g.bind("", "guest", &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "guest", Keys: tlsKey(spki(g.t)), ExpireTime: timestamppb.New(time.Now().Add(time.Hour))})
	g.must("governor", "Tenants.SetGovernors", &kryptonv1.SetGovernorsRequest{Name: "tenants/other", Governors: []string{"roleBindings/gabi"}})
	return []wrong{
		{id: "authority/issuer-missing", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: nil}},
		{id: "authority/issuer-kind-missing", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Kind = nil })}},
		{id: "authority/issuer-name-differs", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Name = "issuers/y" })}},
		{id: "authority/issuer-name-differs", method: "Access.UpdateIssuer", req: &kryptonv1.UpdateIssuerRequest{Name: "issuers/corp", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Name = "issuers/y" })}},
		{id: "authority/issuer-exists", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "corp", Issuer: issuer(func(*kryptonv1.Issuer) {})}},
		{id: "authority/roles-missing", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Roles, i.UnboundRoles = nil, nil })}},
		{id: "authority/role-twice", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Roles = append(i.GetRoles(), i.GetRoles()...) })}},
		{id: "authority/role-twice", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.UnboundRoles = []kryptonv1.Role{99} })}},
		{id: "authority/unbound-role-beyond", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.UnboundRoles = []kryptonv1.Role{kryptonv1.Role_ROLE_AUDITOR} })}},
		{id: "authority/unbound-person", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.UnboundRoles = []kryptonv1.Role{kryptonv1.Role_ROLE_OPERATOR} })}},
		{id: "authority/unbound-power", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) {
			i.Roles = []kryptonv1.Role{kryptonv1.Role_ROLE_GOVERNOR}
			i.UnboundRoles = i.GetRoles()
		})}},
		{id: "authority/unbound-without-domain", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().TrustDomain = "" })}},
		{id: "authority/unbound-token", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: tokens(func(i *kryptonv1.Issuer) { i.UnboundRoles = i.GetRoles() })}},
		{id: "authority/trust-domain", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().TrustDomain = g.text })}},
		{id: "authority/tenants-all-and-some", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Tenants = []string{acme} })}},
		{id: "authority/issuer-tenant-unknown", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.AllTenants, i.Tenants = false, []string{"tenants/ghost"} })}},
		{id: "authority/issuer-tenant-destroyed", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.AllTenants, i.Tenants = false, []string{"tenants/gone"} })}},
		{id: "authority/issuer-of-a-tenant", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{Parent: "tenants/acme", IssuerId: "x", Issuer: issuer(func(*kryptonv1.Issuer) {})}},
		{id: "authority/issuer-of-a-tenant", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{Parent: "tenants/acme", IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) {
			i.AllTenants, i.UnboundRoles, i.Roles = false, nil, []kryptonv1.Role{kryptonv1.Role_ROLE_AUDITOR}
		})}},
		{id: "authority/issuer-of-another-tenant", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{Parent: "tenants/acme", IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Tenants = []string{"tenants/other"} })}},
		{id: "authority/ca-unreadable", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().Certificates = nil })}},
		{id: "authority/ca-unreadable", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().Certificates = []byte(g.text) })}},
		{id: "authority/ca-too-many", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().Certificates = bytes.Repeat(i.GetX509().GetCertificates(), 5) })}},
		{id: "authority/ca-twice", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().Certificates = bytes.Repeat(i.GetX509().GetCertificates(), 2) })}},
		{id: "authority/ca-of-nobody", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().Certificates = leaf })}},
		{id: "authority/ca-of-the-cluster", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(i *kryptonv1.Issuer) { i.GetX509().Certificates = builtin.GetX509().GetCertificates() })}},
		{id: "authority/ca-of-another-issuer", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: issuer(func(*kryptonv1.Issuer) {})}},
		{id: "authority/ca-of-another-issuer", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{Parent: "tenants/acme", IssuerId: "x", Issuer: ca.issuer(kryptonv1.Role_ROLE_WORKLOAD)}},
		{id: "authority/ca-of-another-issuer", method: "Access.UpdateIssuer", req: &kryptonv1.UpdateIssuerRequest{Name: "issuers/corp", Issuer: issuer(func(*kryptonv1.Issuer) {})}},
		{id: "authority/token-url", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: tokens(func(i *kryptonv1.Issuer) { i.GetJwt().Url = "http://id.example" })}},
		{id: "authority/token-audiences", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: tokens(func(i *kryptonv1.Issuer) { i.GetJwt().Audiences = nil })}},
		{id: "authority/token-skew", method: "Access.CreateIssuer", req: &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: tokens(func(i *kryptonv1.Issuer) { i.GetJwt().ClockSkewSeconds = 301 })}},
		{id: "authority/issuer-kind-changed", method: "Access.UpdateIssuer", req: &kryptonv1.UpdateIssuerRequest{Name: "issuers/corp", Issuer: tokens(func(*kryptonv1.Issuer) {})}},
		{id: "authority/issuer-role-in-use", method: "Access.UpdateIssuer", req: &kryptonv1.UpdateIssuerRequest{Name: "issuers/used", Issuer: issuer(func(i *kryptonv1.Issuer) { i.Roles, i.UnboundRoles = i.GetRoles()[1:], nil })}},
		{id: "authority/issuer-tenant-in-use", method: "Access.UpdateIssuer", req: &kryptonv1.UpdateIssuerRequest{Name: "issuers/used", Issuer: issuer(func(i *kryptonv1.Issuer) { i.AllTenants, i.Tenants = false, []string{"tenants/other"} })}},
		{id: "authority/issuer-in-use", method: "Access.DeleteIssuer", req: &kryptonv1.DeleteIssuerRequest{Name: "issuers/used"}},
		{id: "authority/builtin-fixed", method: "Access.UpdateIssuer", req: &kryptonv1.UpdateIssuerRequest{Name: "issuers/builtin", Issuer: issuer(func(*kryptonv1.Issuer) {})}},
		{id: "authority/builtin-stays", method: "Access.DeleteIssuer", req: &kryptonv1.DeleteIssuerRequest{Name: "issuers/builtin"}},
		{id: "authority/binding-missing", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: nil}},
		{id: "authority/binding-name-differs", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Name = "roleBindings/y" })}},
		{id: "authority/binding-role", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Role = 0 })}},
		{id: "authority/binding-role", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Role = 99 })}},
		{id: "authority/binding-parent", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Role = kryptonv1.Role_ROLE_WORKLOAD })}},
		{id: "authority/binding-parent", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{Parent: "tenants/acme", RoleBindingId: "x", RoleBinding: person(func(*kryptonv1.RoleBinding) {})}},
		{id: "authority/binding-member", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Member = "" })}},
		{id: "authority/binding-member", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Member = g.text })}},
		{id: "authority/binding-every-tenant", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Role, b.EveryTenant = kryptonv1.Role_ROLE_GOVERNOR, true })}},
		{id: "authority/binding-platform", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Platform = true })}},
		{id: "authority/binding-ended", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.ExpireTime = timestamppb.New(time.Unix(1, 0)) })}},
		{id: "authority/binding-issuer-unknown", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Issuer = "issuers/none" })}},
		{id: "authority/binding-issuer-of-another-tenant", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Issuer = "tenants/other/issuers/x" })}},
		{id: "authority/binding-role-beyond", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Keys, b.Issuer, b.Subject = nil, "issuers/corp", "cn:x" })}},
		{id: "authority/binding-subject-builtin", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Subject = "auditor/y" })}},
		{id: "authority/binding-subject-form", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) {
			b.Role, b.Keys, b.Issuer, b.Subject = kryptonv1.Role_ROLE_OPERATOR, nil, "issuers/corp", "Olga"
		})}},
		{id: "authority/binding-subject", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) {
			b.Role, b.Keys, b.Issuer = kryptonv1.Role_ROLE_OPERATOR, nil, "issuers/corp"
		})}},
		{id: "authority/binding-key-missing", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Keys = nil })}},
		{id: "authority/binding-key-twice", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Keys = append(b.GetKeys(), b.GetKeys()...) })}},
		{id: "authority/binding-key-without-use", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.GetKeys()[0].Tls = false })}},
		{id: "authority/binding-key-signs", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.GetKeys()[0].Sign = true })}},
		{id: "authority/binding-key-elsewhere", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) {
			b.Role, b.Issuer, b.Subject = kryptonv1.Role_ROLE_OPERATOR, "issuers/corp", "cn:Olga"
		})}},
		{id: "authority/binding-key-taken", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) { b.Keys = tlsKey(spkiOf(g.t, g.keys["operator"])) })}},
		{id: "authority/binding-exists", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "alice", RoleBinding: person(func(*kryptonv1.RoleBinding) {})}},
		{id: "authority/binding-subject-taken", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) {
			b.Role, b.Keys, b.Issuer, b.Subject = kryptonv1.Role_ROLE_OPERATOR, nil, "issuers/used", "cn:Olga"
		})}},
		{id: "authority/binding-member-taken", method: "Access.CreateRoleBinding", req: &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: person(func(b *kryptonv1.RoleBinding) {
			b.Role, b.Keys, b.Issuer, b.Subject, b.Member = kryptonv1.Role_ROLE_OPERATOR, nil, "issuers/used", "cn:Olga O.", "olga"
		})}},
		{id: "authority/last-custodian", method: "Access.DeleteRoleBinding", req: &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/carol"}},
		{id: "authority/last-governor", method: "Access.DeleteRoleBinding", req: &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/alice"}},
		{id: "authority/last-governor-of-a-tenant", method: "Access.DeleteRoleBinding", req: &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/gabi"}},
		{id: "authority/governors-number", method: "Tenants.SetGovernors", req: &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{}}},
		{id: "authority/governors-unknown", method: "Tenants.SetGovernors", req: &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/none"}}},
		{id: "authority/governors-unknown", method: "Tenants.SetGovernors", req: &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/carol"}}},
		{id: "authority/governors-ending", method: "Tenants.SetGovernors", req: &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/guest"}}},
	}
}
