package gcpkms

import (
	"errors"
	"fmt"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
)

// maxSegment is the longest id in a resource name, in bytes. Google's rings
// and keys have up to 63; names of projects with a domain may be longer.
const maxSegment = 100

const versionsPart = "/cryptoKeyVersions/"

// resource is a parsed key reference:
// projects/P/locations/L/keyRings/R/cryptoKeys/K.
type resource struct {
	project, location, ring, key string
}

// parseKey reads a key reference. Only the full resource name is one: a
// version would pin new wraps to it, and a URL would name a host, which only
// the configuration does.
func parseKey(ref keystore.KeyRef) (resource, error) {
	const form = "projects/P/locations/L/keyRings/R/cryptoKeys/K"
	text := string(ref)
	if strings.Contains(text, versionsPart) {
		return resource{}, fmt.Errorf("the reference names a version of a key; name the key: %s", form)
	}
	parts := strings.Split(text, "/")
	if len(parts) != 8 || parts[0] != "projects" || parts[2] != "locations" || parts[4] != "keyRings" || parts[6] != "cryptoKeys" {
		return resource{}, fmt.Errorf("the reference is not a resource name of the form %s", form)
	}
	r := resource{project: parts[1], location: parts[3], ring: parts[5], key: parts[7]}
	for _, id := range []string{r.location, r.ring, r.key} {
		if !validID(id, "") {
			return resource{}, errors.New("the reference has an id with other characters than letters, digits, dash and underscore")
		}
	}
	if !validID(r.project, ".:") {
		return resource{}, errors.New("the reference has no valid project id")
	}
	return r, nil
}

func validID(s, more string) bool {
	if s == "" || len(s) > maxSegment {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		case strings.IndexByte(more, c) >= 0:
		default:
			return false
		}
	}
	return true
}

func (r resource) ringName() string {
	return "projects/" + r.project + "/locations/" + r.location + "/keyRings/" + r.ring
}

func (r resource) keyName() string { return r.ringName() + "/cryptoKeys/" + r.key }

func (r resource) versionName(v keystore.KeyVersion) string {
	return r.keyName() + versionsPart + string(v)
}

// isName reports whether a name in an answer is that of this key. Google knows
// a project by its id and by its number, and may answer with the other one.
func (r resource) isName(name string) bool {
	rest, ok := strings.CutPrefix(name, "projects/")
	project, rest, found := strings.Cut(rest, "/")
	_, own, _ := strings.Cut(strings.TrimPrefix(r.keyName(), "projects/"), "/")
	return ok && found && validID(project, ".:") && rest == own
}

// versionOf returns the number from the name of a version of this key.
func (r resource) versionOf(name string) (keystore.KeyVersion, error) {
	key, number, _ := strings.Cut(name, versionsPart)
	if !r.isName(key) || !validVersion(number) {
		return "", errors.New("the answer names no version of this key")
	}
	return keystore.KeyVersion(number), nil
}

// validVersion reports whether s is the number of a version, without leading zeros.
func validVersion[T ~string](s T) bool {
	if s == "" || len(s) > 18 || s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// Place returns project and location of a key, which its name has.
func Place(_ keystore.Config, key keystore.KeyRef) keystore.Place {
	r, err := parseKey(key)
	if err != nil {
		return keystore.Place{}
	}
	return keystore.Place{Account: r.project, Region: r.location}
}
