package policy

import (
	"math"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// Subject is who wants something.
type Subject struct {
	Principal auth.Principal // as verified
	// IssuerName is the name of the issuer object that vouches for Principal, such
	// as issuers/builtin or tenants/acme/issuers/k8s; policies see it as
	// principal.issuer.
	IssuerName string
}

// Query is one request. The table of roles has allowed it already.
type Query struct {
	Subject

	Action  Action
	Service hierarchy.Name // empty: the act is on the tenant itself
	// Resource is, for the acts on a resource, the resource, and for data
	// operations the id that the caller gave. Empty: none.
	Resource hierarchy.ResourceID
	// Version is, for the acts on a version, that version, and for data operations
	// the one that is used: what the ciphertext names, or the primary.
	Version hierarchy.VersionNumber
	Context hierarchy.EncryptionContext // of data operations
	Region  string                      // of this node; for data operations
}

// Basis is what a decision rests on.
type Basis uint8

// The bases. Zero is that of a zero [Decision], which denies.
const (
	BasisNone     Basis = iota
	BasisRoles          // allowed: the table of roles allows it, and no policy forbids it or has to permit it
	BasisPermit         // allowed: Reasons permit it and nothing forbids it
	BasisForbid         // denied: Reasons forbid it
	BasisNoPermit       // denied: nothing permits it
	BasisFailure        // denied: Reasons could not be evaluated (I3)
	BasisQuery          // denied: not a request that the schema or the tenant has
)

// Decision is the answer to a query. The zero value denies. It is for the audit
// record and for governors of the tenant: the caller learns only that it may not.
type Decision struct {
	Allow   bool
	Basis   Basis
	Reasons []Reason // in the order of policies; shared, do not change
	Fault   string   // of BasisFailure: what Cedar said about the first of Reasons
	Record  string   // what String returns, made once for all who ask; empty: it is made when it is asked for
}

// Bounds of [Decision.String], so that a record stays small.
const (
	shownReasons = 3
	maxFault     = 120 // bytes
)

// String returns the decision as audit records have it, in at most 500 bytes.
func (d Decision) String() string {
	if d.Record != "" {
		return d.Record
	}
	var b strings.Builder
	b.WriteString("policy: ")
	list := func() {
		for i, r := range d.Reasons {
			if i == shownReasons {
				b.WriteString(" and " + strconv.Itoa(len(d.Reasons)-i) + " more")
				return
			}
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(r.String())
		}
	}
	switch d.Basis {
	case BasisRoles:
		b.WriteString("allowed by the role, nothing forbids it")
	case BasisPermit:
		b.WriteString("permitted by ")
		list()
	case BasisForbid:
		b.WriteString("forbidden by ")
		list()
	case BasisNoPermit:
		b.WriteString("nothing permits it")
	case BasisFailure:
		list()
		b.WriteString(" could not be evaluated: " + d.Fault)
	case BasisQuery:
		b.WriteString("not a request of this tenant and its schema")
	case BasisNone:
		b.WriteString("no decision")
	}
	return b.String()
}

// Decide answers q, from the cache when the same was asked before (I4). A hit
// takes less than a microsecond and allocates nothing as long as what the policies
// read fits into keyOnStack bytes.
func (s *Set) Decide(q Query) Decision {
	on, d, settled := s.settle(&q)
	if settled {
		return d
	}
	p := &s.byAction[q.Action]
	var stack [keyOnStack]byte
	key := p.reads.appendKey(stack[:0], &q, on)
	slot := s.cache.slot(key)
	if d, ok := slot.get(key); ok {
		return d
	}
	d = p.evaluate(s.tenant, &q, on)
	d.Record = d.String()
	slot.put(key, d)
	return d
}

// Evaluate answers q as [Set.Decide] does, without looking at the cache.
func (s *Set) Evaluate(q Query) Decision {
	on, d, settled := s.settle(&q)
	if settled {
		return d
	}
	d = s.byAction[q.Action].evaluate(s.tenant, &q, on)
	d.Record = d.String()
	return d
}

// settle decides what needs no evaluation, and says of what type the resource is.
func (s *Set) settle(q *Query) (on entityType, d Decision, settled bool) {
	if s == nil {
		return noType, Decision{}, true
	}
	on, ok := q.on()
	if !ok || q.who()&actions[q.Action].principals == noType ||
		q.Principal.Role == auth.RoleWorkload && q.Principal.Tenant != s.tenant { // I5
		return noType, Decision{Basis: BasisQuery}, true
	}
	switch {
	case s.Empty():
		return on, Decision{Allow: true, Basis: BasisRoles}, true
	case len(s.byAction[q.Action].steps) == 0:
		return on, q.byDefault(), true
	}
	return on, Decision{}, false
}

// byDefault is the decision when no statement applies (I7).
func (q *Query) byDefault() Decision {
	if q.who() == typePerson {
		return Decision{Allow: true, Basis: BasisRoles}
	}
	return Decision{Basis: BasisNoPermit}
}

// who returns the type of the principal.
func (q *Query) who() entityType {
	switch {
	case !q.Principal.Valid():
		return noType
	case q.Principal.Role == auth.RoleWorkload:
		return typeWorkload
	}
	return typePerson
}

// on returns the type of the resource.
func (q *Query) on() (entityType, bool) {
	if !q.Action.Valid() || q.Version > math.MaxInt64 {
		return noType, false
	}
	on := typeService
	switch {
	case actions[q.Action].resources == typeResource:
		on = typeResource
		if q.Service == "" || q.Resource == "" {
			return noType, false
		}
	case q.Service == "":
		on = typeTenant
	}
	return on, actions[q.Action].resources&on != noType
}

// evaluate asks Cedar.
func (p *program) evaluate(tenant hierarchy.Name, q *Query, on entityType) Decision {
	w := newWorld(tenant, q, on, p.reads.attributes)
	r := cedar.Request{Principal: w.principal.UID, Action: w.action.UID, Resource: w.resource.UID}
	if p.reads.context {
		r.Context = contextOf(q)
	}
	allow, diag := cedar.Authorize(p, w, r)
	if len(diag.Errors) > 0 && !mutation.On(mutation.SkipPolicyErrors) { // I3
		d := Decision{Basis: BasisFailure, Fault: diag.Errors[0].Message[:min(maxFault, len(diag.Errors[0].Message))]}
		for _, e := range diag.Errors {
			d.Reasons = append(d.Reasons, p.reasonOf(e.PolicyID))
		}
		return d
	}
	var reasons []Reason
	for _, r := range diag.Reasons {
		reasons = append(reasons, p.reasonOf(r.PolicyID))
	}
	switch {
	case bool(allow):
		return Decision{Allow: true, Basis: BasisPermit, Reasons: reasons}
	case len(reasons) > 0:
		return Decision{Basis: BasisForbid, Reasons: reasons}
	}
	return q.byDefault()
}

// world is what exists for one evaluation: the request's own principal and
// resource, what they are in, and the action with its group.
type world struct {
	principal, resource, service, tenant, action types.Entity
}

func uidOf(bit entityType, id string) types.EntityUID {
	return types.NewEntityUID(shapeOf(bit).name, types.String(id))
}

// actionEntities are the actions, each in its group.
//
//nolint:gochecknoglobals // Immutable.
var actionEntities = func() (all [actionEnd]types.Entity) {
	for _, a := range Actions() {
		all[a] = types.Entity{UID: uidOf(typeAction, a.String()), Parents: types.NewEntityUIDSet(uidOf(typeAction, actions[a].group))}
	}
	return all
}()

// newWorld makes the entities of q. Without attributes they have none: most
// policies name who and what and look at no attribute.
func newWorld(tenant hierarchy.Name, q *Query, on entityType, attributes bool) *world {
	w := &world{action: actionEntities[q.Action]}
	w.tenant.UID = uidOf(typeTenant, string(tenant))
	in := types.NewEntityUIDSet(w.tenant.UID)
	if q.who() == typeWorkload {
		w.principal = types.Entity{UID: uidOf(typeWorkload, q.Principal.Name), Parents: in}
	} else {
		w.principal.UID = uidOf(typePerson, q.Principal.Name)
	}
	if on != typeTenant {
		w.service = types.Entity{UID: uidOf(typeService, string(q.Service)), Parents: in}
	}
	if on == typeResource {
		w.resource = types.Entity{UID: uidOf(typeResource, string(q.Service)+"/"+string(q.Resource)), Parents: types.NewEntityUIDSet(w.service.UID)}
	}
	if attributes {
		w.describe(tenant, q, on)
	}
	switch on { //nolint:exhaustive // The others have an entity of their own.
	case typeTenant:
		w.resource = w.tenant
	case typeService:
		w.resource = w.service
	}
	return w
}

// describe gives the entities their attributes.
func (w *world) describe(tenant hierarchy.Name, q *Query, on entityType) {
	t, service := types.String(tenant), types.String(q.Service)
	who := types.RecordMap{"name": types.String(q.Principal.Name), "issuer": types.String(q.IssuerName)}
	if q.who() == typeWorkload {
		who["tenant"] = t
	} else {
		who["role"] = types.String(q.Principal.Role.String())
	}
	w.principal.Attributes = types.NewRecord(who)
	switch on { //nolint:exhaustive // A resource has one of these types.
	case typeTenant:
		w.tenant.Attributes = types.NewRecord(types.RecordMap{"name": t})
	case typeService:
		w.service.Attributes = types.NewRecord(types.RecordMap{"name": service, "tenant": t})
	case typeResource:
		w.resource.Attributes = types.NewRecord(types.RecordMap{"id": types.String(q.Resource), "service": service, "tenant": t})
	}
}

// Get implements [types.EntityGetter].
func (w *world) Get(uid types.EntityUID) (types.Entity, bool) {
	for _, e := range [...]*types.Entity{&w.principal, &w.resource, &w.action, &w.service, &w.tenant} {
		if e.UID == uid {
			return *e, true
		}
	}
	return types.Entity{}, false
}

// contextOf returns the context that Cedar sees.
func contextOf(q *Query) types.Record {
	switch actions[q.Action].context {
	case contextOfUse:
		pairs := types.RecordMap{}
		for _, p := range q.Context.Pairs() {
			pairs[types.String(p.Key)] = types.String(p.Value)
		}
		return types.NewRecord(types.RecordMap{
			attrEncryptionContext: types.NewRecord(pairs),
			attrResource:          types.String(q.Resource),
			attrVersion:           types.Long(q.Version), //nolint:gosec // Not above MaxInt64: see on.
			attrRegion:            types.String(q.Region),
		})
	case contextOfVersion:
		return types.NewRecord(types.RecordMap{attrVersion: types.Long(q.Version)}) //nolint:gosec // As above.
	}
	return types.Record{}
}
