//go:build !noazurekv

package azurekv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
)

// call is one call of the provider.
type call struct {
	k      *Keystore
	caller context.Context //nolint:containedctx // A call lives no longer than the method whose ctx this is.
	end    func()
	op     keystore.Op
	key    keystore.KeyRef
	ref    reference
	corr   corr.ID
	id     keystore.RequestID // of the operation, not of a look
	last   last
}

// begin checks a request and returns the context of its call, with our
// deadline, and the call, which the caller ends.
func (k *Keystore) begin(ctx context.Context, op keystore.Op, key keystore.KeyRef, id corr.ID, check func(string) error) (context.Context, *call, error) {
	c := &call{k: k, caller: ctx, op: op, key: key, corr: id}
	if k.closed.Load() {
		return ctx, nil, c.fail(keystore.Unavailable, errClosed)
	}
	if err := ctx.Err(); err != nil {
		return ctx, nil, c.fail(keystore.Unavailable, err)
	}
	if err := check(k.name); err != nil {
		return ctx, nil, err
	}
	if key != "" {
		var err error
		if c.ref, err = k.reference(key); err != nil {
			return ctx, nil, c.fail(keystore.Misconfigured, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	c.end = func() {
		cancel()
		if k.closed.Load() {
			k.closeIdle()
		}
	}
	return ctx, c, nil
}

// request returns the context of one request (I5).
func (c *call) request(ctx context.Context) context.Context {
	c.last = last{}
	ctx = c.last.with(ctx)
	if c.corr == "" {
		return ctx
	}
	h := http.Header{}
	h.Set(headerCorrelation, string(c.corr))
	return policy.WithHTTPHeader(ctx, h)
}

// answered keeps the request id of the operation.
func (c *call) answered() {
	if c.last.resp != nil && c.last.err == nil {
		c.id = keystore.RequestID(c.last.resp.Header.Get(headerRequest))
	}
}

// wipeAnswer wipes the body of the last answer, which Microsoft's client keeps
// beside what it parsed from it.
func (c *call) wipeAnswer() {
	if c.last.resp == nil || c.last.err != nil || c.last.resp.StatusCode != http.StatusOK {
		return
	}
	if body, err := runtime.Payload(c.last.resp); err == nil {
		clear(body)
	}
}

func (c *call) fail(class keystore.Class, cause error) error {
	key := c.key
	if len(key) > keystore.MaxKeyRef {
		key = key[:64] + "..."
	}
	return keystore.NewError(keystore.Error{Class: class, Provider: c.k.name, Key: key, Op: c.op, RequestID: c.id}, cause)
}

// other gives errors of this process, such as exhausted memory, a class.
func (c *call) other(err error) error {
	if _, ok := errors.AsType[*keystore.Error](err); ok {
		return err
	}
	return c.fail(keystore.Unavailable, err)
}

// withLook classifies a failed operation on a version, empty for the current
// one; where the answer alone does not say what it means, after a look at the
// key. errOtherType is a 400 for wrapping with alg, which is not the key's any
// more; what it is, is remembered then.
func (c *call) withLook(ctx context.Context, failed error, version string, alg azkeys.EncryptionAlgorithm) error {
	v, cause := c.failed(ctx, failed)
	which := func() error {
		if version != "" {
			return fmt.Errorf("%w (version %s)", cause, version)
		}
		return cause
	}
	switch v {
	case passing, throttled, setup:
		return c.fail(v.class(), cause)
	case withdrawn:
		return c.fail(keystore.Denied, which())
	case missing, forbidden, refused:
	}
	look := version
	if v == missing {
		look = "" // is the key there at all?
	}
	f, lv, lcause := c.look(ctx, look)
	switch {
	case lv == missing && v == missing:
		return c.fail(keystore.Denied, fmt.Errorf("%w; asked again, the vault does not have the key: it was deleted, or never was", cause))
	case lv == missing && v == refused && version != "":
		return c.fail(keystore.Corrupt, errVersion)
	case lcause != nil && (lv == passing || lv == throttled):
		return c.fail(lv.class(), fmt.Errorf("%w; a second look: %w", cause, lcause))
	case lcause != nil:
		// Also when reading the key is not allowed: that says nothing of the
		// operation, and a changed blob must not look like a withdrawal (I3).
		return c.fail(keystore.Misconfigured, fmt.Errorf("%w; a second look: %w", cause, lcause))
	case v == missing && c.op == keystore.OpUnwrap:
		return c.fail(keystore.Corrupt, errVersion)
	case v == missing:
		return c.fail(keystore.Misconfigured, fmt.Errorf("%w; the key is there, the version is not", cause))
	case !f.enabled:
		return c.fail(keystore.Denied, fmt.Errorf("%w; version %s is disabled", cause, f.version))
	case v == forbidden:
		return c.fail(keystore.Misconfigured, fmt.Errorf("%w; the key is enabled and can be read", cause))
	}
	// 400 for an enabled key.
	switch {
	case c.op == keystore.OpUnwrap:
		return c.fail(keystore.Corrupt, blob.ErrDoesNotOpen)
	case c.op == keystore.OpWrap && algorithm(f.kind) != alg && algorithm(f.kind) != "":
		c.k.remember(c.ref, f.kind)
		return errOtherType
	}
	return c.fail(keystore.Misconfigured, cause)
}

// facts are what the vault says of a version.
type facts struct {
	version string
	kind    azkeys.KeyType
	enabled bool
	ops     []azkeys.KeyOperation
}

func (c *call) facts(b azkeys.KeyBundle) (facts, error) {
	if b.Key == nil || b.Key.Kty == nil {
		return facts{}, c.fail(keystore.Unavailable, errBroken)
	}
	version, err := c.version(b.Key.KID)
	if err != nil {
		return facts{}, err
	}
	f := facts{version: version, kind: *b.Key.Kty, enabled: true}
	if b.Attributes != nil && b.Attributes.Enabled != nil {
		f.enabled = *b.Attributes.Enabled
	}
	for _, o := range b.Key.KeyOps {
		if o != nil {
			f.ops = append(f.ops, *o)
		}
	}
	return f, nil
}

// look asks for a version of the key. It returns the verdict and cause of a
// failure, or facts.
func (c *call) look(ctx context.Context, version string) (facts, verdict, error) {
	res, err := c.k.client.GetKey(c.request(ctx), c.ref.name, version, nil)
	if err != nil {
		v, cause := c.failed(ctx, err)
		return facts{}, v, cause
	}
	f, err := c.facts(res.KeyBundle)
	return f, passing, err
}

// version takes the version from the identifier of an answer, which has to be
// of the key that was asked for. Its host is the vault's own business.
func (c *call) version(kid *azkeys.ID) (string, error) {
	if kid == nil {
		return "", c.fail(keystore.Unavailable, errBroken)
	}
	parts := strings.Split(string(*kid), "/")
	if n := len(parts); n < 3 || parts[n-3] != "keys" || !strings.EqualFold(parts[n-2], c.ref.name) || !validVersion(parts[n-1]) {
		return "", c.fail(keystore.Unavailable, errBroken)
	}
	return parts[len(parts)-1], nil
}

// judgeLook classifies a look that came first: nothing was refused before, so a
// missing key gets its second look here.
func (c *call) judgeLook(ctx context.Context, v verdict, cause error) error {
	switch v {
	case missing:
		_, again, lcause := c.look(ctx, "")
		switch {
		case again == missing:
			return c.fail(keystore.Denied, fmt.Errorf("%w; asked again, the vault does not have the key: it was deleted, or never was", cause))
		case lcause == nil && c.ref.version != "":
			return c.fail(keystore.Misconfigured, fmt.Errorf("%w; the key is there, the version is not", cause))
		}
		return c.fail(keystore.Unavailable, cause)
	case forbidden, refused:
		return c.fail(keystore.Misconfigured, cause)
	case passing, throttled, setup, withdrawn:
	}
	return c.fail(v.class(), cause)
}
