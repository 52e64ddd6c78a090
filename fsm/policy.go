package fsm

import (
	"bytes"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of policies. Those of one tenant are what package policy compiles.
const (
	MaxPolicies          = 10_000    // of a cluster, those of destroyed tenants too until a tick removed them
	MaxPolicyTotalBytes  = 64 << 20  // of the texts of a cluster: every node has them in memory
	MaxPoliciesPerTenant = 64        // of one tenant
	MaxPolicyBytes       = 64 << 10  // of one text
	MaxPolicySetBytes    = 256 << 10 // of the texts of one tenant
)

// What a policy means is not known here, and so not whether it compiles: releases
// may differ in that, and replicas must not. The node that takes a policy checks it,
// every node compiles it by itself, and one that cannot serves nothing of that tenant.

func policyKeyOf(p *fsmpb.Policy) ([]byte, bool) { return ownedKey(p.GetTenantUid(), p.GetId()), true }

func policyName(tenant, id string) string {
	return hierarchy.PolicyPath(hierarchy.Name(tenant), hierarchy.Name(id)).String()
}

// checkPolicy checks what a policy says by itself, in a command and in a snapshot.
func checkPolicy(p *fsmpb.Policy) error {
	if err := checkName(p.GetId()); err != nil {
		return err
	}
	switch n := len(p.GetText()); {
	case p.GetTenant() == "" || len(p.GetTenantUid()) != hierarchy.UIDSize:
		return invalid("a policy names no tenant, or one without its uid")
	case n == 0:
		return wrong("the policy is empty", "write a permit or a forbid, or delete the policy")
	case n > MaxPolicyBytes:
		return wrong("the policy is longer than 64 KiB", "split it into several policies")
	case !utf8.ValidString(p.GetText()):
		return wrong("the policy is no text in UTF-8", "save the file in UTF-8")
	}
	return nil
}

// putPolicy makes a policy, or replaces its text.
func (t *tx) putPolicy(c *fsmpb.PutPolicy) (done, error) {
	in := c.GetPolicy()
	if in == nil || in.GetCreateTimeMs() != 0 || in.GetModIndex() != 0 || len(in.GetAuthorizedBy()) != 0 {
		return done{}, invalid("the command names no policy, or sets what only its application can know")
	}
	if err := checkPolicy(in); err != nil {
		return done{}, err
	}
	if err := t.ownerOf(in.GetTenant(), in.GetTenantUid()); err != nil {
		return done{}, err
	}
	was, ok := lookup[*fsmpb.Policy](t.txn, tablePolicies, indexID, ownedKey(in.GetTenantUid(), in.GetId()))
	if ok && c.GetCreate() {
		return done{}, errs.New(errs.AlreadyExists, "a policy of this name exists already", errs.Hint("read it, then replace it with its etag: krypton policy set"))
	}
	if err := checkEtag(c.GetEtag(), was.GetModIndex()); err != nil {
		return done{}, err
	}
	if tn, _ := lookup[*fsmpb.Tenant](t.txn, tableTenants, indexUID, in.GetTenantUid()); tn.GetPolicyIndex() != c.GetPolicyIndex() {
		return done{}, moved("another policy of the tenant")
	}
	if err := t.roomForPolicy(was, in); err != nil {
		return done{}, err
	}
	by, err := t.authorize()
	if err != nil {
		return done{}, err
	}
	is := proto.CloneOf(in)
	is.CreateTimeMs, is.ModIndex, is.AuthorizedBy = t.timeMS, t.index, by
	if ok {
		is.CreateTimeMs = was.GetCreateTimeMs()
	} else {
		t.policies++
	}
	t.policyBytes += len(is.GetText()) - len(was.GetText())
	put(t, tablePolicies, is)
	t.policyMoved(is.GetTenantUid())
	return done{object: policyName(is.GetTenant(), is.GetId())}, nil
}

// removePolicy removes a policy.
func (t *tx) removePolicy(c *fsmpb.RemovePolicy) (done, error) {
	if c.GetTenant() == "" {
		return done{}, invalid("the command names no tenant")
	}
	uid, err := t.liveUID(c.GetTenant())
	if err != nil {
		return done{}, err
	}
	p, ok := lookup[*fsmpb.Policy](t.txn, tablePolicies, indexID, ownedKey(uid, c.GetId()))
	if !ok {
		return done{}, errs.NoSuchObject()
	}
	if err := checkEtag(c.GetEtag(), p.GetModIndex()); err != nil {
		return done{}, err
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	t.dropPolicy(p)
	t.policyMoved(uid)
	return done{object: policyName(p.GetTenant(), p.GetId())}, nil
}

func (t *tx) dropPolicy(p *fsmpb.Policy) {
	drop(t, tablePolicies, p)
	t.policies--
	t.policyBytes -= len(p.GetText())
}

// policyMoved notes on the tenant that its policies changed with this command. Every
// data operation reads the tenant, so that none in flight goes on by the policies of
// before once the change is acknowledged.
func (t *tx) policyMoved(tenantUID []byte) {
	was, _ := lookup[*fsmpb.Tenant](t.txn, tableTenants, indexUID, tenantUID)
	is := copyTenant(was)
	is.PolicyIndex, is.ModIndex = t.index, t.index
	t.putTenant(was, is)
	t.policiesAt = t.index
}

// roomForPolicy refuses a policy beyond the limits. was is what it replaces.
func (t *tx) roomForPolicy(was, is *fsmpb.Policy) error {
	own, size := 0, len(is.GetText())-len(was.GetText())
	total := t.policyBytes + size
	for _, p := range t.policiesOf(is.GetTenantUid(), MaxPoliciesPerTenant+1) {
		own++
		size += len(p.GetText())
	}
	switch {
	case size > MaxPolicySetBytes:
		return errs.New(errs.LimitReached, "the policies of the tenant would have more than 256 KiB together", errs.Hint("shorten them; comments count, too"))
	case total > MaxPolicyTotalBytes:
		return errs.New(errs.LimitReached, "the policies of all tenants would have more than 64 MiB together", errs.Hint("shorten them, or use another cluster"))
	case was != nil:
		return nil
	case own >= MaxPoliciesPerTenant:
		return errs.New(errs.LimitReached, "the tenant has 64 policies already, which is the limit", errs.Hint("put several statements into one policy"))
	case t.policies >= MaxPolicies:
		return limit("policies", MaxPolicies)
	}
	return nil
}

func (t *tx) policiesOf(tenantUID []byte, limit int) (all []*fsmpb.Policy) {
	scan(t.txn, tablePolicies, indexID, tenantUID, nil, func(p *fsmpb.Policy) bool {
		all = append(all, p)
		return len(all) < limit
	})
	return all
}

// reapPolicies removes the policies of a destroyed tenant.
func (k *ticking) reapPolicies(tenantUID []byte) {
	if k.spent() {
		return
	}
	for _, p := range k.policiesOf(tenantUID, k.objects) {
		k.spend(0)
		k.dropPolicy(p)
	}
}

func (l *loader) loadPolicy(p *fsmpb.Policy) error {
	tenant := l.owners[string(p.GetTenantUid())]
	own := l.policySets[string(p.GetTenantUid())]
	own.n++
	own.size += len(p.GetText())
	switch {
	case l.cluster.GetFormatVersion() < FormatAuthority || checkPolicy(p) != nil || !l.ownedBy(p.GetTenant(), p.GetTenantUid()) || !keptIntents(p.GetAuthorizedBy()):
		return corrupt("a policy is not valid")
	case !l.timely(p.GetModIndex(), p.GetCreateTimeMs()) || p.GetCreateTimeMs() == 0 || p.GetModIndex() > tenant.GetPolicyIndex():
		return corrupt("a policy has a time or index that cannot be")
	case own.n > MaxPoliciesPerTenant || own.size > MaxPolicySetBytes || l.policies >= MaxPolicies || l.policyBytes+len(p.GetText()) > MaxPolicyTotalBytes:
		return corrupt("it has too many policies")
	}
	l.policySets[string(p.GetTenantUid())] = own
	l.policies++
	l.policyBytes += len(p.GetText())
	put(&l.tx, tablePolicies, p)
	return nil
}

// policySet is how much a tenant has of policies.
type policySet struct{ n, size int }

// policied reports whether the index of the last change of policies lies where it
// can: such a change moved the gate with it.
func (l *loader) policied(t *fsmpb.Tenant) bool {
	return t.GetPolicyIndex() <= t.GetGateIndex() && (t.GetPolicyIndex() == 0 || l.cluster.GetFormatVersion() >= FormatAuthority)
}

// PoliciesAt tells whether any policy changed, or a tenant that ever had some ended,
// since it was looked up last. It is the log index of the last such change, also
// after a restore: a node that was behind and got a snapshot has to see that the
// policies that it knew are gone.
func (v *View) PoliciesAt() uint64 { return v.policiesAt }

// policiesMovedAt returns when the policies of a tenant changed last, its own end
// included, which is the last change of a tenant. 0: it never had any.
func policiesMovedAt(t *fsmpb.Tenant) uint64 {
	if t.GetPolicyIndex() != 0 && t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return t.GetModIndex()
	}
	return t.GetPolicyIndex()
}

// TenantsWithPolicies returns every tenant that has at least one policy.
func (v *View) TenantsWithPolicies() (all []*fsmpb.Tenant) {
	scan(v.txn, tablePolicies, indexID, nil, nil, func(p *fsmpb.Policy) bool {
		if n := len(all); n > 0 && bytes.Equal(all[n-1].GetUid(), p.GetTenantUid()) {
			return true
		}
		if t, ok := lookup[*fsmpb.Tenant](v.txn, tableTenants, indexUID, p.GetTenantUid()); ok && t.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
			all = append(all, t)
		}
		return true
	})
	return all
}

// Policy returns a policy of the tenant that has the name now.
func (v *View) Policy(tenant, id string) (*fsmpb.Policy, bool) {
	uid, ok := v.ownerUID(tenant)
	if !ok || len(uid) == 0 {
		return nil, false
	}
	return lookup[*fsmpb.Policy](v.txn, tablePolicies, indexID, ownedKey(uid, id))
}

// Policies returns up to limit policies of a tenant in the order of their ids,
// beginning after the id after. Those of a destroyed tenant are not in it. While
// Tenant.PolicyIndex is the same, all of them are.
func (v *View) Policies(t *fsmpb.Tenant, after string, limit int) []*fsmpb.Policy {
	uid := t.GetUid()
	if t == nil || t.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		return nil
	}
	return page[*fsmpb.Policy](v, tablePolicies, uid, []byte(after), limit,
		func(p *fsmpb.Policy) bool { return bytes.Equal(p.GetTenantUid(), uid) })
}
