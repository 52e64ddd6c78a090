package fsm

import (
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

const (
	// MaxPinnedResources bounds the pinned resources of one service.
	MaxPinnedResources = 100_000
	// MaxEarlierPins bounds how many earlier pins of a resource are remembered.
	MaxEarlierPins = 16
)

// pinned is a resource as a command found it.
type pinned struct {
	owner
	res *fsmpb.Resource // nil: not pinned
	pin hierarchy.Pin
}

// findResource returns the service and, if there is one, the pin of a resource.
func (t *tx) findResource(tenant, service, id string, etag uint64) (pinned, error) {
	if service == "" || tenant == "" {
		return pinned{}, invalid("the command names no service")
	}
	if _, err := hierarchy.ParseResourceID(id); err != nil {
		return pinned{}, err
	}
	if id == "" {
		return pinned{}, invalid("the command names no resource")
	}
	o, err := t.find(&fsmpb.ObjectRef{Tenant: tenant, Service: service})
	if err != nil {
		return pinned{}, err
	}
	if err := o.alive(); err != nil {
		return pinned{}, err
	}
	p := pinned{owner: o}
	if r, ok := lookup[*fsmpb.Resource](t.txn, tableResources, indexID, resourceKey(o.uid(), id)); ok {
		p.res = r
		p.pin = hierarchy.Pin{Version: hierarchy.VersionNumber(r.GetVersion()), PinnedAt: at(r.GetPinnedTimeMs())}
		if n := len(r.GetEarlier()); n > 0 {
			p.pin.Previous = hierarchy.VersionNumber(r.GetEarlier()[n-1])
		}
	}
	return p, checkEtag(etag, p.res.GetModIndex())
}

func (t *tx) pinResource(c *fsmpb.PinResource) (done, error) {
	p, err := t.findResource(c.GetTenant(), c.GetService(), c.GetId(), c.GetEtag())
	if err != nil {
		return done{}, err
	}
	if p.res == nil && pinCount(p.service) >= MaxPinnedResources {
		return done{}, limit("pinned resources", MaxPinnedResources)
	}
	is, pin, r := t.chainOf(p.owner).Pin(p.pin, hierarchy.VersionNumber(c.GetVersion()), at(t.timeMS))
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the key version")
	}
	// 0 stands for "was not pinned", so that a rollback knows the beginning
	// from what was forgotten.
	earlier := append(append([]uint32(nil), p.res.GetEarlier()...), p.res.GetVersion())
	if len(earlier) > MaxEarlierPins {
		earlier = earlier[len(earlier)-MaxEarlierPins:]
	}
	t.storePin(p, is, pin, c.GetId(), earlier)
	return t.donePin(p, c.GetId(), c.GetVersion()), nil
}

func (t *tx) unpinResource(c *fsmpb.UnpinResource) (done, error) {
	p, err := t.findResource(c.GetTenant(), c.GetService(), c.GetId(), c.GetEtag())
	if err != nil {
		return done{}, err
	}
	is, pin, r := t.chainOf(p.owner).Unpin(p.pin, at(t.timeMS))
	if r != hierarchy.NotRefused {
		return done{}, r.Err(unpinned(r))
	}
	t.storePin(p, is, pin, c.GetId(), nil)
	return t.donePin(p, c.GetId(), 0), nil
}

func (t *tx) rollbackResource(c *fsmpb.RollbackResource) (done, error) {
	p, err := t.findResource(c.GetTenant(), c.GetService(), c.GetId(), c.GetEtag())
	if err != nil {
		return done{}, err
	}
	earlier := p.res.GetEarlier()
	if p.res != nil && len(earlier) == 0 {
		return done{}, hierarchy.RefusedWindowClosed.Err("the earlier pin")
	}
	is, pin, r := t.chainOf(p.owner).RollbackPin(p.pin, at(t.timeMS))
	if r != hierarchy.NotRefused {
		return done{}, r.Err(unpinned(r))
	}
	t.storePin(p, is, pin, c.GetId(), append([]uint32(nil), earlier[:len(earlier)-1]...))
	return t.donePin(p, c.GetId(), uint32(pin.Version)), nil //nolint:gosec // At most hierarchy.MaxVersions.
}

// unpinned names what the refusal to end or to take back a pin is about.
func unpinned(r hierarchy.Refusal) string {
	if r == hierarchy.RefusedNotPinned {
		return "the resource"
	}
	return "the key version"
}

// storePin stores a changed pin. A pin moves the resource's mod_index; the end
// of a pin removes the resource, so it moves the service's instead, and its gate
// index.
func (t *tx) storePin(p pinned, is hierarchy.Chain, pin hierarchy.Pin, id string, earlier []uint32) {
	s := copyService(p.service)
	s.Versions = t.mergeChain(p.service.GetVersions(), t.chainOf(p.owner), is, nil)
	s.GateIndex = t.gate(p.service, pin.Version == 0)
	if pin.Version == 0 {
		s.ModIndex = t.index
		drop(t, tableResources, p.res)
	} else {
		put(t, tableResources, &fsmpb.Resource{
			Tenant:       s.GetTenant(),
			Service:      s.GetName(),
			Id:           id,
			Version:      uint32(pin.Version), //nolint:gosec // At most hierarchy.MaxVersions.
			Earlier:      earlier,
			ModIndex:     t.index,
			ServiceUid:   s.GetUid(),
			PinnedTimeMs: ms(pin.PinnedAt),
		})
	}
	t.storeService(s)
}

func (t *tx) donePin(p pinned, id string, version uint32) done {
	path := hierarchy.Path{
		Kind:     hierarchy.KindResource,
		Tenant:   hierarchy.Name(p.service.GetTenant()),
		Service:  hierarchy.Name(p.service.GetName()),
		Resource: hierarchy.ResourceID(id),
	}
	return done{object: path.String(), version: version, uid: p.uid()}
}

func pinCount(s *fsmpb.Service) (n uint64) {
	for _, v := range s.GetVersions() {
		n += uint64(v.GetPins())
	}
	return n
}
