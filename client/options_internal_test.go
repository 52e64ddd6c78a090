package client

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// FuzzLoadPair: whatever stands in the two files is an identity, or is refused
// with the name of a file, and never with its content.
func FuzzLoadPair(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	f.Add(certPEM, keyPEM)
	f.Add(keyPEM, certPEM)
	f.Add(append(bytes.Clone(keyPEM), certPEM...), keyPEM)
	f.Add(certPEM, certPEM)
	f.Add([]byte("junk"), []byte{})
	dir := f.TempDir()
	certFile, keyFile := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	f.Fuzz(func(t *testing.T, c, k []byte) {
		for path, b := range map[string][]byte{certFile: c, keyFile: k} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := loadPair(certFile, keyFile)
		if err != nil {
			if !errs.Is(err, errs.InvalidConfig) || errs.From(err).Hint == "" || !bytes.Contains([]byte(err.Error()), []byte(dir)) {
				t.Errorf("%v", err)
			}
			return
		}
		if len(got.Certificate) == 0 || got.PrivateKey == nil {
			t.Error("what was accepted is no identity")
		}
	})
}
