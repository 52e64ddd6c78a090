package fsm_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI27_TheLargerOfTheOldAndTheNewRuleOrdersTheChange: else fewer could lower it
// and act alone afterwards, or one could raise it and lock everybody out.
func TestI27_TheLargerOfTheOldAndTheNewRuleOrdersTheChange(t *testing.T) {
	for name, tc := range map[string]struct {
		was, is [2]uint32
		rule    intent.Rule
		enough  []string
		few     [][]string
	}{
		"lowered":            {[2]uint32{2, 1}, [2]uint32{1, 1}, intent.Rule{Governors: 2, Custodians: 1}, []string{"alice", "bob", "cust"}, [][]string{{"alice", "cust"}, {"alice", "bob"}, {"alice", "gov", "cust"}}},
		"raised":             {[2]uint32{1, 1}, [2]uint32{2, 1}, intent.Rule{Governors: 2, Custodians: 1}, []string{"alice", "bob", "cust"}, [][]string{{"gov", "cust"}, {"alice", "gov", "cust"}}},
		"custodians raised":  {[2]uint32{1, 1}, [2]uint32{1, 2}, intent.Rule{Governors: 1, Custodians: 2}, []string{"alice", "dave", "cust"}, [][]string{{"gov", "dave", "cust"}, {"alice", "cust"}}},
		"custodians lowered": {[2]uint32{1, 2}, [2]uint32{1, 1}, intent.Rule{Governors: 1, Custodians: 2}, []string{"alice", "dave", "cust"}, [][]string{{"alice", "cust"}}},
		"one up, one down":   {[2]uint32{1, 2}, [2]uint32{2, 1}, intent.Rule{Governors: 2, Custodians: 2}, []string{"alice", "bob", "dave", "cust"}, [][]string{{"alice", "dave", "cust"}, {"alice", "bob", "cust"}}},
		"from nobody":        {[2]uint32{0, 0}, [2]uint32{1, 1}, intent.Rule{Governors: 1, Custodians: 1, Requester: intent.RequesterCounts}, []string{"gov", "cust"}, [][]string{{"gov"}, {"cust"}}},
		"from no custodian":  {[2]uint32{2, 0}, [2]uint32{2, 1}, intent.Rule{Governors: 2, Custodians: 1}, []string{"alice", "bob", "cust"}, [][]string{{"alice", "bob"}}},
		"governors alone":    {[2]uint32{2, 0}, [2]uint32{1, 0}, intent.Rule{Governors: 2}, []string{"alice", "bob"}, [][]string{{"alice"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := ofQuorum(t, tc.was[0], tc.was[1])
			c := func() *fsmpb.Command { return setQuorum(tc.is[0], tc.is[1]) }
			if rule, needed := w.view().RuleOf(w.orderOf(c())); !needed || rule != tc.rule {
				t.Errorf("the rule is %v, want %v", rule, tc.rule)
			}
			w.refused(errs.IntentRefused, c())
			for _, who := range tc.few {
				bad := c()
				w.refused(errs.IntentRefused, w.signatures(bad, who...))
			}
			before := w.view().AuthorityAt()
			w.ok(w.signatures(c(), tc.enough...))
			cl := w.view().Cluster()
			if want := fsm.RulesOf(int(tc.is[0]), int(tc.is[1])); len(cl.GetRules()) != len(want) || cl.GetModIndex() != w.index {
				t.Errorf("the rules are %v, want %v", cl.GetRules(), want)
			}
			for _, act := range intent.Acts() {
				want, asks := intent.RuleOf(act, intent.Quorum{Governors: int(tc.is[0]), Custodians: int(tc.is[1])})
				if want.Governors <= 1 && want.Custodians <= 1 {
					want.Requester = intent.RequesterCounts
				}
				if got, needed := fsm.RuleFor(cl.GetRules(), act); needed != (asks && want.Governors+want.Custodians > 0) || needed && got != want {
					t.Errorf("%s needs %v, want %v", act, got, want)
				}
			}
			if w.view().AuthorityAt() != before {
				t.Error("it changed who callers are")
			}
			w.restart()
			w.refused(errs.FailedState, w.signatures(c(), tc.enough...)) // it is so already
		})
	}
}

// ofQuorum is [quorate] with another quorum in the genesis.
func ofQuorum(t tb, governors, custodians uint32) *world {
	w := newWorld(t, func(g *fsmpb.Genesis) {
		for _, n := range []string{"alice", "bob", "carol"} {
			p, _ := person(n, "governor")
			g.Persons = append(g.Persons, p)
		}
		dave, _ := person("dave", "custodian")
		g.Persons = append(g.Persons, dave)
		g.Rules = fsm.RulesOf(int(governors), int(custodians))
	})
	return w
}

// signatures gives a command those of these persons.
func (w *world) signatures(cmd *fsmpb.Command, who ...string) *fsmpb.Command {
	w.tb.Helper()
	req := w.orderOf(cmd)
	in := w.intentOf(req.Act(), req)
	for _, n := range who {
		raw, err := in.Encode()
		if err != nil {
			w.tb.Fatalf("encode: %v", err)
		}
		cmd.Intents = append(cmd.Intents, signature(w.tb, n, raw))
	}
	return cmd
}

// TestI27_AQuorumThatNobodyCouldReachIsRefused: with four eyes there is one more
// governor than sign, on the platform and in every tenant.
func TestI27_AQuorumThatNobodyCouldReachIsRefused(t *testing.T) {
	all := []string{"alice", "bob", "carol", "cust", "dave"}
	for name, tc := range map[string]struct {
		before func(*world)
		g, c   uint32
		says   string
	}{
		"more governors than there are":  {nil, 4, 1, "needs 5 governors"},
		"more custodians than there are": {nil, 1, 3, "needs 3 custodians"},
		"one person in both roles": {func(w *world) {
			w.ok(bind(func() *fsmpb.RoleBinding {
				b := bindingFor("custodian", "alice")
				b.Id, b.Keys[0].Key = "alice-custodian", keyOf("alice's other key")
				return b
			}()))
			w.ok(unbind("", "dave"))
		}, 3, 2, "needs 6 different persons"},
		"who cannot sign does not count": {func(w *world) {
			w.ok(unbind("", "alice"))
			b := bindingFor("governor", "alice")
			b.Keys[0].Sign = false
			w.ok(bind(b))
		}, 3, 1, "needs 4 governors"},
		"who leaves does not count": {func(w *world) {
			w.ok(unbind("", "alice"))
			b := bindingFor("governor", "alice")
			b.ExpireTimeMs = w.now + dayMS
			w.ok(bind(b))
		}, 3, 1, "needs 4 governors"},
		"a tenant of two": {func(w *world) {
			w.governedBy("alice", "bob")
			w.ok(w.createTenant("small"))
		}, 2, 1, "a tenant has fewer than 3 governors"},
		"none of governors":  {func(w *world) { w.ok(w.signatures(setQuorum(1, 1), "gov", "cust")) }, 0, 1, "cannot become none"},
		"none of custodians": {func(w *world) { w.ok(w.signatures(setQuorum(1, 1), "gov", "cust")) }, 1, 0, "cannot become none"},
		"more than a rule":   {nil, intent.MaxRule + 1, 1, "at most 16"},
	} {
		t.Run(name, func(t *testing.T) {
			w := ofQuorum(t, 0, 0)
			if tc.before != nil {
				tc.before(w)
			}
			was := w.view().Cluster()
			code := errs.FailedState
			if tc.says == "cannot become none" || tc.g > intent.MaxRule {
				code = errs.InvalidArgument
			}
			w.refusedFor(code, tc.says, w.signatures(setQuorum(tc.g, tc.c), all...))
			if w.view().Cluster() != was {
				t.Error("it changed the cluster")
			}
		})
	}
	// One less is reached, and a destroyed tenant needs nobody.
	w := ofQuorum(t, 0, 0)
	w.governedBy("alice", "bob")
	w.ok(w.createTenant("small"))
	w.ok(destroyNow("small", ""))
	w.ok(w.signatures(setQuorum(3, 2), all...))
	w.restart()
}

func TestAQuorumIsChangedForWhatWasSeen(t *testing.T) {
	w := quorate(t)
	c := setQuorum(1, 1)
	c.GetSetQuorum().Etag = w.view().Cluster().GetModIndex()
	w.ok(hold(true)) // another change of the cluster
	w.refused(errs.StaleEtag, w.signatures(c, "alice", "bob", "cust"))
	c.Intents, c.GetSetQuorum().Etag = nil, w.view().Cluster().GetModIndex()
	w.ok(w.signatures(c, "alice", "bob", "cust"))
}

// TestI27_AQuorumInAnOlderClusterStays: there are no role bindings that could sign.
func TestI27_AQuorumInAnOlderClusterStays(t *testing.T) {
	w := newWorld(t, ofFormat(fsm.FormatAuthority-1))
	w.refused(errs.FailedState, setQuorum(1, 1))
	c, _ := w.request("gov", w.createTenant("a"))
	w.refused(errs.FailedState, c)
	w.refused(errs.FailedState, reject("0"))
	w.refused(errs.FailedState, &fsmpb.Command{Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: "0"}}})
	c = w.createTenant("a")
	c.Approval = "0"
	w.refused(errs.FailedState, c)
	w.ok(raise(fsm.FormatAuthority))
	w.ok(w.signatures(setQuorum(1, 1), "gov", "cust"))
}
