package fsm_test

import (
	"bytes"
	"encoding/hex"
	"slices"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// Commands about issuers, role bindings and governors, complete and valid unless a
// test changes them.

// keyOf returns the public key of somebody, always the same for one name.
func keyOf(name string) *fsmpb.PublicKey {
	p, _ := person(name, "")
	return p.GetKey()
}

// bindingFor is of builtin: people sign if their role does.
func bindingFor(role, name string) *fsmpb.RoleBinding {
	signs := role == "governor" || role == "custodian"
	return &fsmpb.RoleBinding{
		Id: name, IssuerUid: builtin, Role: role, Name: name, Platform: role == "governor",
		Keys: []*fsmpb.BindingKey{{Key: keyOf(name), Sign: signs, Tls: true}},
	}
}

// workload is a binding of a program of a tenant, under builtin.
func (w *world) workload(tenant, name string) *fsmpb.RoleBinding {
	b := bindingFor("workload", name)
	b.Tenant, b.TenantUid = tenant, w.tenantOf(tenant).GetUid()
	return b
}

func bind(b *fsmpb.RoleBinding) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_BindRole{BindRole: &fsmpb.BindRole{Binding: b}}}
}

func unbind(tenant, id string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_UnbindRole{UnbindRole: &fsmpb.UnbindRole{Tenant: tenant, Id: id}}}
}

func (w *world) setGovernors(tenant string, uids ...[]byte) *fsmpb.Command {
	uids = slices.Clone(uids)
	slices.SortFunc(uids, bytes.Compare)
	return &fsmpb.Command{Body: &fsmpb.Command_SetTenantGovernors{SetTenantGovernors: &fsmpb.SetTenantGovernors{
		Tenant: tenant, TenantUid: w.tenantOf(tenant).GetUid(), Governors: uids,
	}}}
}

func x509Issuer(id string) *fsmpb.Issuer {
	return &fsmpb.Issuer{
		Id: id, Roles: []string{"governor", "operator", "auditor", "workload"}, AllTenants: true,
		Kind: &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{Certificates: [][]byte{caCert(id)}, TrustDomain: id + ".example"}},
	}
}

func jwtIssuer(id string) *fsmpb.Issuer {
	return &fsmpb.Issuer{
		Id: id, Roles: []string{"governor", "operator", "workload"}, AllTenants: true,
		Kind: &fsmpb.Issuer_Jwt{Jwt: &fsmpb.JWTIssuer{
			Url: "https://" + id + ".example", Audiences: []string{"krypton"}, Ca: [][]byte{caCert(id)}, Keys: []byte(`{"keys":[]}`), SkewMs: 1000, MaxLifeS: 3600,
		}},
	}
}

// ownIssuer is one of a tenant.
func (w *world) ownIssuer(tenant, id string) *fsmpb.Issuer {
	i := jwtIssuer(id)
	i.Roles, i.AllTenants = []string{"workload"}, false
	i.Tenant, i.TenantUid = tenant, w.tenantOf(tenant).GetUid()
	i.GetJwt().Audiences = []string{fsm.TenantAudience(tenant)}
	return i
}

func putIssuer(i *fsmpb.Issuer) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_PutIssuer{PutIssuer: &fsmpb.PutIssuer{Issuer: i}}}
}

func removeIssuer(tenant, id string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_RemoveIssuer{RemoveIssuer: &fsmpb.RemoveIssuer{Tenant: tenant, Id: id}}}
}

// under gives a binding under another issuer than builtin its subject.
func under(i *fsmpb.Issuer, b *fsmpb.RoleBinding, subject string) *fsmpb.RoleBinding {
	b.IssuerUid, b.Subject, b.Keys = i.GetUid(), subject, nil
	return b
}

func (w *world) issuerOf(tenant, id string) *fsmpb.Issuer {
	w.tb.Helper()
	i, ok := w.view().Issuer(tenant, id)
	if !ok {
		w.tb.Fatalf("no issuer %s/%s", tenant, id)
	}
	return i
}

func (w *world) bindingOf(tenant, id string) *fsmpb.RoleBinding {
	w.tb.Helper()
	b, ok := w.view().Binding(tenant, id)
	if !ok {
		w.tb.Fatalf("no role binding %s/%s", tenant, id)
	}
	return b
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// drawAuthority draws a command about who may do what.
func (w *world) drawAuthority(t *rapid.T, tenant string) *fsmpb.Command {
	own := draw(t, "owner", "", tenant)
	issuers := w.view().Issuers()
	switch draw(t, "authority", "issuer", "issuer", "bind", "bind", "bind", "bind", "unbind", "unbind", "governors", "governors", "remove issuer", "remove issuer") {
	case "issuer":
		i := draw(t, "kind of issuer", x509Issuer("corp"), jwtIssuer("idp"))
		if own != "" {
			i = w.ownIssuer(own, "idp")
		} else if draw(t, "narrow", false, true) {
			i.Roles, i.AllTenants = []string{"operator", "workload"}, false
			if tn := w.tenantOf(tenant); tn.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
				i.TenantUids = [][]byte{tn.GetUid()}
			}
		}
		if i.GetX509() != nil && draw(t, "unbound", false, true) {
			i.UnboundRoles = []string{"workload"}
		}
		return putIssuer(i)
	case "bind":
		b := bindingFor(draw(t, "role", "governor", "governor", "operator", "custodian"), draw(t, "name", "g1", "g2", "o1"))
		if own != "" {
			b = w.workload(own, draw(t, "name", "app1", "app2"))
		}
		b.Id = draw(t, "id", b.GetName(), b.GetName(), "other-id")
		if len(issuers) == 0 {
			return bind(b) // of an older format
		}
		if i := issuers[rapid.IntRange(0, len(issuers)-1).Draw(t, "issuer")]; !bytes.Equal(i.GetUid(), builtin) {
			under(i, b, draw(t, "subject", "cn:one", "uri:two"))
		} else {
			b.Keys[0].Key = keyOf(draw(t, "key", b.GetName(), b.GetName(), "shared"))
		}
		b.Platform = b.GetRole() == "governor" && draw(t, "platform", true, false)
		if draw(t, "expires", false, false, true) {
			b.ExpireTimeMs = w.now + draw(t, "for", hourMS, dayMS, 0)
		}
		return bind(b)
	case "unbind":
		if own != "" {
			return unbind(own, draw(t, "id", "app1", "app2", "other-id"))
		}
		return unbind("", draw(t, "id", "g1", "g2", "o1", "other-id", "cust"))
	case "governors":
		return w.drawGovernors(t, tenant)
	}
	return removeIssuer(own, draw(t, "id", "corp", "idp", "idp", "builtin"))
}

// drawGovernors draws who governs a tenant: mostly gov, who asks for most commands.
func (w *world) drawGovernors(t *rapid.T, tenant string) *fsmpb.Command {
	var uids [][]byte
	for _, b := range w.view().Bindings("", "", 100) {
		if b.GetRole() == "governor" && draw(t, "governs "+b.GetId(), true, false) || b.GetId() == "gov" && draw(t, "gov", true, true, false) {
			uids = append(uids, b.GetUid())
		}
	}
	if draw(t, "of nobody", false, false, false, false, true) {
		uids = append(uids, w.uid())
	}
	return w.setGovernors(tenant, uids...)
}

// drawCaller draws who asks for a command: mostly who may.
func (w *world) drawCaller(t *rapid.T, cmd *fsmpb.Command) {
	all := w.view().Bindings("", "", 100)
	if len(all) == 0 {
		return // of an older format
	}
	switch draw(t, "caller", "right", "right", "right", "right", "right", "right", "bound", "any", "node") {
	case "bound":
		b := all[rapid.IntRange(0, len(all)-1).Draw(t, "binding")]
		cmd.Principal = caller(b.GetRole(), b.GetName())
		cmd.Principal.Issuer = hexOf(b.GetIssuerUid())
	case "any":
		cmd.Principal = caller(draw(t, "as", "governor", "operator", "workload", "auditor", "user"), draw(t, "who", "gov", "g1", "o1", "a/app1", "nobody"))
	case "node":
		if n := rapid.IntRange(0, 3).Draw(t, "which node"); n == 0 {
			cmd.Principal = &fsmpb.Principal{Kind: "node", Name: nodeID(draw(t, "node", 0, 1, 9))}
		}
	}
}
