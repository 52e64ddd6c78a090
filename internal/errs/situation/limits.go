package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// limits is what a caller hears who asks more of a node than is his share.
func limits() Group {
	return Group{Name: "limits", Title: "Limits of callers and tenants", Rows: []Situation{
		{
			ID: "limits/rate", When: "a caller, or all workloads of a tenant together, call more often than a node admits",
			Code: errs.Throttled,
			Says: "{whose} made too many {calls} a second on this node",
			Next: "call less often, or spread calls over the nodes; what may be raised is {key}",
		},
		{
			ID: "limits/at-once", When: "a caller, or all workloads of a tenant together, have more calls running at a time than a node admits",
			Code: errs.Throttled,
			Says: "{whose} made too many {calls} at a time on this node",
			Next: "make fewer at a time; what may be raised is limits.caller_concurrent, limits.tenant_concurrent",
		},
		{
			ID: "limits/caller-connections", When: "a caller has as many connections to a port of a node as it may",
			Code: errs.Throttled,
			Says: "this caller has {n} connections to the node, which is the limit",
			Next: "share connections, or have limits.caller_connections raised",
		},
		{
			ID: "limits/tenant-connections", When: "the workloads of a tenant together have as many connections as they may",
			Code: errs.Throttled,
			Says: "the tenant's workloads have {n} connections to the node, which is the limit",
			Next: "share connections, or have limits.tenant_connections raised",
		},
		{
			ID: "limits/connections", When: "callers have all connections of a port of a node",
			Code: errs.Throttled,
			Says: "all connections of the node are taken",
			Next: "ask another node, or have limits.connections raised",
		},
	}}
}
