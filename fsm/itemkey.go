package fsm

import "github.com/openkcm/krypton-cluster/fsm/fsmpb"

// itemKey returns the place of an item in the canonical order:
//
//	u8 2 x field number, plus 1 if replaced | key of the object
func itemKey(it *fsmpb.SnapshotItem) (key []byte, ok bool) {
	class := func(number byte, key []byte) []byte {
		if it.GetReplaced() {
			return append([]byte{2*number + 1}, key...)
		}
		return append([]byte{2 * number}, key...)
	}
	switch o := it.GetObject().(type) {
	case *fsmpb.SnapshotItem_Cluster:
		return class(1, nil), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Tenant:
		if it.GetReplaced() {
			return class(2, o.Tenant.GetUid()), true
		}
		return class(2, []byte(o.Tenant.GetName())), true
	case *fsmpb.SnapshotItem_Service:
		if it.GetReplaced() {
			return class(3, o.Service.GetUid()), true
		}
		return class(3, serviceKey(o.Service.GetTenantUid(), o.Service.GetName())), true
	case *fsmpb.SnapshotItem_Resource:
		return class(4, resourceKey(o.Resource.GetServiceUid(), o.Resource.GetId())), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Secret:
		return class(5, []byte(o.Secret.GetName())), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Member:
		return class(6, []byte(o.Member.GetId())), !it.GetReplaced()
	case *fsmpb.SnapshotItem_JoinToken:
		return class(7, o.JoinToken.GetHash()), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Request:
		id, _ := requestKeyOf(o.Request)
		return class(8, id), !it.GetReplaced()
	case *fsmpb.SnapshotItem_UsedNonce:
		return class(9, o.UsedNonce.GetNonce()), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Revocation:
		return class(10, o.Revocation.GetSerial()), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Issuer:
		key, _ := issuerKeyOf(o.Issuer)
		return class(11, key), !it.GetReplaced()
	case *fsmpb.SnapshotItem_RoleBinding:
		key, _ := bindingKeyOf(o.RoleBinding)
		return class(12, key), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Approval:
		return class(13, []byte(o.Approval.GetId())), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Policy:
		key, _ := policyKeyOf(o.Policy)
		return class(14, key), !it.GetReplaced()
	case *fsmpb.SnapshotItem_Ceremony:
		return class(16, o.Ceremony.GetId()), !it.GetReplaced()
	}
	return nil, false
}
