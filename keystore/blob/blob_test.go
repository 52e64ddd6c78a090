package blob_test

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

func take(t testing.TB, text string) memsec.Secret {
	t.Helper()
	s, err := memsec.Take([]byte(text), memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Destroy)
	return s
}

// mechanisms has every valid number, and valid blobs of each.
func drawBlob(t *rapid.T) blob.Blob {
	bytesOf := func(name string, least, most int) []byte {
		return rapid.SliceOfN(rapid.Byte(), least, most).Draw(t, name)
	}
	b := blob.Blob{
		Mechanism:  blob.Mechanism(rapid.IntRange(1, 6).Draw(t, "mechanism")),
		KeyVersion: keystore.KeyVersion(bytesOf("version", 0, 40)),
		Wrapped:    bytesOf("wrapped", 1, 300),
	}
	if b.Mechanism == blob.AESGCM {
		b.IV = bytesOf("iv", 1, blob.MaxIV)
	}
	if b.Mechanism.Bound() {
		b.Sealed = bytesOf("sealed", 29, 92)
	}
	return b
}

func TestI1_WhatIsEncodedParsesToTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBlob(t)
		data, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := blob.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("encoded again: %x, %v", again, err)
		}
		if got.Mechanism != b.Mechanism || got.KeyVersion != b.KeyVersion || !bytes.Equal(got.IV, b.IV) || !bytes.Equal(got.Wrapped, b.Wrapped) || !bytes.Equal(got.Sealed, b.Sealed) {
			t.Fatalf("got %+v, want %+v", got, b)
		}
		for n := range data {
			if _, err := blob.Parse(data[:n]); !errors.Is(err, blob.ErrDoesNotOpen) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
		}
		if _, err := blob.Parse(append(data, 0)); !errors.Is(err, blob.ErrDoesNotOpen) {
			t.Fatalf("with a byte more: %v", err)
		}
	})
}

func TestPartsOutsideTheirLimitsAreNeitherWrittenNorRead(t *testing.T) {
	sound := func() blob.Blob {
		return blob.Blob{Mechanism: blob.OAEPSHA256, KeyVersion: "1", Wrapped: make([]byte, 256), Sealed: make([]byte, 60)}
	}
	if _, err := sound().Encode(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*blob.Blob){
		"no mechanism":           func(b *blob.Blob) { b.Mechanism = 0 },
		"mechanism 7":            func(b *blob.Blob) { b.Mechanism, b.Sealed = 7, nil },
		"long version":           func(b *blob.Blob) { b.KeyVersion = keystore.KeyVersion(strings.Repeat("v", keystore.MaxKeyVersion+1)) },
		"IV without need":        func(b *blob.Blob) { b.IV = []byte{1} },
		"GCM without IV":         func(b *blob.Blob) { b.Mechanism, b.Sealed = blob.AESGCM, nil },
		"GCM with long IV":       func(b *blob.Blob) { b.Mechanism, b.Sealed, b.IV = blob.AESGCM, nil, make([]byte, blob.MaxIV+1) },
		"GCM with sealed secret": func(b *blob.Blob) { b.Mechanism, b.IV = blob.AESGCM, make([]byte, 12) },
		"native with sealed":     func(b *blob.Blob) { b.Mechanism = blob.Native },
		"bound without sealed":   func(b *blob.Blob) { b.Sealed = nil },
		"sealed of nothing":      func(b *blob.Blob) { b.Sealed = make([]byte, 28) },
		"sealed too long":        func(b *blob.Blob) { b.Sealed = make([]byte, 93) },
		"nothing wrapped":        func(b *blob.Blob) { b.Wrapped = nil },
		"wrapped too long":       func(b *blob.Blob) { b.Wrapped = make([]byte, blob.MaxWrapped+1) },
	} {
		b := sound()
		change(&b)
		if data, err := b.Encode(); err == nil {
			t.Errorf("%s: encoded as %d bytes", name, len(data))
		}
	}
	// The largest blob is one that a provider may return.
	big := blob.Blob{
		Mechanism: blob.OAEPSHA1, KeyVersion: keystore.KeyVersion(strings.Repeat("v", keystore.MaxKeyVersion)),
		Wrapped: make([]byte, blob.MaxWrapped), Sealed: make([]byte, 92),
	}
	data, err := big.Encode()
	if err != nil || len(data) > keystore.MaxBlob {
		t.Errorf("the largest blob has %d bytes: %v", len(data), err)
	}
	// What the encoder would not write the parser does not read, by hand.
	for name, text := range map[string]string{
		"format 2":             "0206000000000161" + "00",
		"mechanism 0":          "0100000000000161" + "00",
		"mechanism 7":          "0107000000000161" + "00",
		"native, IV":           "010600000100000161" + "00",
		"native, sealed":       "0106000000000161" + "0100",
		"KWP, nothing sealed":  "0102000000000161" + "00",
		"nothing wrapped":      "01060000000000" + "00",
		"nothing":              "",
		"length over the end":  "0106ffff",
		"wrapped over the end": "010600000000ff61" + "00",
	} {
		data, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := blob.Parse(data); !errors.Is(err, blob.ErrDoesNotOpen) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	if _, err := blob.Parse([]byte{1, 6, 0, 0, 0, 0, 1, 0x61, 0}); err != nil {
		t.Errorf("the sound neighbour of these: %v", err)
	}
}

// kek is a keystore for tests: one-time keys under AES-GCM with a fixed key.
type kek struct {
	cipher.AEAD

	version keystore.KeyVersion
	calls   int
}

func newKEK(t testing.TB) *kek {
	t.Helper()
	c, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	g, err := cipher.NewGCM(c)
	if err != nil {
		t.Fatal(err)
	}
	return &kek{AEAD: g, version: "v1"}
}

func (k *kek) wrap(oneTime memsec.Secret) (blob.Wrapped, error) {
	k.calls++
	w := blob.Wrapped{KeyVersion: k.version}
	return w, reveal.With(oneTime, func(b []byte) error {
		w.Bytes = k.Seal(nil, make([]byte, 12), b, nil)
		return nil
	})
}

func (k *kek) unwrap(wrapped []byte) (memsec.Secret, error) {
	b, err := k.Open(nil, make([]byte, 12), wrapped, nil)
	if err != nil {
		return memsec.Secret{}, blob.ErrDoesNotOpen
	}
	return memsec.Take(b, memsec.Hot)
}

func TestI2_ABoundSecretOpensOnlyInItsContext(t *testing.T) {
	k := newKEK(t)
	to := blob.Binding{Domain: "krypton/v1/test", Key: "key", AAD: []byte("tenant 7")}
	secret := take(t, "a secret of 32 bytes, to be sure")
	sound, err := blob.Bind(rand.Reader, blob.AESKWP, to, secret, k.wrap)
	if err != nil {
		t.Fatal(err)
	}
	got, err := sound.Unbind(to, memsec.Cold, k.unwrap)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Destroy()
	if same, err := memsec.Equal(got, secret); err != nil || !same || got.Class() != memsec.Cold {
		t.Errorf("same %v, class %s, %v", same, got.Class(), err)
	}
	for name, change := range map[string]func(*blob.Blob, *blob.Binding){
		"domain":         func(_ *blob.Blob, to *blob.Binding) { to.Domain = "krypton/v1/tesu" },
		"key":            func(_ *blob.Blob, to *blob.Binding) { to.Key = "kez" },
		"AAD":            func(_ *blob.Blob, to *blob.Binding) { to.AAD = []byte("tenant 8") },
		"longer AAD":     func(_ *blob.Blob, to *blob.Binding) { to.AAD = []byte("tenant 7\x00") },
		"moved border":   func(_ *blob.Blob, to *blob.Binding) { to.Domain, to.Key = "krypton/v1/tes", "tkey" },
		"mechanism":      func(b *blob.Blob, _ *blob.Binding) { b.Mechanism = blob.AESKW },
		"native":         func(b *blob.Blob, _ *blob.Binding) { b.Mechanism = blob.Native },
		"key version":    func(b *blob.Blob, _ *blob.Binding) { b.KeyVersion = "v2" },
		"nonce":          func(b *blob.Blob, _ *blob.Binding) { b.Sealed[0] ^= 1 },
		"sealed":         func(b *blob.Blob, _ *blob.Binding) { b.Sealed[12] ^= 1 },
		"tag":            func(b *blob.Blob, _ *blob.Binding) { b.Sealed[len(b.Sealed)-1] ^= 1 },
		"nothing sealed": func(b *blob.Blob, _ *blob.Binding) { b.Sealed = nil },
		"wrapped":        func(b *blob.Blob, _ *blob.Binding) { b.Wrapped[0] ^= 1 },
	} {
		b, in := sound, to
		b.Sealed, b.Wrapped = bytes.Clone(sound.Sealed), bytes.Clone(sound.Wrapped)
		change(&b, &in)
		if s, err := b.Unbind(in, memsec.Hot, k.unwrap); !errors.Is(err, blob.ErrDoesNotOpen) || !s.IsZero() {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func TestI3_EveryBindHasItsOwnKeyAndEndsIt(t *testing.T) {
	k := newKEK(t)
	to := blob.Binding{Domain: "d", Key: "key", AAD: []byte("a")}
	secret := take(t, "a secret of 32 bytes, to be sure")
	var keys []memsec.Secret
	keep := func(oneTime memsec.Secret) (blob.Wrapped, error) {
		keys = append(keys, oneTime)
		return k.wrap(oneTime)
	}
	before := memsec.Report()
	a, err := blob.Bind(rand.Reader, blob.OAEPSHA256, to, secret, keep)
	if err != nil {
		t.Fatal(err)
	}
	b, err := blob.Bind(rand.Reader, blob.OAEPSHA256, to, secret, keep)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a.Wrapped, b.Wrapped) || bytes.Equal(a.Sealed, b.Sealed) {
		t.Error("two binds of one secret gave the same bytes")
	}
	refused := errors.New("refused")
	if _, err := blob.Bind(rand.Reader, blob.OAEPSHA256, to, secret, func(oneTime memsec.Secret) (blob.Wrapped, error) {
		keys = append(keys, oneTime)
		return blob.Wrapped{}, refused
	}); !errors.Is(err, refused) {
		t.Errorf("an error of the keystore came back as %v", err)
	}
	got, err := a.Unbind(to, memsec.Hot, func(w []byte) (memsec.Secret, error) {
		oneTime, err := k.unwrap(w)
		keys = append(keys, oneTime)
		return oneTime, err
	})
	if err != nil {
		t.Fatal(err)
	}
	got.Destroy()
	if _, err := a.Unbind(to, memsec.Hot, func([]byte) (memsec.Secret, error) { return memsec.Secret{}, refused }); !errors.Is(err, refused) {
		t.Errorf("an error of the keystore came back as %v", err)
	}
	for i, s := range keys {
		if _, err := memsec.Equal(s, s); !errors.Is(err, memsec.ErrDestroyed) {
			t.Errorf("one-time key %d outlived its call: %v", i, err)
		}
	}
	if after := memsec.Report(); after.Secrets != before.Secrets || after.AEADs != before.AEADs {
		t.Errorf("%d secrets and %d AEADs are left", after.Secrets-before.Secrets, after.AEADs-before.AEADs)
	}
}

// Anyone with the public key can wrap a short one-time key for RSA mechanisms.
func TestI4_AOneTimeKeyOfAnotherLengthDoesNotOpen(t *testing.T) {
	k := newKEK(t)
	to := blob.Binding{Domain: "d", Key: "key", AAD: []byte("a")}
	b, err := blob.Bind(rand.Reader, blob.OAEPSHA256, to, take(t, "secret"), k.wrap)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"1", strings.Repeat("1", 16), strings.Repeat("1", 31), strings.Repeat("1", 33), strings.Repeat("1", 64)} {
		if _, err := b.Unbind(to, memsec.Hot, func([]byte) (memsec.Secret, error) { return memsec.Take([]byte(key), memsec.Hot) }); !errors.Is(err, blob.ErrDoesNotOpen) {
			t.Errorf("a one-time key of %d bytes: %v", len(key), err)
		}
	}
}

func TestMechanismsWithAdditionalDataAreNotBound(t *testing.T) {
	k := newKEK(t)
	for _, m := range []blob.Mechanism{0, blob.AESGCM, blob.Native, 7} {
		if _, err := blob.Bind(rand.Reader, m, blob.Binding{}, take(t, "secret"), k.wrap); err == nil {
			t.Errorf("%s was bound", m)
		}
	}
	if k.calls != 0 {
		t.Errorf("the keystore was asked %d times", k.calls)
	}
}

func TestFailingRandomnessBindsNothing(t *testing.T) {
	k := newKEK(t)
	for _, n := range []int64{0, 31, 32, 43} {
		if b, err := blob.Bind(io.LimitReader(rand.Reader, n), blob.AESKWP, blob.Binding{}, take(t, "secret"), k.wrap); err == nil {
			t.Errorf("after %d bytes of randomness: %+v", n, b)
		}
	}
}

// The vectors were written once and are never made again: key and value lines,
// an empty line after each vector. They are opened with the standard library
// as well, by what the package comment says alone.
func TestGoldenVectorsOfFormat1(t *testing.T) {
	f, err := os.Open("testdata/v1.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	vectors := []map[string]string{{}}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, found := strings.Cut(lines.Text(), "=")
		switch {
		case found:
			vectors[len(vectors)-1][key] = value
		case lines.Text() == "":
			vectors = append(vectors, map[string]string{})
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range vectors {
		names = append(names, v["mechanism"])
		t.Run(v["mechanism"], func(t *testing.T) {
			unhex := func(key string) []byte {
				b, err := hex.DecodeString(v[key])
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			b, err := blob.Parse(unhex("blob"))
			if err != nil {
				t.Fatal(err)
			}
			want := blob.Blob{Mechanism: b.Mechanism, KeyVersion: keystore.KeyVersion(v["version"]), IV: unhex("iv"), Wrapped: unhex("wrapped"), Sealed: b.Sealed}
			if len(want.IV) == 0 {
				want.IV = nil
			}
			if diff := cmp.Diff(want, b); diff != "" || b.Mechanism.String() != v["mechanism"] {
				t.Error(diff)
			}
			to := blob.Binding{Domain: v["domain"], Key: keystore.KeyRef(v["key"]), AAD: unhex("aad")}
			if got := to.Full(b.Mechanism, b.KeyVersion); !bytes.Equal(got, unhex("fullaad")) {
				t.Errorf("AAD %x", got)
			}
			if !b.Mechanism.Bound() {
				return
			}
			got, err := b.Unbind(to, memsec.Hot, func([]byte) (memsec.Secret, error) { return memsec.Take(unhex("onetime"), memsec.Hot) })
			if err != nil {
				t.Fatal(err)
			}
			defer got.Destroy()
			if err := reveal.With(got, func(s []byte) error {
				if !bytes.Equal(s, unhex("secret")) {
					t.Error("another secret")
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			c, err := aes.NewCipher(unhex("onetime"))
			if err != nil {
				t.Fatal(err)
			}
			g, err := cipher.NewGCM(c)
			if err != nil {
				t.Fatal(err)
			}
			if plain, err := g.Open(nil, b.Sealed[:12], b.Sealed[12:], unhex("fullaad")); err != nil || !bytes.Equal(plain, unhex("secret")) {
				t.Errorf("by the standard library: %v", err)
			}
		})
	}
	if diff := cmp.Diff([]string{"AES-GCM", "AES-KWP", "AES-KW", "RSA-OAEP-256", "RSA-OAEP", "native"}, names); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range []blob.Blob{
		{Mechanism: blob.AESGCM, KeyVersion: "1", IV: make([]byte, 12), Wrapped: make([]byte, 48)},
		{Mechanism: blob.AESKWP, KeyVersion: "0a0b", Wrapped: make([]byte, 40), Sealed: make([]byte, 60)},
		{Mechanism: blob.Native, Wrapped: make([]byte, 140)},
	} {
		data, err := b.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := blob.Parse(data)
		if err != nil {
			if !errors.Is(err, blob.ErrDoesNotOpen) {
				t.Errorf("another error: %v", err)
			}
			return
		}
		if again, err := b.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("two blobs have one content: %v", err)
		}
	})
}
