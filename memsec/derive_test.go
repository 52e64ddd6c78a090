package memsec_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/memsec"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// checkExpand compares both forms of Expand, for both classes of parent and of
// result, with the first block of the expected output.
func checkExpand(tb testing.TB, prk, info, okm []byte) {
	tb.Helper()
	want := okm[:min(len(okm), memsec.KeySize)]
	for _, c := range classes {
		parent := take(tb, prk, c)
		pub, err := memsec.ExpandPublic(parent, info)
		if err != nil || !bytes.Equal(pub[:len(want)], want) {
			tb.Fatalf("ExpandPublic of a %s parent: %x, %v; want %x", c, pub, err, want)
		}
		for _, d := range classes {
			s := must[memsec.Secret](tb)(memsec.Expand(parent, info, d))
			if got := bytesOf(tb, s); !bytes.Equal(got, pub[:]) || s.Class() != d {
				tb.Fatalf("Expand from %s to %s differs from ExpandPublic", c, d)
			}
			s.Destroy()
		}
		parent.Destroy()
	}
}

func TestI7_ExpandRFC5869(t *testing.T) {
	for _, v := range []struct{ name, prk, info, okm string }{
		{
			"A.1", "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5", "f0f1f2f3f4f5f6f7f8f9",
			"3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
		},
		{
			"A.2", "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
			"b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
			"b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
		},
		{
			"A.3", "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04", "",
			"8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
		},
	} {
		t.Run(v.name, func(t *testing.T) { checkExpand(t, unhex(t, v.prk), unhex(t, v.info), unhex(t, v.okm)) })
	}
}

func TestI7_ExpandWycheproof(t *testing.T) {
	var ran int
	for _, g := range vectors(t, "hkdf_sha256_test.json").TestGroups {
		for _, v := range g.Tests {
			if v.Result != "valid" {
				if v.Size <= 255*sha256.Size {
					t.Errorf("case %d is %s for another reason than its size", v.TcID, v.Result)
				}
				continue // longer than HKDF can be; our size is fixed
			}
			prk, err := hkdf.Extract(sha256.New, unhex(t, v.IKM), unhex(t, v.Salt))
			if err != nil {
				t.Fatal(err)
			}
			checkExpand(t, prk, unhex(t, v.Info), unhex(t, v.OKM))
			ran++
		}
	}
	if ran < 80 {
		t.Errorf("only %d vectors ran", ran)
	}
}

func TestI7_MACWycheproof(t *testing.T) {
	var valid, invalid int
	for _, g := range vectors(t, "hmac_sha256_test.json").TestGroups {
		for _, v := range g.Tests {
			msg, tag := unhex(t, v.Msg), unhex(t, v.Tag)
			for _, c := range classes {
				got, err := memsec.MAC(take(t, unhex(t, v.Key), c), msg[:len(msg)/3], msg[len(msg)/3:])
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Equal(got[:g.TagSize/8], tag) != (v.Result == "valid") {
					t.Errorf("case %d (%s): %s", v.TcID, v.Comment, v.Result)
				}
			}
			if v.Result == "valid" {
				valid++
			} else {
				invalid++
			}
		}
	}
	if valid < 50 || invalid < 50 {
		t.Errorf("only %d valid and %d invalid vectors ran", valid, invalid)
	}
}

// The hand-written HMAC against the one of the standard library, for every kind
// of key length, also those longer than a block.
func TestI7_MACAndExpandAgreeWithTheStandardLibrary(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.OneOf(
			rapid.SliceOfN(rapid.Byte(), 1, 200),
			rapid.SliceOfN(rapid.Byte(), 63, 65),
			rapid.SliceOfN(rapid.Byte(), 32, 32),
		).Draw(rt, "key")
		parts := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 150), 0, 4).Draw(rt, "parts")
		s, err := memsec.Take(bytes.Clone(key), memsec.Hot)
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Destroy()
		ref := hmac.New(sha256.New, key)
		for _, p := range parts {
			ref.Write(p)
		}
		got, err := memsec.MAC(s, parts...)
		if err != nil || !bytes.Equal(got[:], ref.Sum(nil)) {
			rt.Fatalf("MAC %x, %v; want %x", got, err, ref.Sum(nil))
		}
		info := bytes.Join(parts, nil)
		want, err := hkdf.Expand(sha256.New, key, string(info), memsec.KeySize)
		if err != nil {
			rt.Fatal(err)
		}
		pub, err := memsec.ExpandPublic(s, info)
		if err != nil || !bytes.Equal(pub[:], want) {
			rt.Fatalf("Expand %x, %v; want %x", pub, err, want)
		}
	})
}

func TestExpandSeparatesPurposes(t *testing.T) {
	parent := must[memsec.Secret](t)(memsec.Random(rand.Reader, 32, memsec.Cold))
	t.Cleanup(parent.Destroy)
	a := must[memsec.Secret](t)(memsec.Expand(parent, []byte("a"), memsec.Hot))
	b := must[memsec.Secret](t)(memsec.Expand(parent, []byte("b"), memsec.Hot))
	t.Cleanup(func() { a.Destroy(); b.Destroy() })
	if eq, err := memsec.Equal(a, b); eq || err != nil {
		t.Errorf("two purposes, one key: %v", err)
	}
	if eq, err := memsec.Equal(a, parent); eq || err != nil {
		t.Errorf("the derived key is the parent: %v", err)
	}
}
