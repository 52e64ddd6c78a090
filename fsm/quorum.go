package fsm

import (
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// RulesOf returns the rules of a cluster for these quorums, of governors and of
// custodians: for each act how many of which role sign. 0: nobody of that role. One
// person may sign for what they ask for themselves. From two on others must: a rule
// of two that counts the one who asks would need one other only.
func RulesOf(governors, custodians int) (rows []*fsmpb.IntentRule) {
	for _, act := range intent.Acts() {
		rule, ok := intent.RuleOf(act, intent.Quorum{Governors: governors, Custodians: custodians})
		if !ok {
			continue
		}
		if rule.Governors <= 1 && rule.Custodians <= 1 {
			rule.Requester = intent.RequesterCounts
		}
		rows = append(rows, rowsOf(act, rule)...)
	}
	return rows
}

// ruleOf returns what an order needs under these rules. A change of the quorum needs
// the largest rule that any act has or would have: else fewer people could lower the
// rules first and act alone afterwards, or raise them and lock everybody out.
func ruleOf(rows []*fsmpb.IntentRule, req *intent.Request) (rule intent.Rule, needed bool) {
	if req.Act() == intent.ActBindL1 && fieldOf(req, "shared_with", intent.KindList).Uint > 0 {
		// Whoever has the key of one tenant has that of the other: four eyes, whatever the
		// cluster asks for a binding (I42).
		rule, _ = RuleFor(rows, req.Act())
		return intent.Larger(rule, intent.Rule{Governors: 2, Requester: intent.RequesterCounts}), true
	}
	if req.Act() != intent.ActSetQuorum {
		return RuleFor(rows, req.Act())
	}
	governors := min(uintOf(req, "governors"), intent.MaxRule)
	custodians := min(uintOf(req, "custodians"), intent.MaxRule)
	rule = intent.Larger(largest(rows), largest(RulesOf(int(governors), int(custodians))))
	return rule, rule.Governors+rule.Custodians > 0
}

// largest is at least as strict as the rule of every act.
func largest(rows []*fsmpb.IntentRule) intent.Rule {
	all := intent.Rule{Requester: intent.RequesterCounts}
	for _, act := range intent.Acts() {
		if rule, needed := RuleFor(rows, act); needed {
			all = intent.Larger(all, rule)
		}
	}
	return all
}

// setQuorum changes how many persons sign, also for what is being approved.
func (t *tx) setQuorum(c *fsmpb.SetQuorum) (done, error) {
	if err := checkEtag(c.GetEtag(), t.cluster.GetModIndex()); err != nil {
		return done{}, err
	}
	was := largest(t.cluster.GetRules())
	switch {
	case c.GetGovernors() > intent.MaxRule || c.GetCustodians() > intent.MaxRule:
		return done{}, errs.Newf(errs.InvalidArgument, "a quorum is at most %d", intent.MaxRule).With(errs.Hint("ask for fewer signatures"))
	case c.GetGovernors() == 0 && was.Governors > 0 || c.GetCustodians() == 0 && was.Custodians > 0:
		// Whoever controls one node could order everything.
		return done{}, wrong("a quorum cannot become none", "ask for one signature, at least")
	}
	rows := RulesOf(int(c.GetGovernors()), int(c.GetCustodians()))
	if sameRules(rows, t.cluster.GetRules()) {
		return done{}, errs.New(errs.FailedState, "the quorum is as this already", errs.Hint("nothing is left to do"))
	}
	if err := t.reachable(rows); err != nil {
		return done{}, err
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	is := copyCluster(t.cluster)
	is.Rules, is.ModIndex = rows, t.index
	t.cluster = is
	t.recount()
	return done{object: "cluster"}, nil
}

func sameRules(a, b []*fsmpb.IntentRule) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// recount has approvals wait again of which a larger rule asks for more.
func (t *tx) recount() {
	var short []*fsmpb.Approval
	scan(t.txn, tableApprovals, indexState, approvalStateKey(fsmpb.ApprovalState_APPROVAL_STATE_APPROVED, ""), nil, func(a *fsmpb.Approval) bool {
		rule := approvalRule(t.cluster, a)
		g, c := votesOf(a, rule)
		if (g < rule.Governors || c < rule.Custodians) && a.GetId() != t.approval.GetId() {
			short = append(short, a)
		}
		return true
	})
	for _, a := range short {
		is := proto.CloneOf(a)
		is.State, is.ModIndex = fsmpb.ApprovalState_APPROVAL_STATE_PENDING, t.index
		put(t, tableApprovals, is)
	}
}

// reachable refuses rules that those who are bound could not fulfil: nothing would
// ever be ordered again, and nobody could change that. Counted is whose binding has
// no end and a key to sign with. Where who asks does not count, there is one more.
func (t *tx) reachable(rows []*fsmpb.IntentRule) error {
	rule := largest(rows)
	asker := 0
	if rule.Requester == intent.RequesterExcluded {
		asker = 1
	}
	w := need{signing: true}
	governors, custodians := map[string]bool{}, map[string]bool{}
	everybody := map[string]bool{}
	for key, all := range map[string]map[string]bool{
		string(powerKey(&fsmpb.RoleBinding{Role: auth.RoleGovernor.String(), Platform: true})): governors,
		string(powerKey(&fsmpb.RoleBinding{Role: auth.RoleCustodian.String()})):                custodians,
	} {
		scan(t.txn, tableBindings, indexPower, []byte(key), nil, func(b *fsmpb.RoleBinding) bool {
			if w.counts(b) {
				all[b.GetName()], everybody[b.GetName()] = true, true
			}
			return true
		})
	}
	// Nobody signs twice: a governor and a custodian of one name are one person.
	switch {
	case len(governors) < rule.Governors+asker:
		return short("governors of the platform", rule.Governors+asker, len(governors))
	case len(custodians) < rule.Custodians:
		return short("custodians", rule.Custodians, len(custodians))
	case len(everybody) < rule.Governors+rule.Custodians+asker:
		return short("different persons, governors of the platform and custodians,", rule.Governors+rule.Custodians+asker, len(everybody))
	}
	inside := need{n: rule.Governors, signing: true}
	if rule.Governors > 1 {
		inside.n++
	}
	every := t.everywhere(inside, nil)
	governed := true
	scan(t.txn, tableSets, indexID, ownerKey(nil), nil, func(s setRow) bool {
		governed = t.enoughOf([]byte(s.set), inside, nil, inside.n-every)
		return governed
	})
	if !governed {
		return errs.Newf(errs.FailedState, "a tenant has fewer than %d governors who can sign and whose bindings have no expiry", inside.n).
			With(errs.Hint("have the governors of each tenant name more of them first"))
	}
	return nil
}

func short(who string, want, are int) error {
	return errs.Newf(errs.FailedState, "the quorum needs %d %s who can sign and whose bindings have no expiry, and there are %d", want, who, are).
		With(errs.Hint("bind more of them first, or ask for fewer signatures"))
}
