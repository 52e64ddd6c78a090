package server

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// FuzzParseSerial: a serial number has one spelling, and what is not one is told
// so.
func FuzzParseSerial(f *testing.F) {
	for _, s := range []string{"5f2a", "05", "00", "5F2A", "5f:2a", "", "zz", "0001", "ffffffffffffffffffffffffffffffffffffffff", "01ffffffffffffffffffffffffffffffffffffffff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := parseSerial(s)
		switch {
		case err != nil:
			if !errs.Is(err, errs.InvalidArgument) || errs.From(err).Hint == "" {
				t.Errorf("%q: %v", s, err)
			}
		case hex.EncodeToString(b) != s || len(b) > fsm.MaxSerialBytes || b[0] == 0:
			t.Errorf("%q became %x", s, b)
		}
	})
}

// FuzzParseLeaf: whatever comes as a certificate is one or is refused.
func FuzzParseLeaf(f *testing.F) {
	ca, err := pki.NewCA(rand.Reader, time.Now(), pki.ForCallers, "test")
	if err != nil {
		f.Fatal(err)
	}
	defer ca.Destroy()
	key, _, err := pki.GenerateKey(rand.Reader, pki.ECDSAP256)
	if err != nil {
		f.Fatal(err)
	}
	defer key.Destroy()
	signer, err := pki.Signer(key)
	if err != nil {
		f.Fatal(err)
	}
	leaf, err := ca.IssueCaller(rand.Reader, time.Now(), pki.CallerRequest{
		ID: auth.ID{TrustDomain: "test.krypton", Role: auth.RoleAuditor, Name: "a"}, PublicKey: signer.Public(),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(leaf.Raw)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	f.Add(leaf.Raw[:40])
	f.Add([]byte("junk"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseLeaf(b)
		switch {
		case err != nil:
			if c := errs.Of(err); c != errs.InvalidArgument && c != errs.TooLarge || errs.From(err).Hint == "" {
				t.Errorf("%v", err)
			}
		case len(got.Raw) == 0 || len(b) > maxCertificateBytes:
			t.Error("what was accepted is no certificate")
		}
	})
}
