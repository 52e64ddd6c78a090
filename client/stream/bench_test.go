package stream_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/openkcm/krypton-cluster/client/stream"
)

const benchSize = 16 << 20

func eachSegmentSize(b *testing.B, run func(b *testing.B, k *keys, ct []byte)) {
	b.Helper()
	for _, seg := range []int{stream.Segment64KiB, stream.Segment1MiB} {
		b.Run(fmt.Sprintf("%dKiB", seg>>10), func(b *testing.B) {
			k := newKeys()
			run(b, k, encrypt(b, k, stream.Options{Scope: scope, SegmentSize: seg}, pattern(benchSize)))
		})
	}
}

func BenchmarkDecryptor(b *testing.B) {
	eachSegmentSize(b, func(b *testing.B, k *keys, ct []byte) {
		b.Helper()
		b.SetBytes(benchSize)
		for b.Loop() {
			d, err := stream.NewDecryptor(b.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReaderAtFromEndToEnd(b *testing.B) {
	eachSegmentSize(b, func(b *testing.B, k *keys, ct []byte) {
		b.Helper()
		r := mustOpenAt(b, k, ct)
		b.SetBytes(benchSize)
		for b.Loop() {
			if _, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, r.Size())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkReaderAtRandom4KiB pays for a whole segment each time.
func BenchmarkReaderAtRandom4KiB(b *testing.B) {
	eachSegmentSize(b, func(b *testing.B, k *keys, ct []byte) {
		b.Helper()
		r, rnd, p := mustOpenAt(b, k, ct), rand.New(rand.NewPCG(1, 2)), make([]byte, 4096)
		b.SetBytes(int64(len(p)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.ReadAt(p, rnd.Int64N(benchSize-int64(len(p)))); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRawGCM is what the others are compared with: the cipher alone.
func BenchmarkRawGCM(b *testing.B) {
	for _, size := range []int{4 << 10, stream.Segment64KiB, stream.Segment1MiB} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			block, err := aes.NewCipher(make([]byte, 32))
			if err != nil {
				b.Fatal(err)
			}
			gcm, err := cipher.NewGCM(block)
			if err != nil {
				b.Fatal(err)
			}
			nonce := make([]byte, 12)
			ct := gcm.Seal(nil, nonce, make([]byte, size-16), nil)
			out := make([]byte, 0, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := gcm.Open(out, nonce, ct, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
