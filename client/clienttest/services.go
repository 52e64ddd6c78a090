package clienttest

import (
	"context"
	"strconv"
	"strings"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

type servicesServer struct {
	kryptonv1.UnimplementedServicesServer
	reg *registry
}

func (s servicesServer) CreateService(ctx context.Context, r *kryptonv1.CreateServiceRequest) (*kryptonv1.Service, error) {
	if err := govern(ctx); err != nil {
		return nil, err
	}
	return s.reg.newService(r.GetParent(), r.GetServiceId(), r.GetValidateOnly())
}

func (s servicesServer) GetService(_ context.Context, r *kryptonv1.GetServiceRequest) (*kryptonv1.Service, error) {
	svc, err := s.reg.service(r.GetName())
	if err != nil {
		return nil, err
	}
	return clone(svc), nil
}

func (s servicesServer) ListServices(_ context.Context, r *kryptonv1.ListServicesRequest) (*kryptonv1.ListServicesResponse, error) {
	if _, err := s.reg.tenant(r.GetParent()); err != nil {
		return nil, err
	}
	names, next := page(sortedNames(s.reg.services, r.GetParent()+"/"), r.GetPageSize(), r.GetPageToken())
	resp := &kryptonv1.ListServicesResponse{NextPageToken: next}
	for _, n := range names {
		resp.Services = append(resp.Services, clone(s.reg.services[n]))
	}
	return resp, nil
}

func (s servicesServer) change(ctx context.Context, name, etag string, dry bool, f func(*kryptonv1.Service) error) (*kryptonv1.Service, error) {
	if err := govern(ctx); err != nil {
		return nil, err
	}
	svc, err := s.reg.service(name)
	if err != nil {
		return nil, err
	}
	if err := checkEtag(svc.GetEtag(), etag); err != nil {
		return nil, err
	}
	svc = clone(svc)
	if err := f(svc); err != nil {
		return nil, err
	}
	if !dry {
		s.reg.index++
		svc.Etag = s.reg.etag()
		s.reg.services[name] = svc
	}
	return clone(svc), nil
}

func (s servicesServer) DeleteService(ctx context.Context, r *kryptonv1.DeleteServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(v *kryptonv1.Service) error {
		v.State, v.DestroyTime = scheduled, later(week)
		if r.GetNow() {
			v.State, v.DestroyTime = destroyed, now()
		}
		return nil
	})
}

func (s servicesServer) UndeleteService(ctx context.Context, r *kryptonv1.UndeleteServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(v *kryptonv1.Service) error {
		v.DestroyTime = nil
		return move(&v.State, scheduled, suspended)
	})
}

func (s servicesServer) SuspendService(ctx context.Context, r *kryptonv1.SuspendServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(v *kryptonv1.Service) error {
		v.SuspendCauses = []string{"operator"}
		return move(&v.State, active, suspended)
	})
}

func (s servicesServer) ResumeService(ctx context.Context, r *kryptonv1.ResumeServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(v *kryptonv1.Service) error {
		v.SuspendCauses = nil
		return move(&v.State, suspended, active)
	})
}

func (s servicesServer) RotateService(ctx context.Context, r *kryptonv1.RotateServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(v *kryptonv1.Service) error {
		v.Versions = s.reg.addVersion(v.GetVersions(), v.GetName(), v.GetVersions()[0].GetParent(), r.GetValidateOnly())
		v.PrimaryVersion = uint32(len(v.GetVersions()))
		return nil
	})
}

func (s servicesServer) RollbackService(ctx context.Context, r *kryptonv1.RollbackServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, r.GetName(), r.GetEtag(), r.GetValidateOnly(), func(v *kryptonv1.Service) (err error) {
		v.PrimaryVersion, err = rollback(v.GetVersions(), v.GetPrimaryVersion(), r.GetVersion())
		return err
	})
}

// version finds the versions of the key that name belongs to, and the version.
func (s servicesServer) version(name string) (*kryptonv1.KeyVersion, error) {
	key, num, _ := strings.Cut(name, "/versions/")
	var vs []*kryptonv1.KeyVersion
	if strings.Contains(key, "/services/") {
		svc, err := s.reg.service(key)
		if err != nil {
			return nil, err
		}
		vs = svc.GetVersions()
	} else {
		t, err := s.reg.tenant(key)
		if err != nil {
			return nil, err
		}
		vs = t.GetVersions()
	}
	for _, v := range vs {
		if strconv.Itoa(int(v.GetNumber())) == num || num == "primary" && v.GetPrimary() {
			return v, nil
		}
	}
	return nil, errs.New(errs.NotFound, "no such version", errs.Hint("list the versions of the key"))
}

func (s servicesServer) GetVersion(_ context.Context, r *kryptonv1.GetVersionRequest) (*kryptonv1.KeyVersion, error) {
	v, err := s.version(r.GetName())
	if err != nil {
		return nil, err
	}
	return clone(v), nil
}

const (
	vActive      = kryptonv1.VersionState_VERSION_STATE_ACTIVE
	vDeprecated  = kryptonv1.VersionState_VERSION_STATE_DEPRECATED
	vDisabled    = kryptonv1.VersionState_VERSION_STATE_DISABLED
	vCompromised = kryptonv1.VersionState_VERSION_STATE_COMPROMISED
	vScheduled   = kryptonv1.VersionState_VERSION_STATE_DESTROY_SCHEDULED
	vDestroyed   = kryptonv1.VersionState_VERSION_STATE_DESTROYED
)

// versionRequest is what the requests on versions have in common.
type versionRequest interface {
	GetName() string
	GetEtag() string
	GetValidateOnly() bool
}

func (s servicesServer) to(ctx context.Context, r versionRequest, to kryptonv1.VersionState, from ...kryptonv1.VersionState) (*kryptonv1.KeyVersion, error) {
	if err := govern(ctx); err != nil {
		return nil, err
	}
	v, err := s.version(r.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkEtag(v.GetEtag(), r.GetEtag()); err != nil {
		return nil, err
	}
	ok := false
	for _, f := range from {
		ok = ok || v.GetState() == f
	}
	if !ok {
		return nil, errs.New(errs.FailedState, "the key version is in a state that does not allow this", errs.Hint("look at its state first"))
	}
	out := v
	if r.GetValidateOnly() {
		out = clone(v)
	}
	out.State, out.DestroyTime = to, nil
	switch to {
	case vScheduled:
		out.DestroyTime = later(week)
	case vDestroyed:
		out.DestroyTime = now()
		if !r.GetValidateOnly() {
			delete(s.reg.keys, v.GetUid())
		}
	case kryptonv1.VersionState_VERSION_STATE_UNSPECIFIED, kryptonv1.VersionState_VERSION_STATE_PRE_ACTIVE,
		vActive, vDeprecated, vDisabled, vCompromised:
	}
	if !r.GetValidateOnly() {
		s.reg.index++
		out.Etag = s.reg.etag()
	}
	return clone(out), nil
}

func (s servicesServer) EnableVersion(ctx context.Context, r *kryptonv1.EnableVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.to(ctx, r, vActive, vDisabled)
}

func (s servicesServer) DisableVersion(ctx context.Context, r *kryptonv1.DisableVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.to(ctx, r, vDisabled, vActive, vDeprecated)
}

func (s servicesServer) DeprecateVersion(ctx context.Context, r *kryptonv1.DeprecateVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.to(ctx, r, vDeprecated, vActive)
}

func (s servicesServer) CompromiseVersion(ctx context.Context, r *kryptonv1.CompromiseVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.to(ctx, r, vCompromised, vActive, vDeprecated, vDisabled)
}

func (s servicesServer) DestroyVersion(ctx context.Context, r *kryptonv1.DestroyVersionRequest) (*kryptonv1.KeyVersion, error) {
	to := vScheduled
	if r.GetNow() {
		to = vDestroyed
	}
	return s.to(ctx, r, to, vActive, vDeprecated, vDisabled, vCompromised)
}

func (s servicesServer) CancelDestroyVersion(ctx context.Context, r *kryptonv1.CancelDestroyVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.to(ctx, r, vDisabled, vScheduled)
}

func (s servicesServer) pin(ctx context.Context, name string, dry bool, f func(*kryptonv1.Resource, *kryptonv1.Service) error) (*kryptonv1.Resource, error) {
	if err := govern(ctx); err != nil {
		return nil, err
	}
	key, _, _ := strings.Cut(name, "/resources/")
	svc, err := s.reg.service(key)
	if err != nil {
		return nil, err
	}
	res := &kryptonv1.Resource{Name: name}
	if old := s.reg.resources[name]; old != nil {
		res = clone(old)
	}
	if err := f(res, svc); err != nil {
		return nil, err
	}
	if !dry {
		s.reg.index++
		res.Etag = s.reg.etag()
		s.reg.resources[name] = res
	}
	return clone(res), nil
}

func errNotPinned() error {
	return errs.New(errs.NotFound, "no version is pinned for this resource", errs.Hint("list them with: krypton resource list"))
}

func (s servicesServer) PinResource(ctx context.Context, r *kryptonv1.PinResourceRequest) (*kryptonv1.Resource, error) {
	return s.pin(ctx, r.GetName(), r.GetValidateOnly(), func(res *kryptonv1.Resource, svc *kryptonv1.Service) error {
		v := r.GetVersion()
		if v == 0 {
			v = svc.GetPrimaryVersion()
		}
		if int(v) > len(svc.GetVersions()) {
			return errs.New(errs.NotFound, "no such version")
		}
		if res.GetVersion() != 0 {
			res.EarlierVersions = append(res.EarlierVersions, res.GetVersion())
		}
		res.Version = v
		return nil
	})
}

func (s servicesServer) UnpinResource(ctx context.Context, r *kryptonv1.UnpinResourceRequest) (*kryptonv1.Resource, error) {
	return s.pin(ctx, r.GetName(), r.GetValidateOnly(), func(res *kryptonv1.Resource, _ *kryptonv1.Service) error {
		if res.GetVersion() == 0 {
			return errNotPinned()
		}
		res.Version, res.EarlierVersions = 0, append(res.EarlierVersions, res.GetVersion())
		return nil
	})
}

func (s servicesServer) RollbackResource(ctx context.Context, r *kryptonv1.RollbackResourceRequest) (*kryptonv1.Resource, error) {
	return s.pin(ctx, r.GetName(), r.GetValidateOnly(), func(res *kryptonv1.Resource, _ *kryptonv1.Service) error {
		n := len(res.GetEarlierVersions())
		if n == 0 {
			return errs.New(errs.FailedState, "the resource has no earlier pin")
		}
		res.Version, res.EarlierVersions = res.GetEarlierVersions()[n-1], res.GetEarlierVersions()[:n-1]
		return nil
	})
}

func (s servicesServer) GetResource(_ context.Context, r *kryptonv1.GetResourceRequest) (*kryptonv1.Resource, error) {
	if res := s.reg.resources[r.GetName()]; res != nil {
		return clone(res), nil
	}
	return nil, errNotPinned()
}

func (s servicesServer) ListResources(_ context.Context, r *kryptonv1.ListResourcesRequest) (*kryptonv1.ListResourcesResponse, error) {
	names, next := page(sortedNames(s.reg.resources, r.GetParent()+"/"), r.GetPageSize(), r.GetPageToken())
	resp := &kryptonv1.ListResourcesResponse{NextPageToken: next}
	for _, n := range names {
		resp.Resources = append(resp.Resources, clone(s.reg.resources[n]))
	}
	return resp, nil
}
