package fsm_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// eachScalar calls f for every scalar field below m, lists included: with its path,
// and with what changes it and changes it back.
func eachScalar(path string, m protoreflect.Message, f func(path string, change func())) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		name := path + "." + string(fd.Name())
		switch {
		case fd.IsList() && fd.Message() != nil:
			list := m.Mutable(fd).List()
			if list.Len() == 0 {
				list.Append(list.NewElement())
			}
			for j := range list.Len() {
				eachScalar(name, list.Get(j).Message(), f)
			}
			f(name, func() { list.Append(list.NewElement()) })
		case fd.IsList():
			f(name, func() { m.Mutable(fd).List().Append(otherValue(fd, m.NewField(fd).List().NewElement())) })
		case fd.Message() != nil:
			eachScalar(name, m.Mutable(fd).Message(), f)
		default:
			f(name, func() { m.Set(fd, otherValue(fd, m.Get(fd))) })
		}
	}
}

// otherValue returns another value than v.
func otherValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(!v.Bool())
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(v.Enum() + 1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(v.Int() + 1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(v.Uint()) + 1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(v.Uint() + 1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(v.String() + "x")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(append(bytes.Clone(v.Bytes()), 'x'))
	}
	panic("a kind that no command has: " + fd.FullName())
}

// TestTheFoundingIsEveryFieldOfAGenesisButTheWrappedKeys, also fields that are added
// later: whatever a genesis decides must not be another thing under the same keys.
func TestTheFoundingIsEveryFieldOfAGenesisButTheWrappedKeys(t *testing.T) {
	t.Parallel()
	wrapped := map[string]bool{".internal_key.blob": true, ".secrets.blob": true}
	seen := 0
	for at := 0; ; at++ {
		g := &fsmpb.Genesis{Persons: []*fsmpb.Person{{}, {}}, Secrets: []*fsmpb.Secret{{}, {}}}
		n, name := 0, ""
		before := [32]byte{}
		eachScalar("", g.ProtoReflect(), func(string, func()) {}) // makes every message
		eachScalar("", g.ProtoReflect(), func(path string, change func()) {
			if n++; n-1 == at {
				name, before = path, fsm.Founding(g)
				change()
			}
		})
		if at >= n {
			break
		}
		if same := fsm.Founding(g) == before; same != wrapped[name] {
			t.Errorf("%s: with another value the digest is the same: %t", name, same)
		}
		if wrapped[name] {
			seen++
		}
	}
	if seen != 3 {
		t.Errorf("met %d wrapped keys, want that of the internal key and of two secrets", seen)
	}
}

func TestTheFoundingLeavesTheGenesisAsItIs(t *testing.T) {
	t.Parallel()
	g := &fsmpb.Genesis{InternalKey: &fsmpb.Version{Blob: []byte("b")}, Secrets: []*fsmpb.Secret{{Blob: []byte("s")}}, FormatVersion: fsm.FormatAuthority}
	was := proto.CloneOf(g)
	sum := fsm.Founding(g)
	if !proto.Equal(g, was) {
		t.Errorf("it is now %v", g)
	}
	raw, err := fsm.EncodeGenesis(g)
	if err != nil {
		t.Fatal(err)
	}
	if got, bound, err := fsm.FoundingOf(&fsmpb.Cluster{Genesis: raw}); err != nil || got != sum || !bound {
		t.Errorf("of the stored genesis: %x, bound %t, %v; want %x", got, bound, err, sum)
	}
	g.FormatVersion = fsm.FormatAuthority - 1
	if raw, err = fsm.EncodeGenesis(g); err != nil {
		t.Fatal(err)
	}
	if _, bound, err := fsm.FoundingOf(&fsmpb.Cluster{Genesis: raw}); err != nil || bound {
		t.Errorf("of an older cluster: bound %t, %v", bound, err)
	}
	if _, _, err := fsm.FoundingOf(&fsmpb.Cluster{Genesis: []byte{0xff}}); err == nil {
		t.Error("junk has a founding")
	}
}
