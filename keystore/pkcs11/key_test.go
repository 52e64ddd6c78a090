//go:build unix && !nopkcs11

package pkcs11_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/memsec"
)

// The mechanism is the best that token, key and setting have in common, and is
// written into the blob.
func TestTheMechanismIsTheBestThatFits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{}, nil)
	s := w.secret(theSecret)
	for i, c := range []struct {
		usage   hsm.Usage // empty: an RSA key
		setting string
		want    blob.Mechanism // 0: refused
		text    string
	}{
		{hsm.All, "auto", blob.AESKWP, ""},
		{hsm.Wrap, "auto", blob.AESKWP, ""},
		{hsm.Encrypt, "auto", blob.AESGCM, ""},
		{hsm.All, "aes-gcm", blob.AESGCM, ""},
		{hsm.All, "aes-kw", blob.AESKW, ""},
		{"", "auto", blob.OAEPSHA1, ""}, // SoftHSM has OAEP with SHA-1 only
		{"", "rsa-oaep", blob.OAEPSHA1, ""},
		{"", "aes-kwp", 0, "no mechanism"},
		{hsm.All, "rsa-oaep", 0, "no mechanism"},
	} {
		key := fmt.Sprintf("k%d", i)
		if c.usage == "" {
			must(t, w.token.NewRSA(w.ctx, key))
		} else {
			must(t, w.token.NewAES(w.ctx, key, c.usage))
		}
		w.p = open(t, w.env(), w.token, map[string]string{"mechanism": c.setting})
		res, err := w.tryWrap(key, s)
		if c.want == 0 {
			w.is(err, keystore.Misconfigured, c.text)
			continue
		}
		must(t, err)
		b, err := blob.Parse(res.Blob)
		must(t, err)
		if b.Mechanism != c.want {
			t.Errorf("%s key, setting %s: %s, want %s", c.usage, c.setting, b.Mechanism, c.want)
		}
		w.opens(key, res.Blob, s)
		d, err := w.p.Describe(w.ctx, keystore.DescribeRequest{Key: keystore.KeyRef(key)})
		kind := keystore.KindSymmetric
		if c.usage == "" {
			kind = keystore.KindAsymmetric
		}
		if err != nil || d.Mechanism != c.want.String() || d.Kind != kind || d.Protection != keystore.ProtectionSoftware || d.KeyVersion != res.KeyVersion {
			t.Errorf("%+v, %v", d, err)
		}
	}
	// A key may only be used for what its owner allows, also if the token could:
	// RSA without CKA_DECRYPT, say.
	must(t, w.token.NewAES(w.ctx, "wrap-only", hsm.Wrap))
	w.p = open(t, w.env(), w.token, map[string]string{"mechanism": "aes-gcm"})
	_, err := w.tryWrap("wrap-only", s)
	w.is(err, keystore.Denied, "forbid")
}

// Some tokens ignore the IV that they are given and write their own in its place.
func TestTheIVIsReadBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, map[string]string{"mechanism": "aes-gcm"})
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	s := w.secret(theSecret)
	mend, err := w.token.Break(hsm.OwnIV)
	must(t, err)
	blob := w.wrap("k", s).Blob
	w.opens("k", blob, s)
	must(t, mend())
	w.opens("k", blob, s)
	// And one whose answer is not what GCM gives is not used.
	mend, err = w.token.Break(hsm.ShortTag)
	must(t, err)
	must(t, w.token.NewAES(w.ctx, "other", hsm.All))
	_, err = w.tryWrap("other", s)
	w.is(err, keystore.Misconfigured, "do not go together")
	must(t, mend())
}

// The object with the greatest CKA_ID wraps; ids are numbers of any width.
func TestVersionsAreOrderedByTheirIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{}, nil)
	s := w.secret(theSecret)
	var blobs [][]byte
	for _, id := range [][]byte{{0x01}, {0x02}, {0x00, 0x03}, {0x7F}, {0xFF}, {0x01, 0x00}, {0x01, 0x00, 0x00}} {
		must(t, w.token.NewAESAs(w.ctx, "k", id, hsm.All))
		res := w.wrap("k", s)
		if want := keystore.KeyVersion(fmt.Sprintf("%x", id)); res.KeyVersion != want {
			t.Errorf("version %q wraps, want %q", res.KeyVersion, want)
		}
		blobs = append(blobs, res.Blob)
	}
	must(t, w.token.NewAESAs(w.ctx, "k", []byte{0x05}, hsm.All)) // an older number changes nothing
	if res := w.wrap("k", s); res.KeyVersion != "010000" {
		t.Errorf("version %q wraps", res.KeyVersion)
	}
	for _, b := range blobs {
		w.opens("k", b, s)
	}
	// By its id a key has one version.
	byID := w.wrap("id:7f", s)
	if byID.KeyVersion != "7f" {
		t.Errorf("version %q", byID.KeyVersion)
	}
	w.opens("id:7f", byID.Blob, s)
	w.is(w.tryUnwrap("k", byID.Blob), keystore.Corrupt, "does not open") // another reference is another context
	for _, bad := range []string{"id:", "id:7", "id:xy", "id:0c"} {
		_, err := w.tryWrap(bad, s)
		w.is(err, keystore.Denied, "no such key")
	}
	must(t, w.token.NewAESAs(w.ctx, "k", []byte{0x7F}, hsm.All))
	_, err := w.tryWrap("k", s)
	w.is(err, keystore.Misconfigured, "two objects")
	must(t, w.token.NewAESAs(w.ctx, "none", nil, hsm.All))
	_, err = w.tryWrap("none", s)
	w.is(err, keystore.Misconfigured, "no CKA_ID")
}

// A version that its owner destroyed is withdrawn; a blob that names one which
// never was is damaged.
func TestI1_ADestroyedVersionIsDeniedAndADamagedNameOfOneIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{}, nil)
	s := w.secret(theSecret)
	must(t, w.token.NewAESAs(w.ctx, "k", []byte{1}, hsm.All))
	old := w.wrap("k", s).Blob
	must(t, w.token.NewAESAs(w.ctx, "k", []byte{2}, hsm.All))
	w.opens("k", old, s)
	b, err := blob.Parse(old)
	must(t, err)
	for _, version := range []keystore.KeyVersion{"03" + b.KeyVersion[2:], "01", "", "01.", b.KeyVersion + "0", "." + b.KeyVersion} {
		damaged := b
		damaged.KeyVersion = version
		data, err := damaged.Encode()
		must(t, err)
		w.is(w.tryUnwrap("k", data), keystore.Corrupt, "does not open")
	}
	must(t, w.token.Destroy(w.ctx, "k", "01"))
	w.is(w.tryUnwrap("k", old), keystore.Denied, "no such key")
	w.wrap("k", s)
}

// Objects that are not found while the token is not what it was are no denial:
// a second helper has to find the token, log in, and find nothing either.
func TestI1_NothingIsDeniedThatASecondHelperDoesNotConfirm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	s := w.secret(theSecret)
	blob := w.wrap("k", s).Blob
	first := w.helper()

	// The key is gone, and so is the token when the second helper looks for it:
	// its log-in fails.
	must(t, w.token.Destroy(w.ctx, "k", ""))
	mend, err := w.token.Break(hsm.Login(0x30))
	must(t, err)
	w.is(w.tryUnwrap("k", blob), keystore.Unavailable, "C_Login")
	must(t, mend())
	w.is(w.tryUnwrap("k", blob), keystore.Denied, "no such key")
	if second := w.helper(); second == first {
		t.Error("one helper was asked")
	}
	must(t, w.p.Health(w.ctx, ""))
}

// A failure without a meaning says nothing of the blob while the token fails at
// fresh ciphertexts too.
func TestI1_ABlobIsCorruptOnlyIfAnotherOneOpens(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"aes-gcm", "aes-kwp"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, hsm.Options{Faults: true}, map[string]string{"mechanism": setting})
			must(t, w.token.NewAES(w.ctx, "k", hsm.All))
			s := w.secret(theSecret)
			blob := w.wrap("k", s).Blob
			for _, ckr := range []uint{0x05, 0x06, 0x30, 0x31, 0x40, 0x41} { // GENERAL_ERROR, FUNCTION_FAILED, DEVICE_ERROR, DEVICE_MEMORY, ENCRYPTED_DATA_INVALID, ..._LEN_RANGE
				mend, err := w.token.Break(hsm.Broken(ckr))
				must(t, err)
				if err := w.tryUnwrap("k", blob); keystore.ClassOf(err) != keystore.Unavailable && keystore.ClassOf(err) != keystore.Misconfigured {
					t.Errorf("CKR 0x%X: %v", ckr, err)
				}
				must(t, mend())
				w.opens("k", blob, s)
			}
			damaged := bytes.Clone(blob)
			damaged[len(damaged)/2] ^= 1
			w.is(w.tryUnwrap("k", damaged), keystore.Corrupt, "does not open")
		})
	}
}

// Sixteen callers over four sessions, with all that can go wrong in the data.
func TestManyCallersOverFewSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{}, map[string]string{"max_sessions": "4"})
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	failed := make(chan error, 16)
	for i := range cap(failed) {
		s := w.secret(bytes.Repeat([]byte{byte(i + 1)}, 32))
		go func() {
			for range 12 {
				res, err := w.tryWrap("k", s)
				if err != nil {
					failed <- err
					return
				}
				out, err := w.p.Unwrap(w.ctx, keystore.UnwrapRequest{Key: "k", Blob: res.Blob, AAD: aad, Class: memsec.Hot})
				if err != nil {
					failed <- err
					return
				}
				same, err := memsec.Equal(out.Secret, s)
				out.Secret.Destroy()
				if err != nil || !same {
					failed <- fmt.Errorf("caller %d got another secret (%w)", i, err)
					return
				}
				res.Blob[len(res.Blob)-1] ^= 1
				if err := w.tryUnwrap("k", res.Blob); keystore.ClassOf(err) != keystore.Corrupt {
					failed <- fmt.Errorf("a damaged blob: %w", err)
					return
				}
			}
			failed <- nil
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	// No key that was made for a moment is left on the token.
	if n, err := w.token.Objects(w.ctx, ""); err != nil || n != 1 {
		t.Errorf("%d objects on the token (%v)", n, err)
	}
}
