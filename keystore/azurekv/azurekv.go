//go:build !noazurekv

package azurekv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// domain separates the bindings of this type from those of others. Changing it
// breaks stored blobs.
const domain = "krypton/v1/azurekv"

// maxKinds bounds how many keys' types are remembered.
const maxKinds = 1024

// healthName is the key that Health asks for; it need not be there.
const healthName = "krypton-health-check"

// headerCorrelation and headerRequest are I5.
const (
	headerCorrelation = "x-ms-client-request-id"
	headerRequest     = "x-ms-request-id"
)

var (
	errClosed  = errors.New("the keystore is closed")
	errBroken  = errors.New("the vault answered with what is no answer")
	errVersion = errors.New("the key does not have the version that the blob names: the blob was changed, or the key was purged and made again")
)

// Keystore is an opened vault. It implements [keystore.Provider]; with a key
// exchange key in its settings [New] returns a [keystore.Importer].
type Keystore struct {
	settings

	env    keystore.Env
	client *azkeys.Client
	cred   *credential
	http   *http.Client
	closed atomic.Bool

	mu    sync.Mutex
	kinds map[reference]azkeys.KeyType // what Wrap found out, at most maxKinds
}

// New is the [keystore.Constructor] of this package.
func New(ctx context.Context, env keystore.Env, cfg keystore.Config) (keystore.Provider, error) {
	k, err := open(ctx, env, cfg)
	if err != nil {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: cfg.Name, Op: keystore.OpOpen}, err)
	}
	if k.kek != "" {
		return importer{k}, nil
	}
	return k, nil
}

func open(ctx context.Context, env keystore.Env, cfg keystore.Config) (*Keystore, error) {
	s, err := parse(cfg)
	if err != nil {
		return nil, err
	}
	k := &Keystore{settings: s, env: env, cred: newCredential(s, env.Clock), http: newHTTP(s.vault, s.roots), kinds: make(map[reference]azkeys.KeyType)}
	k.client, err = azkeys.NewClient(s.vault.String(), k.cred, &azkeys.ClientOptions{
		DisableChallengeResourceVerification: s.unverified,
		ClientOptions: azcore.ClientOptions{
			Transport: traced{k.http},
			Retry:     policy.RetryOptions{MaxRetries: -1}, // I4
			Telemetry: policy.TelemetryOptions{ApplicationID: "krypton"},
		},
	})
	if err != nil {
		return nil, err
	}
	if s.unverified {
		env.Logger.LogAttrs(ctx, slog.LevelWarn, "the resource that the vault asks tokens for is not verified, for a test vault on the loopback",
			slog.String("keystore", s.name), slog.String("vault", s.vault.Host))
	}
	return k, nil
}

// Wrap implements [keystore.Provider].
func (k *Keystore) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	ctx, c, err := k.begin(ctx, keystore.OpWrap, req.Key, req.Correlation, req.Check)
	if err != nil {
		return keystore.WrapResult{}, err
	}
	defer c.end()
	mechanism, alg, err := c.mechanism(ctx)
	if err != nil {
		return keystore.WrapResult{}, err
	}
	b, err := c.wrap(ctx, req, mechanism, alg)
	if errors.Is(err, errOtherType) {
		// The owner made a version of another type since we looked.
		if mechanism, alg, err = c.mechanism(ctx); err == nil {
			b, err = c.wrap(ctx, req, mechanism, alg)
		}
		if errors.Is(err, errOtherType) {
			err = c.fail(keystore.Misconfigured, err)
		}
	}
	if err != nil {
		return keystore.WrapResult{}, c.other(err)
	}
	data, err := b.Encode()
	if err != nil {
		return keystore.WrapResult{}, c.fail(keystore.Unavailable, err)
	}
	return keystore.WrapResult{Blob: data, KeyVersion: b.KeyVersion, RequestID: c.id}, nil
}

// errOtherType is a refusal of the mechanism that the remembered type of a key asks for.
var errOtherType = errors.New("the key is of another type than it was")

func (c *call) wrap(ctx context.Context, req keystore.WrapRequest, m blob.Mechanism, alg azkeys.EncryptionAlgorithm) (blob.Blob, error) {
	to := blob.Binding{Domain: domain, Key: c.ref.bound(), AAD: req.AAD}
	return blob.Bind(c.k.env.Rand, m, to, req.Secret, func(oneTime memsec.Secret) (blob.Wrapped, error) {
		value := make([]byte, oneTime.Len())
		defer clear(value)
		if err := reveal.With(oneTime, func(b []byte) error { copy(value, b); return nil }); err != nil {
			return blob.Wrapped{}, err
		}
		res, err := c.k.client.WrapKey(c.request(ctx), c.ref.name, c.ref.version, azkeys.KeyOperationParameters{Algorithm: &alg, Value: value}, nil)
		c.answered()
		if err != nil {
			return blob.Wrapped{}, c.withLook(ctx, err, c.ref.version, alg)
		}
		id, err := c.version(res.KID)
		if err != nil {
			return blob.Wrapped{}, err
		}
		if len(res.Result) == 0 {
			return blob.Wrapped{}, c.fail(keystore.Unavailable, errBroken)
		}
		return blob.Wrapped{KeyVersion: keystore.KeyVersion(id), Bytes: res.Result}, nil
	})
}

// Unwrap implements [keystore.Provider].
func (k *Keystore) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	ctx, c, err := k.begin(ctx, keystore.OpUnwrap, req.Key, req.Correlation, req.Check)
	if err != nil {
		return keystore.UnwrapResult{}, err
	}
	defer c.end()
	b, err := blob.Parse(req.Blob)
	if err != nil {
		return keystore.UnwrapResult{}, c.fail(keystore.Corrupt, err)
	}
	alg, ok := algorithmOf(b.Mechanism)
	version := string(b.KeyVersion)
	switch {
	case !ok || !validVersion(version):
		return keystore.UnwrapResult{}, c.fail(keystore.Corrupt, blob.ErrDoesNotOpen)
	case c.ref.version != "" && c.ref.version != version:
		return keystore.UnwrapResult{}, c.fail(keystore.Misconfigured, fmt.Errorf("the reference names the version %s, and the blob is of %s", c.ref.version, version))
	}
	to := blob.Binding{Domain: domain, Key: c.ref.bound(), AAD: req.AAD}
	secret, err := b.Unbind(to, req.Class, func(wrapped []byte) (memsec.Secret, error) {
		return c.unwrap(ctx, version, alg, wrapped)
	})
	switch {
	case errors.Is(err, blob.ErrDoesNotOpen):
		return keystore.UnwrapResult{}, c.fail(keystore.Corrupt, err)
	case err != nil:
		return keystore.UnwrapResult{}, c.other(err)
	}
	return keystore.UnwrapResult{Secret: secret, KeyVersion: b.KeyVersion, RequestID: c.id}, nil
}

func (c *call) unwrap(ctx context.Context, version string, alg azkeys.EncryptionAlgorithm, wrapped []byte) (memsec.Secret, error) {
	res, err := c.k.client.UnwrapKey(c.request(ctx), c.ref.name, version, azkeys.KeyOperationParameters{Algorithm: &alg, Value: wrapped}, nil) // I2
	c.answered()
	c.wipeAnswer()
	if err != nil {
		return memsec.Secret{}, c.withLook(ctx, err, version, alg)
	}
	if n := len(res.Result); n < 1 || n > memsec.MaxLen {
		clear(res.Result)
		return memsec.Secret{}, c.fail(keystore.Unavailable, errBroken)
	}
	return memsec.Take(res.Result, memsec.Hot)
}

// Describe implements [keystore.Provider].
func (k *Keystore) Describe(ctx context.Context, req keystore.DescribeRequest) (keystore.Description, error) {
	ctx, c, err := k.begin(ctx, keystore.OpDescribe, req.Key, req.Correlation, req.Check)
	if err != nil {
		return keystore.Description{}, err
	}
	defer c.end()
	res, err := k.client.GetKey(c.request(ctx), c.ref.name, c.ref.version, nil)
	c.answered()
	if err != nil {
		return keystore.Description{}, c.withLook(ctx, err, c.ref.version, "")
	}
	f, err := c.facts(res.KeyBundle)
	if err != nil {
		return keystore.Description{}, err
	}
	d := keystore.Description{
		Key: keystore.KeyRef(k.vault.String() + "/keys/" + c.ref.name), State: keystore.StateEnabled,
		KeyVersion: keystore.KeyVersion(f.version), Kind: keystore.KindAsymmetric, Protection: keystore.ProtectionSoftware,
		Mechanism: string(algorithm(f.kind)), RequestID: c.id,
	}
	if c.ref.version != "" {
		d.Key += keystore.KeyRef("/" + c.ref.version)
	}
	if !f.enabled {
		d.State = keystore.StateDisabled
	}
	if f.kind == azkeys.KeyTypeOctHSM {
		d.Kind = keystore.KindSymmetric
	}
	if strings.HasSuffix(string(f.kind), "-HSM") {
		d.Protection = keystore.ProtectionHSM
	}
	if d.Mechanism == "" {
		d.Mechanism = fmt.Sprintf("none: a key of type %s wraps nothing", f.kind)
	}
	return d, nil
}

// Health implements [keystore.Provider]: it asks for a key that need not be
// there. "Not found", and "not allowed" where the role is on single keys, are
// both answers of a vault that accepted the login.
func (k *Keystore) Health(ctx context.Context, id corr.ID) error {
	ctx, c, err := k.begin(ctx, keystore.OpHealth, "", id, func(string) error { return nil })
	if err != nil {
		return err
	}
	defer c.end()
	_, err = k.client.GetKey(c.request(ctx), healthName, "", nil)
	c.answered()
	if err == nil {
		return nil
	}
	v, cause := c.failed(ctx, err)
	switch v {
	case missing, withdrawn:
		return nil
	case forbidden, refused:
		v = setup
	case passing, throttled, setup:
	}
	return c.fail(v.class(), cause)
}

// Close implements [keystore.Provider]. Calls that are under way end by
// themselves, and the last one takes its connection along.
func (k *Keystore) Close() error {
	k.closed.Store(true)
	k.closeIdle()
	return nil
}

func (k *Keystore) closeIdle() {
	k.http.CloseIdleConnections()
	k.cred.http.CloseIdleConnections()
}
