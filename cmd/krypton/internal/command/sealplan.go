package command

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// sealRuleFlags are the flags of everything that makes a seal, or looks at one that
// is planned.
func sealRuleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "accept-risk", Usage: "`RISK` of the seal to accept and record: concentration, no-four-eyes"},
		&cli.StringFlag{Name: "profile", Usage: "`RULE` that the seal has to keep: four-eyes, two people at least, whatever keystores do; that of init stays"},
	}
}

// sealRule is what those flags say.
type sealRule struct {
	accepted []plan.Risk
	profile  plan.Profile
}

func (in *Invocation) sealRule() (r sealRule, err error) {
	if r.accepted, err = plan.ParseRisks(in.c.StringSlice("accept-risk")); err != nil {
		return r, err
	}
	r.profile, err = plan.ParseProfile(in.c.String("profile"))
	return r, err
}

// sealView is a plan, what it means, and whether it may be carried out.
type sealView struct {
	plan.Analysis

	AcceptedRisks []string `json:"acceptedRisks"` // those that the manifest will have
	Refused       string   `json:"refused"`       // empty: it may be carried out

	refusal error
}

func viewSeal(p plan.Plan, notes []string, rule sealRule) sealView {
	v := sealView{Analysis: plan.Analyze(p)}
	v.Notes = append(v.Notes, notes...)
	if v.AcceptedRisks = v.Accepted(rule.accepted); v.AcceptedRisks == nil {
		v.AcceptedRisks = []string{}
	}
	for _, r := range rule.accepted {
		if !slices.Contains(v.AcceptedRisks, string(r)) {
			v.Notes = append(v.Notes, fmt.Sprintf("the seal has no %s; nothing is recorded as accepted", r))
		}
	}
	return v.judged(rule)
}

func (v sealView) judged(rule sealRule) sealView {
	if v.refusal = v.Refuse(rule.accepted, rule.profile); v.refusal != nil {
		v.Refused = errs.From(v.refusal).Msg
	}
	return v
}

// viewSignedSeal is the view of a plan that people sign, far from the nodes that know
// where its keystores are: what is accepted is accepted whether it can be seen here or
// not, because the nodes refuse what they see and nobody accepted.
func viewSignedSeal(p plan.Plan, rule sealRule) sealView {
	v := sealView{Analysis: plan.Analyze(p), AcceptedRisks: []string{}}
	for _, r := range rule.accepted {
		v.AcceptedRisks = append(v.AcceptedRisks, string(r))
	}
	return v.judged(rule)
}

// text is the view as people read it: the sums first, then who holds what, then each
// thing that can go wrong alone, then what the sums rest on.
func (v sealView) text() string {
	var s sheet
	s.add("opens with", v.opensWith())
	s.add("unseals without people", yesNo(v.UnsealsWithoutPeople))
	s.add("persons needed", fmt.Sprint(v.PersonsNeeded))
	s.add("may be lost", v.mayLose())
	if v.Strength.Protection != "" {
		s.add("weakest keystore", protectionText(v.Strength.Protection)+": "+strings.Join(v.Strength.Holders, ", "))
	}
	s.add("accepted risks", strings.Join(v.AcceptedRisks, ", "))

	groups := grid{head: []string{"GROUP", "NEEDED", "KEYSTORES", "PEOPLE"}}
	for _, g := range v.Groups {
		groups.add(g.Name, fmt.Sprintf("%d of %d", g.Threshold, len(g.Keystores)+len(g.People)), strings.Join(g.Keystores, ", "), strings.Join(g.People, ", "))
	}
	alone := grid{head: []string{"ALONE", "IF IT IS LOST", "IN WRONG HANDS", "RISK"}}
	for _, d := range v.Domains {
		title := d.Title()
		if (d.Axis == plan.AxisAccount || d.Axis == plan.AxisProvider || d.Axis == plan.AxisRegion) && len(d.Holders) > 1 {
			title += " (" + strings.Join(d.Holders, ", ") + ")"
		}
		alone.add(title, lossText(d.Lost), compromiseText(d.Compromised), strings.ToUpper(string(d.Risk)))
	}
	var notes strings.Builder
	for _, n := range v.Notes {
		fmt.Fprintf(&notes, "note: %s\n", visible(n))
	}
	if notes.Len() > 0 {
		notes.WriteString("\n")
	}
	return strings.TrimSuffix(s.text()+"\n"+groups.withoutEmptyColumns().text()+"\n"+alone.withoutEmptyColumns().text()+"\n"+notes.String(), "\n")
}

func (v sealView) opensWith() string {
	if v.Mode == seal.ModeAuto.String() {
		return "any one key"
	}
	var parts []string
	for _, g := range v.Groups {
		part := fmt.Sprintf("%d of %d", g.Threshold, len(g.Keystores)+len(g.People))
		if g.Name != "" {
			part += " " + g.Name
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " and ")
}

func (v sealView) mayLose() string {
	text := fmt.Sprintf("any %d", v.MayLose)
	switch {
	case v.MayLose == 0:
		text = "none"
	case v.MayLoseUnattended >= 0 && v.MayLoseUnattended < v.MayLose:
		text += fmt.Sprintf("; people are needed after %d keystores", v.MayLoseUnattended+1)
		if v.MayLoseUnattended == 0 {
			text = fmt.Sprintf("any %d; people are needed after one keystore", v.MayLose)
		}
	}
	return text
}

func protectionText(p string) string {
	switch p {
	case keystore.ProtectionHSM.String():
		return "hardware"
	case keystore.ProtectionSoftware.String():
		return "software"
	}
	return "not known"
}

func lossText(l plan.Loss) string {
	switch {
	case !l.Opens:
		return "NOTHING OPENS: " + missingText(l.Missing)
	case l.PersonsNeeded == 0:
		return "opens"
	case l.PersonsNeeded == 1:
		return "opens with 1 person"
	}
	return fmt.Sprintf("opens with %d people", l.PersonsNeeded)
}

func compromiseText(c plan.Compromise) string {
	if c.Opens {
		return "OPENS"
	}
	return missingText(c.Missing)
}

func missingText(ms []plan.Missing) string {
	var parts []string
	for _, m := range ms {
		part := fmt.Sprint(m.Count)
		if m.Group != "" {
			part += " of " + m.Group
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " and ") + " short"
}

// ShowSeal prints what a plan means, and then returns why it may not be carried out.
func (in *Invocation) ShowSeal(p plan.Plan, notes []string) error {
	rule, err := in.sealRule()
	if err != nil {
		return err
	}
	v := viewSeal(p, notes, rule)
	if err := in.Show(v, v.text()); err != nil {
		return err
	}
	return v.refusal
}

// SealRuleFlags are --accept-risk and --profile.
func SealRuleFlags() []cli.Flag { return sealRuleFlags() }

// sealFlags say who opens the MasterKey of a new cluster.
func sealFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "seal-plan", Usage: "`FILE` that says who opens the MasterKey, see docs/seals.md"},
		&cli.UintFlag{Name: "shares", Usage: "`NUMBER` of shares that the MasterKey is split into; all are printed"},
		&cli.UintFlag{Name: "threshold", Usage: "`NUMBER` of shares that open it"},
		&cli.StringFlag{Name: "keystore", Usage: "`NAME` of the keystore that opens the MasterKey, instead of shares"},
		&cli.StringFlag{Name: "key", Usage: "`REFERENCE` of the key in that keystore"},
	}, sealRuleFlags()...)
}

// wantedSeal returns the seal that the flags ask for.
func (in *Invocation) wantedSeal() (plan.Plan, error) {
	var ways []string
	for _, way := range []struct{ flag, also string }{{"seal-plan", ""}, {"keystore", "key"}, {"shares", "threshold"}} {
		if in.c.IsSet(way.flag) || way.also != "" && in.c.IsSet(way.also) {
			ways = append(ways, way.flag)
		}
	}
	switch {
	case len(ways) > 1:
		return plan.Plan{}, usagef("choose one", "--%s and --%s both say who opens the MasterKey", ways[0], ways[1])
	case len(ways) == 0:
		return plan.Plan{}, usagef("give --seal-plan, or --shares and --threshold, or --keystore and --key", "nothing says who opens the MasterKey")
	}
	switch ways[0] {
	case "seal-plan":
		return plan.ReadFile(in.c.String("seal-plan"))
	case "keystore":
		return plan.OneKey(seal.ProviderKey{Provider: in.c.String("keystore"), Key: keystore.KeyRef(in.c.String("key"))}), nil
	}
	return plan.Printed(int(min(in.c.Uint("shares"), 1<<16)), int(min(in.c.Uint("threshold"), 1<<16))), nil
}

// weighSeal asks the node where the keys of a plan are, and returns what the plan
// means. A person reads it before anything is made; a program gets it with the result.
func (in *Invocation) weighSeal(ctx context.Context, admin kryptonv1.AdminClient, p plan.Plan) (plan.Plan, sealView, error) {
	rule, err := in.sealRule()
	if err != nil {
		return p, sealView{}, err
	}
	in.meter.step("asking the keystores")
	defer in.meter.watch(nil)
	ctx, cancel := in.deadline(ctx)
	defer cancel()
	resp, err := admin.PlanSeal(ctx, &kryptonv1.PlanSealRequest{Plan: p.Proto()})
	if err != nil {
		return p, sealView{}, wire.FromStatus(err)
	}
	filled := plan.FromProto(resp.GetPlan())
	// Where keys are and how they are protected is the node's to say; who holds what is not.
	if !sameHolders(p, filled) {
		return p, sealView{}, errs.New(errs.Internal, "the node answers with another plan than it was asked about", errs.Hint("look into the node"))
	}
	return filled, viewSeal(filled, resp.GetNotes(), rule), nil
}

// sameHolders reports whether two plans have the same holders of the same shares.
func sameHolders(a, b plan.Plan) bool {
	bare := func(p plan.Plan) plan.Plan {
		strip := func(hs []plan.Holder) (out []plan.Holder) {
			for _, h := range hs {
				out = append(out, plan.Holder{Name: h.Name, Recipient: h.Recipient, Key: h.Key})
			}
			return out
		}
		out := plan.Plan{Keys: strip(p.Keys)}
		for _, g := range p.Groups {
			out.Groups = append(out.Groups, plan.Group{Name: g.Name, Threshold: g.Threshold, Holders: strip(g.Holders)})
		}
		return out
	}
	x, y := bare(a), bare(b)
	return slices.Equal(x.Keys, y.Keys) && slices.EqualFunc(x.Groups, y.Groups, func(g, h plan.Group) bool {
		return g.Name == h.Name && g.Threshold == h.Threshold && slices.Equal(g.Holders, h.Holders)
	})
}
