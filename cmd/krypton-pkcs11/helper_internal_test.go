//go:build cgo && unix && !nopkcs11

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// stream is a node that has said all it says.
type stream struct {
	io.Reader
	bytes.Buffer
}

func (s *stream) Read(b []byte) (int, error) { return s.Reader.Read(b) }

func request(t testing.TB, r wire.Request, payload []byte) []byte {
	t.Helper()
	frame, room, err := r.Frame(len(payload))
	if err != nil {
		t.Fatal(err)
	}
	copy(room, payload)
	return frame
}

func hello(t testing.TB, change func(*wire.Hello)) []byte {
	t.Helper()
	h := wire.Hello{Version: wire.Version, Module: "/nowhere/lib.so", Label: "l", PINFile: "/nowhere/pin", Workers: 2}
	change(&h)
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return request(t, wire.Request{Call: 7, Op: wire.OpHello}, text)
}

func TestAFrameThatDoesNotDecodeEndsTheHelper(t *testing.T) {
	for name, in := range map[string][]byte{
		"nothing said":    {},
		"no hello":        request(t, wire.Request{Op: wire.OpWrap}, []byte("secret")),
		"cut":             hello(t, func(*wire.Hello) {})[:20],
		"too long":        {0xFF, 0xFF, 0xFF, 0xFF},
		"an op that none": request(t, wire.Request{Op: 200}, nil),
	} {
		s := &stream{Reader: bytes.NewReader(in)}
		if err := serve(s); err == nil || s.Len() > 0 {
			t.Errorf("%s: %v, answered %x", name, err, s.Bytes())
		}
	}
}

func TestAHelloThatCannotBeMetIsAnswered(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*wire.Hello)
		text   string
	}{
		"another version": {func(h *wire.Hello) { h.Version = 9 }, "install both from one release"},
		"no such module":  {func(*wire.Hello) {}, "not a PKCS#11 library that loads here"},
		"not a module":    {func(h *wire.Hello) { h.Module = os.Args[0] }, "not a PKCS#11 library that loads here"},
	} {
		s := &stream{Reader: bytes.NewReader(hello(t, c.change))}
		if err := serve(s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		frame, err := wire.ReadFrame(&s.Buffer)
		if err != nil {
			t.Fatal(err)
		}
		a, text, err := wire.DecodeAnswer(frame)
		if err != nil || a.Call != 7 || a.Status != wire.StatusSetup || !strings.Contains(string(text), c.text) {
			t.Errorf("%s: %+v %q, %v", name, a, text, err)
		}
	}
}

func TestI2_OnlyItsOwnerMayUseThePINFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	user := os.Geteuid()
	if err := checkPINFile(path, info, user); err != nil {
		t.Error(err)
	}
	if err := checkPINFile(path, info, user+1); (err == nil) != (user == 0) { // root's file is for everyone's helper
		t.Errorf("the file of user %d for user %d: %v", user, user+1, err)
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkPINFile(path, dir, user); err == nil {
		t.Error("a directory is taken for a file")
	}
	stop := errors.New("stop")
	var first [fingerprintSize]byte
	key := bytes.Repeat([]byte{1}, keySize)
	err = withPIN(path, key, func(pin []byte, f [fingerprintSize]byte) error {
		first = f
		if string(pin) != "1234" || text(pin) != "1234" {
			t.Errorf("another PIN")
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Error(err)
	}
	// Another key, another content: another fingerprint.
	same := func(key []byte) bool {
		var got [fingerprintSize]byte
		if err := withPIN(path, key, func(_ []byte, f [fingerprintSize]byte) error { got = f; return nil }); err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(got[:32], first[:32])
	}
	if !same(key) || same(bytes.Repeat([]byte{2}, keySize)) {
		t.Error("a fingerprint does not depend on its key alone")
	}
	if err := os.WriteFile(path, []byte("1235\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if same(key) {
		t.Error("two PINs have one fingerprint")
	}
	if err := withPIN(path, key[:31], func([]byte, [fingerprintSize]byte) error { return nil }); err == nil {
		t.Error("a short key is taken")
	}
}

func TestIDsAreOrderedAsNumbers(t *testing.T) {
	want := [][]byte{{}, {0}, {0, 0}, {1}, {0, 1}, {2}, {0xFF}, {1, 0}, {0, 1, 0}, {1, 0, 0}}
	for seed := range want {
		got := slices.Concat(want[seed:], want[:seed])
		slices.SortFunc(got, compareIDs)
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("%x at %d, want %x", got[i], i, want[i])
			}
		}
	}
}

func FuzzServe(f *testing.F) {
	f.Add(request(f, wire.Request{Op: wire.OpWrap, Ref: "k"}, []byte("x")))
	f.Add(hello(f, func(*wire.Hello) {}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &stream{Reader: bytes.NewReader(in)}
		_ = serve(s) // it ends, with whatever it is given
		if s.Len() == 0 {
			return
		}
		frame, err := wire.ReadFrame(&s.Buffer)
		if err != nil {
			t.Fatal(err)
		}
		if a, _, err := wire.DecodeAnswer(frame); err != nil || a.Status == wire.StatusOK {
			t.Errorf("%+v, %v", a, err)
		}
	})
}
