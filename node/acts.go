package node

import (
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Names of the objects that exist once in a cluster.
const (
	ObjectSeal    = "seal"
	ObjectCluster = "cluster"
)

// NodeName returns nodes/{id}.
func NodeName(id string) string { return "nodes/" + id }

// ApprovalName returns approvals/{id}.
func ApprovalName(id string) string { return "approvals/" + id }

// Object names a tenant (Service empty) or one of its services.
type Object struct {
	Tenant  hierarchy.Name
	Service hierarchy.Name
}

// Name returns the object's name.
func (o Object) Name() string {
	if o.Service == "" {
		return hierarchy.TenantPath(o.Tenant).String()
	}
	return hierarchy.ServicePath(o.Tenant, o.Service).String()
}

// VersionName returns the name of a version of the object's key.
func (o Object) VersionName(number uint32) string {
	if o.Service == "" {
		return hierarchy.TenantVersionPath(o.Tenant, hierarchy.VersionNumber(number)).String()
	}
	return hierarchy.ServiceVersionPath(o.Tenant, o.Service, hierarchy.VersionNumber(number)).String()
}

// ResourceName returns the name of a resource of a service.
func (o Object) ResourceName(id hierarchy.ResourceID) string {
	return hierarchy.ResourcePath(o.Tenant, o.Service, id).String()
}

func (o Object) ref() *fsmpb.ObjectRef {
	return &fsmpb.ObjectRef{Tenant: string(o.Tenant), Service: string(o.Service)}
}

// act picks the act for a tenant or a service.
func (o Object) act(tenant, service gate.Act) gate.Act {
	if o.Service == "" {
		return tenant
	}
	return service
}

// ObjectAct returns the act that an event on a tenant or service is.
func ObjectAct(o Object, e fsmpb.ObjectEvent, w Wait) gate.Act {
	switch e {
	case fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND:
		return o.act(gate.SuspendTenant, gate.SuspendService)
	case fsmpb.ObjectEvent_OBJECT_EVENT_RESUME:
		return o.act(gate.ResumeTenant, gate.ResumeService)
	case fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY:
		if w == WithoutWait {
			return o.act(gate.DeleteTenantNow, gate.DeleteServiceNow)
		}
		return o.act(gate.DeleteTenant, gate.DeleteService)
	case fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY:
		return o.act(gate.UndeleteTenant, gate.UndeleteService)
	case fsmpb.ObjectEvent_OBJECT_EVENT_UNSPECIFIED:
	}
	return gate.ActUnspecified
}

// VersionAct returns the act that an event on a key version is.
func VersionAct(e fsmpb.VersionEvent, w Wait) gate.Act {
	switch e {
	case fsmpb.VersionEvent_VERSION_EVENT_ENABLE:
		return gate.EnableVersion
	case fsmpb.VersionEvent_VERSION_EVENT_DISABLE:
		return gate.DisableVersion
	case fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE:
		return gate.DeprecateVersion
	case fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE:
		return gate.CompromiseVersion
	case fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY:
		if w == WithoutWait {
			return gate.DestroyVersionNow
		}
		return gate.DestroyVersion
	case fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY:
		return gate.CancelDestroyVersion
	case fsmpb.VersionEvent_VERSION_EVENT_UNSPECIFIED:
	}
	return gate.ActUnspecified
}

// HoldAct returns the act that setting or releasing the hold is.
func HoldAct(h Hold) gate.Act {
	if h == Held {
		return gate.SealCluster
	}
	return gate.ReleaseHold
}

// SuffrageAct returns the act that a change of suffrage is.
func SuffrageAct(s Suffrage) gate.Act {
	if s == Voter {
		return gate.PromoteNode
	}
	return gate.DemoteNode
}
