package node

import (
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// What each wrapped key is bound to. All of it comes from the registry and none
// from beside the blob.

func ivkBinding(keyspace hierarchy.KeyspaceID, g hierarchy.Generation, ivk hierarchy.UID) hierarchy.Binding {
	return hierarchy.Binding{Purpose: hierarchy.PurposeIVK, Keyspace: keyspace, Version: g.VersionUID(), Subject: ivk}
}

func secretBinding(keyspace hierarchy.KeyspaceID, ivk, secret hierarchy.UID) hierarchy.Binding {
	return hierarchy.Binding{Purpose: hierarchy.PurposeInternalSecret, Keyspace: keyspace, Version: ivk, Subject: secret}
}

func l21Binding(keyspace hierarchy.KeyspaceID, tenant, l2, version []byte) (hierarchy.Binding, error) {
	return bind(hierarchy.PurposeL21, keyspace, tenant, nil, l2, version)
}

func l3Binding(keyspace hierarchy.KeyspaceID, tenant, service, parent, version []byte) (hierarchy.Binding, error) {
	return bind(hierarchy.PurposeL3, keyspace, tenant, service, parent, version)
}

// nesting is what opening or making an L2 blob needs besides the keys.
type nesting struct {
	binding hierarchy.Binding
	ivk     hierarchy.UID
}

func (k *keyring) nest(tenant, l2, ivk []byte) (nesting, error) {
	b, err := bind(hierarchy.PurposeL2Outer, k.keyspace, tenant, nil, ivk, l2)
	return nesting{binding: b, ivk: b.Version}, err
}

// bind builds a binding from the identifiers of the registry.
func bind(p hierarchy.Purpose, keyspace hierarchy.KeyspaceID, tenant, service, parent, subject []byte) (hierarchy.Binding, error) {
	b := hierarchy.Binding{Purpose: p, Keyspace: keyspace}
	var err error
	for _, part := range []struct {
		dst *hierarchy.UID
		src []byte
	}{{&b.Tenant, tenant}, {&b.Service, service}, {&b.Version, parent}, {&b.Subject, subject}} {
		if part.src == nil {
			continue
		}
		if *part.dst, err = uidOf(part.src); err != nil {
			return b, err
		}
	}
	return b, nil
}

func uidOf(b []byte) (hierarchy.UID, error) {
	uid, err := hierarchy.UIDFromBytes(b)
	if err != nil {
		return uid, errs.New(errs.StateCorrupt, "the registry holds an identifier of the wrong length", errs.Cause(err))
	}
	return uid, nil
}
