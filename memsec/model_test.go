package memsec_test

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// modelled is what the model knows of one handle: the bytes in the clear.
type modelled struct {
	s    memsec.Secret
	b    []byte
	dead bool
}

type modelledAEAD struct {
	a    memsec.AEAD
	key  []byte
	dead bool
}

// TestI2_AgreesWithAModel runs random interleavings of everything that makes,
// uses and ends secrets beside a map of plain bytes.
func TestI2_AgreesWithAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		memsec.Purge()
		var all []*modelled
		var aeads []*modelledAEAD
		nonce := make([]byte, memsec.NonceSize)
		class := rapid.SampledFrom([]memsec.Class{memsec.Hot, memsec.Hot, memsec.Hot, memsec.Cold})
		pick := func() *modelled {
			if len(all) == 0 {
				t.Skip("nothing made yet")
			}
			return rapid.SampledFrom(all).Draw(t, "secret")
		}
		check := func(err error, dead bool) {
			if dead != errors.Is(err, memsec.ErrDestroyed) || (!dead && err != nil) {
				t.Fatalf("dead %v, but %v", dead, err)
			}
		}
		add := func(s memsec.Secret, b []byte) {
			for _, m := range all {
				if m.s == s {
					t.Fatal("a handle was given out twice")
				}
			}
			all = append(all, &modelled{s: s, b: b})
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				b := rapid.SliceOfN(rapid.Byte(), 1, 130).Draw(t, "bytes")
				s, err := memsec.Take(bytes.Clone(b), class.Draw(t, "class"))
				check(err, false)
				add(s, b)
			},
			"copy": func(t *rapid.T) {
				m := pick()
				s, err := memsec.Copy(m.s, class.Draw(t, "class"))
				if check(err, m.dead); err == nil {
					add(s, m.b)
				}
			},
			"expand": func(t *rapid.T) {
				m := pick()
				info := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "info")
				s, err := memsec.Expand(m.s, info, class.Draw(t, "class"))
				if check(err, m.dead); err == nil {
					pub, err := memsec.ExpandPublic(m.s, info)
					check(err, false)
					add(s, pub[:])
				}
			},
			"fill": func(t *rapid.T) {
				b := rapid.SliceOfN(rapid.Byte(), 1, 130).Draw(t, "bytes")
				s, err := reveal.New(len(b), class.Draw(t, "class"), func(dst []byte) error { copy(dst, b); return nil })
				check(err, false)
				add(s, b)
			},
			"destroy": func(*rapid.T) {
				m := pick()
				m.s.Destroy()
				m.dead = true
			},
			"reveal": func(t *rapid.T) {
				m := pick()
				check(reveal.With(m.s, func(b []byte) error {
					if !bytes.Equal(b, m.b) {
						t.Fatal("other bytes")
					}
					return nil
				}), m.dead)
			},
			"equal": func(t *rapid.T) {
				m, n := pick(), pick()
				eq, err := memsec.Equal(m.s, n.s)
				if check(err, m.dead || n.dead); err == nil && eq != bytes.Equal(m.b, n.b) {
					t.Fatalf("equal says %v", eq)
				}
			},
			"aead": func(*rapid.T) {
				m := pick()
				if len(m.b) != memsec.KeySize {
					return
				}
				a, err := memsec.NewAEAD(m.s)
				if check(err, m.dead); err == nil {
					aeads = append(aeads, &modelledAEAD{a: a, key: m.b})
				}
			},
			"wrap and unwrap": func(t *rapid.T) {
				if len(aeads) == 0 {
					t.Skip("no aead yet")
				}
				a, m := rapid.SampledFrom(aeads).Draw(t, "aead"), pick()
				ct, err := a.a.SealSecret(nil, nonce, m.s, nil)
				if check(err, m.dead || a.dead); err != nil {
					return
				}
				s, err := a.a.OpenSecret(nonce, ct, nil, class.Draw(t, "class"))
				check(err, false)
				add(s, m.b)
				if rapid.Bool().Draw(t, "end the aead") {
					a.a.Destroy()
					a.dead = true
				}
			},
			"purge": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "one in ten") != 0 {
					return
				}
				memsec.Purge()
				for _, m := range all {
					m.dead = true
				}
				for _, a := range aeads {
					a.dead = true
				}
			},
			"": func(t *rapid.T) {
				secrets, live := 0, 0
				for _, m := range all {
					if m.dead != (m.s.Len() == 0) || (!m.dead && m.s.Len() != len(m.b)) {
						t.Fatalf("dead %v, length %d", m.dead, m.s.Len())
					}
					if !m.dead {
						secrets++
					}
				}
				for _, a := range aeads {
					if !a.dead {
						live++
					}
				}
				if r := memsec.Report(); r.Secrets != secrets || r.AEADs != live {
					t.Fatalf("report %+v, model %d and %d", r, secrets, live)
				}
			},
		})
	})
}
