package seal_test

import (
	"crypto"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/seal"
)

// TestI14_AMasterKeyTravelsToOneStartOfOneNodeForOneRecord
func TestI14_AMasterKeyTravelsToOneStartOfOneNodeForOneRecord(t *testing.T) {
	k, other := shamirOf(t, ceremony(t), 3, 2), shamirOf(t, ceremony(t), 3, 2)
	defer k.done()
	defer other.done()
	for name, member := range map[string]crypto.Signer{"ed25519": ed25519Key(t), "ecdsa": ecdsaKey(t)} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, here, member)
			sealed, err := seal.SealMasterKey(n.offer, n.member, k.record, k.masterKey)
			if err != nil || len(sealed) != seal.SealedMasterKeySize {
				t.Fatalf("%d bytes, %v", len(sealed), err)
			}
			mk, err := n.key.OpenMasterKey(sealed, k.record)
			if err != nil {
				t.Fatal(err)
			}
			defer mk.Destroy()
			if !same(t, mk, k.masterKey) {
				t.Error("another MasterKey arrived")
			}
			again := newNode(t, here, member)
			elsewhere := newNode(t, seal.Target{Cluster: fingerprint, Node: "node-2"}, member)
			share, err := seal.SealShare(n.offer, n.member, k.shares[0])
			if err != nil {
				t.Fatal(err)
			}
			flipped := append([]byte(nil), sealed...)
			flipped[len(flipped)-20] ^= 1
			for name, c := range map[string]struct {
				key    *seal.StartKey
				sealed []byte
				r      seal.Record
			}{
				"after a start":  {again.key, sealed, k.record},
				"another node":   {elsewhere.key, sealed, k.record},
				"another record": {n.key, sealed, other.record},
				"a share":        {n.key, share, k.record},
				"changed":        {n.key, flipped, k.record},
				"cut":            {n.key, sealed[:len(sealed)-1], k.record},
				"nothing":        {n.key, nil, k.record},
			} {
				if mk, err := c.key.OpenMasterKey(c.sealed, c.r); !errs.Is(err, errs.FailedState) || !errors.Is(err, seal.ErrHandover) || !mk.IsZero() {
					t.Errorf("%s: %v", name, err)
				}
			}
			if s, err := n.key.Open(sealed); err == nil {
				s.Destroy()
				t.Error("a MasterKey is opened as a share")
			}
		})
	}
}

// TestI14_AMasterKeyGoesToNobodyElse: not to a key that the member did not sign, and none that
// is not the record's.
func TestI14_AMasterKeyGoesToNobodyElse(t *testing.T) {
	k, other := shamirOf(t, ceremony(t), 3, 2), shamirOf(t, ceremony(t), 3, 2)
	defer k.done()
	defer other.done()
	n := newNode(t, here, ed25519Key(t))
	if _, err := seal.SealMasterKey(n.offer, ed25519Key(t).Public(), k.record, k.masterKey); !errors.Is(err, seal.ErrOffer) {
		t.Errorf("an offer of somebody else: %v", err)
	}
	moved := n.offer
	moved.Target.Node = "node-2"
	if _, err := seal.SealMasterKey(moved, n.member, k.record, k.masterKey); !errors.Is(err, seal.ErrOffer) {
		t.Errorf("an offer of another node: %v", err)
	}
	if _, err := seal.SealMasterKey(seal.Offer{}, n.member, k.record, k.masterKey); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("no offer: %v", err)
	}
	if _, err := seal.SealMasterKey(n.offer, n.member, k.record, other.masterKey); !errors.Is(err, seal.ErrCommitment) {
		t.Errorf("another MasterKey: %v", err)
	}
}

// TestAHandoverHasThisFormat: docs/formats.md, A share on its way to a node.
func TestAHandoverHasThisFormat(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	n := newNode(t, here, ed25519Key(t))
	public, err := hpke.MLKEM768X25519().NewPublicKey(n.offer.Public)
	if err != nil {
		t.Fatal(err)
	}
	digest := k.record.ManifestDigest()
	var info []byte
	for _, p := range [][]byte{[]byte("krypton/v1/masterkey-handover"), fingerprint[:], []byte("node-1"), digest[:]} {
		info = append(binary.BigEndian.AppendUint32(info, uint32(len(p))), p...)
	}
	err = reveal.With(k.masterKey, func(b []byte) error {
		sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.AES256GCM(), info, b)
		if err != nil {
			return err
		}
		mk, err := n.key.OpenMasterKey(sealed, k.record)
		mk.Destroy()
		return err
	})
	if err != nil {
		t.Errorf("what is sealed as the page says does not open: %v", err)
	}
}
