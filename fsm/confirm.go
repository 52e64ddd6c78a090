package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

const exposed = fsmpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED

// authoritiesLabel separates the digest of CAs from all others.
const authoritiesLabel = "krypton/v1/authorities"

// AuthoritiesDigest returns what custodians sign of the CAs that are staged with a
// MasterKey in place of an exposed one: names and certificates, in their order. The
// encoding is in docs/formats.md.
func AuthoritiesDigest(cas []*fsmpb.Secret) [32]byte {
	b := appendPart(nil, authoritiesLabel)
	b = binary.BigEndian.AppendUint32(b, uint32(len(cas))) //nolint:gosec // A command has at most 1 MiB.
	for _, s := range cas {
		b = appendPart(appendPart(b, s.GetName()), s.GetPublic())
	}
	return sha256.Sum256(b)
}

// confirmedDigest is the same of a confirmation, which has the certificates only.
func confirmedDigest(c *fsmpb.SealConfirmation) ([32]byte, bool) {
	if len(c.GetCertificates()) != len(authorities) {
		return [32]byte{}, false
	}
	cas := make([]*fsmpb.Secret, len(authorities))
	for i, name := range authorities {
		cas[i] = &fsmpb.Secret{Name: name, Public: c.GetCertificates()[i]}
	}
	return AuthoritiesDigest(cas), true
}

func confirmRequest(c *fsmpb.ConfirmSeal) *intent.Request {
	return intent.ConfirmSeal{Ceremony: c.GetId(), Manifest: c.GetManifest(), Authorities: c.GetAuthorities()}.Request()
}

// NeedsConfirmation reports whether custodians have to confirm what a ceremony staged
// before it is committed, and did not yet.
func (v *View) NeedsConfirmation(c *fsmpb.Ceremony) bool {
	return c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED && toConfirm(v.cluster, c)
}

func toConfirm(cl *fsmpb.Cluster, c *fsmpb.Ceremony) bool {
	_, needed := RuleFor(cl.GetRules(), intent.ActRekey)
	return needed && c.GetKind() == exposed && len(c.GetConfirmedBy()) == 0
}

// confirmSeal notes which MasterKey and which CAs custodians meant (I39).
func (t *tx) confirmSeal(b *fsmpb.ConfirmSeal) (done, error) {
	c, err := t.staged(b.GetId(), b.GetManifest())
	if err != nil {
		return done{}, err
	}
	digest := AuthoritiesDigest(c.GetRekey().GetNewAuthorities())
	switch {
	case c.GetKind() != exposed:
		return done{}, errs.New(errs.FailedState, "nothing is to be confirmed: the ceremony does not replace an exposed MasterKey", errs.Hint("read it: krypton ceremony status"))
	case !bytes.Equal(digest[:], b.GetAuthorities()):
		return done{}, invalid("the CAs are not those that were staged")
	case !toConfirm(t.cluster, c):
		return done{}, errs.New(errs.FailedState, "the ceremony is confirmed already, or by the rules of this cluster nobody has to", errs.Hint("read it: krypton ceremony status"))
	}
	by, err := t.authorize()
	if err != nil {
		return done{}, err
	}
	if len(by) > 0 {
		if err := t.tellable(c, by); err != nil {
			return done{}, err
		}
		is := proto.CloneOf(c)
		is.ConfirmedBy, is.ModIndex = by, t.index
		put(t, tableCeremonies, is)
	}
	return done{object: ceremonyPath(c.GetId())}, nil
}

// tellable refuses signatures by which a node that is started could not tell the new
// MasterKey: it has the genesis, and believes no registry before that MasterKey proved it.
// Were they accepted, every node would be sealed for good by its next start.
func (t *tx) tellable(c *fsmpb.Ceremony, by []*fsmpb.SignedIntent) error {
	r, err := manifest.Parse(c.GetStagedRecord())
	if err != nil {
		return errs.New(errs.FailedState, "the staged seal does not decode")
	}
	if _, err := VerifyConfirmation(t.cluster.GetGenesis(), r.GetManifest(), confirmationOf(c, by)); err != nil {
		return errs.New(errs.FailedState, "a node that is started could not verify who confirms: "+errs.From(err).Msg,
			errs.Hint("let custodians sign who were named when the cluster was founded, as many as its rule asks for"), errs.Cause(err))
	}
	return nil
}

// confirmed refuses to commit a MasterKey in place of an exposed one that nobody
// confirmed, where the rules ask for it (I39).
func (t *tx) confirmed(c *fsmpb.Ceremony) error {
	if !toConfirm(t.cluster, c) {
		return nil
	}
	return errs.New(errs.Aborted, "custodians have to confirm the new MasterKey and the new CAs", errs.Hint("have them sign: krypton ceremony confirm"))
}

func confirmationOf(c *fsmpb.Ceremony, by []*fsmpb.SignedIntent) *fsmpb.SealConfirmation {
	digest := AuthoritiesDigest(c.GetRekey().GetNewAuthorities())
	to := &fsmpb.SealConfirmation{Manifest: c.GetNewManifest(), Authorities: digest[:], Intents: by}
	for _, s := range c.GetRekey().GetNewAuthorities() {
		to.Certificates = append(to.Certificates, s.GetPublic())
	}
	return to
}

// VerifyConfirmation verifies what custodians signed of the MasterKey of a manifest that
// took the place of an exposed one, and of its CAs, without a registry, as [VerifyLineage]
// does: by the persons and rules of the genesis, which is encoded. It returns who signed;
// nil: by those rules nobody had to, and nothing tells this MasterKey from another one.
// The error has the code STATE_CORRUPT, or INTENT_REFUSED for signatures that do not count.
func VerifyConfirmation(genesis []byte, m *sealpb.Manifest, c *fsmpb.SealConfirmation) ([]intent.Person, error) {
	g := new(fsmpb.Genesis)
	if err := proto.Unmarshal(genesis, g); err != nil {
		return nil, corruptLineage("the genesis does not decode")
	}
	is := manifest.Of(m)
	digest, ok := confirmedDigest(c)
	if !ok || !bytes.Equal(is[:], c.GetManifest()) || !bytes.Equal(digest[:], c.GetAuthorities()) || m.GetKind() != sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED {
		return nil, corruptLineage("a confirmation is not of its seal, or not of the CAs in it")
	}
	rule, needed := RuleFor(g.GetRules(), intent.ActRekey)
	if !needed {
		return nil, nil
	}
	keys, err := personKeys(g.GetPersons())
	if err != nil {
		return nil, corruptLineage("a person of the genesis is none")
	}
	return signedBefore(g, keys, confirmRequest(&fsmpb.ConfirmSeal{Id: m.GetCeremonyId(), Manifest: c.GetManifest(), Authorities: c.GetAuthorities()}), rule, c.GetIntents())
}

// Confirmations verifies what custodians signed of each seal that took the place of an
// exposed MasterKey, and returns who did, in the order of the manifests since the genesis,
// whose own is the first: nil for every other seal. An error has the code STATE_CORRUPT or
// INTENT_REFUSED.
func Confirmations(cl *fsmpb.Cluster) ([][]intent.Person, error) {
	all, err := lineageOf(cl)
	if err != nil {
		return nil, err
	}
	by, left := make([][]intent.Person, len(all)), cl.GetSealConfirmations()
	for i, m := range all {
		if m.GetKind() != sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED {
			continue
		}
		if len(left) == 0 {
			return nil, corruptLineage("a seal that took the place of an exposed MasterKey was confirmed by nobody")
		}
		if by[i], err = VerifyConfirmation(cl.GetGenesis(), m, left[0]); err != nil {
			return nil, err
		}
		left = left[1:]
	}
	if len(left) > 0 {
		return nil, corruptLineage("a confirmation is of no seal")
	}
	return by, nil
}

// VerifyConfirmations is [Confirmations] of encoded ones, beside [VerifyLineage].
func VerifyConfirmations(genesis []byte, manifests, confirmations [][]byte) ([][]intent.Person, error) {
	cl := &fsmpb.Cluster{Genesis: genesis, SealManifests: manifests}
	for _, b := range confirmations {
		c := &fsmpb.SealConfirmation{}
		if unmarshal(b, c) != nil || hasUnknown(c.ProtoReflect()) {
			return nil, corruptLineage("a confirmation does not decode")
		}
		cl.SealConfirmations = append(cl.SealConfirmations, c)
	}
	return Confirmations(cl)
}
