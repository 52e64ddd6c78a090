package seal

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// MaxNodeID is the longest node id, in bytes.
const MaxNodeID = 128

// SealedShareSize is the length of what [SealShare] returns: the encapsulation
// of X-Wing, a share in binary form, and the tag.
const SealedShareSize = 1120 + wireSize + 16

// Causes of refusals on the way of a share to a node.
var (
	// ErrOffer: the start key was not signed by the key that the target's
	// member entry has (errs.Unauthenticated).
	ErrOffer = errors.New("start key is not signed by the node's member key")
	// ErrSealedShare: what came was not encrypted to this node's start key (errs.ShareRefused).
	ErrSealedShare = errors.New("sealed share does not open")
)

// Target is the node that a share goes to.
type Target struct {
	Cluster Fingerprint
	Node    string // node id; 1 to MaxNodeID bytes
}

func (t Target) check() error {
	if t.Cluster == (Fingerprint{}) || t.Node == "" || len(t.Node) > MaxNodeID {
		return errs.New(errs.InvalidArgument, "the target of a share has no fingerprint or no node id")
	}
	return nil
}

// info binds a sealed share to its target: one that is replayed to another
// node, or to one that claims another cluster, does not open.
func (t Target) info() []byte {
	return label("krypton/v1/share-transport").part(t.Cluster[:]).part([]byte(t.Node))
}

// infoFor is info for a share that is given to a ceremony. One that was given to
// unseal a node, or to another ceremony, does not open as a share for this one:
// whoever recorded it on its way has no consent in hand.
func (t Target) infoFor(ceremony hierarchy.UID) []byte {
	return label("krypton/v1/share-to-ceremony").part(t.Cluster[:]).part([]byte(t.Node)).part(ceremony[:])
}

// Offer is a node's public start key, signed by the key in its member entry.
// It is public and goes through any proxy.
type Offer struct {
	Target    Target
	Public    []byte // HPKE public key of X-Wing, 1216 bytes
	Signature []byte // by the member key: Ed25519, or ECDSA P-256 in ASN.1
}

func (o Offer) message() []byte {
	return label("krypton/v1/start-key").part(o.Target.Cluster[:]).part([]byte(o.Target.Node)).part(o.Public)
}

// Verify checks the signature against the member key, which the caller has from
// the member entry or the pinned certificate, not from the offer. [SealShare]
// does it too; who opens a share first does it before. The error is that of
// [ErrOffer].
func (o Offer) Verify(member crypto.PublicKey) error {
	ok := false
	switch pub := member.(type) {
	case ed25519.PublicKey:
		ok = len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, o.message(), o.Signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(o.message())
		ok = pub != nil && ecdsa.VerifyASN1(pub, sum[:], o.Signature)
	}
	if !ok {
		return errs.New(errs.Unauthenticated, fmt.Sprintf("the key that node %q offers for shares is not signed by its member key", o.Target.Node),
			errs.Hint("check the address; something between you and the node may be answering for it"), errs.Cause(ErrOffer))
	}
	return nil
}

// suite is X-Wing (ML-KEM-768 and X25519), HKDF-SHA-256, AES-256-GCM.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// StartKey is the key pair that a node makes at every start, so that a share
// that was recorded on its way opens nothing after the next restart. The
// private key is held by crypto/hpke, on the heap and not in protected memory;
// it exists only in memory and protects shares only while they travel.
type StartKey struct {
	target  Target
	private hpke.PrivateKey
}

// NewStartKey makes the start key of a node from the system's generator.
func NewStartKey(t Target) (*StartKey, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	kem, _, _ := suite()
	private, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make start key: %w", err)
	}
	return &StartKey{target: t, private: private}, nil
}

// Offer returns the public key signed by member, the node's Ed25519 or ECDSA
// P-256 member key. rand is for ECDSA.
func (k *StartKey) Offer(rand io.Reader, member crypto.Signer) (Offer, error) {
	o := Offer{Target: k.target, Public: k.private.PublicKey().Bytes()}
	msg, hash := o.message(), crypto.Hash(0)
	switch member.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		msg, hash = sum[:], crypto.SHA256
	default:
		return Offer{}, fmt.Errorf("sign start key: a member key of type %T is not supported", member.Public())
	}
	var err error
	if o.Signature, err = member.Sign(rand, msg, hash); err != nil {
		return Offer{}, fmt.Errorf("sign start key: %w", err)
	}
	return o, nil
}

// Open opens what SealShare made for this key. The error for anything else is
// errs.ShareRefused and wraps [ErrSealedShare].
func (k *StartKey) Open(sealed []byte) (Share, error) { return k.open(sealed, k.target.info()) }

// OpenForCeremony is Open for what [SealShareForCeremony] made for that ceremony.
func (k *StartKey) OpenForCeremony(sealed []byte, ceremony hierarchy.UID) (Share, error) {
	return k.open(sealed, k.target.infoFor(ceremony))
}

func (k *StartKey) open(sealed, info []byte) (Share, error) {
	refuse := func() (Share, error) {
		return Share{}, refuseShare(ErrSealedShare, "the share was not encrypted to this start of this node", "read the node's seal status and give the share again")
	}
	if len(sealed) != SealedShareSize {
		return refuse()
	}
	_, kdf, aead := suite()
	wire, err := hpke.Open(k.private, kdf, aead, info, sealed)
	if err != nil {
		return refuse()
	}
	return parseWire(wire) // wipes wire
}

// SealShare encrypts a share to the node that made the offer. It refuses a
// share that is printed for another cluster than the offer's, and an offer
// that is not signed by member, the target's member key as the caller knows it
// (I7). The result has [SealedShareSize] bytes.
func SealShare(o Offer, member crypto.PublicKey, s Share) ([]byte, error) {
	return sealShare(o, member, s, o.Target.info())
}

// SealShareForCeremony is [SealShare] for a share that is given to a ceremony. It
// unseals no node, and is worth nothing to another ceremony.
func SealShareForCeremony(o Offer, member crypto.PublicKey, s Share, ceremony hierarchy.UID) ([]byte, error) {
	return sealShare(o, member, s, o.Target.infoFor(ceremony))
}

func sealShare(o Offer, member crypto.PublicKey, s Share, info []byte) ([]byte, error) {
	if err := o.Target.check(); err != nil {
		return nil, err
	}
	if err := o.Verify(member); err != nil {
		return nil, err
	}
	if !s.IsFor(o.Target.Cluster) {
		return nil, refuseShare(ErrShareCluster, "the share is of another cluster than the node", "check which cluster you are talking to; the share was not sent")
	}
	kem, kdf, aead := suite()
	public, err := kem.NewPublicKey(o.Public)
	if err != nil {
		return nil, errs.New(errs.Unauthenticated, "the key that the node offers for shares is not a key", errs.Cause(errors.Join(ErrOffer, err)))
	}
	var room [wireSize]byte
	defer clear(room[:])
	wire, err := s.appendWire(room[:0])
	if err != nil {
		return nil, err
	}
	sealed, err := hpke.Seal(public, kdf, aead, info, wire)
	if err != nil {
		return nil, fmt.Errorf("seal share: %w", err)
	}
	return sealed, nil
}
