package client

import (
	"context"
	"iter"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

// pages walks a list over its pages, of the size that the node chooses. An error
// ends the walk and is the last that is yielded, with a zero item.
func pages[T any](get func(token string) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for token := ""; ; {
			items, next, err := get(token)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, it := range items {
				if !yield(it, nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}

// AllTenants returns every tenant that is not destroyed, in the order of their
// names. Each page is a call of its own; a page that fails ends the walk with its
// error. ctx bounds the whole walk.
func (c *Client) AllTenants(ctx context.Context) iter.Seq2[*kryptonv1.Tenant, error] {
	return pages(func(token string) ([]*kryptonv1.Tenant, string, error) {
		r, err := c.Tenants().ListTenants(ctx, &kryptonv1.ListTenantsRequest{PageToken: token})
		return r.GetTenants(), r.GetNextPageToken(), err
	})
}

// AllServices returns every service of a tenant, tenants/{tenant}, as
// [Client.AllTenants] does. Each has its key versions in it.
func (c *Client) AllServices(ctx context.Context, tenant string) iter.Seq2[*kryptonv1.Service, error] {
	return pages(func(token string) ([]*kryptonv1.Service, string, error) {
		r, err := c.Services().ListServices(ctx, &kryptonv1.ListServicesRequest{Parent: tenant, PageToken: token})
		return r.GetServices(), r.GetNextPageToken(), err
	})
}

// AllResources returns the resources of a service,
// tenants/{tenant}/services/{service}, that are bound to a version of their own,
// as [Client.AllTenants] does.
func (c *Client) AllResources(ctx context.Context, service string) iter.Seq2[*kryptonv1.Resource, error] {
	return pages(func(token string) ([]*kryptonv1.Resource, string, error) {
		r, err := c.Services().ListResources(ctx, &kryptonv1.ListResourcesRequest{Parent: service, PageToken: token})
		return r.GetResources(), r.GetNextPageToken(), err
	})
}

// AllApprovals returns the approvals that filter says, state=EXECUTED for example,
// or those that wait if it is empty, as [Client.AllTenants] does.
func (c *Client) AllApprovals(ctx context.Context, filter string) iter.Seq2[*kryptonv1.Approval, error] {
	return pages(func(token string) ([]*kryptonv1.Approval, string, error) {
		r, err := c.Approvals().ListApprovals(ctx, &kryptonv1.ListApprovalsRequest{PageToken: token, Filter: filter})
		return r.GetApprovals(), r.GetNextPageToken(), err
	})
}
