package sign_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
)

func sample() intent.Intent {
	return intent.Intent{Keyspace: hierarchy.KeyspaceID{1}, Act: intent.ActRekey, Request: intent.Digest{1}, NotAfter: 1, Nonce: intent.Nonce{1}}
}

func TestI1_SignaturesVerify(t *testing.T) {
	t.Parallel()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m, err := sample().Message()
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ed25519": ed, "ecdsa": ec} {
		sig, err := sign.Sign(rand.Reader, key, sample())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		pub, err := sign.PublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		if sig.Key != pub.ID() || !pub.Verify(m, sig.Sig) || len(sig.Sig) > intent.MaxSignature {
			t.Errorf("%s: signature does not verify under its key", name)
		}
	}
	if _, err := sign.Sign(rand.Reader, ed, intent.Intent{}); err == nil {
		t.Error("signed an invalid intent")
	}
}

// liar shows one key and signs with another, as a token with a wrong slot does.
type liar struct{ shows, uses crypto.Signer }

func (l liar) Public() crypto.PublicKey { return l.shows.Public() }
func (l liar) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	return l.uses.Sign(r, d, o)
}

func TestI1_SignerWithAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	_, a, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign.Sign(rand.Reader, liar{a, b}, sample()); err == nil {
		t.Error("a signature that does not verify was returned")
	}
}

func TestOtherAlgorithmsAreRefused(t *testing.T) {
	t.Parallel()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"rsa": r, "p384": p} {
		if _, err := sign.Sign(rand.Reader, key, sample()); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestI2_NoncesComeFromTheSource(t *testing.T) {
	t.Parallel()
	a, err := sign.Nonce(bytes.NewReader(bytes.Repeat([]byte{7}, 16)))
	if err != nil || a != intent.Nonce(bytes.Repeat([]byte{7}, 16)) {
		t.Errorf("nonce %x, %v", a, err)
	}
	for name, src := range map[string][]byte{"zeros": make([]byte, 16), "short": make([]byte, 15)} {
		if _, err := sign.Nonce(bytes.NewReader(src)); err == nil {
			t.Errorf("%s: made a nonce", name)
		}
	}
}
