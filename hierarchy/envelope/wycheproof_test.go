package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/openkcm/krypton-cluster/memsec"
)

func wycheproofFile(t *testing.T, name string, into any) {
	t.Helper()
	raw, err := fs.ReadFile(wycheproof.TestVectors, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWycheproofHKDFHoldsForBothReaders checks the derivation that the envelope
// stands on, and the second reader's, which judges the envelope. The first 32
// bytes of a longer output are the 32 bytes that the envelope derives.
func TestWycheproofHKDFHoldsForBothReaders(t *testing.T) {
	var f struct {
		TestGroups []struct {
			Tests []struct {
				TcID                         int
				IKM, Salt, Info, OKM, Result string
				Size                         int
			}
		}
	}
	wycheproofFile(t, "hkdf_sha256_test.json", &f)
	n := 0
	for _, g := range f.TestGroups {
		for _, tc := range g.Tests {
			if tc.Result != "valid" || tc.Size < 32 {
				continue
			}
			n++
			salt := unhex(t, tc.Salt)
			if len(salt) == 0 {
				salt = make([]byte, sha256.Size)
			}
			ext := hmac.New(sha256.New, salt)
			ext.Write(unhex(t, tc.IKM))
			prk, info, want := ext.Sum(nil), unhex(t, tc.Info), unhex(t, tc.OKM)[:32]
			if got := rdExpand(prk, info); !bytes.Equal(got, want) {
				t.Errorf("test %d: second reader derives %x, want %x", tc.TcID, got, want)
			}
			if got, err := memsec.ExpandPublic(take(t, prk), info); err != nil || !bytes.Equal(got[:], want) {
				t.Errorf("test %d: memsec derives %x, want %x (%v)", tc.TcID, got, want, err)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d vectors apply", n)
	}
}

// TestWycheproofGCMHoldsForTheSecondReader checks the oracle's cipher, so that
// both readers cannot be wrong in the same way. memsec checks its own.
func TestWycheproofGCMHoldsForTheSecondReader(t *testing.T) {
	var f struct {
		TestGroups []struct {
			KeySize, IvSize, TagSize int
			Tests                    []struct {
				TcID                               int
				Key, Iv, AAD, Msg, Ct, Tag, Result string
			}
		}
	}
	wycheproofFile(t, "aes_gcm_test.json", &f)
	n := 0
	for _, g := range f.TestGroups {
		if g.KeySize != 256 || g.IvSize != 96 || g.TagSize != 128 {
			continue
		}
		for _, tc := range g.Tests {
			n++
			pt, err := rdGCM(unhex(t, tc.Key)).Open(nil, unhex(t, tc.Iv), append(unhex(t, tc.Ct), unhex(t, tc.Tag)...), unhex(t, tc.AAD))
			if (err == nil) != (tc.Result == "valid") || err == nil && !bytes.Equal(pt, unhex(t, tc.Msg)) {
				t.Errorf("test %d is %s: %v", tc.TcID, tc.Result, err)
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d vectors apply", n)
	}
}
