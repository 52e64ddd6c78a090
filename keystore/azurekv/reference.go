//go:build !noazurekv

package azurekv

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Limits of Azure's names, in bytes.
const (
	maxKeyName    = 127
	keyVersionLen = 32
)

// reference is a parsed key reference.
type reference struct {
	name    string
	version string // empty: the current one
}

// bound is the key as the binding of a blob has it: vault names are not case
// sensitive, and which vault it is proves itself by opening the blob.
func (r reference) bound() keystore.KeyRef { return keystore.KeyRef(strings.ToLower(r.name)) }

// reference parses a name or a key identifier, https://HOST/keys/NAME[/VERSION],
// whose host is the configured vault (I1).
func (s settings) reference(key keystore.KeyRef) (reference, error) {
	text := string(key)
	if !strings.Contains(text, "/") {
		if !validName(text) {
			return reference{}, errors.New("the reference is neither the name of a key, letters, digits and dashes, nor a key identifier")
		}
		return reference{name: text}, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return reference{}, errors.New("the reference is not a key identifier of the form https://VAULT/keys/NAME or https://VAULT/keys/NAME/VERSION")
	}
	if !sameHost(u, s.vault) {
		return reference{}, fmt.Errorf("the reference names the vault %s, and this keystore is %s", u.Host, s.vault.Host)
	}
	parts := strings.Split(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "keys" || !validName(parts[1]) {
		return reference{}, errors.New("the reference names no key of the vault")
	}
	r := reference{name: parts[1]}
	if len(parts) == 3 {
		r.version = strings.ToLower(parts[2])
		if !validVersion(r.version) {
			return reference{}, errors.New("the reference names a version that is not 32 hexadecimal digits")
		}
	}
	return r, nil
}

// sameHost compares hosts with the port of https filled in.
func sameHost(a, b *url.URL) bool {
	port := func(u *url.URL) string {
		if p := u.Port(); p != "" {
			return p
		}
		return "443"
	}
	return strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func validName(s string) bool {
	if s == "" || len(s) > maxKeyName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' {
			return false
		}
	}
	return true
}

func validVersion(s string) bool {
	if len(s) != keyVersionLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
