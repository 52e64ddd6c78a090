package auth

import "github.com/openkcm/krypton-cluster/hierarchy"

// Limits of names in certificates. All are in bytes.
const (
	MaxName        = 63  // of a person, a workload or a node
	MaxTrustDomain = 255 // as the SPIFFE-ID standard has it
)

// ValidName reports whether s can name a person, a workload or a node:
// ^[a-z0-9]([a-z0-9._-]{0,62})$. Slashes, percent signs and upper case are not
// in it, so a name needs no escaping in a URI, a file name or a log line.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName || !lowerAlnum(s[0]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !lowerAlnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func validTenant(t hierarchy.Name) bool {
	_, err := hierarchy.ParseName(string(t))
	return err == nil
}

// ValidTrustDomain reports whether s is a trust domain: lower-case letters,
// digits, dots, dashes and underscores, at most [MaxTrustDomain] of them,
// without an empty label.
func ValidTrustDomain(s string) bool {
	if s == "" || len(s) > MaxTrustDomain {
		return false
	}
	prev := byte('.')
	for i := range len(s) {
		c := s[i]
		if c == '.' && prev == '.' {
			return false
		}
		if !lowerAlnum(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
		prev = c
	}
	return prev != '.'
}

func lowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
