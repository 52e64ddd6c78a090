package jwt_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// serviceAccount returns a verifier by the machine's clock, a signer, and claims as
// Kubernetes makes them.
func serviceAccount(t testing.TB, alg string) (*jwt.Verifier, *signer, claims) {
	t.Helper()
	k := newSigner(t, "3kX9mQ2vE7bN1sT5wY8zA4cD6fG0hJ", alg)
	c := good(cluster, time.Now()).with("aud", []string{"krypton"}).with("sub", "system:serviceaccount:shop:orders").with("kubernetes.io", claims{
		"namespace":      "shop",
		"node":           claims{"name": "worker-3", "uid": "6b0f8d3e-2a0e-4f57-9f0c-1d2e3f4a5b6c"},
		"pod":            claims{"name": "orders-7d9c5b8f6d-x2x7k", "uid": "0e7e2f6a-9d1c-4a58-8b3b-2c1d0e9f8a7b"},
		"serviceaccount": claims{"name": "orders", "uid": "b1c2d3e4-f5a6-4789-90ab-cdef01234567"},
	})
	return newVerifier(t, clock.System{}, static(1, "issuers/prod", k, "krypton")), k, c
}

// TestARememberedTokenCostsNoAllocation: it is in the path of every data operation.
func TestARememberedTokenCostsNoAllocation(t *testing.T) {
	v, k, c := serviceAccount(t, "RS256")
	token := k.token(c)
	accepted(t, v, token)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := v.Verify(ctx, token); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRemembered(b *testing.B) {
	v, k, c := serviceAccount(b, "RS256")
	token := k.token(c)
	accepted(b, v, token)
	b.SetBytes(int64(len(token)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRememberedParallel(b *testing.B) {
	v, k, c := serviceAccount(b, "RS256")
	tokens := make([]string, 64)
	for i := range tokens {
		tokens[i] = k.token(c.with("jti", fmt.Sprint(i)))
		accepted(b, v, tokens[i])
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := v.Verify(b.Context(), tokens[i%len(tokens)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNew(b *testing.B) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		b.Run(alg, func(b *testing.B) {
			v, k, c := serviceAccount(b, alg)
			tokens := make([]string, 256)
			for i := range tokens {
				tokens[i] = k.token(c.with("jti", fmt.Sprint(i)))
			}
			is := static(1, "issuers/prod", k, "krypton")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%len(tokens) == 0 { // another uid: nothing is remembered
					b.StopTimer()
					is.UID[15]++
					if err := v.Replace(1, []jwt.Issuer{is}); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if _, err := v.Verify(b.Context(), tokens[i%len(tokens)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
