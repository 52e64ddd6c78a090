// Package byok wraps key material for the import into a customer's keystore, which is what the customer's own tool does, offline.
//
// # Format
//
// What [Wrap] makes is laid down by the keystores; see keystore.ImportMechanism.
//
//	RSAES_OAEP_SHA_256        RSA-OAEP(SHA-256, MGF1 SHA-256, empty label) of the material
//	RSAES_OAEP_SHA_1          the same with SHA-1 and MGF1 SHA-1
//	RSA_AES_KEY_WRAP_SHA_256  RSA-OAEP(SHA-256) of 32 random bytes K || AES-KWP(K, material)
//	RSA_AES_KEY_WRAP_SHA_1    the same with SHA-1 and MGF1 SHA-1 in OAEP
//	CKM_RSA_AES_KEY_WRAP      as RSA_AES_KEY_WRAP_SHA_1
//	azure-byok                {"schema_version":"1.0.0","header":{"kid":...,"alg":"dir","enc":"CKM_RSA_AES_KEY_WRAP"},
//	                          "ciphertext":base64url of CKM_RSA_AES_KEY_WRAP bytes,"generator":"krypton"}
//
// # Invariants
//
//   - I1: material and one-time key are in protected memory or in one buffer that is wiped before Wrap returns.
//   - I2: only RSA keys of 2048 bits and more are wrapped under.
//
// # Concurrency
//
// There is no state.
//
// # Failure
//
// Parameters that cannot be used are an error; nothing is wrapped weaker than asked.
//
// # Source
//
// RFC 8017 (RSA-OAEP), RFC 5649 and NIST SP 800-38F (AES-KWP), PKCS#11 v2.40
// 2.1.21 (CKM_RSA_AES_KEY_WRAP), Azure's BYOK transfer format 1.0.0.
package byok

import (
	"crypto/aes"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // Inside OAEP, where keystores ask for it; OAEP needs no collision resistance.
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

const (
	// MaxMaterial is the longest material that is wrapped, in bytes: an AES-256
	// key is 32, and no keystore imports a longer symmetric one for wrapping.
	MaxMaterial = 64
	minModulus  = 2048
	maxModulus  = 8192
	oneTimeSize = 32
)

// Wrap wraps material of 1 to [MaxMaterial] bytes under the parameters of a
// keystore, for keystore.ImportMaterialRequest. It does not look at
// params.Expires: the keystore does, by its own clock.
func Wrap(rand io.Reader, params keystore.ImportParameters, material memsec.Secret) ([]byte, error) {
	pub, err := publicKey(params.PublicKey)
	if err != nil {
		return nil, err
	}
	if n := material.Len(); material.IsZero() || n < 1 || n > MaxMaterial {
		return nil, fmt.Errorf("key material of %d bytes, the limits are 1 and %d", n, MaxMaterial)
	}
	switch params.Mechanism {
	case keystore.ImportOAEP256:
		return oaep(sha256.New(), rand, pub, material)
	case keystore.ImportOAEP1:
		return oaep(sha1.New(), rand, pub, material) //nolint:gosec // As above.
	case keystore.ImportRSAAESKeyWrap256:
		return keyWrap(sha256.New(), rand, pub, material)
	case keystore.ImportRSAAESKeyWrap1, keystore.ImportCKMRSAAESKeyWrap:
		return keyWrap(sha1.New(), rand, pub, material) //nolint:gosec // As above.
	case keystore.ImportAzureBYOK:
		return azure(rand, pub, params.KeyID, material)
	}
	return nil, fmt.Errorf("unknown import mechanism %q", string(params.Mechanism))
}

func publicKey(der []byte) (*rsa.PublicKey, error) {
	if len(der) > keystore.MaxImportPublicKey {
		return nil, fmt.Errorf("public key of %d bytes, the limit is %d", len(der), keystore.MaxImportPublicKey)
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("the keystore's public key is no PKIX key: %w", err)
	}
	pub, ok := k.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("the keystore's public key is not RSA")
	}
	if n := pub.N.BitLen(); n < minModulus || n > maxModulus { // I2
		return nil, fmt.Errorf("the keystore's RSA key has %d bits, want %d to %d", n, minModulus, maxModulus)
	}
	return pub, nil
}

func oaep(h hash.Hash, rand io.Reader, pub *rsa.PublicKey, s memsec.Secret) (out []byte, err error) {
	err = reveal.With(s, func(b []byte) error {
		out, err = rsa.EncryptOAEP(h, rand, pub, b, nil)
		return err
	})
	return out, err
}

func keyWrap(h hash.Hash, rand io.Reader, pub *rsa.PublicKey, material memsec.Secret) (out []byte, err error) {
	once, err := memsec.Random(rand, oneTimeSize, memsec.Hot)
	if err != nil {
		return nil, err
	}
	defer once.Destroy()
	if out, err = oaep(h, rand, pub, once); err != nil {
		return nil, err
	}
	err = reveal.With(once, func(kek []byte) error {
		return reveal.With(material, func(b []byte) error {
			out, err = appendKWP(out, kek, b)
			return err
		})
	})
	return out, err
}

// appendKWP appends the AES-KWP wrapping (RFC 5649) of b under kek to dst. The
// standard library has AES and no KWP; the working buffer is wiped (I1).
func appendKWP(dst, kek, b []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	padded := (len(b) + 7) / 8 * 8
	r := make([]byte, 8+padded)
	defer clear(r)
	copy(r[8:], b)
	// The alternative initial value: a constant and the length in bytes.
	binary.BigEndian.PutUint32(r, 0xA65959A6)
	binary.BigEndian.PutUint32(r[4:], uint32(len(b))) //nolint:gosec // At most MaxMaterial.
	if padded == 8 {
		block.Encrypt(r, r)
		return append(dst, r...), nil
	}
	var work [16]byte
	defer clear(work[:])
	n := padded / 8
	copy(work[:8], r[:8])
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(work[8:], r[8*i:8*i+8])
			block.Encrypt(work[:], work[:])
			t := uint64(n*j + i)
			binary.BigEndian.PutUint64(work[:8], binary.BigEndian.Uint64(work[:8])^t)
			copy(r[8*i:], work[8:])
		}
	}
	copy(r, work[:8])
	return append(dst, r...), nil
}

// transfer is Azure's document, in the order of its specification.
type transfer struct {
	SchemaVersion string         `json:"schema_version"`
	Header        transferHeader `json:"header"`
	Ciphertext    string         `json:"ciphertext"`
	Generator     string         `json:"generator"`
}

type transferHeader struct {
	KeyID     string `json:"kid"`
	Algorithm string `json:"alg"`
	Enc       string `json:"enc"`
}

func azure(rand io.Reader, pub *rsa.PublicKey, kid string, material memsec.Secret) ([]byte, error) {
	if kid == "" {
		return nil, errors.New("the parameters lack the key id of the key exchange key")
	}
	wrapped, err := keyWrap(sha1.New(), rand, pub, material) //nolint:gosec // As above.
	if err != nil {
		return nil, err
	}
	return json.Marshal(transfer{
		SchemaVersion: "1.0.0", Generator: "krypton", Ciphertext: base64.RawURLEncoding.EncodeToString(wrapped),
		Header: transferHeader{KeyID: kid, Algorithm: "dir", Enc: "CKM_RSA_AES_KEY_WRAP"},
	})
}
