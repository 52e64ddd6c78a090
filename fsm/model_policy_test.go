package fsm_test

import (
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// putPolicy is of the tenant that has the name now.
func (w *world) putPolicy(tenant, id, text string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_PutPolicy{PutPolicy: &fsmpb.PutPolicy{
		Policy: &fsmpb.Policy{Tenant: tenant, TenantUid: w.tenantOf(tenant).GetUid(), Id: id, Text: text}, PolicyIndex: w.tenantOf(tenant).GetPolicyIndex(),
	}}}
}

func removePolicy(tenant, id string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_RemovePolicy{RemovePolicy: &fsmpb.RemovePolicy{Tenant: tenant, Id: id}}}
}

// drawPolicy draws a command about a policy.
func (w *world) drawPolicy(t *rapid.T, tenant string) *fsmpb.Command {
	id := draw(t, "policy", "p", "q")
	if draw(t, "remove", false, false, true) {
		return removePolicy(tenant, id)
	}
	cmd := w.putPolicy(tenant, id, draw(t, "text", "one", "two", ""))
	cmd.GetPutPolicy().Create = draw(t, "create", false, false, true)
	return cmd
}

func (m *model) putPolicy(c *fsmpb.PutPolicy) string {
	p := c.GetPolicy()
	if p.GetText() == "" {
		return badArg
	}
	owner, no := m.owner(p.GetTenant())
	if no != "" {
		return no
	}
	if _, there := m.written[owner][p.GetId()]; there && c.GetCreate() {
		return exists
	}
	if m.written[owner] == nil {
		m.written[owner] = map[string]string{}
	}
	m.written[owner][p.GetId()] = p.GetText()
	return done
}

func (m *model) removePolicy(c *fsmpb.RemovePolicy) string {
	owner, no := m.owner(c.GetTenant())
	if no != "" {
		return no
	}
	if _, there := m.written[owner][c.GetId()]; !there {
		return notFound
	}
	delete(m.written[owner], c.GetId())
	return done
}

// comparePolicies looks at every tenant by every way there is to its policies, and
// whether what data operations read knows of their last change.
func (m *model) comparePolicies(t tb, v *fsm.View) {
	t.Helper()
	with := map[string]bool{}
	for _, tn := range v.TenantsWithPolicies() {
		with[tn.GetName()] = true
	}
	for name, want := range m.tenants {
		tn, _ := v.Tenant(name)
		texts := m.written[string(want.uid)]
		if want.state == "destroyed" {
			texts = nil
		}
		got := v.Policies(tn, "", 100)
		if with[name] != (len(texts) > 0) {
			t.Fatalf("tenant %s has policies: %v", name, with[name])
		}
		if len(got) != len(texts) {
			t.Fatalf("tenant %s has %d policies, want %d", name, len(got), len(texts))
		}
		for i, p := range got {
			if p.GetText() != texts[p.GetId()] || i > 0 && got[i-1].GetId() >= p.GetId() {
				t.Fatalf("policy %s of %s is %q, want %q", p.GetId(), name, p.GetText(), texts[p.GetId()])
			}
			if one, ok := v.Policy(name, p.GetId()); !ok || one != p {
				t.Fatalf("policy %s of %s is %v by its name", p.GetId(), name, one)
			}
			if p.GetModIndex() > tn.GetPolicyIndex() {
				t.Fatalf("policy %s of %s changed at %d, the policies of the tenant at %d", p.GetId(), name, p.GetModIndex(), tn.GetPolicyIndex())
			}
		}
		if tn.GetPolicyIndex() > fsm.GateIndex(tn) {
			t.Fatalf("the policies of %s changed at %d and its gate index is %d", name, tn.GetPolicyIndex(), fsm.GateIndex(tn))
		}
	}
}
