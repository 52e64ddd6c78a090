package intent

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// The encoding of an intent, all integers big-endian:
//
//	u8   version = 1
//	16   keyspace id
//	u16  act
//	32   SHA-256 of the canonical request
//	u64  not-after, unix milliseconds, 1 to 2^63-1
//	16   nonce
//	u32  number of preconditions
//	     then for each, in strictly ascending byte order of the object name:
//	     u32 length of the name, name, u64 mod index
//
// It is our own and not protobuf, whose bytes are not canonical: two encoders
// may write one message differently, and then a signature would not verify.
// Changing anything here breaks every stored signature.
const fixedLen = 1 + 16 + 2 + 32 + 8 + 16 + 4

// Errors of [Intent.Validate] and [Decode].
var (
	errVersion    = errors.New("intent has a version that this node does not know")
	errKeyspace   = errors.New("intent has no keyspace id")
	errAct        = errors.New("intent names no known act")
	errRequest    = errors.New("intent has no request digest")
	errNotAfter   = errors.New("intent has no expiry")
	errNonce      = errors.New("intent has no nonce")
	errTooMany    = errors.New("intent has more preconditions than the limit")
	errObject     = errors.New("object name in a precondition is empty, too long or not printable ASCII")
	errOrder      = errors.New("preconditions are not in ascending order of object names, or name one twice")
	errLength     = errors.New("intent has the wrong length")
	errNotAPrefix = errors.New("intent is cut short")
)

// Validate reports the first reason why in cannot be encoded.
func (in Intent) Validate() error {
	switch {
	case in.Keyspace.IsZero():
		return errKeyspace
	case !in.Act.Valid():
		return errAct
	case in.Request == Digest{}:
		return errRequest
	case in.NotAfter <= 0:
		return errNotAfter
	case in.Nonce == Nonce{}:
		return errNonce
	case len(in.Preconditions) > MaxPreconditions:
		return errTooMany
	}
	for i, p := range in.Preconditions {
		if !validObject(p.Object) {
			return errObject
		}
		if i > 0 && in.Preconditions[i-1].Object >= p.Object {
			return errOrder
		}
	}
	return nil
}

func validObject(s string) bool {
	if s == "" || len(s) > MaxObject {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// SortPreconditions returns ps in the order that an intent needs. It does not
// change ps.
func SortPreconditions(ps []Precondition) []Precondition {
	sorted := slices.Clone(ps)
	slices.SortFunc(sorted, func(a, b Precondition) int { return strings.Compare(a.Object, b.Object) })
	return sorted
}

// Encode returns the one encoding of in (I1), or the error of [Intent.Validate].
func (in Intent) Encode() ([]byte, error) {
	if err := in.Validate(); err != nil {
		return nil, err
	}
	size := fixedLen
	for _, p := range in.Preconditions {
		size += 4 + len(p.Object) + 8
	}
	b := make([]byte, 0, size)
	b = append(b, Version)
	b = append(b, in.Keyspace[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(in.Act))
	b = append(b, in.Request[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(in.NotAfter)) //nolint:gosec // Validate: positive.
	b = append(b, in.Nonce[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(in.Preconditions))) //nolint:gosec // Validate: at most MaxPreconditions.
	for _, p := range in.Preconditions {
		b = appendBytes(b, p.Object)
		b = binary.BigEndian.AppendUint64(b, p.ModIndex)
	}
	return b, nil
}

// Decode is the inverse of [Intent.Encode]. It keeps no reference to b.
func Decode(b []byte) (Intent, error) {
	if len(b) < fixedLen {
		return Intent{}, errNotAPrefix
	}
	if len(b) > MaxEncoded {
		return Intent{}, errLength
	}
	if b[0] != Version {
		return Intent{}, errVersion
	}
	b = b[1:]
	var in Intent
	in.Keyspace = hierarchy.KeyspaceID(b[:16])
	in.Act = Act(binary.BigEndian.Uint16(b[16:]))
	in.Request = Digest(b[18:50])
	in.NotAfter = int64(binary.BigEndian.Uint64(b[50:])) //nolint:gosec // A value over 2^63-1 becomes negative, which Validate refuses.
	in.Nonce = Nonce(b[58:74])
	n := binary.BigEndian.Uint32(b[74:])
	b = b[78:]
	if n > MaxPreconditions {
		return Intent{}, errTooMany
	}
	for range n {
		var p Precondition
		if len(b) < 4 {
			return Intent{}, errNotAPrefix
		}
		l := binary.BigEndian.Uint32(b)
		b = b[4:]
		if l > MaxObject {
			return Intent{}, errObject
		}
		if len(b) < int(l)+8 {
			return Intent{}, errNotAPrefix
		}
		p.Object = string(b[:l])
		p.ModIndex = binary.BigEndian.Uint64(b[l:])
		b = b[l+8:]
		in.Preconditions = append(in.Preconditions, p)
	}
	if len(b) != 0 {
		return Intent{}, errLength
	}
	if err := in.Validate(); err != nil {
		return Intent{}, err
	}
	return in, nil
}

// Message returns the bytes that are signed: the label and the encoding, each
// with its length in front as u32. Ed25519 signs them as they are, ECDSA signs
// their SHA-256.
func (in Intent) Message() ([]byte, error) {
	enc, err := in.Encode()
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 4+len(Label)+4+len(enc))
	b = appendBytes(b, Label)
	return appendBytes(b, enc), nil
}

// Digest returns SHA-256 over [Intent.Message]. It names the intent in stored
// objects, approvals and ceremony manifests.
func (in Intent) Digest() (Digest, error) {
	m, err := in.Message()
	if err != nil {
		return Digest{}, err
	}
	return sha256.Sum256(m), nil
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(v))) //nolint:gosec // Callers' limits are far below 4 GiB.
	return append(b, v...)
}
