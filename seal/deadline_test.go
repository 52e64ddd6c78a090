package seal_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal"
)

// TestAKeystoreThatHangsEndsACeremonyInTime: when it is to wrap, and when it is to open
// again; of shares and of wrappings.
func TestAKeystoreThatHangsEndsACeremonyInTime(t *testing.T) {
	hang := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			return keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: name, Op: keystore.OpUnwrap}, ctx.Err())
		}
	}
	for name, tc := range map[string]struct {
		plan func() seal.Plan
		how  func(stores)
	}{
		"wraps a share":       {func() seal.Plan { return seal.Plan{Groups: []seal.Group{group("", 2, "a", "b")}} }, func(s stores) { s["b"].wraps = hang("b") }},
		"opens a share again": {func() seal.Plan { return seal.Plan{Groups: []seal.Group{group("", 2, "a", "b")}} }, func(s stores) { s["b"].unwrap = hang("b") }},
		"wraps":               {func() seal.Plan { return seal.Plan{ProviderKeys: keys("a", "b")} }, func(s stores) { s["b"].wraps = hang("b") }},
		"opens again":         {func() seal.Plan { return seal.Plan{ProviderKeys: keys("a", "b")} }, func(s stores) { s["b"].unwrap = hang("b") }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, reg := newStores(t, "a", "b")
				tc.how(s)
				c := ceremony(t)
				c.Wait = 20 * time.Second
				began := time.Now()
				_, _, _, err := seal.Create(t.Context(), rand.Reader, c, tc.plan(), reg)
				if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != c.Wait {
					t.Errorf("after %s: %v", took, err)
				}
			})
		})
	}
}

func keys(names ...string) (out []seal.ProviderKey) {
	for _, n := range names {
		out = append(out, seal.ProviderKey{Provider: n, Key: "k"})
	}
	return out
}

// TestI15_AKeystoreThatOpensItIsNamed, in auto mode by its place in the manifest.
func TestI15_AKeystoreThatOpensItIsNamed(t *testing.T) {
	s, reg := newStores(t, "a", "b")
	k := sealed(t, ceremony(t), seal.Plan{ProviderKeys: keys("a", "b")}, reg)
	defer k.done()
	s.fail(keystore.Unavailable, "a")
	_, c := opening(t, k.record)
	o, err := seal.NewProof(k.record, fingerprint, c, seal.DefaultPatience)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Ask(t.Context(), reg, time.Minute); err != nil {
		t.Fatal(err)
	}
	mk, holders, ok := o.TakeProof()
	defer mk.Destroy()
	if !ok || len(holders) != 1 || holders[0] != 2 || !same(t, mk, k.masterKey) {
		t.Errorf("opened by %v", holders)
	}
	if _, holders, ok := o.TakeProof(); ok || holders != nil {
		t.Error("it is taken twice")
	}
}
