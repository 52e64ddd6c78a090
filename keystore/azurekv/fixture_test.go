//go:build !noazurekv

package azurekv_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/azurekv"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaktest.Known()...) }

const (
	providerName = "eu-vault"
	subject      = "system:serviceaccount:krypton:node"
	kekName      = "transfer-kek"
	rsaBits      = 2048
)

var aad = []byte("keyspace 1, tenant 7")

// bench is a server with one identity and what a node's configuration of it is.
type bench struct {
	testing.TB
	*azureserver.Server

	id       *azureserver.Identity
	settings map[string]string
	token    string // path of the federated token
	keys     atomic.Int32
}

func start(t testing.TB, flavour azureserver.Flavour) *bench {
	t.Helper()
	srv, err := azureserver.Start(t.Context(), azureserver.Options{Flavour: flavour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("close the server: %v", err)
		}
	})
	b := &bench{TB: t, Server: srv, id: srv.AddWorkload(subject)}
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	b.token = filepath.Join(dir, "token")
	b.write(ca, srv.CA())
	b.renewToken(time.Hour)
	b.settings = map[string]string{
		"vault": srv.VaultURL(), "auth": "workload", "tenant_id": srv.Tenant(), "client_id": b.id.ClientID, "token_file": b.token,
		"authority": srv.AuthorityURL(), "ca_file": ca, "challenge_resource": "unverified", "import_kek": kekName,
	}
	return b
}

func (b *bench) write(path string, data []byte) {
	b.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
}

// renewToken puts a new token of the Kubernetes cluster into the file.
func (b *bench) renewToken(valid time.Duration) {
	b.Helper()
	tok, err := b.FederatedToken(b.id, valid)
	if err != nil {
		b.Fatal(err)
	}
	b.write(b.token, []byte(tok+"\n"))
}

// with returns the settings with changes; an empty value removes one.
func (b *bench) with(change map[string]string) map[string]string {
	out := make(map[string]string)
	for _, m := range []map[string]string{b.settings, change} {
		for k, v := range m {
			out[k] = v
			if v == "" {
				delete(out, k)
			}
		}
	}
	return out
}

func testEnv() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
}

func (b *bench) open(settings map[string]string) keystore.Provider {
	return b.openWith(testEnv(), settings)
}

func (b *bench) openWith(env keystore.Env, settings map[string]string) keystore.Provider {
	b.Helper()
	p, err := azurekv.New(b.Context(), env, keystore.Config{Name: providerName, Type: azurekv.Type, Settings: settings})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := p.Close(); err != nil {
			b.Errorf("close: %v", err)
		}
	})
	return p
}

// newKey makes a key of the flavour's kind with exactly the documented role on
// it, and nothing on the rest of the vault.
func (b *bench) newKey() keystore.KeyRef {
	b.Helper()
	name := fmt.Sprintf("tenant-%d", b.keys.Add(1))
	b.create(name)
	b.Assign(b.id, b.EncryptionUser(), name)
	return keystore.KeyRef(name)
}

func (b *bench) create(name string) {
	b.Helper()
	var err error
	if b.Flavour() == azureserver.ManagedHSM {
		err = b.CreateAES(name)
	} else {
		err = b.CreateRSA(name, rsaBits)
	}
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) secret() memsec.Secret {
	b.Helper()
	s, err := memsec.Random(rand.Reader, 32, memsec.Hot)
	b.must(err)
	b.Cleanup(s.Destroy)
	return s
}

func (b *bench) correlation() corr.ID {
	b.Helper()
	id, err := corr.New(rand.Reader)
	b.must(err)
	return id
}

func (b *bench) wrap(p keystore.Provider, key keystore.KeyRef, s memsec.Secret) (keystore.WrapResult, error) {
	b.Helper()
	return p.Wrap(b.Context(), keystore.WrapRequest{Key: key, Secret: s, AAD: aad, Correlation: b.correlation()})
}

// unwrap opens a blob and fails unless what comes out is want.
func (b *bench) unwrap(p keystore.Provider, key keystore.KeyRef, blob []byte, want memsec.Secret) error {
	b.Helper()
	res, err := p.Unwrap(b.Context(), keystore.UnwrapRequest{Key: key, Blob: blob, AAD: aad, Class: memsec.Hot, Correlation: b.correlation()})
	if err != nil {
		return err
	}
	defer res.Secret.Destroy()
	if same, err := memsec.Equal(res.Secret, want); err != nil || !same {
		b.Errorf("another secret came back (%v)", err)
	}
	return nil
}

// good wraps and unwraps, and returns the blob.
func (b *bench) good(p keystore.Provider, key keystore.KeyRef, s memsec.Secret) []byte {
	b.Helper()
	res, err := b.wrap(p, key, s)
	b.must(err)
	b.must(b.unwrap(p, key, res.Blob, s))
	return res.Blob
}

// is checks class and text of an error.
func is(t testing.TB, what string, err error, class keystore.Class, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: succeeded, want %s", what, class)
		return
	}
	if got := keystore.ClassOf(err); got != class {
		t.Errorf("%s: class %s, want %s: %v", what, got, class, err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %q is not in: %v", what, text, err)
		}
	}
}

func (b *bench) log() []byte {
	b.Helper()
	out, err := json.Marshal(b.Records())
	b.must(err)
	return out
}

const unavailable = http.StatusServiceUnavailable
