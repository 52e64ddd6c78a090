package client

import (
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// MaxPlaintextBytes is what [Client.Encrypt] takes at most. Use client/stream
// for more.
const MaxPlaintextBytes = 1 << 20

// Scope is what a data key or ciphertext is bound to. To open it again, the same
// scope is needed. The zero value names no service and is refused.
type Scope struct {
	// Service is the full name tenants/{tenant}/services/{service}. The short form
	// {tenant}/{service} of the command line is not taken here: code is read more
	// often than it is written, and the full name is what records show.
	Service string
	// Resource is a name of the caller's choice, at most 128 bytes. May be empty.
	Resource string
	// Context is the encryption context: at most 64 pairs and 8 KiB. It is
	// authenticated, not secret. May be nil.
	Context map[string]string
}

// check refuses a scope that names no service, before anything is sent.
func (s Scope) check() error {
	const form = "Scope.Service is the full name tenants/{tenant}/services/{service}"
	if s.Service == "" {
		return errs.New(errs.InvalidArgument, "the scope names no service", errs.Hint(form))
	}
	p := strings.Split(s.Service, "/")
	if len(p) != 4 || p[0] != "tenants" || p[1] == "" || p[2] != "services" || p[3] == "" {
		return errs.New(errs.InvalidArgument, "the service of the scope is not a full name", errs.Hint(form))
	}
	return nil
}

func (s Scope) pairs() []*kryptonv1.ContextPair {
	pairs := make([]*kryptonv1.ContextPair, 0, len(s.Context))
	for _, k := range slices.Sorted(maps.Keys(s.Context)) {
		pairs = append(pairs, &kryptonv1.ContextPair{Key: k, Value: s.Context[k]})
	}
	return pairs
}

// DataKey is a data key in the clear and wrapped. Keep Wrapped, wipe Plaintext.
type DataKey struct {
	Plaintext Secret
	Wrapped   []byte
	// KeyVersion is the name of the version of the service key that wraps it.
	KeyVersion string
}

// GenerateDataKey makes a data key of length bytes, 16 to 64; 0 means 32. The
// cluster keeps no copy.
func (c *Client) GenerateDataKey(ctx context.Context, s Scope, length int, opts ...grpc.CallOption) (DataKey, error) {
	if length != 0 && (length < 16 || length > 64) {
		return DataKey{}, errs.Newf(errs.InvalidArgument, "a data key of %d bytes is asked for, 16 to 64 are possible", length).
			With(errs.Hint("0 means 32"))
	}
	if err := s.check(); err != nil {
		return DataKey{}, err
	}
	r, err := c.Crypto().GenerateDataKey(ctx, &kryptonv1.GenerateDataKeyRequest{
		Service: s.Service, Resource: s.Resource, EncryptionContext: s.pairs(), Length: uint32(length), //nolint:gosec // 0, or 16 to 64.
	}, opts...)
	if err != nil {
		return DataKey{}, err
	}
	return DataKey{Plaintext: NewSecret(r.GetPlaintext()), Wrapped: r.GetWrapped(), KeyVersion: r.GetKeyVersion()}, nil
}

// UnwrapDataKey returns a data key in the clear. A key that does not open, for
// whatever reason, is an error of code INTEGRITY.
func (c *Client) UnwrapDataKey(ctx context.Context, s Scope, wrapped []byte, opts ...grpc.CallOption) (DataKey, error) {
	if err := s.check(); err != nil {
		return DataKey{}, err
	}
	r, err := c.Crypto().UnwrapDataKey(ctx, &kryptonv1.UnwrapDataKeyRequest{
		Service: s.Service, Resource: s.Resource, EncryptionContext: s.pairs(), Wrapped: wrapped,
	}, opts...)
	if err != nil {
		return DataKey{}, err
	}
	return DataKey{Plaintext: NewSecret(r.GetPlaintext()), Wrapped: wrapped, KeyVersion: r.GetKeyVersion()}, nil
}

// RewrapDataKey wraps a data key under the present version of the service key,
// without showing it. The result has no Plaintext. previous names the version
// that wrapped it before.
func (c *Client) RewrapDataKey(ctx context.Context, s Scope, wrapped []byte, opts ...grpc.CallOption) (key DataKey, previous string, err error) {
	if err := s.check(); err != nil {
		return DataKey{}, "", err
	}
	r, err := c.Crypto().RewrapDataKey(ctx, &kryptonv1.RewrapDataKeyRequest{
		Service: s.Service, Resource: s.Resource, EncryptionContext: s.pairs(), Wrapped: wrapped,
	}, opts...)
	if err != nil {
		return DataKey{}, "", err
	}
	return DataKey{Wrapped: r.GetWrapped(), KeyVersion: r.GetKeyVersion()}, r.GetPreviousKeyVersion(), nil
}

// Encrypt encrypts up to [MaxPlaintextBytes] on a node. plaintext is left as it is.
func (c *Client) Encrypt(ctx context.Context, s Scope, plaintext []byte, opts ...grpc.CallOption) (ciphertext []byte, err error) {
	if len(plaintext) > MaxPlaintextBytes {
		return nil, errs.Newf(errs.TooLarge, "plaintext has %d bytes, at most %d are encrypted at once", len(plaintext), MaxPlaintextBytes).
			With(errs.Hint("use a data key, or client/stream, or krypton encrypt"))
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	r, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{
		Service: s.Service, Resource: s.Resource, EncryptionContext: s.pairs(), Plaintext: plaintext,
	}, opts...)
	if err != nil {
		return nil, err
	}
	return r.GetCiphertext(), nil
}

// Decrypt opens what [Client.Encrypt] made. A ciphertext that does not open, for
// whatever reason, is an error of code INTEGRITY.
func (c *Client) Decrypt(ctx context.Context, s Scope, ciphertext []byte, opts ...grpc.CallOption) (Secret, error) {
	if err := s.check(); err != nil {
		return Secret{}, err
	}
	r, err := c.Crypto().Decrypt(ctx, &kryptonv1.DecryptRequest{
		Service: s.Service, Resource: s.Resource, EncryptionContext: s.pairs(), Ciphertext: ciphertext,
	}, opts...)
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(r.GetPlaintext()), nil
}
