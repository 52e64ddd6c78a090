package intent

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"

	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// requestLabel separates request digests from other digests.
const requestLabel = "krypton/v1/request"

// Request builds the canonical form of a request, whose digest an intent signs.
// Each field is u32 length and name, u8 type, u32 length and value; fields stand
// in the order in which they were added, which must be fixed in the code of each
// act. A field that is absent is left out by the caller, so "absent" and "empty"
// differ. The zero value is not usable; begin with [NewRequest].
type Request struct {
	b []byte
}

// Types of fields in the canonical form.
const (
	fieldString = 1
	fieldBytes  = 2
	fieldUint   = 3
	fieldList   = 4 // count of the fields with the same name that follow
)

// NewRequest begins the canonical form of a request for act.
func NewRequest(act Act) *Request {
	b := appendBytes(nil, requestLabel)
	return &Request{b: binary.BigEndian.AppendUint16(b, uint16(act))}
}

// Text adds a text field and returns r.
func (r *Request) Text(name, value string) *Request {
	r.field(name, fieldString)
	r.b = appendBytes(r.b, value)
	return r
}

// Bytes adds a field of bytes, none of them secret, and returns r.
func (r *Request) Bytes(name string, value []byte) *Request {
	r.field(name, fieldBytes)
	r.b = appendBytes(r.b, value)
	return r
}

// Uint adds a number and returns r.
func (r *Request) Uint(name string, value uint64) *Request {
	r.field(name, fieldUint)
	r.b = appendBytes(r.b, binary.BigEndian.AppendUint64(nil, value))
	return r
}

// List says that n fields, or groups of fields, of this name follow, and
// returns r. Without it two lists could be cut at another place and still have
// the same bytes.
func (r *Request) List(name string, n int) *Request {
	if n < 0 {
		invariants.Violated("intent", "list %s has a negative length %s", name, strconv.Itoa(n))
	}
	r.field(name, fieldList)
	r.b = appendBytes(r.b, binary.BigEndian.AppendUint64(nil, uint64(n))) //nolint:gosec // Checked above.
	return r
}

// Digest returns SHA-256 of the canonical form.
func (r *Request) Digest() Digest { return sha256.Sum256(r.b) }

// Canonical returns a copy of the canonical form.
func (r *Request) Canonical() []byte { return append([]byte(nil), r.b...) }

func (r *Request) field(name string, kind byte) {
	r.b = append(appendBytes(r.b, name), kind)
}
