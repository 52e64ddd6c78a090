package node_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// faults are what keystores do instead of opening, by name.
type faults struct {
	mu     sync.Mutex
	unwrap map[string]func(context.Context, keystore.UnwrapRequest) error
	wraps  map[string]int
	asked  map[string]int
}

func (f *faults) set(name string, do func(context.Context, keystore.UnwrapRequest) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unwrap == nil {
		f.unwrap, f.wraps, f.asked = map[string]func(context.Context, keystore.UnwrapRequest) error{}, map[string]int{}, map[string]int{}
	}
	f.unwrap[name] = do
}

// fail makes keystores fail in one way; ClassUnspecified heals them.
func (f *faults) fail(c keystore.Class, names ...string) {
	for _, n := range names {
		if c == keystore.ClassUnspecified {
			f.set(n, nil)
			continue
		}
		f.set(n, func(context.Context, keystore.UnwrapRequest) error { return storeError(n, c) })
	}
}

// hang makes a keystore answer nothing until it is given up.
func (f *faults) hang(name string) {
	f.set(name, func(ctx context.Context, _ keystore.UnwrapRequest) error {
		<-ctx.Done()
		return keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: name, Op: keystore.OpUnwrap}, ctx.Err())
	})
}

// lose makes a keystore open nothing of what it wrapped so far under the key of a
// record, as when the version of its key is gone.
func (f *faults) lose(name string, r seal.Record) {
	var old [][]byte
	for _, w := range r.Proto().GetWrappings() {
		if w.GetProviderKey().GetProvider() == name {
			old = append(old, w.GetWrappedKey())
		}
	}
	f.set(name, func(_ context.Context, req keystore.UnwrapRequest) error {
		for _, b := range old {
			if bytes.Equal(b, req.Blob) {
				return storeError(name, keystore.Corrupt)
			}
		}
		return nil
	})
}

func (f *faults) count(name string) (wraps, asked int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wraps[name], f.asked[name]
}

func storeError(name string, c keystore.Class) error {
	return keystore.NewError(keystore.Error{Class: c, Provider: name, Op: keystore.OpUnwrap, RequestID: keystore.RequestID("req-" + name)}, errors.New("as the test says"))
}

// faulty is a keystore with faults.
type faulty struct {
	keystore.Provider

	name string
	f    *faults
}

func (p faulty) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	p.f.mu.Lock()
	if p.f.wraps != nil {
		p.f.wraps[p.name]++
	}
	p.f.mu.Unlock()
	return p.Provider.Wrap(ctx, req)
}

func (p faulty) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	p.f.mu.Lock()
	if p.f.asked != nil {
		p.f.asked[p.name]++
	}
	do := p.f.unwrap[p.name]
	p.f.mu.Unlock()
	if do != nil {
		if err := do(ctx, req); err != nil {
			return keystore.UnwrapResult{}, err
		}
	}
	return p.Provider.Unwrap(ctx, req)
}

// keystores adds keystores to every node that is added later.
func (w *world) keystores(t testing.TB, names ...string) {
	t.Helper()
	ctx := context.Background()
	for _, n := range names {
		dir := filepath.Join(w.dir, n)
		k := must[*local.Keystore](t)(local.Create(ctx, w.env(), n, dir))
		check(t, k.CreateKey(ctx, sealKey))
		t.Cleanup(func() { _ = k.Close() })
		w.more = append(w.more, keystore.Config{Name: n, Type: local.Type, Settings: map[string]string{local.SettingDir: dir}})
	}
	w.faults.fail(keystore.ClassUnspecified, names...)
}

func holderOf(name string) plan.Holder {
	return plan.Holder{Name: name, Key: seal.ProviderKey{Provider: name, Key: sealKey}}
}
