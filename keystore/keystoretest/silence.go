package keystoretest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
)

// spellings are the forms in which formatting and encoding would leave b.
func spellings(b []byte) map[string][]byte {
	// Inside a longer text base64 starts at any of three places; the characters
	// that are made of nothing but b are the same at each.
	b64 := func(e *base64.Encoding, shift int) []byte {
		text := e.EncodeToString(append(make([]byte, shift), b...))
		from, to := (shift*8+5)/6, (shift+len(b))*8/6
		return []byte(text[from:to])
	}
	all := map[string][]byte{
		"raw": b, "hex": []byte(hex.EncodeToString(b)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(b))),
		"byte slice":   []byte(strings.Trim(fmt.Sprintf("%d", b), "[]")),
		"Go syntax":    []byte(strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte"), "{}")),
		"JSON numbers": []byte(strings.ReplaceAll(strings.Trim(fmt.Sprintf("%d", b), "[]"), " ", ",")),
		"quoted":       []byte(strings.Trim(fmt.Sprintf("%q", b), `"`)),
	}
	for shift := range 3 {
		all[fmt.Sprintf("base64+%d", shift)] = b64(base64.RawStdEncoding, shift)
		all[fmt.Sprintf("base64url+%d", shift)] = b64(base64.RawURLEncoding, shift)
	}
	return all
}

// finds reports in which spelling text holds b.
func finds(text, b []byte) (spelling string, found bool) {
	for name, form := range spellings(b) {
		if bytes.Contains(text, form) {
			return name, true
		}
	}
	return "", false
}

// minTell is how long a secret is that does not turn up by chance.
const minTell = 16

// checkSilence looks for every secret of the case, and for the context that its
// blobs are bound to, in everything logged and in every error.
func (s *suite) checkSilence() {
	s.Helper()
	where := map[string][]byte{"the log": s.env.Logged()}
	for i, err := range s.errs {
		where[fmt.Sprintf("error %d", i)] = fmt.Appendf(nil, "%v\n%+v\n%#v", err, err, err)
		for cause := errors.Unwrap(err); cause != nil; cause = errors.Unwrap(cause) {
			where[fmt.Sprintf("a cause of error %d, %T", i, cause)] = fmt.Appendf(nil, "%v\n%+v", cause, cause)
		}
	}
	for name, text := range where {
		for _, sec := range s.seen {
			if spelling, found := finds(text, sec); found && len(sec) >= minTell {
				s.Errorf("a secret stands in %s (%s)", name, spelling)
			}
		}
		if spelling, found := finds(text, theAAD); found {
			s.Errorf("the context of a blob stands in %s (%s)", name, spelling)
		}
	}
}

func (s *suite) silentLog() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	s.opens(s.Provider, key, blob, sec)
	u := s.unwrapReq(key, blob)
	u.AAD = append(bytes.Clone(theAAD), '!')
	_, err := s.Provider.Unwrap(s.ctx, u)
	s.fails("unwrap with another AAD", err, keystore.Corrupt)
	text := s.Log(s.T)
	if len(bytes.TrimSpace(text)) == 0 {
		s.Error("the keystore's log is empty, so it proves nothing")
	}
	for _, one := range s.seen {
		if spelling, found := finds(text, one); found {
			s.Errorf("a secret stands in the keystore's log (%s)", spelling)
		}
	}
	if spelling, found := finds(text, theAAD); found && s.cfg.LogsAAD == "" {
		s.Errorf("the context of a blob stands in the keystore's log (%s)", spelling)
	}
}
