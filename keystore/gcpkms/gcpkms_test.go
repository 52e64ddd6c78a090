package gcpkms_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"gopkg.in/yaml.v3"

	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/gcpkms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/gcpserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaktest.Known()...) }

// theName is what the provider is called in the configuration of the tests.
const theName = "eu-google"

// kmsVersion is that of the module whose generated interface the server has.
const kmsVersion = "cloud.google.com/go/kms v1.35.0"

// The custom roles of docs/keystores/gcpkms.md: the least that the provider
// needs on a key, and what an import needs there beside Google's role on the ring.
const (
	roleKrypton = "projects/" + gcpserver.Project + "/roles/kryptonKeyUser"
	roleImport  = "projects/" + gcpserver.Project + "/roles/kryptonKeyImporter"
)

// documented returns the permissions of a role as the page has them, so that
// what people copy from there is what every test of this package runs with.
func documented(t testing.TB, role string) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/keystores/gcpkms.md")
	check(t, err)
	_, rest, found := strings.Cut(string(page), "```yaml role="+path.Base(role)+"\n")
	text, _, closed := strings.Cut(rest, "```")
	var r struct {
		Title       string   `yaml:"title"`
		Permissions []string `yaml:"includedPermissions"`
	}
	if err := yaml.Unmarshal([]byte(text), &r); err != nil || !found || !closed || len(r.Permissions) == 0 {
		t.Fatalf("the page has no role %s: %v", role, err)
	}
	return r.Permissions
}

// setup is a running server with a proxy before its key service.
type setup struct {
	*gcpserver.Server

	proxy *wire.Proxy
	ca    string
	keys  atomic.Int64
}

func start(t testing.TB, opts gcpserver.Options) *setup {
	t.Helper()
	srv, err := gcpserver.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	proxy, err := wire.NewProxy(srv.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	ca, err := srv.WriteCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{roleKrypton, roleImport} {
		srv.DefineRole(role, documented(t, role)...)
	}
	return &setup{Server: srv, proxy: proxy, ca: ca}
}

// settings are those of a provider with the machine's own identity.
func (s *setup) settings(more ...string) map[string]string {
	m := map[string]string{
		"endpoint": s.proxy.Addr(), "auth": "metadata", "metadata_host": s.MetadataHost(), "ca_file": s.ca,
		"project": gcpserver.Project, "location": gcpserver.Location,
	}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
		if more[i+1] == "" {
			delete(m, more[i])
		}
	}
	return m
}

func (s *setup) open(t testing.TB, env keystore.Env, settings map[string]string) keystore.Provider {
	t.Helper()
	p, err := gcpkms.New(t.Context(), env, keystore.Config{Name: theName, Type: gcpkms.Type, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// newKey makes a key that the machine's account may use, and no more.
func (s *setup) newKey(t testing.TB) keystore.KeyRef {
	t.Helper()
	name, err := s.CreateKey(fmt.Sprintf("key-%d", s.keys.Add(1)), kmspb.ProtectionLevel_SOFTWARE)
	if err != nil {
		t.Fatal(err)
	}
	s.Grant(name, gcpserver.MachineAccount, roleKrypton)
	return keystore.KeyRef(name)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func heal(t *testing.T, fn func() error) func() {
	t.Helper()
	return func() { check(t, fn()) }
}

func (s *setup) fixture(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
	t.Helper()
	on := func(fn func(string) error) func(*testing.T, keystore.KeyRef) {
		return func(t *testing.T, key keystore.KeyRef) { t.Helper(); check(t, fn(string(key))) }
	}
	refuse := func(on bool) { s.Refuse(gcpserver.Metadata, on) }
	return keystoretest.Fixture{
		Provider:         s.open(t, env.Env, s.settings()),
		NewKey:           func(t *testing.T) keystore.KeyRef { t.Helper(); return s.newKey(t) },
		UnknownKey:       keystore.KeyRef(gcpserver.KeyName("never-was")),
		Disable:          on(s.Disable),
		Enable:           on(s.Enable),
		ScheduleDeletion: on(s.ScheduleDestruction),
		CancelDeletion:   on(func(key string) error { return errors.Join(s.CancelDestruction(key), s.Enable(key)) }),
		Delete:           on(s.Destroy),
		Rotate:           on(s.Rotate),
		Deny:             on(func(key string) error { s.Revoke(key, gcpserver.MachineAccount); return nil }),
		Away:             func(t *testing.T) func() { t.Helper(); return heal(t, s.proxy.Refuse()) },
		Cut:              func(t *testing.T) func() { t.Helper(); return heal(t, s.proxy.Cut(20)) },
		Hang:             func(t *testing.T) func() { t.Helper(); return heal(t, s.proxy.Hang()) },
		Slow:             func(t *testing.T, d time.Duration) func() { t.Helper(); return heal(t, s.proxy.Slow(d)) },
		Fail: func(*testing.T) func() {
			s.Answer("", status.Error(codes.Internal, "Internal error encountered."))
			return func() { s.Answer("", nil) }
		},
		Nonsense: func(*testing.T) func() { s.Nonsense(true); return func() { s.Nonsense(false) } },
		Throttle: func(*testing.T) func() { s.Throttle(true); return func() { s.Throttle(false) } },
		Revoke: func(*testing.T) func() {
			s.RevokeTokens()
			refuse(true)
			return func() { refuse(false) }
		},
		ExpireToken:   func(*testing.T) { s.RevokeTokens() },
		RefuseRefresh: func(*testing.T) func() { refuse(true); return func() { refuse(false) } },
		LoseIdentity: func(*testing.T) func() {
			s.Away(gcpserver.Metadata, true)
			return func() { s.Away(gcpserver.Metadata, false) }
		},
		Skew: func(_ *testing.T, d time.Duration) func() { s.Skew(d); return func() { s.Skew(0) } },
		NewImportKey: func(t *testing.T) keystore.KeyRef {
			t.Helper()
			return s.newImportKey(t)
		},
		Log: func(t *testing.T) []byte {
			t.Helper()
			b, err := json.Marshal(s.Records())
			check(t, err)
			return b
		},
		Peer: func(t *testing.T) keystore.Provider {
			t.Helper()
			p, err := gcpkms.New(t.Context(), env.Env, keystore.Config{Name: theName, Type: gcpkms.Type, Settings: s.settings()})
			check(t, err)
			return p
		},
	}
}

// newImportKey makes a key that waits for material, and lets the machine's
// account import it.
func (s *setup) newImportKey(t testing.TB) keystore.KeyRef {
	t.Helper()
	id := fmt.Sprintf("import-%d", s.keys.Add(1))
	_, err := s.CreateCryptoKey(context.Background(), &kmspb.CreateCryptoKeyRequest{
		Parent: gcpserver.KeyRing, CryptoKeyId: id, SkipInitialVersionCreation: true,
		CryptoKey: &kmspb.CryptoKey{Purpose: kmspb.CryptoKey_ENCRYPT_DECRYPT, ImportOnly: true},
	})
	check(t, err)
	key := gcpserver.KeyName(id)
	s.Grant(key, gcpserver.MachineAccount, roleKrypton)
	s.Grant(key, gcpserver.MachineAccount, roleImport)
	s.Grant(gcpserver.KeyRing, gcpserver.MachineAccount, gcpserver.RoleImporter)
	return keystore.KeyRef(key)
}

func TestConformance(t *testing.T) {
	keystoretest.Test(t, keystoretest.Config{
		Name: theName, Type: gcpkms.Type,
		Component: keystoretest.Component{Name: "gcpserver, our server of Google's generated interface", Version: kmsVersion, Origin: keystoretest.OwnFake},
		Create: func(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
			t.Helper()
			return start(t, gcpserver.Options{}).fixture(t, env)
		},
		Cannot: map[keystoretest.Ability]string{
			keystoretest.CanShowCalls: "Google gives no request id to callers of Cloud KMS; the way of our id into its log is TestOurIDStandsInGooglesLog",
		},
	})
}
