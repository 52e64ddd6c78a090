package seal_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

type node struct {
	key    *seal.StartKey
	offer  seal.Offer
	member crypto.PublicKey
}

func newNode(t *testing.T, target seal.Target, member crypto.Signer) node {
	t.Helper()
	k, err := seal.NewStartKey(target)
	if err != nil {
		t.Fatal(err)
	}
	o, err := k.Offer(rand.Reader, member)
	if err != nil {
		t.Fatal(err)
	}
	return node{k, o, member.Public()}
}

func ed25519Key(t *testing.T) crypto.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ecdsaKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var here = seal.Target{Cluster: fingerprint, Node: "node-1"}

func TestAShareTravelsToItsNode(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	for name, member := range map[string]crypto.Signer{"ed25519": ed25519Key(t), "ecdsa": ecdsaKey(t)} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, here, member)
			u, _ := opening(t, k.record)
			defer u.Reset()
			var last []byte
			for _, s := range k.shares {
				sealed, err := seal.SealShare(n.offer, n.member, s)
				if err != nil {
					t.Fatal(err)
				}
				if len(sealed) != seal.SealedShareSize {
					t.Errorf("%d bytes, want %d", len(sealed), seal.SealedShareSize)
				}
				if bytes.Equal(sealed, last) {
					t.Error("two shares look the same")
				}
				last = sealed
				got, err := n.key.Open(sealed)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := u.Contribute(got); err != nil {
					t.Fatal(err)
				}
			}
			mk, open := u.Take()
			defer mk.Destroy()
			if !open || !same(t, mk, k.masterKey) {
				t.Error("the shares that came do not open it")
			}
		})
	}
}

func TestI7_ASealedShareOpensOnlyOnItsNodeAndStart(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	member := ed25519Key(t)
	n := newNode(t, here, member)
	sealed, err := seal.SealShare(n.offer, n.member, k.shares[0])
	if err != nil {
		t.Fatal(err)
	}
	try := func(what string, key *seal.StartKey, b []byte) {
		t.Helper()
		s, err := key.Open(b)
		s.Destroy()
		if !errors.Is(err, seal.ErrSealedShare) || !errs.Is(err, errs.ShareRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	try("another node", newNode(t, seal.Target{Cluster: fingerprint, Node: "node-2"}, member).key, sealed)
	try("the next start of the node", newNode(t, here, member).key, sealed)
	for i := 0; i < len(sealed); i += 7 {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		try("a changed byte", n.key, b)
	}
	for _, b := range [][]byte{nil, sealed[:len(sealed)-1], append(bytes.Clone(sealed), 0), bytes.Repeat([]byte{0}, 1<<20)} {
		try("another length", n.key, b)
	}
}

// The same private key under another target: what differs is only what HPKE
// was told, so this fails when the info loses the fingerprint or the node id.
func TestI7_TheTargetIsBoundAndNotOnlyTheKey(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	n := newNode(t, here, ed25519Key(t))
	for name, target := range map[string]seal.Target{
		"cluster": {Cluster: otherPrint, Node: here.Node}, "node": {Cluster: fingerprint, Node: "node-2"},
	} {
		t.Run(name, func(t *testing.T) {
			moved := seal.WithTarget(n.key, target)
			o, err := moved.Offer(rand.Reader, ed25519Key(t))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(o.Public, n.offer.Public) {
				t.Fatal("not the same key")
			}
			sealed, err := seal.SealShare(n.offer, n.member, k.shares[0])
			if err != nil {
				t.Fatal(err)
			}
			s, err := moved.Open(sealed)
			s.Destroy()
			if !errors.Is(err, seal.ErrSealedShare) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestI7_ASharesIsNotSealedToAKeyThatTheMemberDidNotSign(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	n := newNode(t, here, ed25519Key(t))
	e := newNode(t, here, ecdsaKey(t))
	rogue := newNode(t, here, ed25519Key(t))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(o seal.Offer, change func(*seal.Offer)) seal.Offer { change(&o); return o }
	for name, c := range map[string]struct {
		offer  seal.Offer
		member crypto.PublicKey
	}{
		"rogue's offer":                 {rogue.offer, n.member},
		"rogue's key, node's signature": {edit(n.offer, func(o *seal.Offer) { o.Public = rogue.offer.Public }), n.member},
		"another node's name":           {edit(n.offer, func(o *seal.Offer) { o.Target.Node = "node-2" }), n.member},
		"another key type":              {n.offer, e.member},
		"ecdsa, another key":            {e.offer, ecdsaKey(t).Public()},
		"no signature":                  {edit(n.offer, func(o *seal.Offer) { o.Signature = nil }), n.member},
		"cut signature":                 {edit(e.offer, func(o *seal.Offer) { o.Signature = o.Signature[:8] }), e.member},
		"no member key":                 {n.offer, nil},
		"nil ecdsa key":                 {e.offer, (*ecdsa.PublicKey)(nil)},
		"short ed25519 key":             {n.offer, ed25519.PublicKey{1}},
		"rsa key":                       {n.offer, rsaKey.Public()},
		"cluster changed, share too":    {edit(n.offer, func(o *seal.Offer) { o.Target.Cluster = otherPrint }), n.member},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := seal.SealShare(c.offer, c.member, k.shares[0])
			if !errors.Is(err, seal.ErrOffer) || !errs.Is(err, errs.Unauthenticated) || b != nil {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := n.key.Offer(rand.Reader, rsaKey); err == nil {
		t.Error("an offer was signed with RSA")
	}
}

func TestI7_AShareLeavesOnlyForTheClusterOnIt(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	n := newNode(t, seal.Target{Cluster: otherPrint, Node: "node-1"}, ed25519Key(t))
	if _, err := seal.SealShare(n.offer, n.member, k.shares[0]); !errors.Is(err, seal.ErrShareCluster) {
		t.Errorf("%v", err)
	}
}

func TestTargetsAreChecked(t *testing.T) {
	for name, target := range map[string]seal.Target{
		"no node": {Cluster: fingerprint}, "no cluster": {Node: "n"}, "long node": {Cluster: fingerprint, Node: strings.Repeat("n", seal.MaxNodeID+1)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := seal.NewStartKey(target); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("%v", err)
			}
			if _, err := seal.SealShare(seal.Offer{Target: target}, nil, seal.Share{}); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAnOfferOfNoKeyIsRefused(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, public := range [][]byte{nil, make([]byte, 1215), make([]byte, 1217), bytes.Repeat([]byte{0xFF}, 1216)} {
		o := seal.Offer{Target: here, Public: public}
		o.Signature = ed25519.Sign(signer, seal.OfferMessage(o))
		if _, err := seal.SealShare(o, signer.Public(), k.shares[0]); !errors.Is(err, seal.ErrOffer) {
			t.Errorf("%d bytes: %v", len(public), err)
		}
	}
}

// FuzzStartKeyOpen takes anything for a share on its way.
func FuzzStartKeyOpen(f *testing.F) {
	k, err := seal.NewStartKey(seal.Target{Node: "n1", Cluster: seal.Fingerprint{1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(make([]byte, seal.SealedShareSize))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if s, err := k.Open(sealed); err == nil {
			s.Destroy()
			t.Error("it opened")
		} else if !errs.Is(err, errs.ShareRefused) || !errors.Is(err, seal.ErrSealedShare) {
			t.Errorf("%v", err)
		}
	})
}

// TestI7_AShareIsGivenForOneThing: who recorded it on its way cannot turn it into a
// consent.
func TestI7_AShareIsGivenForOneThing(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	n := newNode(t, here, ed25519Key(t))
	one, other := k.record.Ceremony(), ceremony(t).ID
	toUnseal, err := seal.SealShare(n.offer, n.member, k.shares[0])
	if err != nil {
		t.Fatal(err)
	}
	toOne, err := seal.SealShareForCeremony(n.offer, n.member, k.shares[0], one)
	if err != nil {
		t.Fatal(err)
	}
	s, err := n.key.OpenForCeremony(toOne, one)
	if err != nil {
		t.Fatal(err)
	}
	s.Destroy()
	for name, open := range map[string]func() (seal.Share, error){
		"to unseal, for a ceremony":        func() (seal.Share, error) { return n.key.OpenForCeremony(toUnseal, one) },
		"to a ceremony, for unsealing":     func() (seal.Share, error) { return n.key.Open(toOne) },
		"to a ceremony, for another one":   func() (seal.Share, error) { return n.key.OpenForCeremony(toOne, other) },
		"to unseal, for the zero ceremony": func() (seal.Share, error) { return n.key.OpenForCeremony(toUnseal, hierarchy.UID{}) },
	} {
		s, err := open()
		s.Destroy()
		if !errors.Is(err, seal.ErrSealedShare) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
