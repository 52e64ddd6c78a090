package command

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// lineageFile is what `krypton ceremony manifest export` writes: the evidence of every
// ceremony of a cluster, without anything secret.
type lineageFile struct {
	Format    string   `json:"format"` // lineageFormat
	Genesis   []byte   `json:"genesis"`
	Manifests [][]byte `json:"manifests"`
	// Of the seals that took the place of an exposed MasterKey; absent in older files.
	Confirmations [][]byte `json:"confirmations,omitempty"`
}

const (
	lineageFormat = "krypton/v1/seal-lineage"
	maxLineage    = 32 << 20 // bytes of the file: genesis and manifests in base64
)

func manifestCommands() *Command {
	return group("manifest", "the evidence of ceremonies: what was decided, and who signed for it",
		&Command{
			Name: "export", Args: "FILE", Usage: "write the manifests of all seals since the genesis to a file", Reach: Reads, NArgs: [2]int{1, 1},
			About:    "Nothing in the file is secret. It is verified on any machine with krypton ceremony manifest verify.",
			Examples: []string{"krypton ceremony manifest export seals.json"},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				got, err := call(ctx, in, c.Ceremonies().GetManifests, &kryptonv1.GetManifestsRequest{})
				if err != nil {
					return err
				}
				b, err := json.MarshalIndent(lineageFile{Format: lineageFormat, Genesis: got.GetGenesis(), Manifests: got.GetManifests(), Confirmations: got.GetConfirmations()}, "", "  ")
				if err != nil {
					return err
				}
				if err := atomicfile.Write(in.args[0], append(b, '\n'), 0o644); err != nil {
					return errs.New(errs.InvalidConfig, "the file cannot be written: "+err.Error(), errs.Cause(err))
				}
				in.note("wrote the manifests of %d seals to %s", 1+len(got.GetManifests()), in.args[0])
				return nil
			},
		},
		&Command{
			Name: "verify", Args: "FILE", Usage: "verify the manifests in a file, without a cluster", Reach: Local, NArgs: [2]int{1, 1}, Exits: []int{errs.ExitIntegrity},
			About: "From the fingerprint of the cluster alone, which every share and configuration has: the genesis, each manifest and that it\n" +
				"replaces the one before it, the MasterKey that each is of, every recipient, and the signatures of custodians over all of it,\n" +
				"by persons of the genesis and the rule that it has; of a MasterKey in place of an exposed one also those that confirmed\n" +
				"it when it was there. Custodians who were bound later are not in the file, and what they\n" +
				"signed is not accepted here. Nothing is asked of a node.",
			Examples: []string{"krypton ceremony manifest verify seals.json --fingerprint 4a7d1ed414474e4033ac29ccb8653d9b84b2f4d31cf8c2a3a1f6c8f1e5d0b7a9"},
			Flags:    []cli.Flag{&cli.StringFlag{Name: "fingerprint", Usage: "`HEX` of the cluster, 64 digits", Required: true}},
			Run:      verifyManifests,
		},
	)
}

// manifests asks for the line of seals and reads it. Whether people signed is for who
// wants to rely on it; that it hangs together is asked here.
func (in *Invocation) manifests(ctx context.Context, c *client.Client) (lineage, error) {
	got, err := call(ctx, in, c.Ceremonies().GetManifests, &kryptonv1.GetManifestsRequest{})
	if err != nil {
		return lineage{}, err
	}
	return readLineage(got.GetGenesis(), got.GetManifests())
}

// lineage is the line of manifests of a cluster.
type lineage struct{ Manifests []*sealpb.Manifest }

func readLineage(genesis []byte, manifests [][]byte) (lineage, error) {
	all, err := fsm.Linked(genesis, manifests)
	return lineage{Manifests: all}, err
}

// clusterFingerprint reads --fingerprint.
func (in *Invocation) clusterFingerprint() (f seal.Fingerprint, err error) {
	if !hexBytes(f[:], in.c.String("fingerprint")) {
		return f, usagef("64 hex digits, as krypton status shows them", "--fingerprint is no fingerprint")
	}
	return f, nil
}

// seals are the manifests of a file that was believed, and who confirmed the MasterKeys in them.
type seals struct {
	fsm.Lineage

	confirmed [][]intent.Person
}

// verifiedSeals reads a file of `krypton ceremony manifest export` and believes it only if
// it is of the cluster with that fingerprint, and was signed as its genesis says.
func verifiedSeals(path string, want seal.Fingerprint) (seals, error) {
	f, err := os.Open(path)
	if err != nil {
		return seals{}, cannotRead(path, err)
	}
	defer f.Close() //nolint:errcheck // Only read from.
	if st, err := f.Stat(); err != nil || st.Size() > maxLineage {
		return seals{}, errs.Newf(errs.TooLarge, "%s is larger than %d bytes, or no file", path, maxLineage).With(errs.Hint("give the file that krypton ceremony manifest export wrote"))
	}
	notOne := func(why string) (seals, error) {
		return seals{}, errs.Newf(errs.Integrity, "%s does not prove the seals of that cluster: %s", path, why).With(errs.Hint("export it again, from another node; and find out who changed it"))
	}
	var file lineageFile
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil || file.Format != lineageFormat {
		return notOne("it is not a file of krypton ceremony manifest export")
	}
	if fsm.Fingerprint(file.Genesis) != want {
		return notOne("its genesis has another fingerprint")
	}
	l, err := fsm.VerifyLineage(file.Genesis, file.Manifests)
	if err != nil {
		return notOne(errs.From(err).Msg)
	}
	confirmed, err := fsm.VerifyConfirmations(file.Genesis, file.Manifests, file.Confirmations)
	if err != nil {
		return notOne(errs.From(err).Msg)
	}
	return seals{Lineage: l, confirmed: confirmed}, nil
}

func verifyManifests(_ context.Context, in *Invocation) error {
	want, err := in.clusterFingerprint()
	if err != nil {
		return err
	}
	l, err := verifiedSeals(in.args[0], want)
	if err != nil {
		return err
	}
	type one struct {
		Ceremony, Kind, Manifest, Previous, Opens, Held string
		Generation                                      uint64
		Signers                                         []string
		// ConfirmedBy signed once more, when the MasterKey in place of an exposed one was there.
		ConfirmedBy []string `json:",omitempty"`
	}
	var all []one
	for i, m := range l.Manifests {
		digest := manifest.Of(m)
		is := one{
			Ceremony: hex.EncodeToString(m.GetCeremonyId()), Kind: kindText(enum(m.GetKind(), "CEREMONY_KIND_")), Manifest: hex.EncodeToString(digest[:]),
			Previous: hex.EncodeToString(m.GetPreviousManifest()), Opens: manifestText(m), Generation: m.GetGeneration(), Held: time.Unix(0, m.GetCreateTimeUnixNano()).UTC().Format(time.RFC3339), Signers: []string{},
		}
		if i == 0 {
			is.Kind = "init"
		}
		for _, p := range l.Signers[i] {
			is.Signers = append(is.Signers, string(p))
		}
		for _, p := range l.confirmed[i] {
			is.ConfirmedBy = append(is.ConfirmedBy, string(p))
		}
		all = append(all, is)
	}
	if in.jsonOutput() {
		return in.showJSON(map[string]any{"seals": all})
	}
	g := grid{head: []string{"KIND", "GENERATION", "HELD", "SIGNED BY", "MANIFEST", "OPENED BY"}}
	for i, is := range all {
		by := strings.Join(is.Signers, ", ")
		switch {
		case i == 0:
			by = "the genesis"
		case by == "":
			by = "nobody had to"
		}
		if len(is.ConfirmedBy) > 0 {
			by += "; the new MasterKey: " + strings.Join(is.ConfirmedBy, ", ")
		}
		g.add(is.Kind, fmt.Sprint(is.Generation), is.Held, by, is.Manifest, is.Opens)
	}
	return in.write([]byte(g.text()))
}

// manifestText says who opens a seal.
func manifestText(m *sealpb.Manifest) string {
	if len(m.GetProviderKeys()) > 0 {
		var all []string
		for _, k := range m.GetProviderKeys() {
			all = append(all, k.GetProvider()+" key "+k.GetKey())
		}
		return "any of: " + strings.Join(all, ", ")
	}
	groups := m.GetGroups()
	if len(groups) == 0 { // format 1
		groups = []*sealpb.Group{{Threshold: m.GetThreshold()}}
	}
	parts := make([]string, 0, len(groups))
	for i, g := range groups {
		var names []string
		for _, h := range m.GetHolders() {
			if int(h.GetGroup()) != i {
				continue
			}
			name := h.GetName()
			if name == "" {
				name = h.GetRecipient()
			}
			names = append(names, name)
		}
		of := ""
		if g.GetName() != "" {
			of = g.GetName() + ": "
		}
		parts = append(parts, fmt.Sprintf("%s%d of %d: %s", of, g.GetThreshold(), len(names), strings.Join(names, ", ")))
	}
	return strings.Join(parts, "; and ")
}
