package azureserver

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // Azure's transfer format has it inside OAEP, which needs no collision resistance.
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"math/big"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

// key is one key with its versions. It is guarded by Server.mu.
type key struct {
	name     string
	ops      []azkeys.KeyOperation
	versions []*version // oldest first
	deleted  time.Time  // zero: not deleted
}

// version is one version. One of rsa and aes is set.
type version struct {
	id      string // 32 hex digits
	kty     azkeys.KeyType
	rsa     *rsa.PrivateKey
	aes     cipher.Block // of oct-HSM keys
	enabled bool
	created time.Time
}

func (k *key) find(id string) (*version, bool) {
	if id == "" {
		return k.versions[len(k.versions)-1], true
	}
	for _, v := range k.versions {
		if v.id == id {
			return v, true
		}
	}
	return nil, false
}

// wrapping are the operations of a key that wraps.
func wrapping() []azkeys.KeyOperation {
	return []azkeys.KeyOperation{azkeys.KeyOperationWrapKey, azkeys.KeyOperationUnwrapKey}
}

// CreateRSA makes a key of the given number of bits, or a version of the one
// that is there, in the HSM of the vault.
func (s *Server) CreateRSA(name string, bits int) error {
	return s.create(name, azkeys.KeyTypeRSAHSM, bits, wrapping())
}

// CreateSoftwareRSA makes an RSA key that is not in the HSM.
func (s *Server) CreateSoftwareRSA(name string, bits int) error {
	return s.create(name, azkeys.KeyTypeRSA, bits, wrapping())
}

// CreateAES makes an AES-256 key, which only a Managed HSM has.
func (s *Server) CreateAES(name string) error {
	return s.create(name, azkeys.KeyTypeOctHSM, 256, wrapping())
}

// CreateKEK makes a key exchange key: RSA in the HSM, good for imports only.
func (s *Server) CreateKEK(name string, bits int) error {
	return s.create(name, azkeys.KeyTypeRSAHSM, bits, []azkeys.KeyOperation{azkeys.KeyOperationImport})
}

func (s *Server) create(name string, kty azkeys.KeyType, bits int, ops []azkeys.KeyOperation) error {
	v := &version{kty: kty, enabled: true}
	switch kty {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		var err error
		if v.rsa, err = rsa.GenerateKey(rand.Reader, bits); err != nil {
			return err
		}
	case azkeys.KeyTypeOctHSM:
		if s.flavour != ManagedHSM {
			return fmt.Errorf("a %s has no keys of type %s", s.flavour, kty)
		}
		raw := make([]byte, 32)
		if _, err := rand.Read(raw); err != nil {
			return err
		}
		var err error
		if v.aes, err = aes.NewCipher(raw); err != nil {
			return err
		}
	case azkeys.KeyTypeEC, azkeys.KeyTypeECHSM, azkeys.KeyTypeOct:
		return fmt.Errorf("keys of type %s are not modelled", kty)
	}
	return s.add(name, v, ops)
}

// add makes v the current version of the key.
func (s *Server) add(name string, v *version, ops []azkeys.KeyOperation) error {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	v.id = hex.EncodeToString(id[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	v.created = s.now()
	k, there := s.keys[strings.ToLower(name)]
	switch {
	case !there:
		k = &key{name: name, ops: ops}
		s.keys[strings.ToLower(name)] = k
	case !k.deleted.IsZero():
		return ErrConflict
	}
	k.ops = ops
	k.versions = append(k.versions, v)
	return nil
}

// change runs fn on a key that is not deleted.
func (s *Server) change(name string, fn func(*key) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, there := s.keys[strings.ToLower(name)]
	if !there || !k.deleted.IsZero() {
		return ErrNotFound
	}
	return fn(k)
}

// SetEnabled enables or disables all versions of a key.
func (s *Server) SetEnabled(name string, enabled bool) error {
	return s.change(name, func(k *key) error {
		for _, v := range k.versions {
			v.enabled = enabled
		}
		return nil
	})
}

// SetVersionEnabled enables or disables one version of a key.
func (s *Server) SetVersionEnabled(name, id string, enabled bool) error {
	return s.change(name, func(k *key) error {
		v, ok := k.find(id)
		if !ok {
			return ErrNotFound
		}
		v.enabled = enabled
		return nil
	})
}

// SetOperations changes what a key may be used for.
func (s *Server) SetOperations(name string, ops ...azkeys.KeyOperation) error {
	return s.change(name, func(k *key) error { k.ops = ops; return nil })
}

// Versions returns the ids of a key's versions, oldest first.
func (s *Server) Versions(name string) ([]string, error) {
	var ids []string
	err := s.change(name, func(k *key) error {
		for _, v := range k.versions {
			ids = append(ids, v.id)
		}
		return nil
	})
	return ids, err
}

// Rotate makes a new version of a key, of the same type and size.
func (s *Server) Rotate(name string) error {
	var last version
	var ops []azkeys.KeyOperation
	if err := s.change(name, func(k *key) error {
		last, ops = *k.versions[len(k.versions)-1], k.ops
		return nil
	}); err != nil {
		return err
	}
	bits := 256
	if last.rsa != nil {
		bits = last.rsa.N.BitLen()
	}
	return s.create(name, last.kty, bits, ops)
}

// Delete deletes a key softly: it can be recovered, and its name is taken.
func (s *Server) Delete(name string) error {
	return s.change(name, func(k *key) error { k.deleted = s.now(); return nil })
}

// Recover brings a deleted key back.
func (s *Server) Recover(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, there := s.keys[strings.ToLower(name)]
	if !there || k.deleted.IsZero() {
		return ErrNotFound
	}
	k.deleted = time.Time{}
	return nil
}

// Purge destroys a deleted key and frees its name.
func (s *Server) Purge(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, there := s.keys[strings.ToLower(name)]
	if !there || k.deleted.IsZero() {
		return ErrNotFound
	}
	delete(s.keys, strings.ToLower(name))
	return nil
}

// wrap wraps value under the version.
func (v *version) wrap(alg azkeys.EncryptionAlgorithm, value []byte) ([]byte, error) {
	if v.kty == azkeys.KeyTypeOctHSM {
		if alg != azkeys.EncryptionAlgorithmA256KW {
			return nil, badParameter(fmt.Sprintf("Key and alg do not match: %s.", alg))
		}
		out, err := wrapAES(v.aes, value)
		if err != nil {
			return nil, badParameter(err.Error())
		}
		return out, nil
	}
	h, err := oaep(alg)
	if err != nil {
		return nil, err
	}
	out, err := rsa.EncryptOAEP(h, rand.Reader, &v.rsa.PublicKey, value, nil)
	if err != nil {
		return nil, badParameter("The value is too long for the key.")
	}
	return out, nil
}

// unwrap is the reverse of wrap.
func (v *version) unwrap(alg azkeys.EncryptionAlgorithm, value []byte) ([]byte, error) {
	if v.kty == azkeys.KeyTypeOctHSM {
		if alg != azkeys.EncryptionAlgorithmA256KW {
			return nil, badParameter(fmt.Sprintf("Key and alg do not match: %s.", alg))
		}
		out, err := unwrapAES(v.aes, value)
		if err != nil {
			return nil, badParameter("The parameter is incorrect.")
		}
		return out, nil
	}
	h, err := oaep(alg)
	if err != nil {
		return nil, err
	}
	out, err := rsa.DecryptOAEP(h, nil, v.rsa, value, nil)
	if err != nil {
		return nil, badParameter("The parameter is incorrect.")
	}
	return out, nil
}

func oaep(alg azkeys.EncryptionAlgorithm) (hash.Hash, error) {
	if alg != azkeys.EncryptionAlgorithmRSAOAEP256 {
		return nil, badParameter(fmt.Sprintf("Key and alg do not match: %s.", alg))
	}
	return sha256.New(), nil
}

// transfer is the document of "Bring your own key specification".
type transfer struct {
	Schema string `json:"schema_version"`
	Header struct {
		KID string `json:"kid"`
		Alg string `json:"alg"`
		Enc string `json:"enc"`
	} `json:"header"`
	Ciphertext string `json:"ciphertext"`
	Generator  string `json:"generator"`
}

// receive opens a transfer blob with its key exchange key and makes what is in
// it a version.
func (s *Server) receive(kty azkeys.KeyType, blob []byte) (*version, error) {
	var t transfer
	d := json.NewDecoder(bytes.NewReader(blob))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, badParameter("The key transfer blob is no JSON of its schema.")
	}
	if t.Schema != "1.0.0" || t.Header.Alg != "dir" || t.Header.Enc != "CKM_RSA_AES_KEY_WRAP" || t.Generator == "" {
		return nil, badParameter("The key transfer blob has another schema, algorithm or no generator.")
	}
	cipher, err := base64.RawURLEncoding.DecodeString(t.Ciphertext)
	if err != nil {
		return nil, badParameter("The ciphertext is not base64url.")
	}
	parts := strings.Split(strings.TrimPrefix(t.Header.KID, "https://"), "/")
	if len(parts) != 4 || parts[1] != "keys" {
		return nil, badParameter("The kid names no key version.")
	}
	s.mu.Lock()
	k, there := s.keys[strings.ToLower(parts[2])]
	var v *version
	if there && k.deleted.IsZero() && len(k.ops) == 1 && k.ops[0] == azkeys.KeyOperationImport {
		v, _ = k.find(parts[3])
	}
	s.mu.Unlock()
	if v == nil || v.rsa == nil || !v.enabled {
		return nil, badParameter("The kid is of no enabled key exchange key of this vault.")
	}
	n := v.rsa.Size()
	if len(cipher) <= n {
		return nil, badParameter("The ciphertext is too short.")
	}
	ephemeral, err := v.rsa.Decrypt(nil, cipher[:n], &rsa.OAEPOptions{Hash: crypto.SHA1})
	if err != nil {
		return nil, badParameter("The ciphertext does not open under the key exchange key.")
	}
	kwp, err := subtle.NewKWP(ephemeral)
	if err != nil {
		return nil, badParameter("The ephemeral key is no AES key.")
	}
	plain, err := kwp.Unwrap(cipher[n:])
	if err != nil {
		return nil, badParameter("The target key does not open under the ephemeral key.")
	}
	return target(kty, plain)
}

func target(kty azkeys.KeyType, plain []byte) (*version, error) {
	out := &version{kty: kty, enabled: true}
	if kty == azkeys.KeyTypeOctHSM {
		block, err := aes.NewCipher(plain)
		if err != nil || len(plain) != 32 {
			return nil, badParameter("The target key is no AES-256 key.")
		}
		out.aes = block
		return out, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(plain)
	r, ok := k.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, badParameter("The target key is no RSA key in PKCS#8.")
	}
	out.rsa = r
	return out, nil
}

// publicKey returns the public part as the service writes it.
func (v *version) publicKey(kid azkeys.ID, ops []azkeys.KeyOperation) *azkeys.JSONWebKey {
	j := &azkeys.JSONWebKey{KID: &kid, Kty: &v.kty}
	for i := range ops {
		j.KeyOps = append(j.KeyOps, &ops[i])
	}
	if v.rsa != nil {
		j.N, j.E = v.rsa.N.Bytes(), big.NewInt(int64(v.rsa.E)).Bytes()
	}
	return j
}

var _ = sha1.New // links crypto.SHA1
