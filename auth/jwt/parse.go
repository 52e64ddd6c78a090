package jwt

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// algorithms are the signatures that are accepted (I2): asymmetric ones only, so
// that a public key is never taken for a secret, and of each kind of key the
// common one. RS384, RS512 and their like add nothing and are refused.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA} //nolint:gochecknoglobals // Immutable.

// tokenTypes are the values of the header typ that are accepted, in lower case and
// without "application/" (RFC 8725, 3.11): tokens made for another purpose, such as
// logout tokens or security events, say so there, and are no proof of identity.
var tokenTypes = []string{"jwt", "at+jwt"} //nolint:gochecknoglobals // Immutable.

// unverified is what a token says.
type unverified struct {
	alg     jose.SignatureAlgorithm
	kid     string // empty: the header names no key
	iss     string
	aud     []string
	exp     time.Time
	nbf     time.Time // zero: not said
	iat     time.Time // zero: not said
	id      string    // claim jti; empty: not said
	claims  map[string]any
	payload []byte // of the token, decoded
}

// refuse makes the error for a token that is not accepted. Neither part may hold
// anything of the token (I6).
func refuse(msg string, opts ...errs.Option) *errs.Error {
	return errs.New(errs.Unauthenticated, msg, opts...)
}

var malformed = errs.Hint("send the token as the issuer gave it: three parts of base64url with dots between, and nothing else") //nolint:gochecknoglobals // Immutable.

// parse reads a token. It verifies nothing.
func parse(token string) (*unverified, error) {
	if len(token) > MaxToken {
		return nil, refuse("the token is larger than "+strconv.Itoa(MaxToken)+" bytes", errs.Hint("ask the issuer for a token with fewer claims, such as groups"))
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return nil, refuse("the token is not three parts with dots between", malformed)
	}
	var decoded [3][]byte
	for i, part := range parts {
		// Strict: no white space, no padding, no bits left over. The library would
		// drop white space, and encoding/base64 line ends.
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, refuse("a part of the token is not strict base64url", malformed)
		}
		decoded[i] = b
	}
	u := &unverified{payload: decoded[1]}
	header, ok := members(decoded[0])
	if !ok {
		return nil, refuse("the token's header is not one JSON object whose names are unique", malformed)
	}
	if err := u.header(header); err != nil {
		return nil, err
	}
	if u.claims, ok = members(decoded[1]); !ok {
		return nil, refuse("the token's claims are not one JSON object whose names are unique", malformed)
	}
	if err := u.registered(); err != nil {
		return nil, err
	}
	return u, nil
}

// header reads what is needed of a token's header. The members jku, jwk, x5u, x5c
// and x5t, with which a token could name its own key, are not looked at (I2).
func (u *unverified) header(h map[string]any) error {
	for _, name := range []string{"crit", "b64"} {
		// An extension that must be understood is not (RFC 7515, 4.1.11). The library
		// would follow b64 also where crit does not name it.
		if _, there := h[name]; there {
			return refuse("the token's header uses an extension that is not understood", errs.Hint("ask the issuer for a token without the headers crit and b64"))
		}
	}
	alg, _ := h["alg"].(string)
	u.alg = jose.SignatureAlgorithm(alg)
	if !slices.Contains(algorithms, u.alg) {
		return refuse("the token is not signed with an accepted algorithm", errs.Hint("let the issuer sign with RS256, PS256, ES256, ES384 or EdDSA"))
	}
	if typ, there := h["typ"]; there {
		s, _ := typ.(string)
		if !slices.Contains(tokenTypes, strings.TrimPrefix(strings.ToLower(s), "application/")) {
			return refuse("the token is of a type that proves no identity here", errs.Hint("send an ID token or an access token: typ is JWT, at+jwt, or not there"))
		}
	}
	if kid, there := h["kid"]; there {
		if u.kid, _ = kid.(string); !printable(u.kid, MaxKeyID) {
			return refuse("the token's key id is not 1 to "+strconv.Itoa(MaxKeyID)+" bytes of printable text", malformed)
		}
	}
	return nil
}

// registered reads the claims that every token is judged by.
func (u *unverified) registered() error {
	var ok bool
	if u.iss, ok = u.claims["iss"].(string); !ok || u.iss == "" {
		return refuse("the token names no issuer", errs.Hint("ask the issuer for a token with the claim iss"))
	}
	if u.aud, ok = audiences(u.claims["aud"]); !ok {
		return refuse("the token names no audience, or more than "+strconv.Itoa(maxTokenAuds), errs.Hint("ask the issuer for a token for an audience that it is registered with"))
	}
	for _, date := range []struct {
		name     string
		to       *time.Time
		required bool
	}{{"exp", &u.exp, true}, {"nbf", &u.nbf, false}, {"iat", &u.iat, false}} {
		claim, there := u.claims[date.name]
		if !there && !date.required {
			continue
		}
		n, _ := claim.(json.Number)
		if *date.to, ok = numericDate(string(n)); !ok {
			return refuse("the token's "+date.name+" is not a time in seconds since 1970", errs.Hint("exp is required, nbf and iat are optional; each is a plain number up to the year 9999"))
		}
	}
	if id, there := u.claims["jti"]; there {
		if u.id, _ = id.(string); !printable(u.id, MaxTokenID) {
			return refuse("the token's id is not 1 to "+strconv.Itoa(MaxTokenID)+" bytes of printable text", errs.Hint("ask the issuer for a token with another jti, or without"))
		}
	}
	return nil
}

// audiences reads the claim aud: a text or a list of texts.
func audiences(claim any) ([]string, bool) {
	switch claim := claim.(type) {
	case string:
		return []string{claim}, claim != ""
	case []any:
		if len(claim) == 0 || len(claim) > maxTokenAuds {
			return nil, false
		}
		all := make([]string, 0, len(claim))
		for _, a := range claim {
			s, ok := a.(string)
			if !ok || s == "" {
				return nil, false
			}
			all = append(all, s)
		}
		return all, true
	}
	return nil, false
}

// maxDate is the first second of the year 10000.
const maxDate = 253402300800

// numericDate reads a NumericDate (RFC 7519, 2): digits, and a fraction, of which
// nine digits count. A sign and an exponent, which JSON allows, are refused: no
// issuer writes them, and 1e400 is no time.
func numericDate(n string) (time.Time, bool) {
	whole, fraction, _ := strings.Cut(n, ".") // JSON has no number that ends in a point
	if whole == "" || len(whole) > 12 || strings.Trim(whole+fraction, "0123456789") != "" {
		return time.Time{}, false
	}
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || sec >= maxDate {
		return time.Time{}, false
	}
	if len(fraction) > 9 {
		fraction = fraction[:9]
	}
	nsec, err := strconv.ParseInt("0"+fraction+strings.Repeat("0", 9-len(fraction)), 10, 64)
	return time.Unix(sec, nsec), err == nil
}
