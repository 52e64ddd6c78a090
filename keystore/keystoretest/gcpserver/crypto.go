package gcpserver

import (
	"context"
	"crypto/rand"
	"hash/crc32"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Google's limits for plaintext and additional data: 64 KiB each for software
// keys, 8 KiB together for keys in an HSM.
const (
	maxSoftware = 64 << 10
	maxHSM      = 8 << 10
)

const ciphertextFormat = 0x0a

func sum(b []byte) int64 { return int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))) }

// verify checks one field of a request against the checksum that came with it,
// and reports whether there was one.
func verify(field string, data []byte, want *wrapperspb.Int64Value) (bool, error) {
	if want == nil {
		return false, nil
	}
	if want.GetValue() != sum(data) {
		return false, status.Error(codes.InvalidArgument, "The checksum in field "+field+"_crc32c did not match the data in field "+field+".")
	}
	return true, nil
}

// Encrypt encrypts under the primary version of a key, or the version that is named.
func (s *Server) Encrypt(_ context.Context, req *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	plainOK, err := verify("plaintext", req.GetPlaintext(), req.GetPlaintextCrc32C())
	if err != nil {
		return nil, err
	}
	aad := req.GetAdditionalAuthenticatedData()
	aadOK, err := verify("additional_authenticated_data", aad, req.GetAdditionalAuthenticatedDataCrc32C())
	if err != nil {
		return nil, err
	}
	v, err := s.use(req.GetName())
	if err != nil {
		return nil, err
	}
	plain := req.GetPlaintext()
	soft := v.key.protection == kmspb.ProtectionLevel_SOFTWARE && len(plain) <= maxSoftware && len(aad) <= maxSoftware
	if len(plain) == 0 || (!soft && len(plain)+len(aad) > maxHSM) {
		return nil, status.Error(codes.InvalidArgument, "The plaintext is empty, or too long with its additional data.")
	}
	nonce := make([]byte, v.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	out := append([]byte{ciphertextFormat}, v.id[:]...)
	out = append(out, nonce...)
	out = v.aead.Seal(out, nonce, plain, aad)
	resp := &kmspb.EncryptResponse{
		Name: v.name(), Ciphertext: out, CiphertextCrc32C: wrapperspb.Int64(sum(out)),
		VerifiedPlaintextCrc32C: plainOK, VerifiedAdditionalAuthenticatedDataCrc32C: aadOK, ProtectionLevel: v.key.protection,
	}
	switch s.faults.garble {
	case GarblePayload:
		resp.Ciphertext[len(out)-1] ^= 1
	case GarbleChecksum:
		resp.CiphertextCrc32C.Value ^= 1
	case GarbleVerified:
		resp.VerifiedPlaintextCrc32C = false
	case GarbleName:
		resp.Name = KeyName("another") + "/cryptoKeyVersions/1"
	case GarbleNothing:
	}
	return resp, nil
}

// Decrypt decrypts what any enabled version of the key encrypted.
func (s *Server) Decrypt(_ context.Context, req *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, aad := req.GetCiphertext(), req.GetAdditionalAuthenticatedData()
	if _, err := verify("ciphertext", b, req.GetCiphertextCrc32C()); err != nil {
		return nil, err
	}
	if _, err := verify("additional_authenticated_data", aad, req.GetAdditionalAuthenticatedDataCrc32C()); err != nil {
		return nil, err
	}
	k, err := s.key(req.GetName())
	if err != nil {
		return nil, err
	}
	if k.purpose != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		return nil, status.Error(codes.InvalidArgument, "The purpose of "+k.name+" is not ENCRYPT_DECRYPT.")
	}
	var id versionID
	if len(b) <= 1+len(id) || b[0] != ciphertextFormat {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
	}
	copy(id[:], b[1:])
	for _, v := range k.versions {
		if v.id != id {
			continue
		}
		if v.state != kmspb.CryptoKeyVersion_ENABLED {
			return nil, notEnabled(v)
		}
		rest := b[1+len(id):]
		n := v.aead.NonceSize()
		if len(rest) < n {
			break
		}
		plain, err := v.aead.Open(nil, rest[:n], rest[n:], aad)
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
		}
		resp := &kmspb.DecryptResponse{
			Plaintext: plain, PlaintextCrc32C: wrapperspb.Int64(sum(plain)),
			UsedPrimary: v == k.primary, ProtectionLevel: k.protection,
		}
		switch s.faults.garble {
		case GarblePayload:
			resp.Plaintext[0] ^= 1
		case GarbleChecksum:
			resp.PlaintextCrc32C.Value ^= 1
		case GarbleNothing, GarbleVerified, GarbleName: // an answer of Decrypt has neither
		}
		return resp, nil
	}
	return nil, status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
}
