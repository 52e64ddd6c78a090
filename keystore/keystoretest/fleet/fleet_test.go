//go:build unix && !nopkcs11 && !notransit && !noawskms && !noazurekv

package fleet_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/awskms"
	"github.com/openkcm/krypton-cluster/keystore/azurekv"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/fleet"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11"
	"github.com/openkcm/krypton-cluster/keystore/transit"
	"github.com/openkcm/krypton-cluster/memsec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaktest.Known()...) }

// constructors are those of the types that a fleet has.
//
//nolint:gochecknoglobals // A table, never written.
var constructors = map[string]keystore.Constructor{
	pkcs11.Type: pkcs11.New, transit.Type: transit.New, awskms.Type: awskms.New, azurekv.Type: azurekv.New,
}

// opened is one store through its provider, with what it wrapped.
type opened struct {
	store    *fleet.Store
	provider keystore.Provider
	secret   memsec.Secret
	blob     []byte
}

func (o opened) unwrap(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := o.provider.Unwrap(ctx, keystore.UnwrapRequest{Key: keystore.KeyRef(o.store.Key), Blob: o.blob, AAD: []byte("aad"), Class: memsec.Hot})
	res.Secret.Destroy()
	return err
}

// TestI1_AStoreThatComesBackOpensWhatItWrapped cuts each store off alone: the
// others answer, and it does again when it is back.
func TestI1_AStoreThatComesBackOpensWhatItWrapped(t *testing.T) {
	programs := t.TempDir()
	keystoretest.Require(t, "softhsm2", hsm.Install, hsm.Build(t.Context(), programs))
	f, err := fleet.Start(t.Context(), fleet.Options{Dir: t.TempDir(), Programs: programs})
	keystoretest.Require(t, "a keystore of the fleet", "make setup-debian", err)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	var all []opened
	for _, s := range f.Stores() {
		all = append(all, open(t, s))
	}
	for _, away := range all {
		if err := away.store.Down(); err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if err := o.unwrap(t.Context()); (err != nil) != (o.store == away.store) {
				t.Errorf("%s is cut off, %s says %v", away.store.Name, o.store.Name, err)
			}
		}
		if err := away.store.Up(); err != nil {
			t.Fatal(err)
		}
		if err := away.unwrap(t.Context()); err != nil {
			t.Errorf("%s is back and says %v", away.store.Name, err)
		}
	}
}

func open(t *testing.T, s *fleet.Store) opened {
	t.Helper()
	create := constructors[s.Type]
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	p, err := create(t.Context(), env, keystore.Config{Name: s.Name, Type: s.Type, Settings: s.Settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	secret, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(secret.Destroy)
	res, err := p.Wrap(t.Context(), keystore.WrapRequest{Key: keystore.KeyRef(s.Key), Secret: secret, AAD: []byte("aad")})
	if err != nil {
		t.Fatalf("%s: %v", s.Name, err)
	}
	return opened{store: s, provider: p, secret: secret, blob: res.Blob}
}
