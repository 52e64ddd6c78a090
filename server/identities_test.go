package server_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// refusedAs asks both doors, and fails the test unless both give the situation.
func (w *world) refusedAs(t *testing.T, id string, certs ...tls.Certificate) {
	t.Helper()
	cc := w.dial(0, w.tlsConfig(certs...))
	defer cc.Close()
	begin := time.Now()
	_, err := kryptonv1.NewAccessClient(cc).WhoAmI(limited(t), &kryptonv1.WhoAmIRequest{})
	situationtest.Error(t, id, wire.FromStatus(err))

	who := ""
	if len(certs) > 0 {
		who = "stranger " + id
		w.people[who] = certs[0]
	}
	a := w.send(t, who, http.MethodGet, "/v1/access:whoAmI", "")
	situationtest.HTTP(t, id, a.status, a.body)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("%s: it took %v to say what was known", id, took)
	}
}

// TestEveryWrongIdentityIsToldWhatIsWrongWithIt at both doors, with the words of
// docs/errors.md, and without a word about the cluster.
func TestEveryWrongIdentityIsToldWhatIsWrongWithIt(t *testing.T) {
	t.Parallel()
	w, foreign := served(t), newWorld(t, 1)
	foreign.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	nodeCert, err := tls.LoadX509KeyPair(w.members[0].dir.Path("tls/api.pem"), w.members[0].dir.Path("tls/node.key"))
	if err != nil {
		t.Fatal(err)
	}
	w.refusedAs(t, "identity/no-certificate")
	w.refusedAs(t, "identity/foreign-certificate", foreign.people["governor"])
	w.hangUp()
	w.refusedAs(t, "identity/foreign-certificate", forged(t, w.people["governor"]))
	w.refusedAs(t, "identity/of-a-node", nodeCert)

	ca := w.corp()
	leaf, name := ca.leaf, ca.uri("acme", "ada")
	w.refusedAs(t, "identity/expired", leaf(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}, name))
	w.refusedAs(t, "identity/not-yet-valid", leaf(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }, name))
	w.refusedAs(t, "identity/no-name", leaf(nil))
	w.refusedAs(t, "identity/two-names", leaf(nil, name, ca.uri("other", "ada")))
	for _, unknown := range []string{
		"spiffe://" + corpDomain + "/krypton/king/ada", "spiffe://" + corpDomain + "/krypton/workload/acme/ADA", "spiffe://" + corpDomain, // not of our form
		"spiffe://" + corpDomain + "/krypton/operator/ada", "spiffe://" + corpDomain + "/krypton/governor/ada", // and nobody bound it
	} {
		w.hangUp()
		w.refusedAs(t, "identity/unbound-subject", leaf(nil, unknown))
	}
	for _, foreign := range []string{"https://" + corpDomain + "/krypton/workload/acme/ada", "spiffe://other.example/krypton/workload/acme/ada"} {
		w.hangUp()
		w.refusedAs(t, "identity/other-trust-domain", leaf(nil, foreign))
	}
	w.hangUp()
	w.refusedAs(t, "identity/unbound-subject", ca.named("ada"))
	w.refusedAs(t, "identity/server-usage-only", leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, name))
	w.refusedAs(t, "identity/of-a-ca", leaf(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, name))
}

// TestACertificateIsRevokedForEverybodyAtOnce: on every node, on connections that
// were open before, at both doors, and for good.
func TestACertificateIsRevokedForEverybodyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	ctx := limited(t)
	var open []*grpc.ClientConn
	for i := range w.members {
		until(t, "the workload is known on "+w.members[i].name, func() error {
			_, err := kryptonv1.NewAccessClient(w.grpc(i, "workload/acme")).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
			return err
		})
		open = append(open, w.grpc(i, "workload/acme"))
	}
	if a := w.send(t, "workload/acme", http.MethodGet, "/v1/access:whoAmI", ""); a.status != http.StatusOK {
		t.Fatalf("%s", a.body)
	}
	var me struct{ CertificateSerial string }
	if err := json.Unmarshal(w.send(t, "workload/acme", http.MethodGet, "/v1/access:whoAmI", "").body, &me); err != nil {
		t.Fatal(err)
	}
	leaf := w.people["workload/acme"].Leaf
	if want := hex.EncodeToString(leaf.SerialNumber.Bytes()); me.CertificateSerial != want {
		t.Errorf("whoami says serial %s, want %s", me.CertificateSerial, want)
	}
	rev, err := kryptonv1.NewAccessClient(w.grpc(1, "operator")).RevokeCertificate(ctx, &kryptonv1.RevokeCertificateRequest{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), Reason: "canary-reason",
	})
	if err != nil {
		t.Fatal(err)
	}
	if rev.GetSerial() != me.CertificateSerial || rev.GetIdentity() != leaf.URIs[0].String() || rev.GetRevokedBy() != "operator/x" || !rev.GetExpireTime().AsTime().Equal(leaf.NotAfter) {
		t.Errorf("revocation %v", rev)
	}
	for i, cc := range open {
		// The node that was asked has applied it; the others are a message behind.
		until(t, w.members[i].name+" refuses the certificate", func() error {
			_, err := kryptonv1.NewCryptoClient(cc).Encrypt(ctx, &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: []byte("x")})
			if codeOf(err) == errs.Unauthenticated {
				situationtest.Error(t, "identity/revoked", wire.FromStatus(err), []byte("canary-reason"))
				return nil
			}
			if i == 1 {
				t.Errorf("the node that answered to the revocation still accepts the certificate: %v", err)
				return nil
			}
			return errStill
		})
	}
	a := w.send(t, "workload/acme", http.MethodGet, "/v1/access:whoAmI", "")
	situationtest.HTTP(t, "identity/revoked", a.status, a.body, []byte("canary-reason"))
	w.refusedAs(t, "identity/revoked", w.people["workload/acme"]) // and on a new connection
	if a = w.send(t, "auditor", http.MethodGet, "/v1/access:revocations", ""); !bytes.Contains(a.body, []byte(me.CertificateSerial)) || !bytes.Contains(a.body, []byte("canary-reason")) {
		t.Errorf("the auditor does not see it: %s", a.body)
	}
	records := w.members[1].records()
	if !bytes.Contains(records, []byte("access.revoke_certificate")) || !bytes.Contains(records, []byte("certificates/"+me.CertificateSerial)) {
		t.Error("the revocation has no record")
	}
	if !bytes.Contains(w.members[0].records(), []byte("the client certificate was revoked")) {
		t.Error("the refusal has no record")
	}
	// Another certificate of the same workload is another one.
	fresh := w.dial(0, w.tlsConfig(w.issue("workload", "acme", 0)))
	defer fresh.Close()
	if _, err := kryptonv1.NewAccessClient(fresh).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{}); err != nil {
		t.Errorf("the next certificate: %v", err)
	}
}

var errStill = errs.New(errs.FailedState, "it still is accepted")

// TestWhoMayRevokeWhat: somebody is always left who can issue certificates.
func TestWhoMayRevokeWhat(t *testing.T) {
	t.Parallel()
	w := served(t)
	nodeDER := func() []byte {
		cert, err := tls.LoadX509KeyPair(w.members[0].dir.Path("tls/api.pem"), w.members[0].dir.Path("tls/node.key"))
		if err != nil {
			t.Fatal(err)
		}
		return cert.Certificate[0]
	}()
	gov, cust := w.people["governor"].Certificate[0], w.people["custodian"].Certificate[0]
	number := hex.EncodeToString(w.people["custodian"].Leaf.SerialNumber.Bytes())
	for _, tt := range []struct {
		id, who string
		req     *kryptonv1.RevokeCertificateRequest
	}{
		{"identity/revoke-own", "governor", &kryptonv1.RevokeCertificateRequest{Certificate: gov}},
		{"identity/revoke-above", "operator", &kryptonv1.RevokeCertificateRequest{Certificate: gov}},
		{"identity/revoke-above", "operator", &kryptonv1.RevokeCertificateRequest{Certificate: cust}},
		{"identity/revoke-by-number", "operator", &kryptonv1.RevokeCertificateRequest{Serial: number}},
		{"identity/revoke-foreign", "governor", &kryptonv1.RevokeCertificateRequest{Certificate: nodeDER}},
		{"identity/revoke-foreign", "governor", &kryptonv1.RevokeCertificateRequest{Certificate: forged(t, w.people["auditor"]).Certificate[0]}},
		{"identity/revoke-nothing", "governor", &kryptonv1.RevokeCertificateRequest{}},
		{"identity/revoke-serial-malformed", "governor", &kryptonv1.RevokeCertificateRequest{Serial: "xyz"}},
		{"identity/wrong-role", "custodian", &kryptonv1.RevokeCertificateRequest{Certificate: cust}},
	} {
		_, err := kryptonv1.NewAccessClient(w.grpc(0, tt.who)).RevokeCertificate(limited(t), tt.req)
		situationtest.Error(t, tt.id, wire.FromStatus(err))
	}
	// A governor revokes by number; an operator the own one, once.
	if _, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).RevokeCertificate(limited(t), &kryptonv1.RevokeCertificateRequest{Serial: number}); err != nil {
		t.Errorf("by number: %v", err)
	}
	_, err := kryptonv1.NewSealClient(w.grpc(0, "custodian")).GetSeal(limited(t), &kryptonv1.GetSealRequest{})
	situationtest.Error(t, "identity/revoked", wire.FromStatus(err))
	own := &kryptonv1.RevokeCertificateRequest{Certificate: w.people["operator"].Certificate[0]}
	if _, err := kryptonv1.NewAccessClient(w.grpc(0, "operator")).RevokeCertificate(limited(t), own); err != nil {
		t.Errorf("the own one: %v", err)
	}
	_, err = kryptonv1.NewAccessClient(w.grpc(0, "operator")).RevokeCertificate(limited(t), own)
	situationtest.Error(t, "identity/revoked", wire.FromStatus(err))
}

// TestTheWrongPortSaysSo: the client at the door for HTTP, at the operations port
// and at the peer port of a real node.
func TestTheWrongPortSaysSo(t *testing.T) {
	t.Parallel()
	w := served(t)
	ca, cert, key := w.files(t, "governor")
	m := w.members[0]
	for addr, id := range map[string]string{m.addrs.REST: "identity/port-of-http", m.addrs.Ops: "identity/port-without-tls", m.addrs.Peer: "identity/port-of-peers"} {
		c, err := client.New(t.Context(), client.With(client.Options{Addrs: []string{addr}, CAFile: ca, CertFile: cert, KeyFile: key}))
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err = c.Access().WhoAmI(limited(t), &kryptonv1.WhoAmIRequest{})
		situationtest.Error(t, id, err)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: it took %v to say what was known", id, took)
		}
		_ = c.Close()
	}
}

// files writes the identity of a person as the command line and the client read
// it.
func (w *world) files(t *testing.T, who string) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	ca, cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	own := w.people[who]
	der, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string][]byte{
		ca: w.ca, cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}), key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ca, cert, key
}
