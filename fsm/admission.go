package fsm

import (
	"bytes"
	"crypto/sha256"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// admissionLabel separates the signatures of join tokens from all others.
const admissionLabel = "krypton/v1/admission"

// AdmissionMessage returns what the key of a join token signs of the node that joins:
// the cluster by its fingerprint, and of the member what nothing changes later, its
// id, public key and region. Whether the node votes is what the token says, which
// people signed. The rest a member announces anew whenever it likes.
func AdmissionMessage(fingerprint [32]byte, m *fsmpb.Member) []byte {
	b := appendPart(nil, admissionLabel)
	b = append(b, fingerprint[:]...)
	for _, part := range []string{m.GetId(), string(m.GetPublicKey()), m.GetRegion()} {
		b = appendPart(b, part)
	}
	return b
}

// errNotAdmitted is the one answer for every token that does not admit, so that
// nobody learns which tokens there are.
func errNotAdmitted() error {
	return errs.New(errs.Denied, "the join token does not admit this node",
		errs.Hint("a token is good for one node, until it expires, in its region; a voter needs a token for a voter"))
}

// CheckAdmission refuses an admission that the key of the join token did not sign for
// exactly that member of the cluster with that fingerprint. The hash of the key is
// what people signed for and what the registry has. From [FormatProofs] on every
// replica asks for it, so a leader admits nobody with what another node showed it.
func CheckAdmission(fingerprint [32]byte, c *fsmpb.AddMember) error {
	if mutation.On(mutation.SkipAdmission) {
		return nil
	}
	sum := sha256.Sum256(c.GetTokenKey())
	key, err := intent.NewPublicKey(intent.AlgEd25519, c.GetTokenKey())
	if err != nil || !bytes.Equal(sum[:], c.GetTokenHash()) || !key.Verify(AdmissionMessage(fingerprint, c.GetMember()), c.GetSignature()) {
		return errNotAdmitted()
	}
	return nil
}
