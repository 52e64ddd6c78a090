// Package compat says what releases wrote that later releases must open.
//
// versions.txt has one line for each format: the commit that wrote it first, the
// archive beside it, and what it was. The archive holds the data directory and
// the keystore of a node of that commit, and a list of ciphertexts, wrapped data
// keys and streams with what is in them. The test of this package starts a node
// on every archive and opens everything.
//
// # Invariants
//
//   - I1: everything that a recorded release wrote opens, with the registry, the seal record, the audit trail and the keystore that it wrote.
//   - I2: a line and an archive are never changed; a new format adds one.
//
// # Concurrency
//
// Values only.
//
// # Failure
//
// A release that cannot open an archive does not pass its tests.
//
// # Source
//
// docs/formats.md.
package compat

import (
	"fmt"
	"regexp"
	"strings"
)

// Kind says what an [Item] is. The zero value is invalid.
type Kind string

// The kinds.
const (
	Ciphertext Kind = "ciphertext" // of Encrypt
	DataKey    Kind = "data-key"   // wrapped; Content is the key
	Stream     Kind = "stream"     // of client/stream
)

// ListName is the name of the list in an archive.
const ListName = "expected.json"

// Expected is the list of an archive.
type Expected struct {
	Tenant  string `json:"tenant"`
	Service string `json:"service"`
	Items   []Item `json:"items"`
}

// Item is one thing that has to open, and what is in it.
type Item struct {
	Kind     Kind              `json:"kind"`
	Resource string            `json:"resource,omitempty"`
	Context  map[string]string `json:"context,omitempty"`
	AAD      []byte            `json:"aad,omitempty"`
	Bytes    []byte            `json:"bytes"`
	Content  []byte            `json:"content"` // what comes when it opens
}

// Version is one line of versions.txt.
type Version struct {
	Commit  string // 40 hexadecimal digits
	Archive string // file beside versions.txt
	What    string
}

var line = regexp.MustCompile(`^([0-9a-f]{40}) ([a-z0-9.-]+\.tar\.gz) (\S.*)$`)

// Parse reads versions.txt. Lines that begin with # are comments.
func Parse(text string) ([]Version, error) {
	var out []Version
	for i, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			return nil, fmt.Errorf("versions.txt, line %d is not COMMIT ARCHIVE WHAT", i+1)
		}
		out = append(out, Version{Commit: m[1], Archive: m[2], What: m[3]})
	}
	return out, nil
}
