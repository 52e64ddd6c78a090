package fsm

import (
	"bytes"
	"errors"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
)

// How the signatures of an approval are counted (I25).

// approvalRule is the larger of the rule then and now (I25).
func approvalRule(c *fsmpb.Cluster, a *fsmpb.Approval) intent.Rule {
	act := intent.Act(min(a.GetAct(), 1<<16-1))
	then, _ := RuleFor(a.GetRules(), act)
	now, needed := RuleFor(c.GetRules(), act)
	if act == intent.ActSetQuorum || act == intent.ActBindL1 { // what it orders matters, too
		req, err := intent.ParseRequest(a.GetRequest())
		if err != nil {
			return then
		}
		now, needed = ruleOf(c.GetRules(), req)
	}
	if !needed {
		return then
	}
	return intent.Larger(then, now)
}

// votes returns the signatures of an approval that count: those of others, and the
// requester's if the rule lets who asks be one of those that it asks for.
func votes(a *fsmpb.Approval, rule intent.Rule) []*fsmpb.ApprovalSignature {
	all := a.GetSignatures()
	if rule.Requester == intent.RequesterCounts && asksFor(rule, a.GetRequested().GetRole()) {
		return append([]*fsmpb.ApprovalSignature{a.GetRequested()}, all...)
	}
	return all
}

// votesOf counts the signatures by what is stored of them.
func votesOf(a *fsmpb.Approval, rule intent.Rule) (governors, custodians int) {
	for _, s := range votes(a, rule) {
		switch s.GetRole() {
		case auth.RoleGovernor.String():
			governors++
		case auth.RoleCustodian.String():
			custodians++
		}
	}
	return governors, custodians
}

// asksFor reports whether a rule asks for signatures of a role.
func asksFor(rule intent.Rule, role string) bool {
	switch role {
	case auth.RoleGovernor.String():
		return rule.Governors > 0
	case auth.RoleCustodian.String():
		return rule.Custodians > 0
	}
	return false
}

// rowsOf is a rule as rows, which [RuleFor] joins to the same rule again.
func rowsOf(act intent.Act, rule intent.Rule) (rows []*fsmpb.IntentRule) {
	for _, of := range []struct {
		role auth.Role
		n    int
	}{{auth.RoleGovernor, rule.Governors}, {auth.RoleCustodian, rule.Custodians}} {
		if of.n > 0 {
			rows = append(rows, &fsmpb.IntentRule{
				Act: uint32(act), Role: of.role.String(), Signatures: uint32(of.n), //nolint:gosec // At most intent.MaxRule.
				RequesterCounts: rule.Requester == intent.RequesterCounts,
			})
		}
	}
	return rows
}

// keyOf returns how the keys of those who signed an approval are found: in the role
// bindings with which they signed, and no others, of those who have the power.
func (t *tx) keyOf(a *fsmpb.Approval, o order) func(intent.KeyID) (intent.Signer, bool) {
	return func(id intent.KeyID) (intent.Signer, bool) {
		for _, s := range append([]*fsmpb.ApprovalSignature{a.GetRequested()}, a.GetSignatures()...) {
			if !bytes.Equal(s.GetKeyId(), id[:]) {
				continue
			}
			if b, ok := bindingByKey(t.txn, id); !ok || !bytes.Equal(b.GetUid(), s.GetBindingUid()) {
				return intent.Signer{}, false // bound anew is another binding
			}
			return t.signer(o, id)
		}
		return intent.Signer{}, false
	}
}

// tally verifies an approval with all its signatures, and reports whether enough
// have signed. An error refuses what the command adds.
func (t *tx) tally(a *fsmpb.Approval, o order, rule intent.Rule) (enough bool, err error) {
	in, req, err := checkApproval(a)
	if err != nil {
		return false, err
	}
	c := t.check(req, rule)
	c.Requester, c.Key = intent.Person(a.GetRequested().GetPerson()), t.keyOf(a, o)
	c.NonceUsed = func(intent.Nonce) bool { return false } // this approval has it, and nothing else can
	all := votes(a, rule)
	if len(all) == 0 || t.forecast && len(all[len(all)-1].GetSignature()) == 0 {
		return false, explained(intent.Conditions(in, c), req.Act(), rule)
	}
	_, err = intent.Verify(signedOf(in, all), c)
	var r *intent.RefusalError
	if errors.As(err, &r) && r.Reason == intent.ReasonTooFew {
		return false, nil
	}
	if err != nil {
		return false, explained(err, req.Act(), rule)
	}
	return true, nil
}

func signedOf(in intent.Intent, all []*fsmpb.ApprovalSignature) intent.Signed {
	s := intent.Signed{Intent: in}
	for _, one := range all {
		s.Signatures = append(s.Signatures, intent.Signature{Key: intent.KeyID(one.GetKeyId()), Sig: one.GetSignature()})
	}
	return s
}

// standing returns the signatures of others that count still. Whose role binding has
// ended since is left out, so that others can sign in that person's place.
func (t *tx) standing(a *fsmpb.Approval, o order, rule intent.Rule) []*fsmpb.ApprovalSignature {
	key := t.keyOf(a, o)
	var all []*fsmpb.ApprovalSignature
	for _, s := range a.GetSignatures() {
		if signer, ok := key(intent.KeyID(s.GetKeyId())); ok && asksFor(rule, signer.Role.String()) {
			all = append(all, s)
		}
	}
	return all
}
