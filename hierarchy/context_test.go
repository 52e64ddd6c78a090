package hierarchy_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

type pair = hierarchy.ContextPair

func genPairs() *rapid.Generator[[]pair] {
	return rapid.Custom(func(t *rapid.T) []pair {
		m := rapid.MapOfN(
			rapid.String().Filter(func(s string) bool {
				return s != "" && utf8.ValidString(s) && !strings.HasPrefix(s, "krypton")
			}),
			rapid.String().Filter(utf8.ValidString), 0, 8).Draw(t, "pairs")
		var out []pair
		for _, k := range slices.Sorted(maps.Keys(m)) {
			out = append(out, pair{k, m[k]})
		}
		return out
	})
}

func mustContext(t interface {
	Helper()
	Fatal(args ...any)
}, pairs ...pair,
) hierarchy.EncryptionContext {
	t.Helper()
	c, err := hierarchy.NewEncryptionContext(pairs...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestI1_ContextDoesNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pairs := genPairs().Draw(t, "pairs")
		want := mustContext(t, pairs...)
		got := mustContext(t, rapid.Permutation(pairs).Draw(t, "order")...)
		if got != want || !bytes.Equal(got.Encode(), want.Encode()) {
			t.Fatalf("order changed the encoding of %q", pairs)
		}
		if d := cmp.Diff(pairs, got.Pairs()); d != "" {
			t.Fatalf("pairs (-given sorted +got):\n%s", d)
		}
	})
}

func TestI1_DifferentContextsHaveDifferentEncodings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genPairs().Draw(t, "a"), genPairs().Draw(t, "b")
		ca, cb := mustContext(t, a...), mustContext(t, b...)
		if same := cmp.Equal(a, b); same != bytes.Equal(ca.Encode(), cb.Encode()) || same != (ca == cb) {
			t.Fatalf("%q and %q: equal pairs=%v, equal contexts=%v", a, b, same, ca == cb)
		}
		back, err := hierarchy.DecodeEncryptionContext(ca.Encode())
		if err != nil || back != ca {
			t.Fatalf("decode(encode(%q)) = %q, %v", a, back.Pairs(), err)
		}
		if ca.EncodedLen() != len(ca.Encode()) {
			t.Fatalf("EncodedLen = %d, encoding has %d bytes", ca.EncodedLen(), len(ca.Encode()))
		}
	})
}

func TestI1_BoundariesBetweenKeyAndValueCount(t *testing.T) {
	groups := [][]pair{
		{{"ab", "c"}}, {{"a", "bc"}}, {{"abc", ""}}, {{"a", ""}, {"b", "c"}}, {{"a", "b"}, {"c", ""}}, {{"a", "\x00\x00\x00\x01b"}},
	}
	seen := map[string]int{}
	for i, g := range groups {
		e := string(mustContext(t, g...).Encode())
		if j, dup := seen[e]; dup {
			t.Errorf("%q and %q have one encoding", groups[j], g)
		}
		seen[e] = i
	}
}

func TestContextEncodingIsTheDocumentedOne(t *testing.T) {
	c := mustContext(t, pair{"region", "eu"}, pair{"app", ""})
	want := "00000002" + "00000003617070" + "00000000" + "00000006726567696f6e" + "000000026575"
	if got := hex.EncodeToString(c.Encode()); got != want {
		t.Errorf("encoding\n got %s\nwant %s", got, want)
	}
	if got := hex.EncodeToString(hierarchy.EncryptionContext{}.Encode()); got != "00000000" {
		t.Errorf("absent context encodes as %s", got)
	}
}

func TestNoPairsIsTheAbsentContext(t *testing.T) {
	c := mustContext(t)
	if c != (hierarchy.EncryptionContext{}) || !c.IsZero() || c.Pairs() != nil {
		t.Error("a context of no pairs differs from the zero value")
	}
	d, err := hierarchy.DecodeEncryptionContext([]byte{0, 0, 0, 0})
	if err != nil || d != c {
		t.Errorf("decoded empty context: %v, %v", d, err)
	}
}

func TestContextLimits(t *testing.T) {
	many := make([]pair, hierarchy.MaxContextPairs)
	for i := range many {
		many[i] = pair{fmt.Sprintf("k%02d", i), "v"}
	}
	big := []pair{{"k", strings.Repeat("v", hierarchy.MaxContextBytes-1)}}
	for name, ok := range map[string][]pair{"most pairs": many, "most bytes": big, "unnormalised": {{"é", "1"}, {"e\u0301", "2"}}, "Krypton is not reserved": {{"Krypton", "1"}}} {
		if _, err := hierarchy.NewEncryptionContext(ok...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, tc := range map[string]struct {
		pairs []pair
		code  errs.Code
	}{
		"one pair more":         {append(slices.Clone(many), pair{"x", ""}), errs.TooLarge},
		"one byte more":         {[]pair{{"k", big[0].Value + "v"}}, errs.TooLarge},
		"one byte more in keys": {append(slices.Clone(big), pair{"x", ""}), errs.TooLarge},
		"empty key":             {[]pair{{"", "v"}}, errs.InvalidArgument},
		"key twice":             {[]pair{{"a", "1"}, {"b", "2"}, {"a", "3"}}, errs.InvalidArgument},
		"pair twice":            {[]pair{{"a", "1"}, {"a", "1"}}, errs.InvalidArgument},
		"reserved":              {[]pair{{"krypton", "1"}}, errs.InvalidArgument},
		"reserved prefix":       {[]pair{{"krypton-tenant", "1"}}, errs.InvalidArgument},
		"bad UTF-8 in key":      {[]pair{{"a\xff", "1"}}, errs.InvalidArgument},
		"bad UTF-8 in value":    {[]pair{{"a", "\xff"}}, errs.InvalidArgument},
	} {
		c, err := hierarchy.NewEncryptionContext(tc.pairs...)
		if !errs.Is(err, tc.code) || !c.IsZero() {
			t.Errorf("%s: %v, want %v", name, err, tc.code)
		}
	}
}

func TestErrorsAboutContextsDoNotRepeatTheContext(t *testing.T) {
	const canary = "canary-9f2"
	for _, pairs := range [][]pair{{{canary, "1"}, {canary, "1"}}, {{"krypton" + canary, canary}}, {{canary + "\xff", canary}}, {{"k", strings.Repeat(canary, 1000)}}} {
		_, err := hierarchy.NewEncryptionContext(pairs...)
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("error %q", err)
		}
	}
}

func TestNewEncryptionContextDoesNotWriteToItsInput(t *testing.T) {
	in := []pair{{"b", "1"}, {"a", "2"}}
	mustContext(t, in...)
	if in[0].Key != "b" {
		t.Error("input was sorted in place")
	}
}

func TestDecodeRefusesEveryOtherSpelling(t *testing.T) {
	good := mustContext(t, pair{"a", "1"}, pair{"b", "2"}).Encode()
	for n := range good {
		if _, err := hierarchy.DecodeEncryptionContext(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes decode", n, len(good))
		}
	}
	unsorted, _ := hex.DecodeString("00000002" + "0000000162" + "0000000132" + "0000000161" + "0000000131")
	for name, b := range map[string][]byte{
		"nil": nil, "trailing byte": append(slices.Clone(good), 0), "unsorted": unsorted, "65 pairs": {0, 0, 0, 65}, "huge count": {0xff, 0xff, 0xff, 0xff},
		"huge length": {0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 'a'}, "empty with trailing": {0, 0, 0, 0, 0}, "over the size limit": make([]byte, 1<<20),
	} {
		if _, err := hierarchy.DecodeEncryptionContext(b); err == nil {
			t.Errorf("%s decodes", name)
		}
	}
}

func FuzzDecodeEncryptionContext(f *testing.F) {
	c, _ := hierarchy.NewEncryptionContext(pair{"a", "1"}, pair{"b", ""})
	f.Add(c.Encode())
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 'a', 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 1, 'b', 0, 0, 0, 0, 0, 0, 0, 1, 'a', 0, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{0xff}, 12))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := hierarchy.DecodeEncryptionContext(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Encode(), b) {
			t.Fatalf("%x decodes but encodes as %x", b, c.Encode())
		}
		again, err := hierarchy.NewEncryptionContext(c.Pairs()...)
		if err != nil || again != c {
			t.Fatalf("pairs of a decoded context are refused: %v", err)
		}
	})
}

func TestContextGetsWhatPairsHave(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pairs := genPairs().Draw(t, "pairs")
		c := mustContext(t, pairs...)
		for _, p := range pairs {
			if v, ok := c.Get(p.Key); !ok || v != p.Value {
				t.Fatalf("Get(%q) = %q, %v, want %q", p.Key, v, ok, p.Value)
			}
			if _, ok := c.Get(p.Key + "x"); ok != slices.ContainsFunc(pairs, func(o pair) bool { return o.Key == p.Key+"x" }) {
				t.Fatalf("Get(%q) = %v", p.Key+"x", ok)
			}
		}
		if _, ok := c.Get(""); ok {
			t.Fatal("the empty key is there")
		}
	})
}
