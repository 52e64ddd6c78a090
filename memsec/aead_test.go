package memsec_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

func newAEAD(tb testing.TB, key []byte) memsec.AEAD {
	tb.Helper()
	s := must[memsec.Secret](tb)(memsec.Take(bytes.Clone(key), memsec.Hot))
	defer s.Destroy()
	a := must[memsec.AEAD](tb)(memsec.NewAEAD(s))
	tb.Cleanup(a.Destroy)
	return a
}

func reference(tb testing.TB, key []byte) cipher.AEAD {
	tb.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	return must[cipher.AEAD](tb)(cipher.NewGCM(block))
}

// isUnopenable checks the one answer of I6 to the letter.
func isUnopenable(err error) bool {
	want := errs.DoesNotOpen(nil)
	var e *errs.Error
	return errors.As(err, &e) && e.Code == want.Code && e.Msg == want.Msg && e.Hint == want.Hint
}

func TestI7_AEADWycheproof(t *testing.T) {
	var opened, refused int
	for _, g := range vectors(t, "aes_gcm_test.json").TestGroups {
		for _, v := range g.Tests {
			key, iv, aad, msg := unhex(t, v.Key), unhex(t, v.Iv), unhex(t, v.AAD), unhex(t, v.Msg)
			ct := append(unhex(t, v.Ct), unhex(t, v.Tag)...)
			s := take(t, key, memsec.Hot)
			a, err := memsec.NewAEAD(s)
			if (err == nil) != (g.KeySize == 256) {
				t.Errorf("case %d: a key of %d bits gave %v", v.TcID, g.KeySize, err)
			}
			s.Destroy()
			if err != nil {
				if !errs.Is(err, errs.InvalidArgument) {
					t.Errorf("case %d: %v", v.TcID, err)
				}
				continue
			}
			valid := v.Result == "valid" && g.IvSize == 96
			pt, err := a.Open(nil, iv, ct, aad)
			switch {
			case valid:
				opened++
				if err != nil || !bytes.Equal(pt, msg) {
					t.Errorf("case %d (%s) does not open: %v", v.TcID, v.Comment, err)
				}
				if got, err := a.Seal(nil, iv, msg, aad); err != nil || !bytes.Equal(got, ct) {
					t.Errorf("case %d (%s) seals to something else: %v", v.TcID, v.Comment, err)
				}
				if len(msg) > 0 {
					m := take(t, msg, memsec.Hot)
					if got, err := a.SealSecret(nil, iv, m, aad); err != nil || !bytes.Equal(got, ct) {
						t.Errorf("case %d (%s) SealSecret: %v", v.TcID, v.Comment, err)
					}
				}
			default:
				refused++
				if !isUnopenable(err) || pt != nil {
					t.Errorf("case %d (%s, iv of %d bits) opens: %v", v.TcID, v.Comment, g.IvSize, err)
				}
			}
			s, err = a.OpenSecret(iv, ct, aad, memsec.Hot)
			if valid && len(msg) > 0 {
				if err != nil || !bytes.Equal(bytesOf(t, s), msg) {
					t.Errorf("case %d (%s) OpenSecret: %v", v.TcID, v.Comment, err)
				}
			} else if !isUnopenable(err) {
				t.Errorf("case %d (%s) OpenSecret opens: %v", v.TcID, v.Comment, err)
			}
			s.Destroy()
			a.Destroy()
		}
	}
	if opened < 30 || refused < 30 {
		t.Errorf("only %d opened and %d refused", opened, refused)
	}
}

func TestAEADAppendsInPlaceAndBehind(t *testing.T) {
	key, nonce, aad := []byte(sentinel), []byte("twelve bytes"), []byte("aad")
	a, ref := newAEAD(t, key), reference(t, key)
	for _, n := range []int{0, 1, 15, 16, 17, 255, 256, 5000} {
		pt := make([]byte, n)
		_, _ = rand.Read(pt)
		want := ref.Seal(nil, nonce, pt, aad)

		buf := make([]byte, n, n+memsec.Overhead)
		copy(buf, pt)
		ct, err := a.Seal(buf[:0], nonce, buf, aad)
		if err != nil || !bytes.Equal(ct, want) {
			t.Fatalf("%d bytes in place: %v", n, err)
		}
		back, err := a.Open(ct[:0], nonce, ct, aad)
		if err != nil || !bytes.Equal(back, pt) {
			t.Fatalf("%d bytes opened in place: %v", n, err)
		}

		prefix := []byte("header")
		ct, err = a.Seal(slices.Clip(prefix), nonce, pt, prefix) // the aad is what dst starts with
		if err != nil || !bytes.HasPrefix(ct, prefix) {
			t.Fatalf("%d bytes behind a prefix: %v", n, err)
		}
		back, err = a.Open(slices.Clone(prefix), nonce, ct[len(prefix):], prefix)
		if err != nil || !bytes.Equal(back, append(prefix, pt...)) {
			t.Fatalf("%d bytes opened behind a prefix: %v", n, err)
		}
	}
}

func TestAEADRefusesWhatTheStandardLibraryPanicsOn(t *testing.T) {
	a := newAEAD(t, []byte(sentinel))
	nonce := make([]byte, 12)
	buf := make([]byte, 200)
	long := take(t, buf[:64], memsec.Hot)
	sealed := must[[]byte](t)(a.Seal(nil, nonce, make([]byte, 64), nil))
	for name, call := range map[string]func() ([]byte, error){
		"nonce of 0":                 func() ([]byte, error) { return a.Seal(nil, nil, buf, nil) },
		"nonce of 11":                func() ([]byte, error) { return a.Seal(nil, nonce[:11], buf, nil) },
		"nonce of 13":                func() ([]byte, error) { return a.Seal(nil, make([]byte, 13), buf, nil) },
		"secret, nonce of 16":        func() ([]byte, error) { return a.SealSecret(nil, make([]byte, 16), long, nil) },
		"seal one byte behind":       func() ([]byte, error) { return a.Seal(buf[:1], nonce, buf[:50], nil) },
		"seal one byte before":       func() ([]byte, error) { return a.Seal(buf[:0], nonce, buf[1:50], nil) },
		"seal, tag over the input":   func() ([]byte, error) { return a.Seal(buf[:0], nonce, buf[60:110], nil) },
		"seal over the aad":          func() ([]byte, error) { return a.Seal(buf[:0], nonce, make([]byte, 10), buf[20:30]) },
		"seal secret over the aad":   func() ([]byte, error) { return a.SealSecret(buf[:0], nonce, long, buf[:3]) },
		"open one byte behind":       func() ([]byte, error) { return a.Open(buf[:1], nonce, buf[:50], nil) },
		"open over the aad":          func() ([]byte, error) { return a.Open(buf[:0], nonce, sealed, buf[60:]) },
		"open, output over the tag":  func() ([]byte, error) { return a.Open(buf[:10], nonce, buf[:60], nil) },
		"open one byte before":       func() ([]byte, error) { return a.Open(buf[:0], nonce, buf[1:60], nil) },
		"seal exactly, aad in front": func() ([]byte, error) { return a.Seal(buf[:0], nonce, buf[:20], buf[:20]) },
	} {
		if out, err := call(); !errs.Is(err, errs.InvalidArgument) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What only looks like an overlap works.
	for name, call := range map[string]func() ([]byte, error){
		"no room":            func() ([]byte, error) { return a.Seal(buf[:0:20], nonce, buf[5:50], nil) },
		"room behind is far": func() ([]byte, error) { return a.Seal(buf[:0], nonce, buf[66:116], buf[116:]) },
		"aad in front":       func() ([]byte, error) { return a.Seal(buf[:20], nonce, buf[100:150], buf[:20]) },
		"empty input":        func() ([]byte, error) { return a.Seal(buf[:0], nonce, buf[5:5], buf[16:]) },
	} {
		if _, err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestI6_OneAnswerForWhateverDoesNotOpen(t *testing.T) {
	key, nonce, aad := []byte(sentinel), []byte("twelve bytes"), []byte("aad")
	a := newAEAD(t, key)
	ct := must[[]byte](t)(a.Seal(nil, nonce, []byte(sentinel), aad))
	flip := func(b []byte, i int) []byte { b = bytes.Clone(b); b[i] ^= 1; return b }
	otherKey := newAEAD(t, flip(key, 0))
	type attempt struct {
		a              memsec.AEAD
		nonce, ct, aad []byte
	}
	attempts := map[string]attempt{
		"other key":     {otherKey, nonce, ct, aad},
		"other nonce":   {a, flip(nonce, 3), ct, aad},
		"other aad":     {a, nonce, ct, flip(aad, 0)},
		"no aad":        {a, nonce, ct, nil},
		"longer aad":    {a, nonce, ct, append(bytes.Clone(aad), 0)},
		"empty":         {a, nonce, nil, aad},
		"only a tag":    {a, nonce, ct[len(ct)-16:], aad},
		"longer":        {a, nonce, append(bytes.Clone(ct), 0), aad},
		"no nonce":      {a, nil, ct, aad},
		"short nonce":   {a, nonce[:11], ct, aad},
		"long nonce":    {a, append(bytes.Clone(nonce), 0), ct, aad},
		"over a secret": {a, nonce, make([]byte, memsec.MaxLen+memsec.Overhead+1), aad},
	}
	for i := range ct {
		attempts["flipped bit "+string(rune('0'+i))] = attempt{a, nonce, flip(ct, i), aad}
		attempts["cut at "+string(rune('0'+i))] = attempt{a, nonce, ct[:i], aad}
	}
	before := memsec.Report()
	for name, at := range attempts {
		if out, err := at.a.Open(nil, at.nonce, at.ct, at.aad); !isUnopenable(err) || out != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, c := range classes {
			if s, err := at.a.OpenSecret(at.nonce, at.ct, at.aad, c); !isUnopenable(err) || !s.IsZero() {
				t.Errorf("%s, into a %s secret: %v", name, c, err)
			}
		}
	}
	if after := memsec.Report(); after.UsedBytes != before.UsedBytes || after.Secrets != before.Secrets {
		t.Errorf("failed opens left memory behind: %+v, then %+v", before, after)
	}
}

func TestSecretsTravelBetweenSlots(t *testing.T) {
	nonce := []byte("twelve bytes")
	a, ref := newAEAD(t, []byte(sentinel)), reference(t, []byte(sentinel))
	for _, n := range []int{1, 32, 33, 4096} {
		raw := make([]byte, n)
		_, _ = rand.Read(raw)
		for _, c := range classes {
			s := take(t, raw, c)
			ct := must[[]byte](t)(a.SealSecret([]byte("head"), nonce, s, []byte("aad")))
			if !bytes.Equal(ct, ref.Seal([]byte("head"), nonce, raw, []byte("aad"))) {
				t.Fatalf("%s secret of %d bytes seals to something else", c, n)
			}
			for _, d := range classes {
				back := must[memsec.Secret](t)(a.OpenSecret(nonce, ct[4:], []byte("aad"), d))
				if eq, err := memsec.Equal(s, back); !eq || err != nil || back.Class() != d || back.Len() != n {
					t.Errorf("%d bytes from %s to %s: %v", n, c, d, err)
				}
				back.Destroy()
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	key := []byte(sentinel)
	ref := reference(f, key)
	nonce := []byte("twelve bytes")
	for _, pt := range []string{"", "x", "sixteen bytes!!!", sentinel + sentinel} {
		f.Add(nonce, ref.Seal(nil, nonce, []byte(pt), []byte("aad")), []byte("aad"))
	}
	f.Add([]byte{}, []byte{}, []byte{})
	f.Add(nonce[:11], make([]byte, 16), []byte("aad"))
	f.Add(nonce, make([]byte, memsec.MaxLen+memsec.Overhead+1), []byte{})
	a := newAEAD(f, key)
	f.Fuzz(func(t *testing.T, nonce, ct, aad []byte) {
		pt, err := a.Open(nil, nonce, ct, aad)
		s, serr := a.OpenSecret(nonce, ct, aad, memsec.Hot)
		defer s.Destroy()
		var want []byte
		wantErr := errors.New("nonce")
		if len(nonce) == memsec.NonceSize {
			want, wantErr = ref.Open(nil, nonce, ct, aad)
		}
		if (err == nil) != (wantErr == nil) || !bytes.Equal(pt, want) {
			t.Fatalf("Open: %v, reference: %v", err, wantErr)
		}
		if err != nil && !isUnopenable(err) {
			t.Fatalf("another answer: %v", err)
		}
		fits := err == nil && len(pt) >= 1 && len(pt) <= memsec.MaxLen
		if (serr == nil) != fits {
			t.Fatalf("OpenSecret: %v, Open: %v", serr, err)
		}
		if fits && !bytes.Equal(bytesOf(t, s), pt) {
			t.Fatal("OpenSecret opened to something else")
		}
	})
}
