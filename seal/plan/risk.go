package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

// Risk is something that a person may accept by name. The texts stand in manifests
// and must not change.
type Risk string

// Concentration is that one account, kind of keystore, region, key or person is
// enough: without it nothing opens, or it opens everything.
//
// In auto mode any one key opens the MasterKey: that is the mode, and nobody is asked
// to accept it. There, several keys that are lost together are one, and that is a
// risk. A single key hides nothing: the analysis says that everything rests on it.
const Concentration Risk = "concentration"

// NoFourEyes is that fewer than two people open the MasterKey in a cluster that was founded
// with the profile [FourEyes]. Elsewhere it is no risk that anybody has to accept.
const NoFourEyes Risk = "no-four-eyes"

// Risks are all that a plan can have by itself, whatever the cluster.
func Risks() []Risk { return []Risk{Concentration} }

// ParseRisks reads risks by name, each once.
func ParseRisks(names []string) ([]Risk, error) {
	var out []Risk
	for _, n := range names {
		if !slices.Contains(append(Risks(), NoFourEyes), Risk(n)) {
			return nil, errs.Newf(errs.InvalidArgument, "there is no risk %q", n).With(errs.Hint("there is: %s, %s", Concentration, NoFourEyes))
		}
		if !slices.Contains(out, Risk(n)) {
			out = append(out, Risk(n))
		}
	}
	return out, nil
}

// Profile is a rule that a seal has to keep. The zero value asks for nothing.
type Profile string

// FourEyes asks that the MasterKey never opens with fewer than two people, whatever
// keystores are there.
const FourEyes Profile = "four-eyes"

// ParseProfile reads a profile by name; empty is none.
func ParseProfile(name string) (Profile, error) {
	if name != "" && Profile(name) != FourEyes {
		return "", errs.Newf(errs.InvalidArgument, "there is no profile %q", name).With(errs.Hint("there is: %s", FourEyes))
	}
	return Profile(name), nil
}

// concentrated reports whether a set of holders is enough by itself.
func (w weighed) concentrated(d Domain) bool {
	if w.auto {
		return len(w.members) > 1 && !d.Lost.Opens
	}
	return !d.Lost.Opens || d.Compromised.Opens
}

// Risks returns the risks of the plan.
func (a Analysis) Risks() []Risk {
	if slices.ContainsFunc(a.Domains, func(d Domain) bool { return d.Risk == Concentration }) {
		return []Risk{Concentration}
	}
	return nil
}

// Accepted returns those of the given risks that the plan has, as the manifest keeps
// them (I4): what nobody risks is not recorded as accepted.
func (a Analysis) Accepted(given []Risk) []string {
	var out []string
	has := a.Risks()
	if !a.FourEyes {
		has = append(has, NoFourEyes) // whether the cluster asks for it its nodes know
	}
	for _, r := range has {
		if slices.Contains(given, r) {
			out = append(out, string(r))
		}
	}
	return out
}

// Refuse returns why the plan may not be carried out, or nil: a risk that is not
// among those that were accepted, or a profile that it does not keep. The error has
// the code InvalidArgument.
func (a Analysis) Refuse(accepted []Risk, profile Profile) error {
	if profile == FourEyes && !a.FourEyes && !slices.Contains(accepted, NoFourEyes) {
		return errs.Newf(errs.InvalidArgument, "the seal is not %s: %s", FourEyes, a.opensWith()).
			With(errs.Hint("raise the threshold of a group of people, so that keystores alone lack two people or more; or accept that with --accept-risk %s", NoFourEyes))
	}
	for _, r := range a.Risks() {
		if slices.Contains(accepted, r) {
			continue
		}
		return errs.Newf(errs.InvalidArgument, "the seal is concentrated: %s", a.concentration()).
			With(errs.Hint("spread it, or accept that with --accept-risk %s; krypton operator seal plan shows all of it", r))
	}
	return nil
}

func (a Analysis) opensWith() string {
	switch {
	case a.Mode == seal.ModeAuto.String():
		return "any one of its keys opens it without people"
	case a.PersonsNeeded == 0:
		return "its keystores open it without people"
	}
	return "its keystores and one person open it"
}

// maxNamed bounds how many concentrations one error names.
const maxNamed = 3

// concentration names the concentrated sets in one line, the widest first: who
// spreads that may have spread the rest.
func (a Analysis) concentration() string {
	var found []string
	for _, axis := range []Axis{AxisProvider, AxisAccount, AxisRegion, AxisKeystore, AxisPerson} {
		for _, d := range a.Domains {
			if d.Risk == Concentration && d.Axis == axis {
				found = append(found, d.Title()+" "+a.enough(d))
			}
		}
	}
	if n := len(found); n > maxNamed {
		found = append(found[:maxNamed:maxNamed], fmt.Sprintf("and %d more", n-maxNamed))
	}
	return strings.Join(found, "; ")
}

// enough says what a set is enough for. That a key of auto mode opens is no news.
func (a Analysis) enough(d Domain) string {
	opens := d.Compromised.Opens && a.Mode != seal.ModeAuto.String()
	switch {
	case !d.Lost.Opens && opens:
		return "alone opens it, and without it nothing does"
	case opens:
		return "alone opens it"
	}
	return "is in every set that opens it: once lost, the MasterKey is lost"
}

// Title returns what people call the set: "account awskms 111122223333".
func (d Domain) Title() string {
	switch d.Axis {
	case AxisAllKeystores, AxisAllPeople:
		return d.Name
	case AxisAccount:
		if d.Type == "" {
			return "account " + d.Name
		}
		return "account " + d.Type + " " + d.Name
	case AxisKeystore, AxisPerson, AxisProvider, AxisRegion:
	}
	return string(d.Axis) + " " + d.Name
}
