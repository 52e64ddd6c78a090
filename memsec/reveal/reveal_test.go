package reveal_test

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/invariants"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

const sentinel = "SENTINELsentinelSENTINELsentinel"

func take(t *testing.T, c memsec.Class) memsec.Secret {
	t.Helper()
	s, err := memsec.Take([]byte(sentinel), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Destroy)
	return s
}

// checkWiped reads what a careless callback kept.
func checkWiped(t *testing.T, kept []byte) {
	t.Helper()
	want := byte(0)
	if invariants.Enabled {
		want = 0xDB
	}
	if !bytes.Equal(kept, bytes.Repeat([]byte{want}, len(kept))) {
		t.Errorf("the callback's bytes are still there")
	}
}

func TestI1_BytesAreGoneAfterTheCallback(t *testing.T) {
	for _, c := range []memsec.Class{memsec.Cold, memsec.Hot} {
		s := take(t, c)
		stop := errors.New("stop")
		for name, end := range map[string]func() error{
			"return": func() error { return nil },
			"error":  func() error { return stop },
			"panic":  func() error { panic(stop) },
			"goexit": func() error { runtime.Goexit(); return nil },
		} {
			var kept []byte
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { _ = recover() }()
				err := reveal.With(s, func(b []byte) error {
					if string(b) != sentinel {
						t.Errorf("%s: other bytes", name)
					}
					kept = b
					return end()
				})
				if (name == "error") != errors.Is(err, stop) {
					t.Errorf("%s gave %v", name, err)
				}
			}()
			<-done
			if len(kept) != len(sentinel) || cap(kept) != len(sentinel) {
				t.Errorf("%s: %d bytes, room for %d", name, len(kept), cap(kept))
			}
			checkWiped(t, kept)
			// The operation has ended in every sense: nothing holds the secret.
			if got := memsec.Report().UsedBytes; c == memsec.Cold && got != 0 {
				t.Errorf("%s: %d bytes still in use", name, got)
			}
		}
		s.Destroy()
	}
}

func TestI2_CallbackSeesACopy(t *testing.T) {
	for _, c := range []memsec.Class{memsec.Cold, memsec.Hot} {
		s := take(t, c)
		if err := reveal.With(s, func(b []byte) error {
			clear(b)
			return reveal.With(s, func(again []byte) error {
				if string(again) != sentinel {
					t.Error("a callback changed the secret")
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
		if err := reveal.With(s, func(b []byte) error {
			s.Destroy()
			if string(b) != sentinel {
				t.Error("Destroy wiped a callback's copy")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := reveal.With(s, func([]byte) error { return nil }); !errors.Is(err, memsec.ErrDestroyed) {
			t.Errorf("after Destroy: %v", err)
		}
	}
}

// A callback may use cold secrets: opening them holds nothing that it waits for.
func TestCallbackMayOpenColdSecrets(t *testing.T) {
	a, b := take(t, memsec.Cold), take(t, memsec.Cold)
	if err := reveal.With(a, func([]byte) error {
		return reveal.With(b, func([]byte) error {
			eq, err := memsec.Equal(a, b)
			if !eq {
				t.Error("not equal")
			}
			return err
		})
	}); err != nil {
		t.Fatal(err)
	}
}

func TestNewFillsInPlaceAndCleansUp(t *testing.T) {
	for _, c := range []memsec.Class{memsec.Cold, memsec.Hot} {
		before := memsec.Report()
		var kept []byte
		s, err := reveal.New(32, c, func(b []byte) error {
			if !bytes.Equal(b, make([]byte, 32)) {
				t.Error("memory does not start as zeros")
			}
			copy(b, sentinel)
			kept = b
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		checkWiped(t, kept)
		if err := reveal.With(s, func(b []byte) error {
			if string(b) != sentinel {
				t.Error("other bytes")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		s.Destroy()

		cause := errors.New("no")
		if _, err := reveal.New(32, c, func(b []byte) error { kept = b; copy(b, sentinel); return cause }); !errors.Is(err, cause) {
			t.Errorf("a failing fill gave %v", err)
		}
		checkWiped(t, kept)
		func() {
			defer func() { _ = recover() }()
			_, _ = reveal.New(32, c, func(b []byte) error { kept = b; copy(b, sentinel); panic(cause) })
		}()
		checkWiped(t, kept)
		if after := memsec.Report(); after.UsedBytes != before.UsedBytes || after.Secrets != before.Secrets {
			t.Errorf("left behind: %+v, then %+v", before, after)
		}
	}
}
