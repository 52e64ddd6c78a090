package fsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// certificates returns CA certificates with keys of several kinds and sizes.
func certificates(t testing.TB) (all [][]byte) {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca", strings.Repeat("x", 300)} {
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1 << 40), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
			IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"example.com"},
		}
		for _, pair := range []struct{ pub, key any }{{ed.Public(), ed}, {p256.Public(), p256}, {r.Public(), r}} {
			der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pair.pub, pair.key)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, der)
		}
	}
	return all
}

// TestThePublicKeyOfACertificateIsFound where package crypto/x509 finds it, and not
// in anything that is cut or has something behind it.
func TestThePublicKeyOfACertificateIsFound(t *testing.T) {
	for _, der := range certificates(t) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := spkiOf(der); !ok || !bytes.Equal(got, c.RawSubjectPublicKeyInfo) {
			t.Errorf("found %x, want %x", got, c.RawSubjectPublicKeyInfo)
		}
		for cut := range der {
			if _, ok := spkiOf(der[:cut]); ok {
				t.Fatalf("found in %d of %d bytes", cut, len(der))
			}
		}
		if _, ok := spkiOf(append(bytes.Clone(der), 0)); ok {
			t.Error("found with a byte behind")
		}
	}
	if _, ok := spkiOf(make([]byte, MaxCertificateBytes+1)); ok {
		t.Error("found in what is too large")
	}
}

// FuzzSPKI: no bytes make it panic, and whatever package crypto/x509 reads, of the
// size that is allowed, has its key in the same place.
func FuzzSPKI(f *testing.F) {
	for _, der := range certificates(f) {
		f.Add(der)
	}
	f.Add([]byte{0x30, 0x82, 0xff, 0xff})
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		got, ok := spkiOf(der)
		if ok && (len(got) == 0 || got[0] != derSequence) {
			t.Fatalf("found %x", got)
		}
		if c, err := x509.ParseCertificate(der); err == nil && c.Version == 3 && ok && !bytes.Equal(got, c.RawSubjectPublicKeyInfo) {
			t.Fatalf("found %x, want %x", got, c.RawSubjectPublicKeyInfo)
		}
		if c, err := x509.ParseCertificate(der); err == nil && isCA(der) && !c.IsCA {
			t.Fatal("it is a CA's here and nowhere else")
		}
		_ = signedBy(der, der)
	})
}

func TestBindingsAreLimited(t *testing.T) {
	s := emptyState()
	tx := &tx{meta: meta{bindings: MaxBindings - 1}, txn: s.db.Txn(true)}
	b := &fsmpb.RoleBinding{Id: "b", IssuerUid: make([]byte, 16), Role: "operator", Name: "b", Subject: "operator/b"}
	if err := tx.roomForBinding(b, nil); err != nil {
		t.Error(err)
	}
	tx.bindings++
	if err := tx.roomForBinding(b, nil); errs.Of(err) != errs.LimitReached {
		t.Errorf("got %v", err)
	}
}
