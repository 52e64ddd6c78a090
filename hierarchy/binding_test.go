package hierarchy_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// parts is a second reader of length-prefixed sequences. That it recovers the
// parts shows that the encoding is injective.
func parts(t *rapid.T, b []byte) [][]byte {
	var out [][]byte
	for len(b) > 0 {
		if len(b) < 4 || len(b) < 4+int(binary.BigEndian.Uint32(b)) {
			t.Fatalf("not a sequence of parts: %x", b)
		}
		n := int(binary.BigEndian.Uint32(b))
		out, b = append(out, b[4:4+n]), b[4+n:]
	}
	return out
}

func genUID(t *rapid.T, label string) hierarchy.UID {
	// Few values, so that two draws are often equal.
	return hierarchy.UID{15: rapid.ByteRange(0, 2).Draw(t, label)}
}

func genBinding(t *rapid.T, label string) hierarchy.Binding {
	c, err := hierarchy.NewEncryptionContext(rapid.SampledFrom([][]pair{nil, {{"a", "b"}}, {{"a", "bc"}}, {{"ab", "c"}}}).Draw(t, label+" context")...)
	if err != nil {
		t.Fatal(err)
	}
	return hierarchy.Binding{
		Purpose:  rapid.SampledFrom(hierarchy.Purposes()).Draw(t, label+" purpose"),
		Keyspace: hierarchy.KeyspaceID(genUID(t, label+" keyspace")),
		Tenant:   genUID(t, label+" tenant"),
		Service:  genUID(t, label+" service"),
		Version:  genUID(t, label+" version"),
		Subject:  genUID(t, label+" subject"),
		Resource: hierarchy.ResourceID(rapid.SampledFrom([]string{"", "a", "ab", "\x00\x00\x00\x01"}).Draw(t, label+" resource")),
		Context:  c,
	}
}

func TestI2_AADIsInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genBinding(t, "a"), genBinding(t, "b")
		ha, hb := rapid.SliceOfN(rapid.ByteRange(0, 1), 0, 3).Draw(t, "header a"), rapid.SliceOfN(rapid.ByteRange(0, 1), 0, 3).Draw(t, "header b")
		ea, eb := a.AppendAAD(nil, ha), b.AppendAAD(nil, hb)
		if same := a == b && bytes.Equal(ha, hb); same != bytes.Equal(ea, eb) {
			t.Fatalf("equal inputs=%v, equal encodings=%v:\n%+v %x\n%+v %x", same, bytes.Equal(ea, eb), a, ha, b, hb)
		}
		if len(ea) != a.AADLen(len(ha)) {
			t.Fatalf("AADLen = %d, want %d", a.AADLen(len(ha)), len(ea))
		}
		want := [][]byte{
			ha, []byte(a.Purpose.Wire()), a.Keyspace[:], a.Tenant[:], a.Service[:], a.Version[:], a.Subject[:], []byte(a.Resource), a.Context.Encode(),
		}
		got := parts(t, ea)
		if len(got) != len(want) {
			t.Fatalf("%d parts, want %d", len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("part %d is %x, want %x", i, got[i], want[i])
			}
		}
	})
}

func TestI2_DerivationIsInjectiveInItsScope(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genBinding(t, "a"), genBinding(t, "b")
		sa, sb := [16]byte(genUID(t, "session a")), [16]byte(genUID(t, "session b"))
		ea, eb := a.AppendDerivation(nil, sa), b.AppendDerivation(nil, sb)
		scope := func(b hierarchy.Binding) hierarchy.Binding {
			b.Subject, b.Resource, b.Context = hierarchy.UID{}, "", hierarchy.EncryptionContext{}
			return b
		}
		if same := scope(a) == scope(b) && sa == sb; same != bytes.Equal(ea, eb) {
			t.Fatalf("equal scopes=%v, equal encodings=%v", same, bytes.Equal(ea, eb))
		}
		want := [][]byte{[]byte(a.Purpose.Wire()), a.Keyspace[:], a.Tenant[:], a.Service[:], a.Version[:], sa[:]}
		for i, got := range parts(t, ea) {
			if !bytes.Equal(got, want[i]) {
				t.Fatalf("part %d is %x, want %x", i, got, want[i])
			}
		}
	})
}

func TestAppendsKeepWhatIsThere(t *testing.T) {
	b := hierarchy.Binding{Purpose: hierarchy.PurposeData}
	if got := b.AppendAAD([]byte("xy"), nil); !bytes.HasPrefix(got, []byte("xy\x00\x00\x00\x00")) {
		t.Errorf("AppendAAD: %x", got)
	}
	if got := b.AppendDerivation([]byte("xy"), [16]byte{}); !bytes.HasPrefix(got, []byte("xy\x00\x00\x00\x04data")) {
		t.Errorf("AppendDerivation: %x", got)
	}
}

// TestBindingsHaveExactlyThePartsOfTheirPurpose tries every subset of the parts
// against the documented table.
func TestBindingsHaveExactlyThePartsOfTheirPurpose(t *testing.T) {
	const tenant, service, version, subject, resource, context, keyspace = 1, 2, 4, 8, 16, 32, 64
	base := keyspace | version
	want := map[hierarchy.Purpose]func(set int) bool{
		hierarchy.PurposeIVK:            func(s int) bool { return s == base|subject },
		hierarchy.PurposeInternalSecret: func(s int) bool { return s == base|subject },
		hierarchy.PurposeL2Outer:        func(s int) bool { return s == base|subject|tenant },
		hierarchy.PurposeL1:             func(s int) bool { return s == base|subject|tenant },
		hierarchy.PurposeL2Inner:        func(s int) bool { return s == base|subject|tenant },
		hierarchy.PurposeL21:            func(s int) bool { return s == base|subject|tenant },
		hierarchy.PurposeL3:             func(s int) bool { return s == base|subject|tenant|service },
		hierarchy.PurposeDataKey:        func(s int) bool { return s&^(resource|context) == base|tenant|service },
		hierarchy.PurposeData:           func(s int) bool { return s&^(resource|context) == base|tenant|service },
		hierarchy.PurposeUnspecified:    func(int) bool { return false },
		hierarchy.Purpose(99):           func(int) bool { return false },
		hierarchy.Purpose(-1):           func(int) bool { return false },
	}
	for _, p := range hierarchy.Purposes() {
		if want[p] == nil {
			t.Errorf("purpose %s has no row in this test", p)
		}
	}
	ctx := mustContext(t, pair{"a", "b"})
	for p, ok := range want {
		for set := range 128 {
			b := hierarchy.Binding{Purpose: p}
			if set&keyspace != 0 {
				b.Keyspace = hierarchy.KeyspaceID{1}
			}
			if set&tenant != 0 {
				b.Tenant = uid(1)
			}
			if set&service != 0 {
				b.Service = uid(2)
			}
			if set&version != 0 {
				b.Version = uid(3)
			}
			if set&subject != 0 {
				b.Subject = uid(3) // the inner layers want it equal to Version
			}
			if set&resource != 0 {
				b.Resource = "r"
			}
			if set&context != 0 {
				b.Context = ctx
			}
			if err := b.Check(); (err == nil) != ok(set) {
				t.Errorf("%s with parts %07b: %v, want valid=%v", p, set, err, ok(set))
			} else if err != nil && !errs.Is(err, errs.Internal) {
				t.Errorf("%s: code of %v", p, err)
			}
		}
	}
	inner := hierarchy.Binding{Purpose: hierarchy.PurposeL2Inner, Keyspace: hierarchy.KeyspaceID{1}, Tenant: uid(1), Version: uid(3), Subject: uid(4)}
	if inner.Check() == nil {
		t.Error("inner layer with a version that is not its subject passes")
	}
	long := hierarchy.Binding{Purpose: hierarchy.PurposeData, Keyspace: hierarchy.KeyspaceID{1}, Tenant: uid(1), Service: uid(2), Version: uid(3), Resource: hierarchy.ResourceID(bytes.Repeat([]byte("a"), 129))}
	if long.Check() == nil {
		t.Error("an unchecked resource id passes")
	}
}

func BenchmarkAppendAAD(b *testing.B) {
	bd := hierarchy.Binding{Purpose: hierarchy.PurposeData, Resource: "orders"}
	buf, header := make([]byte, 0, 512), make([]byte, 78)
	b.ReportAllocs()
	for b.Loop() {
		buf = bd.AppendAAD(buf[:0], header)
	}
}
