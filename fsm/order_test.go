package fsm_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// peopled is a world with somebody of every role, a governor of the platform only
// (gov), one of the tenant acme only (g1), one of the tenant beta only (g2), and a
// workload of acme.
func peopled(t tb) *world {
	t.Helper()
	w := newWorld(t)
	furnish(w)
	for _, name := range []string{"g1", "g2"} {
		b := bindingFor("governor", name)
		b.Platform = false
		w.ok(bind(b))
	}
	for role, name := range map[string]string{"operator": "o1", "auditor": "a1"} {
		w.ok(bind(bindingFor(role, name)))
	}
	w.ok(bind(w.workload("acme", "app1")))
	w.ok(w.putPolicy("acme", "first", "text"))
	w.ok(w.setGovernors("acme", w.bindingOf("", "g1").GetUid()))
	w.ok(w.setGovernors("beta", w.bindingOf("", "g2").GetUid()))
	return w
}

// orderLine says who may order one kind of command, in the words of the callers'
// names in [peopled].
type orderLine struct {
	name string
	cmd  func(*world) *fsmpb.Command
	may  []string
}

func orderLines() []orderLine {
	is := func(c *fsmpb.Command) func(*world) *fsmpb.Command { return func(*world) *fsmpb.Command { return c } }
	object := func(service string, e fsmpb.ObjectEvent, cause string) func(*world) *fsmpb.Command {
		return is(changeObject("acme", service, e, cause))
	}
	version := func(tenant, service string, e fsmpb.VersionEvent) func(*world) *fsmpb.Command {
		return is(changeVersion(tenant, service, 1, e))
	}
	const (
		leader, node = "the leader", "a node"
		gov, g1      = "gov", "g1"
		oper, local  = "o1", "local"
	)
	return []orderLine{
		{"genesis", func(w *world) *fsmpb.Command {
			return &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: w.genesis()}}
		}, []string{leader, oper, local}},
		{"create a tenant", func(w *world) *fsmpb.Command { return w.createTenant("new") }, []string{gov}},
		{"suspend a tenant", object("", suspend, ""), []string{gov, g1}},
		{"suspend a tenant whose key is refused", object("", suspend, "l1_denied"), []string{gov, g1, leader, node}},
		{"resume a tenant", object("", resume, ""), []string{gov, g1}},
		{"resume a tenant whose key was refused", object("", resume, "l1_denied"), []string{gov, g1}},
		{"destroy a tenant, with a cause", object("", schedule, "l1_denied"), []string{gov}},
		{"save a tenant, with a cause", object("", cancel, "l1_denied"), []string{gov}},
		{"destroy a service, with a cause", object("pay", schedule, "l1_denied"), []string{g1}},
		{"destroy a tenant", object("", schedule, ""), []string{gov}},
		{"save a tenant", object("", cancel, ""), []string{gov}},
		{"save a service, with a cause", object("pay", cancel, "l1_denied"), []string{g1}},
		{"suspend a service", object("pay", suspend, ""), []string{gov, g1}},
		{"resume a service", object("pay", resume, ""), []string{g1}},
		{"destroy a service", object("pay", schedule, ""), []string{g1}},
		{"save a service", object("pay", cancel, ""), []string{g1}},
		{"create a service", func(w *world) *fsmpb.Command { return w.createService("acme", "new") }, []string{g1}},
		{"add a version", func(w *world) *fsmpb.Command { return w.addVersion("acme", "pay") }, []string{g1, leader, node}},
		{"rotate", func(w *world) *fsmpb.Command { return w.setPrimary("acme", "pay", 1, false) }, []string{g1, leader, node}},
		{"roll back", func(w *world) *fsmpb.Command { return w.setPrimary("acme", "pay", 1, true) }, []string{g1}},
		{"disable a version", version("acme", "pay", fsmpb.VersionEvent_VERSION_EVENT_DISABLE), []string{gov, g1}},
		{"compromise a version", version("acme", "", fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE), []string{gov, g1}},
		{"enable a version", version("acme", "pay", fsmpb.VersionEvent_VERSION_EVENT_ENABLE), []string{g1}},
		{"deprecate a version", version("acme", "pay", fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE), []string{g1}},
		{"destroy a version", version("acme", "pay", fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY), []string{g1}},
		{"save a version", version("acme", "pay", fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY), []string{g1}},
		{"destroy an internal key version", version("", "", fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY), []string{gov}},
		{"pin", is(pin("acme", "pay", "q", 1)), []string{g1}},
		{"unpin", is(unpin("acme", "pay", "r")), []string{g1}},
		{"unpin back", is(rollbackPin("acme", "pay", "r")), []string{g1}},
		{"add an internal key", func(w *world) *fsmpb.Command { return w.addIVK() }, []string{leader}},
		{"wrap a tenant key again", func(w *world) *fsmpb.Command { return w.rewrap("acme") }, []string{leader}},
		{"put a secret", func(w *world) *fsmpb.Command { return w.putSecret("node-ca") }, []string{leader}},
		{"make a join token", func(w *world) *fsmpb.Command { return w.token(5, false) }, []string{oper, local}},
		{"join", func(w *world) *fsmpb.Command { return w.join(2, node2()) }, []string{leader}},
		{"promote a node", is(update(1, []string{"voter"}, &fsmpb.Member{Voter: true})), []string{oper, local, leader}},
		{"remove a node", is(remove(1)), []string{oper, local}},
		{"purge a node", is(purge(1)), []string{leader}},
		{"hold the cluster", is(hold(true)), []string{gov, "cust"}},
		{"release the hold", is(hold(false)), []string{"cust"}},
		{"revoke a certificate", func(w *world) *fsmpb.Command { return w.revoke(1) }, []string{gov, oper, local}},
		{"register an issuer", is(putIssuer(x509Issuer("corp"))), []string{gov}},
		{"register an issuer of a tenant", func(w *world) *fsmpb.Command { return putIssuer(w.ownIssuer("acme", "k8s")) }, []string{g1}},
		{"remove an issuer", is(removeIssuer("", "corp")), []string{gov}},
		{"remove an issuer of a tenant", is(removeIssuer("acme", "corp")), []string{g1}},
		{"bind a person", is(bind(bindingFor("operator", "o2"))), []string{gov}},
		{"bind a workload", func(w *world) *fsmpb.Command { return bind(w.workload("acme", "app2")) }, []string{g1}},
		{"unbind a person", is(unbind("", "a1")), []string{gov}},
		{"unbind a workload", is(unbind("acme", "app1")), []string{g1}},
		{"name governors", func(w *world) *fsmpb.Command { return w.setGovernors("acme", w.bindingOf("", "g1").GetUid()) }, []string{g1}},
		{"change the quorum", is(setQuorum(0, 0)), []string{gov}},
		{"request an approval", func(w *world) *fsmpb.Command {
			c, _ := w.request("g1", destroyNow("acme", "pay"))
			return c
		}, []string{gov, g1, "g2", "cust"}},
		{"approve", is(&fsmpb.Command{Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: "none"}}}), []string{gov, g1, "g2", "cust"}},
		{"reject an approval", is(reject("none")), []string{gov, g1, "g2", "cust"}},
		{"set a policy", func(w *world) *fsmpb.Command { return w.putPolicy("acme", "p", "text") }, []string{g1}},
		{"remove a policy", is(removePolicy("acme", "first")), []string{g1}},
		{"begin a ceremony", is(&fsmpb.Command{Body: &fsmpb.Command_BeginCeremony{BeginCeremony: &fsmpb.BeginCeremony{}}}), []string{gov, "cust"}},
		{"cancel a ceremony", is(&fsmpb.Command{Body: &fsmpb.Command_CancelCeremony{CancelCeremony: &fsmpb.CancelCeremony{}}}), []string{gov, "cust"}},
		{"stage a seal", func(w *world) *fsmpb.Command { return w.stage(make([]byte, 16), &sealpb.Record{}) }, []string{leader, node, "cust"}},
		{"confirm a seal", is(&fsmpb.Command{Body: &fsmpb.Command_ConfirmHolder{ConfirmHolder: &fsmpb.ConfirmHolder{}}}), []string{leader, node, "cust"}},
		{"prove a seal", is(&fsmpb.Command{Body: &fsmpb.Command_ProveSeal{ProveSeal: &fsmpb.ProveSeal{}}}), []string{leader, node, "cust"}},
		{"commit a seal", is(&fsmpb.Command{Body: &fsmpb.Command_CommitCeremony{CommitCeremony: &fsmpb.CommitCeremony{}}}), []string{leader, node, "cust"}},
		{"bind a tenant", func(w *world) *fsmpb.Command { return w.bindTenant("acme", "a") }, []string{gov}},
		{"tick", is(tick()), []string{leader}},
		{"raise the format", is(raise(newest)), []string{leader}},
		{"begin an epoch", is(begin(0)), []string{leader}},
		{"repair the seal", func(w *world) *fsmpb.Command { return w.repair(rewrapHSM2) }, []string{leader}},
		{"confirm the MasterKey", is(&fsmpb.Command{Body: &fsmpb.Command_ConfirmSeal{ConfirmSeal: &fsmpb.ConfirmSeal{}}}), []string{gov, "cust"}},
		{"replace a CA", func(w *world) *fsmpb.Command { return w.replaceCA("callers", "second", hourMS) }, []string{gov, "cust"}},
		{"retire a CA", is(retireCA("callers")), []string{gov, "cust"}},
		{"note a backup", is(&fsmpb.Command{Body: &fsmpb.Command_NoteBackup{NoteBackup: &fsmpb.NoteBackup{}}}), []string{oper, local, leader, node}},
		{"drop carried keys", is(&fsmpb.Command{Body: &fsmpb.Command_DropCarried{DropCarried: &fsmpb.DropCarried{}}}), []string{leader}},
		{"end internal keys", is(&fsmpb.Command{Body: &fsmpb.Command_EndInternalKeys{EndInternalKeys: &fsmpb.EndInternalKeys{}}}), []string{leader}},
		{"clear a member", is(&fsmpb.Command{Body: &fsmpb.Command_MemberCleared{MemberCleared: &fsmpb.MemberCleared{}}}), []string{leader}},
		{"end an exposure", is(&fsmpb.Command{Body: &fsmpb.Command_FinishExposure{FinishExposure: &fsmpb.FinishExposure{}}}), []string{leader}},
		{"recover", func(w *world) *fsmpb.Command { return w.recovery(quorumLost, 0) }, []string{leader}},
	}
}

func node2() *fsmpb.Member { return node(2) }

// TestI20_WhoMayOrderWhat has every command ordered by everybody. Who may is
// refused for what the command says or not at all; who may not, for who he is.
func TestI20_WhoMayOrderWhat(t *testing.T) {
	t.Parallel()
	callers := map[string]*fsmpb.Principal{
		"the leader": {}, "a node": {Kind: "node", Name: nodeID(0)}, "a removed node": {Kind: "node", Name: nodeID(1)}, "a strange node": {Kind: "node", Name: nodeID(9)},
		"a node of an issuer": {Issuer: caller("", "").GetIssuer(), Kind: "node", Name: nodeID(0)},
		"gov":                 caller("governor", "gov"), "g1": caller("governor", "g1"), "g2": caller("governor", "g2"), "cust": caller("custodian", "cust"),
		"o1": caller("operator", "o1"), "local": localOperator(), "a1": caller("auditor", "a1"), "app1": caller("workload", "acme/app1"),
	}
	lines := make(map[string]bool)
	for _, l := range orderLines() {
		t.Run(l.name, func(t *testing.T) {
			base := peopled(t)
			body := l.cmd(base.fork()).ProtoReflect()
			lines[string(body.WhichOneof(body.Descriptor().Oneofs().ByName("body")).Name())] = true
			for who, p := range callers {
				w := base.fork()
				if who == "a removed node" {
					w.ok(remove(1))
				}
				cmd := l.cmd(w)
				cmd.Principal = p
				forecast := w.m.DryRun(cmd)
				res := w.do(cmd)
				no := res.GetReason() == errs.Denied.String() || res.GetReason() == errs.Unauthenticated.String()
				if may := slices.Contains(l.may, who); may == no && res.GetMessage() != joinRefusal {
					t.Errorf("%s may: %v; got %q (%s)", who, may, res.GetReason(), res.GetMessage())
				}
				if forecast.GetReason() != res.GetReason() {
					t.Errorf("%s: the forecast was %q, the answer is %q", who, forecast.GetReason(), res.GetReason())
				}
			}
		})
	}
	bodies := (&fsmpb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range bodies.Len() {
		if !lines[string(bodies.Get(i).Name())] {
			t.Errorf("no line says who may order %s", bodies.Get(i).Name())
		}
	}
}

// joinRefusal is the one refusal with DENIED that is about a command's content.
const joinRefusal = "the join token does not admit this node"

// TestI20_WhoIsNotInTheRegistryOrdersNothing: what a node that lies asserts must at
// least exist.
func TestI20_WhoIsNotInTheRegistryOrdersNothing(t *testing.T) {
	other := caller("governor", "gov")
	other.Issuer = hexOf(make([]byte, 16))
	upper := caller("governor", "gov")
	upper.Issuer = strings.ToUpper(upper.GetIssuer())
	localGovernor := localOperator()
	localGovernor.Kind = "governor"
	localOther := localOperator()
	localOther.Name = "olga"
	for name, p := range map[string]*fsmpb.Principal{
		"nobody of that name": caller("governor", "eve"), "in another role": caller("governor", "cust"), "of no role": caller("user", "gov"),
		"of an unknown issuer": other, "of an issuer spelled otherwise": upper, "of no issuer": {Kind: "governor", Name: "gov"},
		"a governor of the socket": localGovernor, "somebody else of the socket": localOther,
		"a workload without its tenant": caller("workload", "app1"), "a workload of no tenant": caller("workload", "nobody/app1"), "a workload of another tenant": caller("workload", "beta/app1"),
		"an operator without binding": caller("operator", "oscar"),
	} {
		t.Run(name, func(t *testing.T) {
			w := peopled(t)
			cmd := asked("r", changeObject("acme", "", suspend, ""))
			cmd.Principal = p
			w.refused(errs.Unauthenticated, cmd)
			if got := w.tenantOf("acme").GetState(); got != fsmpb.ObjectState_OBJECT_STATE_ACTIVE {
				t.Errorf("the tenant is %v", got)
			}
			if _, ok := w.view().Request(p, "r", 0); ok {
				t.Error("the refusal is remembered: it would stay when the role is bound")
			}
		})
	}
}

func TestI20_UnboundRolesNeedNoBinding(t *testing.T) {
	w := peopled(t)
	asOperator := func() *fsmpb.Command {
		c := w.token(7, false)
		c.Principal = caller("operator", "oscar")
		return c
	}
	w.refused(errs.Unauthenticated, asOperator())
	i := sent(w.issuerOf("", fsm.BuiltinIssuer))
	i.UnboundRoles = []string{"operator", "workload"}
	w.ok(putIssuer(i))
	w.ok(asOperator())
	// A workload may order nothing, so it is denied and not unknown.
	c := pin("acme", "pay", "z", 1)
	c.Principal = caller("workload", "acme/nobody-bound-it")
	w.refused(errs.Denied, c)

	// Of an issuer for some tenants only workloads of those go without binding.
	corp := x509Issuer("corp")
	corp.AllTenants, corp.TenantUids, corp.UnboundRoles = false, [][]byte{w.tenantOf("acme").GetUid()}, []string{"workload"}
	w.ok(putIssuer(corp))
	for tenant, code := range map[string]errs.Code{"acme": errs.Denied, "beta": errs.Unauthenticated} {
		c.Principal = caller("workload", tenant+"/x")
		c.Principal.Issuer = hexOf(w.issuerOf("", "corp").GetUid())
		w.refused(code, c)
	}
}

// TestI20_PowerEndsWithTheBinding: by removal, by expiry before any tick, and of
// workloads by the end of their tenant.
func TestI20_PowerEndsWithTheBinding(t *testing.T) {
	w := peopled(t)
	suspended := func(by string) *fsmpb.Command {
		c := changeObject("acme", "", suspend, "")
		c.Principal = caller("governor", by)
		return c
	}
	ends := bindingFor("governor", "g3")
	ends.ExpireTimeMs = w.now + hourMS
	w.ok(bind(ends))
	w.ok(suspended("g3"))
	w.ok(changeObject("acme", "", resume, ""))
	w.now += hourMS
	w.refused(errs.Unauthenticated, suspended("g3"))

	w.ok(bind(bindingFor("governor", "g4")))
	w.ok(unbind("", "g4"))
	w.refused(errs.Unauthenticated, suspended("g4"))

	w.ok(destroyNow("acme", ""))
	c := pin("beta", "pay", "z", 1)
	c.Principal = caller("workload", "acme/app1")
	w.refused(errs.Unauthenticated, c)
}

// sent is an issuer as a command says it, from what is stored.
func sent(i *fsmpb.Issuer) *fsmpb.Issuer {
	return &fsmpb.Issuer{
		Id: i.GetId(), Tenant: i.GetTenant(), TenantUid: i.GetTenantUid(), Kind: i.GetKind(), Roles: i.GetRoles(),
		TenantUids: i.GetTenantUids(), AllTenants: i.GetAllTenants(), UnboundRoles: i.GetUnboundRoles(),
	}
}
