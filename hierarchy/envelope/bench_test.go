package envelope_test

import (
	"crypto/rand"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/memsec"
)

const benchSize = 256

// endless is a session without the limits' end, so that a benchmark can run
// longer than 2^20 messages.
type endless struct {
	b testing.TB
	s *envelope.Sealer
	n int
}

func (e *endless) sealer() *envelope.Sealer {
	if e.s == nil || e.n == envelope.MaxSessionMessages-1 {
		s, err := envelope.NewSealer(rand.Reader, clock.System{}, l3(e.b), hierarchy.PurposeData, testScope(), envelope.Limits{})
		if err != nil {
			e.b.Fatal(err)
		}
		e.s, e.n = s, 0
	}
	e.n++
	return e.s
}

func BenchmarkSeal256(b *testing.B) {
	at, pt := dataAt("orders"), make([]byte, benchSize)
	dst := make([]byte, 0, benchSize+envelope.Overhead)
	e := &endless{b: b}
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.sealer().Seal(dst, at, pt); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen256(b *testing.B) {
	for name, quota := range map[string]*envelope.Quota{"kept": envelope.NewQuota(1), "derived": nil} {
		b.Run(name, func(b *testing.B) {
			o := newOpener(b, quota)
			blob, at := sealed(b, session(b), string(make([]byte, benchSize))), dataAt("r")
			dst := make([]byte, 0, benchSize)
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := o.Open(dst, at, blob); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRawGCM256 is what the two above are compared with: the cipher alone,
// with a random nonce and 16 bytes of associated data.
func BenchmarkRawGCM256(b *testing.B) {
	gcm := rdGCM(bytesOf("raw", 32))
	nonce, aad, pt := make([]byte, 12), make([]byte, 16), make([]byte, benchSize)
	dst := make([]byte, 0, benchSize+16)
	b.SetBytes(benchSize)
	for b.Loop() {
		_, _ = rand.Read(nonce)
		gcm.Seal(dst, nonce, pt, aad)
	}
}

func BenchmarkWrapUnwrap(b *testing.B) {
	v := vector{Purpose: "l3-wrap", Keyspace: bytesOf("ks", 16), Tenant: bytesOf("t", 16), Service: bytesOf("s", 16), Version: bytesOf("v", 16), Subject: bytesOf("x", 16)}
	parent, key, at := take(b, bytesOf("p", 32)), take(b, bytesOf("k", 32)), v.binding(b)
	b.ReportAllocs()
	for b.Loop() {
		blob, err := envelope.Wrap(rand.Reader, parent, at, key)
		if err != nil {
			b.Fatal(err)
		}
		s, err := envelope.Unwrap(parent, at, blob, memsec.Hot)
		if err != nil {
			b.Fatal(err)
		}
		s.Destroy()
	}
}
