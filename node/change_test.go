package node_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// change is one kind of change, and what has to be so before it.
type change struct {
	name  string
	ready func(w *world, m *member) // what has to be so before
	do    func(m *member, r node.Request) error
	sets  bool // takes no key
}

func changes() []change {
	o := object("acme", "pay")
	none := func(*world, *member) {}
	rotated := func(w *world, m *member) { check(w.tb, m.rotate(w.request(), o)) }
	return []change{
		{"create tenant", none, func(m *member, r node.Request) error { _, err := m.createTenant(r, "new", binding()); return err }, false},
		{"create service", none, func(m *member, r node.Request) error { _, err := m.createService(r, "acme", "new"); return err }, false},
		{"rotate tenant", none, func(m *member, r node.Request) error { return m.rotate(r, object("acme", "")) }, false},
		{"rotate service", none, func(m *member, r node.Request) error { return m.rotate(r, o) }, false},
		{"rollback", rotated, func(m *member, r node.Request) error { return m.rollback(r, o, 0) }, true},
		{"disable", none, func(m *member, r node.Request) error { return m.changeVersion(r, o, 1, disable, 0) }, true},
		{"enable", func(w *world, m *member) { check(w.tb, m.changeVersion(w.request(), o, 1, disable, 0)) }, func(m *member, r node.Request) error { return m.changeVersion(r, o, 1, enable, 0) }, true},
		{"deprecate", rotated, func(m *member, r node.Request) error { return m.changeVersion(r, o, 1, deprecate, 0) }, true},
		{"compromise", none, func(m *member, r node.Request) error { return m.changeVersion(r, o, 1, compromise, 0) }, true},
		{"destroy", rotated, func(m *member, r node.Request) error { return m.changeVersion(r, o, 1, destroyV, 0) }, true},
		{"destroy now", rotated, func(m *member, r node.Request) error { return m.changeVersion(r, o, 1, destroyV, node.WithoutWait) }, true},
		{"suspend tenant", none, func(m *member, r node.Request) error { return m.changeObject(r, object("acme", ""), suspend, 0) }, true},
		{"resume tenant", func(w *world, m *member) { check(w.tb, m.changeObject(w.request(), object("acme", ""), suspend, 0)) }, func(m *member, r node.Request) error { return m.changeObject(r, object("acme", ""), resume, 0) }, true},
		{"suspend service", none, func(m *member, r node.Request) error { return m.changeObject(r, o, suspend, 0) }, true},
		{"delete service", none, func(m *member, r node.Request) error { return m.changeObject(r, o, destroyO, 0) }, true},
		{"delete tenant now", none, func(m *member, r node.Request) error {
			return m.changeObject(r, object("acme", ""), destroyO, node.WithoutWait)
		}, true},
		{"pin", none, func(m *member, r node.Request) error { return m.pinResource(r, o, "r", 0) }, true},
		{"unpin", func(w *world, m *member) { check(w.tb, m.pinResource(w.request(), o, "r", 1)) }, func(m *member, r node.Request) error { return m.unpinResource(r, o, "r") }, true},
		{"rollback resource", func(w *world, m *member) { check(w.tb, m.pinResource(w.request(), o, "r", 1)) }, func(m *member, r node.Request) error { return m.rollbackResource(r, o, "r") }, true},
		{"hold", none, func(m *member, r node.Request) error { return m.setHold(r, node.Held) }, true},
	}
}

func TestARetryOfAnyChangeActsOnce(t *testing.T) {
	for _, c := range changes() {
		w, m := cluster1(t)
		c.ready(w, m)
		r := w.request()
		check(t, c.do(m, r))
		state := m.machine.View()
		want := len(w.commands)
		if err := c.do(m, r); err != nil {
			t.Errorf("%s, again: %v", c.name, err)
		}
		now := m.machine.View()
		if !proto.Equal(tenantOf(now, "acme"), tenantOf(state, "acme")) || !proto.Equal(tenantOf(now, "new"), tenantOf(state, "new")) {
			t.Errorf("%s changed a tenant twice", c.name)
		}
		s1, _ := state.Service("acme", "pay")
		s2, _ := now.Service("acme", "pay")
		if !proto.Equal(s1, s2) {
			t.Errorf("%s changed a service twice", c.name)
		}
		if len(w.commands) == want {
			t.Errorf("%s: the retry never reached the state machine", c.name)
		}
		r.Digest[0]++
		wants(t, c.do(m, r), errs.RequestReplayed)
	}
}

// A retry needs no key: it is answered on a node that is sealed by now.
func TestARetryNeedsNoKeyAndNoKeystore(t *testing.T) {
	for _, c := range changes() {
		if c.sets {
			continue
		}
		w, m := cluster1(t)
		r := w.request()
		check(t, c.do(m, r))
		check(t, m.sealNode())
		calls := w.calls.wraps.Load() + w.calls.unwraps.Load()
		check(t, c.do(m, r))
		if w.calls.wraps.Load()+w.calls.unwraps.Load() != calls {
			t.Errorf("%s: the retry asked the keystore", c.name)
		}
	}
}

func tenantOf(v interface {
	Tenant(string) (*fsmpb.Tenant, bool)
}, name string,
) *fsmpb.Tenant {
	t, _ := v.Tenant(name)
	return t
}

func TestValidateOnlyChangesNothing(t *testing.T) {
	for _, c := range changes() {
		w, m := cluster1(t)
		c.ready(w, m)
		r := w.request()
		r.ValidateOnly = true
		before := len(w.commands)
		_, _, chain := m.machine.Applied()
		check(t, c.do(m, r))
		_, _, now := m.machine.Applied()
		if len(w.commands) != before || now != chain || !m.Unsealed() {
			t.Errorf("%s: validate_only did something", c.name)
		}
		r.ValidateOnly = false
		check(t, c.do(m, r)) // with the same request id
		// And it refuses what would be refused.
		r = w.request()
		r.ValidateOnly, r.ETag = true, 1<<60
		if err := c.do(m, r); err == nil && c.name != "hold" && c.name != "create tenant" {
			t.Errorf("%s: an impossible change validates", c.name)
		}
	}
}

func TestI6_CommandsHoldNoKey(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	w.rand.mu.Lock()
	w.rand.on = true
	w.rand.mu.Unlock()
	must[*node.InitResult](t)(m.init(autoPlan(t)))
	w.tenant(m, "acme", "pay")
	for range 3 {
		check(t, m.rotate(w.request(), object("acme", "")))
		check(t, m.rotate(w.request(), object("acme", "pay")))
	}
	log := bytes.Join(w.commands, nil)
	record := must[[]byte](t)(readFile(m.dir, "record.pb"))
	var trail bytes.Buffer
	for _, r := range m.sink.Records() {
		trail.WriteString(r.Cause + r.Object + r.KeyVersion + r.KeystoreRequest)
	}
	keys := 0
	for _, k := range w.rand.keys {
		keys++
		for name, b := range map[string][]byte{"log": log, "seal record": record, "audit trail": trail.Bytes()} {
			if bytes.Contains(b, k) || bytes.Contains(b, k[:16]) || bytes.Contains(b, []byte(hex.EncodeToString(k[:8]))) {
				t.Errorf("the %s holds a key", name)
			}
		}
	}
	if keys < 10 { // MasterKey, IVK, L2, K1, 4 L2.1, 4 L3
		t.Errorf("only %d keys were watched", keys)
	}
}

func TestASealedNodeTakesPowerAwayAndCreatesThroughAPeer(t *testing.T) {
	w, a := cluster1(t)
	b := w.add(t, options{})
	w.join(b) // sealed: nobody unsealed it
	o := object("acme", "pay")
	check(t, b.changeVersion(w.request(), o, 1, disable, 0))
	check(t, b.changeVersion(w.request(), o, 1, enable, 0))
	check(t, b.changeObject(w.request(), o, suspend, 0))
	check(t, b.changeObject(w.request(), o, resume, 0))
	check(t, b.pinResource(w.request(), o, "r", 0))
	if b.Unsealed() {
		t.Fatal("the node is unsealed")
	}
	recorded := len(a.records("node.prepare"))
	made := must[*fsmpb.Tenant](t)(b.createTenant(w.request(), "via-peer", binding()))
	must[*fsmpb.Service](t)(b.createService(w.request(), "via-peer", "pay"))
	w.bind(b, auth.RoleWorkload, "via-peer", "app")
	check(t, b.rotate(w.request(), object("via-peer", "pay")))
	check(t, b.rotate(w.request(), object("via-peer", "")))
	ct, _, err := a.encrypt(target("via-peer", "pay"), []byte("x"))
	check(t, err)
	if pt, _, err := a.decrypt(target("via-peer", "pay"), ct); err != nil || string(pt) != "x" {
		t.Errorf("%q, %v", pt, err)
	}
	// I2: the node where the keys were made says so, under the caller's id.
	rs := a.records("node.prepare")[recorded:]
	if len(rs) != 8 {
		t.Fatalf("%d records of the peer for 4 keys", len(rs))
	}
	if r := rs[1]; r.KeyVersion != hex.EncodeToString(made.GetVersions()[0].GetUid()) || r.KeystoreRequest == "" || r.Object != "tenants/via-peer" ||
		r.Outcome != errs.OutcomeOK || r.Correlation != last(b.records("tenants.create")).Correlation {
		t.Errorf("%+v", r)
	}
	if r := last(b.records("tenants.create")); r.KeyVersion != rs[1].KeyVersion {
		t.Errorf("%+v", r)
	}
	check(t, b.changeObject(w.request(), object("via-peer", ""), destroyO, node.WithoutWait))

	// What the peer refuses for good is what the caller hears.
	check(t, w.customer.Disable(t.Context(), customerKey))
	_, err = b.createTenant(w.request(), "denied", binding())
	wants(t, err, errs.L1Denied)
	check(t, w.customer.Enable(t.Context(), customerKey))
	// A peer that cannot either is no answer: the node's own is.
	check(t, a.sealNode())
	_, err = b.createTenant(w.request(), "denied", binding())
	wants(t, err, errs.Sealed)
	if last(b.records("tenants.create")).Code != errs.Sealed {
		t.Error("the refusal is not recorded")
	}
}

func last[T any](s []T) (v T) {
	if len(s) > 0 {
		v = s[len(s)-1]
	}
	return v
}

// A peer that lies can spoil the material. It cannot make the command another.
func TestI6_APeerFillsInMaterialAndNothingElse(t *testing.T) {
	w, a := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	evil := func(edit func(*fsmpb.Command)) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.prepare = func(_ string, raw []byte) ([]byte, error) {
			out, err := a.Prepare(context.Background(), raw)
			if err != nil {
				return nil, err
			}
			cmd := &fsmpb.Command{}
			if err := proto.Unmarshal(out, cmd); err != nil {
				return nil, err
			}
			edit(cmd)
			return proto.Marshal(cmd)
		}
	}
	var proposed *fsmpb.Command
	b.hooks(func(c *fsmpb.Command) error { proposed = c; return nil }, nil)

	evil(func(c *fsmpb.Command) {
		c.Principal = &fsmpb.Principal{Issuer: "x", Kind: "governor", Name: "mallory"}
		c.RequestId, c.Skippable, c.Intents = "other", true, []*fsmpb.SignedIntent{{}}
		ct := c.GetCreateTenant()
		ct.Name, ct.Binding.Keystore, ct.Binding.Key, ct.Binding.Archetype = "mallory", "mine", "mine", "hyok"
		ct.Version.State, ct.Version.Pins = fsmpb.VersionState_VERSION_STATE_ACTIVE, 7
	})
	must[*fsmpb.Tenant](t)(b.createTenant(w.request(), "honest", binding()))
	ct := proposed.GetCreateTenant()
	if proposed.GetPrincipal().GetName() != "gov" || proposed.GetSkippable() || len(proposed.GetIntents()) != 0 || ct.GetName() != "honest" ||
		ct.GetBinding().GetKeystore() != "customer" || ct.GetBinding().GetKey() != customerKey || ct.GetBinding().GetArchetype() != "local" ||
		ct.GetVersion().GetState() != 0 || ct.GetVersion().GetPins() != 0 {
		t.Errorf("the peer changed the command: %v", proposed)
	}
	evil(func(c *fsmpb.Command) { c.GetCreateService().Name, c.GetCreateService().Tenant = "evil", "acme" })
	must[*fsmpb.Service](t)(b.createService(w.request(), "honest", "pay"))
	if cs := proposed.GetCreateService(); cs.GetName() != "pay" || cs.GetTenant() != "honest" {
		t.Errorf("%v", cs)
	}
	evil(func(c *fsmpb.Command) { c.GetAddVersion().Object = &fsmpb.ObjectRef{Tenant: "acme"} })
	check(t, b.rotate(w.request(), object("honest", "pay")))
	// Another command altogether is no answer.
	before := len(w.commands)
	evil(func(c *fsmpb.Command) {
		c.Body = &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{Object: &fsmpb.ObjectRef{Tenant: "acme"}, Event: destroyO, Now: true}}
	})
	for _, err := range []error{
		b.rotate(w.request(), object("honest", "pay")),
		func() error { _, err := b.createTenant(w.request(), "x", binding()); return err }(),
		func() error { _, err := b.createService(w.request(), "honest", "x"); return err }(),
	} {
		wants(t, err, errs.Sealed)
	}
	if len(w.commands) != before {
		t.Error("something was proposed")
	}
}

func TestPrepareRefusesWhatItIsNotFor(t *testing.T) {
	w, m := cluster1(t)
	id := string(must[corr.ID](t)(corr.New(w.rand)))
	for name, cmd := range map[string]*fsmpb.Command{
		"nothing":         {CorrelationId: id},
		"no id":           {Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{Tenant: "acme", Name: "x"}}},
		"no binding":      {CorrelationId: id, Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{Name: "../y"}}},
		"no key to bind":  {CorrelationId: id, Body: &fsmpb.Command_BindTenant{BindTenant: &fsmpb.BindTenant{Tenant: "x"}}},
		"no name":         {CorrelationId: id, Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{Binding: binding()}}},
		"bad name":        {CorrelationId: id, Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{Name: "../x", Binding: binding()}}},
		"no service":      {CorrelationId: id, Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{Tenant: "acme"}}},
		"bad service":     {CorrelationId: id, Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{Tenant: "acme", Name: "a/b"}}},
		"no object":       {CorrelationId: id, Body: &fsmpb.Command_AddVersion{AddVersion: &fsmpb.AddVersion{}}},
		"not a key":       {CorrelationId: id, Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: true}}},
		"an internal key": {CorrelationId: id, Body: &fsmpb.Command_AddInternalKey{AddInternalKey: &fsmpb.AddInternalKey{}}},
	} {
		raw := must[[]byte](t)(proto.Marshal(cmd))
		if out, err := m.Prepare(t.Context(), raw); !errs.Is(err, errs.InvalidArgument) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := m.Prepare(t.Context(), []byte{0xff}); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	raw := must[[]byte](t)(proto.Marshal(&fsmpb.Command{CorrelationId: id, Body: &fsmpb.Command_AddVersion{AddVersion: &fsmpb.AddVersion{Object: &fsmpb.ObjectRef{Tenant: "none"}}}}))
	_, err := m.Prepare(t.Context(), raw)
	wants(t, err, errs.NotFound)
	if r := last(m.records("node.prepare")); r.Code != errs.NotFound {
		t.Errorf("%+v", r)
	}
	m.contact.Store(1 << 62)
	_, err = m.Prepare(t.Context(), raw)
	wants(t, err, errs.NotServing)
}

func FuzzPrepare(f *testing.F) {
	w, m := cluster1(f)
	for _, cmd := range []*fsmpb.Command{
		{CorrelationId: string(must[corr.ID](f)(corr.New(w.rand))), Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{Name: "x", Binding: binding()}}},
		{CorrelationId: string(must[corr.ID](f)(corr.New(w.rand))), Body: &fsmpb.Command_AddVersion{AddVersion: &fsmpb.AddVersion{Object: &fsmpb.ObjectRef{Tenant: "acme"}}}},
		{Body: &fsmpb.Command_CreateService{}},
	} {
		f.Add(must[[]byte](f)(proto.Marshal(cmd)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := m.Prepare(context.Background(), raw); errs.Is(err, errs.Internal) {
			t.Errorf("%v", errors.Unwrap(errs.From(err)))
		}
	})
}

func TestMembersAndTokensAreChangedByTheirActs(t *testing.T) {
	w, m := cluster1(t)
	b := w.add(t, options{})
	w.join(b)
	operator := w.bind(m, auth.RoleOperator, "", "op")
	voter := func() bool {
		e, _ := m.machine.View().Member(string(b.id))
		return e.GetVoter()
	}
	for _, s := range []node.Suffrage{node.NonVoter, node.Voter} {
		check(t, m.do(operator, node.SuffrageAct(s), node.NodeName(string(b.id)), func(ctx context.Context, tok gate.Token) error {
			return m.SetSuffrage(ctx, tok, w.request(), string(b.id), s)
		}))
		if voter() != (s == node.Voter) {
			t.Errorf("suffrage %v", s)
		}
	}
	check(t, m.do(operator, gate.CreateJoinToken, node.ObjectCluster, func(ctx context.Context, tok gate.Token) error {
		return m.CreateJoinToken(ctx, tok, w.request(), &fsmpb.JoinToken{Hash: bytes.Repeat([]byte{9}, 32), ExpireTimeMs: w.clock.Now().Add(time.Hour).UnixMilli()})
	}))
	if _, ok := m.machine.View().JoinToken(bytes.Repeat([]byte{9}, 32)); !ok {
		t.Error("no token")
	}
	check(t, m.do(operator, gate.RemoveNode, node.NodeName(string(b.id)), func(ctx context.Context, tok gate.Token) error {
		return m.RemoveMember(ctx, tok, w.request(), string(b.id))
	}))
}

func TestNamesThatAreTakenAndObjectsThatAreNot(t *testing.T) {
	w, m := cluster1(t)
	_, err := m.createTenant(w.request(), "acme", binding())
	wants(t, err, errs.AlreadyExists)
	_, err = m.createService(w.request(), "acme", "pay")
	wants(t, err, errs.AlreadyExists)
	_, err = m.createService(w.request(), "none", "pay")
	wants(t, err, errs.NotFound)
	wants(t, m.rotate(w.request(), object("acme", "none")), errs.NotFound)
	wants(t, m.rotate(w.request(), object("none", "")), errs.NotFound)
	wants(t, m.changeVersion(w.request(), object("acme", "pay"), 9, disable, 0), errs.NotFound)
	check(t, m.changeObject(w.request(), object("acme", ""), suspend, 0))
	calls := w.calls.unwraps.Load()
	wants(t, m.rotate(w.request(), object("acme", "")), errs.FailedState)
	wants(t, m.rotate(w.request(), object("acme", "pay")), errs.FailedState)
	_, err = m.createService(w.request(), "acme", "more")
	wants(t, err, errs.FailedState)
	if w.calls.unwraps.Load() != calls {
		t.Error("the customer's keystore was asked for a suspended tenant")
	}
}
