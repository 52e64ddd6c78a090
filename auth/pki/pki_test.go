package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/memsec"
)

func TestMain(m *testing.M) {
	code := m.Run()
	memsec.Purge()
	os.Exit(code)
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const domain = "bank.example"

func newCA(t *testing.T, p pki.Purpose) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(rand.Reader, now, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ca.Destroy)
	return ca
}

func newKey(t *testing.T, typ pki.KeyType) (memsec.Secret, crypto.PublicKey) {
	t.Helper()
	s, pub, err := pki.GenerateKey(rand.Reader, typ)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Destroy)
	return s, pub
}

func callers(t *testing.T, is ...pki.CallerIssuer) *pki.Callers {
	t.Helper()
	c, err := pki.NewCallers(is)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func everything(ca *pki.CA) pki.CallerIssuer {
	return pki.CallerIssuer{UID: pki.IssuerOf(ca.Certificate()), Certificates: []*x509.Certificate{ca.Certificate()}, TrustDomain: domain}
}

func TestI1_CallersAreWhoTheirCertificateSays(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pki.ForCallers)
	c := callers(t, everything(ca))
	for _, typ := range []pki.KeyType{pki.ECDSAP256, pki.Ed25519} {
		_, pub := newKey(t, typ)
		for _, r := range auth.Roles() {
			id := auth.ID{TrustDomain: domain, Role: r, Name: "alice"}
			if r == auth.RoleWorkload {
				id.Tenant = "acme"
			}
			leaf, err := ca.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: id, PublicKey: pub})
			if err != nil {
				t.Fatalf("issue %s: %v", id, err)
			}
			got, err := c.Verify(leaf, now)
			if err != nil {
				t.Fatalf("verify %s: %v", id, err)
			}
			if got.Issuer != pki.IssuerOf(ca.Certificate()) || got.ID != id || got.Subject != "uri:"+id.String() || got.Expired ||
				!got.NotAfter.Equal(now.Add(pki.CallerLifetime)) || got.Serial != string(leaf.SerialNumber.Bytes()) || !leaf.PublicKey.(keyed).Equal(got.Key) {
				t.Errorf("verified %+v, want %+v until %v", got, id, now.Add(pki.CallerLifetime))
			}
			late, err := c.Verify(leaf, got.NotAfter.Add(time.Second))
			if err != nil || !late.Expired || late.ID != id {
				t.Errorf("after its end: %+v, %v", late, err)
			}
		}
	}
}

type keyed interface{ Equal(crypto.PublicKey) bool }

// raw signs a certificate with whatever is in tmpl, as a careless or hostile CA would.
func raw(t *testing.T, ca *x509.Certificate, signer crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	_, pub := newKey(t, pki.ECDSAP256)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, Subject: pkix.Name{CommonName: "governor"},
		ExtraExtensions: []pkix.Extension{san(t, "spiffe://"+domain+"/krypton/governor/alice")},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func san(t *testing.T, uris ...string) pkix.Extension {
	t.Helper()
	var names []asn1.RawValue
	for _, u := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u)})
	}
	v, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: v}
}

func TestI1_RefusedCertificates(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pki.ForCallers)
	other := newCA(t, pki.ForCallers) // same subject, other key
	signer, err := pki.Signer(ca.Key())
	if err != nil {
		t.Fatal(err)
	}
	otherSigner, err := pki.Signer(other.Key())
	if err != nil {
		t.Fatal(err)
	}
	full := everything(ca)
	uri := func(s ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{san(t, s...)} }
	}
	keep := func(*x509.Certificate) {}
	const alice = "spiffe://" + domain + "/krypton/governor/alice"
	const app = "spiffe://" + domain + "/krypton/workload/acme/app"

	control := raw(t, ca.Certificate(), signer, keep)
	if _, err := callers(t, full).Verify(control, now); err != nil {
		t.Fatalf("the unchanged certificate is refused: %v", err)
	}
	for name, tc := range map[string]struct {
		issuer pki.CallerIssuer
		leaf   *x509.Certificate
		at     time.Time
		says   string
	}{
		"no certificate":      {full, nil, now, "no client certificate"},
		"not yet valid":       {full, control, now.Add(-time.Hour - time.Second), "valid only from"},
		"other CA, same name": {full, raw(t, other.Certificate(), otherSigner, keep), now, "not from a CA"},
		"CA expired":          {full, raw(t, ca.Certificate(), signer, func(c *x509.Certificate) { c.NotAfter = now.Add(20 * pki.CALifetime) }), now.Add(2 * pki.CALifetime), "not valid"},
		"the CA itself":       {full, ca.Certificate(), now, "that of a CA"},
		"leaf that is a CA":   {full, raw(t, ca.Certificate(), signer, func(c *x509.Certificate) { c.IsCA = true }), now, "that of a CA"},
		"server usage only":   {full, raw(t, ca.Certificate(), signer, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), now, "not valid"},
		"unknown critical": {full, raw(t, ca.Certificate(), signer, func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), now, "not valid"},
		"two URI names":          {full, raw(t, ca.Certificate(), signer, uri(alice, app)), now, "more than one"},
		"same URI name twice":    {full, raw(t, ca.Certificate(), signer, uri(alice, alice)), now, "more than one"},
		"second URI is not ours": {full, raw(t, ca.Certificate(), signer, uri(alice, "https://example.com/")), now, "more than one"},
		"node name":              {full, raw(t, ca.Certificate(), signer, uri("spiffe://"+domain+"/krypton/node/n1")), now, "that of a node"},
		"upper-case scheme":      {full, raw(t, ca.Certificate(), signer, uri("SPIFFE://"+domain+"/krypton/governor/alice")), now, "trust domain"},
		"another scheme":         {full, raw(t, ca.Certificate(), signer, uri("https://"+domain+"/krypton/governor/alice")), now, "trust domain"},
		"no trust domain":        {pki.CallerIssuer{UID: full.UID, Certificates: full.Certificates}, control, now, "trust domain"},
		"other trust domain":     {full, raw(t, ca.Certificate(), signer, uri("spiffe://evil.example/krypton/governor/alice")), now, "trust domain"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := callers(t, tc.issuer).Verify(tc.leaf, tc.at)
			if err == nil {
				t.Fatalf("accepted as %+v", v)
			}
			// A node whose clock is wrong says what it takes the time for.
			if name == "not yet valid" {
				situationtest.Error(t, "identity/not-yet-valid", err)
			}
			if !errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error is %v (%v), want UNAUTHENTICATED with %q", err, errs.Of(err), tc.says)
			}
			if !reflect.DeepEqual(v, pki.Proof{}) {
				t.Errorf("refused, and returned %+v", v)
			}
		})
	}
}

func TestI1_TamperedCertificateIsRefused(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pki.ForCallers)
	_, pub := newKey(t, pki.ECDSAP256)
	leaf, err := ca.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleAuditor, Name: "alice"}, PublicKey: pub})
	if err != nil {
		t.Fatal(err)
	}
	der := bytes.Replace(leaf.Raw, []byte("/krypton/auditor/alice"), []byte("/krypton/auditor/mally"), 1)
	if bytes.Equal(der, leaf.Raw) {
		t.Fatal("nothing was changed")
	}
	changed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := callers(t, everything(ca)).Verify(changed, now); !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("changed name: %v, want UNAUTHENTICATED", err)
	}
}

func TestI2_IssuedNameIsTheTextOfTheID(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pki.ForCallers)
	_, pub := newKey(t, pki.Ed25519)
	id := auth.ID{TrustDomain: "a_b-c.d", Role: auth.RoleWorkload, Tenant: "ac-me", Name: "0.a_b-c"}
	leaf, err := ca.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: id, PublicKey: pub})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(leaf.Raw, []byte(id.String())) {
		t.Errorf("certificate does not hold %q", id)
	}
	if a, b := pki.IssuerOf(newCA(t, pki.ForCallers).Certificate()), pki.IssuerOf(ca.Certificate()); a == b || a.IsZero() {
		t.Error("two CAs of one name are one issuer")
	}
}

func TestI3_RequestDecidesOnlyTheKey(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pki.ForCallers)
	key, pub := newKey(t, pki.ECDSAP256)
	signer, err := pki.Signer(key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "mallory"},
		ExtraExtensions: []pkix.Extension{san(t, "spiffe://"+domain+"/krypton/governor/mallory")},
	}, signer)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pki.ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleAuditor, Name: "alice"}, PublicKey: got})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(leaf.Raw, []byte("mallory")) {
		t.Error("a name of the request is in the certificate")
	}
	if !got.(*ecdsa.PublicKey).Equal(pub) {
		t.Error("the key of the request is not the caller's")
	}
	der[len(der)-1] ^= 1
	if _, err := pki.ParseRequest(der); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("request with a broken signature: %v", err)
	}
}

func TestI4_OtherKeysAreRefused(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pki.ForCallers)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, pub := range map[string]crypto.PublicKey{"rsa": r.Public(), "p384": p384.Public(), "nil": nil, "nil ecdsa": (*ecdsa.PublicKey)(nil)} {
		_, err := ca.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleAuditor, Name: "a"}, PublicKey: pub})
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "rsa" || name == "p384" {
			der, err := x509.MarshalPKIXPublicKey(pub)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pki.ParsePublicKey(der); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("%s: ParsePublicKey: %v", name, err)
			}
		}
	}
	serials := map[string]bool{}
	_, pub := newKey(t, pki.Ed25519)
	for range 20 {
		c, err := ca.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleAuditor, Name: "a"}, PublicKey: pub})
		if err != nil {
			t.Fatal(err)
		}
		if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 128 || c.SerialNumber.BitLen() < 64 {
			t.Errorf("serial number %x", c.SerialNumber)
		}
		serials[c.SerialNumber.String()] = true
	}
	if len(serials) != 20 {
		t.Error("serial numbers repeat")
	}
	if _, err := ca.IssueCaller(bytes.NewReader(make([]byte, 64)), now, pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleAuditor, Name: "a"}, PublicKey: pub}); err == nil {
		t.Error("a random source of zeros made a serial number")
	}
}

func TestI5_KeyFilesRoundTripAndAreWiped(t *testing.T) {
	t.Parallel()
	for _, typ := range []pki.KeyType{pki.ECDSAP256, pki.Ed25519} {
		key, pub := newKey(t, typ)
		var file bytes.Buffer
		if err := pki.WriteKey(&file, key); err != nil {
			t.Fatal(err)
		}
		text := append([]byte("comment\n"), file.Bytes()...)
		back, err := pki.ParseKey(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(back.Destroy)
		if !bytes.Equal(text, make([]byte, len(text))) {
			t.Error("the text of the key was not wiped")
		}
		signer, err := pki.Signer(back)
		if err != nil {
			t.Fatal(err)
		}
		if !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
			t.Error("another key came back")
		}
	}
	for name, text := range map[string]string{
		"empty":       "",
		"no pem":      "hello",
		"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"garbage key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		if s, err := pki.ParseKey([]byte(text)); !errs.Is(err, errs.InvalidConfig) || !s.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCAOpensOnlyWithItsOwnKey(t *testing.T) {
	t.Parallel()
	for _, p := range []pki.Purpose{pki.ForCallers, pki.ForNodes} {
		ca, other := newCA(t, p), newCA(t, p)
		got, err := pki.OpenCA(ca.Certificate(), ca.Key())
		if err != nil || got.Purpose() != p {
			t.Errorf("open: %v", err)
		}
		if _, err := pki.OpenCA(ca.Certificate(), other.Key()); !errs.Is(err, errs.InvalidConfig) {
			t.Errorf("open with another key: %v", err)
		}
		ca.Destroy()
		_, pub := newKey(t, pki.ECDSAP256)
		if _, err := ca.IssueNode(rand.Reader, now, pki.NodeRequest{TrustDomain: domain, Node: "n1", PublicKey: pub}); err == nil {
			t.Error("a destroyed CA issued a certificate")
		}
	}
	if _, err := pki.NewCA(rand.Reader, now, pki.PurposeUnspecified, "x"); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("CA without a purpose: %v", err)
	}
}

func TestNodeCertificatesServeAndAreNeverCallers(t *testing.T) {
	t.Parallel()
	nodes, people := newCA(t, pki.ForNodes), newCA(t, pki.ForCallers)
	_, pub := newKey(t, pki.ECDSAP256)
	req := pki.NodeRequest{TrustDomain: domain, Node: "n1", PublicKey: pub, DNSNames: []string{"n1.bank.example"}, IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")}}
	cert, err := nodes.IssueNode(rand.Reader, now, req)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(nodes.Certificate())
	for _, name := range []string{"n1.bank.example", "10.0.0.1", "::1"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if td, node, err := pki.NodeOf(cert); err != nil || td != domain || node != "n1" {
		t.Errorf("NodeOf = %q, %q, %v", td, node, err)
	}
	// Even if somebody registers the CA of the nodes as one for callers.
	if _, err := callers(t, everything(nodes)).Verify(cert, now); !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("a node is a caller: %v", err)
	}
	if _, err := people.IssueNode(rand.Reader, now, req); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("a CA for callers issued a node certificate: %v", err)
	}
	if _, err := nodes.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleGovernor, Name: "a"}, PublicKey: pub}); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("a CA for nodes issued a caller certificate: %v", err)
	}
	// A stolen key of the CA for callers cannot make a server: the CA's own usages forbid it.
	signer, err := pki.Signer(people.Key())
	if err != nil {
		t.Fatal(err)
	}
	fake := raw(t, people.Certificate(), signer, func(c *x509.Certificate) {
		c.ExtraExtensions, c.DNSNames = nil, []string{"n1.bank.example"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	both := x509.NewCertPool()
	both.AddCert(people.Certificate())
	if _, err := fake.Verify(x509.VerifyOptions{Roots: both, DNSName: "n1.bank.example", CurrentTime: now}); err == nil {
		t.Error("a CA for callers made a certificate that serves")
	}
	for name, change := range map[string]func(*pki.NodeRequest){
		"no node":         func(r *pki.NodeRequest) { r.Node = "" },
		"bad node":        func(r *pki.NodeRequest) { r.Node = "a/b" },
		"bad domain":      func(r *pki.NodeRequest) { r.TrustDomain = "A" },
		"invalid address": func(r *pki.NodeRequest) { r.IPs = []netip.Addr{{}} },
		"too long":        func(r *pki.NodeRequest) { r.Lifetime = pki.NodeLifetime + 1 },
		"too short":       func(r *pki.NodeRequest) { r.Lifetime = time.Second },
	} {
		bad := req
		change(&bad)
		if _, err := nodes.IssueNode(rand.Reader, now, bad); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := nodes.IssueNode(rand.Reader, now.Add(pki.CALifetime-time.Hour), req); !errs.Is(err, errs.FailedState) {
		t.Errorf("certificate outlives its CA: %v", err)
	}
}

func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	a, b := newCA(t, pki.ForCallers), newCA(t, pki.ForNodes)
	text := pki.EncodeCertificates(a.Certificate(), b.Certificate())
	got, err := pki.ParseCertificates(text)
	if err != nil || len(got) != 2 || !got[0].Equal(a.Certificate()) || !got[1].Equal(b.Certificate()) {
		t.Errorf("round trip: %v", err)
	}
	var key bytes.Buffer
	if err := pki.WriteKey(&key, a.Key()); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"empty":      nil,
		"with a key": append(bytes.Clone(text), key.Bytes()...),
		"garbage":    []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"too many":   bytes.Repeat(text, 17),
		"too large":  make([]byte, 1<<20+1),
	} {
		if _, err := pki.ParseCertificates(text); !errs.Is(err, errs.InvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNamesThatARoleBindingCanKnow: a certificate has one, and none that its holder
// might have chosen beside it.
func TestNamesThatARoleBindingCanKnow(t *testing.T) {
	t.Parallel()
	ca := newCA(t, pki.ForCallers)
	signer, err := pki.Signer(ca.Key())
	if err != nil {
		t.Fatal(err)
	}
	cn := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = nil
			c.Subject = pkix.Name{Organization: []string{"bank"}}
			for _, n := range names {
				c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: n})
			}
		}
	}
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{san(t, s)} }
	}
	for name, tc := range map[string]struct {
		change func(*x509.Certificate)
		want   string
		own    bool
	}{
		"our form":             {func(*x509.Certificate) {}, "uri:spiffe://" + domain + "/krypton/governor/alice", true},
		"another form":         {uri("spiffe://" + domain + "/ns/pay/sa/app"), "uri:spiffe://" + domain + "/ns/pay/sa/app", false},
		"escaped role":         {uri("spiffe://" + domain + "/krypton/%67overnor/alice"), "uri:spiffe://" + domain + "/krypton/%67overnor/alice", false},
		"empty fragment":       {uri("spiffe://" + domain + "/krypton/governor/alice#"), "uri:spiffe://" + domain + "/krypton/governor/alice#", false},
		"empty query":          {uri("spiffe://" + domain + "/krypton/governor/alice?"), "uri:spiffe://" + domain + "/krypton/governor/alice?", false},
		"common name":          {cn("app1.bank.example"), "cn:app1.bank.example", false},
		"two common names":     {cn("app1", "app2"), "", false},
		"no name":              {cn(), "", false},
		"control characters":   {cn("app1\x1b[2J"), "", false},
		"longest":              {cn(strings.Repeat("a", pki.MaxSubject-3)), "cn:" + strings.Repeat("a", pki.MaxSubject-3), false},
		"too long":             {cn(strings.Repeat("a", pki.MaxSubject-2)), "", false},
		"a role as name":       {cn("governor"), "cn:governor", false},
		"a DNS name is none":   {func(c *x509.Certificate) { cn()(c); c.DNSNames = []string{"governor.bank.example"} }, "", false},
		"URI beats the common": {func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "app1"} }, "uri:spiffe://" + domain + "/krypton/governor/alice", true},
	} {
		p, err := callers(t, everything(ca)).Verify(raw(t, ca.Certificate(), signer, tc.change), now)
		if err != nil || p.Subject != tc.want || (p.ID != auth.ID{}) != tc.own {
			t.Errorf("%s: %q, own form %v, %v; want %q", name, p.Subject, p.ID, err, tc.want)
		}
	}
}

func TestIssuersMustBeCAsOfTheirOwn(t *testing.T) {
	t.Parallel()
	ca, second := newCA(t, pki.ForCallers), newCA(t, pki.ForCallers)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*pki.CallerIssuer){
		"no uid":     func(i *pki.CallerIssuer) { i.UID = auth.Issuer{} },
		"no CA":      func(i *pki.CallerIssuer) { i.Certificates = nil },
		"a nil CA":   func(i *pki.CallerIssuer) { i.Certificates = []*x509.Certificate{nil} },
		"bad domain": func(i *pki.CallerIssuer) { i.TrustDomain = "Bank" },
		"not a CA":   func(i *pki.CallerIssuer) { i.Certificates = []*x509.Certificate{{}} },
		"a weak key": func(i *pki.CallerIssuer) {
			i.Certificates = []*x509.Certificate{{IsCA: true, BasicConstraintsValid: true, PublicKey: &small.PublicKey, PublicKeyAlgorithm: x509.RSA}}
		},
		"an old format": func(i *pki.CallerIssuer) {
			i.Certificates = []*x509.Certificate{{IsCA: true, PublicKey: ca.Certificate().PublicKey}}
		},
	} {
		i := everything(ca)
		change(&i)
		if _, err := pki.NewCallers([]pki.CallerIssuer{i}); !errs.Is(err, errs.InvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	thief := everything(ca)
	thief.UID = auth.Issuer{1}
	if _, err := pki.NewCallers([]pki.CallerIssuer{everything(ca), thief}); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("one CA key for two issuers: %v", err)
	}
	both := everything(ca)
	both.Certificates = append(both.Certificates, second.Certificate())
	for _, one := range []*pki.CA{ca, second} { // while a CA is replaced
		_, pub := newKey(t, pki.Ed25519)
		leaf, err := one.IssueCaller(rand.Reader, now, pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleAuditor, Name: "ada"}, PublicKey: pub})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := callers(t, both).Verify(leaf, now); err != nil || p.Issuer != both.UID {
			t.Errorf("of one of two CAs: %+v, %v", p, err)
		}
	}
	if _, err := callers(t).Verify(ca.Certificate(), now); !errors.Is(err, errs.New(errs.Unauthenticated, "")) {
		t.Errorf("no issuers at all: %v", err)
	}
}

func FuzzParseCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		certs, err := pki.ParseCertificates(text)
		if err == nil && len(certs) == 0 {
			t.Error("no certificate and no error")
		}
		c, err2 := pki.NewCallers(nil)
		if err2 != nil {
			t.Fatal(err2)
		}
		for _, cert := range certs {
			if _, err := c.Verify(cert, now); err == nil {
				t.Error("accepted without issuers")
			}
			_, _, _ = pki.NodeOf(cert) // must not panic
		}
	})
}

// FuzzParsePublicKey takes what callers send to have it signed, as a key or as a
// certificate request.
func FuzzParsePublicKey(f *testing.F) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(spki)
	f.Add(csr)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		for what, parse := range map[string]func([]byte) (crypto.PublicKey, error){"key": pki.ParsePublicKey, "request": pki.ParseRequest} {
			got, err := parse(der)
			if err != nil {
				if e := errs.From(err); e.Code != errs.InvalidArgument {
					t.Errorf("%s: %v (%s)", what, err, e.Code)
				}
				continue
			}
			if _, err := x509.MarshalPKIXPublicKey(got); err != nil {
				t.Errorf("%s: accepted and cannot be written: %v", what, err)
			}
		}
	})
}

// FuzzParseKey takes files of private keys. Nothing of them may be left.
func FuzzParseKey(f *testing.F) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		text = bytes.Clone(text)
		s, err := pki.ParseKey(text)
		if err == nil {
			s.Destroy()
		}
		if len(bytes.Trim(text, "\x00")) != 0 {
			t.Error("the text was not wiped")
		}
	})
}
