package memsec_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

var classes = []memsec.Class{memsec.Cold, memsec.Hot}

func must[T any](tb testing.TB) func(T, error) T {
	tb.Helper()
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// take makes a secret from a copy of b and destroys it when the test ends.
func take(tb testing.TB, b []byte, c memsec.Class) memsec.Secret {
	tb.Helper()
	s := must[memsec.Secret](tb)(memsec.Take(bytes.Clone(b), c))
	tb.Cleanup(s.Destroy)
	return s
}

func bytesOf(tb testing.TB, s memsec.Secret) []byte {
	tb.Helper()
	var out []byte
	if err := reveal.With(s, func(b []byte) error { out = bytes.Clone(b); return nil }); err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestSecretKeepsItsBytes(t *testing.T) {
	for _, c := range classes {
		for _, n := range []int{1, 2, 16, 31, 32, 33, 63, 64, 65, 1000, 4095, 4096} {
			want := make([]byte, n)
			_, _ = rand.Read(want)
			s := take(t, want, c)
			if got := bytesOf(t, s); !bytes.Equal(got, want) {
				t.Fatalf("%s secret of %d bytes changed", c, n)
			}
			if s.Len() != n || s.Class() != c || s.IsZero() {
				t.Errorf("%s secret of %d bytes says %d, %s", c, n, s.Len(), s.Class())
			}
			for _, d := range classes {
				dup := must[memsec.Secret](t)(memsec.Copy(s, d))
				if eq, err := memsec.Equal(s, dup); err != nil || !eq || dup.Class() != d {
					t.Errorf("copy from %s to %s: equal %v, class %s, %v", c, d, eq, dup.Class(), err)
				}
				dup.Destroy()
			}
			if got := bytesOf(t, s); !bytes.Equal(got, want) {
				t.Fatalf("%s secret of %d bytes changed when its copy was destroyed", c, n)
			}
		}
	}
}

func TestSecretLengthIsBounded(t *testing.T) {
	for _, c := range classes {
		for _, n := range []int{-1, 0, memsec.MaxLen + 1, 1 << 30} {
			if _, err := memsec.Random(rand.Reader, n, c); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("Random(%d): %v", n, err)
			}
			if _, err := reveal.New(n, c, func([]byte) error { return nil }); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("New(%d): %v", n, err)
			}
		}
		for _, b := range [][]byte{nil, {}, make([]byte, memsec.MaxLen+1)} {
			if _, err := memsec.Take(b, c); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("Take(%d bytes): %v", len(b), err)
			}
		}
	}
}

func TestI5_TakeWipesItsArgument(t *testing.T) {
	for _, n := range []int{1, 32, 4096, 4097} {
		for _, c := range []memsec.Class{0, memsec.Cold, memsec.Hot, 3} {
			b := bytes.Repeat([]byte{0xA5}, n)
			s, err := memsec.Take(b, c)
			if wantErr := n > memsec.MaxLen || (c != memsec.Cold && c != memsec.Hot); (err != nil) != wantErr {
				t.Errorf("Take(%d bytes, %d): %v", n, int(c), err)
			}
			if !bytes.Equal(b, make([]byte, n)) {
				t.Errorf("Take(%d bytes, %d) left bytes behind", n, int(c))
			}
			s.Destroy()
		}
	}
}

func TestUnknownClassIsRefused(t *testing.T) {
	s := take(t, []byte(sentinel), memsec.Hot)
	a := must[memsec.AEAD](t)(memsec.NewAEAD(s))
	t.Cleanup(a.Destroy)
	ct := must[[]byte](t)(a.Seal(nil, make([]byte, 12), []byte("x"), nil))
	for _, c := range []memsec.Class{0, -1, 3} {
		_, err1 := memsec.Random(rand.Reader, 32, c)
		_, err2 := memsec.Copy(s, c)
		_, err3 := memsec.Expand(s, nil, c)
		_, err4 := a.OpenSecret(make([]byte, 12), ct, nil, c)
		_, err5 := reveal.New(32, c, func([]byte) error { return nil })
		for i, err := range []error{err1, err2, err3, err4, err5} {
			if errs.Of(err) != errs.Internal {
				t.Errorf("class %d, call %d: %v", int(c), i, err)
			}
		}
	}
	if memsec.Cold.String() != "cold" || memsec.Hot.String() != "hot" || memsec.Class(0).String() != "unspecified" {
		t.Error("names of the classes changed")
	}
}

func TestRandomReportsAFailingSource(t *testing.T) {
	before := memsec.Report()
	cause := errors.New("no entropy")
	for _, c := range classes {
		if _, err := memsec.Random(io.MultiReader(bytes.NewReader(make([]byte, 31)), failing{cause}), 32, c); !errors.Is(err, cause) {
			t.Errorf("a failing source gave %v", err)
		}
		if _, err := memsec.Random(bytes.NewReader(make([]byte, 31)), 32, c); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a short source gave %v", err)
		}
	}
	if after := memsec.Report(); after.Secrets != before.Secrets || after.UsedBytes != before.UsedBytes {
		t.Errorf("failed Random left memory: %+v, then %+v", before, after)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestEqual(t *testing.T) {
	a, b := []byte(sentinel), []byte(sentinel)
	b[31] ^= 1
	for _, c := range classes {
		for _, d := range classes {
			for _, tc := range []struct {
				x, y []byte
				want bool
			}{{a, a, true}, {a, b, false}, {a, a[:31], false}, {a[:1], a[:1], true}} {
				if got, err := memsec.Equal(take(t, tc.x, c), take(t, tc.y, d)); err != nil || got != tc.want {
					t.Errorf("%s and %s: %v, %v; want %v", c, d, got, err, tc.want)
				}
			}
		}
		s := take(t, a, c)
		if eq, err := memsec.Equal(s, s); err != nil || !eq {
			t.Errorf("a %s secret is not equal to itself: %v, %v", c, eq, err)
		}
	}
}

// uses is every operation on a secret and every one on an AEAD.
func uses(s memsec.Secret, a memsec.AEAD) (ofSecret, ofAEAD map[string]func() error) {
	nonce, ok := make([]byte, memsec.NonceSize), memsec.Secret{}
	ofSecret = map[string]func() error{
		"Equal left":   func() error { _, err := memsec.Equal(s, ok); return err },
		"Copy":         func() error { _, err := memsec.Copy(s, memsec.Hot); return err },
		"Copy cold":    func() error { _, err := memsec.Copy(s, memsec.Cold); return err },
		"Expand":       func() error { _, err := memsec.Expand(s, nil, memsec.Hot); return err },
		"ExpandPublic": func() error { _, err := memsec.ExpandPublic(s, nil); return err },
		"MAC":          func() error { _, err := memsec.MAC(s, nil); return err },
		"NewAEAD":      func() error { _, err := memsec.NewAEAD(s); return err },
		"With": func() error {
			return reveal.With(s, func([]byte) error { panic("callback ran") })
		},
	}
	ofAEAD = map[string]func() error{
		"Seal":       func() error { _, err := a.Seal(nil, nonce, nil, nil); return err },
		"Open":       func() error { _, err := a.Open(nil, nonce, make([]byte, 20), nil); return err },
		"SealSecret": func() error { _, err := a.SealSecret(nil, nonce, s, nil); return err },
		"OpenSecret": func() error { _, err := a.OpenSecret(nonce, make([]byte, 20), nil, memsec.Hot); return err },
	}
	return ofSecret, ofAEAD
}

func TestI2_UseAfterDestroyIsRefused(t *testing.T) {
	for _, c := range classes {
		s := must[memsec.Secret](t)(memsec.Take([]byte(sentinel), c))
		a := must[memsec.AEAD](t)(memsec.NewAEAD(s))
		s.Destroy()
		s.Destroy()
		if _, err := a.Seal(nil, make([]byte, 12), nil, nil); err != nil {
			t.Errorf("the AEAD ended with its key: %v", err)
		}
		if _, err := a.SealSecret(nil, make([]byte, 12), s, nil); !errors.Is(err, memsec.ErrDestroyed) {
			t.Errorf("SealSecret of a destroyed secret: %v", err)
		}
		a.Destroy()
		a.Destroy()
		// Whatever takes the freed places must not be reachable by old handles.
		fresh := take(t, []byte("another secret of thirty-two byt"), memsec.Hot)
		take(t, []byte("another secret of thirty-two byt"), memsec.Hot)
		if _, err := memsec.Equal(fresh, s); !errors.Is(err, memsec.ErrDestroyed) {
			t.Errorf("Equal right: %v", err)
		}
		ofSecret, ofAEAD := uses(s, a)
		for _, m := range []map[string]func() error{ofSecret, ofAEAD} {
			for name, use := range m {
				if err := use(); !errors.Is(err, memsec.ErrDestroyed) || errs.Of(err) != errs.NotServing {
					t.Errorf("%s %s after Destroy: %v", c, name, err)
				}
			}
		}
		if s.Len() != 0 || s.Class() != 0 || s.IsZero() || a.IsZero() {
			t.Errorf("a destroyed secret says %d, %s, zero %v", s.Len(), s.Class(), s.IsZero())
		}
	}
}

func TestZeroHandlesAreRefused(t *testing.T) {
	ofSecret, ofAEAD := uses(memsec.Secret{}, memsec.AEAD{})
	for _, m := range []map[string]func() error{ofSecret, ofAEAD} {
		for name, use := range m {
			if err := use(); !errors.Is(err, memsec.ErrNoSecret) || errs.Of(err) != errs.Internal {
				t.Errorf("%s of the zero handle: %v", name, err)
			}
		}
	}
	var s memsec.Secret
	var a memsec.AEAD
	s.Destroy()
	a.Destroy()
	if !s.IsZero() || !a.IsZero() || s.Len() != 0 || s.Class() != 0 || s != (memsec.Secret{}) {
		t.Error("the zero Secret is something")
	}
}

func TestI2_PurgeEndsEverythingAndTheProcessGoesOn(t *testing.T) {
	type pair struct {
		s memsec.Secret
		a memsec.AEAD
	}
	var all []pair
	for _, c := range classes {
		for range 5 {
			s := must[memsec.Secret](t)(memsec.Random(rand.Reader, 32, c))
			all = append(all, pair{s, must[memsec.AEAD](t)(memsec.NewAEAD(s))})
		}
	}
	memsec.Purge()
	for _, p := range all {
		ofSecret, ofAEAD := uses(p.s, p.a)
		for _, m := range []map[string]func() error{ofSecret, ofAEAD} {
			for name, use := range m {
				if err := use(); !errors.Is(err, memsec.ErrDestroyed) {
					t.Errorf("%s after Purge: %v", name, err)
				}
			}
		}
	}
	if r := memsec.Report(); r.Secrets != 0 || r.AEADs != 0 || r.UsedBytes != 0 {
		t.Errorf("after Purge: %+v", r)
	}
	for _, c := range classes {
		if got := bytesOf(t, take(t, []byte(sentinel), c)); string(got) != sentinel {
			t.Errorf("%s after Purge: other bytes", c)
		}
	}
	memsec.Purge()
	memsec.Purge()
}

func TestI2_WhatAnOperationMakesDoesNotSurviveAPurgeDuringIt(t *testing.T) {
	for _, c := range classes {
		s, err := reveal.New(32, c, func(b []byte) error {
			copy(b, sentinel)
			memsec.Purge()
			return nil
		})
		if !errors.Is(err, memsec.ErrDestroyed) || !s.IsZero() {
			t.Errorf("%s: a secret made across a purge: %v", c, err)
		}
	}
	if r := memsec.Report(); r.Secrets != 0 || r.UsedBytes != 0 {
		t.Errorf("left behind: %+v", r)
	}
}

func TestReportCountsAndReturnsToNothing(t *testing.T) {
	memsec.Purge()
	s := must[memsec.Secret](t)(memsec.Random(rand.Reader, 33, memsec.Hot))
	a := must[memsec.AEAD](t)(memsec.NewAEAD(must[memsec.Secret](t)(memsec.Random(rand.Reader, 32, memsec.Cold))))
	r := memsec.Report()
	if r.Secrets != 2 || r.AEADs != 1 || r.UsedBytes != 64 || r.LockedBytes < r.UsedBytes || r.Tier != memsec.TierMlock {
		t.Errorf("report %+v", r)
	}
	s.Destroy()
	a.Destroy()
	memsec.Purge()
	if r := memsec.Report(); r.Secrets != 0 || r.AEADs != 0 || r.UsedBytes != 0 {
		t.Errorf("report after the end %+v", r)
	}
}

func ExampleTake() {
	key := []byte("0123456789abcdef0123456789abcdef")
	s, err := memsec.Take(key, memsec.Hot)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Destroy()
	fmt.Println(s, s.Len(), key[0] == 0)
	// Output: [redacted] 32 true
}

func ExampleExpand() {
	parent, err := memsec.Random(rand.Reader, memsec.KeySize, memsec.Cold)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer parent.Destroy()
	key, err := memsec.Expand(parent, []byte("example/key"), memsec.Hot)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Destroy()
	aead, err := memsec.NewAEAD(key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer aead.Destroy()
	nonce := make([]byte, memsec.NonceSize) // from a random source, in earnest
	ct, err := aead.Seal(nil, nonce, []byte("hello"), []byte("context"))
	if err != nil {
		fmt.Println(err)
		return
	}
	pt, err := aead.Open(nil, nonce, ct, []byte("context"))
	fmt.Println(string(pt), err)
	// Output: hello <nil>
}
