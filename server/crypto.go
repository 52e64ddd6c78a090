package server

import (
	"context"
	"slices"
	"strings"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/node"
)

type cryptoServer struct {
	kryptonv1.UnimplementedCryptoServer
	*calls
}

// dataRequest is what every data operation says about its key.
type dataRequest interface {
	GetService() string
	GetResource() string
	GetEncryptionContext() []*kryptonv1.ContextPair
}

// target checks names and encryption context before anything else happens. What it
// takes for the name of a service is in the one spelling that a name has, so it is
// the object of the call as it stands.
func target(r dataRequest) (t node.Target, err error) {
	p, err := path(r.GetService(), "service", hierarchy.KindService)
	if err != nil {
		return t, err
	}
	t.Tenant, t.Service = p.Tenant, p.Service
	if r.GetResource() != "" {
		if t.Resource, err = hierarchy.ParseResourceID(r.GetResource()); err != nil {
			return t, err
		}
	}
	pairs := make([]hierarchy.ContextPair, len(r.GetEncryptionContext()))
	for i, p := range r.GetEncryptionContext() {
		pairs[i] = hierarchy.ContextPair{Key: p.GetKey(), Value: p.GetValue()}
	}
	t.Context, err = hierarchy.NewEncryptionContext(pairs...)
	return t, err
}

// path parses a name that has to be of one of the kinds.
func path(name, field string, kinds ...hierarchy.Kind) (hierarchy.Path, error) {
	if name == "" {
		return hierarchy.Path{}, errs.New(errs.InvalidArgument, field+" is missing", errs.Hint("it looks like %s", looksLike(kinds)))
	}
	p, err := hierarchy.ParsePath(name)
	switch {
	case err != nil:
		return p, inField(field, err)
	case !slices.Contains(kinds, p.Kind):
		return p, errs.New(errs.InvalidArgument, field+" names another kind of object", errs.Hint("it looks like %s", looksLike(kinds)))
	}
	return p, nil
}

// inField says in which field of the request a mistake is.
func inField(field string, err error) error {
	e := *errs.From(err)
	if !strings.HasPrefix(e.Msg, field+" ") {
		e.Msg = field + ": " + e.Msg
	}
	return &e
}

// examples are names of the kinds that requests name.
//
//nolint:gochecknoglobals // Immutable table.
var examples = map[hierarchy.Kind]string{
	hierarchy.KindTenant:         "tenants/acme",
	hierarchy.KindTenantVersion:  "tenants/acme/versions/3",
	hierarchy.KindService:        "tenants/acme/services/payments",
	hierarchy.KindServiceVersion: "tenants/acme/services/payments/versions/3",
	hierarchy.KindResource:       "tenants/acme/services/payments/resources/table-7",

	hierarchy.KindPolicy:            "tenants/acme/policies/payments",
	hierarchy.KindIssuer:            "issuers/corp",
	hierarchy.KindTenantIssuer:      "tenants/acme/issuers/k8s",
	hierarchy.KindRoleBinding:       "roleBindings/governor-alice",
	hierarchy.KindTenantRoleBinding: "tenants/acme/roleBindings/app1",
}

func looksLike(kinds []hierarchy.Kind) string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = examples[k]
	}
	return strings.Join(out, " or ")
}

// details is what the record of a data operation says beside its outcome, also
// when it failed.
func details(in, out int, used node.Used) gate.Details {
	return gate.Details{
		BytesIn: uint64(in), BytesOut: uint64(out), //nolint:gosec // Lengths.
		KeyVersion: used.UID, KeystoreRequest: used.KeystoreRequest,
	}
}

// GenerateDataKey implements kryptonv1.CryptoServer.
func (s cryptoServer) GenerateDataKey(ctx context.Context, r *kryptonv1.GenerateDataKeyRequest) (*kryptonv1.GenerateDataKeyResponse, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.GenerateDataKeyResponse{}
	err = s.do(ctx, gate.GenerateDataKey, r.GetService(), func(tok gate.Token) error {
		key, wrapped, used, err := s.node.GenerateDataKey(ctx, tok, t, int(r.GetLength()))
		tok.Describe(details(0, len(wrapped), used))
		if err != nil {
			return err
		}
		defer key.Destroy()
		out.Wrapped, out.KeyVersion = wrapped, used.Name
		if r.GetWithoutPlaintext() {
			return nil
		}
		return reveal.With(key, func(b []byte) error {
			out.Plaintext = append([]byte(nil), b...)
			return nil
		})
	})
	if err != nil {
		clear(out.GetPlaintext())
		return nil, err
	}
	return out, nil
}

// UnwrapDataKey implements kryptonv1.CryptoServer.
func (s cryptoServer) UnwrapDataKey(ctx context.Context, r *kryptonv1.UnwrapDataKeyRequest) (*kryptonv1.UnwrapDataKeyResponse, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.UnwrapDataKeyResponse{}
	err = s.do(ctx, gate.UnwrapDataKey, r.GetService(), func(tok gate.Token) error {
		key, used, err := s.node.UnwrapDataKey(ctx, tok, t, r.GetWrapped())
		tok.Describe(details(len(r.GetWrapped()), 0, used))
		if err != nil {
			return err
		}
		defer key.Destroy()
		out.KeyVersion = used.Name
		return reveal.With(key, func(b []byte) error {
			out.Plaintext = append([]byte(nil), b...)
			return nil
		})
	})
	if err != nil {
		clear(out.GetPlaintext())
		return nil, err
	}
	return out, nil
}

// RewrapDataKey implements kryptonv1.CryptoServer.
func (s cryptoServer) RewrapDataKey(ctx context.Context, r *kryptonv1.RewrapDataKeyRequest) (*kryptonv1.RewrapDataKeyResponse, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.RewrapDataKeyResponse{}
	err = s.do(ctx, gate.RewrapDataKey, r.GetService(), func(tok gate.Token) error {
		wrapped, used, before, err := s.node.RewrapDataKey(ctx, tok, t, r.GetWrapped())
		tok.Describe(details(len(r.GetWrapped()), len(wrapped), used))
		if err != nil {
			return err
		}
		out.Wrapped, out.KeyVersion, out.PreviousKeyVersion = wrapped, used.Name, before.Name
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Encrypt implements kryptonv1.CryptoServer.
func (s cryptoServer) Encrypt(ctx context.Context, r *kryptonv1.EncryptRequest) (*kryptonv1.EncryptResponse, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.EncryptResponse{}
	err = s.do(ctx, gate.Encrypt, r.GetService(), func(tok gate.Token) error {
		ciphertext, used, err := s.node.Encrypt(ctx, tok, t, r.GetPlaintext())
		tok.Describe(details(len(r.GetPlaintext()), len(ciphertext), used))
		if err != nil {
			return err
		}
		out.Ciphertext, out.KeyVersion = ciphertext, used.Name
		return nil
	})
	clear(r.GetPlaintext()) // ours alone: decoded for this call
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Decrypt implements kryptonv1.CryptoServer.
func (s cryptoServer) Decrypt(ctx context.Context, r *kryptonv1.DecryptRequest) (*kryptonv1.DecryptResponse, error) {
	t, err := target(r)
	if err != nil {
		return nil, err
	}
	out := &kryptonv1.DecryptResponse{}
	err = s.do(ctx, gate.Decrypt, r.GetService(), func(tok gate.Token) error {
		plaintext, used, err := s.node.Decrypt(ctx, tok, t, r.GetCiphertext())
		tok.Describe(details(len(r.GetCiphertext()), len(plaintext), used))
		if err != nil {
			return err
		}
		out.Plaintext, out.KeyVersion = plaintext, used.Name
		return nil
	})
	if err != nil {
		clear(out.GetPlaintext())
		return nil, err
	}
	return out, nil
}
