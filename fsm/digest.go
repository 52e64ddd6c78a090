package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sort"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// CheckSize refuses a command that is longer than [MaxCommandBytes].
func CheckSize(cmd []byte) error {
	if len(cmd) > MaxCommandBytes {
		return errs.Newf(errs.TooLarge, "the change needs %d bytes in the log, at most %d are allowed", len(cmd), MaxCommandBytes).
			With(errs.Hint("give less in one request"))
	}
	return nil
}

// Digest returns SHA-256 of the whole state in its canonical encoding. Two
// replicas with the same log have the same digest. It is computed anew on every
// call, in time proportional to the state: for tests, audits and comparisons,
// not for the path of a request.
//
// The texts of remembered refusals are not in it: they may change from release
// to release, and nothing depends on them.
func (v *View) Digest() [32]byte {
	h := sha256.New()
	buf := appendCanonical(nil, v.header().ProtoReflect())
	h.Write(buf)
	v.items(func(it *fsmpb.SnapshotItem) bool {
		buf = appendCanonical(buf[:0], it.ProtoReflect())
		h.Write(buf)
		return true
	})
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// appendCanonical appends the canonical encoding of m. It is not protobuf,
// whose bytes may differ between releases of the library for one message:
//
//	message  u32 fields | fields x ( u32 number | value ), by number, absent ones left out
//	value    u8 1 | u64        numbers, enums, booleans
//	         u8 2 | u32 len | bytes     bytes and text
//	         u8 3 | message
//	         u8 4 | u32 count | values  lists
func appendCanonical(dst []byte, m protoreflect.Message) []byte {
	type field struct {
		fd protoreflect.FieldDescriptor
		v  protoreflect.Value
	}
	var buf [24]field
	fields := buf[:0]
	_, isResult := m.Interface().(*fsmpb.Result)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !isResult || (fd.Name() != "message" && fd.Name() != "hint") {
			fields = append(fields, field{fd, v})
		}
		return true
	})
	sort.Slice(fields, func(i, j int) bool { return fields[i].fd.Number() < fields[j].fd.Number() })
	dst = appendLen(dst, len(fields))
	for _, f := range fields {
		dst = binary.BigEndian.AppendUint32(dst, uint32(f.fd.Number())) //nolint:gosec // Field numbers are positive and small.
		if !f.fd.IsList() {
			dst = appendValue(dst, f.fd, f.v)
			continue
		}
		list := f.v.List()
		dst = appendLen(append(dst, 4), list.Len())
		for i := range list.Len() {
			dst = appendValue(dst, f.fd, list.Get(i))
		}
	}
	return dst
}

func appendValue(dst []byte, fd protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(append(dst, 1), n) }
	switch fd.Kind() { //nolint:exhaustive // The default stops what the commands do not use.
	case protoreflect.BoolKind:
		if v.Bool() {
			return number(1)
		}
		return number(0)
	case protoreflect.EnumKind:
		return number(uint64(uint32(v.Enum()))) //nolint:gosec // A bijection is all that is needed.
	case protoreflect.Int64Kind:
		return number(uint64(v.Int())) //nolint:gosec // A bijection is all that is needed.
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return number(v.Uint())
	case protoreflect.StringKind:
		return appendPart(append(dst, 2), v.String())
	case protoreflect.BytesKind:
		return appendPart(append(dst, 2), v.Bytes())
	case protoreflect.MessageKind:
		return appendCanonical(append(dst, 3), v.Message())
	}
	invariants.Violated("fsm", "field %s has a kind without a canonical encoding", fd.FullName())
	return nil
}

func appendLen(dst []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(min(n, math.MaxUint32))) //nolint:gosec // Bounded by the line itself.
}
