//go:build !race

package memsec_test

import (
	"bytes"
	"testing"

	"github.com/openkcm/krypton-cluster/memsec"
)

func TestAllocI8_SealAndOpenAllocateNothing(t *testing.T) {
	a := newAEAD(t, []byte(sentinel))
	s := take(t, []byte(sentinel), memsec.Hot)
	nonce, aad, pt := make([]byte, 12), []byte("aad"), bytes.Repeat([]byte("x"), 256)
	sealed := must[[]byte](t)(a.Seal(nil, nonce, pt, aad))
	out, back := make([]byte, 0, 512), make([]byte, 0, 512)
	for name, op := range map[string]func() error{
		"Seal":       func() error { _, err := a.Seal(out, nonce, pt, aad); return err },
		"Open":       func() error { _, err := a.Open(back, nonce, sealed, aad); return err },
		"SealSecret": func() error { _, err := a.SealSecret(out, nonce, s, aad); return err },
		"Len":        func() error { _ = s.Len(); return nil },
		"Equal":      func() error { _, err := memsec.Equal(s, s); return err },
	} {
		if n := testing.AllocsPerRun(200, func() {
			if err := op(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s allocates %.1f times", name, n)
		}
	}
}

func TestAllocRefusingADestroyedHandle(t *testing.T) {
	a := newAEAD(t, []byte(sentinel))
	a.Destroy()
	nonce := make([]byte, 12)
	if n := testing.AllocsPerRun(200, func() { _, _ = a.Seal(nil, nonce, nil, nil) }); n != 0 {
		t.Errorf("a refusal allocates %.1f times", n)
	}
}
