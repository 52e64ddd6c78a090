package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// Ceremonies: who opens the MasterKey changes.

const ceremonyPrefix = "ceremonies/"

var ceremonyHex = regexp.MustCompile(`^[0-9a-f]{32}$`)

func ceremonyCommands() *Command {
	g := group("ceremony", "change who can open the MasterKey",
		&Command{
			Name: "start", Args: "KIND", Usage: "start a ceremony: reshare, migrate or rekey", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1},
			About: "reshare gives the MasterKey to other holders of shares; migrate goes to or from keystores that open it alone. Neither revokes\n" +
				"anybody: who held a share of the old seal and has a copy of the old record can open the MasterKey with it. rekey makes another\n" +
				"MasterKey, which no old share opens, and puts the internal keys under it. They are the same ones: who opens the old MasterKey\n" +
				"and has an old copy of the registry has them still. Nodes that are unsealed go on by themselves; one that is not is unsealed\n" +
				"by the new holders. With --compromised, for a MasterKey or shares that somebody may have who must not, the internal key and\n" +
				"the CAs are new as well, everything is wrapped anew, every member clears its disk, and krypton ceremony status says what is\n" +
				"left: docs/runbooks/exposed-masterkey.md.\n\n" +
				"The file of --seal-plan says who shall open it. Every person needs an age recipient: nothing is printed.\n\n" +
				"Custodians sign all of the plan. Then those consent who open the MasterKey now: people with krypton ceremony contribute;\n" +
				"keystores are asked by the cluster. Until enough of the new holders opened the new seal together nothing has changed, and\n" +
				"krypton ceremony cancel ends it.",
			Examples: []string{
				"krypton ceremony start reshare --seal-plan seal.yaml",
				"krypton ceremony start rekey --seal-plan seal.yaml",
				"krypton ceremony start rekey --compromised --seal-plan seal.yaml",
				"krypton ceremony start migrate --seal-plan keystores.yaml --life 48h --accept-risk concentration",
			},
			Flags: append([]cli.Flag{
				&cli.StringFlag{Name: "seal-plan", Usage: "`FILE` that says who opens the MasterKey from then on, see docs/seals.md", Required: true},
				&cli.BoolFlag{Name: "compromised", Usage: "of a rekey: leave nothing that the MasterKey of now opens"},
				&cli.DurationFlag{Name: "life", Usage: "`DURATION` after which it ends by itself, 1m to 168h", Value: 24 * time.Hour},
			}, sealRuleFlags()...),
			Run: startCeremony,
		},
		&Command{
			Name: "contribute", Args: "[CEREMONY]", Usage: "give your share: to consent, or to show that the new seal opens", Reach: Changes, NArgs: [2]int{0, 1}, Exits: []int{errs.ExitPending},
			About: "Before there is a new seal it is your share of the present one, and your consent: the plan is shown, and you are asked.\n" +
				"After that it is your share of the new one: a node that did not make the new seal combines as many of them as it takes,\n" +
				"and only when they give the MasterKey the seal counts.\n\n" +
				"With --identity the share is fetched, opened on this machine and compared with the manifest; a printed one is asked for\n" +
				"without being shown, or read from stdin or --share-file. It goes to the one node of --addr, encrypted to the key of that\n" +
				"start of that node, which has to prove who it is. All who consent give to one node: it is in its memory only, for 15 minutes.\n" +
				"Shares of the new seal go to another node than made it, all of them to the same one; krypton ceremony status says which.\n\n" +
				"The exit status is 9 while others have to contribute.",
			Examples: []string{"krypton ceremony contribute --addr n1:8400 --identity anna.identity", "krypton ceremony contribute --addr n1:8400 --yes < share.txt"},
			Flags:    append(heldFlags(), &cli.StringFlag{Name: "share-file", Usage: "`FILE` with printed shares, - for stdin"}),
			Run:      contributeToCeremony,
		},
		confirmCommand(),
		&Command{
			Name: "status", Args: "[CEREMONY]", Usage: "show how far a ceremony is, and who has to do what", Reach: Reads, NArgs: [2]int{0, 1},
			About:    "Without CEREMONY it is the one that has not ended, or the last.",
			Examples: []string{"krypton ceremony status", "krypton ceremony status 0123456789abcdef0123456789abcdef --output json"},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				is, err := in.ceremony(ctx, c.Ceremonies())
				if err != nil {
					return err
				}
				return in.show(is, func() string { return ceremonySheet(is) })
			},
		},
		&Command{
			Name: "cancel", Args: "[CEREMONY]", Usage: "end a ceremony that is not committed; nothing has changed", Reach: Changes, Waits: waitsForAll, NArgs: [2]int{0, 1},
			About:    "One custodian is enough, and nobody signs. Without CEREMONY it is the one that has not ended.",
			Examples: []string{"krypton ceremony cancel --reason 'wrong recipient'"},
			Flags:    []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`TEXT` for people and the record, at most 256 bytes, no secret"}},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				is, err := in.ceremony(ctx, c.Ceremonies())
				if err != nil {
					return err
				}
				is, err = call(ctx, in, c.Ceremonies().CancelCeremony, &kryptonv1.CancelCeremonyRequest{Name: is.GetName(), Reason: in.c.String("reason")})
				if err != nil {
					return err
				}
				return in.show(is, func() string { return ceremonySheet(is) })
			},
		},
		manifestCommands(),
	)
	g.About = "A ceremony changes who can open the MasterKey. There is one at a time; the runbook is docs/runbooks/ceremonies.md."
	return g
}

var ceremonyKinds = map[string]kryptonv1.CeremonyKind{ //nolint:gochecknoglobals // Immutable.
	"reshare": kryptonv1.CeremonyKind_CEREMONY_KIND_RESHARE,
	"migrate": kryptonv1.CeremonyKind_CEREMONY_KIND_MIGRATE,
	"rekey":   kryptonv1.CeremonyKind_CEREMONY_KIND_REKEY,
}

func startCeremony(ctx context.Context, in *Invocation) error {
	kind, ok := ceremonyKinds[in.args[0]]
	if !ok {
		return usagef("use reshare, migrate or rekey", "there is no ceremony %q", in.args[0])
	}
	means := "those who hold the seal now consent, and then others open the MasterKey; nobody is revoked"
	switch {
	case !in.c.Bool("compromised"):
	case kind != kryptonv1.CeremonyKind_CEREMONY_KIND_REKEY:
		return usagef("only a rekey replaces a MasterKey: krypton ceremony start rekey --compromised", "there is no ceremony %q", in.args[0]+" --compromised")
	default:
		kind = kryptonv1.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED
		means = "those who hold the seal now consent; then everything that the MasterKey of now opens is made anew, its CAs are replaced, and every member clears its disk"
	}
	wanted, err := plan.ReadFile(in.c.String("seal-plan"))
	if err != nil {
		return err
	}
	rule, err := in.sealRule()
	if err != nil {
		return err
	}
	life := in.c.Duration("life")
	if life < time.Minute || life > 7*24*time.Hour {
		return usagef("1m to 168h", "--life %s is out of range", life)
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	line, err := in.manifests(ctx, c)
	if err != nil {
		return err
	}
	base := manifest.Of(line.Manifests[len(line.Manifests)-1])
	view := viewSignedSeal(wanted, rule)
	if !in.jsonOutput() {
		in.aside(view.text())
	}
	if view.refusal != nil {
		return view.refusal
	}
	if err := in.confirm("%s", means); err != nil {
		return err
	}
	is, err := call(ctx, in, c.Ceremonies().StartCeremony, &kryptonv1.StartCeremonyRequest{
		Kind: kind, Plan: wanted.Proto(), AcceptRisks: view.AcceptedRisks, BaseManifest: base[:], LifeSeconds: uint32(life / time.Second), SealProfile: in.c.String("profile"),
	})
	if err != nil {
		return err
	}
	return in.show(is, func() string { return ceremonySheet(is) })
}

// ceremony returns the ceremony that the argument names, or the one that has not ended,
// or the last.
func (in *Invocation) ceremony(ctx context.Context, c kryptonv1.CeremoniesClient) (*kryptonv1.Ceremony, error) {
	if len(in.args) > 0 {
		id := strings.TrimPrefix(in.args[0], ceremonyPrefix)
		if !ceremonyHex.MatchString(id) {
			return nil, usagef("give the 32 hex digits, or ceremonies/ID; krypton ceremony status shows them", "%q names no ceremony", in.args[0])
		}
		return call(ctx, in, c.GetCeremony, &kryptonv1.GetCeremonyRequest{Name: ceremonyPrefix + id})
	}
	all, err := call(ctx, in, c.ListCeremonies, &kryptonv1.ListCeremoniesRequest{})
	if err != nil {
		return nil, err
	}
	for _, is := range all.GetCeremonies() {
		if ceremonyOpen(is) {
			return is, nil
		}
	}
	if len(all.GetCeremonies()) == 0 {
		return nil, errs.New(errs.NotFound, "there was no ceremony yet", errs.Hint("start one: krypton ceremony start"))
	}
	return all.GetCeremonies()[0], nil
}

func ceremonyOpen(is *kryptonv1.Ceremony) bool {
	return is.GetState() == kryptonv1.CeremonyState_CEREMONY_STATE_OPEN || is.GetState() == kryptonv1.CeremonyState_CEREMONY_STATE_STAGED
}

func contributeToCeremony(ctx context.Context, in *Invocation) error {
	if in.c.Bool("dry-run") {
		return in.noDryRun()
	}
	roots, err := in.roots()
	if err != nil {
		return err
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	if len(c.Addrs()) != 1 {
		return usagef("a share goes to one node: name it with --addr, the same for all who consent", "%d nodes are addressed", len(c.Addrs()))
	}
	nd := c.Node(c.Addrs()[0])
	is, err := in.ceremony(ctx, nd.Ceremonies())
	if err != nil {
		return err
	}
	if is.GetState() == kryptonv1.CeremonyState_CEREMONY_STATE_OPEN {
		// Whoever consents sees to what, before a share is opened: the ceremony may be another
		// one than the holder was called for.
		if !in.jsonOutput() {
			in.aside(ceremonySheet(is))
		}
		if err := in.confirm("your share of the present seal is your consent that those who stand above open the MasterKey"); err != nil {
			return err
		}
	}
	from, err := in.sharesOf()
	if err != nil {
		return err
	}
	defer from.Destroy()
	st, err := call(ctx, in, nd.Seal().GetSeal, &kryptonv1.GetSealRequest{})
	if err != nil {
		return err
	}
	offer, member, err := verifyOffer(st, nd.Addr(), roots, in.env.Clock.Now(), nil)
	if err != nil {
		return err
	}
	if from.held != nil && is.GetState() == kryptonv1.CeremonyState_CEREMONY_STATE_STAGED {
		for _, w := range from.held.wanted {
			w.Ceremony = is.GetName()
		}
	}
	shares, err := in.sharesFor(ctx, nd, from, st, offer, member)
	if err != nil {
		return err
	}
	id, err := hierarchy.ParseUID(strings.TrimPrefix(is.GetName(), ceremonyPrefix))
	if err != nil {
		return errs.New(errs.Integrity, "the node names a ceremony by no id", errs.Hint("ask another node; nothing was sent"), errs.Cause(err))
	}
	for _, s := range shares {
		sealed, err := seal.SealShareForCeremony(offer, member, s, id)
		if err != nil {
			return named(err, s, st)
		}
		if is, err = call(ctx, in, nd.Ceremonies().ContributeToCeremony, &kryptonv1.ContributeToCeremonyRequest{Name: is.GetName(), NodeId: st.GetNodeId(), SealedShare: sealed}); err != nil {
			return named(err, s, st)
		}
		in.note("node %s: share %d taken; the ceremony is %s", nodeLabel(st), s.Index(), enum(is.GetState(), "CEREMONY_STATE_"))
	}
	if err := in.show(is, func() string { return ceremonySheet(is) }); err != nil {
		return err
	}
	if !ceremonyOpen(is) {
		return nil
	}
	return errs.New(errs.ApprovalPending, "the share was taken, and others have to contribute: "+ceremonyNext(is), errs.Hint("krypton ceremony status"))
}

// ceremonySheet shows a ceremony to people.
func ceremonySheet(is *kryptonv1.Ceremony) string {
	var s sheet
	s.add("ceremony", strings.TrimPrefix(is.GetName(), ceremonyPrefix))
	s.add("kind", kindText(enum(is.GetKind(), "CEREMONY_KIND_")))
	s.add("state", enum(is.GetState(), "CEREMONY_STATE_"))
	s.add("asked by", is.GetRequester())
	s.add("opens it from then on", planText(is.GetPlan()))
	s.add("accepted risks", strings.Join(is.GetAcceptedRisks(), ", "))
	s.add("replaces manifest", hex.EncodeToString(is.GetBaseManifest()))
	s.add("new manifest", hex.EncodeToString(is.GetNewManifest()))
	s.add("made by", is.GetMadeBy())
	s.add("proved by", is.GetProvedBy())
	if ceremonyOpen(is) {
		s.add("ends by itself", when(is.GetExpireTime()))
		s.add("next", ceremonyNext(is))
		s.add("last failure", is.GetLastFailure())
	} else {
		s.add("ended", when(is.GetEndTime()))
	}
	s.add("cancelled by", is.GetCancelledBy())
	s.add("reason", is.GetCancelReason())
	s.add("confirmed by", strings.Join(is.GetConfirmedBy(), ", "))
	x := is.GetExposure()
	if x == nil {
		return s.text()
	}
	s.add("exposure", exposureState(x))
	s.add("next", exposureNext(x))
	return s.text() + exposureText(x)
}

// kindText is the kind of a ceremony as a command has it.
func kindText(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "-")) }

// ceremonyNext says what a ceremony waits for.
func ceremonyNext(is *kryptonv1.Ceremony) string {
	if is.GetState() == kryptonv1.CeremonyState_CEREMONY_STATE_OPEN {
		if is.GetConsentNeed() == 0 {
			return "consent of those who open the MasterKey now"
		}
		return fmt.Sprintf("consent: node %s has %d of %d, and takes %s", is.GetNodeName(), is.GetConsentHave(), is.GetConsentNeed(), is.GetConsentEnough())
	}
	const confirm = "custodians confirm the MasterKey and the CAs: krypton ceremony confirm"
	switch open := newHoldersNext(is); {
	case is.GetNeedsConfirmation() && open == "":
		return confirm
	case is.GetNeedsConfirmation():
		return confirm + "; and " + open // it is asked for first: whoever confirms should not be in a hurry
	case open == "":
		return "nobody: the leader commits it"
	default:
		return open
	}
}

// newHoldersNext says who has to open the new seal still; empty: nobody.
func newHoldersNext(is *kryptonv1.Ceremony) string {
	if is.GetProvedBy() != "" {
		return ""
	}
	where := ", "
	if is.GetConsentHave() > 0 {
		return fmt.Sprintf("the new holders open the new seal: node %s has %d of %d, and takes %s", is.GetNodeName(), is.GetConsentHave(), is.GetConsentNeed(), is.GetConsentEnough())
	}
	if is.GetGatheredAt() != "" {
		where = " at node " + is.GetGatheredAt() + ", which has shares already: "
	} else if len(is.GetProvers()) > 0 {
		where = " at one of the nodes " + strings.Join(is.GetProvers(), ", ") + ": "
	}
	var parts []string
	first := uint32(1)
	for i, n := range is.GetMissing() {
		var names []string
		holders := is.GetPlan().GetKeys()
		of := ""
		if groups := is.GetPlan().GetGroups(); len(groups) > 0 {
			if i >= len(groups) {
				break // a node says what it likes
			}
			holders = groups[i].GetHolders()
			if len(groups) > 1 {
				of = "group " + groups[i].GetName() + ": "
			}
		}
		for k, h := range holders {
			if !slices.Contains(is.GetConfirmed(), first+uint32(k)) {
				names = append(names, plannedText(h))
			}
		}
		first += uint32(len(holders)) //nolint:gosec // At most 255 holders.
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s%d of: %s", of, n, strings.Join(names, ", ")))
		}
	}
	return "the new holders open the new seal" + where + strings.Join(parts, "; ")
}

func plannedText(h *kryptonv1.SealHolder) string {
	switch {
	case h.GetRecipient() != "":
		return h.GetName() + " (person)"
	case h.GetName() != "":
		return h.GetName() + " (" + h.GetKeystore() + ")"
	}
	return h.GetKeystore() + " key " + h.GetKey()
}

func planText(p *kryptonv1.SealPlan) string {
	names := func(hs []*kryptonv1.SealHolder) string {
		var all []string
		for _, h := range hs {
			all = append(all, plannedText(h))
		}
		return strings.Join(all, ", ")
	}
	if len(p.GetKeys()) > 0 {
		return "any of: " + names(p.GetKeys())
	}
	var parts []string
	for _, g := range p.GetGroups() {
		of := ""
		if g.GetName() != "" {
			of = g.GetName() + ": "
		}
		parts = append(parts, fmt.Sprintf("%s%d of %d: %s", of, g.GetThreshold(), len(g.GetHolders()), names(g.GetHolders())))
	}
	return strings.Join(parts, "; and ")
}
