package memsec_test

import (
	"bytes"
	"testing"

	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

func BenchmarkSecretLen(b *testing.B) {
	s := take(b, []byte(sentinel), memsec.Hot)
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Len()
	}
}

// BenchmarkSecretLenParallel is the worst case: all cores on one handle.
func BenchmarkSecretLenParallel(b *testing.B) {
	s := take(b, []byte(sentinel), memsec.Hot)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = s.Len()
		}
	})
}

func BenchmarkSecretLenParallelOwn(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		s := take(b, []byte(sentinel), memsec.Hot)
		for pb.Next() {
			_ = s.Len()
		}
	})
}

func BenchmarkSeal256(b *testing.B) {
	nonce, aad, pt := make([]byte, 12), make([]byte, 64), bytes.Repeat([]byte("x"), 256)
	dst := make([]byte, 0, 512)
	b.Run("memsec", func(b *testing.B) {
		a := newAEAD(b, []byte(sentinel))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.Seal(dst, nonce, pt, aad); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("crypto_cipher", func(b *testing.B) {
		a := reference(b, []byte(sentinel))
		b.ReportAllocs()
		for b.Loop() {
			a.Seal(dst, nonce, pt, aad)
		}
	})
	b.Run("memsec_parallel_one_key", func(b *testing.B) {
		a := newAEAD(b, []byte(sentinel))
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			dst := make([]byte, 0, 512)
			for pb.Next() {
				if _, err := a.Seal(dst, nonce, pt, aad); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkNewAEAD(b *testing.B) {
	s := take(b, []byte(sentinel), memsec.Hot)
	b.ReportAllocs()
	for b.Loop() {
		a, err := memsec.NewAEAD(s)
		if err != nil {
			b.Fatal(err)
		}
		a.Destroy()
	}
}

func BenchmarkExpand(b *testing.B) {
	s := take(b, []byte(sentinel), memsec.Hot)
	info := make([]byte, 100)
	b.Run("public", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := memsec.ExpandPublic(s, info); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			k, err := memsec.Expand(s, info, memsec.Hot)
			if err != nil {
				b.Fatal(err)
			}
			k.Destroy()
		}
	})
}

func BenchmarkReveal(b *testing.B) {
	for _, c := range classes {
		b.Run(c.String(), func(b *testing.B) {
			s := take(b, []byte(sentinel), c)
			b.ReportAllocs()
			for b.Loop() {
				if err := reveal.With(s, func([]byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
