package fsm

import (
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// A gate index is the log index of the last change of a field by which a data
// operation decides. While none of those it read has moved, the operation would
// decide alike in every state in between (I18), so a node may wait for a change
// to be over everywhere only where that can matter: a rotation, a new version and
// a re-wrap move mod_index, which is the etag, and no gate.
//
// Clusters have gate indexes from [FormatLeases] on. What is older has none, and
// its mod_index stands in, which moves more often and never less. The first change
// of such an object writes down what its mod_index was, unless it moves the gate.

// gated is what has a gate index.
type gated interface {
	GetGateIndex() uint64
	GetModIndex() uint64
}

// GateIndex returns the gate index of a tenant, a service or a key version; 0 for
// nil. Of a resource, a hold and a revocation mod_index is the gate index.
func GateIndex(obj gated) uint64 {
	if g := obj.GetGateIndex(); g != 0 {
		return g
	}
	return obj.GetModIndex()
}

// ReadSet is what a data operation found in one view and decides by. All of it is
// of that view.
type ReadSet struct {
	Tenant   *fsmpb.Tenant     // nil: there is none of that name
	Service  *fsmpb.Service    // nil: there is none of that name
	Version  *fsmpb.Version    // of the service; nil: none was chosen
	Resource *fsmpb.Resource   // nil: none was named, or it is not pinned
	Revoked  *fsmpb.Revocation // of the caller's certificate; nil: it is not revoked
}

// GateIndex returns the largest gate index in the read set: those of the tenant,
// the service and the version, of the L2.1 and IVK versions above it, of the pin,
// the revocation and the hold of the cluster. It allocates nothing.
//
// All of the set is over everywhere once a fence of that index is; and none of it
// has moved in a later view in which the same set has the same number.
//
// The primary pointer is not in it. Which version wraps while it moves is either;
// what the chosen one may do is in it.
func (v *View) GateIndex(r ReadSet) uint64 {
	above, _ := versionByUID(r.Tenant.GetVersions(), r.Version.GetParentUid())
	ivk, _ := versionByUID(v.cluster.GetInternalKeys(), r.Tenant.GetL2IvkUid())
	return max(GateIndex(r.Tenant), GateIndex(r.Service), GateIndex(r.Version), GateIndex(above), GateIndex(ivk),
		r.Resource.GetModIndex(), r.Revoked.GetModIndex(), v.cluster.GetHold().GetModIndex())
}

// gate returns the gate index of what replaces was.
func (t *tx) gate(was gated, moved bool) uint64 {
	switch {
	case t.cluster.GetFormatVersion() < FormatLeases:
		return 0
	case moved:
		return t.index
	}
	return GateIndex(was)
}

// tenantGate: the tenant stands for its policies, by which a data operation decides,
// too; re-wraps exchange the envelope around one L2, so they do not count.
func (t *tx) tenantGate(was, is *fsmpb.Tenant) uint64 {
	return t.gate(was, was == nil || was.GetState() != is.GetState() || was.GetPolicyIndex() != is.GetPolicyIndex() ||
		string(was.GetL2Uid()) != string(is.GetL2Uid()) || !proto.Equal(was.GetBinding(), is.GetBinding()))
}

func (t *tx) serviceGate(was, is *fsmpb.Service) uint64 {
	return t.gate(was, was == nil || was.GetState() != is.GetState())
}

// versionGate: to become the primary takes nothing from anybody. A version opens
// before it as after it, and wraps only when the pointer names it.
func (t *tx) versionGate(was, is *fsmpb.Version) uint64 {
	activated := was.GetState() == fsmpb.VersionState_VERSION_STATE_PRE_ACTIVE && is.GetState() == fsmpb.VersionState_VERSION_STATE_ACTIVE
	return t.gate(was, was == nil || was.GetState() != is.GetState() && !activated)
}
