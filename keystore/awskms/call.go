package awskms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

// call is one call of the provider.
type call struct {
	k   *Keystore
	op  keystore.Op
	ref keystore.KeyRef
	// keyID is the id of the key, where the reference has it.
	keyID string
}

// begin begins a call; the context it returns carries the correlation id.
func (k *Keystore) begin(ctx context.Context, op keystore.Op, ref keystore.KeyRef, id corr.ID) (context.Context, *call, error) {
	c := &call{k: k, op: op, ref: ref}
	if k.closed.Load() {
		return ctx, c, c.fail(keystore.Unavailable, "", errClosed)
	}
	if err := ctx.Err(); err != nil {
		return ctx, c, c.fail(keystore.Unavailable, "", err)
	}
	return corr.With(ctx, id), c, nil
}

// key checks the call's reference.
func (c *call) key() (err error) {
	if c.keyID, err = c.k.s.checkRef(c.ref); err != nil {
		return c.fail(keystore.Misconfigured, "", err)
	}
	return nil
}

func (c *call) fail(class keystore.Class, id keystore.RequestID, cause error) error {
	return keystore.NewError(keystore.Error{Class: class, Provider: c.k.name, Key: clipRef(c.ref), Op: c.op, RequestID: id}, cause)
}

// clipRef bounds a caller's reference.
func clipRef(ref keystore.KeyRef) keystore.KeyRef {
	if len(ref) > keystore.MaxKeyRef {
		return ref[:64] + "..."
	}
	return ref
}

// request makes one request of KMS with these credentials.
type request func(ctx context.Context, with func(*kms.Options)) error

// attempt makes a request within its time.
func (c *call) attempt(ctx context.Context, creds aws.Credentials, do request) error {
	bounded, cancel := context.WithTimeout(ctx, c.k.s.timeout)
	defer cancel()
	err := do(bounded, func(o *kms.Options) {
		o.Credentials = fixed(creds)
		o.APIOptions = append(o.APIOptions, agent(ctx))
	})
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s: %w", c.k.s.timeout, err)
	}
	return err
}

// send makes a request, and once more if the credentials were refused and a new
// login gives others (I4). It returns the credentials that were used last. Its
// error is that of the last request, or of the login.
func (c *call) send(ctx context.Context, do request) (aws.Credentials, error) {
	creds, err := c.k.login.get(ctx, "")
	if err != nil {
		return creds, err
	}
	err = c.attempt(ctx, creds, do)
	if v := verdictOf(err); err == nil || !v.login {
		return creds, err
	}
	if _, skewed := skewIn(err, c.k.env.Clock.Now()); skewed {
		return creds, err // no login helps
	}
	next, e := c.k.login.get(ctx, creds.AccessKeyID)
	if e != nil {
		return creds, fmt.Errorf("%w, and a new login: %w", plain(err), e)
	}
	if next.AccessKeyID == creds.AccessKeyID {
		return creds, err
	}
	return next, c.attempt(ctx, next, do)
}

// use is send for what uses a key: it asks for a second opinion where AWS's
// answer is ambiguous (I3).
func (c *call) use(ctx context.Context, do request) error {
	creds, err := c.send(ctx, do)
	v := verdictOf(err)
	if err == nil || !v.denied && !v.state {
		return c.failed(ctx, err)
	}
	renewed := false
	if v.denied && !c.k.login.fresh(creds.AccessKeyID) {
		// A session can be cut off without its role being so. A role that is gone
		// cannot be had again.
		next, e := c.k.login.get(ctx, creds.AccessKeyID)
		if e != nil {
			return c.failed(ctx, fmt.Errorf("%w, and a new login: %w", plain(err), e))
		}
		renewed = next.AccessKeyID != creds.AccessKeyID
		creds = next
	}
	var state types.KeyState
	e := c.attempt(ctx, creds, func(ctx context.Context, with func(*kms.Options)) error {
		m, _, err := c.k.describe(ctx, c.ref, with)
		if err == nil {
			state = m.KeyState
		}
		return err
	})
	if e != nil {
		second := verdictOf(e)
		switch {
		case ctx.Err() != nil:
			return c.failed(ctx, e)
		case second.class == keystore.Denied && (v.denied || !second.denied):
			return c.fail(keystore.Denied, requestIDOf(err), fmt.Errorf("%w; DescribeKey: %w", plain(err), plain(e)))
		case second.denied: // of a state that cannot be told
			return c.fail(keystore.Unavailable, requestIDOf(err), fmt.Errorf("%w; allow kms:DescribeKey, so that the state is known", plain(err)))
		}
		return c.fail(second.class, requestIDOf(err), fmt.Errorf("%w, and no second opinion: %w", plain(err), plain(e)))
	}
	switch state {
	case types.KeyStateDisabled, types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		return c.fail(keystore.Denied, requestIDOf(err), fmt.Errorf("%w; the key is in state %s", plain(err), state))
	case types.KeyStatePendingImport:
		return c.fail(keystore.Denied, requestIDOf(err), fmt.Errorf("%w; the key has no material: it was deleted, expired or never imported", plain(err)))
	case types.KeyStateUnavailable, types.KeyStateCreating, types.KeyStateUpdating:
		return c.fail(keystore.Unavailable, requestIDOf(err), fmt.Errorf("%w; the key is in state %s", plain(err), state))
	case types.KeyStateEnabled:
	}
	if v.state {
		return c.fail(keystore.Unavailable, requestIDOf(err), fmt.Errorf("%w; DescribeKey says that the key is in state %s", plain(err), clip(string(state))))
	}
	if renewed {
		if err = c.attempt(ctx, creds, do); err == nil || !verdictOf(err).denied {
			return c.failed(ctx, err)
		}
	}
	return c.fail(keystore.Denied, requestIDOf(err), fmt.Errorf("%w; the key is enabled, and its policy or that of this identity does not allow the call", plain(err)))
}

// failed makes the error of a call whose answer needs no second opinion.
func (c *call) failed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	id := requestIDOf(err)
	if e := ctx.Err(); e != nil {
		return c.fail(keystore.Unavailable, id, e)
	}
	v := verdictOf(err)
	class := v.class
	if v.dated {
		if skew, explains := skewIn(err, c.k.env.Clock.Now()); explains {
			return c.fail(keystore.Misconfigured, id, fmt.Errorf("the clock of this machine is %s AWS's; set it: %w", skewText(skew), plain(err)))
		}
	}
	if v.denied || v.state && (c.op == keystore.OpImportParameters || c.op == keystore.OpImportMaterial) {
		class = keystore.Misconfigured // of a call that uses no key
	}
	return c.fail(class, id, plain(err))
}

func skewText(d time.Duration) string {
	if d < 0 {
		return d.Abs().String() + " behind"
	}
	return d.String() + " ahead of"
}

// answered returns the request id of an answer.
func answered(m middleware.Metadata) keystore.RequestID {
	id, _ := awsmiddleware.GetRequestIDMetadata(m)
	return keystore.RequestID(id)
}
