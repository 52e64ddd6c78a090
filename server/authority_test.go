package server_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

// corpDomain is the trust domain of the company's CA.
const corpDomain = "corp.example"

// authority is a CA that is not the cluster's: a company's, a customer's, a thief's.
type authority struct {
	t      testing.TB
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	domain string
}

func newAuthority(t testing.TB, domain string) *authority {
	t.Helper()
	key, _ := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "callers of " + domain}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: ca, key: key, domain: domain}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// uri is the name of a workload in Krypton's own form.
func (a *authority) uri(tenant, name string) string {
	return "spiffe://" + a.domain + "/krypton/workload/" + tenant + "/" + name
}

// leaf makes a caller's certificate with these URI names, which change may spoil.
func (a *authority) leaf(change func(*x509.Certificate), uris ...string) tls.Certificate {
	a.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			a.t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, parsed)
	}
	if change != nil {
		change(tmpl)
	}
	own, _ := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &own.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own, Leaf: leaf}
}

// named is a certificate without a URI name.
func (a *authority) named(commonName string) tls.Certificate {
	a.t.Helper()
	return a.leaf(func(c *x509.Certificate) { c.Subject.CommonName = commonName })
}

// issuer is what a registration of the CA says, for these roles.
func (a *authority) issuer(roles ...kryptonv1.Role) *kryptonv1.Issuer {
	return &kryptonv1.Issuer{
		Kind: &kryptonv1.Issuer_X509{X509: &kryptonv1.X509Issuer{Certificates: a.pem(), TrustDomain: a.domain}}, Roles: roles,
	}
}

// register makes an issuer known.
func (w *world) register(parent, id string, i *kryptonv1.Issuer) *kryptonv1.Issuer {
	w.t.Helper()
	out, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).CreateIssuer(limited(w.t), &kryptonv1.CreateIssuerRequest{Parent: parent, IssuerId: id, Issuer: i})
	if err != nil {
		w.t.Fatalf("register %s %s: %v", parent, id, err)
	}
	return out
}

// corp registers the company's CA, whose workloads need no role binding.
func (w *world) corp() *authority {
	w.t.Helper()
	a := newAuthority(w.t, corpDomain)
	i := a.issuer(kryptonv1.Role_ROLE_OPERATOR, kryptonv1.Role_ROLE_WORKLOAD)
	i.AllTenants, i.UnboundRoles = true, []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD}
	w.register("", "corp", i)
	return a
}

// bind gives somebody a role.
func (w *world) bind(parent, id string, b *kryptonv1.RoleBinding) *kryptonv1.RoleBinding {
	w.t.Helper()
	out, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).CreateRoleBinding(limited(w.t), &kryptonv1.CreateRoleBindingRequest{Parent: parent, RoleBindingId: id, RoleBinding: b})
	if err != nil {
		w.t.Fatalf("bind %s %s: %v", parent, id, err)
	}
	return out
}

// unbind takes a role away.
func (w *world) unbind(name string) {
	w.t.Helper()
	if _, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).DeleteRoleBinding(limited(w.t), &kryptonv1.DeleteRoleBindingRequest{Name: name}); err != nil {
		w.t.Fatalf("unbind %s: %v", name, err)
	}
}

// as opens a connection to a node with a certificate.
func (w *world) as(i int, cert tls.Certificate) *grpc.ClientConn {
	w.t.Helper()
	cc := w.dial(i, w.tlsConfig(cert))
	w.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// whoami asks a node who the holder of a connection is.
func whoami(t testing.TB, cc *grpc.ClientConn) (*kryptonv1.WhoAmIResponse, error) {
	t.Helper()
	return kryptonv1.NewAccessClient(cc).WhoAmI(limited(t), &kryptonv1.WhoAmIRequest{})
}

// tlsKey is a key of a role binding that certificates may be for.
func tlsKey(spki []byte) []*kryptonv1.AuthorityKey {
	return []*kryptonv1.AuthorityKey{{PublicKey: spki, Tls: true}}
}

// issueTo has the governor sign a key.
func (w *world) issueTo(r *kryptonv1.IssueCertificateRequest, key *ecdsa.PrivateKey) (tls.Certificate, error) {
	w.t.Helper()
	r = proto.CloneOf(r)
	r.PublicKey = spkiOf(w.t, key)
	resp, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).IssueCertificate(limited(w.t), r)
	if err != nil {
		return tls.Certificate{}, err
	}
	return certificate(w.t, resp.GetCertificate(), key), nil
}
