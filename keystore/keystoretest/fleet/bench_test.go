//go:build unix && !nopkcs11 && !notransit && !noawskms && !noazurekv

package fleet_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/fleet"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// BenchmarkOverhead opens a MasterKey of which any 3 of 4 keystores hold enough,
// beside one call to the third fastest of them: no opening can be faster.
func BenchmarkOverhead(b *testing.B) {
	programs := b.TempDir()
	keystoretest.Require(b, "softhsm2", hsm.Install, hsm.Build(b.Context(), programs))
	f, err := fleet.Start(b.Context(), fleet.Options{Dir: b.TempDir(), Programs: programs})
	keystoretest.Require(b, "a keystore of the fleet", "make setup-debian", err)
	b.Cleanup(func() {
		if err := f.Close(); err != nil {
			b.Error(err)
		}
	})
	var configs []keystore.Config
	g := seal.Group{Name: "all", Threshold: 3}
	for _, s := range f.Stores() {
		configs = append(configs, keystore.Config{Name: s.Name, Type: s.Type, Settings: s.Settings})
		g.Holders = append(g.Holders, seal.Holder{Name: s.Name, Key: seal.ProviderKey{Provider: s.Name, Key: keystore.KeyRef(s.Key)}})
	}
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	stores, err := keystore.Open(b.Context(), env, configs, constructors)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := stores.Close(); err != nil {
			b.Error(err)
		}
	})
	c := seal.Ceremony{Keyspace: hierarchy.KeyspaceID{1}, Cluster: hierarchy.ClusterID{2}, ID: hierarchy.UID{3}, Generation: 1, Time: time.Unix(1, 0)}
	record, masterKey, _, err := seal.Create(b.Context(), rand.Reader, c, seal.Plan{Kind: seal.KindInit, Groups: []seal.Group{g}}, stores)
	if err != nil {
		b.Fatal(err)
	}
	masterKey.Destroy()
	// Beside each other on one machine, and 20 ms away as a cloud is.
	for name, away := range map[string]time.Duration{"unseal-3-of-4": 0, "unseal-3-of-4-20ms-away": 20 * time.Millisecond} {
		for _, s := range f.Stores() {
			if away > 0 {
				s.Slow(away)
			}
		}
		needed := thirdFastest(b, f, stores)
		b.Run(name+"/Bare", func(b *testing.B) {
			for b.Loop() {
				if err := needed.unwrap(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/Krypton", func(b *testing.B) {
			for b.Loop() {
				mk, err := seal.Open(b.Context(), record, stores, clock.System{}, 10*time.Second)
				if err != nil {
					b.Fatal(err)
				}
				mk.Destroy()
			}
		})
		for _, s := range f.Stores() {
			if err := s.Up(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// thirdFastest asks each store alone some times and returns the slowest that an
// opening has to wait for.
func thirdFastest(b *testing.B, f *fleet.Fleet, stores *keystore.Registry) opened {
	b.Helper()
	type timed struct {
		opened
		took time.Duration
	}
	var all []timed
	for _, s := range f.Stores() {
		p, err := stores.Get(s.Name)
		if err != nil {
			b.Fatal(err)
		}
		secret, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Hot)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(secret.Destroy)
		res, err := p.Wrap(b.Context(), keystore.WrapRequest{Key: keystore.KeyRef(s.Key), Secret: secret, AAD: []byte("aad")})
		if err != nil {
			b.Fatal(err)
		}
		o := opened{store: s, provider: p, secret: secret, blob: res.Blob}
		began := time.Now()
		for range 20 {
			if err := o.unwrap(context.WithoutCancel(b.Context())); err != nil {
				b.Fatal(err)
			}
		}
		all = append(all, timed{o, time.Since(began)})
	}
	slices.SortFunc(all, func(x, y timed) int { return cmp.Compare(x.took, y.took) })
	return all[2].opened
}
