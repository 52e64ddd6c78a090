package clienttest

import (
	"context"
	"strings"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

type tenantsServer struct {
	kryptonv1.UnimplementedTenantsServer
	reg *registry
}

func (s tenantsServer) CreateTenant(ctx context.Context, r *kryptonv1.CreateTenantRequest) (*kryptonv1.Tenant, error) {
	if err := govern(ctx); err != nil {
		return nil, err
	}
	return s.reg.newTenant(r.GetTenantId(), r.GetBinding(), r.GetValidateOnly())
}

func (s tenantsServer) GetTenant(_ context.Context, r *kryptonv1.GetTenantRequest) (*kryptonv1.Tenant, error) {
	t, err := s.reg.tenant(r.GetName())
	if err != nil {
		return nil, err
	}
	return clone(t), nil
}

func (s tenantsServer) ListTenants(_ context.Context, r *kryptonv1.ListTenantsRequest) (*kryptonv1.ListTenantsResponse, error) {
	var match []string
	for _, n := range sortedNames(s.reg.tenants, "") {
		want := strings.TrimPrefix(r.GetFilter(), "state=")
		if want == "" || s.reg.tenants[n].GetState().String() == "OBJECT_STATE_"+want {
			match = append(match, n)
		}
	}
	names, next := page(match, r.GetPageSize(), r.GetPageToken())
	resp := &kryptonv1.ListTenantsResponse{NextPageToken: next}
	for _, n := range names {
		resp.Tenants = append(resp.Tenants, clone(s.reg.tenants[n]))
	}
	return resp, nil
}

func (s tenantsServer) change(ctx context.Context, name, etag string, dry bool, f func(*kryptonv1.Tenant) error) (*kryptonv1.Tenant, error) {
	if err := govern(ctx); err != nil {
		return nil, err
	}
	t, err := s.reg.tenant(name)
	if err != nil {
		return nil, err
	}
	if err := checkEtag(t.GetEtag(), etag); err != nil {
		return nil, err
	}
	t = clone(t)
	if err := f(t); err != nil {
		return nil, err
	}
	if !dry {
		s.reg.index++
		t.Etag = s.reg.etag()
		s.reg.tenants[name] = t
	}
	return clone(t), nil
}

func move(state *kryptonv1.ObjectState, from, to kryptonv1.ObjectState) error {
	if *state != from {
		return errs.New(errs.FailedState, "the object is in a state that does not allow this", errs.Hint("look at its state first"))
	}
	*state = to
	return nil
}

const (
	active    = kryptonv1.ObjectState_OBJECT_STATE_ACTIVE
	suspended = kryptonv1.ObjectState_OBJECT_STATE_SUSPENDED
	scheduled = kryptonv1.ObjectState_OBJECT_STATE_DESTROY_SCHEDULED
	destroyed = kryptonv1.ObjectState_OBJECT_STATE_DESTROYED
	week      = 7 * 24 * time.Hour
)

func (s tenantsServer) SuspendTenant(ctx context.Context, r *kryptonv1.SuspendTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(t *kryptonv1.Tenant) error {
		t.SuspendCauses = []string{"operator"}
		return move(&t.State, active, suspended)
	})
}

func (s tenantsServer) ResumeTenant(ctx context.Context, r *kryptonv1.ResumeTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(t *kryptonv1.Tenant) error {
		t.SuspendCauses = nil
		return move(&t.State, suspended, active)
	})
}

func (s tenantsServer) DeleteTenant(ctx context.Context, r *kryptonv1.DeleteTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(t *kryptonv1.Tenant) error {
		if t.GetState() == destroyed {
			return move(&t.State, active, destroyed)
		}
		t.State, t.DestroyTime = scheduled, later(week)
		if r.GetNow() {
			t.State, t.DestroyTime = destroyed, now()
		}
		return nil
	})
}

func (s tenantsServer) UndeleteTenant(ctx context.Context, r *kryptonv1.UndeleteTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(t *kryptonv1.Tenant) error {
		t.DestroyTime = nil
		return move(&t.State, scheduled, suspended)
	})
}

func (s tenantsServer) RotateTenant(ctx context.Context, r *kryptonv1.RotateTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(t *kryptonv1.Tenant) error {
		t.Versions = s.reg.addVersion(t.GetVersions(), t.GetName(), "", r.GetValidateOnly())
		t.PrimaryVersion = uint32(len(t.GetVersions()))
		return nil
	})
}

func (s tenantsServer) RollbackTenant(ctx context.Context, r *kryptonv1.RollbackTenantRequest) (*kryptonv1.Tenant, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(t *kryptonv1.Tenant) (err error) {
		t.PrimaryVersion, err = rollback(t.GetVersions(), t.GetPrimaryVersion(), r.GetVersion())
		return err
	})
}

// rollback makes version to the primary one; 0 means the one before.
func rollback(vs []*kryptonv1.KeyVersion, primary, to uint32) (uint32, error) {
	if to == 0 {
		to = primary - 1
	}
	for _, v := range vs {
		if v.GetNumber() != to {
			continue
		}
		if v.GetState() != kryptonv1.VersionState_VERSION_STATE_ACTIVE || to == primary {
			break
		}
		for _, o := range vs {
			o.Primary = o == v
		}
		return to, nil
	}
	return 0, errs.New(errs.FailedState, "the key version cannot become primary again", errs.Hint("rotate to a new version"))
}
