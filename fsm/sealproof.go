package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// No replica can see whether the shares of a new seal give the MasterKey: it has none of
// them. What it can see is who says so. From [FormatSealProof] on the voter that made a
// new seal signs it, and another voter signs that it combined shares of it. So one
// member that lies can make a seal that opens nothing, or say that one opens, and not
// both (I37). docs/adr/0044 has what that ends and what not.

// Labels that separate these signatures of member keys from all others.
const (
	stagedLabel = "krypton/v1/seal-staged"
	provedLabel = "krypton/v1/seal-proved"
)

// MaxNodeSignatureBytes bounds the signature of a member key: of P-256 in DER at most 72.
const MaxNodeSignatureBytes = 128

// StagedMessage returns what the member key of a voter signs of a new seal that it made
// for a ceremony: all that it stages, but who it is comes first.
//
//	u32 length | "krypton/v1/seal-staged" | 32 bytes fingerprint | u32 length | node id |
//	SHA-256( canonical StageCeremony with its fields 1 to 3 )
func StagedMessage(fingerprint [32]byte, node string, b *fsmpb.StageCeremony) []byte {
	return stagedMessage(fingerprint, node, stagedDigest(b.GetId(), b.GetRecord(), b.GetRekey()))
}

func stagedMessage(fingerprint [32]byte, node string, digest [32]byte) []byte {
	m := append(appendPart(nil, stagedLabel), fingerprint[:]...)
	return append(appendPart(m, node), digest[:]...)
}

// stagedDigest is of every field that is staged, also of those that a later release adds
// to them: what could be changed beside a signature would be another's word.
func stagedDigest(id, record []byte, rekey *fsmpb.StagedRekey) [32]byte {
	return sha256.Sum256(appendCanonical(nil, (&fsmpb.StageCeremony{Id: id, Record: record, Rekey: rekey}).ProtoReflect()))
}

// ProvedMessage returns what the member key of a voter signs after it combined the shares
// of these holders of what is staged in c.
//
//	u32 length | "krypton/v1/seal-proved" | 32 bytes fingerprint | u32 length | node id |
//	SHA-256 of what was staged, as in [StagedMessage] | u32 count | u32 for each holder
func ProvedMessage(fingerprint [32]byte, node string, c *fsmpb.Ceremony, holders []uint32) []byte {
	staged := stagedDigest(c.GetId(), c.GetStagedRecord(), c.GetRekey())
	m := append(appendPart(nil, provedLabel), fingerprint[:]...)
	m = append(appendPart(m, node), staged[:]...)
	m = appendLen(m, len(holders))
	for _, h := range holders {
		m = binary.BigEndian.AppendUint32(m, h)
	}
	return m
}

// MayProve reports whether the word of that member counts for what is staged in c: it is
// a voter, and not the one that made it, unless people never let in a second voter.
func (v *View) MayProve(c *fsmpb.Ceremony, node string) bool {
	m, ok := v.Member(node)
	now, agreed := v.Voters()
	return ok && takesPart(m) && (c.GetStagedNode() != node || max(now, agreed) < 2)
}

func takesPart(m *fsmpb.Member) bool { return m.GetVoter() && !m.GetRemoved() }

// signedBy refuses what the member key of a present voter did not sign.
func (t *tx) signedBy(node string, message, signature []byte) error {
	m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(node))
	if !ok || !takesPart(m) {
		return errs.New(errs.Denied, "a new seal is the word of a voter, and this is none", errs.Hint("give the shares to a voter: krypton operator members"))
	}
	key, ok := memberKey(m.GetPublicKey())
	if !ok || !key.Verify(message, signature) {
		return errs.New(errs.Denied, "the signature is not of the member key of the node that is named")
	}
	return nil
}

// provesSeals reports whether new seals of this cluster need a proof.
func (t *tx) provesSeals() bool { return t.cluster.GetFormatVersion() >= FormatSealProof }

func (t *tx) fingerprint() [32]byte { return [32]byte(t.cluster.GetFingerprint()) }

// signedStage asks for the signature of who made what is staged.
func (t *tx) signedStage(b *fsmpb.StageCeremony) error {
	if !t.provesSeals() {
		if b.GetNode() != "" || len(b.GetSignature()) > 0 {
			return invalid("a signed seal is for clusters of a later format version")
		}
		return nil
	}
	return t.signedBy(b.GetNode(), StagedMessage(t.fingerprint(), b.GetNode(), b), b.GetSignature())
}

// proveSeal takes the word of a voter that the staged record opens (I37).
func (t *tx) proveSeal(b *fsmpb.ProveSeal) (done, error) {
	if !t.provesSeals() {
		return done{}, errs.New(errs.FailedState, "the format version of this cluster is older than proofs of new seals", errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
	}
	c, err := t.staged(b.GetId(), b.GetManifest())
	if err != nil {
		return done{}, err
	}
	if c.GetStagedNode() == "" {
		return done{}, errUnsignedSeal()
	}
	before := uint32(0)
	for _, h := range b.GetHolders() {
		if h <= before || int(h) > holdersOf(c.GetPlan()) {
			return done{}, invalid("the holders of a proof are not in order, or not in the plan")
		}
		before = h
	}
	if slices.ContainsFunc(missingOf(c.GetPlan(), b.GetHolders()), func(n int) bool { return n > 0 }) {
		return done{}, invalid("the shares of these holders open nothing: they are too few")
	}
	if c.GetStagedNode() == b.GetNode() && max(t.voters(), int(t.cluster.GetVotersAgreed())) > 1 {
		return done{}, errOwnSeal()
	}
	if err := t.signedBy(b.GetNode(), ProvedMessage(t.fingerprint(), b.GetNode(), c, b.GetHolders()), b.GetSignature()); err != nil {
		return done{}, err
	}
	if c.GetProof() != nil {
		return done{object: ceremonyPath(c.GetId())}, nil // another one was first
	}
	is := proto.CloneOf(c)
	is.Proof = &fsmpb.SealProof{Node: b.GetNode(), Signature: bytes.Clone(b.GetSignature()), TimeMs: t.timeMS}
	is.Confirmed, is.GatheredAt, is.ModIndex = slices.Clone(b.GetHolders()), b.GetNode(), t.index
	put(t, tableCeremonies, is)
	return done{object: ceremonyPath(c.GetId())}, nil
}

func errOwnSeal() error {
	return errs.New(errs.FailedState, "this node made the new seal, and its word alone does not show that it opens",
		errs.Hint("give the shares of the new seal to another voter: krypton ceremony status"))
}

func errUnsignedSeal() error {
	return errs.New(errs.FailedState, "the new seal was made before this cluster asked for proofs", errs.Hint("cancel the ceremony and start it anew: krypton ceremony cancel"))
}

// provedSeal refuses to commit what no second voter vouched for.
func (t *tx) provedSeal(c *fsmpb.Ceremony) error {
	switch {
	case !t.provesSeals() || c.GetProof() != nil:
		return nil
	case c.GetStagedNode() == "":
		return errUnsignedSeal()
	}
	// Not a fact: it may be proved yet, and then the same request is right.
	return errs.New(errs.Aborted, "no voter besides the one that made the new seal has combined its shares", errs.Hint("have its holders contribute to another voter: krypton ceremony status"))
}

// proofFits reports whether what a snapshot says of who made and proved a seal fits
// together. Its signatures were verified when they came, and the members may be others now.
func proofFits(c *fsmpb.Ceremony) bool {
	node := func(id string) bool {
		_, err := hierarchy.ParseUID(id)
		return id == "" || err == nil
	}
	made := c.GetStagedNode() != ""
	p := c.GetProof()
	switch {
	case made != (len(c.GetStagedSignature()) > 0), made && len(c.GetNewManifest()) == 0, !node(c.GetStagedNode()), len(c.GetStagedSignature()) > MaxNodeSignatureBytes:
		return false
	case c.GetGatheredAt() != "" && len(c.GetNewManifest()) == 0, !node(c.GetGatheredAt()):
		return false
	case p == nil:
		return true
	}
	return made && p.GetNode() != "" && node(p.GetNode()) && len(p.GetSignature()) > 0 && len(p.GetSignature()) <= MaxNodeSignatureBytes &&
		p.GetTimeMs() >= c.GetStagedTimeMs() && enough(c)
}
