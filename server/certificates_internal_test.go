package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const testDomain = "0123.krypton"

func memberKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCA(t *testing.T, p pki.Purpose, now time.Time) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(rand.Reader, now, p, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ca.Destroy)
	return ca
}

// issued is a certificate of a node for key, with names.
func issued(t *testing.T, ca *pki.CA, key *ecdsa.PrivateKey, now time.Time, ips ...string) cluster.Certificate {
	t.Helper()
	req := pki.NodeRequest{TrustDomain: testDomain, Node: "n1", PublicKey: key.Public(), DNSNames: []string{"n1.example"}}
	for _, ip := range ips {
		req.IPs = append(req.IPs, netip.MustParseAddr(ip))
	}
	leaf, err := ca.IssueNode(rand.Reader, now, req)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.Certificate{Chain: [][]byte{leaf.Raw}}
}

func newStore(t *testing.T, dir string, key *ecdsa.PrivateKey, files *fileCertificate, clk clock.Clock) (*certificates, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	return newCertificates(t.Context(), dir, key, files, clk, slog.New(slog.NewTextHandler(log, nil))), log
}

// soleCA is callersFile as a release before issuers wrote it.
func soleCA(ca *pki.CA) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate().Raw, Headers: map[string]string{trustDomainHeader: testDomain}})
}

func newDirs(t *testing.T, dir string, content []byte) (*directories, *bytes.Buffer) {
	t.Helper()
	if content != nil {
		if err := os.WriteFile(filepath.Join(dir, callersFile), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := &bytes.Buffer{}
	d, err := newDirectories(t.Context(), dir, clock.System{}, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return d, log
}

func TestTheOwnCertificateIsKeptAndRenewedInTime(t *testing.T) {
	clk := clock.NewFake(time.Now())
	key, dir := memberKey(t), t.TempDir()
	ca := newCA(t, pki.ForNodes, clk.Now())
	s, _ := newStore(t, dir, key, nil, clk)
	m := &fsmpb.Member{GrpcAddress: "127.0.0.1:1", RestAddress: "n1.example:2"}
	if !s.due(m) || s.leaf() != nil {
		t.Fatal("a node without a certificate does not ask for one")
	}
	if _, err := s.serve(nil); err == nil || !strings.Contains(err.Error(), "krypton init") {
		t.Fatalf("a node without a certificate does a handshake: %v", err)
	}
	cert := issued(t, ca, key, clk.Now(), "127.0.0.1")
	if err := s.adopt(cert); err != nil {
		t.Fatal(err)
	}
	if s.due(m) || !bytes.Equal(s.leaf(), cert.Chain[0]) {
		t.Fatal("a fresh certificate is to be renewed")
	}
	for name, addr := range map[string]*fsmpb.Member{"host": {GrpcAddress: "n2.example:1"}, "address": {RestAddress: "127.0.0.2:1"}} {
		if !s.due(addr) {
			t.Errorf("the %s of the node changed, its certificate stays", name)
		}
	}
	clk.Advance(19 * 24 * time.Hour)
	if s.due(m) {
		t.Error("renewed after 19 of 30 days")
	}
	clk.Advance(25 * time.Hour)
	if !s.due(m) {
		t.Error("not renewed after 20 of 30 days")
	}
	again, _ := newStore(t, dir, key, nil, clk)
	if !bytes.Equal(again.leaf(), cert.Chain[0]) {
		t.Error("the certificate is lost over a restart")
	}
	for name, bad := range map[string]cluster.Certificate{
		"none": {}, "no certificate": {Chain: [][]byte{{1}}}, "another key": issued(t, ca, memberKey(t), clk.Now()),
	} {
		if err := again.adopt(bad); err == nil || !bytes.Equal(again.leaf(), cert.Chain[0]) {
			t.Errorf("adopted %s: %v", name, err)
		}
	}
}

// TestTwoAdoptAtOnce: init or join brings a certificate while the node asks for one
// itself. Neither fails, and what is served is what a restart would serve.
func TestTwoAdoptAtOnce(t *testing.T) {
	key, dir := memberKey(t), t.TempDir()
	clk := clock.NewFake(time.Now())
	ca := newCA(t, pki.ForNodes, clk.Now())
	s, _ := newStore(t, dir, key, nil, clk)
	var wg sync.WaitGroup
	for range 8 {
		cert := issued(t, ca, key, clk.Now(), "127.0.0.1")
		wg.Go(func() {
			for range 20 {
				if err := s.adopt(cert); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if again, _ := newStore(t, dir, key, nil, clk); !bytes.Equal(again.leaf(), s.leaf()) {
		t.Error("another certificate is on disk than is served")
	}
}

// TestDamageOnDiskDoesNotKeepANodeFromStarting: both files are made again.
func TestDamageOnDiskDoesNotKeepANodeFromStarting(t *testing.T) {
	key := memberKey(t)
	foreign := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued(t, newCA(t, pki.ForNodes, time.Now()), memberKey(t), time.Now()).Chain[0]})
	for name, content := range map[string][]byte{"empty": nil, "torn": []byte("-----BEGIN CERT"), "rubbish": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "foreign": foreign} {
		dir := t.TempDir()
		for _, f := range []string{apiFile, callersFile} {
			if err := os.WriteFile(filepath.Join(dir, f), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, log := newStore(t, dir, key, nil, clock.System{})
		if s.leaf() != nil || !s.due(&fsmpb.Member{}) {
			t.Errorf("%s: a certificate that does not belong to the node is presented", name)
		}
		if (name == "rubbish" || name == "foreign") && !strings.Contains(log.String(), "asks for it again") {
			t.Errorf("%s: nobody is told: %s", name, log)
		}
		d, log := newDirs(t, dir, nil)
		if !strings.Contains(log.String(), "asks for them again") && !strings.Contains(log.String(), "cannot be used") {
			t.Errorf("%s: nobody is told: %s", name, log)
		}
		c := &calls{dirs: d, machine: fsm.New(fsm.Options{}), clock: clock.System{}, serving: serves}
		if id := c.identify(nil, newCA(t, pki.ForCallers, time.Now()).Certificate()); !errs.Is(id.refused, errs.Unauthenticated) {
			t.Errorf("%s: %v", name, id.refused)
		}
	}
}

// TestTheCAOfCallersIsReadFromDisk with the trust domain it may speak for.
func TestTheCAOfCallersIsReadFromDisk(t *testing.T) {
	ca, dir := newCA(t, pki.ForCallers, time.Now()), t.TempDir()
	leaf := func(domain string) *x509.Certificate {
		c, err := ca.IssueCaller(rand.Reader, time.Now(), pki.CallerRequest{ID: auth.ID{TrustDomain: domain, Role: auth.RoleCustodian, Name: "carol"}, PublicKey: memberKey(t).Public()})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	d, log := newDirs(t, dir, soleCA(ca))
	if log.Len() > 0 {
		t.Fatal(log)
	}
	c := &calls{dirs: d, machine: fsm.New(fsm.Options{}), clock: clock.System{}, serving: serves}
	if id := c.identify(nil, leaf(testDomain)); id.refused != nil || id.Principal.Role != auth.RoleCustodian {
		t.Errorf("a custodian: %+v", id)
	}
	if id := c.identify(nil, leaf("other.krypton")); !errs.Is(id.refused, errs.Unauthenticated) {
		t.Errorf("a custodian of another domain: %+v", id)
	}
}

// serves is the state of a node that serves.
func serves() error { return nil }

// TestARefusalByAnOldRegistryIsNone: who is not found by a node that serves nothing
// hears what keeps it from serving, and by one that serves that there is no such role.
func TestARefusalByAnOldRegistryIsNone(t *testing.T) {
	ca := newCA(t, pki.ForCallers, time.Now())
	d, _ := newDirs(t, t.TempDir(), soleCA(ca))
	d.stored.issuers[0].UnboundRoles = nil
	leaf, err := ca.IssueCaller(rand.Reader, time.Now(), pki.CallerRequest{ID: auth.ID{TrustDomain: testDomain, Role: auth.RoleOperator, Name: "olga"}, PublicKey: memberKey(t).Public()})
	if err != nil {
		t.Fatal(err)
	}
	c := &calls{dirs: d, machine: fsm.New(fsm.Options{}), clock: clock.System{}, serving: serves}
	if id := c.identify(nil, leaf); !errs.Is(id.refused, errs.Unauthenticated) || id.notYet != nil {
		t.Errorf("by a node that serves: %+v", id)
	}
	c.serving = func() error { return errs.New(errs.Sealed, "this node is sealed") }
	if id := c.identify(nil, leaf); !errs.Is(id.refused, errs.Unauthenticated) || !errs.Is(id.notYet, errs.Sealed) {
		t.Errorf("by a node that serves nothing: %+v", id)
	}
	// What no registry would change is refused for good.
	if id := c.identify(nil, ca.Certificate()); id.refused == nil || id.notYet != nil {
		t.Errorf("a CA as a caller: %+v", id)
	}
}

// TestWhatAConnectionKnowsOfItsCaller is of no other certificate, and holds no longer
// than that is valid.
func TestWhatAConnectionKnowsOfItsCaller(t *testing.T) {
	clk := clock.NewFake(time.Now())
	ca := newCA(t, pki.ForCallers, clk.Now())
	d, _ := newDirs(t, t.TempDir(), soleCA(ca))
	c := &calls{dirs: d, machine: fsm.New(fsm.Options{}), clock: clk, serving: serves}
	leaf, err := ca.IssueCaller(rand.Reader, clk.Now(), pki.CallerRequest{ID: auth.ID{TrustDomain: testDomain, Role: auth.RoleGovernor, Name: "alice"}, PublicKey: memberKey(t).Public(), Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	on := &visit{}
	on.seated.Store(true)
	for range 2 {
		if id := c.identify(on, leaf); id.refused != nil || id.Principal.Name != "alice" || !id.NotAfter.Equal(leaf.NotAfter) {
			t.Fatalf("a governor is %+v", id)
		}
	}
	if known := on.verified.Load(); known == nil || known.leaf != leaf {
		t.Fatal("a connection does not know its caller")
	}
	if id := c.identify(on, nil); id.refused == nil || id.Principal.Valid() {
		t.Error("nobody is somebody")
	}
	if id := c.identify(on, ca.Certificate()); id.refused == nil {
		t.Error("a CA is a caller")
	}
	// The end of the certificate is looked at again at each call.
	clk.Advance(time.Hour + time.Second)
	if id := c.identify(on, leaf); id.refused == nil || id.Principal.Valid() {
		t.Error("I4: an expired certificate is remembered as valid")
	}
	clk.Advance(-time.Hour)
	if id := c.identify(on, leaf); id.refused != nil {
		t.Fatal(id.refused)
	}
}

// TestFilesAreReadAgainWhenTheyChange and a half-written pair does not end the
// service.
func TestFilesAreReadAgainWhenTheyChange(t *testing.T) {
	dir, ca := t.TempDir(), newCA(t, pki.ForNodes, time.Now())
	f := &fileCertificate{certPath: filepath.Join(dir, "c.pem"), keyPath: filepath.Join(dir, "k.pem")}
	if _, err := f.get(); !errs.Is(err, errs.InvalidConfig) {
		t.Fatalf("without files: %v", err)
	}
	at := time.Now()
	write := func(path string, b []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Second)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	pair := func() (cert, key []byte) {
		k := memberKey(t)
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued(t, ca, k, time.Now()).Chain[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	cert, key := pair()
	write(f.certPath, cert, 0o644)
	write(f.keyPath, key, 0o644)
	if _, err := f.get(); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "0644") {
		t.Fatalf("a key that others can read: %v", err)
	}
	write(f.keyPath, key, 0o600)
	first, err := f.get()
	if err != nil {
		t.Fatal(err)
	}
	if same, err := f.get(); err != nil || same != first {
		t.Fatal("read again without a change")
	}
	newCert, newKey := pair()
	write(f.certPath, newCert, 0o644) // the key is still the old one
	if got, err := f.get(); err != nil || got != first {
		t.Fatalf("half of a new pair: %v", err)
	}
	write(f.keyPath, newKey, 0o600)
	second, err := f.get()
	if err != nil || bytes.Equal(second.Certificate[0], first.Certificate[0]) {
		t.Fatalf("the new pair is not read: %v", err)
	}
	if err := os.Remove(f.certPath); err != nil {
		t.Fatal(err)
	}
	if got, err := f.get(); err != nil || got != second {
		t.Fatalf("between two files: %v", err)
	}
	s, _ := newStore(t, t.TempDir(), memberKey(t), f, clock.System{})
	if got, err := s.serve(nil); err != nil || got != second {
		t.Fatalf("mode files presents something else: %v", err)
	}
	if !s.due(&fsmpb.Member{}) {
		t.Error("in mode files the node asks for no certificate of its own, and no custodian can check its start key")
	}
}
