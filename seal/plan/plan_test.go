package plan_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

func TestAPlanThatCannotWorkIsRefusedWithWhatIsWrong(t *testing.T) {
	a, b := store("a", "t1", "1", "r1"), store("b", "t2", "2", "r2")
	named := func(h plan.Holder, edit func(*plan.Holder)) plan.Holder { edit(&h); return h }
	group := func(name string, m int, hs ...plan.Holder) plan.Group {
		return plan.Group{Name: name, Threshold: m, Holders: hs}
	}
	many := func(n int) (gs []plan.Group) {
		for i := range n {
			gs = append(gs, group(fmt.Sprintf("g%d", i), 2, person(fmt.Sprintf("p%d", i)), person(fmt.Sprintf("q%d", i))))
		}
		return gs
	}
	for name, tc := range map[string]struct {
		p    plan.Plan
		want string
	}{
		"nothing":            {plan.Plan{}, "neither groups nor keys"},
		"both":               {plan.Plan{Groups: many(1), Keys: []plan.Holder{a}}, "it has groups and keys"},
		"nine groups":        {plan.Plan{Groups: many(9)}, "9 groups, the limit is 8"},
		"256 shares":         {plan.Printed(256, 2), "256 holders, the limit is 255"},
		"2^40 shares":        {plan.Printed(1<<40, 2), "256 holders, the limit is 255"},
		"group without name": {plan.Plan{Groups: append(many(1), group("", 2, a, b))}, "group 2 has no name"},
		"group twice":        {plan.Plan{Groups: append(many(1), group("g0", 2, a, b))}, `group "g0" stands twice`},
		"empty group":        {plan.Plan{Groups: append(many(1), group("x", 2))}, `group "x" has no holders`},
		"threshold of 1":     {one(1, a, b), "needs a threshold of 2 or more"},
		"threshold of 0":     {one(0, a, b), "needs a threshold of 2 or more"},
		"unreachable":        {one(3, a, b), "3 of 2 holders, which can never be reached"},
		"no name":            {one(2, a, person("")), "the name of holder 2 is empty"},
		"long name":          {one(2, a, person(strings.Repeat("n", 129))), "has 129 bytes, the limit is 128"},
		"a name that writes": {one(2, a, person("x\x1b[2J")), "cannot be printed"},
		"a name in blanks":   {one(2, a, person(" x")), "begins or ends with a blank"},
		"name twice":         {one(2, a, b, person("b")), `holder "b" stands twice`},
		"a key twice":        {one(2, a, named(a, func(h *plan.Holder) { h.Name = "again" }), b), `holders "a" and "again" are one key`},
		"a recipient twice":  {one(2, person("anna"), named(person("anna"), func(h *plan.Holder) { h.Name = "again" })), `holders "anna" and "again" have one recipient`},
		"key and recipient":  {one(2, a, named(b, func(h *plan.Holder) { h.Recipient = "age1" })), "a keystore and a recipient"},
		"keystore, no key":   {one(2, a, named(b, func(h *plan.Holder) { h.Key.Key = "" })), "needs both a keystore and a key"},
		"key, no keystore":   {one(2, a, named(b, func(h *plan.Holder) { h.Key.Provider = "" })), "needs both a keystore and a key"},
		"long key":           {one(2, a, named(b, func(h *plan.Holder) { h.Key.Key = keystore.KeyRef(strings.Repeat("k", 1025)) })), "1025 bytes, the limit is 1024"},
		"long recipient":     {one(2, a, named(person("p"), func(h *plan.Holder) { h.Recipient = strings.Repeat("r", 5000) })), `holder "p": the recipient of a share has 5000 bytes`},
		"no recipient":       {one(2, a, named(person("p"), func(h *plan.Holder) { h.Recipient = "age1pq1" })), `holder "p": the recipient of a share is damaged`},
		"long account":       {one(2, a, named(b, func(h *plan.Holder) { h.Domain.Account = strings.Repeat("a", 129) })), "the account of holder \"b\" has 129 bytes"},
		"a person as a key":  {plan.Plan{Keys: []plan.Holder{a, person("p")}}, `"p" is no key of a keystore`},
		"many mistakes":      {one(2, person(""), person(""), person(""), person(""), person(""), person(""), person(""), person(""), person("")), "; and 1 more"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.p.Check()
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	for name, p := range map[string]plan.Plan{
		"eight groups": {Groups: many(8)}, "255 shares": plan.Printed(255, 255), "one key": plan.OneKey(a.Key), "no group name": one(2, a, b),
	} {
		if err := p.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFillTakesFromTheConfigurationWhatThePlanDoesNotSay(t *testing.T) {
	h := plan.Holder{Name: "a", Key: seal.ProviderKey{Provider: "eu", Key: "k"}, Domain: seal.Domain{ProviderType: "claimed", Region: "said"}}
	where := func(k seal.ProviderKey) (string, keystore.Place, bool) {
		return "awskms", keystore.Place{Account: "account of " + string(k.Key) + strings.Repeat("ü", 100), Region: "configured"}, k.Provider == "eu"
	}
	p := plan.Plan{Groups: []plan.Group{{Name: "g", Threshold: 2, Holders: []plan.Holder{h, person("anna")}}}, Keys: []plan.Holder{h}}
	got, err := p.Fill(where)
	if err != nil {
		t.Fatal(err)
	}
	// 13 bytes and ü of two: the 128th byte is in the middle of one.
	want := seal.Domain{ProviderType: "awskms", Account: "account of k" + strings.Repeat("ü", 58), Region: "said"}
	for _, d := range []seal.Domain{got.Groups[0].Holders[0].Domain, got.Keys[0].Domain} {
		if diff := cmp.Diff(want, d); diff != "" {
			t.Error(diff)
		}
	}
	if !got.Groups[0].Holders[1].Domain.IsZero() || p.Keys[0].Domain.Account != "" {
		t.Error("a person was filled, or the plan that was given was changed")
	}
	odd := plan.Plan{Keys: []plan.Holder{{Name: "a", Key: h.Key}}}
	if got, err := odd.Fill(func(seal.ProviderKey) (string, keystore.Place, bool) {
		return "local", keystore.Place{Account: "/a\x1b[2J", Region: "b\n"}, true
	}); err != nil || got.Check() != nil || got.Keys[0].Domain != (seal.Domain{ProviderType: "local"}) {
		t.Errorf("%+v, %v: a place that cannot be printed is not unknown", got, err)
	}
	p.Keys[0].Key.Provider = "us"
	if _, err := p.Fill(where); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), `no keystore "us"`) {
		t.Error(err)
	}
}

func TestAPlanAndThatOfPackageSealAreOne(t *testing.T) {
	p := plan.Plan{Groups: []plan.Group{
		{Name: "stores", Threshold: 2, Holders: []plan.Holder{store("a", "t1", "1", "r1"), store("b", "t2", "2", "r2")}},
		{Name: "people", Threshold: 2, Holders: []plan.Holder{person("anna"), {Name: "bert"}}},
	}}
	if diff := cmp.Diff(p, plan.Of(p.Seal())); diff != "" {
		t.Error(diff)
	}
	if p.Prints() != 1 || plan.Printed(5, 3).Prints() != 5 || plan.OneKey(seal.ProviderKey{Provider: "p", Key: "k"}).Prints() != 0 {
		t.Error("the printed shares are not those without a recipient")
	}
	p.Groups[0].Holders[0].Protection = keystore.ProtectionHSM
	p.Groups[0].Holders[1].Protection = keystore.ProtectionSoftware
	if diff := cmp.Diff(p, plan.FromProto(p.Proto())); diff != "" {
		t.Errorf("through the API: %s", diff)
	}
	keys := plan.Plan{Keys: p.Groups[0].Holders}
	if diff := cmp.Diff(keys, plan.FromProto(keys.Proto())); diff != "" {
		t.Errorf("through the API: %s", diff)
	}
	if err := plan.FromProto(nil).Check(); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	auto := plan.Of(seal.Plan{ProviderKeys: []seal.ProviderKey{{Provider: "eu", Key: "a"}, {Provider: "eu", Key: "b"}, {Provider: "us", Key: "c"}}})
	if err := auto.Check(); err != nil {
		t.Error(err)
	}
	if auto.Keys[0].Name != "eu a" || auto.Keys[2].Name != "us" {
		t.Errorf("%+v", auto.Keys)
	}
}
