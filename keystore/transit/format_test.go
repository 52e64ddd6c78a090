//go:build unix

package transit_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/byok"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// The format of docs/formats.md, written down a second time with the standard
// library: with known material, imported, both sides open what the other made.
func TestTheFormatIsTheDocumentedOne(t *testing.T) {
	b := newBench(t)
	b.keys++
	key := keystore.KeyRef(b.name(b.keys))
	b.grant(t)
	p := open(t, testEnv(), b.settings(nil))
	material := make([]byte, 32)
	for i := range material {
		material[i] = byte(i)
	}
	block, err := aes.NewCipher(material)
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	for version := 1; version <= 2; version++ { // the second import is version 2
		sec, err := reveal.New(32, memsec.Hot, func(dst []byte) error { copy(dst, material); return nil })
		must(t, err)
		params, err := p.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: key})
		must(t, err)
		if params.Mechanism != keystore.ImportRSAAESKeyWrap256 {
			t.Errorf("mechanism %s", params.Mechanism)
		}
		wrapped, err := byok.Wrap(rand.Reader, params, sec)
		must(t, err)
		res, err := p.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: key, Wrapped: wrapped})
		must(t, err)
		if res.KeyVersion != keystore.KeyVersion(fmt.Sprint(version)) {
			t.Errorf("import %d made version %q", version, res.KeyVersion)
		}

		var aad []byte
		for _, s := range []string{"krypton/v1/transit", string(key)} {
			aad = append(binary.BigEndian.AppendUint32(aad, uint32(len(s))), s...)
		}
		aad = append(aad, theAAD...)
		nonce := []byte("twelve bytes")
		plain := []byte("a secret of thirty-two bytes ....")
		ours := fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, plain, aad)))
		out, err := p.Unwrap(t.Context(), keystore.UnwrapRequest{Key: key, Blob: []byte(ours), AAD: theAAD, Class: memsec.Hot})
		must(t, err)
		must(t, reveal.With(out.Secret, func(got []byte) error {
			if string(got) != string(plain) {
				t.Errorf("version %d: the engine opens it to other bytes", version)
			}
			return nil
		}))
		w, err := p.Wrap(t.Context(), keystore.WrapRequest{Key: key, Secret: out.Secret, AAD: theAAD})
		must(t, err)
		out.Secret.Destroy()
		raw, err := base64.StdEncoding.DecodeString(string(w.Blob[len("vault:v1:"):]))
		must(t, err)
		got, err := gcm.Open(nil, raw[:12], raw[12:], aad)
		if err != nil || string(got) != string(plain) {
			t.Errorf("version %d: what the engine wrapped opens to other bytes (%v)", version, err)
		}
	}
}
