package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/rest"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

func expiredAMinuteAgo(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

// TestI8_OnlyExpiryIsForgiven: real handshakes with nodes that have expired, that
// have another fault, and that have both.
func TestI8_OnlyExpiryIsForgiven(t *testing.T) {
	t.Parallel()
	own, foreign := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	own.caller("carl", time.Now().Add(time.Hour), cert, key)
	both := func(fs ...func(*x509.Certificate)) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, f := range fs {
				f(c)
			}
		}
	}
	otherName := func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"n1.example"} }
	otherAddr := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} }
	forCallers := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	notYet := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}
	beforeItsCA := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-3*time.Hour), time.Now().Add(-2*time.Hour)
	}
	for name, tt := range map[string]struct {
		by     authority
		change func(*x509.Certificate)
		plain  string // situation without the option; "": it is let in
		told   bool   // with the option it is let in, and told of
	}{
		"good":                   {own, asIs, "", false},
		"expired":                {own, expiredAMinuteAgo, "identity/node-expired", true},
		"not yet valid":          {own, notYet, "identity/node-expired", false},
		"other CA":               {foreign, asIs, "identity/wrong-ca", false},
		"other CA, expired":      {foreign, expiredAMinuteAgo, "identity/node-expired", false},
		"other name":             {own, otherName, "identity/wrong-server-name", false},
		"other name, expired":    {own, both(otherName, expiredAMinuteAgo), "identity/node-expired", false},
		"other address, expired": {own, both(otherAddr, expiredAMinuteAgo), "identity/node-expired", false},
		"for callers":            {own, forCallers, "identity/not-a-node", false},
		"for callers, expired":   {own, both(forCallers, expiredAMinuteAgo), "identity/node-expired", false},
		"older than its CA":      {own, beforeItsCA, "identity/node-expired", false},
	} {
		for way, over := range map[string]bool{"gRPC": false, "HTTP/JSON": true} {
			t.Run(name+" over "+way, func(t *testing.T) {
				t.Parallel()
				d := &door{}
				opts := client.Options{CAFile: own.file, CertFile: cert, KeyFile: key}
				set := []func(*client.Options){nil}
				var addr string
				if over {
					addr = d.openHTTP(t, tt.by.server(tt.change))
					set = append(set, rest.Use())
				} else {
					addr = d.open(t, tt.by.server(tt.change))
				}
				opts.Addrs = []string{addr}
				set[0] = client.With(opts)
				err := whoami(t, connect(t, set...))
				if tt.plain != "" {
					if len(d.seen()) != 0 {
						t.Errorf("without the option the call arrived")
					}
					situationtest.Error(t, tt.plain, err)
				} else if err != nil {
					t.Error(err)
				}
				before := len(d.seen())
				var mu sync.Mutex
				told := map[string]*x509.Certificate{}
				err = whoami(t, connect(t, append(set, client.AcceptExpiredNodes(func(addr string, c *x509.Certificate) {
					mu.Lock()
					defer mu.Unlock()
					told[addr] = c
				}))...))
				mu.Lock()
				defer mu.Unlock()
				in := tt.plain == "" || tt.told
				if in != (err == nil) || in != (len(d.seen()) == before+1) {
					t.Errorf("with the option: %v, %d calls", err, len(d.seen())-before)
				}
				if !in && !errs.Is(err, errs.InvalidConfig) {
					t.Errorf("with the option: %v", err)
				}
				if c := told[addr]; (c != nil) != tt.told || c != nil && !c.NotAfter.Before(time.Now()) || !tt.told && len(told) != 0 {
					t.Errorf("told of %v", told)
				}
			})
		}
	}
}

// TestExpiredNodesAreAcceptedOnlyByACAFile: a TLS configuration of the caller's
// own decides by itself.
func TestExpiredNodesAreAcceptedOnlyByACAFile(t *testing.T) {
	t.Parallel()
	_, err := client.New(t.Context(), client.With(client.Options{Addrs: []string{"127.0.0.1:1"}, TLS: &tls.Config{MinVersion: tls.VersionTLS13}}),
		client.AcceptExpiredNodes(func(string, *x509.Certificate) {}))
	if !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("got %v", err)
	}
}

// TestI8_TheNameIsComparedForEveryFormOfAnAddress: an IP address is no server name in
// TLS, so that a check of the connection's alone would let any name pass.
func TestI8_TheNameIsComparedForEveryFormOfAnAddress(t *testing.T) {
	t.Parallel()
	own, dir := newAuthority(t), t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	own.caller("carl", time.Now().Add(time.Hour), cert, key)
	d := &door{}
	addr := d.open(t, own.server(func(c *x509.Certificate) {
		expiredAMinuteAgo(c)
		c.IPAddresses, c.DNSNames = nil, []string{"localhost"}
	}))
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	for host, in := range map[string]bool{"localhost": true, "LOCALHOST": true, "127.0.0.1": false} {
		c := connect(t, client.With(client.Options{Addrs: []string{net.JoinHostPort(host, port)}, CAFile: own.file, CertFile: cert, KeyFile: key}),
			client.AcceptExpiredNodes(func(string, *x509.Certificate) {}))
		if _, err := c.Access().WhoAmI(within(t, time.Minute), &kryptonv1.WhoAmIRequest{}); in != (err == nil) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if n := len(d.seen()); n != 2 {
		t.Errorf("%d calls arrived", n)
	}
}
