package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

func one(threshold int, hs ...plan.Holder) plan.Plan {
	return plan.Plan{Groups: []plan.Group{{Threshold: threshold, Holders: hs}}}
}

func TestConcentrationIsRefusedWithWhatItIs(t *testing.T) {
	a, b, c := store("a", "awskms", "1", "eu"), store("b", "awskms", "1", "us"), store("c", "gcpkms", "p", "zh")
	for name, tc := range map[string]struct {
		p    plan.Plan
		want string // "": not refused
	}{
		"spread over three":             {one(2, a, c, store("d", "transit", "v", "br")), ""},
		"an account that opens":         {one(2, a, b, c, person("anna"), person("bert")), "provider awskms alone opens it; account awskms 1 alone opens it"},
		"an account without which not":  {one(3, a, b, c, person("anna")), "provider awskms is in every set that opens it: once lost, the MasterKey is lost; account awskms 1 is in"},
		"a region that does both":       {one(2, store("x", "t1", "1", "eu"), store("y", "t2", "2", "eu"), store("z", "t3", "3", "us")), "region eu alone opens it, and without it nothing does"},
		"every person":                  {one(2, person("anna"), person("bert")), "person anna is in every set that opens it: once lost, the MasterKey is lost; person bert is in"},
		"a key that is always needed":   {one(3, c, person("anna"), person("bert")), "provider gcpkms is in every set"},
		"printed shares":                {plan.Printed(5, 3), ""},
		"one key, which hides nothing":  {plan.OneKey(seal.ProviderKey{Provider: "p", Key: "k"}), ""},
		"two keys in one account":       {plan.Plan{Keys: []plan.Holder{a, b}}, "provider awskms is in every set that opens it: once lost, the MasterKey is lost; account awskms 1 is in"},
		"two keys that are two":         {plan.Plan{Keys: []plan.Holder{a, c}}, ""},
		"people of one department":      {one(2, plan.Holder{Name: "x", Domain: seal.Domain{Account: "it"}}, plan.Holder{Name: "y", Domain: seal.Domain{Account: "it"}}, person("z")), "account it alone opens it, and without it nothing does"},
		"more than an error is to name": {one(4, person("a"), person("b"), person("c"), person("d")), "; and 1 more"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.p.Check(); err != nil {
				t.Fatal(err)
			}
			an := plan.Analyze(tc.p)
			err := an.Refuse(nil, "")
			switch {
			case tc.want == "" && err != nil:
				t.Fatal(err)
			case tc.want == "":
				if got := an.Accepted(plan.Risks()); got != nil {
					t.Errorf("I4: %q is recorded as accepted, and there is no risk", got)
				}
				return
			case !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), tc.want):
				t.Fatalf("%v, want %q", err, tc.want)
			}
			if err := an.Refuse([]plan.Risk{plan.Concentration}, ""); err != nil {
				t.Errorf("accepted: %v", err)
			}
			if diff := cmp.Diff([]string{"concentration"}, an.Accepted(plan.Risks())); diff != "" {
				t.Errorf("I4: %s", diff)
			}
			if got := an.Accepted(nil); got != nil {
				t.Errorf("I4: nobody accepted %q", got)
			}
		})
	}
}

func TestFourEyesMeansTwoPeopleWhateverKeystoresAreThere(t *testing.T) {
	a, b, c := store("a", "t1", "1", "r1"), store("b", "t2", "2", "r2"), store("c", "t3", "3", "r3")
	people := []plan.Holder{person("anna"), person("bert"), person("carl")}
	for want, p := range map[string]plan.Plan{
		"":                                  one(3, append(people, a)...),
		"its keystores and one person open": one(3, append(people, a, b)...),
		"its keystores open it without":     one(3, append(people, a, b, c)...),
		"any one of its keys opens it":      {Keys: []plan.Holder{a, b}},
	} {
		err := plan.Analyze(p).Refuse(plan.Risks(), plan.FourEyes)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		// Whoever accepts that it is not so gets it, and where it is so it is not recorded.
		both := append(plan.Risks(), plan.NoFourEyes)
		if err := plan.Analyze(p).Refuse(both, plan.FourEyes); err != nil {
			t.Errorf("accepted: %v", err)
		}
		if got := plan.Analyze(p).Accepted(both); slices.Contains(got, string(plan.NoFourEyes)) != (want != "") {
			t.Errorf("%q: recorded %v", want, got)
		}
	}
	groups := plan.Plan{Groups: []plan.Group{{Name: "stores", Threshold: 2, Holders: []plan.Holder{a, b, c}}, {Name: "people", Threshold: 2, Holders: people}}}
	if err := plan.Analyze(groups).Refuse(nil, plan.FourEyes); err != nil {
		t.Error(err)
	}
}

func TestI4_RisksAndProfilesAreKnownByName(t *testing.T) {
	if got, err := plan.ParseRisks([]string{"concentration", "concentration"}); err != nil || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	if got, err := plan.ParseRisks([]string{"no-four-eyes"}); err != nil || len(got) != 1 || got[0] != plan.NoFourEyes {
		t.Errorf("%v %v", got, err)
	}
	if _, err := plan.ParseRisks([]string{"all"}); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	if p, err := plan.ParseProfile("four-eyes"); err != nil || p != plan.FourEyes {
		t.Error(p, err)
	}
	if p, err := plan.ParseProfile(""); err != nil || p != "" {
		t.Error(p, err)
	}
	if _, err := plan.ParseProfile("six-eyes"); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
}

// TestWhatRefusesAPlanSaysWhatToDo, as docs/errors.md has it.
func TestWhatRefusesAPlanSaysWhatToDo(t *testing.T) {
	alone := plan.Analyze(plan.Plan{Keys: []plan.Holder{store("a", "t1", "1", "r1"), store("b", "t1", "1", "r1")}})
	situationtest.Error(t, "seal/concentrated", alone.Refuse(nil, ""))
	situationtest.Error(t, "seal/not-four-eyes", alone.Refuse(plan.Risks(), plan.FourEyes))
	_, err := plan.ParseRisks([]string{"all"})
	situationtest.Error(t, "seal/no-such-risk", err)
	_, err = plan.ParseProfile("six-eyes")
	situationtest.Error(t, "seal/no-such-profile", err)
}
