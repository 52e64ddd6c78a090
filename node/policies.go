package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/policy"
)

// Policies are the policies of tenants in the form in which they decide. They are
// compiled once for every change, beside the path of a call where that can be; who
// comes earlier waits for it. What does not compile denies (I10).
//
// A set belongs to one index of one tenant, so that nobody has to be told of a
// change: who asks by a later state asks for another set. Make them with
// [NewPolicies]; they are safe for concurrent use.
type Policies struct {
	log    *slog.Logger
	region string // of this node

	mu       sync.RWMutex
	byTenant map[hierarchy.UID]*ruled

	issuers atomic.Pointer[issuerNames]
}

// NewPolicies returns the policies as a node of that region has them (empty: none).
func NewPolicies(region string, log *slog.Logger) *Policies {
	return &Policies{region: region, log: log, byTenant: make(map[hierarchy.UID]*ruled)}
}

// ruled is the policies of one tenant as they were at one index.
type ruled struct {
	at     uint64 // Tenant.PolicyIndex
	tenant string

	done atomic.Bool
	made chan struct{} // closed once set and err are there
	set  *policy.Set   // nil: they do not compile
	err  error
	told atomic.Bool
}

// issuerNames are the names by which policies know issuers.
type issuerNames struct {
	at    uint64 // [fsm.View.AuthorityAt]
	byUID map[auth.Issuer]string
}

// of returns the compiled policies of a tenant in a view, nil if they do not
// compile.
func (p *Policies) of(v *fsm.View, t *fsmpb.Tenant) *policy.Set {
	uid, err := uidOf(t.GetUid())
	if err != nil {
		return nil
	}
	return p.ruled(v, t, uid).set
}

func (p *Policies) ruled(v *fsm.View, t *fsmpb.Tenant, uid hierarchy.UID) *ruled {
	p.mu.RLock()
	r := p.byTenant[uid]
	p.mu.RUnlock()
	if r == nil || r.at != t.GetPolicyIndex() {
		r = p.compile(v, t, uid)
	}
	if !r.done.Load() {
		<-r.made
	}
	return r
}

// compile makes the set of what v has of a tenant, unless somebody does so already.
func (p *Policies) compile(v *fsm.View, t *fsmpb.Tenant, uid hierarchy.UID) *ruled {
	mine := &ruled{at: t.GetPolicyIndex(), tenant: t.GetName(), made: make(chan struct{})}
	p.mu.Lock()
	r := p.byTenant[uid]
	switch {
	case r != nil && r.at == mine.at:
		p.mu.Unlock()
		return r
	case r == nil || r.at < mine.at:
		p.byTenant[uid] = mine
	}
	// Else the view is older than what others work by: nobody needs what it has again.
	p.mu.Unlock()
	defer close(mine.made)
	defer mine.done.Store(true)
	mine.set, mine.err = policy.Compile(hierarchy.Name(t.GetName()), Texts(v, t))
	return mine
}

// Texts returns the policies of a tenant as they are compiled.
func Texts(v *fsm.View, t *fsmpb.Tenant) []policy.Text {
	stored := v.Policies(t, "", fsm.MaxPoliciesPerTenant)
	texts := make([]policy.Text, len(stored))
	for i, p := range stored {
		texts[i] = policy.Text{Name: hierarchy.Name(p.GetId()), Text: p.GetText()}
	}
	return texts
}

// decide asks the policies of a tenant that has, or had, some. q needs no issuer
// name and no region.
func (p *Policies) decide(v *fsm.View, t *fsmpb.Tenant, q *policy.Query) policy.Decision {
	q.IssuerName, q.Region = p.issuer(v, q.Principal.Issuer), p.region
	return p.of(v, t).Decide(*q)
}

// issuer returns the name of an issuer, "" if there is none any more.
func (p *Policies) issuer(v *fsm.View, uid auth.Issuer) string {
	names := p.issuers.Load()
	if names == nil || names.at != v.AuthorityAt() {
		names = &issuerNames{at: v.AuthorityAt(), byUID: make(map[auth.Issuer]string, len(v.Issuers()))}
		for _, i := range v.Issuers() {
			names.byUID[auth.Issuer(i.GetUid())] = identity.IssuerName(i)
		}
		p.issuers.Store(names)
	}
	return names.byUID[uid]
}

// refresh compiles what a view has and forgets what it has not.
func (p *Policies) refresh(ctx context.Context, v *fsm.View) {
	there := make(map[hierarchy.UID]bool)
	for _, t := range v.TenantsWithPolicies() {
		if ctx.Err() != nil {
			return
		}
		if uid, err := uidOf(t.GetUid()); err == nil {
			there[uid] = true
			p.tell(ctx, p.ruled(v, t, uid))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid := range p.byTenant {
		if !there[uid] {
			delete(p.byTenant, uid)
		}
	}
}

// tell logs once that policies do not compile.
func (p *Policies) tell(ctx context.Context, r *ruled) {
	if r.err != nil && !r.told.Swap(true) {
		p.log.ErrorContext(ctx, "the policies of a tenant do not compile on this node, so it refuses what they would decide",
			slog.String("tenant", r.tenant), slog.Uint64("policy_index", r.at), slog.Any("error", r.err))
	}
}

// follow compiles what changes, before anybody asks where that can be.
func (p *Policies) follow(ctx context.Context, m *fsm.Machine) error {
	for last := ^uint64(0); ; {
		v := m.View()
		if v.PoliciesAt() != last {
			last = v.PoliciesAt()
			p.refresh(ctx, v)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.Superseded():
		}
	}
}

// PolicyFault is a tenant whose policies this node cannot compile. It serves nothing
// of it that they would decide.
type PolicyFault struct {
	Tenant hierarchy.Name
	Reason string // policy, line and column, and what is wrong; nothing of the text
}

// Faults returns the tenants whose policies do not compile, by their names.
func (p *Policies) Faults() (all []PolicyFault) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, r := range p.byTenant {
		if r.done.Load() && r.err != nil {
			all = append(all, PolicyFault{Tenant: hierarchy.Name(r.tenant), Reason: errs.From(r.err).Msg})
		}
	}
	slices.SortFunc(all, func(a, b PolicyFault) int { return compareText(a.Tenant, b.Tenant) })
	return all
}

func compareText(a, b hierarchy.Name) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// actions are the acts about which policies decide.
//
//nolint:gochecknoglobals // Immutable.
var actions = func() map[gate.Act]policy.Action {
	all := make(map[gate.Act]policy.Action)
	for _, a := range gate.Acts() {
		if act, ok := policy.ActionNamed(a.String()); ok {
			all[a] = act
		}
	}
	return all
}()

// ruled asks the policies of the tenant what they say of a data operation, by the
// same view as everything else that it is decided by: so a policy is over for it
// exactly when a suspension would be (I3). What the caller may not do is refused
// first, before it could learn what there is.
//
// When the policies changed since the first look of a round, the round is over, so that
// no later look, of which the last must not wait, ever compiles anything.
func (q *question) ruled(v *fsm.View, c *choice) error {
	at := c.tenant.GetPolicyIndex()
	if q.looked && q.policyAt != at {
		return errOvertaken()
	}
	q.looked, q.policyAt = true, at
	if at == 0 {
		return nil // nor a map to look into: most tenants have none
	}
	version := c.version
	if c.from != nil {
		version = c.from
	}
	d := q.policies.decide(v, c.tenant, &policy.Query{
		Subject: policy.Subject{Principal: q.principal}, Action: actions[q.act], Service: q.target.Service,
		Resource: q.target.Resource, Version: hierarchy.VersionNumber(version.GetNumber()), Context: q.target.Context,
	})
	c.policy = recorded(d)
	if d.Allow {
		return nil
	}
	return gate.Denied(q.principal.Role, q.act, errors.New(d.String()))
}

// recorded is what a record says of a decision: nothing if no policy had a say.
func recorded(d policy.Decision) string {
	if d.Allow && d.Basis == policy.BasisRoles {
		return ""
	}
	return d.String()
}

// ruled asks the policies about an act that is no data operation. Those are decided
// where their key is chosen; see [question.ruled].
func (p TenantPolicy) ruled(q gate.Query) (gate.Verdict, error) {
	action, ok := actions[q.Act]
	if !ok || q.Tenant == "" || q.Act.Duty() == gate.DutyUse {
		return gate.Verdict{Decision: gate.Allow}, nil
	}
	v := p.Machine.View()
	t, ok := v.Tenant(string(q.Tenant))
	if !ok || t.GetPolicyIndex() == 0 || t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return gate.Verdict{Decision: gate.Allow}, nil
	}
	if p.Policies == nil {
		return gate.Verdict{Reason: "this node cannot ask the policies of the tenant"}, nil
	}
	object, err := objectOf(v, t, q.Object)
	if err != nil {
		return gate.Verdict{}, err
	}
	d := p.Policies.decide(v, t, &policy.Query{
		Subject: policy.Subject{Principal: q.Principal}, Action: action, Service: object.Service, Resource: object.Resource, Version: object.Version,
	})
	if d.Allow {
		return gate.Verdict{Decision: gate.Allow, Reason: recorded(d)}, nil
	}
	return gate.Verdict{Decision: gate.Deny, Reason: d.String()}, nil
}

// Primary stands for the number of whichever version is primary, at the end of a name.
const Primary = "/versions/primary"

// objectOf reads the name of an object of a tenant. Of a key without a primary
// version, or of a service that is not there, [Primary] is version 0.
func objectOf(v *fsm.View, t *fsmpb.Tenant, name string) (hierarchy.Path, error) {
	key, primary := strings.CutSuffix(name, Primary)
	p, err := hierarchy.ParsePath(key)
	if err != nil || !primary {
		return p, err
	}
	number := t.GetPrimary()
	if p.Service != "" {
		s, _ := v.ServiceOf(t, string(p.Service))
		number = s.GetPrimary()
	}
	p.Version = hierarchy.VersionNumber(number)
	return p, nil
}
