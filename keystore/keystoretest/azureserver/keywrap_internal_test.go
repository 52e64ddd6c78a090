package azureserver

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"errors"
	"testing"
)

// RFC 3394, sections 4.3 to 4.6, for 256-bit key encryption keys.
func TestAESKeyWrapHasTheVectorsOfRFC3394(t *testing.T) {
	kek, err := aes.NewCipher(unhex(t, "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"))
	if err != nil {
		t.Fatal(err)
	}
	for plain, want := range map[string]string{
		"00112233445566778899AABBCCDDEEFF":                                 "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7",
		"00112233445566778899AABBCCDDEEFF0001020304050607":                 "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1",
		"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F": "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
	} {
		out, err := wrapAES(kek, unhex(t, plain))
		if err != nil || !bytes.Equal(out, unhex(t, want)) {
			t.Errorf("%s: %X, %v", plain, out, err)
		}
		back, err := unwrapAES(kek, out)
		if err != nil || !bytes.Equal(back, unhex(t, plain)) {
			t.Errorf("%s back: %X, %v", plain, back, err)
		}
		for i := range out {
			bad := bytes.Clone(out)
			bad[i] ^= 1
			if _, err := unwrapAES(kek, bad); !errors.Is(err, errKeyWrap) {
				t.Errorf("%s with byte %d changed: %v", plain, i, err)
			}
		}
	}
	if _, err := wrapAES(kek, make([]byte, 17)); err == nil {
		t.Error("17 bytes were wrapped")
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
