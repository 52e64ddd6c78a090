package byok_test

import (
	"bytes"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/byok"
	"github.com/openkcm/krypton-cluster/memsec"
)

var privateKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func keystoreKey(t *testing.T) (*rsa.PrivateKey, []byte) {
	t.Helper()
	k, err := privateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k, der
}

func take(t *testing.T, b []byte) memsec.Secret {
	t.Helper()
	s, err := memsec.Take(bytes.Clone(b), memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Destroy)
	return s
}

// unKWP is the keystore's side, written after RFC 5649 section 4.2 and not after
// the code under test.
func unKWP(kek, c []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	if len(c) < 16 || len(c)%8 != 0 {
		return nil, errors.New("length")
	}
	p := bytes.Clone(c)
	if n := len(c)/8 - 1; n == 1 {
		block.Decrypt(p, p)
	} else {
		a, r := binary.BigEndian.Uint64(c), bytes.Clone(c[8:])
		for j := 5; j >= 0; j-- {
			for i := n; i >= 1; i-- {
				var x [16]byte
				binary.BigEndian.PutUint64(x[:], a^uint64(n*j+i))
				copy(x[8:], r[8*(i-1):8*i])
				block.Decrypt(x[:], x[:])
				a = binary.BigEndian.Uint64(x[:])
				copy(r[8*(i-1):], x[8:])
			}
		}
		binary.BigEndian.PutUint64(p, a)
		copy(p[8:], r)
	}
	size := int(binary.BigEndian.Uint32(p[4:]))
	pad := len(p) - 8 - size
	if binary.BigEndian.Uint32(p) != 0xA65959A6 || pad < 0 || pad > 7 || !bytes.Equal(p[8+size:], make([]byte, pad)) {
		return nil, errors.New("integrity")
	}
	return p[8 : 8+size], nil
}

func unwrap(k *rsa.PrivateKey, h hash.Hash, wrapped []byte) ([]byte, error) {
	kek, err := rsa.DecryptOAEP(h, nil, k, wrapped[:k.Size()], nil)
	if err != nil {
		return nil, err
	}
	if len(wrapped) == k.Size() {
		return kek, nil
	}
	if len(kek) != 32 {
		return nil, errors.New("the one-time key is not AES-256")
	}
	return unKWP(kek, wrapped[k.Size():])
}

func TestTheKeystoreOpensWhatWasWrapped(t *testing.T) {
	k, der := keystoreKey(t)
	for _, m := range []struct {
		mechanism keystore.ImportMechanism
		hash      func() hash.Hash
	}{
		{keystore.ImportOAEP256, sha256.New},
		{keystore.ImportOAEP1, sha1.New},
		{keystore.ImportRSAAESKeyWrap256, sha256.New},
		{keystore.ImportRSAAESKeyWrap1, sha1.New},
		{keystore.ImportCKMRSAAESKeyWrap, sha1.New},
		{keystore.ImportAzureBYOK, sha1.New},
	} {
		t.Run(string(m.mechanism), func(t *testing.T) {
			for _, n := range []int{1, 7, 8, 9, 16, 24, 32, 33, byok.MaxMaterial} {
				material := make([]byte, n)
				if _, err := rand.Read(material); err != nil {
					t.Fatal(err)
				}
				params := keystore.ImportParameters{PublicKey: der, Mechanism: m.mechanism, KeyID: "https://vault/keys/kek/1"}
				wrapped, err := byok.Wrap(rand.Reader, params, take(t, material))
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(wrapped, material) && n > 4 {
					t.Error("the material stands in what was wrapped")
				}
				if m.mechanism == keystore.ImportAzureBYOK {
					wrapped = azure(t, wrapped)
				}
				got, err := unwrap(k, m.hash(), wrapped)
				if err != nil || !bytes.Equal(got, material) {
					t.Errorf("%d bytes came out as %d (%v)", n, len(got), err)
				}
			}
		})
	}
}

// azure checks the document against the specification and returns its ciphertext.
func azure(t *testing.T, raw []byte) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	header, _ := doc["header"].(map[string]any)
	if doc["schema_version"] != "1.0.0" || header["kid"] != "https://vault/keys/kek/1" || header["alg"] != "dir" || header["enc"] != "CKM_RSA_AES_KEY_WRAP" {
		t.Errorf("%s", raw)
	}
	text, _ := doc["ciphertext"].(string)
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The two vectors of RFC 5649, section 6.
func TestKeyWrapVectorsOfRFC5649(t *testing.T) {
	kek := unhex(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	for key, want := range map[string]string{
		"c37b7e6492584340bed12207808941155068f738": "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
		"466f7250617369": "afbeb0f07dfbf5419200f2ccb50bb24f",
	} {
		got, err := byok.AppendKWP([]byte("before"), kek, unhex(t, key))
		if err != nil || hex.EncodeToString(got) != hex.EncodeToString([]byte("before"))+want {
			t.Errorf("%x, %v", got, err)
		}
	}
}

func TestKeyWrapAgreesWithTheOtherSide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kek := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "kek")
		b := rapid.SliceOfN(rapid.Byte(), 1, byok.MaxMaterial).Draw(t, "material")
		c, err := byok.AppendKWP(nil, kek, b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unKWP(kek, c); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%x, %v", got, err)
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestI2_ParametersThatCannotBeUsedAreRefused(t *testing.T) {
	_, der := keystoreKey(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkix := func(pub any) []byte {
		b, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const size = 32
	for name, c := range map[string]struct {
		params keystore.ImportParameters
		size   int
		text   string
	}{
		"no key":            {keystore.ImportParameters{Mechanism: keystore.ImportOAEP256}, size, "no PKIX key"},
		"small key":         {keystore.ImportParameters{Mechanism: keystore.ImportOAEP256, PublicKey: pkix(small.Public())}, size, "1024 bits"},
		"curve":             {keystore.ImportParameters{Mechanism: keystore.ImportOAEP256, PublicKey: pkix(curve.Public())}, size, "not RSA"},
		"too long":          {keystore.ImportParameters{Mechanism: keystore.ImportOAEP256, PublicKey: make([]byte, keystore.MaxImportPublicKey+1)}, size, "the limit is"},
		"no mechanism":      {keystore.ImportParameters{PublicKey: der}, size, "unknown import mechanism"},
		"other mechanism":   {keystore.ImportParameters{PublicKey: der, Mechanism: "RSAES_PKCS1_V1_5"}, size, "unknown import mechanism"},
		"azure without kid": {keystore.ImportParameters{PublicKey: der, Mechanism: keystore.ImportAzureBYOK}, size, "key id"},
		"long material":     {keystore.ImportParameters{PublicKey: der, Mechanism: keystore.ImportOAEP256}, byok.MaxMaterial + 1, "the limits are"},
	} {
		if _, err := byok.Wrap(rand.Reader, c.params, take(t, make([]byte, c.size))); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := byok.Wrap(rand.Reader, keystore.ImportParameters{PublicKey: der, Mechanism: keystore.ImportOAEP256}, memsec.Secret{}); err == nil {
		t.Error("no material was wrapped")
	}
}

func FuzzParametersOfAKeystore(f *testing.F) {
	k, err := privateKey()
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der, string(keystore.ImportRSAAESKeyWrap256))
	f.Add([]byte{0x30}, string(keystore.ImportAzureBYOK))
	f.Fuzz(func(t *testing.T, der []byte, mechanism string) {
		s := take(t, make([]byte, 32))
		out, err := byok.Wrap(rand.Reader, keystore.ImportParameters{PublicKey: der, Mechanism: keystore.ImportMechanism(mechanism), KeyID: "k"}, s)
		if (err == nil) != (len(out) > 0) {
			t.Errorf("%d bytes and %v", len(out), err)
		}
	})
}
