//go:build unix

package keystoretest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// broken is the good provider with one thing changed. What is nil is good.
type broken struct {
	*client

	wrap     func(context.Context, keystore.WrapRequest) (keystore.WrapResult, error)
	unwrap   func(context.Context, keystore.UnwrapRequest) (keystore.UnwrapResult, error)
	describe func(context.Context, keystore.DescribeRequest) (keystore.Description, error)
	health   func(context.Context, corr.ID) error
	closes   func() error
	imports  func(context.Context, keystore.ImportMaterialRequest) (keystore.ImportResult, error)
	err      func(error) error // changes every error
}

func (b *broken) fail(err error) error {
	if b.err != nil && err != nil {
		return b.err(err)
	}
	return err
}

func (b *broken) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	do := b.client.Wrap
	if b.wrap != nil {
		do = b.wrap
	}
	res, err := do(ctx, req)
	return res, b.fail(err)
}

func (b *broken) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	do := b.client.Unwrap
	if b.unwrap != nil {
		do = b.unwrap
	}
	res, err := do(ctx, req)
	return res, b.fail(err)
}

func (b *broken) Describe(ctx context.Context, req keystore.DescribeRequest) (keystore.Description, error) {
	do := b.client.Describe
	if b.describe != nil {
		do = b.describe
	}
	res, err := do(ctx, req)
	return res, b.fail(err)
}

func (b *broken) Health(ctx context.Context, id corr.ID) error {
	do := b.client.Health
	if b.health != nil {
		do = b.health
	}
	return b.fail(do(ctx, id))
}

func (b *broken) Close() error {
	if b.closes != nil {
		return b.closes()
	}
	return b.client.Close()
}

func (b *broken) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
	if b.imports != nil {
		return b.imports(ctx, req)
	}
	return b.client.ImportMaterial(ctx, req)
}

// as returns err with parts changed.
func as(err error, change func(*keystore.Error)) error {
	e, ok := errors.AsType[*keystore.Error](err)
	if !ok {
		return err
	}
	c := *e
	change(&c)
	return keystore.NewError(c, e.Unwrap())
}

// class makes every error of one class another one's.
func class(from, to keystore.Class) func(*broken, *cloud) {
	return func(b *broken, _ *cloud) {
		b.err = func(err error) error {
			return as(err, func(e *keystore.Error) {
				if e.Class == from {
					e.Class = to
				}
			})
		}
	}
}

// sticky repeats a class for ever once it was seen.
func sticky(which keystore.Class) func(*broken, *cloud) {
	return func(b *broken, _ *cloud) {
		var last atomic.Pointer[error]
		again := func(err error) error {
			if keystore.ClassOf(err) == which {
				last.Store(&err)
			}
			if p := last.Load(); p != nil {
				return *p
			}
			return err
		}
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			res, err := b.client.Unwrap(ctx, r)
			if again(err) != nil {
				res.Secret.Destroy()
				return keystore.UnwrapResult{}, again(err)
			}
			return res, nil
		}
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			res, err := b.client.Wrap(ctx, r)
			if again(err) != nil {
				return keystore.WrapResult{}, again(err)
			}
			return res, nil
		}
	}
}

// secretText is what a provider that does not think would print.
func secretText(s memsec.Secret, encode func([]byte) string) (text string) {
	_ = reveal.With(s, func(b []byte) error { text = encode(b); return nil })
	return text
}

// remembering answers an unwrap of a blob that it has seen from memory.
func remembering(b *broken, _ *cloud) {
	var mu sync.Mutex
	known := map[string]memsec.Secret{}
	b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
		mu.Lock()
		defer mu.Unlock()
		if s, ok := known[string(r.Blob)]; ok {
			out, err := copyOf(s)
			return keystore.UnwrapResult{Secret: out}, err
		}
		res, err := b.client.Unwrap(ctx, r)
		if err == nil {
			if s, cerr := copyOf(res.Secret); cerr == nil {
				known[string(r.Blob)] = s
			}
		}
		return res, err
	}
	b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
		res, err := b.client.Wrap(ctx, r)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			if s, cerr := copyOf(r.Secret); cerr == nil {
				known[string(res.Blob)] = s
			}
		}
		return res, err
	}
}

func copyOf(s memsec.Secret) (out memsec.Secret, err error) {
	err = reveal.With(s, func(b []byte) error {
		out, err = memsec.Take(bytes.Clone(b), memsec.Hot)
		return err
	})
	return out, err
}

// fault is one broken rule and the case that has to see it.
type fault struct {
	name   string
	sees   string // a part of the case's name
	breaks func(b *broken, c *cloud)
}

// onUnwrap changes a good result or an error of unwrapping.
func onUnwrap(change func(r keystore.UnwrapRequest, res *keystore.UnwrapResult, err *error)) func(*broken, *cloud) {
	return func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			res, err := b.client.Unwrap(ctx, r)
			change(r, &res, &err)
			return res, err
		}
	}
}

// onWrap changes a good result or an error of wrapping.
func onWrap(change func(r keystore.WrapRequest, res *keystore.WrapResult, err *error)) func(*broken, *cloud) {
	return func(b *broken, _ *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			res, err := b.client.Wrap(ctx, r)
			change(r, &res, &err)
			return res, err
		}
	}
}

// errorsTo changes every error.
func errorsTo(change func(*keystore.Error)) func(*broken, *cloud) {
	return func(b *broken, _ *cloud) { b.err = func(err error) error { return as(err, change) } }
}

// contextless ignores whether the caller still waits.
func contextless(b *broken, _ *cloud) {
	b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
		return b.client.Wrap(context.WithoutCancel(ctx), r)
	}
	b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
		return b.client.Unwrap(context.WithoutCancel(ctx), r)
	}
}

// bare loses the context's error.
func bare(b *broken, _ *cloud) {
	b.err = func(err error) error {
		e, ok := errors.AsType[*keystore.Error](err)
		if !ok || (!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
		return keystore.NewError(*e, errors.New("the call ended"))
	}
}

//nolint:gochecknoglobals // A table of faults, never written.
var faults = []fault{
	{"another secret", "unwraps to the same secret", onUnwrap(func(r keystore.UnwrapRequest, res *keystore.UnwrapResult, err *error) {
		if *err == nil {
			res.Secret, *err = memsec.Take(make([]byte, res.Secret.Len()), r.Class)
		}
	})},
	{"another class of memory", "unwraps to the same secret", func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			r.Class = memsec.Hot
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"no long secrets", "unwraps to the same secret", func(b *broken, _ *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			if r.Secret.Len() > 32 {
				return keystore.WrapResult{}, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: b.name, Key: r.Key, Op: keystore.OpWrap}, nil)
			}
			return b.client.Wrap(ctx, r)
		}
	}},
	{"the same blob again", "two wraps of one secret", func(b *broken, _ *cloud) {
		var first keystore.WrapResult
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			var err error
			if first.Blob == nil {
				first, err = b.client.Wrap(ctx, r)
			}
			return first, err
		}
	}},
	{"the secret in the blob", "two wraps of one secret", onWrap(func(r keystore.WrapRequest, res *keystore.WrapResult, _ *error) {
		res.Blob = append(res.Blob, secretText(r.Secret, func(b []byte) string { return string(b) })...)
	})},
	{"a blob too long", "two wraps of one secret", onWrap(func(_ keystore.WrapRequest, res *keystore.WrapResult, _ *error) {
		res.Blob = append(res.Blob, make([]byte, keystore.MaxBlob)...)
	})},
	{"a version that wanders", "two wraps of one secret", func(b *broken, c *cloud) {
		n := 0
		onWrap(func(_ keystore.WrapRequest, res *keystore.WrapResult, _ *error) {
			n++
			res.KeyVersion = keystore.KeyVersion(fmt.Sprint(n))
		})(b, c)
	}},
	{"wipes the caller's AAD", "neither changed nor kept", onWrap(func(r keystore.WrapRequest, _ *keystore.WrapResult, _ *error) { clear(r.AAD) })},
	{"opens in place", "neither changed nor kept", onUnwrap(func(r keystore.UnwrapRequest, _ *keystore.UnwrapResult, _ *error) { clear(r.Blob) })},
	{"one secret for two results", "neither changed nor kept", func(b *broken, _ *cloud) {
		var first keystore.UnwrapResult
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			var err error
			if first.Secret.IsZero() {
				first, err = b.client.Unwrap(ctx, r)
			}
			return first, err
		}
	}},
	{"binds no AAD", "opens only under the AAD", func(b *broken, _ *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			r.AAD = []byte("any")
			return b.client.Wrap(ctx, r)
		}
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			r.AAD = []byte("any")
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"binds the head of the AAD", "opens only under the AAD", func(b *broken, _ *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			r.AAD = r.AAD[:min(len(r.AAD), 64)]
			return b.client.Wrap(ctx, r)
		}
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			r.AAD = r.AAD[:min(len(r.AAD), 64)]
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"lets the blob choose the key", "opens only under the key", func(b *broken, c *cloud) {
		made := map[string]keystore.KeyRef{}
		onWrap(func(r keystore.WrapRequest, res *keystore.WrapResult, _ *error) { made[string(res.Blob)] = r.Key })(b, c)
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			r.Key = made[string(r.Blob)]
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"another key is Denied", "opens only under the key", class(keystore.Corrupt, keystore.Denied)},
	{"a broken blob is Denied", "a changed blob is Corrupt", class(keystore.Corrupt, keystore.Denied)},
	{"a broken blob is Unavailable", "a changed blob is Corrupt", class(keystore.Corrupt, keystore.Unavailable)},
	{"bytes behind a blob are ignored", "a changed blob is Corrupt", func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			r.Blob = r.Blob[:min(len(r.Blob), 1+1+4+12+32+16)]
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"the first byte of a blob is ignored", "a changed blob is Corrupt", func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			if len(r.Blob) > 0 {
				r.Blob = append([]byte{1}, r.Blob[1:]...)
			}
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"a bad request is Denied", "a request outside the limits", class(keystore.Misconfigured, keystore.Denied)},
	{"long AAD is shortened", "a request outside the limits", func(b *broken, _ *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			r.AAD = r.AAD[:min(len(r.AAD), keystore.MaxAAD)]
			return b.client.Wrap(ctx, r)
		}
	}},
	{"an unknown key is made", "a key that never was", func(b *broken, c *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			_ = c.owner.CreateKey(ctx, string(r.Key))
			return b.client.Wrap(ctx, r)
		}
	}},
	{"an unknown key is Unavailable", "a key that never was", class(keystore.Misconfigured, keystore.Unavailable)},
	{"a lost error of the context", "an ended context", bare},
	{"a context that nobody looks at", "an ended context", contextless},
	{"a wrong version described", "describe tells", func(b *broken, _ *cloud) {
		b.describe = func(ctx context.Context, r keystore.DescribeRequest) (keystore.Description, error) {
			d, err := b.client.Describe(ctx, r)
			d.KeyVersion += "0"
			return d, err
		}
	}},
	{"no mechanism described", "describe tells", func(b *broken, _ *cloud) {
		b.describe = func(ctx context.Context, r keystore.DescribeRequest) (keystore.Description, error) {
			d, err := b.client.Describe(ctx, r)
			d.Mechanism = ""
			return d, err
		}
	}},
	{"never well", "health is well", func(b *broken, _ *cloud) {
		b.health = func(context.Context, corr.ID) error {
			return keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: b.name, Op: keystore.OpHealth}, nil)
		}
	}},
	{"no request id", "carries the request id, every call", onWrap(func(_ keystore.WrapRequest, res *keystore.WrapResult, _ *error) { res.RequestID = "" })},
	{"no request id in errors", "carries the request id, every call", errorsTo(func(e *keystore.Error) { e.RequestID = "" })},
	{"no request id of a refusal", "a refusal carries the request id", errorsTo(func(e *keystore.Error) { e.RequestID = "" })},
	{"the correlation id stays at home", "carries the request id, every call", func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			r.Correlation = "00000000-0000-7000-8000-000000000000"
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"another provider's name", "every error names", errorsTo(func(e *keystore.Error) { e.Provider = "other" })},
	{"no key in the error", "every error names", errorsTo(func(e *keystore.Error) { e.Key = "" })},
	{"another operation in the error", "every error names", errorsTo(func(e *keystore.Error) { e.Op = keystore.OpHealth })},
	{"an error of its own type", "every error names", func(b *broken, _ *cloud) {
		b.err = func(err error) error { return errors.New(err.Error()) }
	}},
	{"requests share a buffer", "concurrent calls do not disturb", func(b *broken, _ *cloud) {
		var mu sync.Mutex
		var aad []byte
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			mu.Lock()
			aad = r.AAD
			mu.Unlock()
			for range 100 {
				runtime.Gosched()
			}
			mu.Lock()
			r.AAD = aad
			mu.Unlock()
			return b.client.Wrap(ctx, r)
		}
	}},
	{"a cancelled call breaks the connection", "take no other call down", func(b *broken, _ *cloud) {
		var dead atomic.Bool
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			if ctx.Err() == nil && dead.Swap(false) {
				return keystore.UnwrapResult{}, keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: b.name, Key: r.Key, Op: keystore.OpUnwrap}, nil)
			}
			res, err := b.client.Unwrap(ctx, r)
			if ctx.Err() != nil {
				dead.Store(true)
			}
			return res, err
		}
	}},
	{"a disabled key opens from memory", "a disabled key is Denied", remembering},
	{"a disabled key is Unavailable", "a disabled key is Denied", class(keystore.Denied, keystore.Unavailable)},
	{"an enabled key stays Denied", "a disabled key is Denied", sticky(keystore.Denied)},
	{"a disabled key is described as enabled", "a disabled key is Denied", func(b *broken, _ *cloud) {
		b.describe = func(ctx context.Context, r keystore.DescribeRequest) (keystore.Description, error) {
			d, err := b.client.Describe(ctx, r)
			d.State = keystore.StateEnabled
			return d, err
		}
	}},
	{"a failure with a result", "a disabled key is Denied", onWrap(func(_ keystore.WrapRequest, res *keystore.WrapResult, err *error) {
		if *err != nil {
			res.Blob = []byte{1}
		}
	})},
	{"pending deletion is Misconfigured", "pending deletion is Denied", class(keystore.Denied, keystore.Misconfigured)},
	{"a cancelled deletion stays", "a cancelled deletion", sticky(keystore.Denied)},
	{"deleted is Misconfigured", "a deleted key is Denied", class(keystore.Denied, keystore.Misconfigured)},
	{"a deleted key opens from memory", "a deleted key is Denied", remembering},
	{"withdrawn is Misconfigured", "withdrawn access is Denied", class(keystore.Denied, keystore.Misconfigured)},
	{"a version that never changes", "after a rotation", func(b *broken, c *cloud) {
		onWrap(func(_ keystore.WrapRequest, res *keystore.WrapResult, _ *error) { res.KeyVersion = "1" })(b, c)
	}},
	{"only the current version opens", "after a rotation", func(b *broken, c *cloud) {
		var current atomic.Value
		onWrap(func(_ keystore.WrapRequest, res *keystore.WrapResult, _ *error) { current.Store(res.KeyVersion) })(b, c)
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			res, err := b.client.Unwrap(ctx, r)
			if err == nil && res.KeyVersion != current.Load() {
				res.Secret.Destroy()
				return keystore.UnwrapResult{}, keystore.NewError(keystore.Error{Class: keystore.Denied, Provider: b.name, Key: r.Key, Op: keystore.OpUnwrap}, nil)
			}
			return res, err
		}
	}},
	{"away is Denied", "a keystore that is away", class(keystore.Unavailable, keystore.Denied)},
	{"away is for ever", "a keystore that is away", sticky(keystore.Unavailable)},
	{"a killed connection is Corrupt", "a connection that is killed", class(keystore.Unavailable, keystore.Corrupt)},
	{"a killed connection is never made again", "a connection that is killed", sticky(keystore.Unavailable)},
	{"a deadline is Misconfigured", "ends with its deadline", class(keystore.Unavailable, keystore.Misconfigured)},
	{"a deadline is lost", "ends with its deadline", bare},
	{"a deadline is passed over", "ends with its deadline", func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			res, err := b.client.Unwrap(ctx, r)
			if err != nil {
				_ = clock.System{}.Sleep(context.WithoutCancel(ctx), 4*time.Second)
			}
			return res, err
		}
	}},
	{"a cancellation is lost", "ends when it is cancelled", bare},
	{"an impatient provider", "a slow answer is an answer", func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"an endlessly patient provider", "a slow answer is an answer", contextless},
	{"a failure is Denied", "a keystore that fails", class(keystore.Unavailable, keystore.Denied)},
	{"a failure is Throttled", "a keystore that fails", class(keystore.Unavailable, keystore.Throttled)},
	{"retries of its own", "a failure is one attempt", func(b *broken, _ *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (res keystore.WrapResult, err error) {
			for range 3 {
				if res, err = b.client.Wrap(ctx, r); err == nil {
					break
				}
			}
			return res, err
		}
	}},
	{"nonsense is Denied", "an answer that is none", class(keystore.Unavailable, keystore.Denied)},
	{"throttled is Unavailable", "fewer calls is Throttled", class(keystore.Throttled, keystore.Unavailable)},
	{"refused credentials are Denied", "credentials that are refused", class(keystore.Misconfigured, keystore.Denied)},
	{"refused credentials are refused for ever", "credentials that are refused", sticky(keystore.Misconfigured)},
	{"never a second session", "a session that ended is renewed", func(b *broken, c *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			c.mu.Lock()
			first := c.session == 1
			c.mu.Unlock()
			if !first {
				return keystore.UnwrapResult{}, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: b.name, Key: r.Key, Op: keystore.OpUnwrap}, nil)
			}
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"a renewal costs a call", "costs none of them", func(b *broken, c *cloud) {
		var had atomic.Int64
		had.Store(1)
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			c.mu.Lock()
			now := int64(c.session)
			c.mu.Unlock()
			if had.Swap(now) != now {
				return keystore.UnwrapResult{}, keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: b.name, Key: r.Key, Op: keystore.OpUnwrap}, nil)
			}
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"a refused session is Denied", "a session that is refused", class(keystore.Misconfigured, keystore.Denied)},
	{"a lost identity service is Misconfigured", "a session that cannot be asked for", class(keystore.Unavailable, keystore.Misconfigured)},
	{"skew is Denied", "another idea of the time", class(keystore.Misconfigured, keystore.Denied)},
	{"other material is imported", "imported material wraps", func(b *broken, c *cloud) {
		b.imports = func(ctx context.Context, r keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
			res, err := b.client.ImportMaterial(ctx, r)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.given[r.Key] = make([]byte, 32)
			return res, err
		}
	}},
	{"any token will do", "material that does not open", func(b *broken, c *cloud) {
		b.imports = func(ctx context.Context, r keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
			c.mu.Lock()
			if t, ok := c.waiting[r.Key]; ok {
				r.Token = []byte(t)
			}
			c.mu.Unlock()
			return b.client.ImportMaterial(ctx, r)
		}
	}},
	{"the context in the keystore's log", "shows neither secret nor context", func(b *broken, c *cloud) {
		onWrap(func(r keystore.WrapRequest, _ *keystore.WrapResult, _ *error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			fmt.Fprintf(&c.log, "context %s\n", base64.StdEncoding.EncodeToString(append([]byte("ctx="), r.AAD...)))
		})(b, c)
	}},
	{"the secret in the keystore's log", "shows neither secret nor context", func(b *broken, c *cloud) {
		onWrap(func(r keystore.WrapRequest, _ *keystore.WrapResult, _ *error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			fmt.Fprintf(&c.log, "plaintext %s\n", secretText(r.Secret, base64.StdEncoding.EncodeToString))
		})(b, c)
	}},
	{"hex of the secret is logged", "unwraps to the same secret", func(b *broken, c *cloud) {
		onWrap(func(r keystore.WrapRequest, _ *keystore.WrapResult, _ *error) {
			c.env.Logger.DebugContext(context.Background(), "wrapped", slog.String("what", secretText(r.Secret, hex.EncodeToString)))
		})(b, c)
	}},
	{"the secret is in an error", "a disabled key is Denied", func(b *broken, _ *cloud) {
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			res, err := b.client.Wrap(ctx, r)
			if e, ok := errors.AsType[*keystore.Error](err); ok {
				err = keystore.NewError(*e, fmt.Errorf("request %s", secretText(r.Secret, base64.URLEncoding.EncodeToString)))
			}
			return res, err
		}
	}},
	{"the context is in an error", "opens only under the key", func(b *broken, _ *cloud) {
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			res, err := b.client.Unwrap(ctx, r)
			if e, ok := errors.AsType[*keystore.Error](err); ok {
				err = keystore.NewError(*e, fmt.Errorf("context %x", r.AAD))
			}
			return res, err
		}
	}},
	{"blobs of one instance", "a second provider opens", func(b *broken, _ *cloud) {
		own := fmt.Appendf(nil, "%p", b)
		b.wrap = func(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
			r.AAD = append(bytes.Clone(own), r.AAD...)
			return b.client.Wrap(ctx, r)
		}
		b.unwrap = func(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
			r.AAD = append(bytes.Clone(own), r.AAD...)
			return b.client.Unwrap(ctx, r)
		}
	}},
	{"a peer that remembers", "a second provider sees a disabled key", remembering},
	{"works on when closed", "a closed provider", func(b *broken, _ *cloud) { b.closes = func() error { return nil } }},
	{"cannot be closed twice", "a closed provider", func(b *broken, _ *cloud) {
		first := true
		b.closes = func() error {
			if !first {
				return errors.New("closed already")
			}
			first = false
			return b.client.Close()
		}
	}},
	{"closed is Misconfigured", "a closed provider", class(keystore.Unavailable, keystore.Misconfigured)},
	{"works on while it is closed", "closing while calls run", func(b *broken, _ *cloud) { b.closes = func() error { return nil } }},
	{"closing is Denied", "closing while calls run", class(keystore.Unavailable, keystore.Denied)},
}

const faultyVariable = "KEYSTORETEST_FAULTY"

// TestFaulty is run by TestI3_EveryFaultIsSeenByTheCaseThatNamesIt in a process of
// its own, where every case of it has to fail.
func TestFaulty(t *testing.T) {
	if os.Getenv(faultyVariable) == "" {
		return
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			keystoretest.Only(t, cfg(func(c *cloud, k *client) keystore.Provider {
				b := &broken{client: k}
				f.breaks(b, c)
				return b
			}), f.sees)
		})
	}
}

func TestI3_EveryFaultIsSeenByTheCaseThatNamesIt(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestFaulty$", "-test.v", "-test.parallel=4", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), faultyVariable+"=1")
	raw, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("the faulty providers pass")
	}
	out := string(raw)
	if strings.Contains(out, "panic:") {
		t.Fatalf("a faulty provider takes the suite down:\n%s", out)
	}
	spaced := func(s string) string { return strings.ReplaceAll(s, " ", "_") }
	for _, f := range faults {
		seen := regexp.MustCompile(`(?m)^ *--- FAIL: TestFaulty/` + regexp.QuoteMeta(spaced(f.name)) + `/[^\n]*` + regexp.QuoteMeta(spaced(f.sees))).MatchString(out)
		if !seen {
			t.Errorf("%q is not seen by %q", f.name, f.sees)
		}
	}
}

func TestI3_EveryCaseHasAFault(t *testing.T) {
	t.Parallel()
	for _, name := range keystoretest.CaseNames() {
		found := false
		for _, f := range faults {
			found = found || strings.Contains(name, f.sees)
		}
		if !found {
			t.Errorf("no faulty provider shows that the suite looks at %q", name)
		}
	}
}

func TestASecretIsFoundInEverySpelling(t *testing.T) {
	t.Parallel()
	secret := []byte("\x00\x01 sixteen bytes \xfe\xff and more")
	for name, text := range map[string]string{
		"raw": string(secret), "hex": fmt.Sprintf("%x", secret), "HEX": fmt.Sprintf("%X", secret), "%d": fmt.Sprintf("%d", secret), "%#v": fmt.Sprintf("%#v", secret), "%q": strconv.Quote(string(secret)),
		"base64": base64.StdEncoding.EncodeToString(secret), "base64 inside": base64.StdEncoding.EncodeToString([]byte("{\"a\":\"" + string(secret) + "\"}")),
		"base64url inside": base64.RawURLEncoding.EncodeToString([]byte("xx" + string(secret) + "yy")), "base64 later": base64.StdEncoding.EncodeToString([]byte("x" + string(secret))),
	} {
		if _, found := keystoretest.Finds([]byte("before "+text+" behind"), secret); !found {
			t.Errorf("not found as %s", name)
		}
	}
	if spelling, found := keystoretest.Finds([]byte("sixteen bytes"), secret); found {
		t.Errorf("found where it is not, as %s", spelling)
	}
}
