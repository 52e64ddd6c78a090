package client

import (
	"bytes"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// FuzzParseToken: whatever stands in a token file is one header value, without
// what was around it, or is refused without a word of it.
func FuzzParseToken(f *testing.F) {
	f.Add([]byte("eyJhbGciOiJSUzI1NiJ9.e30.c2ln\n"))
	f.Add([]byte("Bearer x"))
	f.Add([]byte("x\r\nX-Other: y\r\n"))
	f.Add([]byte("===\n"))
	f.Add([]byte(""))
	f.Add(bytes.Repeat([]byte("a"), MaxTokenBytes+1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		const path = "/f"
		token, err := parseToken(bytes.Clone(raw), path)
		if err != nil {
			if !errs.Is(err, errs.InvalidConfig) || errs.From(err).Hint == "" {
				t.Errorf("%v", err)
			}
			if text := strings.TrimSpace(string(raw)); len(text) > 60 && strings.Contains(err.Error(), text) {
				t.Error("the content is in the error")
			}
			return
		}
		if len(token) == 0 || len(token) > MaxTokenBytes || strings.TrimRight(string(raw), "\r\n") != token || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`,;"{}`, r) }) {
			t.Errorf("%q was taken for %q", token, raw)
		}
	})
}
