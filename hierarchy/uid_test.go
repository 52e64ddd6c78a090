package hierarchy_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func uid(n byte) hierarchy.UID { return hierarchy.UID{n, 15: 0xee} }

func TestUIDTextHasOneSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uid")
		b[rapid.IntRange(0, 15).Draw(t, "not zero")] |= 1
		u, err := hierarchy.UIDFromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		back, err := hierarchy.ParseUID(u.String())
		if err != nil || back != u {
			t.Fatalf("ParseUID(%q) = %v, %v", u, back, err)
		}
		if up := strings.ToUpper(u.String()); up != u.String() {
			if _, err := hierarchy.ParseUID(up); !errs.Is(err, errs.InvalidArgument) {
				t.Fatalf("ParseUID(%q): %v, want a refusal", up, err)
			}
		}
	})
}

func TestIdentitiesRefuseEveryOtherText(t *testing.T) {
	good := strings.Repeat("0", 31) + "1"
	for _, s := range []string{"", good[1:], good + "0", " " + good[1:], strings.Repeat("0", 32), "g" + good[1:], good[:31] + "A", good[:31] + "\n"} {
		_, err1 := hierarchy.ParseUID(s)
		_, err2 := hierarchy.ParseKeyspaceID(s)
		_, err3 := hierarchy.ParseClusterID(s)
		for _, err := range []error{err1, err2, err3} {
			if !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("parse %q: %v, want InvalidArgument", s, err)
			}
		}
	}
	for _, n := range []int{0, 15, 17} {
		_, err1 := hierarchy.UIDFromBytes(bytes.Repeat([]byte{1}, n))
		_, err2 := hierarchy.KeyspaceIDFromBytes(bytes.Repeat([]byte{1}, n))
		_, err3 := hierarchy.ClusterIDFromBytes(bytes.Repeat([]byte{1}, n))
		for _, err := range []error{err1, err2, err3} {
			if !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("%d bytes: %v, want InvalidArgument", n, err)
			}
		}
	}
	k, err := hierarchy.ParseKeyspaceID(good)
	if err != nil || k.String() != good || k.IsZero() {
		t.Errorf("keyspace id %v, %v", k, err)
	}
	c, err := hierarchy.ParseClusterID(good)
	if err != nil || c.String() != good || c.IsZero() {
		t.Errorf("cluster id %v, %v", c, err)
	}
}

func TestDrawnIdentitiesAreTheSourcesBytesAndNeverZero(t *testing.T) {
	src := bytes.Repeat([]byte{7}, 48)
	r := bytes.NewReader(src)
	u, err1 := hierarchy.NewUID(r)
	k, err2 := hierarchy.NewKeyspaceID(r)
	c, err3 := hierarchy.NewClusterID(r)
	if err1 != nil || err2 != nil || err3 != nil || u[0] != 7 || k[0] != 7 || c[0] != 7 {
		t.Fatalf("%v %v %v / %v %v %v", u, k, c, err1, err2, err3)
	}
	if _, err := hierarchy.NewUID(bytes.NewReader(make([]byte, 16))); err == nil {
		t.Error("a source of zeros made a uid")
	}
	if _, err := hierarchy.NewUID(io.LimitReader(bytes.NewReader(src), 15)); err == nil {
		t.Error("a source that ended early made a uid")
	}
}

func TestGenerationsHaveDistinctStableVersionUIDs(t *testing.T) {
	if got, want := hierarchy.Generation(258).VersionUID().String(), hex.EncodeToString([]byte("mk-gen\x00\x00"))+"0000000000000102"; got != want {
		t.Errorf("VersionUID = %s, want %s", got, want)
	}
	seen := map[hierarchy.UID]bool{}
	for g := range hierarchy.Generation(1000) {
		u := g.VersionUID()
		if u.IsZero() || seen[u] {
			t.Fatalf("generation %d: %s is zero or repeated", g, u)
		}
		seen[u] = true
	}
}

func FuzzParseUID(f *testing.F) {
	f.Add("000102030405060708090a0b0c0d0e0f")
	f.Add("000102030405060708090A0B0C0D0E0F")
	f.Add("00000000000000000000000000000000")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		uid, err := hierarchy.ParseUID(s)
		keyspace, err2 := hierarchy.ParseKeyspaceID(s)
		cluster, err3 := hierarchy.ParseClusterID(s)
		if (err == nil) != (err2 == nil) || (err == nil) != (err3 == nil) {
			t.Fatalf("one spelling, three answers: %v, %v, %v", err, err2, err3)
		}
		if err != nil {
			return
		}
		if uid.IsZero() || uid.String() != s || keyspace.String() != s || cluster.String() != s {
			t.Errorf("%q became %s, %s, %s", s, uid, keyspace, cluster)
		}
	})
}
