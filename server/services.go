package server

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/node"
)

type servicesServer struct {
	kryptonv1.UnimplementedServicesServer
	*calls
}

// named is a request about one object.
type named interface {
	proto.Message
	GetName() string
}

// CreateService implements kryptonv1.ServicesServer.
func (s servicesServer) CreateService(ctx context.Context, r *kryptonv1.CreateServiceRequest) (*kryptonv1.Service, error) {
	parent, err := path(r.GetParent(), "parent", hierarchy.KindTenant)
	if err != nil {
		return nil, err
	}
	name, err := hierarchy.ParseName(r.GetServiceId())
	if err != nil {
		return nil, inField("service_id", err)
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Service
	err = s.do(ctx, gate.CreateService, hierarchy.ServicePath(parent.Tenant, name).String(), func(tok gate.Token) error {
		made, err := s.node.CreateService(ctx, tok, req, parent.Tenant, name)
		if err != nil {
			return err
		}
		t, _ := s.machine.View().Tenant(string(parent.Tenant))
		out = serviceToAPI(made, t, s.window())
		return s.after(ctx, tok, req, made.GetModIndex())
	})
	return out, err
}

func (s servicesServer) service(v *fsm.View, p hierarchy.Path) (*kryptonv1.Service, error) {
	t, ok := v.Tenant(string(p.Tenant))
	if !ok {
		return nil, gate.NoSuchObject()
	}
	svc, ok := v.ServiceOf(t, string(p.Service))
	if !ok {
		return nil, gate.NoSuchObject()
	}
	return serviceToAPI(svc, t, s.window()), nil
}

// GetService implements kryptonv1.ServicesServer.
func (s servicesServer) GetService(ctx context.Context, r *kryptonv1.GetServiceRequest) (*kryptonv1.Service, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindService)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Service
	err = s.do(ctx, gate.GetService, p.String(), func(gate.Token) (err error) {
		l := s.look(ctx)
		out, err = s.service(l.View, p)
		return s.shown(ctx, l, newest(out), err)
	})
	return out, err
}

// ListServices implements kryptonv1.ServicesServer.
func (s servicesServer) ListServices(ctx context.Context, r *kryptonv1.ListServicesRequest) (*kryptonv1.ListServicesResponse, error) {
	p, err := path(r.GetParent(), "parent", hierarchy.KindTenant)
	if err != nil {
		return nil, err
	}
	pg, err := page(r, p.String()+"/services", r.GetFilter())
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListServicesResponse{}
	err = s.do(ctx, gate.ListServices, p.String(), func(gate.Token) error {
		l := s.look(ctx)
		t, ok := l.View.Tenant(string(p.Tenant))
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out.Services, out.NextPageToken = collect(pg, func(after string, limit int) []*fsmpb.Service { return l.View.Services(t, after, limit) },
			func(x *fsmpb.Service) (string, kryptonv1.ObjectState) {
				return x.GetName(), kryptonv1.ObjectState(x.GetState())
			},
			func(x *fsmpb.Service) *kryptonv1.Service { return serviceToAPI(x, t, s.window()) })
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// change runs a change of a service and answers with the service after it.
func (s servicesServer) change(ctx context.Context, act gate.Act, m named, fn func(tok gate.Token, r node.Request, o node.Object) error) (*kryptonv1.Service, error) {
	p, err := path(m.GetName(), "name", hierarchy.KindService)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, m)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Service
	err = s.do(ctx, act, p.String(), func(tok gate.Token) error {
		if err := fn(tok, req, node.Object{Tenant: p.Tenant, Service: p.Service}); err != nil {
			return err
		}
		if out, err = s.service(s.machine.View(), p); err != nil {
			return err
		}
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

func (s servicesServer) event(ctx context.Context, m named, e fsmpb.ObjectEvent, w node.Wait) (*kryptonv1.Service, error) {
	return s.change(ctx, node.ObjectAct(node.Object{Service: "any"}, e, w), m, func(tok gate.Token, r node.Request, o node.Object) error {
		return s.node.ChangeObject(ctx, tok, r, o, e, w)
	})
}

// DeleteService implements kryptonv1.ServicesServer.
func (s servicesServer) DeleteService(ctx context.Context, r *kryptonv1.DeleteServiceRequest) (*kryptonv1.Service, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, wait(r))
}

// UndeleteService implements kryptonv1.ServicesServer.
func (s servicesServer) UndeleteService(ctx context.Context, r *kryptonv1.UndeleteServiceRequest) (*kryptonv1.Service, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY, node.AfterWait)
}

// SuspendService implements kryptonv1.ServicesServer.
func (s servicesServer) SuspendService(ctx context.Context, r *kryptonv1.SuspendServiceRequest) (*kryptonv1.Service, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, node.AfterWait)
}

// ResumeService implements kryptonv1.ServicesServer.
func (s servicesServer) ResumeService(ctx context.Context, r *kryptonv1.ResumeServiceRequest) (*kryptonv1.Service, error) {
	return s.event(ctx, r, fsmpb.ObjectEvent_OBJECT_EVENT_RESUME, node.AfterWait)
}

// RotateService implements kryptonv1.ServicesServer.
func (s servicesServer) RotateService(ctx context.Context, r *kryptonv1.RotateServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, gate.RotateService, r, func(tok gate.Token, req node.Request, o node.Object) error {
		return s.node.Rotate(ctx, tok, req, o)
	})
}

// RollbackService implements kryptonv1.ServicesServer.
func (s servicesServer) RollbackService(ctx context.Context, r *kryptonv1.RollbackServiceRequest) (*kryptonv1.Service, error) {
	return s.change(ctx, gate.RollbackService, r, func(tok gate.Token, req node.Request, o node.Object) error {
		return s.node.Rollback(ctx, tok, req, o, r.GetVersion())
	})
}

// versionPath parses the name of a version of a tenant or service key.
func versionPath(name string) (hierarchy.Path, error) {
	return path(name, "name", hierarchy.KindTenantVersion, hierarchy.KindServiceVersion)
}

func (s servicesServer) version(v *fsm.View, p hierarchy.Path) (*kryptonv1.KeyVersion, error) {
	t, ok := v.Tenant(string(p.Tenant))
	if !ok {
		return nil, gate.NoSuchObject()
	}
	ch := tenantChain(t, s.window())
	if p.Service != "" {
		svc, ok := v.ServiceOf(t, string(p.Service))
		if !ok {
			return nil, gate.NoSuchObject()
		}
		ch = serviceChain(svc, t, s.window())
	}
	number := uint32(min(p.Version, hierarchy.MaxVersions+1)) // no version has that number
	if number == 0 {
		number = ch.primary
	}
	one, ok := fsm.VersionAt(ch.versions, number)
	if !ok {
		return nil, gate.NoSuchObject()
	}
	return ch.one(one), nil
}

// GetVersion implements kryptonv1.ServicesServer.
func (s servicesServer) GetVersion(ctx context.Context, r *kryptonv1.GetVersionRequest) (*kryptonv1.KeyVersion, error) {
	p, object, err := anyVersion(r.GetName())
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.KeyVersion
	err = s.do(ctx, gate.GetVersion, object, func(gate.Token) (err error) {
		l := s.look(ctx)
		out, err = s.version(l.View, p)
		return s.shown(ctx, l, newest(out), err)
	})
	return out, err
}

// changeVersion runs a change of one version and answers with it after that.
func (s servicesServer) changeVersion(ctx context.Context, m named, e fsmpb.VersionEvent, w node.Wait) (*kryptonv1.KeyVersion, error) {
	p, err := versionPath(m.GetName())
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, m)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.KeyVersion
	err = s.do(ctx, node.VersionAct(e, w), p.String(), func(tok gate.Token) error {
		if p.Version > hierarchy.MaxVersions {
			return gate.NoSuchObject()
		}
		o := node.Object{Tenant: p.Tenant, Service: p.Service}
		if err := s.node.ChangeVersion(ctx, tok, req, o, uint32(p.Version), e, w); err != nil {
			return err
		}
		if out, err = s.version(s.machine.View(), p); err != nil {
			return err
		}
		return s.after(ctx, tok, req, newest(out))
	})
	return out, err
}

// EnableVersion implements kryptonv1.ServicesServer.
func (s servicesServer) EnableVersion(ctx context.Context, r *kryptonv1.EnableVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.changeVersion(ctx, r, fsmpb.VersionEvent_VERSION_EVENT_ENABLE, node.AfterWait)
}

// DisableVersion implements kryptonv1.ServicesServer.
func (s servicesServer) DisableVersion(ctx context.Context, r *kryptonv1.DisableVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.changeVersion(ctx, r, fsmpb.VersionEvent_VERSION_EVENT_DISABLE, node.AfterWait)
}

// DeprecateVersion implements kryptonv1.ServicesServer.
func (s servicesServer) DeprecateVersion(ctx context.Context, r *kryptonv1.DeprecateVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.changeVersion(ctx, r, fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE, node.AfterWait)
}

// CompromiseVersion implements kryptonv1.ServicesServer.
func (s servicesServer) CompromiseVersion(ctx context.Context, r *kryptonv1.CompromiseVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.changeVersion(ctx, r, fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE, node.AfterWait)
}

// DestroyVersion implements kryptonv1.ServicesServer.
func (s servicesServer) DestroyVersion(ctx context.Context, r *kryptonv1.DestroyVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.changeVersion(ctx, r, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY, wait(r))
}

// CancelDestroyVersion implements kryptonv1.ServicesServer.
func (s servicesServer) CancelDestroyVersion(ctx context.Context, r *kryptonv1.CancelDestroyVersionRequest) (*kryptonv1.KeyVersion, error) {
	return s.changeVersion(ctx, r, fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY, node.AfterWait)
}

// resource answers with a resource as it is in that view, and the index of its last
// change. One that is not pinned is no object: it exists in callers' hands only, and
// the end of its pin was a change of the service.
func (s servicesServer) resource(v *fsm.View, p hierarchy.Path) (*kryptonv1.Resource, uint64, error) {
	svc, ok := v.Service(string(p.Tenant), string(p.Service))
	if !ok {
		return nil, 0, gate.NoSuchObject()
	}
	if r, ok := v.Resource(svc, string(p.Resource)); ok {
		return resourceToAPI(p, r), r.GetModIndex(), nil
	}
	return &kryptonv1.Resource{Name: p.String()}, svc.GetModIndex(), nil
}

// GetResource implements kryptonv1.ServicesServer.
func (s servicesServer) GetResource(ctx context.Context, r *kryptonv1.GetResourceRequest) (*kryptonv1.Resource, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindResource)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Resource
	err = s.do(ctx, gate.GetResource, p.String(), func(gate.Token) (err error) {
		l := s.look(ctx)
		var index uint64
		out, index, err = s.resource(l.View, p)
		return s.shown(ctx, l, index, err)
	})
	return out, err
}

// ListResources implements kryptonv1.ServicesServer.
func (s servicesServer) ListResources(ctx context.Context, r *kryptonv1.ListResourcesRequest) (*kryptonv1.ListResourcesResponse, error) {
	p, err := path(r.GetParent(), "parent", hierarchy.KindService)
	if err != nil {
		return nil, err
	}
	pg, err := page(r, p.String()+"/resources", "")
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListResourcesResponse{}
	err = s.do(ctx, gate.ListResources, p.String(), func(gate.Token) error {
		l := s.look(ctx)
		svc, ok := l.View.Service(string(p.Tenant), string(p.Service))
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out.Resources, out.NextPageToken = collect(pg, func(after string, limit int) []*fsmpb.Resource { return l.View.Resources(svc, after, limit) },
			func(x *fsmpb.Resource) (string, kryptonv1.ObjectState) {
				return x.GetId(), kryptonv1.ObjectState_OBJECT_STATE_ACTIVE
			},
			func(x *fsmpb.Resource) *kryptonv1.Resource {
				return resourceToAPI(hierarchy.ResourcePath(p.Tenant, p.Service, hierarchy.ResourceID(x.GetId())), x)
			})
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s servicesServer) changeResource(ctx context.Context, act gate.Act, m named, fn func(tok gate.Token, r node.Request, o node.Object, id hierarchy.ResourceID) error) (*kryptonv1.Resource, error) {
	p, err := path(m.GetName(), "name", hierarchy.KindResource)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, m)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Resource
	err = s.do(ctx, act, p.String(), func(tok gate.Token) error {
		if err := fn(tok, req, node.Object{Tenant: p.Tenant, Service: p.Service}, p.Resource); err != nil {
			return err
		}
		var index uint64
		if out, index, err = s.resource(s.machine.View(), p); err != nil {
			return err
		}
		return s.after(ctx, tok, req, index)
	})
	return out, err
}

// PinResource implements kryptonv1.ServicesServer.
func (s servicesServer) PinResource(ctx context.Context, r *kryptonv1.PinResourceRequest) (*kryptonv1.Resource, error) {
	return s.changeResource(ctx, gate.PinResource, r, func(tok gate.Token, req node.Request, o node.Object, id hierarchy.ResourceID) error {
		return s.node.PinResource(ctx, tok, req, o, id, r.GetVersion())
	})
}

// UnpinResource implements kryptonv1.ServicesServer.
func (s servicesServer) UnpinResource(ctx context.Context, r *kryptonv1.UnpinResourceRequest) (*kryptonv1.Resource, error) {
	return s.changeResource(ctx, gate.UnpinResource, r, func(tok gate.Token, req node.Request, o node.Object, id hierarchy.ResourceID) error {
		return s.node.UnpinResource(ctx, tok, req, o, id)
	})
}

// RollbackResource implements kryptonv1.ServicesServer.
func (s servicesServer) RollbackResource(ctx context.Context, r *kryptonv1.RollbackResourceRequest) (*kryptonv1.Resource, error) {
	return s.changeResource(ctx, gate.RollbackResource, r, func(tok gate.Token, req node.Request, o node.Object, id hierarchy.ResourceID) error {
		return s.node.RollbackResource(ctx, tok, req, o, id)
	})
}

// anyVersion parses the name of a version whose number may be the word primary;
// Version is then 0. The second result is the object for the record.
func anyVersion(name string) (hierarchy.Path, string, error) {
	if of, ok := strings.CutSuffix(name, node.Primary); ok {
		p, err := path(of, "name", hierarchy.KindTenant, hierarchy.KindService)
		return p, p.String() + node.Primary, err
	}
	p, err := versionPath(name)
	return p, p.String(), err
}
