package fsm

import (
	"errors"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

const (
	// witnessLabel separates what members say of wrappings from all else that they sign.
	witnessLabel = "krypton/v1/seal-witness"
	// witnessesNeeded is how many voters have to have opened what replaces a wrapping of
	// the seal: who made it and one other.
	witnessesNeeded = 2
	// MaxWitnesses bounds the words of members in one repair: two for each of 64 keys.
	MaxWitnesses = 128
)

// WitnessMessage returns what a member signs when it opened a new wrapping by itself: the
// cluster by its fingerprint, who says it, SHA-256 of the seal record that is repaired, and
// the wrapping. So a word that was given once counts for no later repair.
func WitnessMessage(fingerprint [32]byte, node string, base [32]byte, w *sealpb.Wrapping) []byte {
	b := appendPart(nil, witnessLabel)
	b = append(b, fingerprint[:]...)
	b = appendPart(b, node)
	b = append(b, base[:]...)
	digest := manifest.OfWrapping(w)
	return append(b, digest[:]...)
}

// WitnessSigned reports whether the member signed that it opened the wrapping.
func WitnessSigned(fingerprint [32]byte, m *fsmpb.Member, base [32]byte, w *sealpb.Wrapping, signature []byte) bool {
	key, ok := memberKey(m.GetPublicKey())
	return ok && key.Verify(WitnessMessage(fingerprint, m.GetId(), base, w), signature)
}

// WitnessNeed returns how many of so many voters have to have opened what replaces a
// wrapping. The word of other members does not count: people sign who votes, and how
// many stay (I28, I29), so a leader that lies makes no second voter, nor itself the only
// one. The only voter there is says by the command itself what it would sign.
func WitnessNeed(voters int) int {
	if voters < witnessesNeeded {
		return 0
	}
	return witnessesNeeded
}

// witnessed refuses a repair that leaves no wrapping as it was, and one that replaces a
// wrapping without the word of as many voters as that takes (I43). A wrapping that is added
// takes nothing away, and needs none.
func (t *tx) witnessed(c *fsmpb.RepairSeal, replaced []*sealpb.Wrapping, had int) error {
	switch {
	case t.cluster.GetFormatVersion() < FormatSealProof && len(c.GetWitnesses()) > 0:
		return errors.New("witnesses are for clusters of a later format version")
	case t.cluster.GetFormatVersion() < FormatSealProof:
		return nil
	case len(replaced) > 0 && len(replaced) == had:
		return errors.New("it leaves no wrapping as it was")
	case len(c.GetWitnesses()) > MaxWitnesses:
		return errors.New("it has too many witnesses")
	}
	says := map[string]map[string]bool{} // by wrapping, who opened it
	byDigest := map[string]*sealpb.Wrapping{}
	for _, w := range replaced {
		d := manifest.OfWrapping(w)
		says[string(d[:])], byDigest[string(d[:])] = map[string]bool{}, w
	}
	base, fingerprint := [32]byte(c.GetBase()), [32]byte(t.cluster.GetFingerprint())
	for _, x := range c.GetWitnesses() {
		w, m := byDigest[string(x.GetWrapping())], t.voterOf(x.GetNodeId())
		if w == nil || m == nil || says[string(x.GetWrapping())][x.GetNodeId()] {
			return errors.New("a witness is no voter, or says it twice, or of what replaces nothing")
		}
		if !WitnessSigned(fingerprint, m, base, w, x.GetSignature()) {
			return errors.New("the word of a witness is not signed by its member key")
		}
		says[string(x.GetWrapping())][x.GetNodeId()] = true
	}
	need := WitnessNeed(t.voters())
	for _, by := range says {
		if len(by) < need {
			return errors.New("a wrapping is replaced that too few voters opened")
		}
	}
	return nil
}

// voterOf returns a member that votes, or nil.
func (t *tx) voterOf(id string) *fsmpb.Member {
	if m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(id)); ok && m.GetVoter() && !m.GetRemoved() {
		return m
	}
	return nil
}

// WrappingDigest names a wrapping in the words of witnesses.
func WrappingDigest(w *sealpb.Wrapping) [32]byte { return manifest.OfWrapping(w) }
