//go:build unix

package keystoretest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

// cloud is a model of a remote keystore that can do everything the suite asks
// of one: keys in a local keystore, and around it a network, an access policy,
// sessions, a clock and an import. It is the least that proves the suite.
type cloud struct {
	dir   string
	env   keystore.Env
	owner *local.Keystore

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when faults changes
	faults  map[string]bool
	slow    time.Duration
	denied  map[keystore.KeyRef]bool
	session int // the one that is accepted
	keys    int
	calls   []keystoretest.Call
	log     bytes.Buffer
	waiting map[keystore.KeyRef]string // tokens of keys that wait for material
	given   map[keystore.KeyRef][]byte // imported material
}

// importKey is the model's key for imports; it takes a moment to make.
var importKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newCloud(t *testing.T, env keystoretest.Env) *cloud {
	t.Helper()
	c := &cloud{
		dir: filepath.Join(t.TempDir(), "ks"), env: env.Env, changed: make(chan struct{}), session: 1,
		faults: map[string]bool{}, denied: map[keystore.KeyRef]bool{}, waiting: map[keystore.KeyRef]string{}, given: map[keystore.KeyRef][]byte{},
	}
	owner, err := local.Create(t.Context(), env.Env, "owner", c.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := owner.Close(); err != nil {
			t.Error(err)
		}
	})
	c.owner = owner
	return c
}

func (c *cloud) set(fault string, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[fault] = on
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *cloud) hook(fault string) func(*testing.T) func() {
	return func(*testing.T) func() {
		c.set(fault, true)
		return func() { c.set(fault, false) }
	}
}

func (c *cloud) newKey(t *testing.T) keystore.KeyRef {
	t.Helper()
	c.mu.Lock()
	c.keys++
	name := fmt.Sprintf("key-%d", c.keys)
	c.mu.Unlock()
	if err := c.owner.CreateKey(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return keystore.KeyRef(name)
}

// client is a provider of the model: what a good provider does.
type client struct {
	c    *cloud
	name string
	keys *local.Keystore

	mu      sync.Mutex
	session int
}

func (c *cloud) open(t *testing.T) *client {
	t.Helper()
	keys, err := local.Open(t.Context(), c.env, "model", c.dir)
	if err != nil {
		t.Fatal(err)
	}
	return &client{c: c, name: "model", keys: keys}
}

// fixture is the model with every hook.
func (c *cloud) fixture(t *testing.T, p keystore.Provider, peer func(*testing.T) keystore.Provider) keystoretest.Fixture {
	t.Helper()
	do := func(f func(context.Context, keystore.KeyRef) error) func(*testing.T, keystore.KeyRef) {
		return func(t *testing.T, k keystore.KeyRef) {
			t.Helper()
			if err := f(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		}
	}
	return keystoretest.Fixture{
		Provider: p, NewKey: c.newKey, UnknownKey: "never", Peer: peer,
		Disable: do(c.owner.Disable), Enable: do(c.owner.Enable), Delete: do(c.owner.Delete), Rotate: do(c.owner.Rotate), CancelDeletion: do(c.owner.Enable),
		ScheduleDeletion: do(func(ctx context.Context, k keystore.KeyRef) error { return c.owner.ScheduleDeletion(ctx, k, time.Hour) }),
		Deny: func(_ *testing.T, k keystore.KeyRef) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.denied[k] = true
		},
		Away: c.hook("away"), Cut: c.hook("cut"), Hang: c.hook("hang"), Fail: c.hook("fail"), Nonsense: c.hook("nonsense"), Throttle: c.hook("throttle"),
		Slow: func(_ *testing.T, d time.Duration) func() {
			c.mu.Lock()
			c.slow = d
			c.mu.Unlock()
			return c.hook("slow")(t)
		},
		Revoke: func(t *testing.T) func() {
			t.Helper()
			c.expire()
			return c.hook("revoked")(t)
		},
		ExpireToken:   func(*testing.T) { c.expire() },
		RefuseRefresh: c.hook("refused"), LoseIdentity: c.hook("lost"),
		Skew: func(*testing.T, time.Duration) func() { return c.hook("skew")(nil) },
		NewImportKey: func(*testing.T) keystore.KeyRef {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.keys++
			k := keystore.KeyRef(fmt.Sprintf("import-%d", c.keys))
			c.waiting[k] = "token of " + string(k)
			return k
		},
		Imported: func(_ *testing.T, k keystore.KeyRef) []byte {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.given[k]
		},
		Calls: func(*testing.T) []keystoretest.Call {
			c.mu.Lock()
			defer c.mu.Unlock()
			return append([]keystoretest.Call(nil), c.calls...)
		},
		Log: func(*testing.T) []byte {
			c.mu.Lock()
			defer c.mu.Unlock()
			return bytes.Clone(c.log.Bytes())
		},
	}
}

func (c *cloud) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session++
}

// login gets a session, as a provider does when it has none that is accepted.
func (k *client) login(fail func(keystore.Class, string) error) error {
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	switch {
	case k.c.faults["lost"]:
		return fail(keystore.Unavailable, "the identity service does not answer")
	case k.c.faults["refused"], k.c.faults["revoked"]:
		return fail(keystore.Misconfigured, "the credentials are refused")
	}
	k.session = k.c.session
	return nil
}

// on is one call to the keystore, with what lies between.
func (k *client) on(ctx context.Context, op keystore.Op, key keystore.KeyRef, id corr.ID, do func() (keystore.RequestID, error)) error {
	fail := func(class keystore.Class, text string) error {
		return keystore.NewError(keystore.Error{Class: class, Provider: k.name, Key: key, Op: op}, errors.New(text))
	}
	ended := func() error {
		return keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: k.name, Key: key, Op: op}, ctx.Err())
	}
	if ctx.Err() != nil {
		return ended()
	}
	k.mu.Lock()
	k.c.mu.Lock()
	stale := k.session != k.c.session
	k.c.mu.Unlock()
	var err error
	if stale {
		err = k.login(fail)
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	k.c.mu.Lock()
	is, slow, changed := maps.Clone(k.c.faults), k.c.slow, k.c.changed
	k.c.mu.Unlock()
	for is["hang"] {
		select {
		case <-ctx.Done():
			return ended()
		case <-changed:
		}
		k.c.mu.Lock()
		is, changed = maps.Clone(k.c.faults), k.c.changed
		k.c.mu.Unlock()
	}
	if is["slow"] && (clock.System{}).Sleep(ctx, slow) != nil {
		return ended()
	}
	k.c.mu.Lock()
	denied := k.c.denied[key]
	k.c.mu.Unlock()
	switch {
	case is["away"], is["cut"]:
		return fail(keystore.Unavailable, "connection reset")
	case is["fail"], is["nonsense"]:
		k.c.record(keystoretest.Call{Correlation: id})
		return fail(keystore.Unavailable, "500")
	case is["throttle"]:
		return fail(keystore.Throttled, "429")
	case is["skew"]:
		return fail(keystore.Misconfigured, "the request is too old")
	case denied:
		return fail(keystore.Denied, "policy")
	}
	rid, err := do()
	if e, ok := errors.AsType[*keystore.Error](err); ok {
		rid = e.RequestID
	}
	k.c.record(keystoretest.Call{Correlation: id, RequestID: rid})
	return err
}

func (c *cloud) record(call keystoretest.Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
	fmt.Fprintf(&c.log, "call %s %s\n", call.Correlation, call.RequestID)
}

func (k *client) Wrap(ctx context.Context, req keystore.WrapRequest) (out keystore.WrapResult, err error) {
	err = k.on(ctx, keystore.OpWrap, req.Key, req.Correlation, func() (keystore.RequestID, error) {
		out, err = k.keys.Wrap(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

func (k *client) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (out keystore.UnwrapResult, err error) {
	err = k.on(ctx, keystore.OpUnwrap, req.Key, req.Correlation, func() (keystore.RequestID, error) {
		out, err = k.keys.Unwrap(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

func (k *client) Describe(ctx context.Context, req keystore.DescribeRequest) (out keystore.Description, err error) {
	err = k.on(ctx, keystore.OpDescribe, req.Key, req.Correlation, func() (keystore.RequestID, error) {
		out, err = k.keys.Describe(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

func (k *client) Health(ctx context.Context, id corr.ID) error {
	return k.on(ctx, keystore.OpHealth, "", id, func() (keystore.RequestID, error) { return "", k.keys.Health(ctx, id) })
}

func (k *client) Close() error { return k.keys.Close() }

func (k *client) ImportParameters(_ context.Context, req keystore.ImportParametersRequest) (out keystore.ImportParameters, err error) {
	fail := func(class keystore.Class, text string) error {
		return keystore.NewError(keystore.Error{Class: class, Provider: k.name, Key: req.Key, Op: keystore.OpImportParameters}, errors.New(text))
	}
	if err := req.Check(k.name); err != nil {
		return out, err
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	token, ok := k.c.waiting[req.Key]
	if !ok {
		return out, fail(keystore.Misconfigured, "no such key waits")
	}
	priv, err := importKey()
	if err != nil {
		return out, fail(keystore.Unavailable, err.Error())
	}
	der, err := x509.MarshalPKIXPublicKey(priv.Public())
	if err != nil {
		return out, fail(keystore.Unavailable, err.Error())
	}
	return keystore.ImportParameters{PublicKey: der, Mechanism: keystore.ImportOAEP256, Token: []byte(token)}, nil
}

func (k *client) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (out keystore.ImportResult, err error) {
	fail := func(class keystore.Class, text string) error {
		return keystore.NewError(keystore.Error{Class: class, Provider: k.name, Key: req.Key, Op: keystore.OpImportMaterial}, errors.New(text))
	}
	if err := req.Check(k.name); err != nil {
		return out, err
	}
	k.c.mu.Lock()
	defer k.c.mu.Unlock()
	switch token, ok := k.c.waiting[req.Key]; {
	case !ok:
		return out, fail(keystore.Misconfigured, "no such key waits")
	case token != string(req.Token):
		return out, fail(keystore.Misconfigured, "another token")
	}
	priv, err := importKey()
	if err != nil {
		return out, fail(keystore.Unavailable, err.Error())
	}
	material, err := rsa.DecryptOAEP(sha256.New(), nil, priv, req.Wrapped, nil)
	if err != nil {
		return out, fail(keystore.Corrupt, "it does not open")
	}
	k.c.given[req.Key] = material
	// The model's keys make their own material; that the key works is enough here.
	if err := k.c.owner.CreateKey(ctx, string(req.Key)); err != nil {
		return out, fail(keystore.Unavailable, err.Error())
	}
	return out, nil
}

// cfg is the model's entry to the suite, with what is wrong with its provider.
func cfg(breaks func(*cloud, *client) keystore.Provider) keystoretest.Config {
	return keystoretest.Config{
		Name: "model", Type: "model", Component: keystoretest.Component{Name: "model", Version: "1", Origin: keystoretest.OwnFake},
		Create: func(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
			t.Helper()
			c := newCloud(t, env)
			made := func(t *testing.T) keystore.Provider {
				t.Helper()
				return breaks(c, c.open(t))
			}
			return c.fixture(t, made(t), made)
		},
	}
}

func whole(_ *cloud, k *client) keystore.Provider { return k }

func TestAGoodProviderPassesEveryCase(t *testing.T) {
	keystoretest.Test(t, cfg(whole))
}
