package node_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// Who asks. Roles come from the registry: persons of the genesis are in it from the
// start, all others are bound.

// caller is who has that role and name under the cluster's own CA.
func (m *member) caller(role auth.Role, tenant hierarchy.Name, name string) auth.Principal {
	p := auth.Principal{Issuer: m.w.callers, Role: role, Tenant: tenant, Name: name}
	if t, ok := m.w.members[0].machine.View().Tenant(string(tenant)); ok {
		copy(p.TenantUID[:], t.GetUid())
	}
	return p
}

func (m *member) governor() auth.Principal { return m.caller(auth.RoleGovernor, "", "gov") }

func (m *member) custodian(name string) auth.Principal { return m.caller(auth.RoleCustodian, "", name) }

func (m *member) workload(tenant hierarchy.Name) auth.Principal {
	return m.caller(auth.RoleWorkload, tenant, "app")
}

// roleBinding is of who has that role and name under the cluster's own CA, for a key
// of their own.
func (w *world) roleBinding(role auth.Role, tenant hierarchy.Name, name string) *fsmpb.RoleBinding {
	key := must[*fsmpb.PublicKey](w.tb)(node.PublicKey(person(w.tb, name).PublicKey))
	return &fsmpb.RoleBinding{
		Id: name, IssuerUid: w.callers[:], Role: role.String(), Tenant: string(tenant), Name: name,
		Keys: []*fsmpb.BindingKey{{Key: key, Tls: true, Sign: role == auth.RoleGovernor || role == auth.RoleCustodian}},
	}
}

func (m *member) createRoleBinding(p auth.Principal, r node.Request, b *fsmpb.RoleBinding) (out *fsmpb.RoleBinding, err error) {
	name := hierarchy.RoleBindingPath(hierarchy.Name(b.GetTenant()), hierarchy.Name(b.GetId())).String()
	err = m.do(p, gate.CreateRoleBinding, name, func(ctx context.Context, tok gate.Token) (err error) {
		out, err = m.CreateRoleBinding(ctx, tok, r, b)
		return err
	})
	return out, err
}

// bind gives somebody a role, by the node, and returns who that is.
func (w *world) bind(m *member, role auth.Role, tenant hierarchy.Name, name string) auth.Principal {
	w.tb.Helper()
	must[*fsmpb.RoleBinding](w.tb)(m.createRoleBinding(m.governor(), w.request(), w.roleBinding(role, tenant, name)))
	return m.caller(role, tenant, name)
}

// do passes the gate, as the server does.
func (m *member) do(p auth.Principal, act gate.Act, object string, fn func(ctx context.Context, tok gate.Token) error) error {
	ctx := corr.With(context.Background(), must[corr.ID](m.w.tb)(corr.New(rand.Reader)))
	return m.gate.Do(ctx, gate.Request{Principal: p, Act: act, Object: object}, func(tok gate.Token) error { return fn(ctx, tok) })
}

// request makes a request with an id of its own.
func (w *world) request() node.Request {
	n := w.requests.Add(1)
	return node.Request{ID: fmt.Sprintf("request-%d", n), Digest: [32]byte{byte(n), byte(n >> 8)}}
}

// spki is the public key of the member, as callers send theirs.
func (m *member) spki() []byte {
	der, err := x509.MarshalPKIXPublicKey(m.key.Public())
	if err != nil {
		panic(err)
	}
	return der
}

func binding() *fsmpb.Binding {
	return &fsmpb.Binding{Keystore: "customer", Key: customerKey, Archetype: "local"}
}

func (m *member) createTenant(r node.Request, name hierarchy.Name, b *fsmpb.Binding) (t *fsmpb.Tenant, err error) {
	err = m.do(m.governor(), gate.CreateTenant, "tenants/"+string(name), func(ctx context.Context, tok gate.Token) (err error) {
		t, err = m.CreateTenant(ctx, tok, r, name, b, nil)
		return err
	})
	return t, err
}

func (m *member) createService(r node.Request, tenant, name hierarchy.Name) (s *fsmpb.Service, err error) {
	err = m.do(m.governor(), gate.CreateService, "tenants/"+string(tenant)+"/services/"+string(name), func(ctx context.Context, tok gate.Token) (err error) {
		s, err = m.CreateService(ctx, tok, r, tenant, name)
		return err
	})
	return s, err
}

func object(tenant, service hierarchy.Name) node.Object {
	return node.Object{Tenant: tenant, Service: service}
}

func (m *member) rotate(r node.Request, o node.Object) error {
	act := gate.RotateService
	if o.Service == "" {
		act = gate.RotateTenant
	}
	return m.do(m.governor(), act, o.Name(), func(ctx context.Context, tok gate.Token) error { return m.Rotate(ctx, tok, r, o) })
}

func (m *member) rollback(r node.Request, o node.Object, number uint32) error {
	act := gate.RollbackService
	if o.Service == "" {
		act = gate.RollbackTenant
	}
	return m.do(m.governor(), act, o.Name(), func(ctx context.Context, tok gate.Token) error { return m.Rollback(ctx, tok, r, o, number) })
}

func (m *member) changeObject(r node.Request, o node.Object, e fsmpb.ObjectEvent, now node.Wait) error {
	return m.do(m.governor(), node.ObjectAct(o, e, now), o.Name(), func(ctx context.Context, tok gate.Token) error {
		return m.ChangeObject(ctx, tok, r, o, e, now)
	})
}

func (m *member) changeVersion(r node.Request, o node.Object, number uint32, e fsmpb.VersionEvent, now node.Wait) error {
	return m.do(m.governor(), node.VersionAct(e, now), o.VersionName(number), func(ctx context.Context, tok gate.Token) error {
		return m.ChangeVersion(ctx, tok, r, o, number, e, now)
	})
}

func (m *member) pinResource(r node.Request, o node.Object, id hierarchy.ResourceID, version uint32) error {
	return m.do(m.governor(), gate.PinResource, o.ResourceName(id), func(ctx context.Context, tok gate.Token) error {
		return m.PinResource(ctx, tok, r, o, id, version)
	})
}

func (m *member) unpinResource(r node.Request, o node.Object, id hierarchy.ResourceID) error {
	return m.do(m.governor(), gate.UnpinResource, o.ResourceName(id), func(ctx context.Context, tok gate.Token) error {
		return m.UnpinResource(ctx, tok, r, o, id)
	})
}

func (m *member) rollbackResource(r node.Request, o node.Object, id hierarchy.ResourceID) error {
	return m.do(m.governor(), gate.RollbackResource, o.ResourceName(id), func(ctx context.Context, tok gate.Token) error {
		return m.RollbackResource(ctx, tok, r, o, id)
	})
}

func (m *member) setHold(r node.Request, h node.Hold) error {
	p := m.governor()
	if h == node.Released {
		p = m.custodian("cust")
	}
	return m.do(p, node.HoldAct(h), node.ObjectSeal, func(ctx context.Context, tok gate.Token) error {
		return m.SetHold(ctx, tok, r, h, "a test")
	})
}

func (m *member) sealNode() error {
	return m.do(m.governor(), gate.SealNode, node.ObjectSeal, func(ctx context.Context, tok gate.Token) error { return m.Seal(ctx, tok) })
}

// Data operations. They return what a server would send.

func (m *member) encrypt(t node.Target, plaintext []byte) (out []byte, used node.Used, err error) {
	err = m.do(m.workload(t.Tenant), gate.Encrypt, t.Name(), func(ctx context.Context, tok gate.Token) (err error) {
		out, used, err = m.Encrypt(ctx, tok, t, plaintext)
		return err
	})
	if err != nil {
		out = nil
	}
	return out, used, err
}

// encryptCtx is encrypt for a caller who may give up.
func (m *member) encryptCtx(ctx context.Context, t node.Target) error {
	ctx = corr.With(ctx, must[corr.ID](m.w.tb)(corr.New(rand.Reader)))
	return m.gate.Do(ctx, gate.Request{Principal: m.workload(t.Tenant), Act: gate.Encrypt, Object: t.Name()}, func(tok gate.Token) error {
		_, _, err := m.Encrypt(ctx, tok, t, nil)
		return err
	})
}

func (m *member) decrypt(t node.Target, ciphertext []byte) (out []byte, used node.Used, err error) {
	err = m.do(m.workload(t.Tenant), gate.Decrypt, t.Name(), func(ctx context.Context, tok gate.Token) (err error) {
		out, used, err = m.Decrypt(ctx, tok, t, ciphertext)
		return err
	})
	if err != nil && len(bytes.Trim(out, "\x00")) == 0 { // wiped by the node
		out = nil
	}
	return out, used, err
}

func (m *member) generate(t node.Target, length int) (plain, wrapped []byte, used node.Used, err error) {
	err = m.do(m.workload(t.Tenant), gate.GenerateDataKey, t.Name(), func(ctx context.Context, tok gate.Token) error {
		key, w, u, err := m.GenerateDataKey(ctx, tok, t, length)
		wrapped, used = w, u
		if err != nil {
			return err
		}
		defer key.Destroy()
		plain, err = bytesOf(key)
		return err
	})
	if err != nil {
		plain, wrapped = nil, nil
	}
	return plain, wrapped, used, err
}

func (m *member) unwrap(t node.Target, wrapped []byte) (plain []byte, used node.Used, err error) {
	err = m.do(m.workload(t.Tenant), gate.UnwrapDataKey, t.Name(), func(ctx context.Context, tok gate.Token) error {
		key, u, err := m.UnwrapDataKey(ctx, tok, t, wrapped)
		used = u
		if err != nil {
			return err
		}
		defer key.Destroy()
		plain, err = bytesOf(key)
		return err
	})
	if err != nil {
		plain = nil
	}
	return plain, used, err
}

func (m *member) rewrap(t node.Target, wrapped []byte) (out []byte, used, before node.Used, err error) {
	err = m.do(m.workload(t.Tenant), gate.RewrapDataKey, t.Name(), func(ctx context.Context, tok gate.Token) (err error) {
		out, used, before, err = m.RewrapDataKey(ctx, tok, t, wrapped)
		return err
	})
	if err != nil {
		out = nil
	}
	return out, used, before, err
}

func bytesOf(s memsec.Secret) (out []byte, err error) {
	err = reveal.With(s, func(b []byte) error {
		out = bytes.Clone(b)
		return nil
	})
	return out, err
}

func target(tenant, service hierarchy.Name) node.Target {
	return node.Target{Tenant: tenant, Service: service}
}

func encryptionContext(t tb, pairs ...string) hierarchy.EncryptionContext {
	t.Helper()
	var ps []hierarchy.ContextPair
	for i := 0; i < len(pairs); i += 2 {
		ps = append(ps, hierarchy.ContextPair{Key: pairs[i], Value: pairs[i+1]})
	}
	return must[hierarchy.EncryptionContext](t)(hierarchy.NewEncryptionContext(ps...))
}

// Init.

func person(t tb, name string) node.Person {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	return node.Person{Name: name, PublicKey: must[[]byte](t)(x509.MarshalPKIXPublicKey(pub))}
}

func autoPlan(t tb) node.InitPlan {
	t.Helper()
	return node.InitPlan{
		ClusterName: "test", Voters: 1, Governors: []node.Person{person(t, "gov")}, Custodians: []node.Person{person(t, "cust")},
		Seal:        plan.OneKey(seal.ProviderKey{Provider: "sealing", Key: sealKey}),
		DestroyWait: node.DefaultDestroyWait, RollbackWindow: node.DefaultRollbackWindow,
	}
}

func shamirPlan(t tb, threshold, shares int) node.InitPlan {
	t.Helper()
	p := autoPlan(t)
	p.Seal = plan.Printed(shares, threshold)
	return p
}

func (m *member) init(p node.InitPlan) (out *node.InitResult, err error) {
	err = m.do(auth.LocalOperator(), gate.Init, node.ObjectCluster, func(ctx context.Context, tok gate.Token) (err error) {
		out, err = m.Init(ctx, tok, p)
		return err
	})
	if err == nil && out != nil {
		m.w.callers = pki.IssuerOf(out.CallerCA)
	}
	return out, err
}

// cluster1 is one unsealed node in auto mode with tenant acme and its services
// pay and log.
func cluster1(t testing.TB, opts ...option) (*world, *member) {
	t.Helper()
	w, o := newWorld(t, opts...)
	m := w.add(t, o)
	must[*node.InitResult](t)(m.init(autoPlan(t)))
	w.tenant(m, "acme", "pay", "log")
	return w, m
}

func (w *world) tenant(m *member, name hierarchy.Name, services ...hierarchy.Name) {
	w.tb.Helper()
	must[*fsmpb.Tenant](w.tb)(m.createTenant(w.request(), name, binding()))
	for _, s := range services {
		must[*fsmpb.Service](w.tb)(m.createService(w.request(), name, s))
	}
	if w.format == 0 || w.format >= fsm.FormatAuthority {
		w.bind(m, auth.RoleWorkload, name, "app")
	}
}

// wants checks the code of an error.
func wants(t tb, err error, want errs.Code) {
	t.Helper()
	if want == errs.Unspecified {
		if err != nil {
			t.Errorf("%v (%v), want success", err, errs.Of(err))
		}
		return
	}
	if !errs.Is(err, want) {
		t.Errorf("%v (%v), want %v", err, errs.Of(err), want)
	}
}

// records returns the records of an act.
func (m *member) records(act string) (out []audit.Record) {
	for _, r := range m.sink.Records() {
		if r.Act == act {
			out = append(out, r)
		}
	}
	return out
}

func readFile(dir, name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) }
