package transit

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestABlobHasOneSpelling(t *testing.T) {
	if v, err := parseBlob([]byte("vault:v12:AAAA")); err != nil || v != "12" {
		t.Errorf("%q, %v", v, err)
	}
	// The engine opens some of these as if they were what they resemble.
	for _, s := range []string{
		"", "vault:v", "vault:v1", "vault:v1:", "vault:v0:AAAA", "vault:v01:AAAA", "vault:v+1:AAAA", "vault:v-1:AAAA", "vault:v1:AAA", "vault:v1:AB==", "vault:v1:AAAA ",
		"vault:v1:AA\nAA", "vault:v1:AA-_", "vault:v1:AAAA:AAAA", "Vault:v1:AAAA", "vault:v2147483648:AAAA", "vault:v1.0:AAAA", "vault:v1:AAAA\x00",
	} {
		if _, err := parseBlob([]byte(s)); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func FuzzParseBlob(f *testing.F) {
	f.Add([]byte("vault:v1:AAAA"))
	f.Add([]byte("vault:v12:AB=="))
	f.Add([]byte("vault:v0:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseBlob(b)
		if err != nil {
			return
		}
		text, ok := strings.CutPrefix(string(b), "vault:v"+string(v)+":")
		raw, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || base64.StdEncoding.EncodeToString(raw) != text {
			t.Errorf("%q has another spelling", b)
		}
	})
}
