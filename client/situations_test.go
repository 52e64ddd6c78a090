package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// authority is a CA, its file, and what it signs for a node on 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return authority{t: t, cert: cert, key: key, file: file}
}

func (a authority) node(change func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, a.key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

// listen answers every connection with serve until the test ends.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serve(c)
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-ended })
	return ln.Addr().String()
}

// overTLS is a port that does a handshake and then says nothing.
func overTLS(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	if cfg.NextProtos == nil {
		cfg.NextProtos = []string{"h2"}
	}
	return listen(t, func(c net.Conn) {
		conn := tls.Server(c, cfg)
		_ = conn.Handshake() // the client says how it ended
		t.Cleanup(func() { _ = c.Close() })
	})
}

// plainHTTP is a port like that of operations.
func plainHTTP(t *testing.T) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.NotFoundHandler()}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-ended })
	return ln.Addr().String()
}

// soon is how long an answer that is known may take at most on a busy machine:
// far less than any deadline or patience of the client.
const soon = 5 * time.Second

// TestAConnectionThatCannotComeAboutIsExplainedAtOnce: reading and changing, with
// the deadline of a minute and no other patience.
func TestAConnectionThatCannotComeAboutIsExplainedAtOnce(t *testing.T) {
	t.Parallel()
	cluster := start(t)
	cert, key, err := cluster.Person("governor", "gabi")
	if err != nil {
		t.Fatal(err)
	}
	own := newAuthority(t)
	good := own.node(func(*x509.Certificate) {})
	for id, tt := range map[string]struct{ addr, ca string }{
		"identity/wrong-ca":            {cluster.Addrs()[0], own.file},
		"identity/wrong-server-name":   {overTLS(t, &tls.Config{Certificates: []tls.Certificate{own.node(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"n1.example"} })}}), own.file},
		"identity/node-expired":        {overTLS(t, &tls.Config{Certificates: []tls.Certificate{own.node(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}}), own.file},
		"identity/not-a-node":          {overTLS(t, &tls.Config{Certificates: []tls.Certificate{own.node(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}}), own.file},
		"identity/port-without-tls":    {plainHTTP(t), own.file},
		"identity/port-of-peers":       {overTLS(t, &tls.Config{Certificates: []tls.Certificate{good}, NextProtos: []string{"krypton-raft/1"}}), own.file},
		"identity/node-has-no-cluster": {overTLS(t, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}), own.file},
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			c, err := client.New(t.Context(), client.With(client.Options{Addrs: []string{tt.addr}, CAFile: tt.ca, CertFile: cert, KeyFile: key}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			begin := time.Now()
			_, err = c.Tenants().GetTenant(within(t, time.Minute), &kryptonv1.GetTenantRequest{Name: "tenants/demo"})
			situationtest.Error(t, id, err)
			_, err = c.Tenants().SuspendTenant(within(t, time.Minute), &kryptonv1.SuspendTenantRequest{Name: "tenants/demo"})
			situationtest.Error(t, id, err)
			if took := time.Since(begin); took > soon {
				t.Errorf("it took %v to say what was known", took)
			}
		})
	}
	// One odd node does not keep the client from the others.
	c, err := client.New(t.Context(), client.With(client.Options{Addrs: []string{plainHTTP(t), cluster.Addrs()[0]}, CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 10 {
		if _, err := c.Tenants().GetTenant(within(t, time.Minute), &kryptonv1.GetTenantRequest{Name: "tenants/demo"}); err != nil {
			t.Fatalf("one odd node of two: %v", err)
		}
	}
}

func TestFilesOfAnIdentityThatDoNotFitAreNamed(t *testing.T) {
	t.Parallel()
	cluster := start(t)
	cert, key, err := cluster.Person("governor", "gabi")
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := cluster.Person("governor", "otto")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(secret)
	for id, f := range map[string][3]string{
		"identity/ca-file-empty":       {junk, cert, key},
		"identity/ca-file-missing":     {filepath.Join(dir, "none"), cert, key},
		"identity/cert-file-missing":   {cluster.CAFile(), filepath.Join(dir, "none"), key},
		"identity/key-file-missing":    {cluster.CAFile(), cert, filepath.Join(dir, "none")},
		"identity/cert-file-empty":     {cluster.CAFile(), junk, key},
		"identity/key-file-empty":      {cluster.CAFile(), cert, junk},
		"identity/files-swapped":       {cluster.CAFile(), key, cert},
		"identity/key-of-another-cert": {cluster.CAFile(), cert, other},
	} {
		_, err := client.New(t.Context(), client.With(client.Options{Addrs: cluster.Addrs(), CAFile: f[0], CertFile: f[1], KeyFile: f[2]}))
		situationtest.Error(t, id, err, bytes.TrimSpace(secret), block.Bytes)
	}
}

// TestAChangeInDoubtIsNamedAndFoundOut: every answer to the change is lost, after
// it was made.
func TestAChangeInDoubtIsNamedAndFoundOut(t *testing.T) {
	t.Parallel()
	cluster := start(t)
	cert, key, err := cluster.Person("governor", "gabi")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context(), client.With(client.Options{Addrs: cluster.Addrs(), CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cluster.After(func(_ context.Context, _ int, method string, _ proto.Message) error {
		if strings.HasSuffix(method, "/SuspendTenant") {
			return status.Error(codes.Unavailable, "the leader is gone")
		}
		return nil
	})
	const id = "0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b"
	// One attempt at one node: with more of them the deadline of the call may come first.
	nd := c.Node(cluster.Addrs()[0])
	_, err = kryptonv1.NewTenantsClient(nd).SuspendTenant(within(t, time.Minute), &kryptonv1.SuspendTenantRequest{Name: "tenants/demo", RequestId: id})
	situationtest.Error(t, "cluster/change-in-doubt", err)
	if !strings.Contains(err.Error(), id) {
		t.Errorf("the request id is not in %v", err)
	}
	cluster.After(func(context.Context, int, string, proto.Message) error { return nil })
	op, err := c.Cluster().GetOperation(within(t, time.Minute), &kryptonv1.GetOperationRequest{Name: "operations/" + id})
	if err != nil || !op.GetDone() {
		t.Errorf("the operation is %v, %v", op, err)
	}
}
