package server

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

type tenantsServer struct {
	kryptonv1.UnimplementedTenantsServer
	*calls
}

// CreateTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) CreateTenant(ctx context.Context, r *kryptonv1.CreateTenantRequest) (*kryptonv1.Tenant, error) {
	name, err := hierarchy.ParseName(r.GetTenantId())
	if err != nil {
		return nil, inField("tenant_id", err)
	}
	b, err := createdBinding(r.GetBinding())
	if err != nil {
		return nil, err
	}
	governors, err := s.governors(r.GetGovernors())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var t *fsmpb.Tenant
	err = s.do(ctx, gate.CreateTenant, hierarchy.TenantPath(name).String(), func(tok gate.Token) (err error) {
		if t, err = s.node.CreateTenant(ctx, tok, req, name, b, governors); err != nil {
			return err
		}
		return s.after(ctx, tok, req, t.GetModIndex())
	})
	if err != nil {
		return nil, err
	}
	return s.show(s.machine.View(), t), nil
}

// createdBinding is the binding of a tenant that is made, nil for one that has none yet.
func createdBinding(b *kryptonv1.Binding) (*fsmpb.Binding, error) {
	if b == nil {
		return nil, nil //nolint:nilnil // A tenant without a key has no binding.
	}
	out, err := bindingOf(b)
	if err != nil {
		return nil, err
	}
	if len(out.GetIdentity()) != 0 || len(out.GetRegions()) != 0 || len(out.GetSharedWith()) != 0 {
		return nil, errs.New(errs.InvalidArgument, "binding.identity, regions and shared_with are for a tenant that is there: the identity is for its uid",
			errs.Hint("make it without a binding, then bind it: krypton tenant bind"))
	}
	return out, nil
}

// bindingOf reads a binding. Nothing that a keystore says can be chosen.
func bindingOf(b *kryptonv1.Binding) (*fsmpb.Binding, error) {
	switch {
	case b.GetKeystore() == "" || b.GetKey() == "":
		return nil, errs.New(errs.InvalidArgument, "a binding needs keystore and key of the customer's key (L1)",
			errs.Hint("krypton tenant create NAME --keystore NAME --key KEY"))
	case b.GetKeyVersion() != "":
		return nil, errs.New(errs.InvalidArgument, "binding.key_version is what the keystore says; it cannot be chosen", errs.Hint("leave it out"))
	case b.GetL1() != "" || len(b.GetDeniedIn()) != 0:
		return nil, errs.New(errs.InvalidArgument, "binding.l1 and denied_in are what was found out; they cannot be chosen", errs.Hint("leave them out"))
	case len(b.GetKeystore()) > fsm.MaxKeystoreBytes || len(b.GetKey()) > fsm.MaxKeyRefBytes:
		// Before the keystore is asked: what it would be asked is not stored anyway.
		return nil, errs.New(errs.InvalidArgument, "the binding names a keystore or a key with too long a name",
			errs.Hint("a keystore has at most %d bytes, a key %d", fsm.MaxKeystoreBytes, fsm.MaxKeyRefBytes))
	case len(b.GetIdentity()) > fsm.MaxIdentityNames || len(b.GetRegions()) > fsm.MaxRegions || len(b.GetSharedWith()) > fsm.MaxShared:
		return nil, errs.New(errs.InvalidArgument, "the binding has too many names of an identity, regions or tenants",
			errs.Hint("at most %d, %d and %d", fsm.MaxIdentityNames, fsm.MaxRegions, fsm.MaxShared))
	}
	out := &fsmpb.Binding{Keystore: b.GetKeystore(), Key: b.GetKey(), Archetype: b.GetArchetype(), Regions: ordered(b.GetRegions())}
	for _, n := range b.GetIdentity() {
		if slices.ContainsFunc(out.GetIdentity(), func(o *fsmpb.IdentityName) bool { return o.GetName() == n.GetName() }) || n.GetValue() == "" {
			return nil, errs.New(errs.InvalidArgument, "binding.identity has a name twice, or one without a value", errs.Hint("give each name once"))
		}
		out.Identity = append(out.Identity, &fsmpb.IdentityName{Name: n.GetName(), Value: n.GetValue()})
	}
	slices.SortFunc(out.GetIdentity(), func(x, y *fsmpb.IdentityName) int { return strings.Compare(x.GetName(), y.GetName()) })
	for _, name := range b.GetSharedWith() {
		p, err := path(name, "binding.shared_with", hierarchy.KindTenant)
		if err != nil {
			return nil, err
		}
		out.SharedWith = append(out.SharedWith, string(p.Tenant))
	}
	out.SharedWith = ordered(out.GetSharedWith())
	return out, nil
}

func ordered(all []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(all)))
}

// BindTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) BindTenant(ctx context.Context, r *kryptonv1.BindTenantRequest) (*kryptonv1.Tenant, error) {
	b, err := bindingOf(r.GetBinding())
	if err != nil {
		return nil, err
	}
	out, err := s.change(ctx, gate.BindTenant, r, func(tok gate.Token, req node.Request, o node.Object) (err error) {
		b, err = s.node.BindTenant(ctx, tok, req, o.Tenant, b)
		return err
	})
	if err == nil && r.GetValidateOnly() {
		out.Binding = bindingToAPI(b)
	}
	return out, err
}

// show is a tenant with the names of its governors in that view.
func (s tenantsServer) show(v *fsm.View, t *fsmpb.Tenant) *kryptonv1.Tenant {
	out := tenantToAPI(t, s.window())
	out.Governors = governorNames(v, t.GetGovernors())
	return out
}

// GetTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) GetTenant(ctx context.Context, r *kryptonv1.GetTenantRequest) (*kryptonv1.Tenant, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindTenant)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Tenant
	err = s.do(ctx, gate.GetTenant, p.String(), func(gate.Token) (err error) {
		l := s.look(ctx)
		out, err = s.tenant(l.View, p.Tenant)
		return s.shown(ctx, l, newest(out), err)
	})
	return out, err
}

func (s tenantsServer) tenant(v *fsm.View, name hierarchy.Name) (*kryptonv1.Tenant, error) {
	t, ok := v.Tenant(string(name))
	if !ok {
		return nil, gate.NoSuchObject()
	}
	return s.show(v, t), nil
}

// ListTenants implements kryptonv1.TenantsServer.
func (s tenantsServer) ListTenants(ctx context.Context, r *kryptonv1.ListTenantsRequest) (*kryptonv1.ListTenantsResponse, error) {
	pg, err := page(r, "tenants", r.GetFilter())
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListTenantsResponse{}
	err = s.do(ctx, gate.ListTenants, "tenants", func(gate.Token) error {
		l := s.look(ctx)
		out.Tenants, out.NextPageToken = collect(pg, l.View.Tenants,
			func(t *fsmpb.Tenant) (string, kryptonv1.ObjectState) {
				return t.GetName(), kryptonv1.ObjectState(t.GetState())
			},
			func(t *fsmpb.Tenant) *kryptonv1.Tenant { return s.show(l.View, t) })
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// change runs a change of a tenant and answers with the tenant after it.
func (s tenantsServer) change(ctx context.Context, act gate.Act, m interface {
	proto.Message
	GetName() string
}, fn func(tok gate.Token, r node.Request, o node.Object) error,
) (*kryptonv1.Tenant, error) {
	p, err := path(m.GetName(), "name", hierarchy.KindTenant)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, m)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Tenant
	err = s.do(ctx, act, p.String(), func(tok gate.Token) error {
		if err := fn(tok, req, node.Object{Tenant: p.Tenant}); err != nil {
			return err
		}
		if out, err = s.tenant(s.machine.View(), p.Tenant); err != nil {
			return err
		}
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// event runs a change of a tenant's state.
func (s tenantsServer) event(ctx context.Context, m interface {
	proto.Message
	GetName() string
}, e fsmpb.ObjectEvent, w node.Wait,
) (*kryptonv1.Tenant, error) {
	return s.change(ctx, node.ObjectAct(node.Object{}, e, w), m, func(tok gate.Token, r node.Request, o node.Object) error {
		return s.node.ChangeObject(ctx, tok, r, o, e, w)
	})
}

// SuspendTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) SuspendTenant(ctx context.Context, r *kryptonv1.SuspendTenantRequest) (*kryptonv1.Tenant, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, node.AfterWait)
}

// ResumeTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) ResumeTenant(ctx context.Context, r *kryptonv1.ResumeTenantRequest) (*kryptonv1.Tenant, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_RESUME, node.AfterWait)
}

// DeleteTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) DeleteTenant(ctx context.Context, r *kryptonv1.DeleteTenantRequest) (*kryptonv1.Tenant, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, wait(r))
}

// UndeleteTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) UndeleteTenant(ctx context.Context, r *kryptonv1.UndeleteTenantRequest) (*kryptonv1.Tenant, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY, node.AfterWait)
}

// RotateTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) RotateTenant(ctx context.Context, r *kryptonv1.RotateTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, gate.RotateTenant, r, func(tok gate.Token, req node.Request, o node.Object) error {
		return s.node.Rotate(ctx, tok, req, o)
	})
}

// RollbackTenant implements kryptonv1.TenantsServer.
func (s tenantsServer) RollbackTenant(ctx context.Context, r *kryptonv1.RollbackTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, gate.RollbackTenant, r, func(tok gate.Token, req node.Request, o node.Object) error {
		return s.node.Rollback(ctx, tok, req, o, r.GetVersion())
	})
}

// wait reads the now of a destruction.
func wait(r interface{ GetNow() bool }) node.Wait {
	if r.GetNow() {
		return node.WithoutWait
	}
	return node.AfterWait
}

// SetGovernors implements kryptonv1.TenantsServer.
func (s tenantsServer) SetGovernors(ctx context.Context, r *kryptonv1.SetGovernorsRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, gate.SetGovernors, r, func(tok gate.Token, req node.Request, o node.Object) error {
		uids, err := s.governors(r.GetGovernors())
		if err != nil {
			return err
		}
		return s.node.SetGovernors(ctx, tok, req, o.Tenant, uids)
	})
}

// governors returns the uids of role bindings of governors, in ascending order.
func (s tenantsServer) governors(names []string) (uids [][]byte, err error) {
	v := s.machine.View()
	for _, name := range names {
		p, err := path(name, "governors", hierarchy.KindRoleBinding)
		if err != nil {
			return nil, err
		}
		b, ok := v.Binding("", string(p.ID))
		if !ok || b.GetRole() != auth.RoleGovernor.String() {
			return nil, errs.New(errs.FailedState, "governors names a role binding that does not exist, or not that of a governor", errs.Hint("krypton role list shows those that do"))
		}
		uids = append(uids, b.GetUid())
	}
	slices.SortFunc(uids, bytes.Compare)
	return slices.CompactFunc(uids, bytes.Equal), nil
}

// governorNames is the inverse of governors. Those whose binding is gone are left out.
func governorNames(v *fsm.View, uids [][]byte) (names []string) {
	for _, uid := range uids {
		if b, ok := v.BindingByUID(uid); ok {
			names = append(names, bindingName(b))
		}
	}
	slices.Sort(names)
	return names
}
