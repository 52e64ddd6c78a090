package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/rest"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// shown is what one call showed of its caller.
type shown struct {
	Authorization []string
	Certificate   string // its common name; "" is none
}

// door is a node that asks for a certificate, takes any or none, and writes down
// who calls. Whether a caller is let in is for answer to say.
type door struct {
	kryptonv1.UnimplementedAccessServer

	mu     sync.Mutex
	calls  []shown
	answer func(n int, s shown) error // n counts from 1; nil: all are let in
}

func (d *door) take(s shown) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, s)
	if d.answer == nil {
		return nil
	}
	return d.answer(len(d.calls), s)
}

func (d *door) seen() []shown {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]shown(nil), d.calls...)
}

func commonName(state *tls.ConnectionState) string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return ""
	}
	return state.PeerCertificates[0].Subject.CommonName
}

// WhoAmI implements the API.
func (d *door) WhoAmI(ctx context.Context, _ *kryptonv1.WhoAmIRequest) (*kryptonv1.WhoAmIResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s := shown{Authorization: md.Get("authorization")}
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			s.Certificate = commonName(&info.State)
		}
	}
	if err := d.take(s); err != nil {
		return nil, wire.ToStatus(err).Err()
	}
	return &kryptonv1.WhoAmIResponse{Name: "caller"}, nil
}

// ServeHTTP implements the HTTP/JSON form of it.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Krypton-Node", "n1")
	w.Header().Set("Krypton-Correlation-Id", "c1")
	s := shown{Authorization: r.Header["Authorization"], Certificate: commonName(r.TLS)}
	if err := d.take(s); err != nil {
		e := errs.From(err)
		w.WriteHeader(e.Code.Row().HTTP)
		fmt.Fprintf(w, `{"error":{"code":%d,"reason":%q,"message":%q,"hint":%q,"retry":%q}}`, e.Code.Row().HTTP, e.Code, e.Msg, e.Hint, e.Code.Row().Retry)
		return
	}
	fmt.Fprint(w, `{"name":"caller"}`)
}

func (a authority) server(change func(*x509.Certificate)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.node(change)}, ClientAuth: tls.RequestClientCert}
}

func asIs(*x509.Certificate) {}

// open starts the door over gRPC.
func (d *door) open(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	return d.serve(t, grpc.Creds(credentials.NewTLS(cfg)))
}

func (d *door) serve(t *testing.T, creds grpc.ServerOption) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(creds)
	kryptonv1.RegisterAccessServer(srv, d)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	t.Cleanup(func() { srv.Stop(); <-ended })
	return ln.Addr().String()
}

// openHTTP starts the door over HTTP/JSON.
func (d *door) openHTTP(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(d)
	srv.TLS, srv.EnableHTTP2 = cfg, true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // handshakes that have to fail
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL
}

// caller writes the certificate and key of a caller.
func (a authority) caller(cn string, end time.Time, certFile, keyFile string) (certPEM, keyPEM []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: cn}, NotBefore: end.Add(-time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	write(a.t, certFile, certPEM)
	write(a.t, keyFile, keyPEM)
	return certPEM, keyPEM
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, set ...func(*client.Options)) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), set...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func whoami(t *testing.T, c *client.Client) error {
	t.Helper()
	_, err := c.Access().WhoAmI(within(t, time.Minute), &kryptonv1.WhoAmIRequest{})
	return err
}

// doors are the two ways in.
func doors(t *testing.T, d *door, cfg *tls.Config) map[string]func(*client.Options) {
	t.Helper()
	overGRPC, overHTTP := d.open(t, cfg.Clone()), d.openHTTP(t, cfg.Clone())
	return map[string]func(*client.Options){
		"gRPC":      func(o *client.Options) { o.Addrs = []string{overGRPC} },
		"HTTP/JSON": func(o *client.Options) { o.Addrs = []string{overHTTP}; rest.Use()(o) },
	}
}

// TestATokenIsShownWithEveryCall: without a certificate, over one long
// connection, while the file is replaced, emptied, half written and removed, and
// on a retry that comes after a replacement.
func TestATokenIsShownWithEveryCall(t *testing.T) {
	t.Parallel()
	own := newAuthority(t)
	for _, name := range []string{"gRPC", "HTTP/JSON"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &door{}
			file := filepath.Join(t.TempDir(), "token")
			write(t, file, []byte("eyJhbGciOiJSUzI1NiJ9.first.sig_-\n"))
			if err := os.Chmod(file, 0o644); err != nil { // as Kubernetes writes it
				t.Fatal(err)
			}
			retried := 0
			d.answer = func(n int, _ shown) error {
				if n == 5 {
					return errs.New(errs.NotServing, "no lease", errs.Hint("another node"))
				}
				return nil
			}
			c := connect(t, client.With(client.Options{CAFile: own.file, TokenFile: file, OnRetry: func(client.Retry) {
				retried++
				write(t, file, []byte("retry"))
			}}), doors(t, d, own.server(asIs))[name])
			for _, now := range []string{"", "second===", "", "third token\n", "fourth\r\n"} {
				if now != "" || retried > 0 || len(d.seen()) > 0 {
					write(t, file, []byte(now))
				}
				if err := whoami(t, c); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := whoami(t, c); err != nil {
				t.Fatal(err)
			}
			// Replaced as the kubelet does it: another file gets the name.
			write(t, file+"2", []byte("renamed"))
			if err := os.Rename(file+"2", file); err != nil {
				t.Fatal(err)
			}
			if err := whoami(t, c); err != nil {
				t.Fatal(err)
			}
			var want []shown
			for _, token := range []string{"eyJhbGciOiJSUzI1NiJ9.first.sig_-", "second===", "second===", "second===", "fourth", "retry", "retry", "renamed"} {
				want = append(want, shown{Authorization: []string{"Bearer " + token}})
			}
			if diff := cmp.Diff(want, d.seen()); diff != "" || retried != 1 {
				t.Errorf("%d retries; the calls showed (-want +got):\n%s", retried, diff)
			}
		})
	}
}

func TestACertificateIsShownBesideAToken(t *testing.T) {
	t.Parallel()
	own, dir := newAuthority(t), t.TempDir()
	cert, key, token := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key"), filepath.Join(dir, "token")
	own.caller("app", time.Now().Add(time.Hour), cert, key)
	write(t, token, []byte("tok"))
	d := &door{}
	for name, use := range doors(t, d, own.server(asIs)) {
		c := connect(t, client.With(client.Options{CAFile: own.file, CertFile: cert, KeyFile: key, TokenFile: token}), use)
		if err := whoami(t, c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s := d.seen(); s[len(s)-1].Certificate != "app" || strings.Join(s[len(s)-1].Authorization, ",") != "Bearer tok" {
			t.Errorf("%s: %v", name, s)
		}
		d.mu.Lock()
		d.answer = func(int, shown) error { return errs.New(errs.Unauthenticated, "not you", errs.Hint("ask")) }
		d.mu.Unlock()
		if err := whoami(t, c); !errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), "the token is in "+token) || strings.Contains(err.Error(), "tok;") {
			t.Errorf("%s: a token that is not accepted: %v", name, err)
		}
		d.mu.Lock()
		d.answer = nil
		d.mu.Unlock()
	}
}

// TestI7_ATokenIsNeverShownWithoutTLS: a transport of somebody else that speaks plain
// text gets no call through.
func TestI7_ATokenIsNeverShownWithoutTLS(t *testing.T) {
	t.Parallel()
	own := newAuthority(t)
	file := filepath.Join(t.TempDir(), "token")
	write(t, file, []byte("tok"))
	d := &door{}
	addr := d.serve(t, grpc.Creds(insecure.NewCredentials()))
	c := connect(t, client.With(client.Options{Addrs: []string{addr}, CAFile: own.file, TokenFile: file, Transport: plainText{}}))
	if err := whoami(t, c); err == nil || strings.Contains(err.Error(), "tok ") {
		t.Errorf("a call over plain text: %v", err)
	}
	if s := d.seen(); len(s) != 0 {
		t.Errorf("it arrived: %v", s)
	}
}

type plainText struct{}

func (plainText) Check(string) error { return nil }

func (plainText) Dial(addr string, _ *tls.Config) (client.Conn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// TestAFileWithoutATokenIsRefused, before anything is sent, and without a word of
// what is in it.
func TestAFileWithoutATokenIsRefused(t *testing.T) {
	t.Parallel()
	own, dir := newAuthority(t), t.TempDir()
	const secret = "s3cretPart"
	for text, id := range map[string]string{
		"":                                       "identity/token-file-empty",
		"\n":                                     "identity/token-file-empty",
		secret + "\n\n":                          "identity/token-file-malformed",
		secret + " ":                             "identity/token-file-malformed",
		" " + secret:                             "identity/token-file-malformed",
		secret + "\nmore":                        "identity/token-file-malformed",
		secret + "\x00":                          "identity/token-file-malformed",
		secret + "\t":                            "identity/token-file-malformed",
		secret + "\r":                            "identity/token-file-malformed",
		"Bearer " + secret:                       "identity/token-file-malformed",
		secret + "é":                             "identity/token-file-malformed",
		`{"token":"` + secret + `"}`:             "identity/token-file-malformed",
		"a=" + secret:                            "identity/token-file-malformed",
		"===":                                    "identity/token-file-malformed",
		strings.Repeat("x", 8<<10) + secret:      "identity/token-file-large",
		strings.Repeat("x", 8<<10) + "y\n":       "identity/token-file-large",
		strings.Repeat(secret+"\n", 1_000_000/8): "identity/token-file-large",
	} {
		file := filepath.Join(dir, "token")
		write(t, file, []byte(text))
		_, err := client.New(t.Context(), client.With(client.Options{Addrs: []string{"127.0.0.1:1"}, CAFile: own.file, TokenFile: file}))
		situationtest.Error(t, id, err, []byte(secret))
	}
	_, err := client.New(t.Context(), client.With(client.Options{Addrs: []string{"127.0.0.1:1"}, CAFile: own.file, TokenFile: filepath.Join(dir, "none")}))
	situationtest.Error(t, "identity/token-file-missing", err)
	_, err = client.New(t.Context(), client.With(client.Options{Addrs: []string{"127.0.0.1:1"}, TokenFile: filepath.Join(dir, "token")}))
	situationtest.Error(t, "identity/no-ca-file", err)
	_, err = client.New(t.Context(), client.With(client.Options{Addrs: []string{"127.0.0.1:1"}, CAFile: own.file}))
	situationtest.Error(t, "identity/nothing-to-show", err)
	_, err = client.New(t.Context(), client.With(client.Options{Addrs: []string{"127.0.0.1:1"}, CAFile: own.file, CertFile: "c", TokenFile: "t"}))
	situationtest.Error(t, "identity/nothing-to-show", err)
	// The largest one is taken, with the newline behind it.
	file := filepath.Join(dir, "token")
	for _, end := range []string{"", "\n", "\r\n"} {
		write(t, file, []byte(strings.Repeat("x", client.MaxTokenBytes)+end))
		if _, err := client.New(t.Context(), client.With(client.Options{Addrs: []string{"127.0.0.1:1"}, CAFile: own.file, TokenFile: file})); err != nil {
			t.Errorf("the largest token, with %q: %v", end, err)
		}
	}
}

// TestI7_ATokenIsInNoText prints all that a program could print.
func TestI7_ATokenIsInNoText(t *testing.T) {
	t.Parallel()
	own := newAuthority(t)
	file := filepath.Join(t.TempDir(), "token")
	const secret = "v3ryS3cret"
	write(t, file, []byte(secret))
	d := &door{answer: func(int, shown) error { return errs.New(errs.Unauthenticated, "not you", errs.Hint("ask")) }}
	var texts []string
	for _, use := range doors(t, d, own.server(asIs)) {
		opts := client.Options{CAFile: own.file, TokenFile: file, OnRetry: func(r client.Retry) { texts = append(texts, fmt.Sprintf("%+v", r)) }}
		c := connect(t, client.With(opts), use)
		var info client.Info
		_, err := c.Access().WhoAmI(within(t, time.Minute), &kryptonv1.WhoAmIRequest{}, client.Capture(&info))
		for _, v := range []any{c, opts, info, err, errs.From(err)} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
				texts = append(texts, fmt.Sprintf(verb, v))
			}
		}
	}
	if len(d.seen()) != 2 {
		t.Fatalf("%d calls arrived", len(d.seen()))
	}
	for _, text := range texts {
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("the token is in %.300q", text)
		}
	}
}

// TestAnIdentityInCodeGoesBeforeATokenOfTheEnvironment, which would decide who
// asks.
func TestAnIdentityInCodeGoesBeforeATokenOfTheEnvironment(t *testing.T) {
	own, dir := newAuthority(t), t.TempDir()
	cert, key, token, other := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key"), filepath.Join(dir, "token"), filepath.Join(dir, "other")
	own.caller("app", time.Now().Add(time.Hour), cert, key)
	write(t, token, []byte("tok"))
	write(t, other, []byte("other"))
	d := &door{}
	addr := d.open(t, own.server(asIs))
	pool := x509.NewCertPool()
	pool.AddCert(own.cert)
	for name, tt := range map[string]struct {
		env  map[string]string
		set  func(*client.Options)
		want shown
	}{
		"token of the environment": {map[string]string{"KRYPTON_TOKEN_FILE": token}, func(*client.Options) {}, shown{[]string{"Bearer tok"}, ""}},
		"both of the environment":  {map[string]string{"KRYPTON_TOKEN_FILE": token, "KRYPTON_CERT_FILE": cert, "KRYPTON_KEY_FILE": key}, func(*client.Options) {}, shown{[]string{"Bearer tok"}, "app"}},
		"certificate in code":      {map[string]string{"KRYPTON_TOKEN_FILE": token}, func(o *client.Options) { o.CertFile, o.KeyFile = cert, key }, shown{nil, "app"}},
		"TLS in code":              {map[string]string{"KRYPTON_TOKEN_FILE": token}, func(o *client.Options) { o.TLS = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool} }, shown{}},
		"TLS and a token in code": {map[string]string{"KRYPTON_TOKEN_FILE": token}, func(o *client.Options) {
			o.TLS, o.TokenFile = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}, other
		}, shown{[]string{"Bearer other"}, ""}},
		"another token in code":     {map[string]string{"KRYPTON_TOKEN_FILE": token}, func(o *client.Options) { o.TokenFile = other }, shown{[]string{"Bearer other"}, ""}},
		"certificate, code's token": {map[string]string{"KRYPTON_CERT_FILE": cert, "KRYPTON_KEY_FILE": key}, func(o *client.Options) { o.TokenFile = other }, shown{[]string{"Bearer other"}, "app"}},
	} {
		tt.env["KRYPTON_ADDR"], tt.env["KRYPTON_CA_FILE"] = addr, own.file
		environ(t, tt.env)
		if err := whoami(t, connect(t, tt.set)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s := d.seen()
		if diff := cmp.Diff(tt.want, s[len(s)-1]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestANewCertificateNeedsNoRestart: an expired certificate is shown, because what
// it is good for is the node's to say; what is written to the files is shown by
// the next connection, and what is half written is not.
func TestANewCertificateNeedsNoRestart(t *testing.T) {
	t.Parallel()
	own := newAuthority(t)
	for _, name := range []string{"gRPC", "HTTP/JSON"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, dir := &door{}, t.TempDir()
			cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
			oldCert, oldKey := own.caller("old", time.Now().Add(-time.Hour), cert, key)
			c := connect(t, client.With(client.Options{CAFile: own.file, CertFile: cert, KeyFile: key}), doors(t, d, own.server(asIs))[name])
			// A door of its own is a connection of its own.
			shows := func(want, when string) {
				t.Helper()
				var o client.Options
				doors(t, d, own.server(asIs))[name](&o)
				nd := c.Node(o.Addrs[0])
				defer nd.Close()
				if _, err := kryptonv1.NewAccessClient(nd).WhoAmI(within(t, time.Minute), &kryptonv1.WhoAmIRequest{}); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				if s := d.seen(); s[len(s)-1].Certificate != want {
					t.Errorf("%s: shown was %q, not %q", when, s[len(s)-1].Certificate, want)
				}
			}
			shows("old", "an expired certificate")
			newCert, newKey := own.caller("new", time.Now().Add(time.Hour), cert, key)
			shows("new", "a renewed certificate")
			for when, half := range map[string][2][]byte{
				"a new certificate without its key": {oldCert, newKey},
				"a key without its certificate":     {newCert, oldKey},
				"half a certificate":                {newCert[:len(newCert)/2], newKey},
				"half a key":                        {newCert, newKey[:len(newKey)/2]},
				"empty files":                       {nil, nil},
			} {
				write(t, cert, half[0])
				write(t, key, half[1])
				shows("new", when)
			}
			if err := os.Remove(cert); err != nil {
				t.Fatal(err)
			}
			shows("new", "no certificate")
			write(t, cert, oldCert)
			write(t, key, oldKey)
			shows("old", "another pair")
		})
	}
}

// TestARefusedCertificateIsNotShownForTheLifeOfAConnection: who renews it after
// it has expired is not refused until the connection ends.
func TestARefusedCertificateIsNotShownForTheLifeOfAConnection(t *testing.T) {
	t.Parallel()
	own, dir := newAuthority(t), t.TempDir()
	for name, use := range map[string]string{"g": "gRPC", "h": "HTTP/JSON"} {
		d := &door{answer: func(_ int, s shown) error {
			if s.Certificate == "old" {
				return errs.New(errs.Unauthenticated, "it has expired", errs.Hint("renew it"))
			}
			return nil
		}}
		cert, key := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
		own.caller("old", time.Now().Add(-time.Hour), cert, key)
		c := connect(t, client.With(client.Options{CAFile: own.file, CertFile: cert, KeyFile: key}), doors(t, d, own.server(asIs))[use])
		if err := whoami(t, c); !errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), "the certificate is in "+cert) {
			t.Fatalf("%s: an expired certificate: %v", use, err)
		}
		own.caller("new", time.Now().Add(time.Hour), cert, key)
		if err := whoami(t, c); err != nil {
			t.Errorf("%s: after it was renewed: %v", use, err)
		}
	}
}
