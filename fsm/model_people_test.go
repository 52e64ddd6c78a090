package fsm_test

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// Who may do what, in the model: lists that are searched from one end to the other.

type modelIssuer struct {
	owner, id, uid string // owner: uid of the tenant, or empty
	roles, unbound []string
	tenants        []string // uids
	all            bool
	jwt            bool
}

type modelBinding struct {
	owner, id, uid, issuer string
	subject, role, name    string
	platform               bool
	key                    string
	expires                int64
	signs                  bool
}

type modelPeople struct {
	issuers   []*modelIssuer
	bindings  []*modelBinding
	governors map[string][]string // uid of a tenant: uids of bindings
}

func newModelPeople(w *world) modelPeople {
	p := modelPeople{
		issuers:   []*modelIssuer{{id: "builtin", uid: string(builtin), roles: []string{"governor", "custodian", "operator", "auditor", "workload"}, all: true}},
		governors: map[string][]string{},
	}
	for _, f := range founders() {
		p.bindings = append(p.bindings, &modelBinding{
			id: f.GetName(), uid: string(w.personUID(f.GetRole(), f.GetName())), issuer: string(builtin), subject: f.GetRole() + "/" + f.GetName(),
			role: f.GetRole(), name: f.GetName(), platform: f.GetRole() == "governor", key: string(f.GetKey().GetRaw()), signs: true,
		})
	}
	return p
}

// lives reports whether a tenant with that uid, or the cluster for "", can own anything.
func (m *model) lives(owner string) bool {
	for _, t := range m.tenants {
		if string(t.uid) == owner {
			return t.state != "destroyed"
		}
	}
	return owner == ""
}

func (m *model) counts(b *modelBinding) bool {
	return (b.expires == 0 || b.expires > m.now) && m.lives(b.owner)
}

func (m *model) issuerBy(is func(*modelIssuer) bool) *modelIssuer {
	for _, i := range m.people.issuers {
		if m.lives(i.owner) && is(i) {
			return i
		}
	}
	return nil
}

func (m *model) bindingBy(is func(*modelBinding) bool) *modelBinding {
	for _, b := range m.people.bindings {
		if is(b) {
			return b
		}
	}
	return nil
}

func (m *model) drop(is func(*modelBinding) bool) {
	m.people.bindings = slices.DeleteFunc(m.people.bindings, is)
}

// refused says how a command is refused for who asks; "" if it is not.
func (m *model) refused(cmd *fsmpb.Command) string {
	p := cmd.GetPrincipal()
	own := p.GetKind() == "" && p.GetName() == "" && p.GetIssuer() == ""
	leaderOnly := whoAsks(cmd) == nil && cmd.GetAddVersion() == nil && cmd.GetUpdateMember() == nil
	automatic := cmd.GetAddVersion() != nil || cmd.GetSetPrimary() != nil && !cmd.GetSetPrimary().GetRollback() || cmd.GetChangeObject().GetCause() == "l1_denied" && cmd.GetChangeObject().GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND
	switch {
	case own:
		if leaderOnly || automatic || cmd.GetUpdateMember() != nil {
			return ""
		}
		return denied
	case leaderOnly:
		return denied
	case p.GetKind() == "node":
		if automatic && p.GetName() == nodeID(0) {
			return ""
		}
		return "node?" // who else is a member is not in the model
	}
	var b *modelBinding
	role := p.GetKind()
	if p.GetIssuer() != localOperator().GetIssuer() {
		uid, _ := hex.DecodeString(p.GetIssuer())
		i := m.issuerBy(func(i *modelIssuer) bool { return i.uid == string(uid) })
		owner, name := "", p.GetName()
		if tn, n, ok := strings.Cut(p.GetName(), "/"); role == "workload" {
			t := m.tenants[tn]
			if !ok || t == nil {
				return "UNAUTHENTICATED"
			}
			owner, name = string(t.uid), n
		}
		if i == nil {
			return "UNAUTHENTICATED"
		}
		b = m.bindingBy(func(b *modelBinding) bool {
			return b.issuer == i.uid && b.role == role && b.owner == owner && b.name == name && m.counts(b)
		})
		unbound := slices.Contains(i.unbound, role) && (i.all || slices.Contains(i.tenants, owner))
		if b == nil && !unbound {
			return "UNAUTHENTICATED"
		}
	}
	want, power, tenant := m.orders(cmd)
	if !slices.Contains(want, role) {
		return denied
	}
	if role == "governor" {
		t := m.tenants[tenant]
		inside := t != nil && slices.Contains(m.people.governors[string(t.uid)], b.uid)
		switch {
		case power == "platform" && b.platform, power == "both" && (b.platform || inside), power == "tenant" && inside:
		case t == nil && tenant != "":
		default:
			return denied
		}
	}
	return ""
}

// orders says who may order a command: roles, which governors, and of which tenant.
func (m *model) orders(cmd *fsmpb.Command) (roles []string, power, tenant string) {
	gov := []string{"governor"}
	object := func(o *fsmpb.ObjectRef, platform, both bool) ([]string, string, string) {
		switch {
		case platform:
			return gov, "platform", o.GetTenant()
		case both:
			return gov, "both", o.GetTenant()
		}
		return gov, "tenant", o.GetTenant()
	}
	of := func(tenant string) ([]string, string, string) {
		if tenant == "" {
			return gov, "platform", ""
		}
		return gov, "tenant", tenant
	}
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		return gov, "platform", ""
	case *fsmpb.Command_ChangeObject:
		e, service := b.ChangeObject.GetEvent(), b.ChangeObject.GetObject().GetService() != ""
		return object(b.ChangeObject.GetObject(), !service && (e == schedule || e == cancel), e == suspend || !service && e == resume)
	case *fsmpb.Command_ChangeVersion:
		e := b.ChangeVersion.GetEvent()
		weaker := e == fsmpb.VersionEvent_VERSION_EVENT_DISABLE || e == fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE
		return object(b.ChangeVersion.GetObject(), b.ChangeVersion.GetObject().GetTenant() == "", weaker)
	case *fsmpb.Command_CreateService:
		return of(b.CreateService.GetTenant())
	case *fsmpb.Command_AddVersion:
		return of(b.AddVersion.GetObject().GetTenant())
	case *fsmpb.Command_SetPrimary:
		return of(b.SetPrimary.GetObject().GetTenant())
	case *fsmpb.Command_PinResource:
		return of(b.PinResource.GetTenant())
	case *fsmpb.Command_UnpinResource:
		return of(b.UnpinResource.GetTenant())
	case *fsmpb.Command_RollbackResource:
		return of(b.RollbackResource.GetTenant())
	case *fsmpb.Command_SetHold:
		if b.SetHold.GetHeld() {
			return []string{"governor", "custodian"}, "platform", ""
		}
		return []string{"custodian"}, "", ""
	case *fsmpb.Command_RevokeCertificate:
		return []string{"governor", "operator"}, "platform", ""
	case *fsmpb.Command_CreateJoinToken, *fsmpb.Command_RemoveMember, *fsmpb.Command_UpdateMember:
		return []string{"operator"}, "", ""
	case *fsmpb.Command_PutIssuer:
		return of(b.PutIssuer.GetIssuer().GetTenant())
	case *fsmpb.Command_RemoveIssuer:
		return of(b.RemoveIssuer.GetTenant())
	case *fsmpb.Command_BindRole:
		return of(b.BindRole.GetBinding().GetTenant())
	case *fsmpb.Command_UnbindRole:
		return of(b.UnbindRole.GetTenant())
	case *fsmpb.Command_SetTenantGovernors:
		return of(b.SetTenantGovernors.GetTenant())
	case *fsmpb.Command_PutPolicy:
		return of(b.PutPolicy.GetPolicy().GetTenant())
	case *fsmpb.Command_RemovePolicy:
		return of(b.RemovePolicy.GetTenant())
	}
	return nil, "", ""
}

// owner returns the uid of a tenant by its name, and how a command about it is refused.
func (m *model) owner(tenant string) (uid, refused string) {
	if tenant == "" {
		return "", ""
	}
	switch t := m.tenants[tenant]; {
	case t == nil:
		return "", notFound
	case t.state == "destroyed":
		return "", failed
	default:
		return string(t.uid), ""
	}
}

func (m *model) putIssuer(c *fsmpb.Issuer) string {
	owner, no := m.owner(c.GetTenant())
	if no != "" {
		return no
	}
	var tenants []string
	for _, u := range c.GetTenantUids() {
		if !m.lives(string(u)) {
			return notFound
		}
		tenants = append(tenants, string(u))
	}
	is := &modelIssuer{owner: owner, id: c.GetId(), roles: c.GetRoles(), unbound: c.GetUnboundRoles(), tenants: tenants, all: c.GetAllTenants(), jwt: c.GetJwt() != nil}
	was := m.issuerBy(func(i *modelIssuer) bool { return i.owner == owner && i.id == c.GetId() })
	if was == nil {
		m.people.issuers = append(m.people.issuers, is)
		m.made = func(uid string) { is.uid = uid }
		return done
	}
	if was.jwt != is.jwt {
		return failed
	}
	if m.bindingBy(func(b *modelBinding) bool {
		return b.issuer == was.uid && (!slices.Contains(is.roles, b.role) || b.role == "workload" && m.lives(b.owner) && owner == "" && !is.all && !slices.Contains(tenants, b.owner))
	}) != nil {
		return failed
	}
	is.uid = was.uid
	*was = *is
	return done
}

func (m *model) removeIssuer(c *fsmpb.RemoveIssuer) string {
	owner, no := m.owner(c.GetTenant())
	if no != "" {
		return no
	}
	i := m.issuerBy(func(i *modelIssuer) bool { return i.owner == owner && i.id == c.GetId() })
	switch {
	case i == nil:
		return notFound
	case i.id == "builtin" || m.bindingBy(func(b *modelBinding) bool { return b.issuer == i.uid }) != nil:
		return failed
	}
	m.people.issuers = slices.DeleteFunc(m.people.issuers, func(j *modelIssuer) bool { return j == i })
	return done
}

func (m *model) bind(c *fsmpb.RoleBinding) string {
	owner, no := m.owner(c.GetTenant())
	if no != "" {
		return no
	}
	i := m.issuerBy(func(i *modelIssuer) bool { return i.uid == string(c.GetIssuerUid()) })
	if i == nil {
		return notFound
	}
	b := &modelBinding{
		owner: owner, id: c.GetId(), issuer: i.uid, subject: c.GetSubject(), role: c.GetRole(), name: c.GetName(), platform: c.GetPlatform(), expires: c.GetExpireTimeMs(),
	}
	if i.id == "builtin" && i.owner == "" {
		b.subject = c.GetRole() + "/" + c.GetName()
		if c.GetTenant() != "" {
			b.subject = c.GetRole() + "/" + c.GetTenant() + "/" + c.GetName()
		}
		b.key, b.signs = string(c.GetKeys()[0].GetKey().GetRaw()), c.GetKeys()[0].GetSign()
	}
	inTenant := i.owner == "" && (i.all || slices.Contains(i.tenants, owner)) || i.owner == owner
	switch {
	case !slices.Contains(i.roles, b.role), b.role == "workload" && !inTenant:
		return failed
	case b.expires != 0 && b.expires <= m.now:
		return badArg
	}
	// What counts for nobody gives way; what counts stands in the way.
	inTheWay := func(o *modelBinding) bool {
		return o.owner == owner && o.id == b.id || o.issuer == b.issuer && o.subject == b.subject ||
			o.issuer == b.issuer && o.role == b.role && o.owner == b.owner && o.name == b.name || o.key != "" && o.key == b.key
	}
	if m.bindingBy(func(o *modelBinding) bool { return inTheWay(o) && m.counts(o) }) != nil {
		return exists
	}
	m.drop(inTheWay)
	m.people.bindings = append(m.people.bindings, b)
	m.made = func(uid string) { b.uid = uid }
	return done
}

// governed reports whether without that binding every tenant has a governor, and
// the platform one, for good.
func (m *model) governed(without *modelBinding) bool {
	good := func(b *modelBinding) bool { return b != without && b.role == "governor" && b.expires == 0 }
	if m.bindingBy(func(b *modelBinding) bool { return good(b) && b.platform }) == nil {
		return false
	}
	for _, t := range m.tenants {
		if t.state != "destroyed" && m.bindingBy(func(b *modelBinding) bool {
			return good(b) && slices.Contains(m.people.governors[string(t.uid)], b.uid)
		}) == nil {
			return false
		}
	}
	return true
}

func (m *model) unbind(c *fsmpb.UnbindRole) string {
	owner, no := m.owner(c.GetTenant())
	if no != "" {
		return no
	}
	b := m.bindingBy(func(b *modelBinding) bool { return b.owner == owner && b.id == c.GetId() })
	switch {
	case b == nil:
		return notFound
	case b.expires == 0 && b.role == "governor" && !m.governed(b):
		return failed
	case b.expires == 0 && b.role == "custodian" && m.bindingBy(func(o *modelBinding) bool { return o != b && o.role == "custodian" && o.expires == 0 }) == nil:
		return failed
	}
	m.drop(func(o *modelBinding) bool { return o == b })
	return done
}

func (m *model) setGovernors(c *fsmpb.SetTenantGovernors) string {
	owner, no := m.owner(c.GetTenant())
	if no != "" {
		return no
	}
	return m.govern(owner, c.GetGovernors())
}

func (m *model) govern(tenant string, uids [][]byte) string {
	if len(uids) == 0 {
		return badArg
	}
	var governors []string
	stays := false
	for _, u := range uids {
		b := m.bindingBy(func(b *modelBinding) bool { return b.uid == string(u) && b.role == "governor" && m.counts(b) })
		if b == nil {
			return notFound
		}
		stays = stays || b.expires == 0
		governors = append(governors, b.uid)
	}
	if !stays {
		return failed
	}
	m.people.governors[tenant] = governors
	return done
}

// tickPeople removes what counts for nobody.
func (m *model) tickPeople() {
	m.drop(func(b *modelBinding) bool { return !m.counts(b) })
	m.people.issuers = slices.DeleteFunc(m.people.issuers, func(i *modelIssuer) bool { return !m.lives(i.owner) })
}

func (m *model) comparePeople(t tb, v *fsm.View) {
	t.Helper()
	want := 0
	for _, b := range m.people.bindings {
		if !m.lives(b.owner) {
			continue
		}
		want++
		got, ok := v.BindingByUID([]byte(b.uid))
		if !ok || got.GetId() != b.id || got.GetSubject() != b.subject || got.GetRole() != b.role || got.GetPlatform() != b.platform ||
			string(got.GetTenantUid()) != b.owner || got.GetExpireTimeMs() != b.expires || string(got.GetIssuerUid()) != b.issuer {
			t.Fatalf("binding %s is %v, want %+v", b.id, got, *b)
		}
	}
	all := len(v.Bindings("", "", 1000))
	for name, tn := range m.tenants {
		all += len(v.Bindings(name, "", 1000))
		if tn.state == "destroyed" {
			continue
		}
		got, _ := v.Tenant(name)
		governors := make([]string, 0, 4)
		for _, u := range got.GetGovernors() {
			governors = append(governors, string(u))
		}
		if !slices.Equal(governors, m.people.governors[string(tn.uid)]) {
			t.Fatalf("tenant %s is governed by %x, want %x", name, governors, m.people.governors[string(tn.uid)])
		}
	}
	if all != want {
		t.Fatalf("%d role bindings, want %d", all, want)
	}
	issuers := 0
	for _, i := range m.people.issuers {
		if !m.lives(i.owner) {
			continue
		}
		issuers++
		got, ok := v.IssuerByUID([]byte(i.uid))
		if !ok || got.GetId() != i.id || string(got.GetTenantUid()) != i.owner || got.GetAllTenants() != i.all || !slices.Equal(got.GetUnboundRoles(), i.unbound) ||
			!slices.Equal(got.GetRoles(), i.roles) || len(got.GetTenantUids()) != len(i.tenants) {
			t.Fatalf("issuer %s is %v, want %+v", i.id, got, *i)
		}
	}
	if len(v.Issuers()) != issuers || !slices.IsSortedFunc(v.Issuers(), func(a, b *fsmpb.Issuer) int {
		return bytes.Compare(append(ownerOf(a), a.GetId()...), append(ownerOf(b), b.GetId()...))
	}) {
		t.Fatalf("%d issuers, want %d: %v", len(v.Issuers()), issuers, v.Issuers())
	}
}

func ownerOf(i *fsmpb.Issuer) []byte {
	owner := make([]byte, 16)
	copy(owner, i.GetTenantUid())
	return owner
}
