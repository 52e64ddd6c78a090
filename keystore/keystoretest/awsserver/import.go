package awsserver

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"time"
)

// importing is one outstanding import: a wrapping key for one KMS key.
type importing struct {
	key     string // ARN
	private *rsa.PrivateKey
	expires time.Time
}

func internal(err error) *refusal {
	return &refusal{status: http.StatusInternalServerError, code: "KMSInternalException", message: err.Error()}
}

// importParameters is GetParametersForImport as AWS has it today; local-kms
// knows RSA-2048 only. RSA with AES key wrap is for private keys.
func (s *Server) importParameters(ctx context.Context, key keyMetadata, body []byte) (answer, *refusal) {
	var in struct{ WrappingAlgorithm, WrappingKeySpec string }
	if err := json.Unmarshal(body, &in); err != nil {
		return answer{}, refuse("SerializationException", "")
	}
	if in.WrappingKeySpec != "RSA_4096" {
		return s.pass(ctx, "GetParametersForImport", body)
	}
	if in.WrappingAlgorithm != "RSAES_OAEP_SHA_256" {
		return answer{}, refuse("UnsupportedOperationException", "the wrapping algorithm is not for key material of "+key.KeySpec)
	}
	if key.Origin != "EXTERNAL" {
		return answer{}, refuse("UnsupportedOperationException", key.Arn+" origin is "+key.Origin+" which is not valid for this operation.")
	}
	if key.KeyState == "PendingDeletion" {
		return answer{}, refuse("KMSInvalidStateException", key.Arn+" is pending deletion.")
	}
	private, err := s.wrapping()
	if err != nil {
		return answer{}, internal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return answer{}, internal(err)
	}
	token := random(512)
	expires := s.now().Add(24 * time.Hour).Truncate(time.Second)
	s.mu.Lock()
	s.imports[token] = &importing{key: key.Arn, private: private, expires: expires}
	s.mu.Unlock()
	return s.answer(map[string]any{"KeyId": key.Arn, "ImportToken": []byte(token), "PublicKey": der, "ParametersValidTo": expires.Unix()})
}

// importMaterial opens what was wrapped under the server's key and imports it
// into local-kms under local-kms's own.
func (s *Server) importMaterial(ctx context.Context, key keyMetadata, body []byte) (answer, *refusal) {
	var in struct {
		ImportToken, EncryptedKeyMaterial []byte
		ExpirationModel                   string
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return answer{}, refuse("SerializationException", "")
	}
	s.mu.Lock()
	im, ok := s.imports[string(in.ImportToken)]
	s.mu.Unlock()
	switch {
	case key.KeyState == "PendingDeletion":
		return answer{}, refuse("KMSInvalidStateException", key.Arn+" is pending deletion.")
	case !ok || im.key != key.Arn:
		return answer{}, refuse("InvalidImportTokenException", "")
	case !s.now().Before(im.expires):
		return answer{}, refuse("ExpiredImportTokenException", "")
	}
	material, err := rsa.DecryptOAEP(sha256.New(), nil, im.private, in.EncryptedKeyMaterial, nil)
	if err != nil {
		return answer{}, refuse("InvalidCiphertextException", "")
	}
	var params struct{ PublicKey, ImportToken []byte }
	if err := s.child.own(ctx, "TrentService.GetParametersForImport", map[string]any{"KeyId": key.Arn, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}, &params); err != nil {
		return answer{}, internal(err)
	}
	public, err := x509.ParsePKIXPublicKey(params.PublicKey)
	if err != nil {
		return answer{}, internal(err)
	}
	theirs, ok := public.(*rsa.PublicKey)
	if !ok {
		return answer{}, refuse("KMSInternalException", "")
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, theirs, material, nil)
	if err != nil {
		return answer{}, internal(err)
	}
	inner, err := json.Marshal(map[string]any{"KeyId": key.Arn, "ImportToken": params.ImportToken, "EncryptedKeyMaterial": wrapped, "ExpirationModel": in.ExpirationModel})
	if err != nil {
		return answer{}, internal(err)
	}
	if _, no := s.pass(ctx, "ImportKeyMaterial", inner); no != nil {
		return answer{}, no
	}
	return s.answer(map[string]any{"KeyId": key.Arn})
}

// newWrapping makes the wrapping key. AWS makes one for each request; this
// server makes one for all, since it takes a second.
func newWrapping() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 4096) }

func (s *Server) answer(v any) (answer, *refusal) {
	text, err := json.Marshal(v)
	if err != nil {
		return answer{}, internal(err)
	}
	return answer{status: http.StatusOK, body: text}, nil
}
