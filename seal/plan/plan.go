package plan

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

// Holder is who holds a share, or in auto mode the key that wraps the MasterKey.
type Holder struct {
	Name       string           // unique in the plan; 1 to seal.MaxName bytes that can be printed
	Recipient  string           // of a person: where the share is encrypted to; empty: it is printed
	Key        seal.ProviderKey // of a keystore
	Domain     seal.Domain
	Protection keystore.Protection // of a keystore: where it says that the key is; not kept anywhere
}

// IsKeystore reports whether the holder opens its share without a person.
func (h Holder) IsKeystore() bool { return h.Key != seal.ProviderKey{} }

// Group is a number of holders of whom Threshold are needed.
type Group struct {
	Name      string
	Threshold int
	Holders   []Holder
}

// Plan is a seal that somebody wants: groups of holders, all of which are needed,
// or keys of which any one opens the MasterKey. Exactly one of the two is set. The
// zero Plan is none.
type Plan struct {
	Groups []Group
	Keys   []Holder // all keystores
}

// Mode returns the mode of the seal, or ModeUnspecified.
func (p Plan) Mode() seal.Mode {
	switch {
	case len(p.Groups) > 0 && len(p.Keys) == 0:
		return seal.ModeShamir
	case len(p.Keys) > 0 && len(p.Groups) == 0:
		return seal.ModeAuto
	}
	return seal.ModeUnspecified
}

// Printed returns the plan of shares that are printed, any threshold of which open
// the MasterKey.
func Printed(shares, threshold int) Plan {
	g := Group{Threshold: threshold}
	for i := range min(max(shares, 0), seal.MaxShares+1) { // one too many is enough to be refused
		g.Holders = append(g.Holders, Holder{Name: PrintedName(i + 1)})
	}
	return Plan{Groups: []Group{g}}
}

// PrintedName is the name of holder i in a plan of [Printed].
func PrintedName(i int) string { return fmt.Sprintf("holder-%d", i) }

// OneKey returns the plan of a single key that opens the MasterKey by itself.
func OneKey(key seal.ProviderKey) Plan {
	return Plan{Keys: []Holder{{Name: key.Provider, Key: key}}}
}

// Holders returns all holders in order: that of share 1 first, or the keys.
func (p Plan) Holders() []Holder {
	all := append([]Holder(nil), p.Keys...)
	for _, g := range p.Groups {
		all = append(all, g.Holders...)
	}
	return all
}

// Prints returns how many shares are to be printed.
func (p Plan) Prints() (n int) {
	for _, g := range p.Groups {
		for _, h := range g.Holders {
			if !h.IsKeystore() && h.Recipient == "" {
				n++
			}
		}
	}
	return n
}

// Seal returns the plan as package seal takes it.
func (p Plan) Seal() seal.Plan {
	var out seal.Plan
	for _, g := range p.Groups {
		sg := seal.Group{Name: g.Name, Threshold: g.Threshold}
		for _, h := range g.Holders {
			sg.Holders = append(sg.Holders, seal.Holder{Name: h.Name, Recipient: h.Recipient, Key: h.Key, Domain: h.Domain})
		}
		out.Groups = append(out.Groups, sg)
	}
	for _, k := range p.Keys {
		out.ProviderKeys = append(out.ProviderKeys, k.Key)
	}
	return out
}

// Of returns the plan that a plan of package seal is, for the analysis of a seal
// that exists. It has no account or region for the keys of auto mode: a manifest
// names none. See [Plan.Fill].
func Of(s seal.Plan) Plan {
	var out Plan
	for _, g := range s.Groups {
		pg := Group{Name: g.Name, Threshold: g.Threshold}
		for _, h := range g.Holders {
			pg.Holders = append(pg.Holders, Holder{Name: h.Name, Recipient: h.Recipient, Key: h.Key, Domain: h.Domain})
		}
		out.Groups = append(out.Groups, pg)
	}
	for _, k := range s.ProviderKeys {
		out.Keys = append(out.Keys, Holder{Name: nameOfKey(s.ProviderKeys, k), Key: k})
	}
	return out
}

// nameOfKey is the name of a key that has none of its own: its keystore's, and with
// the key where two keys are in one.
func nameOfKey(all []seal.ProviderKey, k seal.ProviderKey) string {
	n := 0
	for _, other := range all {
		if other.Provider == k.Provider {
			n++
		}
	}
	if n < 2 {
		return k.Provider
	}
	return clip(k.Provider + " " + string(k.Key))
}

// Fill returns the plan with what it does not say of where its keys are, from where.
// What the plan says goes first: only people know that two accounts have one
// administrator. where reports false for a keystore that is not configured, which is
// an error of code InvalidArgument.
func (p Plan) Fill(where func(seal.ProviderKey) (typ string, at keystore.Place, ok bool)) (Plan, error) {
	fill := func(hs []Holder) ([]Holder, error) {
		out := append([]Holder(nil), hs...)
		for i, h := range out {
			if !h.IsKeystore() {
				out[i].Domain.ProviderType = ""
				continue
			}
			typ, at, ok := where(h.Key)
			if !ok {
				return nil, errs.Newf(errs.InvalidArgument, "holder %s: the configuration has no keystore %q", h.Name, h.Key.Provider).
					With(errs.Hint("krypton keystore list shows those that this node has; every node needs those of the seal"))
			}
			out[i].Domain.ProviderType = clip(typ) // never the file's word: it decides what counts as one kind
			if h.Domain.Account == "" {
				out[i].Domain.Account = known(at.Account)
			}
			if h.Domain.Region == "" {
				out[i].Domain.Region = known(at.Region)
			}
		}
		return out, nil
	}
	out := Plan{}
	for _, g := range p.Groups {
		hs, err := fill(g.Holders)
		if err != nil {
			return Plan{}, err
		}
		out.Groups = append(out.Groups, Group{Name: g.Name, Threshold: g.Threshold, Holders: hs})
	}
	var err error
	out.Keys, err = fill(p.Keys)
	return out, err
}

// known is what a configuration says of a place, as a plan may have it; empty if
// people could not read it.
func known(s string) string {
	if s = clip(s); badText(s) != "" {
		return ""
	}
	return s
}

// maxText is the longest name and the longest part of a domain, in bytes.
const maxText = min(seal.MaxName, seal.MaxDomain)

// clip shortens what a keystore calls a place to maxText. Two places that differ
// only behind that count as one, which can refuse a plan and never lets one through.
func clip(s string) string {
	n := maxText
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Check refuses a plan that cannot work or says something twice, before anything is
// made. The error has the code InvalidArgument and names every problem.
func (p Plan) Check() error {
	problems := p.problems()
	if len(problems) == 0 {
		return nil
	}
	return refuse(problems)
}

// maxProblems bounds how many problems one error names. Who has more repairs these
// and asks again.
const maxProblems = 8

func refuse(problems []string) error {
	if n := len(problems); n > maxProblems {
		problems = append(problems[:maxProblems:maxProblems], fmt.Sprintf("and %d more", n-maxProblems))
	}
	all := strings.Join(problems, "; ")
	return errs.New(errs.InvalidArgument, "the plan of the seal cannot be used: "+all,
		errs.Hint("docs/seals.md has examples; krypton operator seal plan FILE checks one without making anything"), errs.Cause(errors.New(all)))
}

func (p Plan) problems() []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case p.Mode() == seal.ModeUnspecified && len(p.Keys) > 0:
		bad("it has groups and keys; a seal is either shares in groups, or keys of which any one opens it")
	case p.Mode() == seal.ModeUnspecified:
		bad("it has neither groups nor keys")
	case len(p.Groups) > seal.MaxGroups:
		bad("it has %d groups, the limit is %d", len(p.Groups), seal.MaxGroups)
	case len(p.Keys) > seal.MaxProviderKeys:
		bad("it has %d keys, the limit is %d", len(p.Keys), seal.MaxProviderKeys)
	case len(p.Groups) > 0 && len(p.Holders()) > seal.MaxShares:
		bad("it has %d holders, the limit is %d", len(p.Holders()), seal.MaxShares)
	}
	if len(out) > 0 {
		return out
	}
	groups := map[string]bool{}
	for i, g := range p.Groups {
		at := p.groupName(i)
		switch {
		case g.Name == "" && len(p.Groups) > 1:
			bad("group %d has no name", i+1)
		case g.Name != "" && groups[g.Name]:
			bad("group %q stands twice", g.Name)
		case g.Name != "":
			if why := badText(g.Name); why != "" {
				bad("the name of group %d %s", i+1, why)
			}
		}
		groups[g.Name] = true
		switch {
		case len(g.Holders) == 0:
			bad("%s has no holders", at)
		case g.Threshold < seal.MinThreshold:
			bad("%s needs a threshold of %d or more: with less, one holder has the whole secret", at, seal.MinThreshold)
		case g.Threshold > len(g.Holders):
			bad("%s needs %d of %d holders, which can never be reached", at, g.Threshold, len(g.Holders))
		}
	}
	return append(out, p.holderProblems()...)
}

func (p Plan) holderProblems() (out []string) {
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	names, recipients, keys := map[string]bool{}, map[string]string{}, map[seal.ProviderKey]string{}
	for i, h := range p.Holders() {
		if why := badText(h.Name); why != "" {
			bad("the name of holder %d %s", i+1, why)
			continue
		}
		if names[h.Name] {
			bad("holder %q stands twice", h.Name)
		}
		names[h.Name] = true
		for _, f := range []struct{ name, is string }{{"account", h.Domain.Account}, {"region", h.Domain.Region}} {
			if f.is != "" && badText(f.is) != "" {
				bad("the %s of holder %q %s", f.name, h.Name, badText(f.is))
			}
		}
		switch {
		case h.IsKeystore() && h.Recipient != "":
			bad("holder %q has a keystore and a recipient; it is one or the other", h.Name)
		case h.IsKeystore() && (h.Key.Provider == "" || h.Key.Key == ""):
			bad("holder %q needs both a keystore and a key", h.Name)
		case h.IsKeystore() && len(h.Key.Key) > keystore.MaxKeyRef:
			bad("the key of holder %q has %d bytes, the limit is %d", h.Name, len(h.Key.Key), keystore.MaxKeyRef)
		case h.IsKeystore() && keys[h.Key] != "":
			bad("holders %q and %q are one key; a second share in the same hand protects nothing", keys[h.Key], h.Name)
		case len(p.Keys) > 0 && !h.IsKeystore():
			bad("%q is no key of a keystore; people hold shares, in groups", h.Name)
		case h.Recipient != "" && recipients[h.Recipient] != "":
			bad("holders %q and %q have one recipient; a second share in the same hand protects nothing", recipients[h.Recipient], h.Name)
		}
		switch {
		case h.IsKeystore():
			keys[h.Key] = h.Name
		case h.Recipient != "":
			recipients[h.Recipient] = h.Name
			if _, err := agebox.ParseRecipient(h.Recipient); err != nil {
				bad("holder %q: %s", h.Name, errs.From(err).Msg)
			}
		}
	}
	return out
}

// badText returns what is wrong with a text that people will read in a terminal.
func badText(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxText:
		return fmt.Sprintf("has %d bytes, the limit is %d", len(s), maxText)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "has characters that cannot be printed"
	case strings.TrimSpace(s) != s:
		return "begins or ends with a blank"
	}
	return ""
}

// groupName returns how people call group i.
func (p Plan) groupName(i int) string {
	if p.Groups[i].Name == "" {
		return "the group"
	}
	return fmt.Sprintf("group %q", p.Groups[i].Name)
}
