package server

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/limit"
)

// Limits is what callers and tenants may ask of one node. A field that is 0 has the
// value of [DefaultLimits].
type Limits struct {
	CallerConnections int // of one caller on each public port
	TenantConnections int // of all workloads of one tenant on each public port
	CallerConcurrent  int // calls of one caller at a time, of each class
	TenantConcurrent  int // data operations of all workloads of one tenant at a time
	CallerRate        int // data operations a second of one caller
	TenantRate        int // data operations a second of all workloads of one tenant
	CallerReads       int // reads of the registry a second of one caller
	CallerChanges     int // changes a second of one caller
	CallerProtects    int // acts a second of one caller that only take power away, and looks at the health of the cluster
}

// DefaultLimits returns the limits of a node that is not told others. They are far
// beyond what one caller needs, and keep one that is out of hand from taking
// everything.
func DefaultLimits() Limits {
	return Limits{
		CallerConnections: 1024, TenantConnections: 2048, CallerConcurrent: 1024, TenantConcurrent: 2048,
		CallerRate: 100_000, TenantRate: 200_000, CallerReads: 5000, CallerChanges: 1000, CallerProtects: 200,
	}
}

func (l Limits) orDefault() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ is, otherwise *int }{
		{&l.CallerConnections, &d.CallerConnections},
		{&l.TenantConnections, &d.TenantConnections},
		{&l.CallerConcurrent, &d.CallerConcurrent},
		{&l.TenantConcurrent, &d.TenantConcurrent},
		{&l.CallerRate, &d.CallerRate},
		{&l.TenantRate, &d.TenantRate},
		{&l.CallerReads, &d.CallerReads},
		{&l.CallerChanges, &d.CallerChanges},
		{&l.CallerProtects, &d.CallerProtects},
	} {
		if *f.is <= 0 {
			*f.is = *f.otherwise
		}
	}
	return l
}

const (
	// protectAtOnce is how many acts of one caller that take power away run at a time.
	// Like their rate it is a budget of their own, which no other call can spend, and
	// there is none per tenant.
	protectAtOnce = 64

	// costBytes is how many bytes of a request make it count as one call more.
	costBytes = 64 << 10

	// callerAccounts and tenantAccounts are for how many callers and tenants budgets
	// are counted at a time. Who finds no room shares one with others.
	callerAccounts = 16384
	tenantAccounts = 8192

	// limitedFor is how long it is told that somebody was limited.
	limitedFor = 10 * time.Minute
	// MaxLimited is how many of them are told of.
	MaxLimited = 20
)

// tenantKey is a tenant as a workload's identity has it: one that is made again under
// an old name is another one.
type tenantKey struct {
	uid  hierarchy.UID
	name hierarchy.Name
}

// limits are the budgets of all callers of this node.
type limits struct {
	callers *limit.Table[auth.Principal]
	tenants *limit.Table[tenantKey]
	metrics *limitMetrics
}

func newLimits(l Limits, clk clock.Clock, m *limitMetrics) *limits {
	var caller, tenant limit.Budgets
	caller[limit.Use] = limit.Budget{PerSecond: l.CallerRate, AtOnce: l.CallerConcurrent}
	caller[limit.Read] = limit.Budget{PerSecond: l.CallerReads, AtOnce: l.CallerConcurrent}
	caller[limit.Change] = limit.Budget{PerSecond: l.CallerChanges, AtOnce: l.CallerConcurrent}
	caller[limit.Protect] = limit.Budget{PerSecond: l.CallerProtects, AtOnce: protectAtOnce}
	tenant[limit.Use] = limit.Budget{PerSecond: l.TenantRate, AtOnce: l.TenantConcurrent}
	return &limits{
		callers: limit.NewTable[auth.Principal](clk, callerAccounts, caller),
		tenants: limit.NewTable[tenantKey](clk, tenantAccounts, tenant), metrics: m,
	}
}

// standing is where a caller's calls are counted.
type standing struct {
	principal auth.Principal
	caller    *limit.Slot[auth.Principal]
	tenant    *limit.Slot[tenantKey] // nil: a person
}

// standingOf returns the standing of p; a connection keeps that of who called last.
func (l *limits) standingOf(v *visit, p auth.Principal) *standing {
	if s := v.standing.Load(); s != nil && s.principal == p {
		return s
	}
	s := &standing{principal: p, caller: l.callers.Slot(p)}
	if p.Role == auth.RoleWorkload {
		s.tenant = l.tenants.Slot(tenantKey{p.TenantUID, p.Tenant})
	}
	v.standing.Store(s)
	return s
}

// admission is a call that was admitted; it leaves when the call ends.
type admission struct{ caller, tenant limit.Pass }

func (a admission) leave() {
	a.tenant.Leave()
	a.caller.Leave()
}

// admit asks the budgets of the caller, and then of the tenant: who has used up his own
// costs his tenant nothing. Strangers have no budget, since they are refused; nor has
// who may open the administration socket.
func (c *calls) admit(ctx context.Context, method string, size int, now time.Time) (admission, error) {
	who := &callOf(ctx).caller
	if who.refused != nil || who.visit == nil {
		return admission{}, nil //nolint:nilerr // What refuses a stranger is told where strangers are, with a record.
	}
	class := classOf(method)
	if who.noSeat != nil {
		return admission{}, c.limited(ctx, class, byConnections, who.noSeat)
	}
	cost := 1 + size/costBytes
	s := c.limits.standingOf(who.visit, who.Principal)
	own, r := s.caller.Enter(class, cost, now)
	if r.Reason != limit.Admitted {
		return admission{}, c.limited(ctx, class, byCaller, tooMuch(r, "this caller", class))
	}
	if s.tenant == nil || class != limit.Use {
		return admission{caller: own}, nil
	}
	all, r := s.tenant.Enter(class, cost, now)
	if r.Reason != limit.Admitted {
		own.Leave()
		return admission{}, c.limited(ctx, class, byTenant, tooMuch(r, "the tenant's workloads", class))
	}
	return admission{caller: own, tenant: all}, nil
}

// atOnceWait is how long somebody is told to wait who has too many calls at a time.
const atOnceWait = 20 * time.Millisecond

func tooMuch(r limit.Refusal, whose string, class limit.Class) *errs.Error {
	keys := map[limit.Class][2]string{
		limit.Use:    {"data operations", "limits.caller_rate, limits.tenant_rate"},
		limit.Read:   {"reads", "limits.caller_reads"},
		limit.Change: {"changes", "limits.caller_changes"},
	}
	what, key := "calls that take power away", "nothing: wait"
	if k, ok := keys[class]; ok {
		what, key = k[0], k[1]
	}
	if r.Reason == limit.TooMany {
		return errs.Newf(errs.Throttled, "%s made too many %s at a time on this node", whose, what).
			With(errs.Hint("make fewer at a time; what may be raised is limits.caller_concurrent, limits.tenant_concurrent"), errs.RetryAfter(atOnceWait))
	}
	return errs.Newf(errs.Throttled, "%s made too many %s a second on this node", whose, what).
		With(errs.Hint("call less often, or spread calls over the nodes; what may be raised is %s", key), errs.RetryAfter(r.Wait))
}

// limited records and counts that a call was refused for a budget, and makes the
// connection it came on slower.
func (c *calls) limited(ctx context.Context, class limit.Class, by limitedBy, refusal *errs.Error) error {
	who := &callOf(ctx).caller
	who.visit.waste()
	c.limits.metrics.refused[class][by].Inc()
	if err := c.gate.Limited(gate.Request{Principal: who.Principal, Correlation: corr.From(ctx)}, refusal); err != nil {
		return err
	}
	return refusal
}

// protects are the methods that only take power away, and those that unsealing and
// looking at the health of the cluster need. What one does of them is never refused
// for what else was called.
//
//nolint:gochecknoglobals // Immutable.
var protects = map[string]bool{
	kryptonv1.Tenants_SuspendTenant_FullMethodName:      true,
	kryptonv1.Services_SuspendService_FullMethodName:    true,
	kryptonv1.Services_DisableVersion_FullMethodName:    true,
	kryptonv1.Services_DeprecateVersion_FullMethodName:  true,
	kryptonv1.Services_CompromiseVersion_FullMethodName: true,
	kryptonv1.Seal_SealNode_FullMethodName:              true,
	kryptonv1.Seal_GetSeal_FullMethodName:               true,
	kryptonv1.Seal_GetShard_FullMethodName:              true,
	kryptonv1.Seal_Contribute_FullMethodName:            true,
	kryptonv1.Access_WhoAmI_FullMethodName:              true,
	kryptonv1.Access_RevokeCertificate_FullMethodName:   true,
	kryptonv1.Access_DeleteRoleBinding_FullMethodName:   true,
	kryptonv1.Access_RenewCertificate_FullMethodName:    true,
	kryptonv1.Cluster_DemoteNode_FullMethodName:         true,
	kryptonv1.Cluster_RemoveNode_FullMethodName:         true,
	kryptonv1.Cluster_GetCluster_FullMethodName:         true,
}

// classes are the classes of all methods of the API, by full name.
//
//nolint:gochecknoglobals // Immutable.
var classes = func() map[string]limit.Class {
	out := make(map[string]limit.Class, len(known))
	for full := range known {
		_, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
		switch {
		case protects[full] || strings.HasPrefix(name, "Reject"): // a person who says no never waits
			out[full] = limit.Protect
		case strings.HasPrefix(full, "/"+kryptonv1.Crypto_ServiceDesc.ServiceName+"/"):
			out[full] = limit.Use
		case strings.HasPrefix(name, "Get"), strings.HasPrefix(name, "List"), strings.HasPrefix(name, "Wait"), strings.HasPrefix(name, "Test"):
			out[full] = limit.Read
		default:
			out[full] = limit.Change
		}
	}
	return out
}()

// classOf returns what a call of a method counts as. One that is not known is not
// called.
func classOf(method string) limit.Class {
	if c, ok := classes[method]; ok {
		return c
	}
	return limit.Change
}

// sizeOf returns the size of a request in bytes, as it was encoded.
func sizeOf(req any) int {
	m, ok := req.(proto.Message)
	if !ok {
		return 0
	}
	return proto.Size(m)
}

// limitedBy is whose budget refused.
type limitedBy int

const (
	byCaller limitedBy = iota
	byTenant
	byConnections
	limitedBys
)

func (b limitedBy) String() string {
	return [...]string{"caller", "tenant", "connections"}[b]
}

// limitedOnes returns who was limited on this node of late, the latest first.
func (c *calls) limitedOnes(now time.Time) []*kryptonv1.LimitedCaller {
	since := now.Add(-limitedFor)
	var out []*kryptonv1.LimitedCaller
	for _, r := range c.limits.callers.Refused(since, MaxLimited) {
		out = append(out, &kryptonv1.LimitedCaller{Principal: r.Key.String(), Calls: r.Class.String(), Refused: r.Calls, LastTime: stamp(r.Last.UnixMilli())})
	}
	for _, r := range c.limits.tenants.Refused(since, MaxLimited) {
		out = append(out, &kryptonv1.LimitedCaller{Tenant: hierarchy.TenantPath(r.Key.name).String(), Calls: r.Class.String(), Refused: r.Calls, LastTime: stamp(r.Last.UnixMilli())})
	}
	return out
}
