//go:build unix

package damage_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// TestACallerWhoseClockIsWrongIsToldOfIt. The node's certificate is the one that
// is off here, which is the same: either is wrong by the other.
func TestACallerWhoseClockIsWrongIsToldOfIt(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]time.Time{
		"not valid yet": time.Now().Add(24 * time.Hour),
		"expired":       time.Now().Add(-72 * time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{
				SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.Add(48 * time.Hour),
				IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
				KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			var cert, private bytes.Buffer
			if err := pem.Encode(&cert, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
				t.Fatal(err)
			}
			if err := pem.Encode(&private, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}); err != nil {
				t.Fatal(err)
			}
			pair(p, cert.String(), private.String(), 0o600)
			n := p.start()
			n.serves()
			c, err := client.New(context.Background(), client.With(client.Options{
				Addrs: []string{n.address()}, CAFile: filepath.Join(p.dir, "cert"),
				CertFile: filepath.Join(prepared.people, "workload.crt"), KeyFile: filepath.Join(prepared.people, "workload.key"),
			}))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err = c.Crypto().Decrypt(ctx, &kryptonv1.DecryptRequest{Service: service, Ciphertext: prepared.text})
			situationtest.Error(t, "identity/node-expired", fmt.Errorf("decrypt: %w", err))
			n.stop()
		})
	}
}
