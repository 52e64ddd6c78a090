package node

import (
	"context"
	"slices"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/policy"
)

// Existing says whether a policy may be there already when it is put.
type Existing int

// What may be there.
const (
	ReplaceExisting Existing = iota
	RefuseExisting
)

// PutPolicy makes a policy of a tenant or replaces its text, which has to be right
// together with the others: what does not compile would deny everything. The
// registry refuses it when another policy changed since it was checked here; then it
// is checked again.
func (n *Node) PutPolicy(ctx context.Context, tok gate.Token, r Request, tenant hierarchy.Name, text policy.Text, there Existing) (*fsmpb.Policy, error) {
	if err := tok.Require(gate.PutPolicy, hierarchy.PolicyPath(tenant, text.Name).String()); err != nil {
		return nil, err
	}
	for again := 0; ; again++ {
		put := &fsmpb.PutPolicy{Etag: r.ETag, Create: there == RefuseExisting, Policy: &fsmpb.Policy{Tenant: string(tenant), Id: string(text.Name), Text: text.Text}}
		if !n.answered(tok, r, 0) {
			l, err := n.current()
			if err != nil {
				return nil, err
			}
			t, ok := l.View.Tenant(string(tenant))
			if !ok {
				return nil, n.refused(ctx, l, gate.NoSuchObject())
			}
			put.Policy.TenantUid, put.PolicyIndex = t.GetUid(), t.GetPolicyIndex()
			if _, err := policy.Compile(tenant, Changed(Texts(l.View, t), []policy.Text{text})); err != nil {
				return nil, n.refused(ctx, l, err)
			}
		}
		cmd := r.command(0)
		cmd.Body = &fsmpb.Command_PutPolicy{PutPolicy: put}
		_, err := n.commit(ctx, tok, r, cmd)
		switch {
		case errs.Is(err, errs.Aborted) && again < maxAgain:
			continue
		case err != nil || r.ValidateOnly:
			return put.GetPolicy(), err
		}
		if now, ok := n.machine.View().Policy(string(tenant), string(text.Name)); ok {
			return now, nil
		}
		return nil, gate.NoSuchObject()
	}
}

// DeletePolicy removes a policy of a tenant, and returns it as it was.
func (n *Node) DeletePolicy(ctx context.Context, tok gate.Token, r Request, tenant, id hierarchy.Name) (*fsmpb.Policy, error) {
	if err := tok.Require(gate.DeletePolicy, hierarchy.PolicyPath(tenant, id).String()); err != nil {
		return nil, err
	}
	was, ok := n.machine.View().Policy(string(tenant), string(id))
	if !ok {
		was = &fsmpb.Policy{Tenant: string(tenant), Id: string(id)} // a retry
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_RemovePolicy{RemovePolicy: &fsmpb.RemovePolicy{Tenant: string(tenant), Id: string(id), Etag: r.ETag}}
	_, err := n.commit(ctx, tok, r, cmd)
	return was, err
}

// Changed returns texts with some of them replaced, added, or, where the new text is
// empty, left out.
func Changed(texts, changes []policy.Text) []policy.Text {
	out := slices.Clone(texts)
	for _, c := range changes {
		out = slices.DeleteFunc(out, func(t policy.Text) bool { return t.Name == c.Name })
		if c.Text != "" {
			out = append(out, c)
		}
	}
	return out
}

// TestPolicies returns the policies of a tenant as they would be after the changes,
// compiled for questions, or what is wrong with them. It decides nothing.
func TestPolicies(v *fsm.View, t *fsmpb.Tenant, changes []policy.Text) (*policy.Set, []policy.Problem) {
	texts := Changed(Texts(v, t), changes)
	if problems := policy.Check(hierarchy.Name(t.GetName()), texts); len(problems) != 0 {
		return nil, problems
	}
	s, err := policy.Compile(hierarchy.Name(t.GetName()), texts)
	if err != nil {
		return nil, []policy.Problem{{What: errs.From(err).Msg, Fix: errs.From(err).Hint}}
	}
	return s, nil
}
