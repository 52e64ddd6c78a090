package azureserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys/fake"
	"github.com/google/uuid"
)

// maxBody bounds what a caller may send, in bytes.
const maxBody = 1 << 20

// hostKey carries the host that the caller asked, from which key ids are made.
type hostKey struct{}

// serveVault is I1: authenticate, authorise, execute, record.
func (s *Server) serveVault(w http.ResponseWriter, r *http.Request) {
	rec := Record{
		TimeGenerated: s.now(), CorrelationID: r.Header.Get("x-ms-client-request-id"), RequestID: uuid.NewString(),
		ClientInfo: r.UserAgent(), HTTPStatusCode: http.StatusOK, ResultSignature: "OK",
		KeyID: "https://" + r.Host + strings.TrimSuffix(r.URL.Path, "/"),
	}
	w.Header().Set("x-ms-request-id", rec.RequestID)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	resp, err := s.vaultCall(r, &rec)
	if err != nil {
		e, ok := errors.AsType[*serviceError](err)
		if !ok {
			e = &serviceError{status: http.StatusNotImplemented, code: "NotImplemented", message: err.Error()}
		}
		rec.HTTPStatusCode, rec.ResultSignature = e.status, e.code
		if e.inner != "" {
			rec.ResultSignature += "/" + e.inner
		}
		s.record(rec)
		if e.status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="%s/%s", resource="%s"`, s.AuthorityURL(), s.tenant, s.flavour.resource()))
		}
		e.write(w)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	s.record(rec)
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the caller went away
}

func (s *Server) vaultCall(r *http.Request, rec *Record) (*http.Response, error) {
	rec.OperationName = "Authentication"
	if e := s.busy(); e != nil {
		return nil, e
	}
	claims, e := s.authenticate(r)
	if e != nil {
		return nil, e
	}
	rec.CallerObjectID, rec.CallerAppID = claims.ObjectID, claims.AppID
	if e := s.told(); e != nil {
		return nil, e
	}
	parts := strings.Split(strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/"), "/")
	if len(parts) < 2 || parts[0] != "keys" {
		return nil, badParameter("The path names no key.")
	}
	last := ""
	switch n := len(parts); {
	case n == 4: // keys, name, version (perhaps empty), operation
		last = parts[3]
	case n == 3 && r.Method == http.MethodPost: // keys, name, operation
		last = parts[2]
	}
	op, ok := s.operation(r.Method, last)
	if !ok {
		return nil, &serviceError{status: http.StatusMethodNotAllowed, code: "MethodNotAllowed", message: "There is no such operation."}
	}
	rec.OperationName = op.name
	if !s.allowed(claims.ObjectID, op.action, parts[1]) {
		return nil, s.notPermitted(claims.ObjectID, op.action)
	}
	// azkeys/fake panics when a caller goes away (it sends on the channel that
	// it closed), so it never learns of it.
	ctx := context.WithValue(context.WithoutCancel(r.Context()), runtime.CtxAPINameKey{}, op.method)
	ctx = context.WithValue(ctx, hostKey{}, r.Host)
	resp, err := s.microsoft.Do(r.WithContext(ctx))
	if err != nil {
		if e, ok := errors.AsType[*serviceError](err); ok {
			return nil, e // azcore/fake has wrapped it
		}
		return nil, err
	}
	return resp, nil
}

// busy answers when the vault refuses for too many calls. Azure counts before
// it authenticates.
func (s *Server) busy() *serviceError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.throttled {
		return nil
	}
	return &serviceError{status: http.StatusTooManyRequests, code: "Throttled", message: "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached", retryAfter: 10}
}

// told answers as [Server.Answer] said.
func (s *Server) told() *serviceError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failing
}

// handlers are what stands behind Microsoft's dispatcher.
func (s *Server) handlers() *fake.Server {
	return &fake.Server{
		GetKey: func(ctx context.Context, name, id string, _ *azkeys.GetKeyOptions) (resp azfake.Responder[azkeys.GetKeyResponse], fail azfake.ErrorResponder) {
			b, err := s.bundle(ctx, name, id)
			if err != nil {
				fail.SetError(err)
				return resp, fail
			}
			resp.SetResponse(http.StatusOK, azkeys.GetKeyResponse{KeyBundle: b}, nil)
			return resp, fail
		},
		WrapKey: func(ctx context.Context, name, id string, p azkeys.KeyOperationParameters, _ *azkeys.WrapKeyOptions) (resp azfake.Responder[azkeys.WrapKeyResponse], fail azfake.ErrorResponder) {
			out, err := s.operate(ctx, name, id, p, azkeys.KeyOperationWrapKey, (*version).wrap)
			if err != nil {
				fail.SetError(err)
				return resp, fail
			}
			resp.SetResponse(http.StatusOK, azkeys.WrapKeyResponse{KeyOperationResult: out}, nil)
			return resp, fail
		},
		UnwrapKey: func(ctx context.Context, name, id string, p azkeys.KeyOperationParameters, _ *azkeys.UnwrapKeyOptions) (resp azfake.Responder[azkeys.UnwrapKeyResponse], fail azfake.ErrorResponder) {
			out, err := s.operate(ctx, name, id, p, azkeys.KeyOperationUnwrapKey, (*version).unwrap)
			if err != nil {
				fail.SetError(err)
				return resp, fail
			}
			resp.SetResponse(http.StatusOK, azkeys.UnwrapKeyResponse{KeyOperationResult: out}, nil)
			return resp, fail
		},
		ImportKey: func(ctx context.Context, name string, p azkeys.ImportKeyParameters, _ *azkeys.ImportKeyOptions) (resp azfake.Responder[azkeys.ImportKeyResponse], fail azfake.ErrorResponder) {
			b, err := s.importKey(ctx, name, p)
			if err != nil {
				fail.SetError(err)
				return resp, fail
			}
			resp.SetResponse(http.StatusOK, azkeys.ImportKeyResponse{KeyBundle: b}, nil)
			return resp, fail
		},
	}
}

// nameAndVersion undoes what the patterns of azkeys/fake make of a path: their
// character class for names has the slash in it, so that a name takes the
// version along, or a slash, and a version may end in one.
func nameAndVersion(name, id string) (string, string) {
	parts := strings.FieldsFunc(name+"/"+id, func(r rune) bool { return r == '/' })
	parts = append(parts, "", "")
	return parts[0], parts[1]
}

// bundle returns a version's public facts. A disabled one has them too.
func (s *Server) bundle(ctx context.Context, name, id string) (azkeys.KeyBundle, error) {
	var b azkeys.KeyBundle
	found := false
	name, id = nameAndVersion(name, id)
	err := s.change(name, func(k *key) error {
		v, ok := k.find(id)
		if !ok {
			return nil
		}
		found = true
		enabled, created, platform := v.enabled, v.created, "2"
		if v.kty == azkeys.KeyTypeRSA {
			platform = "0"
		}
		b = azkeys.KeyBundle{
			Attributes: &azkeys.KeyAttributes{Enabled: &enabled, Created: &created, HSMPlatform: &platform},
			Key:        v.publicKey(kid(ctx, k, v), k.ops),
		}
		return nil
	})
	if err != nil || !found {
		return azkeys.KeyBundle{}, notFound(name)
	}
	return b, nil
}

// kid is the full identifier of a version, at the host that was asked.
func kid(ctx context.Context, k *key, v *version) azkeys.ID {
	host, _ := ctx.Value(hostKey{}).(string)
	return azkeys.ID("https://" + host + "/keys/" + k.name + "/" + v.id)
}

type crypt func(v *version, alg azkeys.EncryptionAlgorithm, value []byte) ([]byte, error)

// operate wraps or unwraps. The cryptography runs outside the lock.
func (s *Server) operate(ctx context.Context, name, id string, p azkeys.KeyOperationParameters, op azkeys.KeyOperation, run crypt) (azkeys.KeyOperationResult, error) {
	if p.Algorithm == nil || len(p.Value) == 0 {
		return azkeys.KeyOperationResult{}, badParameter("Property alg or value is missing.")
	}
	name, id = nameAndVersion(name, id)
	var with version
	var ident azkeys.ID
	refused := notFound(name)
	err := s.change(name, func(k *key) error {
		v, ok := k.find(id)
		switch {
		case !ok:
			return nil
		case !v.enabled:
			refused = forbidden("KeyDisabled", fmt.Sprintf("Operation %s is not allowed on a disabled key.", op))
			return nil
		case !slices.Contains(k.ops, op):
			refused = forbidden("KeyOperationForbidden", fmt.Sprintf("Operation %s is not permitted on this key.", op))
			return nil
		}
		with, ident, refused = *v, kid(ctx, k, v), nil
		return nil
	})
	if err != nil || refused != nil {
		return azkeys.KeyOperationResult{}, refused
	}
	out, err := run(&with, *p.Algorithm, p.Value)
	if err != nil {
		return azkeys.KeyOperationResult{}, err
	}
	return azkeys.KeyOperationResult{KID: &ident, Result: out}, nil
}

// importKey takes a transfer blob.
func (s *Server) importKey(ctx context.Context, name string, p azkeys.ImportKeyParameters) (azkeys.KeyBundle, error) {
	switch {
	case p.Key == nil || p.Key.Kty == nil || len(p.Key.T) == 0:
		return azkeys.KeyBundle{}, badParameter("Property key_hsm or kty is missing.")
	case *p.Key.Kty != azkeys.KeyTypeRSAHSM && (*p.Key.Kty != azkeys.KeyTypeOctHSM || s.flavour != ManagedHSM):
		return azkeys.KeyBundle{}, badParameter(fmt.Sprintf("Keys of type %s cannot be transferred here.", *p.Key.Kty))
	}
	v, err := s.receive(*p.Key.Kty, p.Key.T)
	if err != nil {
		return azkeys.KeyBundle{}, err
	}
	name, _ = nameAndVersion(name, "")
	ops := wrapping()
	if len(p.Key.KeyOps) > 0 {
		ops = nil
		for _, o := range p.Key.KeyOps {
			ops = append(ops, *o)
		}
	}
	if err := s.add(name, v, ops); err != nil {
		return azkeys.KeyBundle{}, &serviceError{
			status: http.StatusConflict, code: "Conflict", inner: "ObjectIsDeletedButRecoverable",
			message: fmt.Sprintf("Key %s is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the key can only be recovered or purged.", name),
		}
	}
	return s.bundle(ctx, name, "")
}
