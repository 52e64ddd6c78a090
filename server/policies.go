package server

import (
	"context"
	"slices"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/policy"
)

// Limits of one TestPolicy. Together with those of package policy they bound how long
// a node works for it.
const (
	MaxTestedServices = 100 // of a tenant, when the request names none
	MaxTestedSubjects = 100 // workloads of a tenant, when the request names nobody
)

type policiesServer struct {
	kryptonv1.UnimplementedPoliciesServer
	*calls
}

// PutPolicy implements kryptonv1.PoliciesServer.
func (s policiesServer) PutPolicy(ctx context.Context, r *kryptonv1.PutPolicyRequest) (*kryptonv1.Policy, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindPolicy)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	there := node.ReplaceExisting
	if r.GetCreate() {
		there = node.RefuseExisting
	}
	var out *kryptonv1.Policy
	err = s.do(ctx, gate.PutPolicy, p.String(), func(tok gate.Token) error {
		now, err := s.node.PutPolicy(ctx, tok, req, p.Tenant, policy.Text{Name: p.ID, Text: r.GetText()}, there)
		if err != nil {
			return err
		}
		out = s.policyToAPI(s.machine.View(), now)
		return s.after(ctx, tok, req, now.GetModIndex())
	})
	return out, err
}

// GetPolicy implements kryptonv1.PoliciesServer.
func (s policiesServer) GetPolicy(ctx context.Context, r *kryptonv1.GetPolicyRequest) (*kryptonv1.Policy, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindPolicy)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Policy
	err = s.do(ctx, gate.GetPolicy, p.String(), func(gate.Token) error {
		l := s.look(ctx)
		stored, ok := l.View.Policy(string(p.Tenant), string(p.ID))
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out = s.policyToAPI(l.View, stored)
		return s.shown(ctx, l, stored.GetModIndex(), nil)
	})
	return out, err
}

// ListPolicies implements kryptonv1.PoliciesServer.
func (s policiesServer) ListPolicies(ctx context.Context, r *kryptonv1.ListPoliciesRequest) (*kryptonv1.ListPoliciesResponse, error) {
	p, err := path(r.GetParent(), "parent", hierarchy.KindTenant)
	if err != nil {
		return nil, err
	}
	pg, err := page(r, p.String()+"/policies", "")
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.ListPoliciesResponse{}
	err = s.do(ctx, gate.ListPolicies, p.String(), func(gate.Token) error {
		l := s.look(ctx)
		t, ok := l.View.Tenant(string(p.Tenant))
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		out.Policies, out.NextPageToken = collect(pg,
			func(after string, limit int) []*fsmpb.Policy { return l.View.Policies(t, after, limit) },
			func(p *fsmpb.Policy) (string, kryptonv1.ObjectState) {
				return p.GetId(), kryptonv1.ObjectState_OBJECT_STATE_ACTIVE
			},
			func(p *fsmpb.Policy) *kryptonv1.Policy { return s.policyToAPI(l.View, p) })
		return s.shown(ctx, l, newest(out), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// DeletePolicy implements kryptonv1.PoliciesServer.
func (s policiesServer) DeletePolicy(ctx context.Context, r *kryptonv1.DeletePolicyRequest) (*kryptonv1.Policy, error) {
	p, err := path(r.GetName(), "name", hierarchy.KindPolicy)
	if err != nil {
		return nil, err
	}
	req, err := s.mutation(ctx, r)
	if err != nil {
		return nil, err
	}
	var out *kryptonv1.Policy
	err = s.do(ctx, gate.DeletePolicy, p.String(), func(tok gate.Token) error {
		was, err := s.node.DeletePolicy(ctx, tok, req, p.Tenant, p.ID)
		if err != nil {
			return err
		}
		out = s.policyToAPI(s.machine.View(), was)
		return s.after(ctx, tok, req, 0)
	})
	return out, err
}

func (s policiesServer) policyToAPI(v *fsm.View, p *fsmpb.Policy) *kryptonv1.Policy {
	return &kryptonv1.Policy{
		Name: hierarchy.PolicyPath(hierarchy.Name(p.GetTenant()), hierarchy.Name(p.GetId())).String(),
		Etag: etag(p.GetModIndex()), Text: p.GetText(), CreateTime: stamp(p.GetCreateTimeMs()), AuthorizedBy: signersOf(v, p.GetAuthorizedBy()),
	}
}

// TestPolicy implements kryptonv1.PoliciesServer.
func (s policiesServer) TestPolicy(ctx context.Context, r *kryptonv1.TestPolicyRequest) (*kryptonv1.TestPolicyResponse, error) {
	p, err := path(r.GetParent(), "parent", hierarchy.KindTenant)
	if err != nil {
		return nil, err
	}
	q, err := questionOf(r, p.Tenant)
	if err != nil {
		return nil, err
	}
	var changes []policy.Text
	for _, c := range r.GetChanges() {
		name, err := hierarchy.ParseName(c.GetPolicyId())
		if err != nil {
			return nil, inField("changes.policy_id", err)
		}
		changes = append(changes, policy.Text{Name: name, Text: c.GetText()})
	}
	if len(changes) > policy.MaxPolicies {
		return nil, errs.New(errs.InvalidArgument, "more changes than a tenant has policies", errs.Hint("at most %d", policy.MaxPolicies))
	}
	out := &kryptonv1.TestPolicyResponse{}
	err = s.do(ctx, gate.TestPolicy, p.String(), func(gate.Token) error {
		l := s.look(ctx)
		t, ok := l.View.Tenant(string(p.Tenant))
		if !ok {
			return s.shown(ctx, l, 0, gate.NoSuchObject())
		}
		set, problems := node.TestPolicies(l.View, t, changes)
		for _, p := range problems {
			out.Problems = append(out.Problems, &kryptonv1.PolicyProblem{
				PolicyId: string(p.Policy), Line: count(p.Line), Column: count(p.Column), Problem: p.What, Fix: p.Fix,
			})
		}
		if len(problems) == 0 {
			if err := ask(ctx, out, l.View, t, set, q, r); err != nil {
				return err
			}
		}
		return s.shown(ctx, l, t.GetPolicyIndex(), nil)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// questionOf reads what is asked, without the subject.
func questionOf(r *kryptonv1.TestPolicyRequest, tenant hierarchy.Name) (q policy.Query, err error) {
	if r.GetAction() != "" {
		var ok bool
		if q.Action, ok = policy.ActionNamed(r.GetAction()); !ok {
			return q, errs.New(errs.InvalidArgument, "action is none about which policies decide", errs.Hint("such as crypto.decrypt: krypton policy schema has them all"))
		}
	}
	if r.GetService() != "" {
		if q.Service, err = hierarchy.ParseName(r.GetService()); err != nil {
			return q, inField("service", err)
		}
	}
	if r.GetResource() != "" {
		if q.Resource, err = hierarchy.ParseResourceID(r.GetResource()); err != nil {
			return q, inField("resource", err)
		}
	}
	pairs := make([]hierarchy.ContextPair, len(r.GetEncryptionContext()))
	for i, p := range r.GetEncryptionContext() {
		pairs[i] = hierarchy.ContextPair{Key: p.GetKey(), Value: p.GetValue()}
	}
	if q.Context, err = hierarchy.NewEncryptionContext(pairs...); err != nil {
		return q, inField("encryption_context", err)
	}
	q.Version, q.Region = hierarchy.VersionNumber(r.GetVersion()), r.GetRegion()
	q.Principal.Tenant = tenant
	return q, nil
}

// ask puts the questions of r to set.
func ask(ctx context.Context, out *kryptonv1.TestPolicyResponse, v *fsm.View, t *fsmpb.Tenant, set *policy.Set, q policy.Query, r *kryptonv1.TestPolicyRequest) error {
	if r.GetSubject() == nil && r.GetAction() == "" {
		return nil
	}
	subjects, more, err := subjectsOf(v, t, r.GetSubject())
	if err != nil {
		return err
	}
	services := []hierarchy.Name{q.Service}
	if q.Service == "" {
		all := v.Services(t, "", MaxTestedServices+1)
		more = more || len(all) > MaxTestedServices
		services = services[:0]
		for _, s := range all[:min(len(all), MaxTestedServices)] {
			services = append(services, hierarchy.Name(s.GetName()))
		}
	}
	out.Truncated = more
	for _, who := range subjects {
		if err := ctx.Err(); err != nil {
			return errs.From(err)
		}
		q.Subject = who
		for _, a := range questions(set, q, services) {
			out.Answers = append(out.Answers, answerToAPI(set, a))
		}
	}
	return nil
}

// questions are the answers about one subject: for one action, or for all. A question
// that makes no sense, such as about a key of the tenant itself, is left out, unless
// there is no other.
func questions(set *policy.Set, q policy.Query, services []hierarchy.Name) (all []policy.Answer) {
	if !q.Action.Valid() {
		return set.MayDo(q, services)
	}
	if q.Service == "" {
		services = slices.Insert(slices.Clone(services), 0, "")
	}
	var none policy.Answer
	for _, q.Service = range services {
		a := policy.Answer{Query: q, Decision: set.Evaluate(q)}
		if a.Decision.Basis == policy.BasisQuery {
			none = a
			continue
		}
		all = append(all, a)
	}
	if len(all) == 0 {
		all = append(all, none)
	}
	return all
}

// subjectsOf returns whom a question is about: who is named, or the workloads that
// are bound.
func subjectsOf(v *fsm.View, t *fsmpb.Tenant, named *kryptonv1.PolicySubject) (all []policy.Subject, more bool, err error) {
	tenant := hierarchy.Name(t.GetName())
	uid, err := hierarchy.UIDFromBytes(t.GetUid())
	if err != nil {
		return nil, false, errs.New(errs.StateCorrupt, "a tenant has no uid", errs.Cause(err))
	}
	subject := func(role auth.Role, name string, i *fsmpb.Issuer) policy.Subject {
		p := auth.Principal{Issuer: auth.Issuer(i.GetUid()), Role: role, Name: name}
		if role == auth.RoleWorkload {
			p.Tenant, p.TenantUID = tenant, uid
		}
		return policy.Subject{Principal: p, IssuerName: identity.IssuerName(i)}
	}
	if named == nil {
		for _, b := range v.Bindings(t.GetName(), "", MaxTestedSubjects+1) {
			if i, ok := v.IssuerByUID(b.GetIssuerUid()); ok {
				all = append(all, subject(auth.RoleWorkload, b.GetName(), i))
			}
		}
		return all[:min(len(all), MaxTestedSubjects)], len(all) > MaxTestedSubjects, nil
	}
	role := auth.RoleWorkload
	if named.GetRole() != kryptonv1.Role_ROLE_UNSPECIFIED {
		var ok bool
		if role, ok = roleFromAPI(named.GetRole()); !ok {
			return nil, false, errs.New(errs.InvalidArgument, "subject.role is none that this node knows", errs.Hint("governor, custodian, operator, auditor or workload"))
		}
	}
	if !auth.ValidName(named.GetMember()) {
		return nil, false, errs.New(errs.InvalidArgument, "subject.member is missing, or no name of a caller", errs.Hint("1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit"))
	}
	issuer := named.GetIssuer()
	if issuer == "" {
		issuer = hierarchy.IssuerPath("", identity.Builtin).String()
	}
	p, err := path(issuer, "subject.issuer", hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
	if err != nil {
		return nil, false, err
	}
	i, ok := v.Issuer(string(p.Tenant), string(p.ID))
	if !ok || p.Tenant != "" && p.Tenant != tenant {
		return nil, false, errs.New(errs.InvalidArgument, "subject.issuer is none that vouches for callers of this tenant", errs.Hint("leave it out for issuers/%s", identity.Builtin))
	}
	return []policy.Subject{subject(role, named.GetMember(), i)}, false, nil
}

func answerToAPI(set *policy.Set, a policy.Answer) *kryptonv1.PolicyAnswer {
	out := &kryptonv1.PolicyAnswer{
		Subject: &kryptonv1.PolicySubject{Role: apiRoles[a.Query.Principal.Role], Member: a.Query.Principal.Name, Issuer: a.Query.IssuerName},
		Action:  a.Query.Action.String(), Service: string(a.Query.Service), Allowed: a.Decision.Allow, Why: a.Decision.String(),
	}
	for _, r := range a.Decision.Reasons {
		out.Reasons = append(out.Reasons, &kryptonv1.PolicyReason{PolicyId: string(r.Policy), Line: count(r.Line)})
	}
	reads := set.Reads(a.Query.Action)
	for _, part := range []struct {
		reads bool
		name  string
	}{{reads.Resource, "resource"}, {reads.Version, "version"}, {reads.Region, "region"}, {reads.WholeContext, "context"}} {
		if part.reads {
			out.DependsOn = append(out.DependsOn, part.name)
		}
	}
	for _, k := range reads.Keys {
		out.DependsOn = append(out.DependsOn, "context."+k)
	}
	return out
}
