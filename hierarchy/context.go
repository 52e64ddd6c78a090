package hierarchy

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of an encryption context.
const (
	MaxContextPairs = 64   // pairs
	MaxContextBytes = 8192 // sum of the bytes of all keys and values
)

// ReservedContextPrefix is refused at the start of a context key, so that
// Krypton can define keys of its own later without meaning a caller's.
const ReservedContextPrefix = "krypton"

// ContextPair is one key and value of an encryption context.
type ContextPair struct {
	Key   string // not empty
	Value string // may be empty
}

// EncryptionContext is a set of pairs that a caller gives to encrypt and must
// give again to decrypt. It is authenticated, not encrypted and not secret. The
// zero value is the absent context; a context of no pairs is the same. Values
// compare with ==.
//
// Encoding (changing it makes every ciphertext with a context unreadable):
//
//	u32 count | count x ( u32 len | key | u32 len | value )     big endian, sorted by the bytes of the keys
type EncryptionContext struct {
	enc string // the encoding, "" when there are no pairs
}

// NewEncryptionContext makes the canonical context of pairs, in whatever order
// they come. Pairs and not a map, because a map has already lost a repeated
// key: which of the two values was authenticated would depend on a decoder.
//
// Keys and values are valid UTF-8 and are not normalised. At most
// [MaxContextPairs] and [MaxContextBytes]; no empty key, no key twice, no key
// that starts with [ReservedContextPrefix].
func NewEncryptionContext(pairs ...ContextPair) (EncryptionContext, error) {
	if len(pairs) == 0 {
		return EncryptionContext{}, nil
	}
	if len(pairs) > MaxContextPairs {
		return EncryptionContext{}, errs.Newf(errs.TooLarge, "encryption context has %d pairs, at most %d are allowed", len(pairs), MaxContextPairs).
			With(errs.Hint("give one pair with a digest of what the others say"))
	}
	total := 0
	for _, p := range pairs {
		if err := p.check(); err != nil {
			return EncryptionContext{}, err
		}
		total += len(p.Key) + len(p.Value)
	}
	if total > MaxContextBytes {
		return EncryptionContext{}, errs.Newf(errs.TooLarge, "encryption context has %d bytes, at most %d are allowed", total, MaxContextBytes).
			With(errs.Hint("give a digest of what the values say"))
	}
	sorted := slices.Clone(pairs)
	slices.SortFunc(sorted, func(a, b ContextPair) int { return cmp.Compare(a.Key, b.Key) })
	enc := make([]byte, 0, 4+8*len(sorted)+total)
	enc = binary.BigEndian.AppendUint32(enc, uint32(len(sorted))) //nolint:gosec // At most 64.
	for i, p := range sorted {
		if i > 0 && sorted[i-1].Key == p.Key {
			return EncryptionContext{}, errs.New(errs.InvalidArgument, "encryption context has a key twice", errs.Hint("give each key once"))
		}
		enc = appendPart(enc, p.Key)
		enc = appendPart(enc, p.Value)
	}
	return EncryptionContext{enc: string(enc)}, nil
}

func (p ContextPair) check() error {
	switch {
	case p.Key == "":
		return errs.New(errs.InvalidArgument, "encryption context has an empty key", errs.Hint("give every value a key"))
	case !utf8.ValidString(p.Key) || !utf8.ValidString(p.Value):
		return errs.New(errs.InvalidArgument, "encryption context is not valid UTF-8", errs.Hint("give binary values in base64"))
	case strings.HasPrefix(p.Key, ReservedContextPrefix):
		return errs.New(errs.InvalidArgument, "encryption context has a key with the reserved prefix "+ReservedContextPrefix, errs.Hint("choose another key"))
	}
	return nil
}

// DecodeEncryptionContext reads an encoding made by [EncryptionContext.Encode]
// and refuses every other spelling of the same pairs.
func DecodeEncryptionContext(b []byte) (EncryptionContext, error) {
	bad := errs.New(errs.InvalidArgument, "encryption context is not in its canonical encoding")
	if len(b) < 4 || len(b) > 4+8*MaxContextPairs+MaxContextBytes {
		return EncryptionContext{}, bad
	}
	n, rest := binary.BigEndian.Uint32(b), b[4:]
	if n > MaxContextPairs {
		return EncryptionContext{}, bad
	}
	pairs := make([]ContextPair, 0, n)
	for range n {
		var p ContextPair
		var ok bool
		if p.Key, rest, ok = cutPart(rest); !ok {
			return EncryptionContext{}, bad
		}
		if p.Value, rest, ok = cutPart(rest); !ok {
			return EncryptionContext{}, bad
		}
		pairs = append(pairs, p)
	}
	c, err := NewEncryptionContext(pairs...)
	if err != nil {
		return EncryptionContext{}, err
	}
	if len(rest) != 0 || string(c.AppendEncoding(nil)) != string(b) {
		return EncryptionContext{}, bad
	}
	return c, nil
}

// IsZero reports whether the context is absent.
func (c EncryptionContext) IsZero() bool { return c.enc == "" }

// Pairs returns the pairs, sorted by the bytes of their keys.
func (c EncryptionContext) Pairs() []ContextPair {
	if c.enc == "" {
		return nil
	}
	b := []byte(c.enc)
	pairs := make([]ContextPair, binary.BigEndian.Uint32(b))
	rest := b[4:]
	for i := range pairs {
		pairs[i].Key, rest, _ = cutPart(rest)
		pairs[i].Value, rest, _ = cutPart(rest)
	}
	return pairs
}

// Get returns the value of key, and whether the context has it. It allocates
// nothing: a policy asks it on every data operation.
func (c EncryptionContext) Get(key string) (value string, ok bool) {
	if c.enc == "" {
		return "", false
	}
	part := func(s string) (string, string) {
		n := int(s[0])<<24 | int(s[1])<<16 | int(s[2])<<8 | int(s[3])
		return s[4 : 4+n], s[4+n:]
	}
	for rest := c.enc[4:]; rest != ""; {
		var k, v string
		k, rest = part(rest)
		v, rest = part(rest)
		if k == key {
			return v, true
		}
	}
	return "", false
}

// Encode returns the canonical encoding. The absent context is four zero bytes: the count.
func (c EncryptionContext) Encode() []byte { return c.AppendEncoding(nil) }

// EncodedLen returns the number of bytes of the encoding.
func (c EncryptionContext) EncodedLen() int { return max(len(c.enc), 4) }

// AppendEncoding appends the canonical encoding to dst.
func (c EncryptionContext) AppendEncoding(dst []byte) []byte {
	if c.enc == "" {
		return append(dst, 0, 0, 0, 0)
	}
	return append(dst, c.enc...)
}

// appendPart appends the length of part as u32 big endian, and part. Every
// caller's parts are bounded by kilobytes, so the length never wraps.
func appendPart[T ~string | ~[]byte](dst []byte, part T) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(part))) //nolint:gosec // Bounded by the callers' limits.
	return append(dst, part...)
}

func cutPart(b []byte) (part string, rest []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	b = b[4:]
	if uint64(len(b)) < n {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}

func putUint64(b []byte, v uint64) { binary.BigEndian.PutUint64(b, v) }

func appendUint32(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(n)) //nolint:gosec // Bounded by the callers' limits.
}
