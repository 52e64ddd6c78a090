package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// environ sets the variables that New reads; those that are not given are empty.
func environ(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, name := range []string{"KRYPTON_ADDR", "KRYPTON_CA_FILE", "KRYPTON_CERT_FILE", "KRYPTON_KEY_FILE", "KRYPTON_TOKEN_FILE", "KRYPTON_CONTEXT"} {
		t.Setenv(name, vars[name])
	}
}

// ofWorkload is the environment of a workload of tenants/demo.
func ofWorkload(t *testing.T, cluster *clienttest.Cluster) map[string]string {
	t.Helper()
	cert, key, err := cluster.Workload("demo", "app")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"KRYPTON_ADDR": " " + strings.Join(cluster.Addrs(), " , ") + ",", "KRYPTON_CA_FILE": cluster.CAFile(), "KRYPTON_CERT_FILE": cert, "KRYPTON_KEY_FILE": key,
	}
}

func works(t *testing.T, set ...func(*client.Options)) error {
	t.Helper()
	c, err := client.New(t.Context(), set...)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.GenerateDataKey(t.Context(), payments, 0)
	return err
}

func TestTheEnvironmentIsEnough(t *testing.T) {
	cluster := start(t)
	env := ofWorkload(t, cluster)
	env["KRYPTON_ADDR"] += cluster.Addrs()[0] // a second time, which is no second node
	environ(t, env)
	if err := works(t); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if diff := cmp.Diff(cluster.Addrs(), c.Addrs()); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestCodeGoesBeforeTheEnvironment(t *testing.T) {
	cluster := start(t)
	env := ofWorkload(t, cluster)
	cert, err := tls.LoadX509KeyPair(env["KRYPTON_CERT_FILE"], env["KRYPTON_KEY_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(cluster.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	identity := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{cert}}
	inCode := func(o *client.Options) { o.Addrs, o.TLS = cluster.Addrs(), identity }

	environ(t, map[string]string{"KRYPTON_ADDR": "127.0.0.1:1", "KRYPTON_CA_FILE": "none", "KRYPTON_CERT_FILE": "none", "KRYPTON_KEY_FILE": "none", "KRYPTON_CONTEXT": "none"})
	if err := works(t, inCode); err != nil {
		t.Errorf("addresses and TLS in code: %v", err)
	}
	if err := works(t, client.With(client.Options{Addrs: cluster.Addrs(), TLS: identity})); err != nil {
		t.Errorf("all options in code: %v", err)
	}
	if err := works(t, inCode, func(o *client.Options) { o.CAFile = cluster.CAFile() }); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "both TLS and certificate files") {
		t.Errorf("TLS and a file in code: %v", err)
	}
	if err := works(t, func(o *client.Options) {
		o.Addrs, o.CAFile, o.CertFile, o.KeyFile = cluster.Addrs(), env["KRYPTON_CA_FILE"], env["KRYPTON_CERT_FILE"], env["KRYPTON_KEY_FILE"]
	}); err != nil {
		t.Errorf("files in code: %v", err)
	}
	// Behind With the environment is not asked, not even for what is missing.
	environ(t, env)
	if err := works(t, client.With(client.Options{Addrs: cluster.Addrs()})); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "no TLS identity") {
		t.Errorf("With and no identity: %v", err)
	}
}

// TestEveryErrorOfNewSaysWhatToDo reads every message as somebody who sees it
// for the first time.
func TestEveryErrorOfNewSaysWhatToDo(t *testing.T) {
	cluster := start(t)
	env := ofWorkload(t, cluster)
	junk := t.TempDir() + "/junk"
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change map[string]string
		says   []string
	}{
		"no address":          {map[string]string{"KRYPTON_ADDR": ""}, []string{"no address", "KRYPTON_ADDR"}},
		"only commas":         {map[string]string{"KRYPTON_ADDR": ", ,"}, []string{"no address", "KRYPTON_ADDR"}},
		"context, no address": {map[string]string{"KRYPTON_ADDR": "", "KRYPTON_CONTEXT": "prod"}, []string{"KRYPTON_CONTEXT", `contexts.Use("")`}},
		"context, no files":   {map[string]string{"KRYPTON_KEY_FILE": "", "KRYPTON_CONTEXT": "prod"}, []string{"KRYPTON_CONTEXT", `contexts.Use("")`}},
		"no identity":         {map[string]string{"KRYPTON_CERT_FILE": ""}, []string{"no TLS identity", "KRYPTON_CERT_FILE"}},
		"https":               {map[string]string{"KRYPTON_ADDR": "https://n1:8401"}, []string{"HTTP/JSON", "rest.Use()"}},
		"another scheme":      {map[string]string{"KRYPTON_ADDR": "tcp://n1:8400"}, []string{"scheme", "host:port"}},
		"no port":             {map[string]string{"KRYPTON_ADDR": "n1:8400,n2"}, []string{"host:port", "8400"}},
		"a socket":            {map[string]string{"KRYPTON_ADDR": "/run/krypton.sock"}, []string{"host:port"}},
		"IPv6 without []":     {map[string]string{"KRYPTON_ADDR": "::1:8400"}, []string{"[::1]:8400"}},
		"spaces between":      {map[string]string{"KRYPTON_ADDR": "n1:8400 n2:8400"}, []string{"host:port"}},
		"no CA file":          {map[string]string{"KRYPTON_CA_FILE": junk + "none"}, []string{"no such file", "KRYPTON_CA_FILE"}},
		"no CA in the file":   {map[string]string{"KRYPTON_CA_FILE": junk}, []string{"holds no certificate", "PEM"}},
		"no key in the file":  {map[string]string{"KRYPTON_KEY_FILE": junk}, []string{"key file", "holds no private key"}},
	} {
		t.Run(name, func(t *testing.T) {
			vars := maps.Clone(env)
			maps.Copy(vars, tt.change)
			environ(t, vars)
			_, err := client.New(t.Context())
			if !errs.Is(err, errs.InvalidConfig) || errs.From(err).Hint == "" {
				t.Fatalf("got %v", err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
}

// TestTheFirstFailureOfASettingIsReported covers functions that cannot change
// the options.
func TestTheFirstFailureOfASettingIsReported(t *testing.T) {
	fail := func(msg string) func(*client.Options) {
		return func(o *client.Options) { o.Fail(errs.New(errs.InvalidConfig, msg)) }
	}
	environ(t, nil)
	if _, err := client.New(t.Context(), fail("first"), fail("second")); !errs.Is(err, errs.InvalidConfig) || err.Error() != "first" {
		t.Errorf("got %v", err)
	}
}
