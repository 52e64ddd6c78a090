package command

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Another MasterKey in place of one that somebody may have who must not.

func confirmCommand() *Command {
	return &Command{
		Name: "confirm", Args: "[CEREMONY]", Usage: "confirm which MasterKey and which CAs take the place of exposed ones", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{0, 1},
		About: "Of a rekey with --compromised, after the new MasterKey was made and before it counts. Who has the old MasterKey has what it\n" +
			"wraps, so a node that slept can tell the new one only by what custodians signed after that exists: the commitment to it, and\n" +
			"the certificates of the CAs that come with it. Both are shown, and compared here with what is signed. Look at them through\n" +
			"another node, too. Without CEREMONY it is the one that has not ended.",
		Examples: []string{"krypton ceremony confirm", "krypton ceremony confirm 0123456789abcdef0123456789abcdef --sign-key agent:carl --yes"},
		Run:      confirmCeremony,
	}
}

func confirmCeremony(ctx context.Context, in *Invocation) error {
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	is, err := in.ceremony(ctx, c.Ceremonies())
	if err != nil {
		return err
	}
	if !is.GetNeedsConfirmation() {
		return errs.New(errs.FailedState, "nothing is to be confirmed", errs.Hint("krypton ceremony status says what the ceremony waits for; only a rekey with --compromised is confirmed, once it is STAGED"))
	}
	m, digest, err := stagedOf(is)
	if err != nil {
		return err
	}
	if !in.jsonOutput() {
		in.note("%s", strings.TrimRight(confirmationSheet(is, m), "\n"))
	}
	if err := in.confirm("these are the MasterKey and the CAs of the cluster from then on"); err != nil {
		return err
	}
	is, err = call(ctx, in, c.Ceremonies().ConfirmCeremony, &kryptonv1.ConfirmCeremonyRequest{Name: is.GetName(), Manifest: is.GetNewManifest(), Authorities: digest[:]})
	if err != nil {
		return err
	}
	return in.show(is, func() string { return ceremonySheet(is) })
}

// stagedOf returns the manifest that is to be confirmed, and the digest of the CAs. What the
// node says in words is not what is signed, so both are made of what it shows.
func stagedOf(is *kryptonv1.Ceremony) (*sealpb.Manifest, [sha256.Size]byte, error) {
	none := func(why string) (*sealpb.Manifest, [sha256.Size]byte, error) {
		return nil, [sha256.Size]byte{}, errs.New(errs.Integrity, "the node shows no MasterKey that could be confirmed: "+why, errs.Hint("ask another node; nothing was signed"))
	}
	m, err := manifest.ParseManifest(is.GetStagedManifest())
	if err != nil {
		return none("its manifest does not decode")
	}
	if d := manifest.Of(m); !bytes.Equal(d[:], is.GetNewManifest()) {
		return none("its manifest is another one than it says")
	}
	if m.GetKind() != sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED || hex.EncodeToString(m.GetCeremonyId()) != strings.TrimPrefix(is.GetName(), ceremonyPrefix) ||
		!bytes.Equal(m.GetPreviousManifest(), is.GetBaseManifest()) {
		return none("its manifest is of another ceremony")
	}
	var cas []*fsmpb.Secret
	for _, ca := range is.GetNewAuthorities() {
		if _, err := x509.ParseCertificate(ca.GetCertificate()); err != nil {
			return none("the certificate of a CA does not decode")
		}
		cas = append(cas, &fsmpb.Secret{Name: ca.GetName(), Public: ca.GetCertificate()})
	}
	return m, fsm.AuthoritiesDigest(cas), nil
}

// confirmationSheet is what a custodian looks at.
func confirmationSheet(is *kryptonv1.Ceremony, m *sealpb.Manifest) string {
	var s sheet
	s.add("ceremony", strings.TrimPrefix(is.GetName(), ceremonyPrefix))
	s.add("MasterKey", fmt.Sprint(m.GetGeneration()))
	s.add("commitment", hex.EncodeToString(m.GetMasterKeyCommitment()))
	s.add("opens it from then on", manifestText(m))
	for _, ca := range is.GetNewAuthorities() {
		sum := sha256.Sum256(ca.GetCertificate())
		s.add("new "+ca.GetName(), "SHA-256 "+hex.EncodeToString(sum[:]))
	}
	return s.text()
}

// exposureText shows what became of an exposure.
func exposureText(x *kryptonv1.Exposure) string {
	g := grid{head: []string{"STEP", "STATE", "LEFT", "WHAT"}}
	for _, st := range x.GetSteps() {
		left := ""
		switch {
		case st.GetTotal() > 0 && st.GetState() != kryptonv1.ExposureStepState_EXPOSURE_STEP_STATE_FOR_YOU:
			left = fmt.Sprintf("%d of %d", st.GetLeft(), st.GetTotal())
		case st.GetLeft() > 0:
			left = fmt.Sprint(st.GetLeft())
		}
		g.add(st.GetName(), enum(st.GetState(), "EXPOSURE_STEP_STATE_"), left, st.GetDetail())
	}
	out := g.text()
	if len(x.GetBackups()) > 0 {
		b := grid{head: []string{"BACKUP", "INDEX", "MASTERKEY", "NODE", "BY"}}
		for _, is := range x.GetBackups() {
			b.add(when(is.GetTime()), fmt.Sprint(is.GetIndex()), fmt.Sprint(is.GetGeneration()), is.GetNodeId(), is.GetBy())
		}
		out += b.text()
	}
	return out
}

// exposureNext says who has to do what.
func exposureNext(x *kryptonv1.Exposure) string {
	const nobody = "nobody: the cluster does it by itself"
	if x.GetDoneTime() != nil {
		return "you: what stands as FOR_YOU; the cluster has done its part"
	}
	byState := func(s kryptonv1.ExposureStepState) (names []string) {
		for _, st := range x.GetSteps() {
			if st.GetState() == s {
				names = append(names, st.GetName())
			}
		}
		return names
	}
	if names := byState(kryptonv1.ExposureStepState_EXPOSURE_STEP_STATE_RUNNING); len(names) > 0 {
		return nobody + " (" + strings.Join(names, ", ") + ")"
	}
	for _, st := range x.GetSteps() {
		if st.GetState() != kryptonv1.ExposureStepState_EXPOSURE_STEP_STATE_WAITS {
			continue
		}
		switch st.GetName() {
		case "members":
			return "bring the members back that have not cleared their disks, or remove them: krypton operator remove"
		case "authorities":
			return "wait until the CAs of before are not trusted any more, or end it: krypton operator ca retire"
		}
	}
	return nobody
}

// exposureState sums an exposure up in one line.
func exposureState(x *kryptonv1.Exposure) string {
	if x.GetDoneTime() != nil {
		return "done since " + when(x.GetDoneTime())
	}
	return "not done, since " + when(x.GetBeginTime())
}

// openExposure returns the ceremony after which something is left to do; nil: none.
func openExposure(all []*kryptonv1.Ceremony) *kryptonv1.Ceremony {
	i := slices.IndexFunc(all, func(c *kryptonv1.Ceremony) bool {
		return c.GetExposure() != nil && c.GetExposure().GetDoneTime() == nil
	})
	if i < 0 {
		return nil
	}
	return all[i]
}

// checkExposure warns for as long as the old MasterKey opens something of the cluster.
func checkExposure(f facts) finding {
	if f.settings != nil {
		return leftOut("the settings cannot be used")
	}
	if f.ceremoniesErr != nil {
		return leftOut(cmp.Or(errs.From(f.ceremoniesErr).Msg, "ceremonies are not shown to you"))
	}
	c := openExposure(f.ceremonies)
	if c == nil {
		return fine("nothing is left to do after an exposed MasterKey was replaced")
	}
	return warn(exposureNext(c.GetExposure()), "the exposed MasterKey was replaced %s ago, and what it opened is not all gone: krypton ceremony status %s",
		f.now.Sub(c.GetExposure().GetBeginTime().AsTime()).Round(time.Second), strings.TrimPrefix(c.GetName(), ceremonyPrefix))
}
