package intent

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// requestLabel separates request digests from other digests.
const requestLabel = "krypton/v1/request"

// Limits of a canonical request that is read back. They bound what a person can
// be shown; a builder does not look at them, so what exceeds them has a digest
// and can be signed by nobody.
const (
	MaxRequest   = 256 << 10 // bytes of the canonical form
	MaxFields    = 4096      // fields, and what a list may count
	MaxFieldName = 32        // bytes of a field's name
)

// Kind is the type of a field in the canonical form. Its numbers are under
// signatures and must never change. Zero is invalid.
type Kind uint8

// The kinds.
const (
	KindUnspecified Kind = 0
	KindText        Kind = 1 // UTF-8
	KindBytes       Kind = 2
	KindUint        Kind = 3 // 64 bits
	KindList        Kind = 4 // count of the fields, or groups of fields, with the same name that follow
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case KindText:
		return "text"
	case KindBytes:
		return "bytes"
	case KindUint:
		return "uint"
	case KindList:
		return "list"
	case KindUnspecified:
	}
	return "unspecified"
}

// Field is one field of a request. Only the value of its kind is set.
type Field struct {
	Name  string
	Kind  Kind
	Text  string
	Bytes []byte
	Uint  uint64 // of KindUint the value, of KindList the count
}

// Request is the canonical form of a request, whose digest an intent signs.
// Each field is u32 length and name, u8 kind, u32 length and value; fields stand
// in the order in which they were added, which must be fixed in the code of each
// act. A field that is absent is left out by the caller, so "absent" and "empty"
// differ. The zero value is not usable: begin with [NewRequest], with one of the
// acts that have a type ([Destroy] and its like), or read one with [ParseRequest].
type Request struct {
	act    Act
	b      []byte
	fields []Field
}

// NewRequest begins the canonical form of a request for act.
func NewRequest(act Act) *Request {
	b := appendBytes(nil, requestLabel)
	return &Request{act: act, b: binary.BigEndian.AppendUint16(b, uint16(act))}
}

// Text adds a text field and returns r.
func (r *Request) Text(name, value string) *Request {
	return r.add(Field{Name: name, Kind: KindText, Text: value})
}

// Bytes adds a field of bytes, none of them secret, and returns r.
func (r *Request) Bytes(name string, value []byte) *Request {
	return r.add(Field{Name: name, Kind: KindBytes, Bytes: bytes.Clone(value)})
}

// Uint adds a number and returns r.
func (r *Request) Uint(name string, value uint64) *Request {
	return r.add(Field{Name: name, Kind: KindUint, Uint: value})
}

// List says that n fields, or groups of fields, of this name follow, and
// returns r. Without it two lists could be cut at another place and still have
// the same bytes.
func (r *Request) List(name string, n int) *Request {
	if n < 0 {
		invariants.Violated("intent", "list %s has a negative length %s", name, strconv.Itoa(n))
	}
	return r.add(Field{Name: name, Kind: KindList, Uint: uint64(n)}) //nolint:gosec // Checked above.
}

// Digest returns SHA-256 of the canonical form.
func (r *Request) Digest() Digest { return sha256.Sum256(r.b) }

// Canonical returns a copy of the canonical form.
func (r *Request) Canonical() []byte { return bytes.Clone(r.b) }

// Act returns the act that r is a request for.
func (r *Request) Act() Act { return r.act }

// Fields returns a copy of the fields, in their order.
func (r *Request) Fields() []Field {
	fs := make([]Field, len(r.fields))
	for i, f := range r.fields {
		f.Bytes = bytes.Clone(f.Bytes)
		fs[i] = f
	}
	return fs
}

// Equal reports whether r and other have the same canonical form.
func (r *Request) Equal(other *Request) bool { return bytes.Equal(r.b, other.b) }

func (r *Request) add(f Field) *Request {
	r.b = append(appendBytes(r.b, f.Name), byte(f.Kind))
	switch f.Kind {
	case KindText:
		r.b = appendBytes(r.b, f.Text)
	case KindBytes:
		r.b = appendBytes(r.b, f.Bytes)
	case KindUint, KindList:
		r.b = binary.BigEndian.AppendUint32(r.b, 8)
		r.b = binary.BigEndian.AppendUint64(r.b, f.Uint)
	case KindUnspecified:
	}
	r.fields = append(r.fields, f)
	return r
}

// Errors of [ParseRequest].
var (
	errRequestSize  = errors.New("canonical request is longer than the limit")
	errRequestLabel = errors.New("canonical request does not begin with its label")
	errRequestAct   = errors.New("canonical request is for no known act")
	errRequestCut   = errors.New("canonical request is cut short")
	errFieldCount   = errors.New("canonical request has more fields than the limit")
	errFieldName    = errors.New("name of a field is empty, too long, or not of lower-case letters, digits, - and _")
	errFieldKind    = errors.New("field has an unknown kind")
	errFieldText    = errors.New("text field is not UTF-8")
	errFieldNumber  = errors.New("number or count does not have 8 bytes")
	errListCount    = errors.New("list has more elements than the limit of fields")
)

// ParseRequest reads what [Request.Canonical] returned (I7). It knows no acts'
// fields, see [Request.Known]. It keeps no reference to b.
func ParseRequest(b []byte) (*Request, error) {
	if len(b) > MaxRequest {
		return nil, errRequestSize
	}
	rest, ok := bytes.CutPrefix(b, appendBytes(nil, requestLabel))
	if !ok {
		return nil, errRequestLabel
	}
	if len(rest) < 2 {
		return nil, errRequestCut
	}
	r := NewRequest(Act(binary.BigEndian.Uint16(rest)))
	if !r.act.Valid() {
		return nil, errRequestAct
	}
	for rest = rest[2:]; len(rest) > 0; {
		if len(r.fields) == MaxFields {
			return nil, errFieldCount
		}
		var f Field
		var err error
		if f, rest, err = cutField(rest); err != nil {
			return nil, err
		}
		r.add(f)
	}
	return r, nil
}

// cutField reads the field that b begins with.
func cutField(b []byte) (f Field, rest []byte, err error) {
	name, b, ok := cutBytes(b)
	if !ok || len(b) == 0 {
		return Field{}, nil, errRequestCut
	}
	if !validFieldName(string(name)) {
		return Field{}, nil, errFieldName
	}
	f = Field{Name: string(name), Kind: Kind(b[0])}
	value, rest, ok := cutBytes(b[1:])
	if !ok {
		return Field{}, nil, errRequestCut
	}
	switch f.Kind {
	case KindText:
		if !utf8.Valid(value) {
			return Field{}, nil, errFieldText
		}
		f.Text = string(value)
	case KindBytes:
		f.Bytes = bytes.Clone(value)
	case KindUint, KindList:
		if len(value) != 8 {
			return Field{}, nil, errFieldNumber
		}
		if f.Uint = binary.BigEndian.Uint64(value); f.Kind == KindList && f.Uint > MaxFields {
			return Field{}, nil, errListCount
		}
	case KindUnspecified:
		return Field{}, nil, errFieldKind
	default:
		return Field{}, nil, errFieldKind
	}
	return f, rest, nil
}

// cutBytes reads u32 length and value.
func cutBytes(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

func validFieldName(s string) bool {
	return s != "" && len(s) <= MaxFieldName && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
