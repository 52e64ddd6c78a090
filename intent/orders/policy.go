package orders

import (
	"context"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
)

// putPolicy is signed with the whole text, and for the policy as it is now: who signs
// a change has seen what it replaces.
func putPolicy(r *kryptonv1.PutPolicyRequest) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(r.GetName(), hierarchy.KindPolicy)
		if err != nil {
			return nil, err
		}
		uid, err := n.tenantUID(ctx, p.Tenant)
		if err != nil {
			return nil, err
		}
		if err := n.asSeen(ctx, o, p, r.GetEtag()); err != nil {
			return nil, err
		}
		return intent.PutPolicy{Tenant: string(p.Tenant), TenantUID: uid, ID: string(p.ID), Text: r.GetText()}.Request(), nil
	}
}

func removePolicy(name string) builder {
	return func(ctx context.Context, n *nodes, o *Order) (*intent.Request, error) {
		p, err := pathOf(name, hierarchy.KindPolicy)
		if err != nil {
			return nil, err
		}
		if err := n.unchanged(ctx, o, p); err != nil {
			return nil, err
		}
		return intent.RemovePolicy{Tenant: string(p.Tenant), ID: string(p.ID)}.Request(), nil
	}
}

// asSeen makes the order depend on the object as the request says that it was seen,
// or, if it does not say, as it is now.
func (n *nodes) asSeen(ctx context.Context, o *Order, p hierarchy.Path, etag string) error {
	if etag != "" {
		return o.unchanged(p, etag)
	}
	return n.unchanged(ctx, o, p)
}
