package node_test

import (
	"context"
	"crypto/rand"
	"testing"

	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/policy"
)

// careless is the policy of a node that was tampered with: it lets in whoever the
// fixed rules of the gate leave to it.
type careless struct{}

func (careless) Decide(gate.Query) (gate.Verdict, error) {
	return gate.Verdict{Decision: gate.Allow}, nil
}

// lie passes the gate of a node that asks no policy.
func (m *member) lie(p auth.Principal, act gate.Act, object string, fn func(ctx context.Context, tok gate.Token) error) error {
	g := must[*gate.Gate](m.w.tb)(gate.New(gate.Config{Node: string(m.id), Sink: &audittest.Memory{}, Policy: careless{}, Clock: m.w.clock}))
	ctx := corr.With(context.Background(), must[corr.ID](m.w.tb)(corr.New(rand.Reader)))
	return g.Do(ctx, gate.Request{Principal: p, Act: act, Object: object}, func(tok gate.Token) error { return fn(ctx, tok) })
}

// deed is something that governors do: to what, and which of them may.
type deed struct {
	act    gate.Act
	object string
	// May a governor of the platform who does not govern acme, and the governor of acme?
	platform, own bool
	do            func(ctx context.Context, tok gate.Token, r node.Request) error
}

// deeds is the scope table of docs/identity.md, said once more: nobody else than
// these two may anything of it.
func (w *world) deeds(m *member) (all []deed) {
	acme, pay := object("acme", ""), object("acme", "pay")
	add := func(act gate.Act, object string, platform, own bool, do func(ctx context.Context, tok gate.Token, r node.Request) error) {
		all = append(all, deed{act, object, platform, own, do})
	}
	change := func(o node.Object, e fsmpb.ObjectEvent, wait node.Wait, platform, own bool) {
		add(node.ObjectAct(o, e, wait), o.Name(), platform, own, func(ctx context.Context, tok gate.Token, r node.Request) error {
			return m.ChangeObject(ctx, tok, r, o, e, wait)
		})
	}
	change(acme, suspend, 0, true, true)
	change(acme, resume, 0, true, true)
	change(acme, destroyO, 0, true, false)
	change(acme, destroyO, node.WithoutWait, true, false)
	change(acme, fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY, 0, true, false)
	change(pay, suspend, 0, true, true)
	change(pay, resume, 0, false, true)
	change(pay, destroyO, 0, false, true)
	change(pay, destroyO, node.WithoutWait, false, true)
	change(pay, fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY, 0, false, true)

	version := func(e fsmpb.VersionEvent, wait node.Wait, platform bool) {
		for _, o := range []node.Object{acme, pay} {
			add(node.VersionAct(e, wait), o.VersionName(1), platform, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
				return m.ChangeVersion(ctx, tok, r, o, 1, e, wait)
			})
		}
	}
	version(disable, 0, true)
	version(fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE, 0, true)
	version(enable, 0, false)
	version(fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE, 0, false)
	version(fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY, 0, false)
	version(fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY, node.WithoutWait, false)
	version(fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY, 0, false)

	add(gate.CreateTenant, "tenants/new", true, false, func(ctx context.Context, tok gate.Token, r node.Request) error {
		_, err := m.CreateTenant(ctx, tok, r, "new", binding(), nil)
		return err
	})
	must[*fsmpb.Tenant](w.tb)(m.createTenant(w.request(), "unbound", nil))
	add(gate.BindTenant, "tenants/unbound", true, false, func(ctx context.Context, tok gate.Token, r node.Request) error {
		_, err := m.BindTenant(ctx, tok, r, "unbound", binding())
		return err
	})
	add(gate.CreateService, "tenants/acme/services/new", false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
		_, err := m.CreateService(ctx, tok, r, "acme", "new")
		return err
	})
	for _, o := range []node.Object{acme, pay} {
		rotate, rollback := gate.RotateTenant, gate.RollbackTenant
		if o == pay {
			rotate, rollback = gate.RotateService, gate.RollbackService
		}
		add(rotate, o.Name(), false, true, func(ctx context.Context, tok gate.Token, r node.Request) error { return m.Rotate(ctx, tok, r, o) })
		add(rollback, o.Name(), false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
			return m.Rollback(ctx, tok, r, o, 1)
		})
	}
	add(gate.PinResource, pay.ResourceName("row"), false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
		return m.PinResource(ctx, tok, r, pay, "row", 1)
	})
	add(gate.UnpinResource, pay.ResourceName("pinned"), false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
		return m.UnpinResource(ctx, tok, r, pay, "pinned")
	})
	add(gate.RollbackResource, pay.ResourceName("pinned"), false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
		return m.RollbackResource(ctx, tok, r, pay, "pinned")
	})
	add(gate.SetGovernors, acme.Name(), false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
		anna := m.boundAs(m.caller(auth.RoleGovernor, "", "anna"))
		return m.SetGovernors(ctx, tok, r, "acme", [][]byte{anna.GetUid()})
	})

	add(gate.PutPolicy, "tenants/acme/policies/new", false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
		_, err := m.PutPolicy(ctx, tok, r, "acme", policy.Text{Name: "new", Text: permitAll}, 0)
		return err
	})
	add(gate.DeletePolicy, "tenants/acme/policies/old", false, true, func(ctx context.Context, tok gate.Token, r node.Request) error {
		_, err := m.DeletePolicy(ctx, tok, r, "acme", "old")
		return err
	})

	add(gate.CancelCeremony, node.CeremonyName(make([]byte, 16)), true, false, func(ctx context.Context, tok gate.Token, r node.Request) error {
		_, err := m.CancelCeremony(ctx, tok, r, make([]byte, 16), "")
		if errs.Is(err, errs.NotFound) {
			return nil // who may is told that there is none
		}
		return err
	})

	// People and issuers are the platform's, workloads and a tenant's issuers its own.
	for _, tenant := range []hierarchy.Name{"", "acme"} {
		platform, own, role, object := tenant == "", tenant != "", auth.RoleOperator, node.ObjectCluster
		if own {
			role, object = auth.RoleWorkload, acme.Name()
		}
		add(gate.IssueCertificate, object, platform, own, func(ctx context.Context, tok gate.Token, r node.Request) error {
			name := "holder-" + r.ID
			_, _, err := m.IssueCaller(ctx, tok, r, node.Caller{Role: role, Tenant: tenant, Name: name, PublicKey: person(w.tb, name).PublicKey}, 0)
			return err
		})
		add(gate.CreateRoleBinding, hierarchy.RoleBindingPath(tenant, "new").String(), platform, own, func(ctx context.Context, tok gate.Token, r node.Request) error {
			_, err := m.CreateRoleBinding(ctx, tok, r, w.roleBinding(role, tenant, "new"))
			return err
		})
		add(gate.DeleteRoleBinding, hierarchy.RoleBindingPath(tenant, "old").String(), platform, own, func(ctx context.Context, tok gate.Token, r node.Request) error {
			_, err := m.DeleteRoleBinding(ctx, tok, r, tenant, "old")
			return err
		})
		add(gate.CreateIssuer, issuerName(string(tenant), "new"), platform, own, func(ctx context.Context, tok gate.Token, r node.Request) error {
			_, err := m.CreateIssuer(ctx, tok, r, tokenIssuer(string(tenant), "new"))
			return err
		})
		add(gate.UpdateIssuer, issuerName(string(tenant), "old"), platform, own, func(ctx context.Context, tok gate.Token, r node.Request) error {
			_, err := m.UpdateIssuer(ctx, tok, r, tokenIssuer(string(tenant), "old"))
			return err
		})
		add(gate.DeleteIssuer, issuerName(string(tenant), "old"), platform, own, func(ctx context.Context, tok gate.Token, r node.Request) error {
			_, err := m.DeleteIssuer(ctx, tok, r, tenant, "old")
			return err
		})
	}
	add(gate.RevokeCertificate, "certificates/0102", true, false, func(ctx context.Context, tok gate.Token, r node.Request) error {
		_, err := m.RevokeCertificate(ctx, tok, r, node.Revocation{Serial: []byte{1, 2}})
		return err
	})
	add(gate.SetQuorum, node.ObjectCluster, true, false, func(ctx context.Context, tok gate.Token, r node.Request) error {
		return m.SetQuorum(ctx, tok, r, 1, 1)
	})
	add(gate.SealCluster, node.ObjectSeal, true, false, func(ctx context.Context, tok gate.Token, r node.Request) error {
		return m.SetHold(ctx, tok, r, node.Held, "a test")
	})
	// The last one: it is not asked of the registry, and nothing works after it.
	add(gate.SealNode, node.ObjectSeal, true, false, func(ctx context.Context, tok gate.Token, _ node.Request) error { return m.Seal(ctx, tok) })
	return all
}

// governed is a cluster whose governor gov governs the platform and no tenant, anna
// the tenant acme, and ben the tenant beta.
func governed(t testing.TB) (w *world, m *member, platform, own, foreign auth.Principal) {
	t.Helper()
	w, m = cluster1(t)
	w.tenant(m, "beta", "pay")
	anna, ben := w.bind(m, auth.RoleGovernor, "", "anna"), w.bind(m, auth.RoleGovernor, "", "ben")
	check(t, m.pinResource(w.request(), object("acme", "pay"), "pinned", 1))
	for _, tenant := range []string{"", "acme"} {
		must[*fsmpb.Issuer](t)(m.createIssuer(m.governor(), w.request(), tokenIssuer(tenant, "old")))
	}
	w.bind(m, auth.RoleOperator, "", "old")
	w.bind(m, auth.RoleWorkload, "acme", "old")
	must[*fsmpb.Policy](t)(m.putPolicy(w.request(), "acme", "old", permitAll))
	check(t, m.setGovernors(m.governor(), w.request(), "acme", m.boundAs(anna).GetUid()))
	check(t, m.setGovernors(m.governor(), w.request(), "beta", m.boundAs(ben).GetUid()))
	return w, m, m.governor(), anna, ben
}

// TestGovernorsGovernWhatIsTheirs: at the gate of every node, and at every replica,
// whatever the node that let somebody in says.
func TestGovernorsGovernWhatIsTheirs(t *testing.T) {
	w, m, platform, own, foreign := governed(t)
	deeds := w.deeds(m)
	seen := map[gate.Act]bool{}
	for _, d := range deeds {
		seen[d.act] = true
	}
	for _, a := range gate.Acts() {
		if ours := a.Duty() == gate.DutyGovern || a.Duty() == gate.DutyProtect; ours != seen[a] {
			t.Errorf("%v stands in the table: %v", a, seen[a])
		}
	}
	nobody := m.caller(auth.RoleGovernor, "", "mallory")
	for _, d := range deeds {
		for _, who := range []struct {
			p      auth.Principal
			may    bool
			refuse errs.Code // by the replicas
		}{{platform, d.platform, errs.Denied}, {own, d.own, errs.Denied}, {foreign, false, errs.Denied}, {nobody, false, errs.Unauthenticated}} {
			run := func(through func(auth.Principal, gate.Act, string, func(context.Context, gate.Token) error) error, r node.Request) error {
				return through(who.p, d.act, d.object, func(ctx context.Context, tok gate.Token) error { return d.do(ctx, tok, r) })
			}
			if who.may {
				checked := w.request()
				checked.ValidateOnly = true
				switch err := run(m.do, checked); errs.Of(err) {
				case errs.Denied, errs.Unauthenticated, errs.NotFound, errs.InvalidArgument, errs.Internal:
					t.Errorf("%v on %s by %s: %v", d.act, d.object, who.p.Name, err)
				}
				continue
			}
			commands, state := len(w.commands), m.State()
			if err := run(m.do, w.request()); !errs.Is(err, errs.Denied) {
				t.Errorf("%v on %s by %s: %v", d.act, d.object, who.p.Name, err)
			}
			if len(w.commands) != commands || m.State() != state {
				t.Errorf("%v on %s by %s reached the log", d.act, d.object, who.p.Name)
			}
			if d.act == gate.SealNode {
				continue // of one node: it may seal itself whenever it likes
			}
			if err := run(m.lie, w.request()); !errs.Is(err, who.refuse) {
				t.Errorf("%v on %s by %s, at a node that lies: %v", d.act, d.object, who.p.Name, err)
			}
			// An identity without a role is refused before anything is signed for it.
			if want := commands + 1; len(w.commands) != want && (who.refuse != errs.Unauthenticated || d.act != gate.IssueCertificate) {
				t.Errorf("%v on %s by %s: the replicas were not asked", d.act, d.object, who.p.Name)
			}
		}
	}
}

// TestAForeignTenantIsLikeNone: to read, it is not there, and what changes it is
// denied alike.
func TestAForeignTenantIsLikeNone(t *testing.T) {
	_, m, platform, own, foreign := governed(t)
	read := func(p auth.Principal, act gate.Act, object string) error {
		return m.do(p, act, object, func(context.Context, gate.Token) error { return nil })
	}
	for act, rest := range map[gate.Act]string{
		gate.GetTenant: "", gate.GetService: "/services/pay", gate.ListServices: "", gate.GetVersion: "/versions/1", gate.ListVersions: "",
		gate.GetResource: "/services/pay/resources/row", gate.ListResources: "/services/pay", gate.GetIssuer: "/issuers/old", gate.ListIssuers: "",
		gate.GetRoleBinding: "/roleBindings/app", gate.ListRoleBindings: "",
		gate.GetPolicy: "/policies/old", gate.ListPolicies: "", gate.TestPolicy: "",
	} {
		for _, p := range []auth.Principal{platform, own} {
			if err := read(p, act, "tenants/acme"+rest); err != nil {
				t.Errorf("%v by %s: %v", act, p.Name, err)
			}
		}
		foe, none := read(foreign, act, "tenants/acme"+rest), read(foreign, act, "tenants/none"+rest)
		if !errs.Is(foe, errs.NotFound) || none == nil || foe.Error() != none.Error() {
			t.Errorf("%v: %v, and of no tenant: %v", act, foe, none)
		}
	}
	check(t, read(platform, gate.ListTenants, node.ObjectCluster))
	wants(t, read(own, gate.ListTenants, node.ObjectCluster), errs.NotFound)
	// What is the cluster's, every governor may read.
	check(t, read(own, gate.GetIssuer, "issuers/old"))
	check(t, read(own, gate.GetRoleBinding, "roleBindings/old"))

	if a, b := read(foreign, gate.RotateTenant, "tenants/acme"), read(foreign, gate.RotateTenant, "tenants/none"); !errs.Is(a, errs.Denied) || b == nil || a.Error() != b.Error() {
		t.Errorf("%v, and of no tenant: %v", a, b)
	}
	check(t, read(platform, gate.RotateTenant, "tenants/none")) // is told by who looks for it
	wants(t, m.rotate(m.w.request(), object("none", "")), errs.NotFound)
}

// TestBeforeTheUpgradeEveryGovernorGovernsEverything, whoever the certificate names.
func TestBeforeTheUpgradeEveryGovernorGovernsEverything(t *testing.T) {
	w, m := cluster1(t, ofFormat(fsm.FormatAuthority-1))
	check(t, m.rotate(w.request(), object("acme", "pay")))
	gus := m.caller(auth.RoleGovernor, "", "gus")
	checked := w.request()
	checked.ValidateOnly = true
	check(t, m.do(gus, gate.RotateService, object("acme", "pay").Name(), func(ctx context.Context, tok gate.Token) error {
		return m.Rotate(ctx, tok, checked, object("acme", "pay"))
	}))
	check(t, m.do(gus, gate.ListTenants, node.ObjectCluster, func(context.Context, gate.Token) error { return nil }))
}
