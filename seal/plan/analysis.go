package plan

import (
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

// Axis is what makes several holders one: they are lost together, or fall into wrong
// hands together.
type Axis string

// The axes, in the order in which an analysis has them. The texts are those of JSON.
const (
	AxisKeystore     Axis = "keystore"     // one keystore's key
	AxisPerson       Axis = "person"       // one person
	AxisAccount      Axis = "account"      // everything under one administration
	AxisProvider     Axis = "provider"     // one kind of keystore: its maker's fault, or its maker
	AxisRegion       Axis = "region"       // one place
	AxisAllKeystores Axis = "allKeystores" // every keystore, without any person
	AxisAllPeople    Axis = "allPeople"    // every person, without any keystore
)

// Missing is how many holders of one group are lacking.
type Missing struct {
	Group string `json:"group"` // empty: the only one, or a key of auto mode
	Count int    `json:"count"` // 1 or more
}

// Loss is what is left when some holders are gone.
type Loss struct {
	Opens         bool      `json:"opens"`
	PersonsNeeded int       `json:"personsNeeded"` // when it opens: how many people it takes; 0: none
	Missing       []Missing `json:"missing"`       // when it does not
}

// Compromise is what those can do who have some holders' shares.
type Compromise struct {
	Opens   bool      `json:"opens"`
	Missing []Missing `json:"missing"` // when it does not
}

// Domain is a set of holders with something in common, and what that means.
type Domain struct {
	Axis        Axis       `json:"axis"`
	Name        string     `json:"name"`
	Type        string     `json:"type"`    // of an account: the kind of keystore; empty: of people
	Holders     []string   `json:"holders"` // in the plan's order
	Lost        Loss       `json:"lost"`
	Compromised Compromise `json:"compromised"`
	Risk        Risk       `json:"risk"` // empty: none
}

// GroupFacts are the numbers of one group.
type GroupFacts struct {
	Name      string   `json:"name"`
	Threshold int      `json:"threshold"`
	Keystores []string `json:"keystores"`
	People    []string `json:"people"`
}

// Strength is that of the weakest keystore.
type Strength struct {
	Protection string   `json:"protection"` // hsm, software or unknown; empty: no keystore holds anything
	Holders    []string `json:"holders"`    // those that are as weak
}

// Analysis says what a plan means. See [Analyze].
type Analysis struct {
	Mode                 string       `json:"mode"`
	Groups               []GroupFacts `json:"groups"`
	UnsealsWithoutPeople bool         `json:"unsealsWithoutPeople"`
	PersonsNeeded        int          `json:"personsNeeded"`     // when every keystore answers
	HoldersNeeded        int          `json:"holdersNeeded"`     // the fewest that open it
	MayLose              int          `json:"mayLose"`           // so many holders, whichever they are
	MayLoseUnattended    int          `json:"mayLoseUnattended"` // so many, and it still opens without people; -1: it takes people anyway
	FourEyes             bool         `json:"fourEyes"`          // no keystores and one person together open it
	Strength             Strength     `json:"strength"`
	Domains              []Domain     `json:"domains"`
	Notes                []string     `json:"notes"` // what a person should know besides
}

// member is one holder and the group it is in.
type member struct {
	Holder

	group int
}

// weighed is a plan as groups, with auto mode as one group of which one is enough.
type weighed struct {
	groups  []Group
	members []member
	auto    bool
}

func weigh(p Plan) weighed {
	w := weighed{groups: p.Groups, auto: p.Mode() == seal.ModeAuto}
	if w.auto {
		w.groups = []Group{{Threshold: 1, Holders: p.Keys}}
	}
	for i, g := range w.groups {
		for _, h := range g.Holders {
			w.members = append(w.members, member{h, i})
		}
	}
	return w
}

// short returns what the holders that in picks lack to open it.
func (w weighed) short(in func(member) bool) []Missing {
	out := []Missing{}
	for i, n := range w.deficit(in) {
		if n > 0 {
			out = append(out, Missing{Group: w.groups[i].Name, Count: n})
		}
	}
	return out
}

// deficit returns for each group how many more it takes than those that in picks.
func (w weighed) deficit(in func(member) bool) []int {
	need := make([]int, len(w.groups))
	for i, g := range w.groups {
		need[i] = g.Threshold
	}
	for _, m := range w.members {
		if in(m) {
			need[m.group]--
		}
	}
	return need
}

// persons returns how many people it takes beside those keystores that in picks.
func (w weighed) persons(in func(member) bool) (n int) {
	for _, d := range w.deficit(func(m member) bool { return m.IsKeystore() && in(m) }) {
		n += max(d, 0)
	}
	return n
}

func everyone(member) bool { return true }

// Analyze says what a plan means that [Plan.Check] accepts. It counts; it never
// tries subsets, so 255 holders cost no more than a few thousand additions (I1: the
// tests compare with trying them).
func Analyze(p Plan) Analysis {
	w := weigh(p)
	a := Analysis{Mode: p.Mode().String(), Groups: []GroupFacts{}, Notes: []string{}, Domains: []Domain{}}
	a.MayLose, a.MayLoseUnattended = seal.MaxShares, seal.MaxShares
	for _, g := range w.groups {
		f := GroupFacts{Name: g.Name, Threshold: g.Threshold, Keystores: []string{}, People: []string{}}
		for _, h := range g.Holders {
			if h.IsKeystore() {
				f.Keystores = append(f.Keystores, h.Name)
			} else {
				f.People = append(f.People, h.Name)
			}
		}
		a.Groups = append(a.Groups, f)
		a.HoldersNeeded += g.Threshold
		a.MayLose = min(a.MayLose, len(g.Holders)-g.Threshold)
		a.MayLoseUnattended = max(-1, min(a.MayLoseUnattended, len(f.Keystores)-g.Threshold))
	}
	a.PersonsNeeded = w.persons(everyone)
	a.UnsealsWithoutPeople = a.PersonsNeeded == 0
	a.FourEyes = a.PersonsNeeded >= 2
	a.Strength = w.strength()
	for _, d := range w.sets() {
		a.Domains = append(a.Domains, w.judge(d))
	}
	a.Notes = append(a.Notes, w.notes()...)
	return a
}

// set is a domain before it is judged.
type set struct {
	axis       Axis
	name, kind string
	has        func(member) bool
}

// sets returns every set of holders that an analysis speaks of, each once.
func (w weighed) sets() []set {
	var out []set
	once := func(s set) {
		if s.name != "" && !slices.ContainsFunc(out, func(o set) bool { return o.axis == s.axis && o.name == s.name && o.kind == s.kind }) {
			out = append(out, s)
		}
	}
	for _, axis := range []Axis{AxisKeystore, AxisPerson, AxisAccount, AxisProvider, AxisRegion} {
		for _, m := range w.members {
			d := m.Domain
			switch axis {
			case AxisKeystore, AxisPerson:
				if m.IsKeystore() == (axis == AxisKeystore) {
					once(set{axis, m.Name, "", func(o member) bool { return o.Name == m.Name }})
				}
			case AxisAccount:
				kind := kindOf(m)
				once(set{axis, d.Account, kind, func(o member) bool { return o.Domain.Account == d.Account && kindOf(o) == kind }})
			case AxisProvider:
				if m.IsKeystore() {
					once(set{axis, d.ProviderType, "", func(o member) bool { return o.IsKeystore() && o.Domain.ProviderType == d.ProviderType }})
				}
			case AxisRegion:
				once(set{axis, d.Region, "", func(o member) bool { return o.Domain.Region == d.Region }})
			case AxisAllKeystores, AxisAllPeople:
			}
		}
	}
	if slices.ContainsFunc(w.members, func(m member) bool { return m.IsKeystore() }) {
		once(set{AxisAllKeystores, "all keystores", "", func(m member) bool { return m.IsKeystore() }})
	}
	if slices.ContainsFunc(w.members, func(m member) bool { return !m.IsKeystore() }) {
		once(set{AxisAllPeople, "all people", "", func(m member) bool { return !m.IsKeystore() }})
	}
	return out
}

// kindOf tells accounts of one name apart: that of people is empty.
func kindOf(m member) string {
	if !m.IsKeystore() {
		return ""
	}
	return m.Domain.ProviderType
}

func (w weighed) judge(s set) Domain {
	d := Domain{Axis: s.axis, Name: s.name, Type: s.kind, Holders: []string{}}
	for _, m := range w.members {
		if s.has(m) {
			d.Holders = append(d.Holders, m.Name)
		}
	}
	rest := func(m member) bool { return !s.has(m) }
	d.Lost.Missing = w.short(rest)
	if d.Lost.Opens = len(d.Lost.Missing) == 0; d.Lost.Opens {
		d.Lost.PersonsNeeded = w.persons(rest)
	}
	d.Compromised.Missing = w.short(s.has)
	d.Compromised.Opens = len(d.Compromised.Missing) == 0
	if s.axis != AxisAllKeystores && s.axis != AxisAllPeople && w.concentrated(d) {
		d.Risk = Concentration
	}
	return d
}

// strength returns the protection of the weakest keystore. One that does not say
// counts as weaker than a hardware module and stronger than software, which is
// known to be weak.
func (w weighed) strength() Strength {
	s := Strength{Holders: []string{}}
	for _, p := range []keystore.Protection{keystore.ProtectionSoftware, keystore.ProtectionUnknown, keystore.ProtectionHSM} {
		for _, m := range w.members {
			if m.IsKeystore() && m.Protection == p {
				s.Protection = p.String()
				s.Holders = append(s.Holders, m.Name)
			}
		}
		if s.Protection != "" {
			break
		}
	}
	return s
}

// notes says what the counts rest on and where they may be wrong (I5).
func (w weighed) notes() (out []string) {
	if w.auto && len(w.members) == 1 {
		out = append(out, w.members[0].Name+": everything rests on this one key; when it is deleted, the MasterKey is lost")
	}
	list := func(text string, pick func(member) bool) {
		var names []string
		for _, m := range w.members {
			if pick(m) {
				names = append(names, m.Name)
			}
		}
		if len(names) > 0 {
			out = append(out, strings.Join(names, ", ")+": "+text)
		}
	}
	list("the account is not known and counts as one of its own; say it in the plan if others are under it too",
		func(m member) bool { return m.IsKeystore() && m.Domain.Account == "" })
	list("the region is not known; say it in the plan if others are there too",
		func(m member) bool { return m.IsKeystore() && m.Domain.Region == "" })
	for _, m := range w.members {
		if r, err := agebox.ParseRecipient(m.Recipient); m.Recipient != "" && err == nil && r.Kind().Warning() != "" {
			out = append(out, m.Name+": "+r.Kind().Warning())
		}
	}
	return out
}
