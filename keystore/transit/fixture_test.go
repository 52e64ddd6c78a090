//go:build unix

package transit_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/keystore/transit"
	"github.com/openkcm/krypton-cluster/memsec"
)

// vault is the one server of all tests here; each has mounts of its own.
var (
	vault    *vaultserver.Server
	errVault error
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "krypton-vault")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		vault, errVault = vaultserver.Start(context.Background(), vaultserver.Options{Dir: dir})
		if errVault == nil {
			errVault = vault.Mount(context.Background(), theMount)
		}
		if errVault == nil {
			errVault = vault.AuditHeader(context.Background(), transit.CorrelationHeader)
		}
		code := m.Run()
		if vault != nil {
			if err := vault.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		if err := goleak.Find(leaktest.Known()...); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}())
}

// theMount is where the tests' keys are. One engine for all of them: each makes
// an RSA key of 4096 bits for imports, which takes seconds.
const theMount = "customers/transit"

// bench is an identity that has the page's policy, for keys of its own.
type bench struct {
	n                 int64
	mount, auth, role string
	secretID          string
	dir               string
	front             *wire.HTTP
	proxy             *wire.Proxy
	keys              int
	ca                string
}

var number atomic.Int64

// newBench needs the server. It makes an approle method for one test, behind a
// wire that can be broken: the provider speaks TLS with a front, which carries
// requests to the server.
func newBench(tb testing.TB) *bench {
	tb.Helper()
	keystoretest.Require(tb, "Vault", vaultserver.Install, errVault)
	return newBenchAt(tb, theMount)
}

// name is the name of a key of this bench.
func (b *bench) name(i int) string { return fmt.Sprintf("acme-root-%d-%d", b.n, i) }

func newBenchAt(tb testing.TB, mount string) *bench {
	tb.Helper()
	n := number.Add(1)
	b := &bench{n: n, mount: mount, auth: fmt.Sprintf("approle-%d", n), role: fmt.Sprintf("krypton-%d", n), dir: tb.TempDir()}
	ctx := tb.Context()
	must(tb, vault.EnableAuth(ctx, b.auth, "approle"))
	b.setPolicy(tb, "acme-root")
	id, err := vault.AppRole(ctx, b.auth, "node", map[string]any{"token_policies": b.role, "token_no_default_policy": true, "token_ttl": "20m"})
	must(tb, err)
	b.write(tb, "role-id", id)
	b.newSecretID(tb)

	target, err := url.Parse(vault.URL)
	must(tb, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(vault.Clients.PEM())
	rt := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	b.front = wire.NewHTTP(wire.Forward(target, rt))
	server, err := wire.Serve(b.front, wire.Options{})
	must(tb, err)
	b.proxy, err = wire.NewProxy(server.Addr)
	must(tb, err)
	b.ca = b.write(tb, "ca.pem", string(server.CA))
	tb.Cleanup(func() {
		must(tb, b.proxy.Close())
		must(tb, server.Close())
		rt.CloseIdleConnections()
	})
	return b
}

// settings are those of the approle identity, over the wire that can be broken.
func (b *bench) settings(change map[string]string) map[string]string {
	s := map[string]string{
		"address": "https://" + b.proxy.Addr(), "mount": b.mount, "ca_file": b.ca, "auth": "approle", "auth_mount": b.auth,
		"role_id_file": filepath.Join(b.dir, "role-id"), "secret_id_file": filepath.Join(b.dir, "secret-id"),
	}
	maps.Copy(s, change)
	maps.DeleteFunc(s, func(_, v string) bool { return v == "" })
	return s
}

// as are the settings of another identity, straight to the server.
func (b *bench) as(id map[string]string) map[string]string {
	s := map[string]string{"address": vault.URL, "mount": b.mount, "ca_file": vault.CAFile}
	maps.Copy(s, id)
	return s
}

// open opens a provider that is closed with the test.
func open(tb testing.TB, env keystore.Env, settings map[string]string) *transit.Provider {
	tb.Helper()
	p, err := transit.New(tb.Context(), env, keystore.Config{Name: "bao", Type: transit.Type, Settings: settings})
	must(tb, err)
	tb.Cleanup(func() { must(tb, p.Close()) })
	return p.(*transit.Provider)
}

func testEnv() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
}

// newKey makes a key and lets the identity use it.
func (b *bench) newKey(tb testing.TB) keystore.KeyRef {
	tb.Helper()
	b.keys++
	name := b.name(b.keys)
	must(tb, vault.CreateKey(tb.Context(), b.mount, name, "aes256-gcm96"))
	b.grant(tb)
	return keystore.KeyRef(name)
}

// grant gives the identity the page's policies for every key of the bench and for the unknown one.
func (b *bench) grant(tb testing.TB, without ...string) {
	tb.Helper()
	names := []string{"acme-root", "never"}
	for i := range b.keys {
		names = append(names, b.name(i+1))
	}
	var all strings.Builder
	for _, name := range names {
		if !slices.Contains(without, name) {
			all.WriteString(b.policy(tb, name, "use"))
			if name != "never" {
				all.WriteString(b.policy(tb, name, "import"))
			}
		}
	}
	must(tb, vault.Policy(tb.Context(), b.role, all.String()))
}

// setPolicy gives the identity exactly the page's policy for one key.
func (b *bench) setPolicy(tb testing.TB, key string) {
	tb.Helper()
	must(tb, vault.Policy(tb.Context(), b.role, b.policy(tb, key, "use")))
}

// policy is the one of docs/keystores/transit.md, for this mount and a key.
func (b *bench) policy(tb testing.TB, key, name string) string {
	tb.Helper()
	page, err := os.ReadFile("../../docs/keystores/transit.md")
	must(tb, err)
	found := regexp.MustCompile("(?s)```hcl policy=" + name + "\n(.*?)```").FindSubmatch(page)
	if found == nil || !strings.Contains(string(found[1]), "acme-root") && name == "use" {
		tb.Fatalf("the page has no policy %q", name)
	}
	text := strings.ReplaceAll(string(found[1]), `"transit/`, `"`+b.mount+`/`)
	text = strings.ReplaceAll(text, "/acme-root/", "/"+key+"/")
	return strings.ReplaceAll(text, `/acme-root"`, "/"+key+`"`)
}

func (b *bench) newSecretID(tb testing.TB) {
	tb.Helper()
	var err error
	b.secretID, err = vault.SecretID(tb.Context(), b.auth, "node")
	must(tb, err)
	b.write(tb, "secret-id", b.secretID+"\n")
}

func (b *bench) write(tb testing.TB, name, text string) string {
	tb.Helper()
	path := filepath.Join(b.dir, name)
	must(tb, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

var theAAD = []byte("keyspace 1, tenant 7")

func wrap(tb testing.TB, p keystore.Provider, key keystore.KeyRef) (keystore.WrapResult, error) {
	tb.Helper()
	sec, err := memsec.Random(rand.Reader, 32, memsec.Hot)
	must(tb, err)
	defer sec.Destroy()
	return p.Wrap(tb.Context(), keystore.WrapRequest{Key: key, Secret: sec, AAD: theAAD})
}

func mustWrap(tb testing.TB, p keystore.Provider, key keystore.KeyRef) []byte {
	tb.Helper()
	res, err := wrap(tb, p, key)
	must(tb, err)
	return res.Blob
}

func unwrap(tb testing.TB, p keystore.Provider, key keystore.KeyRef, blob []byte) error {
	tb.Helper()
	res, err := p.Unwrap(tb.Context(), keystore.UnwrapRequest{Key: key, Blob: blob, AAD: theAAD, Class: memsec.Hot})
	res.Secret.Destroy()
	return err
}

func wantClass(tb testing.TB, err error, class keystore.Class, text string) {
	tb.Helper()
	if keystore.ClassOf(err) != class || err == nil || !strings.Contains(err.Error(), text) {
		tb.Fatalf("class %s, want %s with %q: %v", keystore.ClassOf(err), class, text, err)
	}
}

// fakeClock lets tokens grow old.
type fakeClock struct {
	clock.System

	ahead atomic.Int64
}

// Now implements clock.Clock.
func (c *fakeClock) Now() time.Time { return c.System.Now().Add(time.Duration(c.ahead.Load())) }
