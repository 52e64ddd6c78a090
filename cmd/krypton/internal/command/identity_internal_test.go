package command

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client/contexts"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// ca signs for a node on 127.0.0.1, and for callers.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) ca {
	t.Helper()
	c := ca{t: t}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	c.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-100 * 24 * time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	c.cert = c.sign(c.cert, c.key.Public())
	return c
}

func (c ca) sign(tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	c.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, pub, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

func (c ca) node(id string, from, to time.Time, usage x509.ExtKeyUsage) *x509.Certificate {
	c.t.Helper()
	return c.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "test", Path: "/krypton/node/" + id}},
	}, c.key.Public())
}

func (c ca) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

func (c ca) file(name, typ string, der []byte) string {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// greeter says to nobody who they are, and writes down what they showed.
type greeter struct {
	kryptonv1.UnimplementedAccessServer

	mu   sync.Mutex
	last string
}

func (g *greeter) WhoAmI(ctx context.Context, _ *kryptonv1.WhoAmIRequest) (*kryptonv1.WhoAmIResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	said := strings.Join(md.Get("authorization"), "|")
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			for _, c := range info.State.PeerCertificates {
				said += " " + c.Subject.CommonName
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = strings.TrimSpace(said)
	return &kryptonv1.WhoAmIResponse{Name: "x"}, nil
}

// TestI6_WhatIsNamedMostDirectlySaysWhoAsks: a token of the environment or of the
// context does not overrule a certificate that was named more directly.
func TestI6_WhatIsNamedMostDirectlySaysWhoAsks(t *testing.T) {
	t.Parallel()
	own, dir := newCA(t), t.TempDir()
	now := time.Now()
	node := own.node("n1", now.Add(-time.Hour), now.Add(time.Hour), x509.ExtKeyUsageServerAuth)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &greeter{}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{{Certificate: [][]byte{node.Raw}, PrivateKey: own.key}},
	})))
	kryptonv1.RegisterAccessServer(srv, g)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-ended })

	caFile := own.file("ca.pem", "CERTIFICATE", own.cert.Raw)
	secret, err := x509.MarshalPKCS8PrivateKey(own.key)
	if err != nil {
		t.Fatal(err)
	}
	key := own.file("c.key", "PRIVATE KEY", secret)
	caller := own.sign(&x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "cert"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}, own.key.Public())
	cert := own.file("c.pem", "CERTIFICATE", caller.Raw)
	token := func(text string) string {
		path := filepath.Join(dir, text)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flag, env, inContext := token("flag"), token("env"), token("context")

	path, err := contexts.Path(func(string) string { return dir })
	if err != nil {
		t.Fatal(err)
	}
	f, err := contexts.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	base := contexts.Context{Addr: []string{ln.Addr().String()}, CAFile: caFile}
	withToken, withCert, withBoth := base, base, base
	withToken.TokenFile = inContext
	withCert.CertFile, withCert.KeyFile = cert, key
	withBoth.TokenFile, withBoth.CertFile, withBoth.KeyFile = inContext, cert, key
	f.Contexts = map[string]contexts.Context{"none": base, "token": withToken, "cert": withCert, "both": withBoth}
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	certFlags := []string{"--cert-file", cert, "--key-file", key}
	certEnv := map[string]string{"KRYPTON_CERT_FILE": cert, "KRYPTON_KEY_FILE": key}
	tokenEnv := map[string]string{"KRYPTON_TOKEN_FILE": env}
	for name, tt := range map[string]struct {
		args    []string
		env     map[string]string
		context string
		want    string
	}{
		"flag":                                {[]string{"--token-file", flag}, nil, "none", "Bearer flag"},
		"environment":                         {nil, tokenEnv, "none", "Bearer env"},
		"context":                             {nil, nil, "token", "Bearer context"},
		"flag, environment, context":          {[]string{"--token-file", flag}, tokenEnv, "token", "Bearer flag"},
		"environment, context":                {nil, tokenEnv, "token", "Bearer env"},
		"both in the context":                 {nil, nil, "both", "Bearer context cert"},
		"certificate by flag, token by env":   {certFlags, tokenEnv, "none", "cert"},
		"certificate by flag, token, context": {certFlags, nil, "token", "cert"},
		"certificate by env, token, context":  {nil, certEnv, "token", "cert"},
		"token by env, certificate, context":  {nil, tokenEnv, "cert", "Bearer env cert"},
		"both by flag":                        {append([]string{"--token-file", flag}, certFlags...), tokenEnv, "both", "Bearer flag cert"},
		"the token is taken away":             {[]string{"--token-file="}, tokenEnv, "cert", "cert"},
	} {
		g.mu.Lock()
		g.last = "nobody called"
		g.mu.Unlock()
		stdout, stderr, status := runIn(t, dir, tt.env, append([]string{"whoami", "--context", tt.context}, tt.args...)...)
		g.mu.Lock()
		got := g.last
		g.mu.Unlock()
		if status != 0 || got != tt.want || !strings.Contains(stdout, "x") {
			t.Errorf("%s: status %d, shown was %q, want %q; %s", name, status, got, tt.want, stderr)
		}
	}
	for name, args := range map[string][]string{
		"nothing":                {"--context", "none"},
		"a key alone":            {"--context", "token", "--key-file", key},
		"a certificate, a token": {"--context", "none", "--cert-file", cert, "--token-file", flag},
	} {
		_, stderr, status := runIn(t, dir, nil, append([]string{"whoami"}, args...)...)
		if status != errs.ExitUsage || !strings.Contains(stderr, "no identity is given; give --ca-file, and --cert-file with --key-file, or --token-file") {
			t.Errorf("%s: status %d, %s", name, status, stderr)
		}
	}
}

// runIn runs a command line with an environment and a directory for contexts.
func runIn(t *testing.T, dir string, vars map[string]string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	open := func() *os.File {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	out, bad, in := open(), open(), open()
	e := &Env{Stdin: in, Stdout: out, Stderr: bad, Clock: clock.System{}, Version: "test", cleanup: map[int]func(){}, Getenv: func(k string) string {
		if k == "XDG_CONFIG_HOME" {
			return dir
		}
		return vars[k]
	}}
	status = e.main(Tree(), args)
	text := func(f *os.File) string {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return text(out), text(bad), status
}

// TestTheCertificateBesideAKeyForSharesIsForgivenOnlyItsAge: with tls.mode files it
// is another one than that of the connection.
func TestTheCertificateBesideAKeyForSharesIsForgivenOnlyItsAge(t *testing.T) {
	t.Parallel()
	own, foreign := newCA(t), newCA(t)
	now := time.Now()
	day := 24 * time.Hour
	old := own.node("n1", now.Add(-60*day), now.Add(-30*day), x509.ExtKeyUsageServerAuth)
	status := func(c *x509.Certificate) *kryptonv1.SealStatus {
		return &kryptonv1.SealStatus{NodeId: "n1", NodeName: "n1", NodeCertificate: c.Raw, Fingerprint: strings.Repeat("ab", 32)}
	}
	_, _, err := verifyOffer(status(old), "n1:8400", own.pool(), now, nil)
	situationtest.Error(t, "identity/sealed-node-shows-expired", err)

	all := newExpiredNodes()
	if _, key, err := verifyOffer(status(old), "n1:8400", own.pool(), now, all); err != nil || key == nil {
		t.Fatalf("an expired one with the flag: %v", err)
	}
	if c := all.untold("n1:8400"); c == nil || !c.Equal(old) || all.untold("n1:8400") != nil {
		t.Error("it has to be told of once")
	}
	for name, tt := range map[string]struct {
		cert *x509.Certificate
		says string
	}{
		"foreign CA":    {foreign.node("n1", now.Add(-60*day), now.Add(-30*day), x509.ExtKeyUsageServerAuth), "is not of the cluster's CA"},
		"for callers":   {own.node("n1", now.Add(-60*day), now.Add(-30*day), x509.ExtKeyUsageClientAuth), "is not of the cluster's CA"},
		"not yet valid": {own.node("n1", now.Add(time.Minute), now.Add(time.Hour), x509.ExtKeyUsageServerAuth), "is not of the cluster's CA"},
		"before the CA": {own.node("n1", now.Add(-300*day), now.Add(-200*day), x509.ExtKeyUsageServerAuth), "is not of the cluster's CA"},
		"another node":  {own.node("n2", now.Add(-60*day), now.Add(-30*day), x509.ExtKeyUsageServerAuth), "names another node"},
	} {
		all := newExpiredNodes()
		_, _, err := verifyOffer(status(tt.cert), "n1:8400", own.pool(), now, all)
		if !errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "no share was sent") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDoctorKnowsCallersWithoutACertificate: when a token ends is the node's to say.
func TestDoctorKnowsCallersWithoutACertificate(t *testing.T) {
	t.Parallel()
	f := wellFacts()
	f.leaf = nil
	if got := checkIdentity(*f); got.verdict != fine("").verdict || got.says != "you are operator olga, by your token" {
		t.Errorf("%+v", got)
	}
	f.meErr = errs.New(errs.Unauthenticated, "the token has expired", errs.Hint("get another"))
	if got := checkIdentity(*f); got.verdict != failure || got.says != "the token has expired" {
		t.Errorf("%+v", got)
	}
}
