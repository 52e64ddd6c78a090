package clienttest

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// cryptoServer wraps data keys with AES-256-GCM under the version's key:
// uid (16) | nonce (12) | ciphertext. It is no example of how to do it.
type cryptoServer struct {
	kryptonv1.UnimplementedCryptoServer
	reg *registry
}

// scope is what the requests have in common.
type scope interface {
	GetService() string
	GetResource() string
	GetEncryptionContext() []*kryptonv1.ContextPair
}

var errClosed = errors.New("does not open")

func (s cryptoServer) service(ctx context.Context, r scope) (*kryptonv1.Service, error) {
	role, rest := roleOf(ctx)
	tenant, _, _ := strings.Cut(rest, "/")
	if role != "workload" {
		return nil, errs.New(errs.Denied, "a "+role+" may not use keys", errs.Hint("use the certificate of a workload"))
	}
	if !strings.HasPrefix(r.GetService(), "tenants/"+tenant+"/services/") {
		return nil, errs.New(errs.NotFound, "no such service", errs.Hint("list them with: krypton service list"))
	}
	svc, err := s.reg.service(r.GetService())
	if err != nil {
		return nil, err
	}
	t, err := s.reg.tenant("tenants/" + tenant)
	if err != nil {
		return nil, err
	}
	if svc.GetState() != active || t.GetState() != active {
		return nil, errs.New(errs.FailedState, "the tenant or service is suspended", errs.Hint("resume it first"))
	}
	if len(r.GetResource()) > 128 {
		return nil, errs.New(errs.InvalidArgument, "resource id is longer than 128 bytes")
	}
	for _, p := range r.GetEncryptionContext() {
		if p.GetKey() == "" || strings.HasPrefix(p.GetKey(), "krypton") {
			return nil, errs.New(errs.InvalidArgument, "encryption context has a key that is empty or reserved")
		}
	}
	return svc, nil
}

func (s cryptoServer) aead(v *kryptonv1.KeyVersion) (cipher.AEAD, error) {
	block, err := aes.NewCipher(s.reg.keys[v.GetUid()])
	if err != nil {
		return nil, errs.New(errs.FailedState, "the key version is destroyed")
	}
	return cipher.NewGCM(block)
}

func aad(purpose string, svc *kryptonv1.Service, r scope) []byte {
	put := func(b []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
	}
	b := put(put(put(nil, purpose), svc.GetUid()), r.GetResource())
	pairs := slices.SortedFunc(slices.Values(r.GetEncryptionContext()), func(a, b *kryptonv1.ContextPair) int { return cmp.Compare(a.GetKey(), b.GetKey()) })
	for _, p := range pairs {
		b = put(put(b, p.GetKey()), p.GetValue())
	}
	return b
}

func (s cryptoServer) wrap(purpose string, svc *kryptonv1.Service, r scope, plain []byte) ([]byte, string, error) {
	num := svc.GetPrimaryVersion()
	if res := s.reg.resources[svc.GetName()+"/resources/"+r.GetResource()]; res.GetVersion() != 0 {
		num = res.GetVersion()
	}
	v := svc.GetVersions()[num-1]
	if v.GetState() != vActive {
		return nil, "", errs.New(errs.FailedState, "the key version does not wrap in its state", errs.Hint("rotate first"))
	}
	a, err := s.aead(v)
	if err != nil {
		return nil, "", err
	}
	out, err := hex.DecodeString(v.GetUid())
	if err != nil {
		return nil, "", err
	}
	nonce := make([]byte, a.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	out = append(out, nonce...)
	return a.Seal(out, nonce, plain, aad(purpose, svc, r)), v.GetName(), nil
}

func (s cryptoServer) unwrap(purpose string, svc *kryptonv1.Service, r scope, blob []byte) ([]byte, string, error) {
	if len(blob) < 28 {
		return nil, "", errs.DoesNotOpen(errClosed)
	}
	for _, v := range svc.GetVersions() {
		if v.GetUid() != hex.EncodeToString(blob[:16]) {
			continue
		}
		a, err := s.aead(v)
		if err != nil {
			return nil, "", err
		}
		plain, err := a.Open(nil, blob[16:28], blob[28:], aad(purpose, svc, r))
		if err != nil {
			return nil, "", errs.DoesNotOpen(err)
		}
		if v.GetState() != vActive && v.GetState() != vDeprecated {
			return nil, "", errs.New(errs.FailedState, "the key version is disabled", errs.Hint("enable it first"))
		}
		return plain, v.GetName(), nil
	}
	return nil, "", errs.DoesNotOpen(errClosed)
}

const (
	purposeDEK  = "dek"
	purposeData = "data"
)

func (s cryptoServer) GenerateDataKey(ctx context.Context, r *kryptonv1.GenerateDataKeyRequest) (*kryptonv1.GenerateDataKeyResponse, error) {
	svc, err := s.service(ctx, r)
	if err != nil {
		return nil, err
	}
	n := r.GetLength()
	if n == 0 {
		n = 32
	}
	if n < 16 || n > 64 {
		return nil, errs.New(errs.InvalidArgument, "a data key has 16 to 64 bytes")
	}
	key := make([]byte, n)
	_, _ = rand.Read(key) // never fails
	wrapped, version, err := s.wrap(purposeDEK, svc, r, key)
	if err != nil {
		return nil, err
	}
	resp := &kryptonv1.GenerateDataKeyResponse{Wrapped: wrapped, KeyVersion: version}
	if !r.GetWithoutPlaintext() {
		resp.Plaintext = key
	}
	return resp, nil
}

func (s cryptoServer) UnwrapDataKey(ctx context.Context, r *kryptonv1.UnwrapDataKeyRequest) (*kryptonv1.UnwrapDataKeyResponse, error) {
	svc, err := s.service(ctx, r)
	if err != nil {
		return nil, err
	}
	key, version, err := s.unwrap(purposeDEK, svc, r, r.GetWrapped())
	if err != nil {
		return nil, err
	}
	return &kryptonv1.UnwrapDataKeyResponse{Plaintext: key, KeyVersion: version}, nil
}

func (s cryptoServer) RewrapDataKey(ctx context.Context, r *kryptonv1.RewrapDataKeyRequest) (*kryptonv1.RewrapDataKeyResponse, error) {
	svc, err := s.service(ctx, r)
	if err != nil {
		return nil, err
	}
	key, old, err := s.unwrap(purposeDEK, svc, r, r.GetWrapped())
	if err != nil {
		return nil, err
	}
	wrapped, version, err := s.wrap(purposeDEK, svc, r, key)
	if err != nil {
		return nil, err
	}
	return &kryptonv1.RewrapDataKeyResponse{Wrapped: wrapped, KeyVersion: version, PreviousKeyVersion: old}, nil
}

func (s cryptoServer) Encrypt(ctx context.Context, r *kryptonv1.EncryptRequest) (*kryptonv1.EncryptResponse, error) {
	svc, err := s.service(ctx, r)
	if err != nil {
		return nil, err
	}
	ct, version, err := s.wrap(purposeData, svc, r, r.GetPlaintext())
	if err != nil {
		return nil, err
	}
	return &kryptonv1.EncryptResponse{Ciphertext: ct, KeyVersion: version}, nil
}

func (s cryptoServer) Decrypt(ctx context.Context, r *kryptonv1.DecryptRequest) (*kryptonv1.DecryptResponse, error) {
	svc, err := s.service(ctx, r)
	if err != nil {
		return nil, err
	}
	plain, version, err := s.unwrap(purposeData, svc, r, r.GetCiphertext())
	if err != nil {
		return nil, err
	}
	return &kryptonv1.DecryptResponse{Plaintext: plain, KeyVersion: version}, nil
}
