// Package gate is the one door to every operation: it authorizes and audits in
// one call and hands out the token that the operation needs.
//
// Methods of node and cluster that do something for a caller take a [Token].
// Only [Gate.Enter] makes one, so an operation that nobody authorized, or that
// leaves no record, does not compile. [Gate.Do] keeps the whole order.
//
// # Invariants
//
//   - I1: no token without authorization: a zero, finished or foreign token stops the program or is refused.
//   - I2: no reply without a record: Finish, and so Do, returns nil only when the outcome is recorded.
//   - I3: a control operation has a record on disk before it runs; if that fails, nothing runs.
//   - I4: duties stay separate under every policy: governors use no keys, workloads govern nothing, auditors change nothing. What people have to sign is ordered by an approval by who signs, also if it is otherwise an operator's.
//   - I5: a workload reaches only its own tenant, under every policy, and cannot tell a foreign object from none.
//   - I6: every denial is recorded; failed authentications, and calls refused for a budget, only as fast as a fixed rate, the rest as a count.
//   - I7: a policy that fails denies.
//   - I8: what [Token.Last] asks is asked after the record and before the reply; when it refuses, a correcting record follows and nothing is told.
//
// # Concurrency
//
// A [Gate] is safe for concurrent use. A [Token] belongs to one operation; its
// methods may be called from the goroutines of that operation, but Finish once.
// There are no goroutines here.
//
// # Failure
//
// When the audit log fails, Enter refuses before anything runs, with
// errs.AuditUnavailable. When it fails between a change and its outcome record,
// the caller gets errs.Indeterminate: the change may stand, and its record of
// intent is on disk.
//
// # Source
//
// ACD-302, Governance vs. Execution and Compliance & Audit; docs/contract.md.
package gate

import (
	"context"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// Request says who wants what.
type Request struct {
	Principal   auth.Principal // as verified; the zero value is an unauthenticated caller
	Serial      string         // of the certificate that proved the principal: the bytes of the number; empty = none did
	Binding     hierarchy.UID  // of the role binding by which the principal was found; zero = none, or unknown
	Authority   uint64         // fsm.View.AuthorityAt of the view in which the principal was found; 0 = unknown
	Act         Act
	Object      string  // name of the object, such as tenants/acme/services/payments; at most audit.MaxObject bytes
	Correlation corr.ID // empty = the one that ctx carries
	Attempt     uint32  // of a forwarded or retried call, from 1; 0 = unknown
	Approval    string  // approvals/{a} that it is about; empty = none, and Stage is zero
	Stage       Stage   // how far that approval is
	ApprovedBy  string  // who signed for it, for the record
	Via         string  // node that forwarded the call; empty = the caller itself
	// Shown is what proved the principal, so that another node can verify it for itself.
	Shown auth.Credential
}

// Config says what a gate is made of. All fields are needed but OnAbandoned.
type Config struct {
	Node   string // name of this node, as the principal of its own acts
	Sink   audit.Sink
	Policy Policy
	Clock  clock.Clock

	// OnAbandoned is called, only in builds with the tag invariants, when a token
	// was collected as garbage without Finish. nil = stop the program.
	OnAbandoned func(Act)
}

// Gate authorizes and audits. Make one with [New].
type Gate struct {
	cfg      Config
	strays   strays // callers without an identity
	limited  strays // calls refused for a budget
	inFlight atomic.Int64
}

// New makes a gate. It refuses a configuration without a sink or a policy:
// there is no such thing as a gate that lets everything through unseen.
func New(cfg Config) (*Gate, error) {
	if cfg.Sink == nil || cfg.Policy == nil || cfg.Clock == nil || cfg.Node == "" {
		return nil, errs.New(errs.InvalidConfig, "gate needs a node name, an audit sink, a policy and a clock")
	}
	if cfg.OnAbandoned == nil {
		cfg.OnAbandoned = func(a Act) { invariants.Violated("gate", "a token for %s was never finished", a) }
	}
	return &Gate{cfg: cfg}, nil
}

// Enter authorizes req and, for a control operation, records the intent to act.
// The caller must not proceed when it returns an error, and must call
// [Token.Finish] exactly once when it does not. Errors: AuditUnavailable,
// Unauthenticated, Denied, NotFound (see [NoSuchObject]), InvalidArgument.
func (g *Gate) Enter(ctx context.Context, req Request) (Token, error) {
	if err := g.cfg.Sink.Err(); err != nil {
		return Token{}, err
	}
	if req.Correlation == "" {
		req.Correlation = corr.From(ctx)
	}
	if !req.Act.Valid() || req.Act.Duty() == DutySystem || req.Correlation == "" || !req.staged() {
		return Token{}, errs.New(errs.Internal, "call without a known act or a correlation id")
	}
	if g.strays.counted.Load() > 0 || g.limited.counted.Load() > 0 {
		g.sweep()
	}
	if !req.Principal.Valid() {
		return Token{}, g.Unauthenticated(ctx, req, nil)
	}
	why, err := g.authorize(req)
	if err != nil {
		return Token{}, g.deny(req, why, err)
	}
	tok, rerr := g.begin(req, req.Principal.String(), req.Principal.Role.String(), why)
	return tok, rerr
}

// EnterNode is [Gate.Enter] for what this node does by itself, without a caller:
// unsealing at start, scheduled rotation, proving a customer key. Only acts of
// [DutySystem] are possible, and no caller can ask for those.
func (g *Gate) EnterNode(ctx context.Context, act Act, object string) (Token, error) {
	if err := g.cfg.Sink.Err(); err != nil {
		return Token{}, err
	}
	req := Request{Act: act, Object: object, Correlation: corr.From(ctx)}
	if act.Duty() != DutySystem || req.Correlation == "" || !validObject(object) {
		return Token{}, errs.New(errs.Internal, "not an act of the node itself, or no correlation id or object")
	}
	return g.begin(req, "node/"+g.cfg.Node, "", "")
}

// Do runs fn between authorization and record: authorize, record the intent of a
// control operation, run, record the outcome, ask what [Token.Last] left to ask,
// return. It returns fn's error, or the error that kept fn from running, its
// outcome from being recorded, or its answer from leaving; on any error the caller
// must give out nothing that fn made.
//
// A panic of fn is recorded as failed, and goes on.
func (g *Gate) Do(ctx context.Context, req Request, fn func(Token) error) error {
	tok, err := g.Enter(ctx, req)
	if err != nil {
		return err
	}
	return tok.run(fn)
}

// DoNode is [Gate.Do] for [Gate.EnterNode].
func (g *Gate) DoNode(ctx context.Context, act Act, object string, fn func(Token) error) error {
	tok, err := g.EnterNode(ctx, act, object)
	if err != nil {
		return err
	}
	return tok.run(fn)
}

// Err returns why nothing gets through, or nil: the audit log failed. It is for
// readiness; every operation asks by itself.
func (g *Gate) Err() error { return g.cfg.Sink.Err() }

// InFlight returns how many tokens are not finished. After a shutdown that
// waited for its calls it is 0.
func (g *Gate) InFlight() int64 { return g.inFlight.Load() }

// begin records the intent to act of a control operation and makes the token.
func (g *Gate) begin(req Request, principal, role, why string) (Token, error) {
	o := &op{gate: g, req: req, principal: principal, role: role, why: why, start: g.cfg.Clock.Now()}
	if req.Act.Class() == audit.Control {
		r := o.record()
		r.Phase, r.Cause = audit.Intent, why
		if err := g.cfg.Sink.Append(r); err != nil { // I3
			return Token{}, err
		}
	}
	g.inFlight.Add(1)
	o.watch()
	return Token{op: o}, nil
}

// authorize decides; why it decided so goes to the record only.
func (g *Gate) authorize(req Request) (why string, err *errs.Error) {
	p := req.Principal
	tenant, ok := tenantOf(req.Object)
	if !validObject(req.Object) || !ok || !req.Act.scope().fits(tenant != "") {
		return "object name does not fit the act", errs.New(errs.InvalidArgument, "object name does not fit the call",
			errs.Hint("names look like tenants/acme/services/payments"))
	}
	// First, and before any policy: I5. Neither this nor what follows looks at
	// what exists, so the answer tells nothing about it.
	if p.Role == auth.RoleWorkload && tenant != "" && tenant != p.Tenant {
		return "object of another tenant", NoSuchObject()
	}
	if !mayCarry(p.Role, req.duty()) {
		return "separation of duties", denied(p.Role, req.Act) // I4
	}
	if req.Stage == Signed {
		return "", nil // see Signed
	}
	v, perr := g.cfg.Policy.Decide(Query{Principal: p, Act: req.Act, Object: req.Object, Tenant: tenant, Asked: req.Stage == Asked})
	switch {
	case perr != nil:
		return "policy failed: " + perr.Error(), denied(p.Role, req.Act) // I7
	case v.Decision == Allow:
		return v.Reason, nil
	case v.Decision == Hide:
		return v.Reason, NoSuchObject()
	}
	return v.Reason, denied(p.Role, req.Act)
}

// Denied is the one answer to whoever may not do an act, by whatever rule. What the
// rule was is for the record only.
func Denied(r auth.Role, a Act, why error) *errs.Error {
	return denied(r, a).With(errs.Cause(why))
}

func denied(r auth.Role, a Act) *errs.Error {
	return errs.New(errs.Denied, "the role "+r.String()+" may not do "+a.String()+" here",
		errs.Hint("ask somebody with another role, or who governs the object; krypton whoami says as whom you ask"))
}

// deny records a refusal (I6). An attacker can ask as fast as anybody, so it
// costs what a data operation costs, and no fsync.
func (g *Gate) deny(req Request, cause string, err *errs.Error) error {
	r := (&op{gate: g, req: req, principal: req.Principal.String(), role: req.Principal.Role.String()}).record()
	r.Class, r.Phase = audit.Data, audit.Whole
	r.Outcome, r.Code, r.Cause = errs.OutcomeDenied, err.Code, cause
	if rerr := g.cfg.Sink.Append(r); rerr != nil {
		return rerr
	}
	return err
}

// NoSuchObject is the one answer for an object that does not exist and for one
// that the caller may not know of (I5). Every part of the node uses it, so that
// the two answers are equal in every byte.
func NoSuchObject() *errs.Error {
	return errs.NoSuchObject()
}

// validObject reports whether name can stand in a record unchanged: printable
// ASCII without blanks. Resource ids beyond that are percent-encoded in names.
func validObject(name string) bool {
	if name == "" || len(name) > audit.MaxObject {
		return false
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return false
		}
	}
	return true
}

const tenantPrefix = "tenants/"

// tenantOf returns the tenant that an object belongs to, or "" for an object of
// the cluster. It reads the name from the front only: what stands behind the
// tenant cannot change whose it is. Dot segments and empty ones are refused,
// because something between here and the state might resolve them.
func tenantOf(object string) (t hierarchy.Name, ok bool) {
	for rest := object; ; {
		i := 0
		for i < len(rest) && rest[i] != '/' {
			i++
		}
		if seg := rest[:i]; seg == "" || seg == "." || seg == ".." {
			return "", false
		}
		if i == len(rest) {
			break
		}
		rest = rest[i+1:]
	}
	if len(object) <= len(tenantPrefix) || object[:len(tenantPrefix)] != tenantPrefix {
		return "", true
	}
	name := object[len(tenantPrefix):]
	for i := range len(name) {
		if name[i] == '/' {
			name = name[:i]
			break
		}
	}
	t, err := hierarchy.ParseName(name)
	return t, err == nil
}
