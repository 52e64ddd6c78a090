//go:build unix

package pkcs11

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

func FuzzEnvironment(f *testing.F) {
	for _, text := range []string{"", "A=b", "A=b, C=d", "SOFTHSM2_CONF=/x/y", "LD_PRELOAD=/x", "=", ",", "A", "GLIBC_TUNABLES=x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pairs, err := parseEnvironment(text)
		if err != nil {
			return
		}
		for _, pair := range pairs {
			name, _, found := strings.Cut(pair, "=")
			if !found || name == "" || strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "GLIBC_") || strings.HasPrefix(name, "MALLOC_") || strings.Contains(pair, "\x00") {
				t.Errorf("%q gave %q", text, pair)
			}
		}
	})
}

// Denied is said for two answers only, and never for one that is not known.
func TestI1_OnlyTwoAnswersAreDenied(t *testing.T) {
	for status := range 256 {
		for _, ckr := range []uint32{0, 0x05, 0x68, 0x82, 0xA0, 0xA4, 0xE0} {
			for _, stage := range []wire.Stage{0, wire.StageFind, wire.StageDecrypt, 200} {
				a := wire.Answer{Status: wire.Status(status), CKR: ckr, Stage: stage}
				err := judge(a, []byte("why"))
				if a.Status == wire.StatusOK || a.Status == wire.StatusChanged {
					if err != nil {
						t.Errorf("%+v: %v", a, err)
					}
					continue
				}
				denied := a.Status == wire.StatusNotFound || a.Status == wire.StatusForbidden
				if err == nil || (classOf(err) == keystore.Denied) != denied {
					t.Errorf("%+v: %v", a, err)
				}
			}
		}
	}
	for _, err := range []error{errGone, errLate, errClosed, errRetired, wire.ErrMalformed, errors.New("unknown")} {
		if classOf(err) != keystore.Unavailable {
			t.Errorf("%v is %s", err, classOf(err))
		}
	}
}

func TestTextOfTheHelperIsBoundedAndPrintable(t *testing.T) {
	got := printable(append([]byte("a\nlevel=ERROR\x1b[31m\x7f"), bytes.Repeat([]byte("x"), 1000)...))
	if len(got) > 400 || strings.ContainsAny(got, "\n\x1b\x7f") || !strings.HasPrefix(got, "a level=ERROR") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
