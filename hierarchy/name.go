package hierarchy

import (
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of names.
const (
	MaxNameBytes       = 63  // of a Name
	MaxResourceIDBytes = 128 // of a ResourceID
)

// Name is an id of one path segment: ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$. Names
// are chosen by people, may be used again after the object is gone, and are
// therefore in no associated data.
type Name string

// ParseName checks s and says which rule it breaks.
func ParseName(s string) (Name, error) {
	bad := func(why string) (Name, error) {
		return "", errs.New(errs.InvalidArgument, "name "+why,
			errs.Hint("a name is 1 to %d of a-z, 0-9 and '-', starts with a letter and does not end with '-'", MaxNameBytes))
	}
	switch {
	case s == "":
		return bad("is empty")
	case len(s) > MaxNameBytes:
		return bad("is longer than 63 bytes")
	case s[0] < 'a' || s[0] > 'z':
		return bad("does not start with a lower-case letter")
	case s[len(s)-1] == '-':
		return bad("ends with '-'")
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return bad("has a character other than a-z, 0-9 and '-'")
		}
	}
	return Name(s), nil
}

// ResourceID is what a caller calls the thing that is encrypted: a table, a
// record, a bucket. It is chosen by the caller, 1 to 128 bytes of valid UTF-8,
// compared byte by byte without normalisation, and bound into the associated
// data. The empty ResourceID means none. It is not secret.
type ResourceID string

// ParseResourceID checks s. The empty string is the absent resource and valid.
//
// Refused are control characters, line and paragraph separators and the
// bidirectional controls, so that an id cannot forge or reorder a log line, and
// "." and "..", which proxies rewrite in paths. The set is a fixed list and not
// a class of the unicode package: replicas built with different Unicode tables
// must agree.
func ParseResourceID(s string) (ResourceID, error) {
	bad := func(why string) (ResourceID, error) {
		return "", errs.New(errs.InvalidArgument, "resource id "+why,
			errs.Hint("a resource id is at most %d bytes of UTF-8 without control characters, and not . or ..", MaxResourceIDBytes))
	}
	switch {
	case len(s) > MaxResourceIDBytes:
		return bad("is longer than 128 bytes")
	case !utf8.ValidString(s):
		return bad("is not valid UTF-8")
	case s == "." || s == "..":
		return bad("is a relative path segment")
	}
	for _, r := range s {
		if isControl(r) {
			return bad("has a control character")
		}
	}
	return ResourceID(s), nil
}

func isControl(r rune) bool {
	switch {
	case r < 0x20, r >= 0x7f && r <= 0x9f: // C0, DEL, C1
		return true
	case r == 0x2028, r == 0x2029: // line and paragraph separator
		return true
	case r == 0x061c, r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069: // bidirectional controls
		return true
	}
	return false
}
