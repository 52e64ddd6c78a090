package plan_test

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// store is a holder of a keystore somewhere.
func store(name, typ, account, region string) plan.Holder {
	return plan.Holder{
		Name: name, Key: seal.ProviderKey{Provider: name, Key: keystore.KeyRef("key of " + name)},
		Domain: seal.Domain{ProviderType: typ, Account: account, Region: region},
	}
}

func person(name string) plan.Holder { return plan.Holder{Name: name, Recipient: recipientOf(name)} }

// recipients are made when they are first needed; each person has one.
var recipients struct {
	sync.Mutex
	of map[string]string
}

func recipientOf(name string) string {
	recipients.Lock()
	defer recipients.Unlock()
	if recipients.of[name] == "" {
		ids, err := agebox.NewIdentities(time.Time{})
		if err != nil {
			panic(err)
		}
		defer ids.Destroy()
		public, err := ids.Public()
		if err != nil {
			panic(err)
		}
		if recipients.of == nil {
			recipients.of = map[string]string{}
		}
		recipients.of[name] = public[0].Recipient
	}
	return recipients.of[name]
}

func domain(t *testing.T, a plan.Analysis, axis plan.Axis, name string) plan.Domain {
	t.Helper()
	for _, d := range a.Domains {
		if d.Axis == axis && d.Name == name {
			return d
		}
	}
	t.Fatalf("the analysis has no %s %s", axis, name)
	return plan.Domain{}
}

// small draws a plan that Check accepts, of at most 10 holders.
func small(t *rapid.T) plan.Plan {
	left := 10
	holder := func(name string, mayBePerson bool) plan.Holder {
		d := seal.Domain{
			Account: rapid.SampledFrom([]string{"", "a1", "a2", "a3"}).Draw(t, "account"),
			Region:  rapid.SampledFrom([]string{"", "r1", "r2"}).Draw(t, "region"),
		}
		if mayBePerson && rapid.Bool().Draw(t, "person") {
			return plan.Holder{Name: name, Recipient: rapid.SampledFrom([]string{"", recipientOf(name)}).Draw(t, "recipient"), Domain: d}
		}
		d.ProviderType = rapid.SampledFrom([]string{"awskms", "transit"}).Draw(t, "type")
		h := store(name, d.ProviderType, d.Account, d.Region)
		h.Protection = rapid.SampledFrom([]keystore.Protection{keystore.ProtectionUnknown, keystore.ProtectionSoftware, keystore.ProtectionHSM}).Draw(t, "protection")
		return h
	}
	var p plan.Plan
	if rapid.IntRange(0, 3).Draw(t, "auto") == 0 {
		for i := range rapid.IntRange(1, 6).Draw(t, "keys") {
			p.Keys = append(p.Keys, holder(fmt.Sprintf("k%d", i), false))
		}
		return p
	}
	for g := range rapid.IntRange(1, 3).Draw(t, "groups") {
		n := rapid.IntRange(2, min(5, left-2*(2-min(g, 2)))).Draw(t, "holders")
		left -= n
		pg := plan.Group{Name: fmt.Sprintf("g%d", g), Threshold: rapid.IntRange(2, n).Draw(t, "threshold")}
		for i := range n {
			pg.Holders = append(pg.Holders, holder(fmt.Sprintf("g%dh%d", g, i), true))
		}
		p.Groups = append(p.Groups, pg)
		if left < 2 {
			break
		}
	}
	return p
}

// tried is the same plan, judged by trying sets of holders: bit i is holder i.
type tried struct {
	holders []plan.Holder
	need    []int
	groups  []uint
}

func try(p plan.Plan) tried {
	s := tried{holders: p.Holders()}
	if len(p.Keys) > 0 {
		return tried{holders: p.Keys, need: []int{1}, groups: []uint{1<<len(p.Keys) - 1}}
	}
	at := 0
	for _, g := range p.Groups {
		s.need = append(s.need, g.Threshold)
		s.groups = append(s.groups, (1<<len(g.Holders)-1)<<at)
		at += len(g.Holders)
	}
	return s
}

func (s tried) all() uint { return 1<<len(s.holders) - 1 }

func (s tried) opens(set uint) bool {
	for i, g := range s.groups {
		if bits.OnesCount(set&g) < s.need[i] {
			return false
		}
	}
	return true
}

func (s tried) pick(f func(plan.Holder) bool) (set uint) {
	for i, h := range s.holders {
		if f(h) {
			set |= 1 << i
		}
	}
	return set
}

func (s tried) people() uint {
	return s.pick(func(h plan.Holder) bool { return h.Key == seal.ProviderKey{} })
}

// fewest returns the smallest number of members of what in any subset of from that
// opens, and -1 if none does.
func (s tried) fewest(from, what uint) int {
	best := -1
	for set := from; ; set = (set - 1) & from {
		if n := bits.OnesCount(set & what); s.opens(set) && (best < 0 || n < best) {
			best = n
		}
		if set == 0 {
			return best
		}
	}
}

// lacking returns the fewest holders that have to be added to set from outside of it.
func (s tried) lacking(set uint) int {
	return s.fewest(s.all(), s.all()&^set)
}

func total(ms []plan.Missing) (n int) {
	for _, m := range ms {
		n += m.Count
	}
	return n
}

// mayLose returns how many members of all may be lost, whichever they are, so that
// what is left of it still opens; -1: not even none.
func (s tried) mayLose(all uint) int {
	worst := bits.OnesCount(all) + 1 // the smallest number that ends it
	for lost := all; ; lost = (lost - 1) & all {
		if n := bits.OnesCount(lost); !s.opens(all&^lost) && n < worst {
			worst = n
		}
		if lost == 0 {
			return worst - 1
		}
	}
}

func TestI1_TheAnalysisIsWhatTryingEverySubsetSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := small(t)
		if err := p.Check(); err != nil {
			t.Fatalf("drawn plan: %v", err)
		}
		a, s := plan.Analyze(p), try(p)
		people := s.people()
		stores := s.all() &^ people
		if want := s.fewest(s.all(), s.all()); a.HoldersNeeded != want {
			t.Fatalf("%d holders needed, want %d", a.HoldersNeeded, want)
		}
		if want := s.fewest(s.all(), people); a.PersonsNeeded != want || a.UnsealsWithoutPeople != (want == 0) || a.UnsealsWithoutPeople != s.opens(stores) {
			t.Fatalf("%d persons needed (without people: %v), want %d", a.PersonsNeeded, a.UnsealsWithoutPeople, want)
		}
		if want := s.mayLose(s.all()); a.MayLose != want {
			t.Fatalf("%d may be lost, want %d", a.MayLose, want)
		}
		if want := s.mayLose(stores); a.MayLoseUnattended != want {
			t.Fatalf("%d may be lost unattended, want %d", a.MayLoseUnattended, want)
		}
		fourEyes := !s.opens(stores)
		for i := range s.holders {
			if people&(1<<i) != 0 && s.opens(stores|1<<i) {
				fourEyes = false
			}
		}
		if a.FourEyes != fourEyes {
			t.Fatalf("four eyes: %v, want %v", a.FourEyes, fourEyes)
		}
		concentrated := false
		for _, d := range a.Domains {
			set := s.pick(func(h plan.Holder) bool { return slices.Contains(d.Holders, h.Name) })
			rest := s.all() &^ set
			if d.Lost.Opens != s.opens(rest) || d.Compromised.Opens != s.opens(set) {
				t.Fatalf("%s: lost %+v, taken %+v", d.Title(), d.Lost, d.Compromised)
			}
			if d.Lost.Opens && d.Lost.PersonsNeeded != s.fewest(rest, people) {
				t.Fatalf("%s lost: %d persons needed, want %d", d.Title(), d.Lost.PersonsNeeded, s.fewest(rest, people))
			}
			if got, want := total(d.Compromised.Missing), s.lacking(set); got != want {
				t.Fatalf("%s taken: %d short, want %d", d.Title(), got, want)
			}
			if got, want := total(d.Lost.Missing), s.lacking(rest); got != want {
				t.Fatalf("%s lost: %d missing, want %d", d.Title(), got, want)
			}
			ends := !s.opens(rest)
			if len(p.Keys) == 0 {
				ends = ends || s.opens(set)
			} else {
				ends = ends && len(p.Keys) > 1
			}
			if d.Axis == plan.AxisAllKeystores || d.Axis == plan.AxisAllPeople {
				ends = false
			}
			if (d.Risk == plan.Concentration) != ends {
				t.Fatalf("%s: risk %q, want %v", d.Title(), d.Risk, ends)
			}
			concentrated = concentrated || ends
		}
		if refused := a.Refuse(nil, "") != nil; refused != concentrated {
			t.Fatalf("refused: %v, concentrated: %v", refused, concentrated)
		}
		if err := a.Refuse(plan.Risks(), ""); err != nil {
			t.Fatalf("accepted and refused: %v", err)
		}
		if refused := a.Refuse(plan.Risks(), plan.FourEyes) != nil; refused == fourEyes {
			t.Fatalf("four eyes is %v and the profile is refused: %v", fourEyes, refused)
		}
	})
}

func TestI1_EveryHolderAccountProviderAndRegionIsAnalysedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := small(t)
		want := map[string][]string{}
		add := func(axis plan.Axis, typ, name, holder string) {
			if name != "" {
				k := fmt.Sprintf("%s|%s|%s", axis, typ, name)
				want[k] = append(want[k], holder)
			}
		}
		for _, h := range p.Holders() {
			if h.IsKeystore() {
				add(plan.AxisKeystore, "", h.Name, h.Name)
				add(plan.AxisProvider, "", h.Domain.ProviderType, h.Name)
				add(plan.AxisAllKeystores, "", "all keystores", h.Name)
			} else {
				add(plan.AxisPerson, "", h.Name, h.Name)
				add(plan.AxisAllPeople, "", "all people", h.Name)
			}
			add(plan.AxisAccount, h.Domain.ProviderType, h.Domain.Account, h.Name)
			add(plan.AxisRegion, "", h.Domain.Region, h.Name)
		}
		got := map[string][]string{}
		for _, d := range plan.Analyze(p).Domains {
			k := fmt.Sprintf("%s|%s|%s", d.Axis, d.Type, d.Name)
			if got[k] != nil {
				t.Fatalf("%s stands twice", k)
			}
			got[k] = d.Holders
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestI1_ANamedGroupSaysWhatItLacks(t *testing.T) {
	p := plan.Plan{Groups: []plan.Group{
		{Name: "stores", Threshold: 2, Holders: []plan.Holder{store("aws", "awskms", "1", "eu"), store("gcp", "gcpkms", "2", "eu"), store("hsm", "pkcs11", "3", "zh")}},
		{Name: "people", Threshold: 2, Holders: []plan.Holder{person("anna"), person("bert"), person("carl"), person("dora")}},
	}}
	a := plan.Analyze(p)
	if a.PersonsNeeded != 2 || a.HoldersNeeded != 4 || a.MayLose != 1 || a.MayLoseUnattended != -1 || !a.FourEyes {
		t.Errorf("%+v", a)
	}
	eu := domain(t, a, plan.AxisRegion, "eu")
	if diff := cmp.Diff(plan.Domain{
		Axis: plan.AxisRegion, Name: "eu", Holders: []string{"aws", "gcp"},
		Lost:        plan.Loss{Missing: []plan.Missing{{Group: "stores", Count: 1}}},
		Compromised: plan.Compromise{Missing: []plan.Missing{{Group: "people", Count: 2}}},
		Risk:        plan.Concentration,
	}, eu); diff != "" {
		t.Error(diff)
	}
	if d := domain(t, a, plan.AxisPerson, "anna"); !d.Lost.Opens || d.Lost.PersonsNeeded != 2 || d.Risk != "" {
		t.Errorf("%+v", d)
	}
	if d := domain(t, a, plan.AxisAllKeystores, "all keystores"); d.Compromised.Opens || d.Lost.Opens || d.Risk != "" {
		t.Errorf("%+v", d)
	}
}

func TestI5_WhatIsNotKnownIsSaidAndJoinsNobody(t *testing.T) {
	p := plan.Plan{Groups: []plan.Group{{Threshold: 2, Holders: []plan.Holder{
		store("a", "awskms", "", "eu"), store("b", "awskms", "", "us"), store("c", "transit", "vault:8200", ""), person("anna"),
	}}}}
	a := plan.Analyze(p)
	for _, d := range a.Domains {
		if d.Axis == plan.AxisAccount && len(d.Holders) != 1 {
			t.Errorf("accounts that are not known are one: %+v", d)
		}
	}
	want := []string{
		"a, b: the account is not known and counts as one of its own; say it in the plan if others are under it too",
		"c: the region is not known; say it in the plan if others are there too",
	}
	if diff := cmp.Diff(want, a.Notes); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsWorseAboutARecipientIsNoted(t *testing.T) {
	const x25519 = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
	for recipient, noted := range map[string]bool{x25519: true, recipientOf("anna"): false, "": false} {
		p := one(2, person("x"), person("y"), plan.Holder{Name: "zoe", Recipient: recipient})
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		notes := plan.Analyze(p).Notes
		if got := len(notes) > 0; got != noted || noted && notes[0] != "zoe: a quantum computer will open what is encrypted to this key today" {
			t.Errorf("%.20q: %q, want %v", recipient, notes, noted)
		}
	}
}

func TestTheWeakestKeystoreGivesTheStrength(t *testing.T) {
	of := func(ps ...keystore.Protection) plan.Strength {
		var p plan.Plan
		for i, pr := range ps {
			h := store(fmt.Sprintf("k%d", i), "t", "a", "r")
			h.Protection = pr
			p.Keys = append(p.Keys, h)
		}
		return plan.Analyze(p).Strength
	}
	const soft, hsm, unknown = keystore.ProtectionSoftware, keystore.ProtectionHSM, keystore.ProtectionUnknown
	for _, c := range []struct {
		got  plan.Strength
		want plan.Strength
	}{
		{of(hsm, hsm), plan.Strength{Protection: "hsm", Holders: []string{"k0", "k1"}}},
		{of(hsm, unknown), plan.Strength{Protection: "unknown", Holders: []string{"k1"}}},
		{of(unknown, hsm, soft), plan.Strength{Protection: "software", Holders: []string{"k2"}}},
		{plan.Analyze(plan.Printed(3, 2)).Strength, plan.Strength{Holders: []string{}}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Error(diff)
		}
	}
}
